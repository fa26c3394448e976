"""`Held`: what is written, held back while it may be the beginning of a text at which writing stops.

    stop "THE END"     … he said: │ THE EV         it cannot be one any more, and is shown
                                  │ THE END        it is one, and is taken back
                                  └ held

Stop texts are looked for in what is written alone, wherever they begin and end in tokens. The one that begins first
counts, which need not be the first to be complete.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from templora.events import Event, TokenEvent, TokenLogprobs
from templora.text import TextStream, decode


@dataclass(frozen=True)
class _Waiting:
    """An event that nobody has seen yet.

    Args:
        event: it.
        end: where the text that it completes ends, counted in characters from the first that was written.
        incomplete: a character is, there.
    """

    event: Event
    end: int
    incomplete: bool


@dataclass(frozen=True)
class Cut:
    """Where writing stops.

    Args:
        tokens: how many of those that wait are to be taken back.
        broken: text of the last tokens before those, whose character is not complete.
        rest: what the first token that is taken back says before the stop text.
    """

    tokens: int
    broken: str
    rest: str


class Held:
    """The events of writing, in order.

    Args:
        tokenizer: of the model.
        before: the last few ids of the text that is gone on from.
        stops: texts at which writing stops.
        unshown: how many of the last ids are of a character that has not been shown, since it is incomplete.

    Attributes:
        unshown: the same, of what has been shown here.
    """

    def __init__(self, tokenizer: Any, before: Sequence[int], stops: Sequence[str] = (), unshown: int = 0) -> None:
        shown = len(before) - unshown
        self._tokenizer, self._stops, self.unshown = tokenizer, stops, unshown
        self._text, self._edge = TextStream(tokenizer, before[:shown]), list(before[-4:])  # ids before what waits
        for token in before[shown:]:
            self._text.push(token)
        self._waiting: deque[_Waiting] = deque()
        self._begun, self._said = 0, ""  # where the text of what waits begins, and what it is

    def token(self, index: int, token: int, logprobs: TokenLogprobs | None = None) -> None:
        """Takes in a token that was written, at this position."""
        piece = self._text.push(token)
        self._said += piece
        self.other(TokenEvent(index, token, piece, logprobs))

    def other(self, event: Event) -> None:
        """Takes in what happened after that."""
        self._waiting.append(_Waiting(event, self._begun + len(self._said), self._text.incomplete))

    def shown(self, *, last: bool = False) -> Iterator[Event]:
        """The events that need not wait any longer; with `last`, since nothing comes after them."""
        free = self._begun + self._look(last)[0]
        whole = last or not self._stops
        ready = [i for i, w in enumerate(self._waiting, 1) if w.end <= free and (whole or not w.incomplete)]
        for _ in range(ready[-1] if ready else 0):
            waiting = self._waiting.popleft()
            self._said, self._begun = self._said[waiting.end - self._begun :], waiting.end
            if isinstance(waiting.event, TokenEvent):
                self._edge = [*self._edge[-3:], waiting.event.token]
                self.unshown = self.unshown + 1 if waiting.incomplete else 0
            yield waiting.event

    def cut(self, *, last: bool = False) -> Cut | None:
        """Takes back the tokens of a stop text, once no other can begin before it; with `last`, since nothing comes
        any more. None while there is none."""
        at, found = self._look(last)
        if not found:
            return None
        ids = [waiting.event.token for waiting in self._waiting if isinstance(waiting.event, TokenEvent)]
        known = decode(self._tokenizer, self._edge)
        kept, said = 0, ""
        for many in range(1, len(ids) + 1):
            text = decode(self._tokenizer, [*self._edge, *ids[:many]])[len(known) :]
            if self._said[:at].startswith(text):  # not so where a character of the stop text has begun
                kept, said = many, text
        taken = len(ids) - kept
        for _ in range(taken):
            while not isinstance(self._waiting.pop().event, TokenEvent):
                pass
        whole = self._waiting[-1].end - self._begun if self._waiting else 0
        rest, self._said = self._said[len(said) : at], said[:whole]
        return Cut(taken, said[whole:], rest)

    def flush(self) -> str:
        """The text of a character that was never completed."""
        return self._text.flush()

    def _look(self, last: bool) -> tuple[int, bool]:
        """Up to where what is said is no part of a stop text, and whether one is there."""
        for at in range(len(self._said)):
            if any(self._said.startswith(stop, at) for stop in self._stops):
                return at, True
            if not last and any(stop.startswith(self._said[at:]) for stop in self._stops):
                return at, False
        return len(self._said), False
