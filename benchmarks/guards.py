#!/usr/bin/env python3
"""What the guards cost: scoring and writing with them and without, in turn, on the embedded model.

    benchmarks/guards.py [--pairs 3]

Leaves results/benchmarks/guards.json: seconds of each run, and the medians of the ratios of pairs.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import templora
from templora.engine.engine import Engine
from templora.reports.run_report import describe_device, source_commit, write_json
from templora.runtime.metering import PHASES

OUT = Path(__file__).parent.parent / "results" / "benchmarks" / "guards.json"
OFF: dict[str, Any] = {"probe_tokens": 0, "patience": 0, "min_entropy": 0.0}
PROMPT = "The old lighthouse keeper climbed the stairs one last time, and told the boy how it had all begun."
TOKENS = 2048


def measured(engine: Engine, verb: str, text: str, options: dict[str, Any]) -> dict[str, float]:
    with engine.session(engine.config(learn_written=True, **options)) as session:
        began = time.perf_counter()
        if verb == "write":
            session.write(PROMPT, max_new_tokens=TOKENS)
        else:
            session.score(text)
        took = time.perf_counter() - began
        flops = {f"{phase}_tflop": session.meter.flops[phase] / 1e12 for phase in PHASES}
        return {"seconds": took, **{phase: session.meter.seconds[phase] for phase in PHASES}, **flops}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=3)
    a = parser.parse_args()
    engine = templora.load()
    with engine.session(engine.config(learning="off")) as session:  # something to read, and everything warm
        text = session.write(PROMPT, max_new_tokens=TOKENS)
    found: dict[str, Any] = {}
    for verb in ("score", "write"):
        pairs = []
        for turn in range(a.pairs):
            order = [("with", {}), ("without", OFF)]
            pair = {name: measured(engine, verb, text, options) for name, options in order[:: -1 if turn % 2 else 1]}
            pairs.append(pair)
            print(verb, {name: round(one["seconds"], 2) for name, one in pair.items()}, flush=True)
        ratios = [pair["with"]["seconds"] / pair["without"]["seconds"] for pair in pairs]
        found[verb] = {"pairs": pairs, "ratio": statistics.median(ratios)}
        print(verb, "with / without:", round(found[verb]["ratio"], 3))
    write_json(
        OUT,
        found
        | {
            "tokens": TOKENS,
            "config": engine.config(learn_written=True).to_dict(),
            "versions": engine.versions() | {"commit": source_commit()},
            "device": describe_device(engine.model.device, engine.threads),
        },
    )


if __name__ == "__main__":
    main()
