"""Threads that take only what nobody else wants."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time


def step_aside() -> None:
    """The calling thread gets the time that no other wants, for good; where priorities are of processes, nothing."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)


class Pace:
    """Called after each piece of long work, it waits, so that the work takes no more than a share of a core.

    A low priority is not enough: torch's threads wait for each other, and so all for the one whose core is taken.

    Args:
        share: of the time; 1 is all of it.

    Attributes:
        paused: seconds waited so far.
    """

    def __init__(self, share: float) -> None:
        self.paused = 0.0
        self._share, self._hurried = share, threading.Event()
        self._worked: float | None = None  # CPU seconds of the working thread when the piece began

    def __call__(self) -> None:
        if self._worked is not None and not self._hurried.is_set():
            began, piece = time.perf_counter(), time.thread_time() - self._worked
            self._hurried.wait(piece * (1 / self._share - 1))
            self.paused += time.perf_counter() - began
        self._worked = time.thread_time()

    def hurry(self) -> None:
        """Somebody waits for the work: it pauses no more."""
        self._hurried.set()
