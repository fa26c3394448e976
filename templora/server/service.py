"""`Service`: takes a request through the queue to a worker, and brings what that says back to the client."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from fastapi import Request
from fastapi.responses import JSONResponse, Response
from starlette.requests import ClientDisconnect

from templora.errors import OptionError, TextError, is_out_of_memory
from templora.server import sse
from templora.server.channel import Channel, Left, run
from templora.server.directory import Directory, Known
from templora.server.errors import ApiError, as_api_error, bad, unavailable
from templora.server.items import Begun, Comment, Item, Token
from templora.server.keys import Keys
from templora.server.metrics import Metrics
from templora.server.queue import Queue
from templora.server.runs import Emit, Runs
from templora.server.shapes import Answer

_ALIVE = 5.0  # seconds after which a stream says that it still is
_PATIENCE = 2.0  # seconds that a stream waits for its first item, whose failing has a status of its own then

Work = Callable[[Emit], None]


@dataclass
class Limits:
    """What the server does at most.

    Args:
        max_tokens: of one answer.
        max_body: bytes of a request.
        stall_seconds: after which a client that reads nothing is left.
        idle_seconds: after which a session that nobody uses is left on disk.
        drain_seconds: that answers may take to end when the server does.
    """

    max_tokens: int = 16_384
    max_body: int = 64 << 20
    stall_seconds: float = 60.0
    idle_seconds: float = 600.0
    drain_seconds: float = 30.0


@dataclass(eq=False)
class Service:
    """All that routes need."""

    runs: Runs
    directory: Directory
    queue: Queue
    keys: Keys
    limits: Limits
    model: str  # what the base is called
    metrics: Metrics = field(default_factory=Metrics)
    draining: bool = False

    def __post_init__(self) -> None:
        # A place in the queue is a worker, and a few more open and close sessions meanwhile.
        self.workers = ThreadPoolExecutor(self.queue.places + 4, thread_name_prefix="templora-worker")
        self._channels: set[Channel[Item]] = set()
        self.metrics.gauge("queue_depth", "Requests that wait", lambda: self.queue.length)
        self.metrics.gauge("at_work", "Requests that are worked on", lambda: self.queue.at_work)
        self.metrics.gauge("sessions_known", "Sessions there are", lambda: len(self.directory.all()))
        self.metrics.gauge("sessions_in_memory", "Sessions in memory", lambda: self.directory.in_memory)

    @contextlib.asynccontextmanager
    async def place(self, tenant: str) -> AsyncIterator[None]:
        """Inside there is a place in the queue, for work that has no channel.

        Raises:
            ApiError: there is none.
        """
        since = await self.queue.enter(tenant)
        try:
            yield
        finally:
            self.queue.leave(tenant, since)

    async def in_worker(self, what: Callable[..., Any], *arguments: Any) -> Any:
        """Does something that takes a while, in a thread of its own."""
        return await asyncio.get_running_loop().run_in_executor(self.workers, what, *arguments)

    async def body_of(self, request: Request, most: int | None = None) -> bytes:
        """What a request has to say, up to so many bytes, or `max_body`.

        Raises:
            ApiError: it is more.
        """
        most, body = most or self.limits.max_body, bytearray()
        too_large = ApiError(413, f"this may have {most:,} bytes at most", code="request_too_large")
        if int(request.headers.get("content-length") or 0) > most:
            raise too_large
        try:
            async for piece in request.stream():
                body += piece
                if len(body) > most:
                    raise too_large
        except ClientDisconnect as left:
            raise ApiError(400, "the request ended before all of it was there", code="cut_off") from left
        return bytes(body)

    async def json_of(self, request: Request) -> dict[str, Any]:
        """The JSON object that a request is.

        Raises:
            ApiError: it is none, or too large.
        """
        body = await self.body_of(request)
        try:
            found = json.loads(body or b"{}", parse_float=_finite, parse_constant=_finite)
        except (ValueError, RecursionError) as error:
            raise ApiError(400, f"the request is not JSON: {error}", code="invalid_json") from error
        if not isinstance(found, dict):
            raise ApiError(400, "the request must be a JSON object", code="invalid_json")
        if b"\\ud" in body or b"\\uD" in body:
            _check_characters(found)
        return found

    # Work ------------------------------------------------------------------------------------------------------

    async def begin(self, tenant: str, work: Work, known: Known | None, *, detach: bool = False) -> Channel[Item]:
        """Has `work` done when there is a place; `known`, which is claimed, is released at its end, whatever happens.
        With `detach` it is done to its end, also when the client has left.

        Raises:
            ApiError: there is no place.
        """
        asked = time.monotonic()
        try:
            since = await self.queue.enter(tenant)
        except BaseException:
            if known is not None:
                self.directory.release(known)
            raise
        self.metrics.queue_seconds.observe(since - asked)
        channel: Channel[Item] = Channel(stall_seconds=self.limits.stall_seconds)
        self._channels.add(channel)
        loop = asyncio.get_running_loop()

        def finish() -> None:
            self._channels.discard(channel)
            self.queue.leave(tenant, since)
            if known is not None:
                self.directory.release(known)

        def done() -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(finish)

        loop.run_in_executor(self.workers, run, channel, partial(self._counted, work, known, asked, detach), done)
        return channel

    def _counted(self, work: Work, known: Known | None, asked: float, detach: bool, emit: Emit) -> None:
        """Does work, counting what it says."""
        last, left = 0.0, False

        def counted(item: Item) -> None:
            nonlocal last, left
            now = time.monotonic()
            if isinstance(item, Token):
                self.metrics.tokens.labels("written").inc()
                if last:
                    near = "yes" if self.runs.engine.learns else "no"
                    self.metrics.token_seconds.labels(near).observe(now - last)
                else:
                    self.metrics.first_token_seconds.observe(now - asked)
                last = now
            elif isinstance(item, Begun):
                self.metrics.tokens.labels("read").inc(item.prompt_tokens - item.cached_tokens)
            elif isinstance(item, Comment) and item.text.startswith("learning"):
                last = 0.0
            elif isinstance(item, Comment) and item.text.startswith("chunk"):
                self.metrics.updates.labels("learnt" if "learnt" in item.text else "not").inc()
            try:
                if not left:
                    emit(item)
            except Left:
                left = True
                if not detach or self.draining:
                    raise

        try:
            work(counted)
        except BaseException as error:
            # Of any other error what the session is now is not certain; on disk it is.
            if known is not None and not isinstance(error, ApiError | OptionError | TextError | Left):
                self.directory.forget(known)
            if is_out_of_memory(error):  # so that there is some when the client tries again
                self.directory.free()
            raise
        finally:
            if known is not None:
                with contextlib.suppress(Exception):  # it is looked at again
                    self.directory.look(known)

    # Answers ---------------------------------------------------------------------------------------------------

    async def whole(self, request: Request, channel: Channel[Item], answer: Answer) -> dict[str, Any]:
        """An answer in one piece, and what it says of itself."""
        about: dict[str, Any] = {}
        try:
            while (items := await channel.get(_ALIVE)) is not None:
                for item in items:
                    _take(item, answer, about)
                if not items and await request.is_disconnected():
                    break
        finally:
            channel.close()
        return about

    async def stream(
        self, channel: Channel[Item], answer: Answer, *, usage: bool, headers: Mapping[str, str]
    ) -> Response:
        """An answer in pieces, as server-sent events. What fails before the first one is raised."""
        first: list[Item] = []
        about: dict[str, Any] = {}
        until = time.monotonic() + _PATIENCE
        try:
            while not about and (left := until - time.monotonic()) > 0:
                items = await channel.get(left)
                if items is None:
                    break
                first += items
                for item in items:
                    _note(item, about)
        except BaseException:
            channel.close()
            raise
        pieces = self._pieces(channel, answer, first, usage)
        return sse.Events(pieces, {**headers, **headers_of(about)})

    async def _pieces(
        self, channel: Channel[Item], answer: Answer, first: list[Item], usage: bool
    ) -> AsyncGenerator[bytes, None]:
        items: list[Item] | None = first
        try:
            if (opening := answer.opening()) is not None:
                yield sse.data(opening)
            while items is not None:
                said = b"".join(_said(item, answer) for item in items) if items else sse.comment("working")
                if said:
                    yield said
                items = await channel.get(_ALIVE)
            if usage:
                yield sse.data(answer.last())
            if answer.says_done:
                yield sse.DONE
        except Exception as error:
            refused = as_api_error(error)
            self.metrics.refused.labels(str(refused.status), refused.code or "").inc()
            yield sse.data(refused.body)
        finally:
            channel.close()

    def refused(self, error: BaseException) -> JSONResponse:
        """The answer to a request that is refused."""
        found = as_api_error(error)
        self.metrics.refused.labels(str(found.status), found.code or "").inc()
        return JSONResponse(found.body, found.status, headers=found.headers)

    # The end ---------------------------------------------------------------------------------------------------

    async def drain(self) -> None:
        """Lets nobody in any more, waits for answers under way, and ends those that take too long."""
        self.draining = True
        self.queue.close()
        until = time.monotonic() + self.limits.drain_seconds
        while self._channels and time.monotonic() < until:
            await asyncio.sleep(0.05)
        for channel in list(self._channels):
            channel.close(unavailable("the server ends; the session goes on where this stopped", "draining", 10))
        while self._channels:
            await asyncio.sleep(0.05)

    def close(self) -> None:
        """Leaves all sessions on disk."""
        self.workers.shutdown(wait=True)
        self.directory.close()


def _finite(said: str) -> float:
    """A number; JSON has no others."""
    number = float(said)
    if not math.isfinite(number):
        raise ValueError(f"{said:.40} is no number of JSON's")
    return number


def _check_characters(found: Mapping[str, Any]) -> None:
    """Raises `ApiError` for halves of characters, which JSON can hold and no text can."""
    for name, value in found.items():
        try:
            json.dumps({name: value}, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            named = name.encode(errors="replace").decode()
            raise bad(named, "holds half a character (a lone surrogate)") from error


def headers_of(about: Mapping[str, Any]) -> dict[str, str]:
    """What an answer's headers say of its session."""
    begun: Begun | None = about.get("begun")
    if begun is None:
        return {}
    found = {"x-templora-version": str(begun.version)} if begun.at is not None or begun.scratch else {}
    return found | ({"x-templora-kept": "no"} if begun.scratch else {})


def _note(item: Item, about: dict[str, Any]) -> None:
    if isinstance(item, Begun):
        about.setdefault("begun", item)


def _take(item: Item, answer: Answer, about: dict[str, Any]) -> None:
    _note(item, about)
    if isinstance(item, Begun):
        answer.begin(item)
    elif not isinstance(item, Comment):
        answer.add(item)


def _said(item: Item, answer: Answer) -> bytes:
    """A part of a stream."""
    if isinstance(item, Comment):
        return sse.comment(item.text)
    if isinstance(item, Begun):
        answer.begin(item)
        return b""
    piece = answer.add(item)
    index = item.index if isinstance(item, Token) else None
    return b"" if piece is None else sse.data(piece, id=index)
