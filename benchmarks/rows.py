#!/usr/bin/env python3
"""Several texts in one pass of the compiled step: tokens a second, each with an adapter of its own.

    benchmarks/rows.py TEXT [--rows 1,2,4,8] [--passes 40] [--weights int4] [--out results/benchmarks/rows.json]
    benchmarks/rows.py TEXT --modules --rows 0,1,2,4     # as families do it that the step does not know; 0: by itself

Each text is another part of TEXT, of which 600 to 700 tokens are in the window and a chunk is learnt. Passes of each
size take turns. Then known tokens of one text, one at a time and several. And what it changes that the step rounds in
another way than the model's own modules: NLL of what follows in TEXT through both. Run it on a quiet machine; for
llama.cpp and whole sessions see `table.py` and `together.py`.
"""

from __future__ import annotations

import argparse
import statistics
import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

from journal import book

import templora
from templora.decoding.module_rows import ModuleRows
from templora.decoding.reader import Reader
from templora.engine.engine import Engine
from templora.reports.run_report import describe_device, source_commit, write_json
from templora.session.session import Session

CHARACTERS, APART = 2600, 20_000  # of a text's part, and from one to the next
KNOWN, REPLAYS = 32, 4  # tokens, and times each way; together they stay within a chunk


def begin(engine: Engine, text: str, many: int) -> list[Session]:
    sessions = []
    for i in range(many):
        session = engine.session(engine.config(seed=i))
        session.absorb(text[i * APART : i * APART + CHARACTERS])
        session.write(max_new_tokens=2)
        sessions.append(session)
    return sessions


def passes(sessions: list[Session], sizes: list[int], many: int) -> dict[int, list[float]]:
    """Seconds of passes of each size, in turn."""
    readers = [session.readers[0] for session in sessions]
    step: Any = readers[0].step  # itself: a runner would have eight texts in two passes
    lengths = [reader.cache.length for reader in readers]
    seconds: dict[int, list[float]] = {size: [] for size in sizes}
    for turn in range(many + 1):
        for size in sizes:
            together = zip(readers[: size or 1], sessions, strict=False)
            rows = [reader.row(session.tokens[-1]) for reader, session in together]
            began = time.perf_counter()
            if size:
                step(rows)
            else:
                readers[0].runner.step([replace(rows[0], step=None)])
            if turn:
                seconds[size].append(time.perf_counter() - began)
            for reader, length in zip(readers, lengths, strict=True):
                reader.cache.truncate(length)
    return seconds


def replay(session: Session, ids: list[int], runs: int) -> dict[str, list[float]]:
    """Tokens a second, going over `KNOWN` of them at a time that are known, one by one and as many as a pass takes."""
    found: dict[str, list[float]] = {"one by one": [], "together": []}
    for run in range(2 * runs):
        at, name = run * KNOWN, list(found)[run % 2]
        with nullcontext() if run % 2 else mock.patch.object(Reader, "rows", 1):
            began = time.perf_counter()
            for _ in session.stream(max_new_tokens=KNOWN, forced_tokens=ids[at : at + KNOWN]):
                pass
            found[name].append(KNOWN / (time.perf_counter() - began))
    return found


def rounding(session: Session, ids: list[int]) -> dict[str, float]:
    """Mean NLL of `ids` after a session's text, token by token, through the model's modules and the step."""
    reader = session.readers[0]
    length, found = reader.cache.length, {}
    for name, changes in (("modules", {"step": None}), ("step", {})):
        nll, token = 0.0, session.tokens[-1]
        for target in ids:
            logits = reader.runner.step([replace(reader.row(token), **changes)])[0]
            nll, token = nll - float(logits.log_softmax(-1)[target]), target
        reader.cache.truncate(length)
        found[name] = nll / len(ids)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", type=Path)
    parser.add_argument("--rows", default="1,2,4,8")
    parser.add_argument("--passes", type=int, default=40)
    parser.add_argument("--weights", default="int4")
    parser.add_argument("--modules", action="store_true", help="through the model's own modules")
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks/rows.json"))
    a = parser.parse_args()
    engine, text = templora.load(weights=a.weights), book(a.text)
    if a.modules:
        step = ModuleRows(engine.model)
        vars(engine)["new_step"] = lambda: step
    sizes = [int(size) for size in a.rows.split(",")]
    sessions = begin(engine, text, max(sizes))
    seconds = passes(sessions, sizes, a.passes)
    following = sessions[0].encode(text[CHARACTERS : CHARACTERS + 1200])[:256]
    nll = {} if a.modules else rounding(sessions[0], following)
    rows = [
        {
            "rows": size,
            "milliseconds": 1e3 * statistics.median(found),
            "tokens_a_second": max(1, size) / statistics.median(found),
            "ratio": max(1, size) * statistics.median(a / b for a, b in zip(seconds[sizes[0]], found, strict=True)),
        }
        for size, found in seconds.items()
    ]
    print("| rows | tokens a second | times one text's |\n|---:|---:|---:|")
    for row in rows:
        print(f"| {row['rows']} | {row['tokens_a_second']:.0f} | {row['ratio']:.2f} |")
    known = replay(sessions[-1], sessions[-1].encode(text[CHARACTERS : CHARACTERS + 2400]), REPLAYS)
    ratio = statistics.median(b / a for a, b in zip(*known.values(), strict=True))
    print(f"NLL a token {nll}; known tokens together {ratio:.2f} × one by one")
    about = {"device": describe_device(engine.model.device, engine.threads), "text": a.text.name, "weights": a.weights}
    versions = engine.versions() | {"commit": source_commit()}
    write_json(
        a.out,
        about | {"versions": versions, "passes": a.passes, "rows": rows, "nll": nll, "known": known | {"ratio": ratio}},
    )


if __name__ == "__main__":
    main()
