"""Documents with their translations, and a model's way through one: a row a paragraph.

reference   prompt ─► the model's own translation, which leaves nothing behind ─► the true one: scored, learnt
own         prompt ─► the model's own translation, which stays and is learnt
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from templora.errors import OptionError
from templora.evals.measuring.cell import Cell
from templora.evals.measuring.run import Run, predicted, update
from templora.evals.measuring.texts import chosen, visible_files
from templora.events import ChunkLearned, ChunkScored, Event
from templora.sampling import SamplingParams
from templora.text import ours
from templora.translation.in_memory import InMemory
from templora.translation.inline.characters import one_line
from templora.translation.languages import Language, detect, language
from templora.translation.pairs import Aligned, Pair, read_pairs
from templora.translation.sentences import Unit, join
from templora.translation.settled import SettledTerms
from templora.translation.template import read_template
from templora.translation.term_finder import TermFinder
from templora.translation.translator import Translated, Translator

if TYPE_CHECKING:
    from templora.decoding.preview import Preview
    from templora.session.session import Session

ENDINGS = (".jsonl", ".json")
# Where the source's language is not said: of so much of the document it is told.
_SAMPLE = 20_000


@dataclass(frozen=True)
class Parallel:
    """One document and its translation, as a text to evaluate on.

    Args:
        name: for tables.
        source: code of its language.
        aligned: its pairs, each on one line.
    """

    name: str
    source: str
    aligned: Aligned

    def pairs(self, most: int | None) -> Sequence[Pair]:
        return self.aligned.pairs[:most]

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(json.dumps(asdict(self.aligned), sort_keys=True).encode()).hexdigest()


def find_pairs(where: str, to: str, from_: str | None = None, names: Sequence[str] = ()) -> list[Parallel]:
    """The documents in a file of aligned pairs, or in all of a folder's.

    Args:
        where: a .jsonl or .json as `read_pairs` reads it, or a folder of them.
        to, from_: languages, by code or name; `from_` is found out if left out.
        names: which documents; all without.

    Raises:
        OptionError: no such file, no pairs in it, no such language or document.
        TextError: one cannot be read, or a pair has an empty side; names the line.
    """
    target, source = language("to", to), language("from", from_) if from_ else None
    files = visible_files(where, ENDINGS)
    if not files:
        raise OptionError("books", f"{where} holds no aligned pairs ({', '.join(ENDINGS)})")
    found: dict[str, Parallel] = {}
    for file in files:
        for aligned in read_pairs(str(file), source, target):
            name = aligned.name or file.stem
            if name in found:
                raise OptionError("books", f"{where} holds the document {name!r} twice")
            found[name] = _parallel(name, aligned, source.code if source else None)
    return [found[name] for name in chosen("document", names, found)]


def _parallel(name: str, aligned: Aligned, source: str | None) -> Parallel:
    def clean(pairs: Sequence[Pair]) -> tuple[Pair, ...]:
        return tuple(Pair(one_line(p.source).strip(), one_line(p.target).strip(), p.document, p.chapter) for p in pairs)

    made = Aligned(aligned.name, clean(aligned.pairs), aligned.cuts, clean(aligned.before))
    if source is None:
        told = detect("\n".join(pair.source for pair in made.pairs)[:_SAMPLE])
        if told is None:
            raise OptionError("from", f"the language of {name} could not be told: say which it is")
        source = told.code
    return Parallel(name, source, made)


class _Text(InMemory):
    """A known translation is scored before it is learnt."""

    def __init__(self, session: Session, adapted: bool, score: bool) -> None:
        super().__init__(session)
        self._adapted, self._score = adapted, score

    def preview(self, prompt: str = "", *, base: bool = False, **how: Any) -> Preview:
        return super().preview(prompt, base=base or not self._adapted, **how)

    def absorb_parts(
        self, parts: Sequence[tuple[str, bool]], *, mark: Mapping[str, Any] | None = None
    ) -> Iterator[Event]:
        session = self.session
        for text, learn in parts:
            if learn and self._score:
                base = session.config.mixture or not self._adapted
                yield from session.score_ids(session.encode(text), base=base, adapted=self._adapted)
            else:
                yield from session.absorb_events(text, learn=learn)


def translate(run: Run, cell: Cell, text: Parallel) -> tuple[int, list[str]]:
    """Takes a document through a session, paragraph by paragraph; how many tokens went through, and no notes.

    A row has `source`, `reference`, `own` (what the model wrote), `by` (which attempt), `whole` (it ended it itself),
    `doubt` (why it is not learnt), `learnt` (what became of the chunks that ended with it), `seconds`, and, of the
    reference, `targets`, `words`, `bytes` and NLLs, 0 where it is not revealed. Chunks also end where a chapter does,
    or a segment of GuoFeng's.
    """
    assert cell.translation is not None
    how, session = cell.translation, run.session
    before, pairs = text.aligned.before, text.pairs(how.pairs)
    reference, target, first = how.targets == "reference", language("to", how.target), len(before)
    template = read_template(how.template, session.engine.tokenizer, language("from", how.source).name, target.name)
    known = {i: pair.target for i, pair in enumerate(pairs, first)} if reference else {}
    sources = [pair.source for pair in (*before, *pairs)]
    translator = Translator(
        _Text(session, cell.source.reads, reference),
        template,
        target,
        SamplingParams(temperature=0.0, repetition_penalty=how.repetition_penalty, stop=template.stop),
        known=known,
        ask=True,
        settled=SettledTerms(TermFinder(sources)) if how.terms == "settle" else None,
    )
    parts: dict[int, list[Unit]] = {}
    for unit in translator.units(sources):
        parts.setdefault(unit.segment, []).append(unit)
    kept = run.go_on(lambda meta: meta["session"])
    done, made = kept["done"], [_translated(**values) for values in kept.get("made", ())]
    if not done:
        shown = ours("")
        for i, pair in enumerate(before):
            shown = shown + template.prompt(pair.source, {}, first=i == 0) + template.answer(pair.target)
        session.absorb(shown, learn=False)
        made += [Translated(parts[i][0], p.target, p.target, known=True) for i, p in enumerate(before)]
    for one in made:
        translator.remember(one)
    for number, pair in enumerate(pairs[done:], done):
        began = time.perf_counter()
        with run.timed():
            ended = [session.close_chunk()] if number in text.aligned.cuts else []
            events = [*ended, *translator.run(parts[first + number])]
            run.rows.append(_row(pair, events, target) | {"seconds": time.perf_counter() - began})
        made += [event for event in events if isinstance(event, Translated)]
        run.keep(number + 1, len(pairs), session=session.tokens, made=[asdict(one) for one in made])
    return len(session.tokens), []


def _translated(unit: dict[str, Any], **rest: Any) -> Translated:
    return Translated(Unit(**unit), **rest)


def _row(pair: Pair, events: Sequence[Event | Translated | None], language: Language) -> dict[str, Any]:
    """What became of a pair."""
    parts = [event for event in events if isinstance(event, Translated)]
    scored = [predicted(event) for event in events if isinstance(event, ChunkScored)]
    return {
        "source": pair.source,
        "reference": pair.target,
        "own": join([part.own for part in parts], language),
        "whole": all(part.whole for part in parts),
        "by": parts[-1].by,
        "doubt": next((part.doubt for part in parts if part.doubt), ""),
        **{name: math.fsum(part[name] for part in scored) for name in (scored[0] if scored else ("nll",))},
        "targets": sum(part["targets"] for part in scored),
        "words": len(pair.target.split()) if scored else 0,
        "bytes": len(pair.target.encode()) if scored else 0,
        "learnt": [
            {"start": event.start, "end": event.end, **update(event)}
            for event in events
            if isinstance(event, ChunkLearned)
        ],
    }
