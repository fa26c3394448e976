"""GGUF files of families that transformers' own reader reads: what that would leave out without a word is refused."""

from __future__ import annotations

from collections.abc import Set
from typing import Any

import numpy as np
import torch

from templora.errors import ModelError
from templora.gguf.config import Keys
from templora.gguf.header import GgufHeader

# What transformers calls a family, where it is not what GGUF calls it.
_NAMES = {"qwen2moe": "qwen2_moe", "qwen3moe": "qwen3_moe", "gpt-oss": "gpt_oss", "minimax-m2": "minimax_m2"}
# Its reader makes several objects of each entry; only a vocabulary has many.
_MAX_ENTRIES = 10_000
_VOCABULARY = ("tokens", "scores", "token_type", "merges")


def foreign_config(header: GgufHeader) -> Any:
    """The transformers config of a file.

    Raises:
        ModelError: a key that transformers does not take, and that asks for something.
    """
    from transformers import AutoConfig
    from transformers.integrations import GGUF_CONFIG_MAPPING
    from transformers.integrations.gguf import GGUF_CONFIG_ARCHS, get_gguf_config

    for key, value in header.fields.items():
        vocabulary = key.startswith("tokenizer.ggml.") and key.removeprefix("tokenizer.ggml.") in _VOCABULARY
        if isinstance(value, list | np.ndarray) and len(value) > _MAX_ENTRIES and not vocabulary:
            raise ModelError(f"{header.path}: {key[:80]} has {len(value):,} entries; a model has no use for so many")
    config = AutoConfig.from_pretrained(str(header.path.parent), gguf_file=header.path.name)
    keys = Keys(header)
    if keys.family in GGUF_CONFIG_ARCHS:
        taken = _Taken(header.fields)
        taken["tokenizer.ggml.tokens"] = len(header.fields.get("tokenizer.ggml.tokens", ()))
        get_gguf_config(taken, tuple(header.tensors))
        read = {key.removeprefix(keys.full("")) for key in taken.keys_taken}
    else:
        table = GGUF_CONFIG_MAPPING.get(_NAMES.get(keys.family, keys.family), {})
        read = {key for key, name in table.items() if name is not None}
    window = keys.value("attention.sliding_window")
    if "attention.sliding_window" not in read and type(window) is int and hasattr(config, "sliding_window"):
        config.sliding_window = window
        read.add("attention.sliding_window")
    keys.refuse(read | _implied(keys, config))
    return config


def foreign_tensors(header: GgufHeader, config: Any) -> None:
    """Raises `ModelError` where there is a tensor that transformers' reader would leave out."""
    from transformers import AutoModelForCausalLM
    from transformers.integrations.gguf import is_gguf_arch_supported
    from transformers.modeling_gguf_pytorch_utils import TENSOR_PROCESSORS, TensorProcessor, get_gguf_hf_weights_map

    family = header.text("general.architecture")
    if is_gguf_arch_supported(family):  # read in another way, which says what it does not know
        return
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    taken = get_gguf_hf_weights_map(model, TENSOR_PROCESSORS.get(family, TensorProcessor)(config=config.to_dict()))
    for name in header.tensors:
        if name not in taken and not (name == "output.weight" and config.tie_word_embeddings):
            raise ModelError(f"{header.path}: {name[:80]} is not known in a model of the family {family!r}")


def _implied(keys: Keys, config: Any) -> Set[str]:
    """Keys that ask for what the config has anyway."""
    heads = getattr(config, "num_attention_heads", 0)
    size = getattr(config, "head_dim", None) or (config.hidden_size // heads if heads else 0)
    rope = getattr(config, "rope_parameters", None) or {}
    inner = getattr(config, "intermediate_size", None) or getattr(config, "n_inner", None) or 4 * config.hidden_size
    wanted = {
        "attention.key_length": size,
        "attention.value_length": size,
        "rope.dimension_count": int(size * rope.get("partial_rotary_factor", 1.0)),
        "rope.freq_base": rope.get("rope_theta"),
        "feed_forward_length": inner,
        "attention.head_count_kv": getattr(config, "num_key_value_heads", heads),
        "attention.max_alibi_bias": 8.0 if config.model_type == "bloom" else None,
    }
    for name in ("attn_logit_softcapping", "final_logit_softcapping", "logit_scale", "vocab_size"):
        wanted[name] = getattr(config, name, None)
    # Of use only beside a scaling, which is a key or tensors that are refused.
    same = {"rope.scaling.original_context_length"} if keys.value("rope.scaling.type") is None else set()
    return same | {key for key, value in wanted.items() if value is not None and keys.value(key) == value}


class _Taken(dict[str, Any]):
    """Remembers which keys somebody asked for."""

    def __init__(self, fields: dict[str, Any]) -> None:
        super().__init__(fields)
        self.keys_taken: set[str] = set()

    def __getitem__(self, key: str) -> Any:
        self.keys_taken.add(key)
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        self.keys_taken.add(key)
        return super().get(key, default)
