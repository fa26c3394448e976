"""Writes a tiny model as a GGUF, for tests."""

from __future__ import annotations

import copy
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import MODEL_ARCH_NAMES, GGMLQuantizationType as Kind, GGUFWriter, get_tensor_name_map, quantize
from transformers import AutoModelForCausalLM

from templora.testing import END, tiny_model


def write_gguf(
    path: Path,
    family: str = "llama",
    kind: Kind = Kind.Q4_1,
    without: str = "",
    *,
    model: Any = None,
    keys: dict[str, Any] | None = None,
    tensors: dict[str, np.ndarray] | None = None,
    tokens: tuple[str, str, str] = (END, "<unused 1>", "<unused 2>"),
    blocks: dict[str, tuple[np.ndarray, Kind]] | None = None,
) -> Any:
    """A tiny model of a family as a GGUF of this kind; returns the model before it was quantised.

    As in real files, embedding and head are Q8_0 and norms F32; matrices whose rows are no whole blocks are F16. With
    `Kind.F32` all are.

    Args:
        without: leave out the tensor or key of this name.
        model: this one instead.
        keys: more keys, or others; with no dot in front they are the family's.
        tensors: more tensors.
        tokens: the last three, which are control tokens; the first of them ends a text.
        blocks: tensors that are blocks already, in place of the model's.
    """
    model = tiny_model(family) if model is None else model
    config = model.config
    name = {"mistral": "llama"}.get(family, family)
    writer = GGUFWriter(path, name)
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    said: dict[str, Any] = {
        "block_count": config.num_hidden_layers,
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.layer_norm_rms_epsilon": float(config.rms_norm_eps),
        "rope.freq_base": 10000.0,
        "vocab_size": config.vocab_size,
    }
    if name == "llama":
        said["rope.dimension_count"] = head
    if name in ("qwen3", "gemma3"):
        said["attention.key_length"] = said["attention.value_length"] = head
    if name == "gemma3":
        said["attention.sliding_window"] = config.sliding_window
    for key, value in (said | (keys or {})).items():
        full = key[1:] if key.startswith(".") else f"{name}.{key}"
        if key != without and value is not None:
            _add_key(writer, full, value)
    _add_tokenizer(writer, tokens)
    arch = next(key for key, known in MODEL_ARCH_NAMES.items() if known == name)
    names = get_tensor_name_map(arch, config.num_hidden_layers)
    for hf_name, parameter in model.named_parameters():
        layer, _, leaf = hf_name.rpartition(".")
        stored = f"{names.get_name(layer)}.{leaf}"
        data = parameter.detach().float().numpy()
        if name == "llama" and (".q_proj." in hf_name or ".k_proj." in hf_name):
            heads = config.num_attention_heads if ".q_proj." in hf_name else config.num_key_value_heads
            data = data.reshape(heads, 2, -1, *data.shape[1:]).swapaxes(1, 2).reshape(data.shape)
        if name == "gemma3" and "norm" in hf_name:
            data = data + 1
        own = Kind.F32
        if data.ndim == 2 and kind != Kind.F32:
            ends = stored.startswith(("token_embd", "output."))
            own = Kind.F16 if data.shape[1] % 32 else Kind.Q8_0 if ends else kind
        if stored in (blocks or {}):
            writer.add_tensor(stored, (blocks or {})[stored][0], raw_dtype=(blocks or {})[stored][1])
        elif stored != without:
            writer.add_tensor(stored, quantize(np.ascontiguousarray(data), own), raw_dtype=own)
    for stored, data in (tensors or {}).items():
        writer.add_tensor(stored, data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return model


def _add_key(writer: GGUFWriter, key: str, value: Any) -> None:
    kinds = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}
    (writer.add_array if isinstance(value, list) else kinds[type(value)])(key, value)


def _add_tokenizer(writer: GGUFWriter, control: tuple[str, str, str] = (END, "<unused 1>", "<unused 2>")) -> None:
    """Bytes, one merge (a reader may want one), the end of text, and two ids that are never used."""
    from tokenizers import pre_tokenizers

    tokens = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "th", *control]
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([1] * 257 + [3] * 3)
    writer.add_token_merges(["t h"])
    writer.add_eos_token_id(257)


has_llama_cpp = pytest.mark.skipif(importlib.util.find_spec("xllamacpp") is None, reason="xllamacpp is not installed")
IDS = torch.randint(0, 255, (300,), generator=torch.Generator().manual_seed(1)).tolist()
PLAIN = {"rope_type": "default", "rope_theta": 10000.0}


def tiny(family: str, **options: Any) -> Any:
    """Of sizes that llama.cpp computes with, with biases where its family can have them."""
    import transformers as hf

    kinds = {"llama": hf.LlamaConfig, "qwen2": hf.Qwen2Config, "qwen3": hf.Qwen3Config, "gemma3": hf.Gemma3TextConfig}
    sizes: dict[str, Any] = {
        "vocab_size": 260, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "head_dim": 32,
        "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 512, "bos_token_id": None,
        "eos_token_id": 257, "pad_token_id": None, "rope_parameters": PLAIN,
    }  # fmt: skip
    if family == "llama":
        sizes |= {"attention_bias": True, "mlp_bias": True}
    if family == "gemma3":
        sizes |= {"num_hidden_layers": 7, "sliding_window": 64, "query_pre_attn_scalar": 32}
        sizes |= {"rope_parameters": {"full_attention": PLAIN, "sliding_attention": PLAIN}}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(kinds[family](**copy.deepcopy(sizes | options))).float().eval()
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                parameter.data.mul_(4.0)
            else:
                parameter.data.add_(torch.randn(parameter.shape), alpha=0.5 if "bias" in name else 0.1)
    return model


@torch.no_grad()
def predicted(model: Any) -> torch.Tensor:
    found: torch.Tensor = model(torch.tensor([IDS])).logits[0, -1].log_softmax(0)
    return found
