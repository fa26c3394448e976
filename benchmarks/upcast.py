#!/usr/bin/env python3
"""What upcast products bring on a CPU without instructions for bf16: scoring, learning and writing with them, and with
all weights in fp32 instead, in turn; with --bf16 also without either, which takes many times as long.

    benchmarks/upcast.py [--model smollm2-135m] [--pairs 3]

On a CPU that has such instructions, as if it had not:

    ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2 MKL_ENABLE_INSTRUCTIONS=AVX2 benchmarks/upcast.py --as-if

Leaves results/benchmarks/upcast.json: seconds of each run, and the medians of the ratios of pairs.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import time
from pathlib import Path
from typing import Any

import templora
from templora.layers import upcast
from templora.reports.run_report import describe_device, source_commit, write_json
from templora.runtime.metering import PHASES

OUT = Path(__file__).parent.parent / "results" / "benchmarks" / "upcast.json"
WORDS = ["the", "old", "keeper", "climbed", "stairs", "lamp", "harbour", "sea", "wind", "captain", "night", "of", "to"]
TOKENS, WRITTEN = 1024, 128
ISA = ("ONEDNN_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY", "MKL_ENABLE_INSTRUCTIONS")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--as-if", action="store_true", help="this CPU has instructions for bf16; see above")
    parser.add_argument("--bf16", action="store_true", help="measure plain bf16 as well")
    a = parser.parse_args()
    if not (a.as_if or upcast.worthwhile()):
        parser.error("this CPU has instructions for bf16: nothing is upcast here; see --as-if")
    upcast.worthwhile = lambda: False
    engines = {"fp32": templora.load(a.model, dtype="float32")}
    if a.bf16:
        engines["bf16"] = templora.load(a.model)
    upcast.worthwhile = lambda: True
    engines["upcast"] = templora.load(a.model)
    text = " ".join(random.Random(0).choices(WORDS, k=TOKENS))
    pairs: list[dict[str, dict[str, float]]] = []
    for turn in range(a.pairs + 1):
        pair = {}
        for name, engine in list(engines.items())[:: -1 if turn % 2 else 1]:
            upcast.worthwhile = lambda name=name: name == "upcast"
            with engine.session(engine.config()) as session:
                ids = session.encode(text)[:TOKENS]
                began = time.perf_counter()
                for _ in session.score_ids(ids):
                    pass
                session.write(max_new_tokens=WRITTEN, sampling=templora.SamplingParams(temperature=0))
                took = time.perf_counter() - began
                pair[name] = {"seconds": took, **{phase: session.meter.seconds[phase] for phase in PHASES}}
        print({name: round(one["seconds"], 2) for name, one in pair.items()}, flush=True)
        if turn:  # the first makes everything warm
            pairs.append(pair)
    keys = ("seconds", "score", "learn", "decode")
    ratios = {
        f"against {other}": {key: statistics.median(p[other][key] / p["upcast"][key] for p in pairs) for key in keys}
        for other in engines
        if other != "upcast"
    }
    print("times as fast:", {name: {k: round(v, 2) for k, v in of.items()} for name, of in ratios.items()})
    document: dict[str, Any] = {
        "model": a.model,
        "tokens": TOKENS,
        "written": WRITTEN,
        "as_if": {name: os.environ.get(name) for name in ISA} if a.as_if else None,
        "pairs": pairs,
        "times_as_fast": ratios,
        "config": engines["upcast"].config().to_dict(),
        "versions": engines["upcast"].versions() | {"commit": source_commit()},
        "device": describe_device(engines["upcast"].model.device, engines["upcast"].threads),
    }
    write_json(OUT, document)


if __name__ == "__main__":
    main()
