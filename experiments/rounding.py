#!/usr/bin/env python3
"""What rounding costs: a bf16 model read in several ways against the same weights in fp32, on pieces of novels.

    experiments/rounding.py PG19_FOLDER [--texts 12] [--tokens 768]

    modules          the model's own modules, as transformers runs them
    fused            our fused passes, which is what sessions use
    bf16 scores      the same, attention scores rounded to bf16 before the softmax
    int8 activations the linear layers' products in 8 bits: weights by row, activations by token

For each: the divergence from fp32, KL(fp32 ‖ way), in nats a token, and the perplexity. Also the time of our attention
and of torch's own operator. One file, results/rounding.json.
"""

from __future__ import annotations

import argparse
import copy
import json
import lzma
import math
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import torch
import torch.nn.functional as F

import templora
from templora.layers import attention
from templora.layers.quantized import QuantLinear, quantize_model, quantize_rows
from templora.models.causal import CausalModel
from templora.reports.run_report import describe_device, source_commit

RESULTS = Path(__file__).parent.parent / "results" / "rounding.json"
BOOKS = (349, 718, 9096)


def rounded_scores(q: torch.Tensor, k: torch.Tensor, scale: float, tile: int, window: int) -> torch.Tensor:
    """As `attention._probabilities`, without the remainder that rounding leaves."""
    with patch.object(torch, "baddbmm", lambda *_, out, **__: out.zero_()):
        return probabilities(q, k, scale, tile, window)


probabilities = attention._probabilities


def int8_product(layer: QuantLinear, x: torch.Tensor) -> torch.Tensor:
    rows = x.reshape(-1, layer.in_features)
    codes, scale = quantize_rows(rows)
    y = torch._int_mm(codes, layer.codes.t()).float() * scale[:, None] * layer.scale
    return y.to(x.dtype).view(*x.shape[:-1], layer.out_features)


@contextmanager
def way(name: str, model: CausalModel, eight: CausalModel) -> Iterator[CausalModel]:
    if name == "modules":
        fused, model._fused = model._fused, None
        yield model
        model._fused = fused
    elif name == "bf16 scores":
        with patch.object(attention, "_probabilities", rounded_scores):
            yield model
    elif name == "int8 activations":
        with patch.object(QuantLinear, "product", int8_product):
            yield eight
    else:
        yield eight if name == "int8 weights" else model


def attention_seconds(queries: int, keys: int, heads: int, groups: int, size: int) -> dict[str, float]:
    """Medians of 15, in turn, of ours and of torch's operator with the mask it needs."""
    q, k, v = (torch.randn(1, n, t, size).bfloat16() for n, t in ((heads, queries), (groups, keys), (groups, keys)))
    mask = torch.ones(queries, keys, dtype=torch.bool).tril(keys - queries)[None, None]
    found: dict[str, list[float]] = {"ours": [], "torch": []}
    for _ in range(16):
        began = time.perf_counter()
        attention.attend(None, q, k, v, None)
        middle = time.perf_counter()
        F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True)
        found["ours"].append(middle - began)
        found["torch"].append(time.perf_counter() - middle)
    return {name: statistics.median(seconds[1:]) for name, seconds in found.items()}


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="holds the novels as NUMBER.txt.xz")
    parser.add_argument("--texts", type=int, default=12, help="from each novel")
    parser.add_argument("--tokens", type=int, default=768)
    a = parser.parse_args()
    engine = templora.load()
    model = engine.model
    exact = CausalModel(copy.deepcopy(model.module).float())
    exact._fused = None
    module = copy.deepcopy(model.module)
    quantize_model(module, 8)
    eight = CausalModel(module)
    ways = ("modules", "fused", "bf16 scores", "int8 weights", "int8 activations")
    divergence = dict.fromkeys(ways, 0.0)
    nll = dict.fromkeys(("fp32", *ways), 0.0)
    total = 0
    for book in BOOKS:
        text = lzma.decompress((a.folder / f"{book}.txt.xz").read_bytes()).decode()[100_000:]
        ids = engine.tokenizer(text[: 8 * a.texts * a.tokens])["input_ids"]
        for first in range(0, a.texts * a.tokens, a.tokens):
            piece = ids[first : first + a.tokens]
            wanted = torch.tensor(piece[1:])[:, None]
            truth = exact.logits(exact.hidden(piece, None))[:-1].log_softmax(-1)
            nll["fp32"] -= float(truth.gather(1, wanted).sum())
            for name in ways:
                with way(name, model, eight) as reader:
                    found = reader.logits(reader.hidden(piece, None))[:-1].log_softmax(-1)
                divergence[name] += float((truth.exp() * (truth - found)).sum())
                nll[name] -= float(found.gather(1, wanted).sum())
            total += len(wanted)
    seconds = attention_seconds(512, 1024, *(model.config.num_attention_heads, model.config.num_key_value_heads, 64))
    document = {
        "experiment": "rounding",
        "commit": source_commit(),
        "device": describe_device(model.device),
        "versions": engine.versions(),
        "books": BOOKS,
        "tokens": total,
        "divergence_from_fp32": {name: value / total for name, value in divergence.items()},
        "perplexity": {name: math.exp(value / total) for name, value in nll.items()},
        "attention_seconds": {"queries": 512, "keys": 1024} | seconds,
    }
    RESULTS.write_text(json.dumps(document, indent=1) + "\n")
    print(json.dumps(document, indent=1))


if __name__ == "__main__":
    main()
