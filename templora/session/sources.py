"""Where the next tokens of a text come from: they are given, given and scored, or sampled.

The loop (`Loop`) is the same for all. It asks a source to `take` what comes next, never beyond the end of the open
chunk; closes the chunk if it is full; and has the source `pass_on` what became of it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import torch

from templora.decoding.plans import Plan, Token, Unheard, Work
from templora.decoding.stopping import Cut, Held
from templora.events import (
    END,
    Absorbed,
    ChunkLearned,
    ChunkScored,
    Event,
    Finished,
    FinishReason,
    TokenEvent,
    TokenLogprobs,
)
from templora.sampling import Sampler, entropy_of
from templora.text import spelled

if TYPE_CHECKING:
    from templora.session.loop import Loop


_Drawn: TypeAlias = tuple[int, float, TokenLogprobs | None]  # as of `Sampled._choose`


class Source(Protocol):
    """Where tokens come from."""

    @property
    def goes_on(self) -> bool:
        """Whether there are more."""

    def take(self) -> Plan[None]:
        """Appends what comes next, of the open chunk at most."""

    def pass_on(self, learned: deque[ChunkLearned | ChunkScored]) -> Iterator[Event]:
        """What to say after that, and of what became of chunks meanwhile."""


class Given:
    """Tokens that are given.

    Args:
        loop: of the session.
        ids: they.
        learn: whether they are in the loss.
    """

    def __init__(self, loop: Loop, ids: Sequence[int], learn: bool) -> None:
        self._loop, self._text, self._ids, self._learn = loop, loop.text, ids, learn
        self._done = 0

    @property
    def goes_on(self) -> bool:
        return self._done < len(self._ids)

    def take(self) -> Plan[None]:
        piece = self._ids[self._done : self._done + self._text.room]
        self._text.give(piece, learn=self._learn)
        self._done += len(piece)
        yield from ()

    def pass_on(self, learned: deque[ChunkLearned | ChunkScored]) -> Iterator[Event]:
        yield from told(learned)
        yield Absorbed(self._done, len(self._ids))


class Scored(Given):
    """Tokens that are given, each chunk predicted before it is learnt.

    Args:
        loop, ids: as for `Given`.
        base, adapted: whose predictions are wanted.
    """

    def __init__(self, loop: Loop, ids: Sequence[int], *, base: bool, adapted: bool) -> None:
        super().__init__(loop, ids, True)
        self._base, self._adapted = base, adapted

    def take(self) -> Plan[None]:
        piece = list(self._ids[self._done : self._done + self._text.room])
        events, scorer = self._loop.cycle.events, self._loop.scorer
        # Told of together with what was done, so that neither is lost without the other.
        yield Work(lambda: events.append(scorer.given(piece, base=self._base, adapted=self._adapted)), "score")
        self._done += len(piece)
        yield from told(events)


class Sampled:
    """Tokens that the model writes.

    Args:
        loop: of the session.
        tokenizer: of the model.
        sampler: chooses them.
        ends: those that end the text.
        most: how many.
        score: whether what is written is scored, before it is learnt.
        known: what the first of them are known to be.
    """

    def __init__(
        self,
        loop: Loop,
        tokenizer: Any,
        sampler: Sampler,
        ends: Sequence[int],
        most: int,
        score: bool,
        known: Sequence[int],
    ) -> None:
        self._loop, self._text, self._unseen = loop, loop.text, loop.unseen
        self._tokenizer, self._sampler = tokenizer, sampler
        self._ends, self._most, self._score, self._known = {*ends, END}, most, score, deque(known)
        self._ahead: deque[tuple[int, _Drawn]] = deque()  # what known tokens were read to give, and at which places
        self._read_to = 0  # where the cache ended then
        self._taken_back = self._unseen.taken_back
        self._held = self._begin_held()
        self._prepared: tuple[int, int] | None = None
        self._reason: FinishReason = "length"
        self._written = self._shown = 0
        self._last = False  # nothing comes after the newest token
        self._cut: Cut | None = None
        self._rest: deque[int] | None = None  # after a stop text: what its first token says before it, and an end
        self._text_left = ""

    def _begin_held(self) -> Held:
        unshown = self._unseen.unshown(len(self._text))
        return Held(self._tokenizer, self._text.tokens[-4 - unshown :], self._sampler.params.stops, unshown)

    @property
    def goes_on(self) -> bool:
        if self._rest is not None:
            return bool(self._rest)
        return self._reason == "length" and self._wants_more

    @property
    def _wants_more(self) -> bool:
        return bool(self._known) or self._written < self._most

    def take(self) -> Plan[None]:
        if self._rest is not None:
            # A run that knows what was written ends in the same way.
            token, _ = yield from self._draw(self._rest)
            yield from self._before_close(last=token == END)
            return
        token, logprobs = yield from self._draw(self._known)
        if token in self._ends:
            self._reason = "stop"
        else:
            self._held.token(len(self._text) - 1, token, logprobs)
            self._written += 1
        self._last = self._reason == "stop" or not self._wants_more
        self._cut = self._held.cut(last=self._last)
        if self._cut:
            yield from self._end_at(self._cut)
            return
        yield from self._show()
        if self._unseen.taken_back == self._taken_back:
            yield from self._before_close(last=self._last)

    def _draw(self, known: deque[int]) -> Plan[tuple[int, TokenLogprobs | None]]:
        """The next token, appended if it is no end; the first of those that are known, if any are."""
        text, readers = self._text, self._loop.readers
        if self._sampler.params.stops:
            self._unseen.begin(len(text))
        if not self._is_ahead(known):
            if self._prepared is None or not readers.is_prepared(self._prepared):
                yield Work(self._prepare, "read")
                self._prepared = readers.prepared_for
            if len(known) > 1 and readers.adapted.rows > 1:
                yield Work(lambda: self._read_known(known), "read")
        if self._is_ahead(known):
            _, (token, nats, logprobs) = self._ahead.popleft()
        else:
            forced = known[0] if known else None
            token, nats, logprobs = yield Token(
                readers.adapted, text.newest, lambda logits: self._choose(logits, forced)
            )
        if known:
            known.popleft()
        if token in self._ends:
            text.end()
        else:
            self._loop.cycle.written.append(len(text), nats)
            text.give([token], learn=self._loop.config.learn_written)
        return token, logprobs

    def _is_ahead(self, known: Sequence[int]) -> bool:
        """Whether what comes next has been read, and nothing was changed since."""
        if not (self._ahead and known):
            return False
        at, (token, *_) = self._ahead[0]
        readers = self._loop.readers
        same = (at, token, self._prepared) == (len(self._text), known[0], readers.prepared_for)
        return same and readers.adapted.cache.next_token == self._read_to

    def _read_known(self, known: Sequence[int]) -> None:
        """Reads what the first known tokens follow, some of them in one pass, to the bits of one after another."""
        reader = self._loop.readers.adapted
        some = list(islice(known, min(self._text.room, reader.rows)))
        some = some[: 1 + next((i for i, token in enumerate(some) if token in self._ends), len(some))]
        with reader.meter.phase("decode"):
            # The last of them is read when there is something after it.
            found = reader.runner.step([reader.row(token) for token in (self._text.newest[-1], *some[:-1])])
            drawn = [self._choose(logits, token) for logits, token in zip(found, some, strict=True)]
        self._ahead = deque(enumerate(drawn, len(self._text)))
        self._read_to = reader.cache.next_token

    def _prepare(self) -> None:
        self._loop.readers.prepare(self._loop.readers.adapted)
        self._loop.readers.adapted.ready()

    def _choose(self, logits: torch.Tensor, known: int | None) -> _Drawn:
        """The token that comes next, chosen unless it is known; the entropy of what is predicted; how likely the token
        was, if asked for."""
        text, token = self._text, known
        if token is None:
            token = self._sampler(logits, text.tokens[-self._loop.config.window :], len(text), text.ends)
        logprobs = self._sampler.logprobs(logits, token)
        return token, entropy_of(logits) if self._loop.config.min_entropy else 0.0, logprobs

    def _before_close(self, last: bool) -> Plan[None]:
        """What is to be done before the open chunk is closed, if it is full, and at the last token."""
        full = not self._text.room
        if full and self._unseen.since is not None:
            before = yield Work(self._loop.snapshot)
            self._unseen.crossing(len(self._text), before)
        if self._score and (full or last):
            yield Work(self._score_written, "score")
            for event in told(self._loop.cycle.events):
                yield from self._say(event)

    def _score_written(self) -> None:
        if scored := self._loop.scorer.written():
            self._loop.cycle.events.append(scored)

    def pass_on(self, learned: deque[ChunkLearned | ChunkScored]) -> Iterator[Event]:
        for event in told(learned):
            yield from self._say(event)
        self._begin_anew()

    def _begin_anew(self) -> None:
        """What was not shown, and another verb, called meanwhile, took back, is written anew."""
        if self._unseen.taken_back != self._taken_back and self._rest is None:
            self._held, self._taken_back = self._begin_held(), self._unseen.taken_back
            self._reason, self._written, self._last = "length", self._shown, False

    def _say(self, event: ChunkLearned | ChunkScored) -> Iterator[Event]:
        """An event, when everything that was written before it is shown."""
        if self._rest is not None:
            try:
                yield event
            except Unheard:
                self._loop.cycle.events.appendleft(event)
                raise
            return
        self._begin_anew()
        self._held.other(event)
        self._unseen.wait(len(self._text), event)
        yield from self._show()

    def _show(self) -> Iterator[Event]:
        """What need not wait any longer."""
        unseen = self._unseen
        for event in self._held.shown(last=self._last):
            if isinstance(event, TokenEvent):
                self._shown += 1
                unseen.seen(event.index + 1, self._held.unshown)
            elif isinstance(event, ChunkLearned | ChunkScored) and not unseen.tell(event):
                continue
            try:
                yield event
            except Unheard:
                if isinstance(event, ChunkLearned | ChunkScored):
                    unseen.wait(len(self._text), event, first=True)
                raise
            if unseen.taken_back != self._taken_back:
                return
        unseen.catch_up(len(self._text))

    def _end_at(self, cut: Cut) -> Plan[None]:
        """Takes a stop text back. What its first token says before it is written anew, in tokens of its own."""
        yield Work(lambda: self._loop.take_back(len(self._text) - cut.tokens))
        self._unseen.whole()
        self._taken_back, self._last = self._unseen.taken_back, True
        yield from self._show()
        ids = spelled(self._tokenizer, self._text.tokens[-4:], cut.rest)
        self._rest = deque([*ids, END])
        self._written, self._reason = self._written - cut.tokens + len(ids), "stop"
        self._text_left = cut.broken + (cut.rest if ids else "")

    def finish(self) -> Iterator[Event]:
        """The end of writing."""
        if self._rest is None:
            self._text_left = self._held.flush()
            self._unseen.whole()
        else:
            self._unseen.all_seen()
        yield Finished(self._written, self._reason, self._text_left)


def told(learned: deque[ChunkLearned | ChunkScored]) -> Iterator[ChunkLearned | ChunkScored]:
    """What became of chunks; each is forgotten when it is handed over."""
    while learned:
        event = learned.popleft()
        try:
            yield event
        except Unheard:
            learned.appendleft(event)
            raise
