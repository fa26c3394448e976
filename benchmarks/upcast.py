#!/usr/bin/env python3
"""What widened products bring on a CPU without instructions for bf16: scoring and learning with and without, in turn.

    benchmarks/upcast.py [--model smollm2-135m] [--pairs 3]

Leaves results/benchmarks/upcast.json: seconds of each run, and the medians of the ratios of pairs.
"""

from __future__ import annotations

import argparse
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
TOKENS = 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--pairs", type=int, default=3)
    a = parser.parse_args()
    if not upcast.worthwhile():
        parser.error("this CPU has instructions for bf16: nothing is widened here")
    engines = {"widened": templora.load(a.model)}
    upcast.worthwhile = lambda: False
    engines["bf16"] = templora.load(a.model)
    text = " ".join(random.Random(0).choices(WORDS, k=TOKENS))
    pairs: list[dict[str, dict[str, float]]] = []
    for turn in range(a.pairs + 1):
        pair = {}
        for name, engine in list(engines.items())[:: -1 if turn % 2 else 1]:
            upcast.worthwhile = lambda name=name: name == "widened"
            with engine.session(engine.config()) as session:
                ids = session.encode(text)[:TOKENS]
                began = time.perf_counter()
                for _ in session.score_ids(ids):
                    pass
                took = time.perf_counter() - began
                pair[name] = {"seconds": took, **{phase: session.meter.seconds[phase] for phase in PHASES}}
        print({name: round(one["seconds"], 2) for name, one in pair.items()}, flush=True)
        if turn:  # the first makes everything warm
            pairs.append(pair)
    keys = ("seconds", "score", "learn")
    ratios = {key: statistics.median(p["bf16"][key] / p["widened"][key] for p in pairs) for key in keys}
    print("times as fast:", {key: round(value, 2) for key, value in ratios.items()})
    document: dict[str, Any] = {
        "model": a.model,
        "tokens": TOKENS,
        "pairs": pairs,
        "times_as_fast": ratios,
        "config": engines["widened"].config().to_dict(),
        "versions": engines["widened"].versions() | {"commit": source_commit()},
        "device": describe_device(engines["widened"].model.device, engines["widened"].threads),
    }
    write_json(OUT, document)


if __name__ == "__main__":
    main()
