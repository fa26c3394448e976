"""`Translator`: paragraphs, one after another, through a session that learns each translation after its source.

    paragraph ─► draft ─► nothing speaks against it: read with its source, to be learnt
                     └──► doubtful: the bare base is asked, then the same again less freely; what stays doubtful is
                          shown to the reader, and neither read on nor learnt
    one of 4  ─► the bare base is asked as well, and the better one is taken (`control`)
    terms     ─► are asked for alone, settled where readings agree, and from then on wanted in drafts (`settled`)
    chunk     ─► as many paragraphs as fit `chunk_size`; then the adapter learns their translations; it ends with one
                 that somebody corrected

Where a translation is known (`reference`, `corrections`), the model's own is asked for first and leaves nothing behind;
what is read and learnt is the known one. (Temp-LoRA, arXiv 2401.11504, section 3.2: discourse-level translation.)
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

from templora.errors import TextError
from templora.events import ChunkLearned, Event
from templora.metrics import Likelihood
from templora.sampling import SamplingParams, Wanted
from templora.text import Framed, ours
from templora.thoughts import without_thoughts
from templora.translation.inline.characters import one_line
from templora.translation.languages import Language
from templora.translation.quality import control
from templora.translation.quality.doubts import Doubts
from templora.translation.sentences import Unit, units
from templora.translation.settled import SettledTerms, no_terms
from templora.translation.template import Template

if TYPE_CHECKING:
    from templora.decoding.preview import Preview
    from templora.session.session import Session

# A paragraph is split where its source alone takes more than this share of a chunk.
_MAX_SOURCE = 1 / 3
# A translation ends at the latest after this many tokens for each token of the source, and these besides.
_MAX_FOR_EACH, _MAX_BESIDES = 3, 32
# With at least this penalty a doubtful one is asked for again: what stands in the source, and an end, are less likely.
_PENALTY = 1.3
# If of so many paragraphs in a row the bare base does so many better than the adapter, learning stops.
_LAST, _HARMED = 16, 4

# Attempts: the adapter's (the base's, where nothing is learnt), the base's, the first one's again with the penalty. And
# who needs none: somebody who corrects.
FIRST, BASE, AGAIN, AUTHOR = "first", "base", "again", "author"
# What a session's log holds of a `Translated`, beside its unit.
KEPT = ("target", "own", "whole", "known", "doubt", "by", "control", "readings", "settled")
# A term alone is a few words; what stands around them is none.
_MAX_READING, _EDGES = 16, ' .。:："“”'


class Text(Protocol):
    """What a translator asks of a session: `SavedSession` has it."""

    @property
    def session(self) -> Session: ...

    @property
    def open_tokens(self) -> int: ...

    def preview(self, prompt: str = "", **how: Any) -> Preview: ...

    def likelihood(self, prompt: str, text: str) -> Likelihood: ...

    def absorb_parts(
        self, parts: Sequence[tuple[str, bool]], *, mark: Mapping[str, Any] | None = None
    ) -> Iterator[Event]: ...

    def mark(self, data: Mapping[str, Any]) -> None: ...

    def close_chunk(self) -> ChunkLearned | None: ...


@dataclass(frozen=True)
class Translated:
    """A unit is translated.

    Args:
        unit: which.
        target: its translation.
        own: what the model wrote; differs from `target` where that was known.
        whole: the model ended it itself; else it was cut off at its longest.
        known: the target was known.
        doubt: why it is neither read on nor learnt; empty if it is.
        by: which attempt it is: `first`, `base` or `again`; or `author`, if somebody corrected it.
        control: how much more of its source the model's own lost than the base's, where both were asked.
        readings: what terms that it has are called alone, in order.
        settled: terms that are settled by it, with their renderings.
    """

    unit: Unit
    target: str
    own: str
    whole: bool = True
    known: bool = False
    doubt: str = ""
    by: str = FIRST
    control: float | None = None
    readings: Mapping[str, str] = field(default_factory=dict)
    settled: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of_mark(cls, unit: Unit, mark: Mapping[str, Any]) -> Translated:
        """As a log has it; older ones know less."""
        return cls(unit, **{name: mark[name] for name in KEPT if name in mark})


class Translator:
    """Translates through one session.

    Args:
        text: the session.
        template: how paragraphs stand in it.
        language: that is translated to.
        sampling: how words are chosen.
        terms: the glossary's terms in a paragraph, with their translations.
        known: translations of whole paragraphs that are known.
        authors: numbers of those of them that somebody corrected: each is learnt at once.
        ask: whether the model is asked for its own where one is known.
        settled: the document's terms, which are settled on the way; None: none are.
        each: told each piece of text that is drafted; what it raises ends the run, and the paragraph is not begun.

    Attributes:
        stopped: learning has stopped, because it did harm.
    """

    def __init__(
        self,
        text: Text,
        template: Template,
        language: Language,
        sampling: SamplingParams,
        *,
        terms: Callable[[str], Mapping[str, str]] = no_terms,
        known: Mapping[int, str] | None = None,
        authors: Container[int] = (),
        ask: bool = False,
        settled: SettledTerms | None = None,
        each: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._text, self._template, self._sampling = text, template, sampling
        self._terms, self._known, self._ask, self._each = terms, known or {}, ask, each
        self._chunk_size = text.session.config.chunk_size
        self._learns = text.session.config.learning != "off"
        self._settled, self._authors = settled, authors
        self._doubts = Doubts(language)
        self._begun = False  # whether the session has read any
        self._corrected = False  # whether the last unit is still to be learnt at once
        self._helped: deque[bool] = deque(maxlen=_LAST)  # of the last units, whether the base helped out
        self._control, self._asked = control.Control(), 0
        self.stopped = False

    def units(self, sources: Sequence[str]) -> list[Unit]:
        """The paragraphs in order, in parts where they are too long; those whose translation is known stay whole."""
        return units(sources, lambda text: self._count(text) <= self._chunk_size * _MAX_SOURCE, self._known)

    def run(self, left: Sequence[Unit]) -> Iterator[Event | Translated]:
        """Translates the units that are left.

        Yields:
            The session's events; `Translated` after each unit, when all of it is in the session, or in its log.
        """
        if self._corrected:  # it was stopped in between
            yield from self._close()
        for unit in left:
            expected = self._known.get(unit.segment, unit.source)  # a translation is about as long as its source
            size = self._count(self._prompt(unit) + self._template.answer(expected))
            if self._begun and self._text.open_tokens and self._text.open_tokens + size > self._chunk_size:
                yield from self._close()
            made = self._reveal(unit) if unit.segment in self._known else self._translate(unit)
            yield from self._take(self._read_terms(made))
            if self._corrected:
                yield from self._close()

    def _close(self) -> Iterator[ChunkLearned]:
        """Learns what is open."""
        self._corrected = False
        learnt = self._text.close_chunk()
        if learnt:
            yield learnt

    def remember(self, made: Translated) -> None:
        """Takes note of a unit that is done."""
        unit, settled = made.unit, self._settled
        self._corrected = made.by == AUTHOR
        if not made.doubt:
            self._begun = True
            self._doubts.add(unit.source, made.target)
        if settled and made.doubt:
            settled.asked(made.readings)
        elif settled:
            if made.by == AUTHOR:
                settled.corrected(unit.segment, unit.source, made.target)
            settled.take(unit.segment, unit.source, made.target, made.readings, made.settled)
        if not made.known:
            self._asked += 1
            self._helped.append(made.by == BASE and made.control is None)
            if made.control is not None:
                self._control.add(made.control)
            self.stopped = self.stopped or (self._learns and (sum(self._helped) >= _HARMED or self._control.harm))

    def _count(self, text: str) -> int:
        return len(self._text.session.encode(text))

    def _prompt(self, unit: Unit) -> str:
        return self._template.prompt(unit.source, self._terms(unit.source), first=not self._begun)

    def _draft(self, unit: Unit, *, base: bool, penalty: float = 1.0) -> tuple[str, bool]:
        """What the model makes of a unit, and whether it ended that itself."""
        sampling = self._sampling
        if penalty > sampling.repetition_penalty:
            sampling = replace(sampling, repetition_penalty=penalty)
        draft = self._text.preview(
            self._prompt(unit),
            max_new_tokens=_MAX_FOR_EACH * self._count(unit.source) + _MAX_BESIDES,
            sampling=sampling,
            wanted=self._wanted(unit),
            base=base,
            each=self._each,
        )
        return one_line(without_thoughts(draft.text, unit.source)).strip(), draft.ended

    # Terms -----------------------------------------------------------------------------------------------------

    def _wanted(self, unit: Unit) -> dict[str, Wanted]:
        """Words that should occur in a translation; those of the glossary firmly."""
        settled = self._settled.found(unit.segment, unit.source) if self._settled else ()
        given = {word: Wanted(word, firmly=True) for word in self._terms(unit.source).values()}
        return {one.rendering: Wanted(one.stem) for one in settled} | given

    def _read_terms(self, made: Translated) -> Translated:
        """A unit with what its terms are called alone, and those that are settled by that."""
        unit, settled = made.unit, self._settled
        if not settled or not self._begun or made.doubt:
            return made
        before = ours("")
        if made.by == AUTHOR:
            settled.corrected(unit.segment, unit.source, made.target)
        if made.known:
            before = self._prompt(unit) + self._template.answer(made.target)
        open_ = settled.open(unit.segment, unit.source)
        readings = {one.term: self._alone(self._template, one.text, before) for one in open_}
        way_back = self._template.way_back or self._template

        def back(rendering: str) -> str:
            return self._alone(way_back, rendering, before)

        agreed = settled.agree(unit.segment, unit.source, made.target, readings, back)
        return replace(made, readings=readings, settled=agreed)

    def _alone(self, template: Template, term: str, before: Framed) -> str:
        """What the model makes of a term.

        Args:
            template: of the direction.
            before: what it reads besides the session's text.
        """
        draft = self._text.preview(
            before + template.prompt(term, {}, first=False),
            max_new_tokens=_MAX_READING,
            sampling=replace(self._sampling, temperature=0.0),
            base=self.stopped,
            each=self._each,
        )
        return one_line(without_thoughts(draft.text, term)).strip(_EDGES) if draft.ended else ""

    # Attempts --------------------------------------------------------------------------------------------------

    def _reveal(self, unit: Unit) -> Translated:
        """A translation that is known, after the model's own, if that is wanted."""
        target = self._known[unit.segment]
        own = self._draft(unit, base=self.stopped)[0] if self._ask else target
        return Translated(unit, target, own, known=True, by=AUTHOR if unit.segment in self._authors else FIRST)

    def _translate(self, unit: Unit) -> Translated:
        found: list[Translated] = []
        for by in (FIRST, BASE, AGAIN):
            if by == BASE and (self.stopped or not self._learns):
                continue  # it is the same
            base = by == BASE or self.stopped
            text, whole = self._draft(unit, base=base, penalty=_PENALTY if by == AGAIN else 1.0)
            doubt = self._doubts.about(unit.source, text, whole)
            found.append(Translated(unit, text, text, whole, doubt=doubt, by=by))
            if not doubt:
                return self._controlled(found[0]) if by == FIRST else found[-1]
        # The reader gets the first that is whole, if there is one with words in it.
        return max(found, key=lambda made: (bool(made.target), made.whole))

    def _controlled(self, own: Translated) -> Translated:
        """The better of the model's own and the base's, if it is time to compare them."""
        if self.stopped or not self._learns or (self._asked + 1) % control.EVERY:
            return own
        unit = own.unit
        text, whole = self._draft(unit, base=True)
        if self._doubts.about(unit.source, text, whole):
            return own
        try:  # how much more of the source the model's own loses than the base's
            same = text == own.target
            difference = 0.0 if same else self._lost(unit.source, own.target) - self._lost(unit.source, text)
        except TextError:  # source and translation do not fit the model at once
            return own
        if difference <= 0:
            return replace(own, control=difference)
        return Translated(unit, text, text, by=BASE, control=difference)

    def _lost(self, source: str, target: str) -> float:
        """Nats a token that a source has left, given a translation."""
        found = self._text.likelihood(self._template.back(target), f" {source}")
        return found.nll / found.tokens

    def _take(self, made: Translated) -> Iterator[Event | Translated]:
        """Has the session read a unit; with it in the log is what became of it."""
        unit = made.unit
        mark = {"segment": unit.segment, "part": unit.part, "last": unit.last, "at": len(self._text.session.tokens)}
        mark |= {name: getattr(made, name) for name in KEPT}
        events: list[Event] = []
        if made.doubt:
            self._text.mark(mark)
        else:
            parts = [(self._prompt(unit), False), (self._template.answer(made.target), not self.stopped)]
            # Not one by one: whoever stops listening in between finds the unit in the log, whole.
            events = list(self._text.absorb_parts(parts, mark=mark))
        self.remember(made)
        yield made
        yield from events
