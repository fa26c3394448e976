"""Signals put off, so that they are handled between two pieces of work and not within one."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import FrameType
from typing import Any, Protocol

# Those whose handlers raise, as a rule: Ctrl-C, requests to end, and time limits.
_NUMBERS = [
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGALRM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGBREAK")
    if hasattr(signal, name)
]
_ALWAYS = (signal.SIGINT, signal.SIGTERM)  # also where nobody handles them, so that they end the process


class _State:
    """State of the main thread, the only one in which Python handles signals."""

    whole = 0  # `deferred` blocks that it is in
    waiting: list[Callable[[], object]] | None = None  # signals that came in a `deferrable` block; None outside of one


@contextmanager
def deferred() -> Iterator[None]:
    """Signals that come inside are handled, as they would have been, when the work is done. Nests.

    For short work that must be done whole or not at all.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[Callable[[], object]] = []
    before: dict[int, Any] = {}
    _State.whole += 1
    try:
        _replace(before, lambda *what: came.append(lambda: _handle(*what)), _ALWAYS)
        yield
    finally:
        _State.whole -= 1
        _put_back(before)
        _handle_all(came)


@contextmanager
def deferrable() -> Iterator[None]:
    """Signals that come inside are handled when the work is done, or at the next `safe_point`; one that comes again, at
    once. Inside another such block nothing changes.

    For work that may take long, of which an exception anywhere would leave too many ends loose.
    """
    if threading.current_thread() is not threading.main_thread() or _State.waiting is not None or _State.whole:
        yield
        return
    came: list[Callable[[], object]] = []
    numbers: set[int] = set()

    def note(handler: Any, number: int, frame: FrameType | None) -> None:
        if number in numbers:
            handler(number, frame)
        else:
            numbers.add(number)
            came.append(lambda: handler(number, frame))

    before: dict[int, Any] = {}
    _State.waiting = came
    try:
        _replace(before, note)
        yield
    finally:
        _State.waiting = None
        _put_back(before)
        _handle_all(came)


def safe_point() -> None:
    """Handles the signals that were put off, in a `deferrable` block and in no `deferred` one within it.

    For places that long work passes often, and at which an exception does no harm. Takes less than a microsecond.
    """
    waiting = _State.waiting
    if waiting and not _State.whole and threading.current_thread() is threading.main_thread():
        _handle_all(waiting)


class Between(Protocol):
    """What long work calls between two of its pieces: it may raise, to end the work, unless that must be `whole`; and
    somebody else may be served meanwhile."""

    def __call__(self, whole: bool = False) -> object: ...


def between(whole: bool = False) -> None:
    """`Between` where nobody else is: signals are handled."""
    if not whole:
        safe_point()


def _replace(
    before: dict[int, Any], note: Callable[[Any, int, FrameType | None], object], always: tuple[int, ...] = ()
) -> None:
    """Has signals come to `note`, with who handled them before, which is kept in `before`."""
    for number in _NUMBERS:
        handler = signal.getsignal(number)
        # None: set by something other than Python, which could not be put back from here.
        if callable(handler) or (number in always and handler is not None):
            before[number] = handler
            signal.signal(number, partial(note, handler))


def _put_back(before: dict[int, Any]) -> None:
    """Has signals go where they went; one that comes meanwhile may raise, and the others are put back all the same."""
    try:
        while before:
            number = next(iter(before))
            signal.signal(number, before[number])
            del before[number]
    finally:
        if before:
            _put_back(before)


def _handle(handler: Any, number: int, frame: FrameType | None) -> None:
    if callable(handler):
        handler(number, frame)
    elif handler != signal.SIG_IGN:
        signal.raise_signal(number)


def _handle_all(came: list[Callable[[], object]]) -> None:
    """Calls each, also where one before it raises."""
    if came:
        try:
            came.pop(0)()
        finally:
            _handle_all(came)
