#!/usr/bin/env python3
"""Speed on a GPU, beside what the GPU can do.

    benchmarks/gpu.py [--shape llama-2-7b,smollm2-135m-embedded] [--device cuda] [--runs 5] [--sessions 1,8,32]

For each model (a shape with random bf16 weights, or the embedded model):

    decode     tokens a second / (memory bandwidth / bytes a token must read)                target: at least 0.70
    learn      seconds a chunk: (FLOPs counted / measured matrix rate) / seconds             target: at least 0.40
    overhead   wall-clock of writing with learning / without, less 1        target: 10 %
    flat       a chunk at --long tokens beside one at --short, and memory likewise           target: at most 1.05
    sessions   tokens a second of so many at once / what bandwidth allows, on an engine with as many rows; the same
               while one more learns                                         target: at least 0.70; 15 % less at 8

Each finished part is appended to results/benchmarks/gpu.jsonl and not measured again; gpu.json holds the medians.
`--device cpu --shape tiny` runs all of it in seconds, for the code's own sake.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from pathlib import Path
from typing import Any

import torch
from flatness import flatness
from journal import RESULTS, Journal, spread, write_results

import templora
from templora import OptionError, SamplingParams, TempLoraConfig
from templora.bench.bench import Bench, ceiling_figures, model_products
from templora.bench.ceilings import Ceilings, measure_apart
from templora.bench.random_models import random_engine
from templora.bench.sessions import SessionsBench
from templora.config import LEARNING_MODES
from templora.engine.engine import Engine
from templora.loading import find_device

EMBEDDED = "smollm2-135m-embedded"
GREEDY = SamplingParams(temperature=0, repetition_penalty=1.0)


def engine_of(shape: str, device: str, rows: int = 1) -> Engine:
    return templora.load(device=device, rows=rows) if shape == EMBEDDED else random_engine(shape, device, rows=rows)


def ceilings_of(engine: Engine, config: TempLoraConfig, a: argparse.Namespace) -> Ceilings:
    model, sizes = engine.model, {"square": a.square, "buffer_bytes": a.buffer_bytes}
    return measure_apart(model_products(model), config.chunk_size, model.device, model.dtype, **sizes)


def sessions(shape: str, rows: int, a: argparse.Namespace) -> dict[str, Any]:
    """`templora bench --sessions`' figures of as many sessions as an engine has rows."""
    with engine_of(shape, a.device, rows) as engine:
        config = engine.config(window=a.session_window, chunk_size=a.session_window // 2, rank=a.rank)
        found = SessionsBench(engine, config, ceilings_of(engine, config, a), runs=a.runs).figures([rows])
        return {f.name: f.to_dict() for f in found}


def bench(engine: Engine, config: TempLoraConfig, a: argparse.Namespace) -> dict[str, Any]:
    """`templora bench`'s figures, ceilings first."""
    ceilings = ceilings_of(engine, config, a)
    figures = [*ceiling_figures(ceilings), *Bench(engine, config, ceilings, runs=a.runs).figures()]
    return {f.name: f.to_dict() for f in figures}


def writing(engine: Engine, config: TempLoraConfig, chunks: int) -> float:
    """Seconds to write `chunks` chunks from a full window, learning as the config says."""
    with engine.session(config) as session:
        # What is given fills the window, so that each chunk that is written costs the same.
        session.absorb("It was the best of times, it was the worst of times. " * (config.window // 8))
        tokens = chunks * config.chunk_size
        session.write(max_new_tokens=1, sampling=GREEDY)  # what is set up once is not learning's overhead
        began = time.perf_counter()
        session.write(max_new_tokens=tokens, sampling=GREEDY)
        session.discard()
        if engine.model.device.type == "cuda":
            torch.cuda.synchronize(engine.model.device)
        return time.perf_counter() - began


def overhead(engine: Engine, config: TempLoraConfig, chunks: int, run: int) -> dict[str, float]:
    """Seconds by learning mode, each in its turn. Random models may repeat themselves: it is learnt all the same."""
    values = config.to_dict() | {"max_repetition": 1.0, "learn_written": True}
    modes = sorted(LEARNING_MODES, reverse=bool(run % 2))
    return {m: writing(engine, TempLoraConfig.from_dict(values | {"learning": m}), chunks) for m in modes}


def summary(parts: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """One model's rows from its measured parts."""
    found: dict[str, Any] = {}
    for measured in [*parts["bench"], *parts["sessions"]]:
        for name, figure in measured.items():
            found[name] = {key: figure[key] for key in ("median", "unit", "ceiling", "ratio")}
    for mode in [m for m in LEARNING_MODES if m != "off" and parts["overhead"]]:
        found[f"overhead of learning, {mode}"] = spread(p[mode] / p["off"] - 1 for p in parts["overhead"])
    for measured in parts["flat"]:
        pairs = zip(measured["old_seconds"], measured["young_seconds"], strict=True)
        found["a chunk of a long text against a short one"] = spread(old / young for old, young in pairs)
        found["memory of a long text against a short one"] = measured["long_bytes"] / measured["short_bytes"]
        found["peak memory of a long text against a short one"] = (
            measured["long_peak_bytes"] / measured["short_peak_bytes"]
        )
    return found


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default=f"llama-2-7b,{EMBEDDED}", help="which, comma-separated")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--window", type=int, default=4096)
    parser.add_argument("--chunk", type=int, default=1024)
    parser.add_argument("--rank", type=int, default=64)
    parser.add_argument("--chunks", type=int, default=3, help="chunks written to measure the overhead")
    parser.add_argument("--short", type=int, default=5_000)
    parser.add_argument("--long", type=int, default=100_000)
    parser.add_argument("--sessions", default="1,8,32", help="how many at once, comma-separated")
    parser.add_argument("--session-window", type=int, default=1024, help="of each of them; a chunk is half of it")
    parser.add_argument("--square", type=int, default=8192, help="side of the large matrix product")
    parser.add_argument("--buffer-bytes", type=int, default=2**32, help="read to find the memory bandwidth")
    parser.add_argument("--results", type=Path, default=RESULTS)
    return parser.parse_args()


def main() -> int:
    a = parse()
    try:
        device = find_device(a.device)
    except OptionError as error:
        print(f"gpu.py: --device: {error.problem} (--device cpu --shape tiny tries the code)", file=sys.stderr)
        return 2
    settings = {k: v for k, v in vars(a).items() if k not in ("shape", "runs", "results")}
    journal = Journal(a.results / "gpu.jsonl", settings, device)
    rows: dict[str, Any] = {}
    for shape in a.shape.split(","):
        engine = engine_of(shape, a.device)
        # On the embedded model the window of the paper's recipe, too: its positions allow it.
        config = engine.config(window=a.window, chunk_size=a.chunk, rank=a.rank, epochs=2)
        ids = [random.Random(1).randrange(256) for _ in range(a.long + (a.runs + 3) * a.chunk)]
        journal.fill(f"{shape}: bench", 1, lambda run, e=engine, c=config: bench(e, c, a))
        journal.fill(f"{shape}: overhead", a.runs, lambda run, e=engine, c=config: overhead(e, c, a.chunks, run))
        journal.fill(
            f"{shape}: flat", 1, lambda run, e=engine, c=config, i=ids: flatness(e, c, i, a.short, a.long, a.runs)
        )
        engine.close()  # the next one's weights and states take its place
        numbers = [int(number) for number in a.sessions.split(",")]
        for number in numbers:
            journal.fill(f"{shape}: {number} sessions", 1, lambda run, s=shape, n=number: sessions(s, n, a))

        def measured(*parts: str, shape: str = shape) -> list[dict[str, Any]]:
            return [pair["measured"] for part in parts for pair in journal.pairs(f"{shape}: {part}")]

        found = {part: measured(part) for part in ("bench", "overhead", "flat")}
        rows[shape] = summary(found | {"sessions": measured(*(f"{number} sessions" for number in numbers))})
        write_results(a.results / "gpu.json", {"benchmark": "gpu", **journal.header, "rows": rows})
    print(json.dumps(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
