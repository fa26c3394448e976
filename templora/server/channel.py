"""`Channel`: from a worker thread, which drives a session, to the event loop, which talks to its client.

A client that reads slowly makes the worker wait, and with it its own row and nobody else's; one that does not read at
all is left after a while.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

_T = TypeVar("_T")


class Left(Exception):
    """Whoever asked for this does not listen any more."""


class Channel(Generic[_T]):
    """Made in the event loop's thread.

    Args:
        room: items that may wait.
        stall_seconds: how long the worker waits for room.
    """

    def __init__(self, room: int = 64, stall_seconds: float = 60.0) -> None:
        self._loop, self._news = asyncio.get_running_loop(), asyncio.Event()
        self._room, self._stall = room, stall_seconds
        self._items: deque[_T] = deque()
        self._changed = threading.Condition()
        self._woken = self._closed = self._ended = False
        self._error: BaseException | None = None

    # For the worker --------------------------------------------------------------------------------------------

    def put(self, item: _T) -> None:
        """Hands something over.

        Raises:
            Left: nobody listens, or has for too long.
        """
        with self._changed:
            until = time.monotonic() + self._stall
            while len(self._items) >= self._room and not self._closed:
                if not self._changed.wait(until - time.monotonic()):
                    self._closed = True
            if self._closed:
                raise Left
            self._items.append(item)
            self._wake()

    def check(self) -> None:
        """Raises `Left` if nobody listens."""
        if self._closed:
            raise Left

    def end(self, error: BaseException | None = None) -> None:
        """Nothing more comes."""
        with self._changed:
            if not self._ended:
                self._ended, self._error = True, error
            self._wake()

    def _wake(self) -> None:
        """Once for all that lies there."""
        if not self._woken:
            self._woken = True
            try:
                self._loop.call_soon_threadsafe(self._news.set)
            except RuntimeError:  # the loop is closed: so is the server
                self._closed = True

    # For the event loop ----------------------------------------------------------------------------------------

    async def get(self, seconds: float | None = None) -> list[_T] | None:
        """All that lies there, when something does; an empty list after so many seconds without; None at the end.

        Raises:
            BaseException: what the worker ended with.
        """
        try:
            await asyncio.wait_for(self._news.wait(), seconds)
        except asyncio.TimeoutError:
            return []
        with self._changed:
            self._news.clear()
            self._woken = False
            items = list(self._items)
            self._items.clear()
            self._changed.notify_all()
            if self._ended:
                self._wake()
            if items or not self._ended:
                return items
        if self._error is not None:
            raise self._error
        return None

    def close(self, why: BaseException | None = None) -> None:
        """Nobody listens any more; `why` is what whoever still does is told."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if why is not None:
            self.end(why)


def run(channel: Channel[_T], work: Callable[[Callable[[_T], None]], None], done: Callable[[], None]) -> None:
    """Does `work` in a worker thread, what it says going through the channel; `done` is called at its end."""
    error: BaseException | None = None
    try:
        work(channel.put)
    except Left:
        pass
    except BaseException as failed:
        error = failed
    finally:
        try:
            done()
        finally:
            channel.end(error)
