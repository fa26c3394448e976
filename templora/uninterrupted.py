"""Short work that must be done whole or not at all."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Ctrl-C and SIGTERM that come inside are handled, as they would have been, when the work is done.

    Python handles signals in its main thread alone, so in others there is nothing to put off.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[tuple[int, FrameType | None]] = []
    before = {number: signal.signal(number, lambda *what: came.append(what)) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            # None: set by something other than Python, which cannot be put back from here.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        for came_in, frame in came:
            handler = before[signal.Signals(came_in)]
            if callable(handler):
                handler(came_in, frame)
            elif handler != signal.SIG_IGN:
                signal.raise_signal(came_in)
