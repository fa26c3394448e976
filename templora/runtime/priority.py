"""Threads that take only what nobody else wants."""

from __future__ import annotations

import contextlib
import os
import sys
import threading


def step_aside() -> None:
    """The calling thread gets the time that no other wants, for good; where priorities are of processes, nothing."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)
