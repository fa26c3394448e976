#!/usr/bin/env python3
"""How much better does a model translate when it learns the translation so far? Chinese to English, in paragraphs.

    experiments/translation.py PAIRS.jsonl [--model gemma-3-270m] [--pairs 300] [--targets reference] [--context 1]

PAIRS.jsonl has an object a line, with `zh` and `en`, in order. `reference`: each paragraph is translated by base and
adapter, then the true translation is revealed, scored by both, and learnt with its chunk (the paper's setting).
`own`: nothing is revealed; the model learns what it wrote, and a second run of the same does not learn. `--context 1`:
before a chunk, as many tokens are seen as a chunk has (k1); 3: three times as many.

One file a run in results/translation/; a run that is there is only shown again.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import templora
from templora.engine import Engine
from templora.events import ChunkLearned, ChunkScored, Event
from templora.report import describe_device, source_commit, write_json
from templora.sampling import SamplingParams
from templora.session import Session
from templora.translation import consistency, quality, terms
from templora.translation.characters import one_line
from templora.translation.template import read_template
from templora.translation.translator import Translated, Translator
from templora.translation.units import Unit

RESULTS = Path(__file__).parent.parent / "results" / "translation"
CHUNK = 128
DRAWS = 1000


class Text:
    """A session as a translator wants it, that scores what is given to be learnt and asks the base too."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self.scored: list[ChunkScored] = []
        self.base = ""

    @property
    def open_tokens(self) -> int:
        return self._session.open_tokens

    def absorb_events(self, text: str, *, learn: bool = True, mark: Mapping[str, Any] | None = None) -> Iterator[Event]:
        events = self._session.score_events(text) if learn else self._session.absorb_events(text, learn=False)
        for event in events:
            if isinstance(event, ChunkScored):
                self.scored.append(event)
            yield event

    def stream(self, prompt: str = "", *, mark: Mapping[str, Any] | None = None, **how: Any) -> Iterator[Event]:
        yield from self._session.stream(prompt, **how)

    def suggest(self, **how: Any) -> str:
        self.base = one_line(self._session.suggest(base=True, **how)).strip()
        return self._session.suggest(**how)

    def close_chunk(self) -> ChunkLearned | None:
        return self._session.close_chunk()


def run(engine: Engine, pairs: Sequence[Mapping[str, str]], reference: bool, context: int, learning: str) -> Any:
    """Translates all pairs in one session: rows, and what it took."""
    config = engine.config(chunk_size=CHUNK, window=CHUNK * (1 + context), learning=learning)
    template = read_template(None, engine.tokenizer, "Chinese", "English")
    sampling = SamplingParams(temperature=0, repetition_penalty=1.0, stop=template.stop)
    rows: list[dict[str, Any]] = []
    learnt = rejected = 0
    began = time.perf_counter()
    with engine.session(config) as session:
        text = Text(session)
        translator = Translator(
            text,
            template,
            lambda s: len(session.encode(s)),
            session.decode,
            CHUNK,
            sampling,
            known={i: pair["en"] for i, pair in enumerate(pairs)} if reference else {},
        )
        for event in translator.run([Unit(i, 0, pair["zh"], True) for i, pair in enumerate(pairs)]):
            if isinstance(event, ChunkLearned):
                learnt, rejected = learnt + event.committed, rejected + (not event.committed)
            if not isinstance(event, Translated):
                continue
            pair = pairs[event.unit.segment]
            row = {"source": pair["zh"], "reference": pair["en"], "own": event.own, "whole": event.whole}
            if reference:
                row |= {"base": text.base, "tokens": sum(e.targets for e in text.scored)}
                row["base_nll"] = sum(e.base_nll or 0.0 for e in text.scored)
                row["adapted_nll"] = sum(e.adapted_nll or 0.0 for e in text.scored)
                mixed = [e.mixed_nll for e in text.scored]
                row["mixed_nll"] = math.fsum(m for m in mixed if m is not None)
            text.scored = []
            rows.append(row)
            if len(rows) % 25 == 0:
                print(f"{len(rows)}/{len(pairs)}, {time.perf_counter() - began:.0f} s", flush=True)
        spent = {"seconds": time.perf_counter() - began, "phases": session.meter.seconds, "flops": session.meter.flops}
        made = {"config": session.config.to_dict(), "learnt": learnt, "rejected": rejected, **spent}
    return rows, made


def perplexity(rows: Sequence[Mapping[str, Any]], key: str) -> dict[str, Any]:
    """Of the reference, and its change against the base's with a 95 % interval (paired bootstrap over paragraphs)."""

    def change(drawn: Sequence[Mapping[str, Any]]) -> float:
        return math.expm1(sum(r[key] - r["base_nll"] for r in drawn) / sum(r["tokens"] for r in drawn))

    rng = random.Random(12345)
    found = sorted(change(rng.choices(rows, k=len(rows))) for _ in range(DRAWS))
    value = math.exp(sum(r[key] for r in rows) / sum(r["tokens"] for r in rows))
    return {"perplexity": value, "change": change(rows), "interval": [found[24], found[974]]}


def figures(rows: Sequence[Mapping[str, Any]], base: Sequence[str], reference: bool) -> dict[str, Any]:
    sources, own = [r["source"] for r in rows], [r["own"] for r in rows]
    found: dict[str, Any] = {"quality": quality.compare(base, own, [r["reference"] for r in rows], "en")}
    listed = terms.source_terms(sources)
    found["terms"] = consistency.compare(sources, base, own, listed)
    if reference:
        keys = ("base_nll", "adapted_nll", "mixed_nll")
        found["perplexity"] = {key.removesuffix("_nll"): perplexity(rows, key) for key in keys}
        quarters = [rows[i * len(rows) // 4 : (i + 1) * len(rows) // 4] for i in range(4)]
        found["by_position"] = [{key: perplexity(part, key) for key in keys[1:]} for part in quarters]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pairs_file", type=Path)
    parser.add_argument("--model", default="gemma-3-270m")
    parser.add_argument("--pairs", type=int, default=300)
    parser.add_argument("--targets", choices=("reference", "own"), default="reference")
    parser.add_argument("--context", type=int, default=1)
    asked = parser.parse_args()
    path = RESULTS / f"{asked.targets}--k{asked.context}--{asked.pairs}.json"
    if not path.exists():
        lines = asked.pairs_file.read_text(encoding="utf-8").splitlines()[: asked.pairs]
        pairs = [{key: one_line(json.loads(line)[key]).strip() for key in ("zh", "en")} for line in lines]
        engine = templora.load(asked.model)
        reference = asked.targets == "reference"
        rows, made = run(engine, pairs, reference, asked.context, "cascaded")
        base, plain = [r["base"] for r in rows] if reference else [], None
        if not reference:
            others, plain = run(engine, pairs, False, asked.context, "off")
            base = [r["own"] for r in others]
            rows = [{**row, "base": b} for row, b in zip(rows, base, strict=True)]
        document = {
            "file": asked.pairs_file.name,
            "model": engine.name,
            "run": made,
            "run_without_learning": plain,
            **figures(rows, base, reference),
            "rows": rows,
            "device": describe_device(engine.model.device, engine.threads),
            "versions": engine.versions() | {"commit": source_commit()},
        }
        RESULTS.mkdir(parents=True, exist_ok=True)
        write_json(path, document)
    document = json.loads(path.read_text())
    for name, value in document.get("perplexity", {}).items():
        print(f"perplexity, {name}: {value['perplexity']:.3f}, {value['change']:+.1%} {value['interval']}")
    for name in ("bleu", "chrf", "ter"):
        q = document["quality"][name]
        print(f"{name}: {q['baseline']:.2f} → {q['system']:.2f}, {q['change_percent']:+.1f} % {q['change_interval']}")
    kept = document["terms"]
    print(f"terms: {kept['baseline']['share']} → {kept['system']['share']}, {kept['interval']}")
    print(f"updates: {document['run']['learnt']} learnt, {document['run']['rejected']} not")


if __name__ == "__main__":
    main()
