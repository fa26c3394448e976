#!/usr/bin/env python3
"""Writing with cascaded, parallel and no learning, in turn, in one sitting: medians of paired ratios.

    benchmarks/parallel.py [--tokens 2048] [--runs 3] [--modes cascaded,parallel,off]

Each run is a fresh session on the embedded model with the default recipe, from the same short prompt, that writes and
learns to the end (with parallel learning the last chunk's update is dropped, as it is for users). Total seconds are
the wall clock's. The machine must be quiet. Prints one JSON document, also written to
results/benchmarks/parallel.json.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from datetime import date
from pathlib import Path

import templora
from templora.engine import Engine
from templora.metering import PHASES
from templora.report import describe_device, source_commit

PROMPT = "The old lighthouse keeper climbed the stairs and"


def run(engine: Engine, mode: str, tokens: int) -> dict[str, float]:
    with engine.session(engine.config(learning=mode)) as session:
        began = time.perf_counter()
        session.write(PROMPT, max_new_tokens=tokens)
        total = time.perf_counter() - began
        seconds = {p: session.meter.seconds[p] for p in PHASES} | {"overlapped": session.meter.overlapped}
        return {"total": total, **seconds, "updates": session.version}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--modes", default="cascaded,parallel,off")
    parser.add_argument("--threads", default="auto")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent.parent / "results" / "benchmarks")
    a = parser.parse_args()
    engine = templora.load(threads=a.threads)
    modes = a.modes.split(",")
    run(engine, "off", 16)  # what is compiled or allocated once
    rounds = []
    for number in range(a.runs):
        rounds.append({mode: run(engine, mode, a.tokens) for mode in modes})
        print(number, {mode: round(r["total"], 1) for mode, r in rounds[-1].items()}, file=sys.stderr)
    first = modes[0]
    document = {
        "benchmark": "parallel",
        "date": date.today().isoformat(),
        "commit": source_commit(),
        "device": describe_device(engine.model.device, engine.threads),
        "versions": engine.versions(),
        "tokens": a.tokens,
        "median_seconds": {m: {k: statistics.median(r[m][k] for r in rounds) for k in rounds[0][m]} for m in modes},
        f"time_against_{first}": {
            m: statistics.median(r[m]["total"] / r[first]["total"] for r in rounds) for m in modes
        },
        "rounds": rounds,
    }
    a.out.mkdir(parents=True, exist_ok=True)
    (a.out / "parallel.json").write_text(json.dumps(document, indent=1) + "\n")
    print(json.dumps({k: v for k, v in document.items() if k != "rounds"}))


if __name__ == "__main__":
    main()
