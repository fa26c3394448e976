#!/usr/bin/env python3
"""An end of text that the model wants while writing goes on: what keeps the story best?

    experiments/ends.py --books DIR --texts A,B [--absorb 20000] [--write 1000] [--seeds 1] [--out results/ends.json]

Each book is read and learnt, then gone on with in three ways: ends are never chosen (as `write` does it), an end is
answered with a new paragraph, or with a scene break ("* * *"). Counted are the ends that were wanted, and the figures
of `templora eval continuation`.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from typing import Any

import templora
from templora.evals.continuation.figures import figures
from templora.evals.continuation.voice import Voices
from templora.evals.measuring.texts import find_texts
from templora.events import Finished
from templora.reports.names import Book
from templora.reports.run_report import describe_device, source_commit, write_json
from templora.text import decode, encode

WAYS = {"forbidden": None, "new paragraph": "\n\n", "scene break": "\n\n* * *\n\n"}


def written(session: Any, most: int, answer: str | None) -> tuple[list[int], int]:
    """(tokens of a text that is written, ends that were wanted on the way)."""
    start, ends = len(session.tokens), 0
    while (left := most - (len(session.tokens) - start)) > 0:
        for event in session.stream(max_new_tokens=left, stop_at_end=answer is not None):
            if isinstance(event, Finished) and event.reason == "stop":
                ends += 1
                session.absorb(answer or "")
    return session.tokens[start : start + most], ends


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--books", required=True)
    parser.add_argument("--texts", required=True)
    parser.add_argument("--absorb", type=int, default=20_000)
    parser.add_argument("--write", type=int, default=1000)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--out", default="results/ends.json")
    arguments = parser.parse_args()
    engine = templora.load(weights="int4")
    config, tokenizer = engine.config(), engine.tokenizer
    texts = find_texts(arguments.books, arguments.texts.split(","))
    ids = {text.name: encode(tokenizer, text.content, special=False) for text in texts}
    later = {name: decode(tokenizer, of[arguments.absorb :][:100_000]) for name, of in ids.items()}
    voices = Voices(later, size=arguments.write * 3 // 4)
    rows: list[dict[str, Any]] = []
    for text in texts:
        read = ids[text.name][: arguments.absorb]
        book, window = Book(decode(tokenizer, read), text.content), decode(tokenizer, read[-config.window :])
        with engine.session(config) as session:
            list(session.absorb_ids(read))
            tokens, begun = list(session.tokens), session.snapshot()
            for seed in range(1, arguments.seeds + 1):
                for way, answer in WAYS.items():
                    session.restore(tokens, begun)
                    session.reseed(seed)
                    made, ends = written(session, arguments.write, answer)
                    said = decode(tokenizer, made)
                    found = figures(said, made, window, book, text.name, voices)
                    rows.append({"book": text.name, "seed": seed, "way": way, "ends": ends, "text": said, **found})
                    print(text.name, seed, way, ends, found["voice"], found["repeated_4grams"], flush=True)
        document = {
            "device": describe_device(engine.model.device, engine.threads),
            "versions": engine.versions() | {"commit": source_commit()},
            "model": engine.name,
            "config": config.to_dict(),
            "absorbed": arguments.absorb,
            "written": arguments.write,
            "ways": {way: summary([row for row in rows if row["way"] == way]) for way in WAYS},
            "rows": rows,
        }
        write_json(Path(arguments.out), document)


def summary(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Means over texts."""

    def per_1000(name: str) -> float:
        return statistics.fmean(1000 * sum(row[name].values()) / max(1, row["words"]) for row in rows)

    plain = {name: statistics.fmean(row[name] for row in rows) for name in ("ends", "voice", "sentences", "distinct_2")}
    counted = {name: per_1000(name) for name in ("carried_names", "invented")}
    return plain | counted | {"repeated_4grams": statistics.fmean(row["repeated_4grams"] for row in rows)}


if __name__ == "__main__":
    main()
