"""Ways a run ends before it is done, and what a signal does at which moment."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Literal

_WHY = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}


class Interrupted(BaseException):
    """A signal told the run to stop. No `Exception`, so that nothing on the way takes it for an error of its own."""

    def __init__(self, number: int) -> None:
        super().__init__(_WHY[signal.Signals(number)])
        self.code = 128 + number


class StopSignals:
    """SIGINT (Ctrl-C) and SIGTERM while a command runs.

    now     raise at once: nothing has been written yet
    soon    note it, so that the run stops between two events, with every token shown and saved; twice = now
    later   note it: the receipt is being written, which nothing should cut short
    """

    def __init__(self) -> None:
        self.mode: Literal["now", "soon", "later"] = "now"
        self.received: int | None = None

    @contextmanager
    def caught(self) -> Iterator[None]:
        """Inside, the signals come here; afterwards they go where they went before."""
        self.mode, self.received = "now", None
        before = {number: signal.signal(number, self._receive) for number in _WHY}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        again, self.received = self.received is not None, number
        if self.mode == "now" or (self.mode == "soon" and again):
            raise Interrupted(number)


stop_signals = StopSignals()
