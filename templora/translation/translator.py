"""`Translator`: paragraphs, one after another, through a session that learns each translation after its source.

    paragraph ─► prompt: read, not learnt ─► translation: written, or known ─► its end: given
    chunk     ─► as many paragraphs as fit `chunk_size`; then the adapter learns their translations, but for those that
                 something speaks against

Where a translation is known (`reference`, `corrections`), the model's own is asked for first and leaves nothing behind;
what is learnt is the known one. (Temp-LoRA, arXiv 2401.11504, section 3.2: discourse-level translation.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from templora.events import ChunkLearned, Event, Finished, TokenEvent
from templora.sampling import SamplingParams
from templora.translation.characters import one_line
from templora.translation.doubts import Doubts
from templora.translation.template import Template
from templora.translation.units import Unit

# A paragraph is split where its source alone takes more than this share of a chunk.
LONGEST_SOURCE = 1 / 3
# A translation ends at the latest after this many tokens for each token of the source, and these besides.
_MOST_FOR_EACH, _MOST_BESIDES = 3, 32


class Text(Protocol):
    """What a translator asks of a session: `SavedSession` has it."""

    @property
    def tokens(self) -> Sequence[int]: ...

    @property
    def open_tokens(self) -> int: ...

    def absorb_events(
        self, text: str, *, learn: bool = True, mark: Mapping[str, Any] | None = None
    ) -> Iterator[Event]: ...

    def stream(
        self,
        prompt: str = "",
        *,
        max_new_tokens: int = 256,
        sampling: SamplingParams | None = None,
        stop_at_end: bool = False,
        learn_prompt: bool = True,
        wanted: Sequence[str] = (),
        mark: Mapping[str, Any] | None = None,
    ) -> Iterator[Event]: ...

    def suggest(self, **how: Any) -> str: ...

    def mask_from(self, first: int) -> None: ...

    def close_chunk(self) -> ChunkLearned | None: ...


@dataclass(frozen=True)
class Translated:
    """A unit is translated.

    Args:
        unit: which.
        target: what it is in the text, and learnt.
        own: what the model wrote; differs from `target` where that was known.
        whole: the model ended it itself; else it was cut off at its longest.
        known: the target was known.
        doubt: why it is not learnt; empty if it is.
    """

    unit: Unit
    target: str
    own: str
    whole: bool = True
    known: bool = False
    doubt: str = ""


@dataclass(frozen=True)
class Begun:
    """What there is already of a unit whose prompt is in the text.

    Args:
        written: tokens of its translation.
        pending: the rest, if it was cut short.
        whole: as in `Translated`, if it was not.
    """

    written: list[int]
    pending: Iterator[Event] | None
    whole: bool


class Translator:
    """Translates through one session.

    Args:
        text: the session.
        template: how paragraphs stand in it.
        count: how many tokens a text has.
        decode: the text of tokens.
        chunk_size: of the session.
        sampling: how words are chosen.
        terms: the glossary's terms in a paragraph, with their translations.
        known: translations of whole paragraphs that are known.
        ask: whether the model is asked for its own where one is known.
        doubts: what keeps the model's own translations from being learnt; knows those before.
    """

    def __init__(
        self,
        text: Text,
        template: Template,
        count: Callable[[str], int],
        decode: Callable[[Sequence[int]], str],
        chunk_size: int,
        sampling: SamplingParams,
        *,
        terms: Callable[[str], Mapping[str, str]] = lambda _: {},
        known: Mapping[int, str] | None = None,
        ask: bool = True,
        doubts: Doubts | None = None,
    ) -> None:
        self._doubts = doubts or Doubts()
        self._text, self._template = text, template
        self._count, self._decode, self._chunk_size, self._sampling = count, decode, chunk_size, sampling
        self._terms, self._known, self._ask = terms, known or {}, ask

    def run(self, units: Sequence[Unit], begun: Begun | None = None) -> Iterator[Event | Translated]:
        """Translates `units`, the first of which may be `begun`.

        Yields:
            The session's events; `Translated` after each unit, when it is in the text with its end.
        """
        for unit in units:
            if begun:
                yield from self._finish(unit, begun)
                begun = None
            else:
                yield from self._close_if_full(unit)
                yield from self._translate(unit)

    def _close_if_full(self, unit: Unit) -> Iterator[Event]:
        """Has the chunk learnt if the next unit will not fit it."""
        expected = self._known.get(unit.segment, unit.source)  # a translation is about as long as its source
        size = self._count(self._prompt(unit) + self._template.answer(expected))
        if not _is_first(unit) and self._text.open_tokens and self._text.open_tokens + size > self._chunk_size:
            learnt = self._text.close_chunk()
            if learnt:
                yield learnt

    def _prompt(self, unit: Unit) -> str:
        return self._template.prompt(unit.source, self._terms(unit.source), first=_is_first(unit))

    def _translate(self, unit: Unit) -> Iterator[Event | Translated]:
        prompt, mark = self._prompt(unit), {"segment": unit.segment, "part": unit.part}
        if unit.segment in self._known:
            yield from self._text.absorb_events(prompt, learn=False, mark=mark)
            yield from self._reveal(unit)
            return
        events = self._text.stream(
            prompt,
            max_new_tokens=self._most(unit),
            sampling=self._sampling,
            stop_at_end=True,
            learn_prompt=False,
            wanted=self._wanted(unit),
            mark=mark,
        )
        yield from self._write(unit, events, [])

    def _wanted(self, unit: Unit) -> list[str]:
        return list(dict.fromkeys(self._terms(unit.source).values()))

    def _most(self, unit: Unit) -> int:
        return _MOST_FOR_EACH * self._count(unit.source) + _MOST_BESIDES

    def _finish(self, unit: Unit, begun: Begun) -> Iterator[Event | Translated]:
        if unit.segment in self._known:
            yield from self._reveal(unit)
        elif begun.pending is not None:
            yield from self._write(unit, begun.pending, begun.written)
        else:
            yield from self._judge(unit, begun.written, begun.whole)

    def _write(self, unit: Unit, events: Iterator[Event], before: Sequence[int]) -> Iterator[Event | Translated]:
        written, whole = list(before), True
        for event in events:
            if isinstance(event, TokenEvent):
                written.append(event.token)
            elif isinstance(event, Finished):
                whole = event.reason == "stop"
            yield event
        yield from self._judge(unit, written, whole)

    def _judge(self, unit: Unit, written: Sequence[int], whole: bool) -> Iterator[Event | Translated]:
        """The end of what the model wrote itself, which is learnt unless something speaks against it."""
        text = one_line(self._decode(written)).strip()
        doubt = self._doubts.about(unit.source, text, whole)
        if doubt:
            self._text.mask_from(len(self._text.tokens) - len(written))
        yield from self._end(Translated(unit, text, text, whole, doubt=doubt))

    def _reveal(self, unit: Unit) -> Iterator[Event | Translated]:
        """A translation that is known, after the model's own, if that is wanted."""
        target = own = self._known[unit.segment]
        if self._ask:
            how = {"max_new_tokens": self._most(unit), "sampling": self._sampling, "wanted": self._wanted(unit)}
            own = one_line(self._text.suggest(**how)).strip()
        yield from self._end(Translated(unit, target, own, known=True))

    def _end(self, made: Translated) -> Iterator[Event | Translated]:
        """Gives what is still missing of the unit; with it in the log is what became of the unit."""
        missing = self._template.answer(made.target) if made.known else self._template.end
        mark = {
            "segment": made.unit.segment,
            "part": made.unit.part,
            "last": made.unit.last,
            "target": made.target,
            "own": made.own,
            "whole": made.whole,
            "known": made.known,
            "doubt": made.doubt,
        }
        # Not one by one: whoever stops listening in between finds the unit in the log, whole.
        events = list(self._text.absorb_events(missing, learn=not made.doubt, mark=mark))
        yield made
        yield from events


def _is_first(unit: Unit) -> bool:
    return unit.segment == unit.part == 0
