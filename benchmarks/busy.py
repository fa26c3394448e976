#!/usr/bin/env python3
"""How much slower everything gets when another program takes a core: quiet and beside one busy process, in pairs.

    benchmarks/busy.py [--pairs 5] [--threads auto] [--text BOOK.txt]

Each run is a fresh session on the embedded model that scores and learns two chunks and then writes. Before each busy
run a process that only spins is started, and killed after it. Seconds are those of the session's meter. The machine
must be quiet otherwise. Prints one JSON document, also written to results/benchmarks/busy.json.
"""

from __future__ import annotations

import argparse
import json
import lzma
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from datetime import date
from pathlib import Path

import templora
from templora.engine import Engine
from templora.report import describe_device, source_commit

SENTENCE = "The keeper climbed the stairs and looked for the lamp that his brother had left behind. "
CHUNKS, WRITTEN = 2, 48


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--threads", default="auto")
    parser.add_argument("--text", type=Path)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent.parent / "results" / "benchmarks")
    a = parser.parse_args()
    engine = templora.load(threads=a.threads)
    raw = a.text.read_bytes() if a.text else (SENTENCE * 100).encode()
    text = (lzma.decompress(raw) if a.text and a.text.suffix == ".xz" else raw).decode()
    ids = engine.tokenizer(text)["input_ids"]
    run(engine, ids)  # what is compiled or allocated once
    pairs = []
    for number in range(a.pairs):
        pair = {}
        for name, beside in (("quiet", nullcontext()), ("busy", busy_process())):
            with beside:
                pair[name] = run(engine, ids)
        pairs.append(pair)
        print(number, {k: round(pair["busy"][k] / pair["quiet"][k], 2) for k in pair["busy"]}, file=sys.stderr)
    phases = list(pairs[0]["quiet"])
    document = {
        "benchmark": "busy",
        "date": date.today().isoformat(),
        "commit": source_commit(),
        "device": describe_device(engine.model.device, engine.threads),
        "versions": engine.versions(),
        "threads": a.threads,
        "times_slower": {k: statistics.median(p["busy"][k] / p["quiet"][k] for p in pairs) for k in phases},
        "quiet_ms_a_token": {k: 1000 * statistics.median(p["quiet"][k] for p in pairs) for k in phases},
        "busy_ms_a_token": {k: 1000 * statistics.median(p["busy"][k] for p in pairs) for k in phases},
        "pairs": pairs,
    }
    a.out.mkdir(parents=True, exist_ok=True)
    (a.out / "busy.json").write_text(json.dumps(document, indent=1) + "\n")
    print(json.dumps({k: v for k, v in document.items() if k != "pairs"}))


if __name__ == "__main__":
    main()
