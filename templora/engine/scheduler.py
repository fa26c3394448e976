"""`Scheduler`: the plans of many sessions, met by one thread that owns the engine.

    inbox ─► runs ─► Token needs: rows ─► one decode pass, a token for each ─► answers ─► events ─► outboxes
                     Work needs: queue ─► one at a time ──┐
                     ▲                                    │ whenever a slice is used up, between two layers
                     └── a decode pass of the others ◄────┘

What a session writes, learns and reports does not depend on any of this (docs/architecture.md, determinism): a row has
the same bits whatever it is decoded beside, passes of many tokens are nobody else's, and adapters change at token
counts, never by the clock. So the order here is free, and is chosen for latency: tokens first, then short work, then
learning.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, Literal, TypeAlias, TypeVar

from templora.decoding.plans import Plan, Token, Work, end_early, next_logits
from templora.errors import ModelError
from templora.events import Event

_R = TypeVar("_R")
_Said: TypeAlias = tuple[Literal["event", "result", "error"], Any]

# Seconds of a piece of work before the others get a token.
SLICE = 0.02
# Which work goes first; what has waited longer than this goes before all, in seconds.
_ORDER = {"read": 0, "other": 0, "score": 1, "learn": 2}
_PATIENCE = 10.0
# Seconds that a pass waits for the callers of the rows of the last one, who are about to ask for more: rows that went
# apart once would be decoded apart for ever.
_COMPANY = 0.002
# Seconds that a caller who leaves waits for the end of what was begun.
_LEAVING = 5.0


class Cancelled(BaseException):
    """Raised within a piece of work whose caller does not want it any more."""


class Run:
    """A plan among those of a scheduler.

    Args:
        plan: it.
        ahead: events that may lie in the outbox unread; at 0 nothing is done that nobody asked for.
        of: whose it is: while one run of a session is between two events, others of that session wait. None: nobody's.
        wake: tells the scheduler that something is to be done.

    Attributes:
        outbox: what came of it, in order; at last its result, or an error.
        need: what it waits for; None while it waits for room in the outbox, and at its end.
        since: when that began.
        heard: events that its caller has got.
        cancelled: its caller does not listen any more.
        ended: nothing comes after what lies in the outbox.
    """

    def __init__(self, plan: Plan[Any], ahead: int, of: object, wake: Callable[[Run], None]) -> None:
        self.outbox: SimpleQueue[_Said] = SimpleQueue()
        self.need: Token | Work | None = None
        self.since = 0.0
        self.heard = 0
        self.cancelled = self.ended = False
        self.of = of
        self._plan, self._wake = plan, wake
        self._room, self._said = ahead + 1, 0  # events that may be in the outbox and before; those that were

    def more(self) -> None:
        """One more event is wanted: another was read."""
        self._room += 1
        self._wake(self)

    def cancel(self) -> None:
        """What it does is not wanted any more; it ends at its next token or, in a long pass, at the next layer."""
        self.cancelled = True
        self._wake(self)

    @property
    def has_room(self) -> bool:
        """Whether it may go on, waiting for nothing but room in the outbox until now."""
        return not self.ended and self.need is None and self._said < self._room

    def advance(self, now: float, answer: Any = None, error: BaseException | None = None) -> None:
        """Goes on until it needs something, the outbox is full, or it ends."""
        self.need, self.since = None, now
        try:
            said = self._plan.send(answer) if error is None else self._plan.throw(error)
            while not isinstance(said, Token | Work):
                self._said += 1
                self.outbox.put(("event", said))
                if self._said >= self._room:
                    return
                said = self._plan.send(None)
            self.need = said
        except StopIteration as end:
            self._end("result", end.value)
        except BaseException as failed:
            self._end("error", failed)

    def close(self, error: BaseException | None = None) -> None:
        """Ends it where it is. An event that lies in the outbox, at which it waits, is told another time."""
        try:
            end_early(self._plan, self._said == self.heard)
        except BaseException as failed:
            error = failed
        self._end("error", error or Cancelled())

    def _end(self, kind: Literal["result", "error"], value: Any) -> None:
        self.need = None
        if not self.ended:
            self.ended = True
            self.outbox.put((kind, value))


class Scheduler:
    """Meets the needs of many plans. `step` does the next thing; `start` has a thread do so until `stop`.

    Args:
        exclusive: inside, the model is the caller's alone.
        slice_seconds: how long a piece of work may keep the others from their next tokens, between two layers.
        clock: seconds.

    Attributes:
        runs: those that have not ended.
    """

    def __init__(
        self,
        exclusive: Callable[[], AbstractContextManager[object]] = nullcontext,
        slice_seconds: float = SLICE,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.runs: list[Run] = []
        self._exclusive, self._slice, self._clock = exclusive, slice_seconds, clock
        self._inbox: SimpleQueue[Run | None] = SimpleQueue()
        self._later: list[Callable[[], Any]] = []
        self._working: Run | None = None  # whose work is being done
        self._last: Sequence[Run] = ()  # who got a token last
        self._nested, self._slice_end = False, 0.0
        self._owner: int | None = None
        self._thread: threading.Thread | None = None
        self._door, self._closed, self._ended = threading.Lock(), False, threading.Event()

    @property
    def alive(self) -> bool:
        """Whether it meets needs still."""
        return not self._ended.is_set()

    @property
    def learns(self) -> bool:
        """Whether somebody's chunk is being learnt, which the others' tokens wait for, slice by slice."""
        working = self._working
        return working is not None and isinstance(need := working.need, Work) and need.kind == "learn"

    # For callers, in whichever thread --------------------------------------------------------------------------

    def submit(self, plan: Plan[Any], of: object = None, ahead: int = 0) -> Run:
        """Has a plan met, `of` a session.

        Raises:
            ModelError: it has been stopped.
        """
        run = Run(plan, ahead, of, self._inbox.put)
        with self._door:
            if self._closed:
                raise _stopped()
            self._inbox.put(run)
        return run

    def events(self, plan: Plan[_R], of: object = None, ahead: int = 0) -> Generator[Event, None, _R]:
        """The events of a plan that is met here, and its result. Who closes this cancels it, and waits for its end."""
        run, ended = None, False
        try:
            run = self.submit(plan, of, ahead)
            while True:
                kind, value = run.outbox.get()
                ended = kind != "event"
                if kind == "error":
                    raise value
                if kind == "result":
                    result: _R = value
                    return result
                run.heard += 1
                yield value
                run.more()
        finally:
            if run is not None and not ended:
                run.cancel()
                # Collected in a thread that the owner waits for, it would wait for ever; that it is cancelled will do.
                with contextlib.suppress(Empty):
                    while not self.is_here and run.outbox.get(timeout=_LEAVING)[0] == "event":
                        pass

    @property
    def is_here(self) -> bool:
        """Whether the calling thread is the one that owns the engine."""
        return threading.get_ident() == self._owner

    # The owner's -----------------------------------------------------------------------------------------------

    def step(self) -> bool:
        """One token for each row that is ready, then one piece of work; False if nobody wants anything."""
        self._owner = threading.get_ident()
        self._admit()
        decoded = self._decode()
        return self._work() or decoded

    def between(self, whole: bool = False) -> None:
        """Called between two pieces of long work: the others get their tokens meanwhile. What is not wanted any more
        ends here, unless it must be `whole`."""
        if self._working is None or self._nested or not self.is_here:
            return
        if (self._working.cancelled or self._closed) and not whole:
            raise Cancelled
        if self._clock() >= self._slice_end:
            self._nested = True
            try:
                self._admit()
                self._decode()
            finally:
                self._nested = False
                self._slice_end = self._clock() + self._slice

    def order_rows(self, ready: Sequence[Run]) -> Sequence[Run]:
        """Which of the runs that wait for a token get one now, and in which order; asked again after each pass.
        Whoever waits longest is first."""
        return sorted(ready, key=lambda run: run.since)

    def choose_work(self, waiting: Sequence[Run]) -> Run:
        """Whose work is done next: reads before learning, and nobody waits for ever."""
        now = self._clock()

        def place(run: Run) -> tuple[int, float]:
            assert isinstance(run.need, Work)
            return -1 if now - run.since > _PATIENCE else _ORDER[run.need.kind], run.since

        return min(waiting, key=place)

    def _admit(self) -> None:
        """Takes in what callers have said meanwhile."""
        with contextlib.suppress(Empty):
            while True:
                self._take(self._inbox.get_nowait())

    def _take(self, run: Run | None) -> None:
        if run is None or run.ended:
            return
        if run not in self.runs:
            self.runs.append(run)
            run.since = self._clock()
        if run is self._working:
            return  # which sees by itself that it is cancelled
        if run.cancelled:
            run.close()
        self._go_on()

    def _go_on(self) -> None:
        """Has runs go on that waited for room in their outboxes, or for another run of their session."""
        for run in list(self.runs):
            if run.has_room and not self._is_in_use(run):
                self._advance(run)
        self.runs = [run for run in self.runs if not run.ended]

    def _is_in_use(self, run: Run) -> bool:
        """Whether another run of its session is between two events."""
        same = (other for other in self.runs if other is not run and run.of is not None and other.of is run.of)
        return any(other.need is not None or other is self._working for other in same)

    def _decode(self) -> bool:
        """One token for each row that is ready, or becomes so meanwhile: whoever asks a little late keeps its turn.

        Within a piece of work, for rows that do not go through modules.
        """
        served: list[Run] = []
        last, self._last = self._last, ()  # once: a caller who has paused is not waited for again
        if len(last) > 1:
            self._gather(last)
        while True:
            ready = [
                run
                for run in self.runs
                if isinstance(run.need, Token) and run not in served and (not self._nested or run.need.reader.is_apart)
            ]
            order = self.order_rows(ready) if ready else ()
            if not order:
                return bool(served or ready)
            rows = _one_pass(order)
            self._pass(rows)
            served += rows
            self._last = served
            self._go_on()
            self._admit()

    def _pass(self, rows: Sequence[Run]) -> None:
        """A token for each of some runs that wait for one."""
        needs = [run.need for run in rows if isinstance(run.need, Token)]
        try:
            found = next_logits(needs) if len(needs) > 1 else None
        except Exception:  # it is one row's, and the others have theirs
            found = None
        for i, (run, need) in enumerate(zip(rows, needs, strict=True)):
            self._meet(run, need.meet if found is None else partial(need.answer, found[i]))

    def _gather(self, last: Sequence[Run]) -> None:
        """Waits a little for the callers of those who got a token last."""
        until = time.perf_counter() + _COMPANY
        while any(not run.ended and run.need is None and not run.has_room for run in last):
            try:
                self._take(self._inbox.get(timeout=max(0.0, until - time.perf_counter())))
            except Empty:
                return

    def _work(self) -> bool:
        waiting = [run for run in self.runs if isinstance(run.need, Work)]
        if not waiting:
            return self._work_ahead()
        run = self.choose_work(waiting)
        need = run.need
        assert isinstance(need, Work)
        self._slice_end = self._clock() + self._slice
        self._working = run
        try:
            self._meet(run, need.do)
        finally:
            self._working = None
        self._go_on()
        return True

    def _work_ahead(self) -> bool:
        """Something that will be asked for, when there is nothing else to do."""
        if not self._later:
            return False
        do = self._later.pop(0)
        self._working, self._slice_end = _nobody(), self._clock() + self._slice
        try:
            with contextlib.suppress(Exception):  # it is done again when its result is needed, and raises again
                do()
        finally:
            self._working = None
        return True

    def _meet(self, run: Run, do: Callable[[], Any]) -> None:
        try:
            answer = do()
        except BaseException as error:
            if isinstance(error, Cancelled):
                run.close(_stopped() if self._closed else None)
            else:
                self._advance(run, error=error)
            return
        if run.cancelled:  # before the plan knows of it: so nothing is told to nobody
            run.close()
        else:
            self._advance(run, answer)

    def _advance(self, run: Run, answer: Any = None, error: BaseException | None = None) -> None:
        run.advance(self._clock(), answer, error)
        while isinstance(run.need, Work) and run.need.later:
            self._later.append(run.need.do)
            run.advance(self._clock())

    # The owner's thread ----------------------------------------------------------------------------------------

    def start(self) -> None:
        """Has a thread of its own do all of it."""
        self._thread = threading.Thread(target=self._serve, name="templora", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ends what is still going on, as if its callers had left. May be called twice."""
        with self._door:
            self._closed = True
        self._inbox.put(None)
        if self._thread is None:
            self._finish(_stopped())
        elif not self.is_here:
            self._ended.wait()

    def _serve(self) -> None:
        why: BaseException = _stopped()
        try:
            while not self._closed:
                with self._exclusive():
                    busy = self.step()
                if not busy and not self._closed:  # `stop` says so before it wakes us
                    self._wait()
        except BaseException as error:  # of ours: nobody else's errors come so far
            why = error
            raise
        finally:
            with self._door:
                self._closed = True
            with self._exclusive():
                self._finish(why)
            self._ended.set()

    def _finish(self, why: BaseException) -> None:
        """Ends all runs, those in the inbox too, where they are."""
        with contextlib.suppress(Empty):
            while True:
                run = self._inbox.get_nowait()
                if run is not None and run not in self.runs:
                    self.runs.append(run)
        for run in self.runs:
            if not run.ended:
                run.close(why)
        self.runs = []

    def _wait(self) -> None:
        """Until somebody says something."""
        run = self._inbox.get()
        with self._exclusive():
            self._take(run)


def _one_pass(order: Sequence[Run]) -> list[Run]:
    """Those that are decoded in one pass with the first."""
    first = order[0]
    assert isinstance(first.need, Token)
    reader, rows = first.need.reader, [first]
    for run in order[1:]:
        if len(rows) < reader.rows and isinstance(run.need, Token) and run.need.reader.joins(reader):
            rows.append(run)
    return rows


def _stopped() -> ModelError:
    return ModelError("this engine does not serve sessions together any more")


def _nobody() -> Run:
    """Whose work is done when nobody waits for it."""

    def nothing() -> Plan[None]:
        yield from ()

    return Run(nothing(), 0, None, lambda _: None)
