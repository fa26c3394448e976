#!/usr/bin/env python3
"""Whether time and memory stay flat over one very long text, on the embedded model.

    benchmarks/long_text.py FILE... [--tokens 1000000] [--store long-text.store] [--threads 1]
                            [--out results/benchmarks/long-text.json]

The files, one after another, are read and learnt as one session on disk, some chunks at a time; now and then a few
tokens are written that are not kept. Processor time is counted, so that it may run beside other programs. Killed at any
moment, it goes on when it is begun again: the session and the rows so far are on disk. At last this old session and a
young one go on in turn, so that whatever else the machine does changes for both.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from flatness import memory_now
from journal import book

import templora
from templora.events import ChunkLearned
from templora.reports.run_report import describe_device, source_commit, write_json
from templora.store.saved import SavedSession
from templora.store.store import SessionStore
from templora.text import encode, text_pieces

NAME, CHUNKS, EVERY, WRITTEN = "long", 16, 12, 64  # chunks of a part, parts between two tries to write, tokens then
PAIRS = 9  # chunks that an old and a young session read in turn


def read_part(saved: SavedSession, device: torch.device, number: int, text: str) -> dict[str, Any]:
    """Reads and learns it; what that took, and what is held after it."""
    cpu, wall = time.process_time(), time.perf_counter()
    events = saved.absorb_parts([(text, True)], mark={"part": number})
    learnt = [event.committed for event in events if isinstance(event, ChunkLearned)]
    return {
        "tokens": len(saved.tokens),
        "cpu_seconds": time.process_time() - cpu,
        "wall_seconds": time.perf_counter() - wall,
        "learnt": sum(learnt),
        "refused": len(learnt) - sum(learnt),
        "resident_bytes": memory_now(device),
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


def in_turn(old: SavedSession, young: SavedSession, chunks: Sequence[str]) -> list[dict[str, float]]:
    """Processor seconds of each chunk, read and learnt, and of a few tokens written."""
    found = []
    for number, text in enumerate(chunks):
        row = {}
        for name, saved in (("old", old), ("young", young)) if number % 2 else (("young", young), ("old", old)):
            began = time.process_time()
            saved.absorb(text)
            read = time.process_time()
            saved.preview(max_new_tokens=WRITTEN)
            row |= {f"{name}_read": read - began, f"{name}_write": time.process_time() - read}
        found.append(row)
    return found


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The last fifth of the text against its second: the first has what is compiled and loaded in it."""
    fifth = max(1, len(rows) // 5)
    young, old = rows[fifth : 2 * fifth] or rows, rows[-fifth:]

    def middle(part: list[dict[str, Any]], name: str) -> float:
        return statistics.median(row[name] for row in part if name in row)

    found = {"cpu_ratio": middle(old, "cpu_seconds") / middle(young, "cpu_seconds")}
    found["resident_growth_bytes"] = middle(old, "resident_bytes") - middle(young, "resident_bytes")
    if any("write_cpu_seconds" in row for row in young) and any("write_cpu_seconds" in row for row in old):
        found["write_ratio"] = middle(old, "write_cpu_seconds") / middle(young, "write_cpu_seconds")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--tokens", type=int, default=1_000_000)
    parser.add_argument("--store", type=Path, default=Path("long-text.store"))
    parser.add_argument("--threads", default="auto")
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks/long-text.json"))
    a = parser.parse_args()
    engine = templora.load(threads=a.threads)
    store, config = SessionStore(a.store), engine.config()
    size = CHUNKS * config.chunk_size
    ids = encode(engine.tokenizer, "\n\n".join(book(file) for file in a.files), special=False)
    ids, after = ids[: a.tokens], ids[a.tokens :]
    if len(after) < (needed := size + (PAIRS + 2) * config.chunk_size):
        parser.error(f"--tokens: the files must have {needed:,} tokens more than that, and have {len(after):,}")
    parts = text_pieces(engine.tokenizer, [], ids, range(size, len(ids), size))
    document = json.loads(a.out.read_text()) if a.out.exists() else {"parts": [], "opened": []}
    about = {
        "files": [file.name for file in a.files],
        "config": config.to_dict(),
        "device": describe_device(engine.model.device, engine.threads),
        "versions": engine.versions() | {"commit": source_commit()},
    }
    if NAME not in store:
        store.create(NAME, engine, config).close()
    began = time.process_time()
    with store.open(NAME, engine) as saved:
        document["opened"].append({"tokens": len(saved.tokens), "cpu_seconds": time.process_time() - began})
        done = saved.history.marks[-1][1]["part"] + 1 if saved.history.marks else 0
        for number, part in enumerate(parts):
            if number < done:
                continue
            row = read_part(saved, engine.model.device, number, part)
            if number % EVERY == EVERY - 1:
                began = time.process_time()
                saved.preview(max_new_tokens=WRITTEN)
                row["write_cpu_seconds"] = time.process_time() - began
            row["disk_bytes"] = store.show(NAME).bytes
            document["parts"].append({"part": number, **row})
            print(json.dumps(document["parts"][-1]), flush=True)
            write_json(a.out, document | about | {"summary": summary(document["parts"])})
        # Both are as far within a chunk, so that they have as much to read before they write.
        size += saved.open_tokens
        cuts = range(size, size + (PAIRS + 1) * config.chunk_size, config.chunk_size)
        begin, *pairs = text_pieces(engine.tokenizer, ids, after[: cuts[-1]], cuts[:-1])
        if "young" in store:  # of a run that was killed
            store.discard("young")
        with store.create("young", engine, config) as young:
            young.absorb(begin)
            document["in_turn"] = in_turn(saved, young, pairs)
        store.discard("young")
    document["summary"] = summary(document["parts"])
    for what in ("read", "write"):
        ratios = [row[f"old_{what}"] / row[f"young_{what}"] for row in document["in_turn"]]
        document["summary"][f"old_by_young_{what}"] = statistics.median(ratios)
    write_json(a.out, document | about)
    print(json.dumps(document["summary"]))


if __name__ == "__main__":
    main()
