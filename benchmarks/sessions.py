#!/usr/bin/env python3
"""What it costs to keep a session on disk (docs/sessions.md).

    benchmarks/sessions.py [--runs 3] [--tokens 2048] [--long 100000] [--out results/benchmarks/sessions.json]

On the embedded model: writing with and without a session on disk, in turn; a snapshot; fork, rewind, and opening again.
On a tiny model: a text of 100,000 tokens, its seconds a chunk and memory at its beginning and end, its size on disk,
and how long opening it takes after a kill. Run it on a quiet machine.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flatness import memory_now

import templora
from templora.engine.engine import Engine
from templora.events import ChunkLearned
from templora.reports.run_report import describe_device, source_commit, write_json
from templora.store.store import SessionStore
from templora.testing import tiny_engine

PROMPT = "The lighthouse keeper climbed the stairs and lit the lamp, as he had done every evening since the war. "


def seconds(what: Callable[[], Any]) -> float:
    began = time.perf_counter()
    what()
    return time.perf_counter() - began


def real(store: SessionStore, runs: int, tokens: int) -> dict[str, Any]:
    """Of the embedded model."""
    engine = templora.load(weights="int4")
    config = engine.config(learn_written=True)
    with engine.session(config) as session:
        session.write(PROMPT, max_new_tokens=600)  # compiles what is compiled at first use
    plain, kept = [], []
    for run in range(runs):
        with engine.session(config) as session:
            plain.append(seconds(lambda s=session: s.write(PROMPT, max_new_tokens=tokens)))
            expected = session.tokens
        with store.create(f"run-{run}", engine, config) as saved:
            kept.append(seconds(lambda s=saved: s.write(PROMPT, max_new_tokens=tokens)))
            assert saved.tokens == expected
            snapshot = seconds(saved.snapshot)
    name, info = "run-0", store.show("run-0")
    chunks = info.chunks

    def reopen(name: str) -> None:
        with store.open(name, engine) as saved:
            assert saved.tokens == expected[: len(saved.tokens)]

    found = {
        "tokens": tokens,
        "plain_seconds": plain,
        "kept_seconds": kept,
        "ratio": statistics.median(k / p for k, p in zip(kept, plain, strict=True)),
        "snapshot_seconds": snapshot,
        "bytes": info.bytes,
        "snapshots": info.snapshots,
        "fork_seconds": seconds(lambda: store.fork(name, "fork")),
        "fork_early_seconds": seconds(lambda: store.fork(name, "early", 1)),
        "rewind_seconds": seconds(lambda: store.rewind("fork", chunks - 1)),
        "open_seconds": seconds(lambda: reopen(name)),
        "open_early_seconds": seconds(lambda: reopen("early")),
    }
    for each in store.names():
        store.discard(each)
    return found


def long(store: SessionStore, tokens: int) -> dict[str, Any]:
    """Of a tiny model."""
    engine: Engine = tiny_engine()
    config = engine.config(window=256, chunk_size=128, rank=4, alpha=4.0, learning_rate=1e-3, learn_written=True)
    chunk_seconds: list[float] = []
    memory: list[int] = []
    with store.create("long", engine, config) as saved:
        began = time.perf_counter()
        for event in saved.stream(PROMPT, max_new_tokens=tokens):
            if isinstance(event, ChunkLearned):
                chunk_seconds.append(time.perf_counter() - began)
                if event.index % 50 == 0:
                    memory.append(memory_now(engine.model.device))
                began = time.perf_counter()
        held = saved.history.snapshots[-1].data["tokens"]
        saved.leave()  # as a kill would: without a last snapshot
    info = store.show("long")
    files = {p.name: p.stat().st_size for p in (store.folder / "long").rglob("*") if p.is_file()}
    return {
        "tokens": info.tokens,
        "seconds_a_chunk_first_100": statistics.median(chunk_seconds[5:105]),
        "seconds_a_chunk_last_100": statistics.median(chunk_seconds[-100:]),
        "memory_bytes_every_50_chunks": memory,
        "log_bytes": files["log.sqlite"],
        "bytes": info.bytes,
        "tokens_after_last_snapshot": info.tokens - held,
        "open_seconds": seconds(lambda: store.open("long", tiny_engine()).close()),
        "show_seconds": seconds(lambda: store.show("long")),
        "fork_seconds": seconds(lambda: store.fork("long", "fork", info.chunks // 2)),
        "rewind_seconds": seconds(lambda: store.rewind("long", info.chunks // 2)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--long", type=int, default=100_000)
    parser.add_argument("--out", default="results/benchmarks/sessions.json")
    arguments = parser.parse_args()
    engine = tiny_engine()
    document: dict[str, Any] = {
        "device": describe_device(engine.model.device),
        "versions": engine.versions() | {"commit": source_commit()},
    }
    with tempfile.TemporaryDirectory() as folder:
        document["long"] = long(SessionStore(Path(folder) / "long"), arguments.long)
        print({k: v for k, v in document["long"].items() if not isinstance(v, list)}, flush=True)
        document["embedded"] = real(SessionStore(Path(folder) / "real"), arguments.runs, arguments.tokens)
        print(document["embedded"])
    write_json(Path(arguments.out), document)


if __name__ == "__main__":
    main()
