#!/usr/bin/env python3
"""Do the guards keep poison out? What is written after poisoned updates, with the guards and without them.

    experiments/guards.py --books FOLDER [--text 1684] [--seeds 1 2 3]

Each run reads 2,048 tokens of a book, learning it, and writes 512 more. The poison:

    nothing      none
    nan          the gradient of the last chunk before writing is not a number
    word         that chunk is learnt as if it were one word over and over
    words        so are the last three
    rate x 10    every update is ten times as large as it should be
    rate x 30    thirty times

One file a run in results/guards/ (runs that are there are kept), then a table in Markdown: perplexity of the bare base
on what was written, and how much that repeats itself.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest import mock

import templora
from templora.chunks import Chunk
from templora.engine.engine import Engine
from templora.evals.measuring.texts import find_texts
from templora.events import ChunkLearned, ChunkScored, TokenEvent
from templora.learning.optimizer import Step
from templora.metrics import repetition
from templora.reports.run_report import describe_device, source_commit, write_json
from templora.text import encode

RESULTS = Path(__file__).parent.parent / "results" / "guards"
POISONS = {"nothing": 1, "nan": 1, "word": 1, "words": 1, "rate x 10": 10, "rate x 30": 30}
OFF: dict[str, Any] = {"probe_tokens": 0, "patience": 0, "max_repetition": 1.0, "min_entropy": 0.0, "max_update": 1e9}
READ, WRITTEN = 2048, 512


def run(engine: Engine, ids: Sequence[int], poison: str, guarded: bool, seed: int) -> dict[str, Any]:
    config = engine.config(seed=seed, learn_written=True, **({} if guarded else OFF))
    config = engine.config(**config.to_dict() | {"learning_rate": engine.learning_rate(config) * POISONS[poison]})
    word = encode(engine.tokenizer, " word", special=False)
    last = READ // config.chunk_size - 1

    def lesson(tokens: Sequence[int], chunk: Chunk) -> Sequence[int]:
        if poison not in ("word", "words") or not last - (2 if poison == "words" else 0) <= chunk.index <= last:
            return tokens
        size = chunk.end - chunk.middle
        return [*tokens[: chunk.middle], *(word * size)[:size]]

    real = Step.clipped
    steps: list[Step] = []

    def clipped(gradient: Any, most: float) -> Step:
        steps.append(real(gradient * math.nan if poison == "nan" and len(steps) == last else gradient, most))
        return steps[-1]

    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(Step, "clipped", clipped))
        session = stack.enter_context(engine.session(config, lesson=lesson))
        events = [*session.absorb_ids(ids), *session.stream(max_new_tokens=WRITTEN, score=True)]
        text = session.text
    scored = [e for e in events if isinstance(e, ChunkScored)]
    learned = [e for e in events if isinstance(e, ChunkLearned)]
    own = [e.token for e in events if isinstance(e, TokenEvent)]
    return {
        "poison": poison,
        "guarded": guarded,
        "config": config.to_dict(),
        "model": engine.name,
        "versions": engine.versions() | {"commit": source_commit()},
        "device": describe_device(engine.model.device, engine.threads),
        "base_perplexity": math.exp(sum(e.base_nll or 0.0 for e in scored) / sum(e.targets for e in scored)),
        "repetition": repetition(own, engine.tokenizer.decode(own)),
        "updates": [[e.index, e.committed, e.reason, e.drift, e.forgetting] for e in learned],
        "text": text,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--books", required=True, help="folder of texts")
    parser.add_argument("--text", default="1684", help="which one")
    parser.add_argument("--seeds", type=int, nargs="*", default=[1, 2, 3])
    a = parser.parse_args()
    RESULTS.mkdir(parents=True, exist_ok=True)
    engine = templora.load(threads=os.cpu_count())  # always as many, so that equal runs are equal to the bit
    (book,) = find_texts(a.books, [a.text])
    ids = encode(engine.tokenizer, book.content[: READ * 8], special=False)[:READ]
    print("| | guards | base perplexity | repeated 4-grams | distinct-2 | compression | learnt | not learnt |")
    print("|---|---|---:|---:|---:|---:|---:|---:|")
    for poison in POISONS:
        for guarded in (True, False):
            if poison == "nan" and not guarded:
                continue  # what is not finite is rolled back without being asked
            runs = []
            for seed in a.seeds:
                path = RESULTS / f"{poison.replace(' ', '-')}--{'on' if guarded else 'off'}--seed-{seed}.json"
                if not path.exists():
                    write_json(path, run(engine, ids, poison, guarded, seed) | {"book": book.name})
                runs.append(json.loads(path.read_text()))
            figures = [statistics.mean(r["base_perplexity"] for r in runs)]
            for name in ("repeated_4grams", "distinct_2", "compression_ratio"):
                figures.append(statistics.mean(r["repetition"][name] for r in runs))
            learnt = [statistics.mean(sum(bool(u[1]) == good for u in r["updates"]) for r in runs) for good in (1, 0)]
            cells = [f"{figures[0]:.1f}", *(f"{f:.3f}" for f in figures[1:]), *(f"{n:.1f}" for n in learnt)]
            print(f"| {poison} | {'on' if guarded else 'off'} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
