#!/usr/bin/env python3
"""Several sessions of one engine at once (docs/architecture.md, the life of a token).

    benchmarks/together.py [--sessions 4] [--tokens 1200] [--weights int4] [--out results/benchmarks/together.json]

On the embedded model, each session in a thread of its own, all writing: how equal their shares are; how long each
waits from token to token, while another one learns and otherwise, with the default slices and with learning in one
piece; the same with sessions on disk, what their logs take, and how long a snapshot keeps the others; what beginning
and discarding a session takes. Run it on a quiet machine.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from journal import code_digest, versions

import templora
from templora.engine.engine import Engine
from templora.engine.scheduler import SLICE
from templora.events import ChunkLearned, Event, TokenEvent
from templora.reports.run_report import describe_device, source_commit, write_json
from templora.store import snapshots as snapshots_module
from templora.store.log import Log
from templora.store.store import SessionStore

# Of the time, for snapshots: more than by default (2 %), so that a short run has some.
_SHARE = 0.1
PROMPT = "The lighthouse keeper climbed the stairs and lit the lamp, as he had done every evening since the war. "


@dataclass
class Seen:
    """What one caller saw.

    Args:
        tokens: when each came, in seconds.
        learnt: from when to when its session learnt.
    """

    tokens: list[float] = field(default_factory=list)
    learnt: list[tuple[float, float]] = field(default_factory=list)

    def take(self, events: Iterator[Event], go: threading.Event) -> None:
        while not go.is_set():
            event = next(events, None)
            now = time.perf_counter()
            if event is None:
                return
            if isinstance(event, TokenEvent):
                self.tokens.append(now)
            elif isinstance(event, ChunkLearned):
                self.learnt.append((now - event.seconds, now))


def gaps(seen: list[Seen], spans: Callable[[int], list[tuple[float, float]]]) -> list[float]:
    """Seconds from token to token of each session, where they meet one of the `spans` and its own learning does not."""
    found = []
    for i, one in enumerate(seen):
        wanted, own = spans(i), one.learnt
        for begin, end in zip(one.tokens, one.tokens[1:], strict=False):
            meets = any(a < end and b > begin for a, b in wanted)
            if meets and not any(a < end and b > begin for a, b in own):
                found.append(end - begin)
    return found


def quantiles(values: list[float]) -> dict[str, float]:
    if not values:
        return {"count": 0}
    ms = np.array(values) * 1000
    return {"count": len(values), "median_ms": float(np.median(ms)), "p99_ms": float(np.quantile(ms, 0.99)),
            "max_ms": float(ms.max())}  # fmt: skip


def timed(owner: Any, name: str, spans: list[tuple[float, float, float]], stack: ExitStack) -> None:
    """Notes when a function is called and when it returns, and the CPU seconds of its thread meanwhile."""
    real = getattr(owner, name)

    def call(*args: Any, **kwargs: Any) -> Any:
        began, cpu = time.perf_counter(), time.thread_time()
        try:
            return real(*args, **kwargs)
        finally:
            spans.append((began, time.perf_counter(), time.thread_time() - cpu))

    setattr(owner, name, call)
    stack.callback(setattr, owner, name, real)


def together(engine: Engine, sessions: int, tokens: int, slice_seconds: float, disk: bool) -> dict[str, Any]:
    """Figures of `sessions` at once, until the first has written all of its tokens."""
    seen, go, threads = [Seen() for _ in range(sessions)], threading.Event(), []
    logged: list[tuple[float, float, float]] = []
    written: list[tuple[float, float, float]] = []
    with ExitStack() as stack:
        store = SessionStore(Path(stack.enter_context(tempfile.TemporaryDirectory())))
        timed(Log, "extend", logged, stack)
        timed(Log, "sync", logged, stack)
        timed(snapshots_module, "_write", written, stack)
        stack.enter_context(mock.patch.object(snapshots_module, "_SHARE", _SHARE))
        stack.enter_context(engine.shared(slice_seconds))
        for i in range(sessions):
            config = engine.config(seed=i, learn_written=True)
            made: Any = store.create(f"s{i}", engine, config) if disk else engine.session(config)
            session = stack.enter_context(made)
            # Chunks that end at different times.
            session.absorb(PROMPT * 24 + "And so it went on. " * (1 + i * 24))
            events = session.stream(max_new_tokens=tokens)

            def write(i: int = i, events: Iterator[Event] = events) -> None:
                seen[i].take(events, go)
                go.set()
                events.close()  # type: ignore[attr-defined]

            threads.append(threading.Thread(target=write))
        logged.clear(), written.clear()
        began = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        ended = time.perf_counter()
    counts = [len(one.tokens) for one in seen]
    others = [[span for j, one in enumerate(seen) if j != i for span in one.learnt] for i in range(sessions)]
    everything = [(began, ended)]
    found = {
        "slice_ms": slice_seconds * 1000,
        "on_disk": disk,
        "seconds": ended - began,
        "tokens": counts,
        "tokens_per_second": sum(counts) / (ended - began),
        "slowest_to_fastest": min(counts) / max(counts),
        "chunks_learnt": sum(len(one.learnt) for one in seen),
        "while_another_learns": quantiles(gaps(seen, lambda i: others[i])),
        "at_all_times": quantiles(gaps(seen, lambda _: everything)),
    }
    if disk:
        inside = [(b - a, cpu) for a, b, cpu in logged if began <= a and b <= ended]
        snapshots = [(a, b) for a, b, _ in written if began <= a and b <= ended]
        learning = [[span for one in seen for span in one.learnt] for _ in range(sessions)]
        quiet = [s for s in snapshots if not any(a < s[1] and b > s[0] for a, b in learning[0])]
        found |= {
            "log_cpu_share": sum(cpu for _, cpu in inside) / (ended - began),
            "log_share_with_waiting": sum(seconds for seconds, _ in inside) / (ended - began),
            "snapshots": len(snapshots),
            "snapshot_seconds": [b - a for a, b in snapshots],
            "while_a_snapshot_is_written_and_nobody_learns": quantiles(gaps(seen, lambda _: quiet)),
        }
    return found


def begin_and_discard(engine: Engine, runs: int) -> dict[str, Any]:
    """Seconds of each after the first, of an engine that is shared, with nobody beside."""
    began, discarded = [], []
    with engine.shared():
        for run in range(runs + 1):
            at = time.perf_counter()
            session = engine.session()
            middle = time.perf_counter()
            receipt = session.discard()
            end = time.perf_counter()
            assert receipt.base_unchanged
            if run:
                began.append(middle - at)
                discarded.append(end - middle)
    return {
        "begin_ms": 1000 * statistics.median(began),
        "discard_ms": 1000 * statistics.median(discarded),
        "both_ms": 1000 * statistics.median(a + b for a, b in zip(began, discarded, strict=True)),
        "runs": runs,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sessions", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=1200)
    parser.add_argument("--weights", default="int4")
    parser.add_argument("--out", default="results/benchmarks/together.json")
    arguments = parser.parse_args()
    engine = templora.load(weights=arguments.weights)
    with engine.session() as session:
        session.write(PROMPT * 30, max_new_tokens=4)  # compiles what is compiled at first use
    load = os.getloadavg()[0]
    document: dict[str, Any] = {
        "device": describe_device(engine.model.device),
        "versions": versions() | {"commit": source_commit(), "code": code_digest()},
        "model": engine.name,
        "weights": arguments.weights,
        "config": engine.config(learn_written=True).to_dict(),
        "sessions": arguments.sessions,
        "load_average_before": load,
        "begin_and_discard": begin_and_discard(engine, 9),
    }
    print(document["begin_and_discard"], flush=True)
    n, tokens = arguments.sessions, arguments.tokens
    for name, of in (
        ("one", (1, tokens, SLICE, False)),
        ("sliced", (n, tokens, SLICE, False)),
        ("in_one_piece", (n, tokens, 1e9, False)),
        ("on_disk", (n, tokens, SLICE, True)),
    ):
        document[name] = together(engine, *of)
        document["snapshot_share"] = _SHARE
        print(name, document[name], flush=True)
        write_json(Path(arguments.out), document)


if __name__ == "__main__":
    main()
