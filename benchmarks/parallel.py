#!/usr/bin/env python3
"""Writing with cascaded, parallel and no learning, in turn, in one sitting: medians of paired ratios.

    benchmarks/parallel.py [--tokens 2048] [--runs 5]

Each run is a fresh session on the embedded model with the default recipe, from the same short prompt, that writes and
learns to the end (with parallel learning the last chunk's update is dropped, as it is for users). Total seconds are
the wall clock's. The machine must be quiet. Prints one JSON document, also written to
results/benchmarks/parallel.json; runs that are in the .jsonl beside it are not measured again.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

from journal import RESULTS, Journal, write_results

import templora
from templora.config import LEARNING_MODES
from templora.engine.engine import Engine
from templora.runtime.metering import PHASES

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
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--threads", default="auto")
    parser.add_argument("--results", type=Path, default=RESULTS)
    a = parser.parse_args()
    engine = templora.load(threads=a.threads)
    run(engine, "off", 16)  # what is compiled or allocated once
    settings = {"tokens": a.tokens, "threads": a.threads}
    journal = Journal(a.results / "parallel.jsonl", settings, engine.model.device)
    journal.fill(
        "write",
        a.runs,
        lambda _: {f"{mode} {k}": v for mode in LEARNING_MODES for k, v in run(engine, mode, a.tokens).items()},
    )
    rows: dict[str, Any] = {
        f"{mode} against off": journal.ratio("write", f"{mode} total", "off total") for mode in ("cascaded", "parallel")
    }
    rows["parallel against cascaded"] = journal.ratio("write", "parallel total", "cascaded total")
    write_results(a.results / "parallel.json", {"benchmark": "parallel", **journal.header, "rows": rows})
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
