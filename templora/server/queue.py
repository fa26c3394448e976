"""`Queue`: so many requests are worked on at a time; others wait their turn, and not for ever."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections import deque

from templora.server.errors import ApiError, unavailable


class Queue:
    """First come, first served. All of it happens in the event loop's thread.

    Args:
        places: requests that are worked on at a time.
        most: requests that may wait.
        seconds: how long one waits.
        per_key: requests of one key, at work and waiting.
    """

    def __init__(self, places: int, most: int = 64, seconds: float = 30.0, per_key: int = 64) -> None:
        self.places, self._most, self._seconds, self._per_key = places, most, seconds, per_key
        self.at_work = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._of_key: dict[str, int] = {}
        self._took: deque[float] = deque([5.0], maxlen=50)  # seconds that requests were worked on
        self.closed = False

    @property
    def length(self) -> int:
        """Requests that wait."""
        return len(self._waiting)

    @property
    def retry_after(self) -> float:
        """Seconds until there is likely to be a place."""
        return (self.length + 1) * statistics.median(self._took) / self.places

    async def enter(self, key: str) -> float:
        """Waits for a place; returns when it was given, for `leave`.

        Raises:
            ApiError: too many wait, or it took too long, or the server is about to end.
        """
        self.check(key)
        if self._of_key.get(key, 0) >= self._per_key:
            wait = str(max(1, min(60, round(self.retry_after))))
            raise ApiError(
                429, "too many requests of this key at a time", code="rate_limit", headers={"retry-after": wait}
            )
        self._of_key[key] = self._of_key.get(key, 0) + 1
        try:
            if self.at_work < self.places and not self._waiting:
                self.at_work += 1
            else:
                await self._wait()
        except BaseException:
            self._count_out(key)
            raise
        return time.monotonic()

    def check(self, key: str) -> None:
        """Raises `ApiError` if nobody is let in now."""
        if self.closed:
            raise unavailable("the server is about to end", "draining", 10)
        if self.length >= self._most:
            raise unavailable(f"{self.length} requests are waiting already", "queue_full", self.retry_after)

    async def _wait(self) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await asyncio.wait_for(asyncio.shield(turn), self._seconds)
        except asyncio.TimeoutError:
            if not self._give_up(turn):
                raise unavailable(
                    f"no place came free in {self._seconds:g} s", "queue_timeout", self.retry_after
                ) from None
        except BaseException:
            if self._give_up(turn):
                self._next()
            raise

    def _give_up(self, turn: asyncio.Future[None]) -> bool:
        """Leaves the queue; whether a place had been given all the same."""
        if turn in self._waiting:
            self._waiting.remove(turn)
        return turn.done() and not turn.cancelled() and turn.exception() is None

    def leave(self, key: str, since: float) -> None:
        """Gives the place to who waits longest."""
        self._took.append(time.monotonic() - since)
        self._count_out(key)
        self._next()

    def _count_out(self, key: str) -> None:
        self._of_key[key] -= 1
        if not self._of_key[key]:
            del self._of_key[key]

    def _next(self) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self.at_work -= 1

    def close(self) -> None:
        """Nobody is let in any more; who waits is told so."""
        self.closed = True
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_exception(unavailable("the server is about to end", "draining", 10))
