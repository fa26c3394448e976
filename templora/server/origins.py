"""Which pages of browsers may use the server. Without keys it is one's own machine that asks, and so is whatever page
one's browser shows: a stranger's must neither read texts here nor change them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from templora.server.errors import ApiError

_HERE = r"(localhost|127\.0\.0\.1|\[::1\])"
_OURS = rf"https?://{_HERE}(:\d+)?"


class Origins:
    """Refuses what pages of other origins ask, and, without keys, what is asked under another host's name.

    Args:
        app: what comes after it.
        allowed: further origins, or `*` for all.
        keys: whether everybody needs a key, which no stranger's page has.
    """

    def __init__(self, app: ASGIApp, allowed: Sequence[str] = (), keys: bool = False) -> None:
        self._any, self._keys, self._allowed = "*" in allowed or keys, keys, set(allowed)
        answers = {"allow_methods": ["*"], "allow_headers": ["*"], "expose_headers": ["*"]}
        origins = ["*"] if self._any else list(allowed)
        self._app = CORSMiddleware(app, allow_origins=origins, allow_origin_regex=_OURS, **answers)  # type: ignore[arg-type]
        self._plain = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._plain(scope, receive, send)
            return
        headers = Headers(scope=scope)
        if problem := self._problem(headers.get("host", ""), headers.get("origin")):
            refused = ApiError(403, problem, code="origin")
            await JSONResponse(refused.body, refused.status)(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _problem(self, host: str, origin: str | None) -> str:
        if not self._keys and not re.fullmatch(rf"{_HERE}(:\d+)?", host):
            return f"this server is for its own machine: ask it as 127.0.0.1, not as {host[:80]!r}"
        if origin is None or self._any or origin in self._allowed or re.fullmatch(_OURS, origin):
            return ""
        if urlsplit(origin).netloc == host:
            return ""
        return f"pages of {origin[:80]} may not use this server; templora serve --allow-origin {origin[:80]} lets them"
