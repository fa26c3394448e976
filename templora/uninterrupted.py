"""Short work that must be done whole or not at all."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Ctrl-C and SIGTERM that come inside are handled, as they would have been, when the work is done. Nests.

    Python handles signals in its main thread alone, so in others there is nothing to put off.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    with _put_off(signal.SIGINT), _put_off(signal.SIGTERM):
        yield


@contextmanager
def _put_off(number: signal.Signals) -> Iterator[None]:
    handler = signal.getsignal(number)
    if handler is None:  # set by something other than Python, which could not be put back from here
        yield
        return
    came: list[tuple[int, FrameType | None]] = []
    signal.signal(number, lambda *what: came.append(what))
    try:
        yield
    finally:
        signal.signal(number, handler)
        if came and callable(handler):
            handler(*came[0])
        elif came and handler != signal.SIG_IGN:
            signal.raise_signal(number)
