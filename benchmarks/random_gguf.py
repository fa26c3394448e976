#!/usr/bin/env python3
"""Writes a GGUF of a known shape with random weights, its tensors in the formats that llama.cpp's Q4_K_M gives them.

    benchmarks/random_gguf.py FILE --shape qwen2.5-0.5b
    templora bench --model FILE --compare llama.cpp --weights int4

How fast a model runs depends on its sizes and formats, not on what it has learnt.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType as Kind, GGUFWriter, quantize
from tokenizers import pre_tokenizers

# hidden, inner, layers, query heads, key-value heads, tokens; as in the models' own config.json.
SHAPES = {
    "qwen2.5-0.5b": (896, 4864, 24, 14, 2, 151936),
    "qwen2.5-1.5b": (1536, 8960, 28, 12, 2, 151936),
    "tiny": (256, 512, 2, 4, 2, 2048),
}
SPREAD = 0.02  # of the weights, about


def more_bits(layer: int, layers: int) -> bool:
    """Whether a layer's value and down projections are of the better kind."""
    return layer < layers // 8 or layer >= 7 * layers // 8 or (layer - layers // 8) % 3 == 2


def kind_of(name: str, columns: int, better: bool) -> Kind:
    """What a matrix is held in; where its rows are no whole super-blocks, the next larger format of small ones."""
    six = name == "token_embd" or (better and name in ("attn_v", "ffn_down"))
    if columns % 256:
        return Kind.Q8_0 if six else Kind.Q5_0
    return Kind.Q6_K if six else Kind.Q4_K


def blocks(kind: Kind, rows: int, columns: int, random: np.random.Generator) -> np.ndarray:
    """A random matrix as uint8 [rows, bytes]."""
    size, width = GGML_QUANT_SIZES[kind]
    if kind in (Kind.Q5_0, Kind.Q8_0):
        some = random.normal(0, SPREAD, (min(rows, 4096), columns)).astype(np.float32)
        return np.resize(quantize(some, kind), (rows, columns // size * width))
    count = rows * columns // size
    found = random.integers(0, 256, (count, width), np.uint8)
    if kind == Kind.Q4_K:
        scales = random.integers(16, 64, (count, 8), np.uint8)
        unit = np.float32(SPREAD / 4.6 / 40)  # a code's spread, and a scale's middle
        halves = np.array([unit, 7.5 * unit], np.float16)
        found[:, :4] = halves.view(np.uint8)
        # Scales and minima alike, so that weights lie around 0.
        found[:, 4:8] = found[:, 8:12] = scales[:, :4] | (scales[:, 4:] >> 4) << 6
        found[:, 12:16] = (scales[:, 4:] & 15) | scales[:, 4:] << 4
    else:
        found[:, 192:208] = random.integers(16, 64, (count, 16), np.uint8)
        found[:, 208:] = np.array([SPREAD / 18.5 / 40], np.float16).view(np.uint8)
    return found.reshape(rows, -1)


def write(path: Path, shape: str) -> None:
    hidden, inner, layers, heads, groups, vocabulary = SHAPES[shape]
    head, random = hidden // heads, np.random.default_rng(0)
    writer = GGUFWriter(path, "qwen2", use_temp_file=False)
    writer.add_block_count(layers)
    writer.add_context_length(32768)
    writer.add_embedding_length(hidden)
    writer.add_feed_forward_length(inner)
    writer.add_head_count(heads)
    writer.add_head_count_kv(groups)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(1e6)
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*letters, "th", "<|endoftext|>"]
    unused = vocabulary - len(tokens)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list([*tokens, *(f"<unused {n}>" for n in range(unused))])
    writer.add_token_types([1] * (len(tokens) - 1) + [3] * (unused + 1))
    writer.add_token_merges(["t h"])
    writer.add_eos_token_id(len(tokens) - 1)

    def matrix(name: str, rows: int, columns: int, layer: int | None = None) -> None:
        kind = kind_of(name, columns, layer is not None and more_bits(layer, layers))
        full = f"{name}.weight" if layer is None else f"blk.{layer}.{name}.weight"
        writer.add_tensor(full, blocks(kind, rows, columns, random), raw_dtype=kind)

    def numbers(name: str, count: int, value: float = 1.0) -> None:
        writer.add_tensor(name, np.full(count, value, np.float32))

    matrix("token_embd", vocabulary, hidden)
    numbers("output_norm.weight", hidden)
    for layer in range(layers):
        for norm in ("attn_norm", "ffn_norm"):
            numbers(f"blk.{layer}.{norm}.weight", hidden)
        for name, rows in (("attn_q", hidden), ("attn_k", groups * head), ("attn_v", groups * head)):
            matrix(name, rows, hidden, layer)
            numbers(f"blk.{layer}.{name}.bias", rows, 0.01)
        matrix("attn_output", hidden, hidden, layer)
        matrix("ffn_gate", inner, hidden, layer)
        matrix("ffn_up", inner, hidden, layer)
        matrix("ffn_down", hidden, inner, layer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--shape", choices=SHAPES, default="qwen2.5-0.5b")
    a = parser.parse_args()
    write(a.file, a.shape)
    print(f"{a.file}: {a.file.stat().st_size / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
