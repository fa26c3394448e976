"""`Turn`: whose turn it is to use the engine."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable


class Turn:
    """The lock: re-entrant, and whoever lets it go sees to what could not be done in the middle of a step."""

    def __init__(self, afterwards: weakref.WeakMethod[Callable[[], None]]) -> None:
        self._lock = threading.RLock()
        self._depth = 0
        self._afterwards = afterwards

    def __enter__(self) -> None:
        self._lock.acquire()
        self._depth += 1

    def __exit__(self, *_: object) -> None:
        self.leave()
        if (afterwards := self._afterwards()) is not None:
            afterwards()

    def enter_if_free(self) -> bool:
        """Takes it, unless somebody has it: another thread, or this one in the middle of a step. Never waits."""
        if not self._lock.acquire(blocking=False):
            return False
        if self._depth:
            self._lock.release()
            return False
        self._depth += 1
        return True

    def leave(self) -> None:
        self._depth -= 1
        self._lock.release()
