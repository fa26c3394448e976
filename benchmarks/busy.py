#!/usr/bin/env python3
"""How much slower everything gets when another program takes a core: quiet and beside one busy process, in pairs.

    benchmarks/busy.py [--pairs 5] [--threads auto] [--text BOOK.txt]

Each run is a fresh session on the embedded model that scores and learns two chunks and then writes. Before each busy
run a process that only spins is started, and killed after it. Seconds are those of the session's meter, a token. The
machine must be quiet otherwise. Prints one JSON document, also written to results/benchmarks/busy-threads-N.json; pairs
that are in the .jsonl beside it are not measured again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from journal import RESULTS, Journal, book, write_results

import templora
from templora.engine.engine import Engine

SENTENCE = "The keeper climbed the stairs and looked for the lamp that his brother had left behind. "
CHUNKS, WRITTEN = 2, 48
PHASES = ("decode", "score", "learn")


@contextmanager
def busy_process() -> Iterator[None]:
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        time.sleep(0.5)  # Python has started by then
        yield
    finally:
        process.kill()
        process.wait()


def run(engine: Engine, ids: list[int]) -> dict[str, float]:
    """Seconds a token of each phase."""
    config = engine.config()
    with engine.session(config) as session:
        for _ in session.score_ids(ids[: CHUNKS * config.chunk_size]):
            pass
        session.write(max_new_tokens=WRITTEN)
        seconds = session.meter.seconds
    learnt = CHUNKS * config.chunk_size
    return {
        "decode": seconds["decode"] / WRITTEN,
        "score": seconds["score"] / learnt,
        "learn": seconds["learn"] / learnt,
    }


def pair(engine: Engine, ids: list[int]) -> dict[str, float]:
    found = {}
    for name, beside in (("quiet", nullcontext()), ("busy", busy_process())):
        with beside:
            found |= {f"{name} {phase}": seconds for phase, seconds in run(engine, ids).items()}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--threads", default="auto")
    parser.add_argument("--text", type=Path)
    parser.add_argument("--results", type=Path, default=RESULTS)
    a = parser.parse_args()
    engine = templora.load(threads=a.threads)
    text = book(a.text) if a.text else SENTENCE * 100
    ids = engine.tokenizer(text)["input_ids"]
    run(engine, ids)  # what is compiled or allocated once
    name = f"busy-threads-{a.threads}"
    settings = {"threads": a.threads, "text": a.text.name if a.text else None}
    journal = Journal(a.results / f"{name}.jsonl", settings, engine.model.device)
    journal.fill("busy", a.pairs, lambda _: pair(engine, ids))
    rows = {phase: journal.ratio("busy", f"busy {phase}", f"quiet {phase}") for phase in PHASES}
    write_results(a.results / f"{name}.json", {"benchmark": "busy", **journal.header, "rows": rows})
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
