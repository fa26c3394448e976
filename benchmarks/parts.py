#!/usr/bin/env python3
"""Where the time and the memory of scoring and learning go.

    benchmarks/parts.py --text BOOK.txt [--chunks 6] [--weights int4] [--epochs 2] [--checkpointing]

Scores and learns BOOK chunk by chunk, then writes a little, with a clock around each kind of work: the frozen layers'
products (unpacking of quantised weights included), attention, the adapter's products, norms and gated products, the
head with its cross-entropy, the optimiser; `other` is what remains. Beside it the least that the FLOPs counted could
take at the matrix rate measured here. Clocks cost a little themselves. Memory is what was resident after each stage.
Prints one JSON document, also written to results/benchmarks/parts.json (or parts-checkpointing.json).
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from flatness import memory_now
from journal import RESULTS, book, code_digest, versions, write_results

import templora
from templora import ChunkLearned
from templora.bench.bench import model_products
from templora.bench.ceilings import measure_apart
from templora.layers import attention, fused, quantized, upcast
from templora.learning import optimizer
from templora.lora import bank
from templora.models.causal import CausalModel
from templora.reports.run_report import describe_device, source_commit
from templora.runtime.metering import PHASES
from templora.runtime.rss import peak_rss_bytes
from templora.text import encode

# What is clocked: (part, owner, its functions).
WORK: list[tuple[str, Any, tuple[str, ...]]] = [
    ("frozen products", quantized._Product, ("forward", "backward")),
    ("frozen products", upcast._Product, ("forward", "backward")),
    ("attention", attention._Attention, ("forward", "backward")),
    ("adapter products", bank._Learnt, ("forward", "backward")),
    ("norms and gates", fused._RMSNorm, ("forward", "backward")),
    ("norms and gates", fused._Gated, ("forward", "backward")),
    ("head and cross-entropy", CausalModel, ("nll", "nll_gradient")),
    ("optimiser", optimizer.Staged, ("change", "commit")),
    ("optimiser", optimizer.Step, ("clipped",)),
]


class Clocks:
    """Seconds by phase and part. The head's product is the head's, not a frozen layer's: an outer clock wins."""

    def __init__(self) -> None:
        self.seconds: dict[str, dict[str, float]] = {phase: defaultdict(float) for phase in PHASES}
        self.phase: Callable[[], str | None] = lambda: None
        self._inside = False

    def around(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def clocked(*arguments: Any, **options: Any) -> Any:
            phase = self.phase()
            if self._inside or phase is None:
                return function(*arguments, **options)
            self._inside, began = True, time.perf_counter()
            try:
                return function(*arguments, **options)
            finally:
                self._inside = False
                self.seconds[phase][part] += time.perf_counter() - began

        return clocked

    @contextmanager
    def running(self) -> Iterator[None]:
        was = [(owner, name, owner.__dict__[name]) for _, owner, names in WORK for name in names]
        for part, owner, names in WORK:
            for name in names:
                static = isinstance(owner.__dict__[name], staticmethod | classmethod)
                clocked = self.around(part, getattr(owner, name))
                setattr(owner, name, staticmethod(clocked) if static else clocked)
        try:
            yield
        finally:
            for owner, name, function in was:
                setattr(owner, name, function)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--chunks", type=int, default=6, help="measured, after two that are not")
    parser.add_argument("--model", default=None)
    parser.add_argument("--weights", default="int4")
    parser.add_argument("--window", type=int, default=1024)
    parser.add_argument("--chunk", type=int, default=512)
    parser.add_argument("--rank", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--checkpointing", action="store_true")
    parser.add_argument("--square", type=int, default=4096)
    parser.add_argument("--buffer-bytes", type=int, default=2**28)
    parser.add_argument("--results", type=Path, default=RESULTS)
    a = parser.parse_args()
    cpu = torch.device("cpu")
    memory = {"imports": memory_now(cpu)}
    model = {"model": a.model} if a.model else {}
    engine = templora.load(**model, device="cpu", weights=a.weights)
    memory["loaded"] = memory_now(cpu)
    ids = encode(engine.tokenizer, book(a.text), special=False)[: (a.chunks + 2) * a.chunk]
    learning = {"epochs": a.epochs, "checkpointing": a.checkpointing}
    config = engine.config(window=a.window, chunk_size=a.chunk, rank=a.rank, **learning)
    sizes = {"square": a.square, "buffer_bytes": a.buffer_bytes}
    ceilings = measure_apart(model_products(engine.model), a.chunk, cpu, engine.model.dtype, **sizes)
    clocks = Clocks()
    with clocks.running(), engine.session(config) as session:
        memory["session"] = memory_now(cpu)
        meter, learnt = session.meter, 0
        for event in session.score_ids(ids):
            learnt += isinstance(event, ChunkLearned)
            if learnt == 2 and isinstance(event, ChunkLearned):  # from here on windows are full, memory is warm
                seconds, flops = dict(meter.seconds), dict(meter.flops)
                clocks.phase = lambda: meter._phases[-1] if meter._phases else None
        spent, counted = dict(meter.seconds), dict(meter.flops)
        # Counted as learning, but taken in the pass that scores.
        head = a.chunks * engine.model.shape.backward(0, 0, a.chunk, 0) * session.loop.scorer.shares
        counted["score"], counted["learn"] = counted["score"] + head, counted["learn"] - head
        clocks.phase = lambda: None
        memory["learnt"] = memory_now(cpu)
        session.write(max_new_tokens=16)
    memory["peak"] = peak_rss_bytes()
    rows: dict[str, Any] = {}
    for phase in ("score", "cache", "learn"):
        total = (spent[phase] - seconds[phase]) / a.chunks
        parts = {part: s / a.chunks for part, s in sorted(clocks.seconds[phase].items(), key=lambda item: -item[1])}
        least = (counted[phase] - flops[phase]) / a.chunks / ceilings.flops_per_second
        rows[phase] = {"seconds": total, "least": least, "parts": parts | {"other": total - sum(parts.values())}}
    settings = {k: v for k, v in vars(a).items() if k not in ("text", "results")} | {"text": a.text.name}
    document = {"benchmark": "parts", "code": code_digest(), "commit": source_commit(), "device": describe_device(cpu)}
    document |= {"versions": versions(), "settings": settings, "matrix_rate": ceilings.flops_per_second}
    name = "parts-checkpointing.json" if a.checkpointing else "parts.json"
    write_results(a.results / name, document | {"a chunk, seconds": rows, "memory, bytes": memory})
    print(json.dumps(rows | {"memory": memory}))


if __name__ == "__main__":
    main()
