"""Server-sent events: lines of JSON, and comments that say what is being done."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Mapping
from typing import Any

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

DONE = b"data: [DONE]\n\n"


def data(value: Any, *, id: int | None = None, event: str | None = None) -> bytes:
    """One event."""
    head = (f"id: {id}\n" if id is not None else "") + (f"event: {event}\n" if event else "")
    return f"{head}data: {json.dumps(value, separators=(',', ':'))}\n\n".encode("utf-8", "replace")


def comment(text: str) -> bytes:
    """What clients pass over. No empty line follows: to some, where an event had an id, it would be an event itself."""
    return f": {' '.join(text.split())}\n".encode("utf-8", "replace")


class Events(StreamingResponse):
    """A stream of events. Where they come from is told at once when the client has left; Starlette leaves that to the
    collector of garbage."""

    def __init__(self, pieces: AsyncGenerator[bytes, None], headers: Mapping[str, str] | None = None) -> None:
        about = {"cache-control": "no-cache", "x-accel-buffering": "no", **(headers or {})}
        super().__init__(pieces, media_type="text/event-stream", headers=about)
        self._pieces = pieces

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._pieces.aclose()
