"""Writes a tiny model as a GGUF, for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from gguf import MODEL_ARCH_NAMES, GGMLQuantizationType as Kind, GGUFWriter, get_tensor_name_map, quantize

from templora.testing import END, tiny_model


def write_gguf(path: Path, family: str = "llama", kind: Kind = Kind.Q4_1, without: str = "") -> Any:
    """A tiny model of a family as a GGUF of this kind; returns the model before it was quantised.

    As in real files, embedding and head are Q8_0 and norms F32; matrices whose rows are no whole blocks are F16.

    Args:
        without: leave out the tensor of this name.
    """
    model = tiny_model(family)
    config = model.config
    name = {"mistral": "llama"}.get(family, family)
    writer = GGUFWriter(path, name)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(config.vocab_size)
    if name == "llama":
        writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    if name == "gemma3":
        writer.add_key_length(config.head_dim)
        writer.add_sliding_window(config.sliding_window)
    _add_tokenizer(writer)
    arch = next(key for key, known in MODEL_ARCH_NAMES.items() if known == name)
    names = get_tensor_name_map(arch, config.num_hidden_layers)
    for hf_name, parameter in model.named_parameters():
        layer, _, leaf = hf_name.rpartition(".")
        stored = f"{names.get_name(layer)}.{leaf}"
        data = parameter.detach().float().numpy()
        if name == "llama" and (".q_proj." in hf_name or ".k_proj." in hf_name):
            heads = config.num_attention_heads if ".q_proj." in hf_name else config.num_key_value_heads
            data = data.reshape(heads, 2, -1, *data.shape[1:]).swapaxes(1, 2).reshape(data.shape)
        if name == "gemma3" and data.ndim == 1:
            data = data + 1
        own = Kind.F32
        if data.ndim == 2:
            ends = stored.startswith(("token_embd", "output."))
            own = Kind.F16 if data.shape[1] % 32 else Kind.Q8_0 if ends else kind
        if stored != without:
            writer.add_tensor(stored, quantize(np.ascontiguousarray(data), own), raw_dtype=own)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return model


def _add_tokenizer(writer: GGUFWriter) -> None:
    """Bytes, one merge (a reader may want one), the end of text, and two ids that are never used."""
    from tokenizers import pre_tokenizers

    tokens = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "th", END, "<unused 1>", "<unused 2>"]
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([1] * 257 + [3] * 3)
    writer.add_token_merges(["t h"])
    writer.add_eos_token_id(257)
