"""`Translation`: one document on its way into another language, in a session on disk.

What has been done is read from the marks in the session's log, so that whatever was killed goes on from there:

    {"translation": {...}}                               what is translated, and how
    {"segment": 3, "part": 0, "target": "...", ...}      a unit is done; if it is read on, with the tokens around this
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from templora.errors import OptionError, StoreError
from templora.events import Event
from templora.sampling import SamplingParams
from templora.store.history import History
from templora.store.saved import SavedSession
from templora.store.store import SessionStore
from templora.translation.languages import Language
from templora.translation.sentences import join
from templora.translation.settled import Settled, SettledTerms, no_terms
from templora.translation.template import Template
from templora.translation.term_finder import TermFinder
from templora.translation.translator import AUTHOR, Translated, Translator


@dataclass(frozen=True)
class Paragraph:
    """A paragraph is translated.

    Args:
        segment: its number, from 0.
        target: what stands in the translation.
        own: what the model wrote itself.
        whole: nothing of it was cut off at its longest.
        known: the target was given, not written.
        author: somebody corrected it.
        doubt: why it was neither read on nor learnt, or a part of it; empty if it was.
    """

    segment: int
    target: str
    own: str
    whole: bool
    known: bool
    doubt: str = ""
    author: bool = False


@dataclass
class Done:
    """What the marks of a session say.

    Attributes:
        about: what is translated, and how; None: not said yet.
        paragraphs: those that are done.
        parts: of the next one, those that are done.
        units: all parts that are done, in order.
        starts: where each paragraph begins in the text, the one under way included.
    """

    about: Mapping[str, Any] | None = None
    paragraphs: list[Paragraph] = field(default_factory=list)
    parts: list[Mapping[str, Any]] = field(default_factory=list)
    units: list[Mapping[str, Any]] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)

    def add(self, mark: Mapping[str, Any], language: Language) -> None:
        """Takes note of a unit that is done."""
        if mark["part"] == 0:
            self.starts.append(mark["at"])
        self.parts.append(mark)
        self.units.append(mark)
        if mark["last"]:
            self.paragraphs.append(_paragraph(self.parts, language))
            self.parts = []


def what_is_done(history: History, target: Language) -> Done:
    """Reads the marks of a session.

    Raises:
        StoreError: they make no sense.
    """
    done = Done()
    try:
        for _, mark in history.marks:
            if "translation" in mark:
                done.about = mark["translation"]
            else:
                done.add(mark, target)
    except (KeyError, TypeError) as error:
        raise StoreError(f"the session's log is not that of a translation: {error!r}") from error
    return done


def _paragraph(parts: Sequence[Mapping[str, Any]], language: Language) -> Paragraph:
    target, own = (join([part[key] for part in parts], language) for key in ("target", "own"))
    whole, known = (all(part[key] for part in parts) for key in ("whole", "known"))
    doubt = next((part["doubt"] for part in parts if part["doubt"]), "")
    author = any(part.get("by") == AUTHOR for part in parts)
    return Paragraph(int(parts[0]["segment"]), target, own, whole, known, doubt, author)


class Translation:
    """A document's paragraphs and what has become of them so far.

    Args:
        saved: the session.
        sources: the paragraphs' texts.
        target: the language they are translated into.
        template: how they stand in the session's text.
        sampling: how words are chosen.
        settle: whether the document's terms are settled on the way (`settled`).
        how: `terms`, `known`, `authors`, `ask` and `each`, as for `Translator`.
    """

    def __init__(
        self,
        saved: SavedSession,
        sources: Sequence[str],
        target: Language,
        template: Template,
        sampling: SamplingParams,
        *,
        settle: bool = True,
        **how: Any,
    ) -> None:
        self._saved, self._sources, self._target = saved, sources, target
        self._settled = SettledTerms(TermFinder(sources), how.get("terms", no_terms)) if settle else None
        self._translator = Translator(saved, template, target, sampling, settled=self._settled, **how)
        self._units = self._translator.units(sources)
        self._done = what_is_done(saved.history, target)
        of = {(unit.segment, unit.part): unit for unit in self._units}
        for mark in self._done.units:
            unit = of.get((mark["segment"], mark["part"]))
            if unit:  # one that was corrected since may have had other parts
                self._translator.remember(Translated.of_mark(unit, mark))

    @property
    def paragraphs(self) -> list[Paragraph]:
        """Those that are done."""
        return self._done.paragraphs

    @property
    def settled(self) -> dict[str, Settled]:
        """The terms that are settled, by term."""
        return self._settled.all if self._settled else {}

    def settled_in(self, segment: int) -> list[Settled]:
        """Those that stand in a paragraph."""
        return self._settled.found(segment, self._sources[segment]) if self._settled else []

    @property
    def stopped(self) -> bool:
        """Whether learning has stopped, because it did harm."""
        return self._translator.stopped

    def run(self, most: int | None = None) -> Iterator[Event | Paragraph]:
        """Translates what is left, of the first `most` paragraphs alone if that is given.

        Yields:
            The session's events, and a `Paragraph` when one is done.
        """
        at = len(self._done.paragraphs), len(self._done.parts)
        left = [unit for unit in self._units if (unit.segment, unit.part) >= at]
        for event in self._translator.run([unit for unit in left if most is None or unit.segment < most]):
            if not isinstance(event, Translated):
                yield event
                continue
            self._done.add(self._saved.history.marks[-1][1], self._target)  # it is in the log, with what became of it
            if event.unit.last:
                yield self.paragraphs[-1]


def digest(sources: Sequence[str]) -> str:
    """SHA-256 of the paragraphs, to know the document again."""
    return hashlib.sha256(json.dumps(list(sources)).encode()).hexdigest()


def check_same(about: Mapping[str, Any], before: Mapping[str, Any]) -> None:
    """Raises OptionError if a session translates something else, or otherwise, than is asked for."""
    if before.get("stop") == "":  # as it was said when there could be one alone
        before = {**before, "stop": []}
    for option, value in about.items():
        if option in before and before[option] != value:
            if option == "document":
                raise OptionError("resume", "the document has changed since its translation began; begin a new one")
            raise OptionError(option, f"the translation began with {before[option]}, and keeps that; not {value}")


def corrected(done: Done, corrections: Mapping[int, str]) -> tuple[dict[int, str], set[int], int | None]:
    """What corrections change.

    Args:
        done: what there is.
        corrections: targets by paragraph; where they are what is there already, nobody has corrected anything.

    Returns:
        What is known from now on, by paragraph; those that somebody corrected; and the first one that must be done
        again, None if there is none.
    """
    known = {p.segment: p.target for p in done.paragraphs if p.known}
    authors = {p.segment for p in done.paragraphs if p.author}
    first = None
    for segment, target in sorted(corrections.items()):
        there = done.paragraphs[segment].target if segment < len(done.paragraphs) else None
        if there == target:
            continue
        known[segment] = target
        authors.add(segment)
        if segment < len(done.starts) and first is None:
            first = segment
    if first is not None:  # what comes before it stays as it is
        known |= {p.segment: p.target for p in done.paragraphs[:first]}
    return known, authors, first


def go_back(store: SessionStore, name: str, target: Language, segment: int) -> None:
    """Takes a session back to the last chunk that ends before a paragraph, between two paragraphs."""
    history = store.history(name)
    starts = what_is_done(history, target).starts
    ends = [end for end in history.chunks if end <= starts[segment] and end in starts]
    store.rewind(name, history.chunks.index(ends[-1]) + 1 if ends else 0)
