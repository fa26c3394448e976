"""The tokenizer of a GGUF: transformers' own reading of its vocabulary, from a header that was read once.

A key that could change what a text's tokens are, and that nothing takes, is refused by name.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from templora.errors import ModelError
from templora.gguf.config import token_id
from templora.gguf.header import GgufHeader

# How llama.cpp calls splitting text before the merges as GPT-2 does, and doing so after each digit was cut off. Others
# are transformers' own table.
_AS_GPT2 = (
    "default", "gpt-2", "phi-2", "jina-es", "jina-de", "gigachat", "jina-v2-es", "jina-v2-de", "a.x-4.0", "mellum",
    "modern-bert", "roberta-bpe",
)  # fmt: skip
_DIGITS = ("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b")
_SPECIAL = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
# Beside what transformers takes: they name tokens for tasks of their own, or say again what the vocabulary says.
_HARMLESS = (
    "eot_token_id", "eom_token_id", "eos_token_ids", "fim_pre_token_id", "fim_suf_token_id", "fim_mid_token_id",
    "fim_pad_token_id", "fim_rep_token_id", "fim_sep_token_id", "prefix_token_id", "suffix_token_id",
    "middle_token_id", "cls_token_id", "sep_token_id", "seperator_token_id", "mask_token_id", "token_type_count",
    "remove_extra_whitespaces", "add_sep_token", "unknown_token_id", "padding_token_id",
)  # fmt: skip
_KINDS = {"tokens": list, "merges": list, "scores": np.ndarray, "token_type": np.ndarray, "add_bos_token": bool,
          "add_eos_token": bool, "add_space_prefix": bool}  # fmt: skip
_UNKNOWN = "not known here; texts would become other tokens than it was trained on"


def tokenizer_of(header: GgufHeader) -> Any:
    """A transformers tokenizer.

    Raises:
        ModelError: a key that is missing, of no use, or not known here.
    """
    from tokenizers import pre_tokenizers
    from transformers import PreTrainedTokenizerFast
    from transformers.integrations.gguf import GGUF_TOKENIZER_MAPPING, convert_gguf_tokenizer
    from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

    fields = {key.removeprefix("tokenizer."): v for key, v in header.fields.items() if key.startswith("tokenizer.")}
    groups = {
        group: {name: fields[key] for key, name in names.items() if key in fields}
        for group, names in GGUF_TOKENIZER_MAPPING.items()
    }
    known = {key for names in GGUF_TOKENIZER_MAPPING.values() for key in names}
    for key, value in fields.items():
        kind = _KINDS.get(key.removeprefix("ggml."))
        if kind is not None and not isinstance(value, kind):
            raise ModelError(f"{header.path}: this GGUF is damaged: tokenizer.{key} is of another type")
        taken = key in known or key.removeprefix("ggml.") in _HARMLESS
        if not taken and not key.startswith(("chat_template", "huggingface.", "rwkv.")):
            raise ModelError(f"{header.path}: tokenizer.{key} is {_UNKNOWN}")
    said, options = groups["tokenizer"], groups["tokenizer_config"]
    tokens = said.get("tokens", [])
    for name in ("scores", "token_type"):
        if name in said:
            said[name] = said[name].tolist()
            if len(said[name]) != len(tokens):
                raise ModelError(f"{header.path}: this GGUF is damaged: {name} of {len(said[name])} tokens, not all")
    byte_level, before = said.get("tokenizer_type") == "gpt2", said.get("pre_tokenizer_type", "default")
    if byte_level and before not in (*GGUF_PRE_TOKENIZER_SPLITS, *_AS_GPT2, *_DIGITS):
        raise ModelError(f"{header.path}: tokenizer.ggml.pre is {str(before)[:40]!r}, which is {_UNKNOWN}")
    if said.get("tokenizer_type") == "llama":
        options.setdefault("add_bos_token", True)
    for name, key in _SPECIAL.items():
        index = token_id(header, key)
        said[f"{name}_token_id"] = index
        options[f"{name}_token"] = None if index is None else tokens[index]
    backend, _ = convert_gguf_tokenizer(header.text("general.architecture"), said)
    if byte_level and before in _DIGITS:
        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), backend.pre_tokenizer]
        )
    return PreTrainedTokenizerFast(tokenizer_object=backend, **options)
