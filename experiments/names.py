#!/usr/bin/env python3
"""How likely are names that have left the window, where the book itself has them?

    experiments/names.py --books DIR --texts A,B [--absorb 20000] [--after 4000] [--neural-cache 65536] [--out FILE]

Each book is read and learnt; then, over its next tokens, which nobody learns, base and adapter, and the adapter with a
neural cache, say how likely the first token of each name is that stands in what was read, in no other book, and nowhere
in the window. A sampler with `min_p` can choose it only where it is at least that share as likely as the likeliest
token.
"""

from __future__ import annotations

import argparse
import math
import statistics
from pathlib import Path
from typing import Any

import torch

import templora
from templora.evals.measuring.texts import find_texts
from templora.reports.names import names, words
from templora.reports.run_report import describe_device, source_commit, write_json
from templora.text import decode, encode

_PIECE = 256


def looked_for(tokenizer: Any, before: list[int], piece: list[int], wanted: set[str]) -> list[tuple[int, str]]:
    """(index in the piece, name) of the first token of each name that is wanted."""
    found, text = [], decode(tokenizer, before[-8:])
    starts = []
    for index in range(len(piece)):
        starts.append(len(text))
        text = decode(tokenizer, [*before[-8:], *piece[: index + 1]])
    for word in words(text):
        if word.text in wanted and word.start >= starts[0]:
            index = max(i for i, start in enumerate(starts) if start <= word.start)
            found.append((index, word.text))
    return found


def likelihoods(session: Any, tokens: list[int], first: int) -> dict[str, torch.Tensor]:
    """fp32 log-probabilities [tokens − first, vocabulary] of tokens[first:], read and not learnt."""
    adapted, base = session.readers
    model, cache, said = session.engine.model, session.loop.neural_cache, {}
    with torch.no_grad():
        for who, reader in (("base", base), ("adapter", adapted)):
            reader.prepare(tokens[:first], session.loop.text.chunk_start, session.version)
            hidden = reader.feed(tokens[first - 1 : -1], logits=len(tokens) - first)
            said[who] = model.logits(hidden).float().log_softmax(-1)
        if cache is not None:
            rows = zip(said["adapter"], hidden, strict=True)
            said["with a neural cache"] = torch.stack([cache.mixed(logits, state) for logits, state in rows])
    return said


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--books", required=True)
    parser.add_argument("--texts", required=True)
    parser.add_argument("--absorb", type=int, default=20_000)
    parser.add_argument("--after", type=int, default=4_000)
    parser.add_argument("--neural-cache", type=int, default=65_536)
    parser.add_argument("--out", default="results/names.json")
    arguments = parser.parse_args()
    engine = templora.load(weights="int4")
    config, tokenizer = engine.config(neural_cache=arguments.neural_cache), engine.tokenizer
    texts = find_texts(arguments.books, arguments.texts.split(","))
    vocabularies = {text.name: {word.text.lower() for word in words(text.content)} for text in texts}
    rows: list[dict[str, Any]] = []
    for text in texts:
        ids = encode(tokenizer, text.content, special=False)
        others = {word for name, known in vocabularies.items() if name != text.name for word in known}
        own = {name for name in names(decode(tokenizer, ids[: arguments.absorb])) if name.lower() not in others}
        with engine.session(config) as session:
            list(session.absorb_ids(ids[: arguments.absorb]))
            start = arguments.absorb
            while start < arguments.absorb + arguments.after:
                size = min(_PIECE, config.chunk_size - session.open_tokens)  # a window has room up to a chunk's end
                before, piece = ids[:start], ids[start : start + size]
                near = {word.text for word in words(decode(tokenizer, before[-config.window :]))}
                wanted = looked_for(tokenizer, before, piece, own - near)
                tokens = [*session.tokens, *piece]
                first = len(session.tokens)
                said = likelihoods(session, tokens, first) if wanted else {}
                for index, name in wanted:
                    row: dict[str, Any] = {"book": text.name, "name": name, "at": start + index}
                    for who, by in said.items():
                        own_nats, most = float(by[index, piece[index]]), float(by[index].max())
                        rank = int((by[index] > own_nats).sum())
                        row[who] = {"nats": -own_nats, "of_likeliest": math.exp(own_nats - most), "rank": rank}
                    rows.append(row)
                list(session.absorb_ids(piece, learn=False))
                start += size
        print(text.name, len(rows), flush=True)
    write_json(
        Path(arguments.out),
        {
            "device": describe_device(engine.model.device, engine.threads),
            "versions": engine.versions() | {"commit": source_commit()},
            "model": engine.name,
            "config": config.to_dict(),
            "absorbed": arguments.absorb,
            "after": arguments.after,
            "names": len(rows),
            **{who: summary([row[who] for row in rows]) for who in rows[0] if isinstance(rows[0][who], dict)},
            "rows": rows,
        },
    )


def summary(rows: list[dict[str, float]]) -> dict[str, float]:
    shares = {
        f"min_p {p} lets pass": statistics.fmean(row["of_likeliest"] >= p for row in rows) for p in (0.1, 0.05, 0.02)
    }
    middle = {
        f"median {name}": statistics.median(row[name] for row in rows) for name in ("nats", "of_likeliest", "rank")
    }
    return middle | {"mean nats": statistics.fmean(row["nats"] for row in rows)} | shares


if __name__ == "__main__":
    main()
