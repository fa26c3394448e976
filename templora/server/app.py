"""`make_app`: the routes, and what every request meets."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, RedirectResponse, Response
from fastapi.staticfiles import StaticFiles
from pydantic import ValidationError
from starlette.exceptions import HTTPException

from templora import __version__
from templora.errors import TemploraError
from templora.server import openai, sessions, tokens
from templora.server.errors import ApiError
from templora.server.origins import Origins
from templora.server.service import Service

_SWEEP = 15.0  # seconds between two looks for sessions whose time is over


def make_app(service: Service, alive: Callable[[], bool] = lambda: True, origins: Sequence[str] = ()) -> FastAPI:
    """The server's application.

    Args:
        service: what its routes need.
        alive: whether the engine's own thread is.
        origins: of pages that may use it, besides those of this machine.
    """

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        sweeper = asyncio.create_task(_sweep(service))
        try:
            yield
        finally:
            sweeper.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await sweeper

    # Its pages of documentation would come from elsewhere.
    app = FastAPI(title="templora", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None)
    app.add_middleware(Origins, allowed=tuple(origins), keys=bool(service.keys))
    for part in (openai, tokens, sessions):
        app.include_router(part.router(service))

    app.mount("/page", StaticFiles(directory=Path(__file__).parent / "page", html=True), "page")

    @app.get("/")
    async def page() -> RedirectResponse:
        return RedirectResponse("/page/")

    @app.get("/healthz")
    async def healthz() -> JSONResponse:
        fine = alive()
        return JSONResponse({"status": "ok" if fine else "the engine's thread has ended"}, 200 if fine else 503)

    @app.get("/health")
    async def health() -> JSONResponse:
        return await healthz()

    @app.get("/readyz")
    async def readyz() -> JSONResponse:
        ready = alive() and not service.draining
        return JSONResponse({"status": "ok" if ready else "draining"}, 200 if ready else 503)

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(service.metrics.text(), media_type=service.metrics.content_type)

    def refused(_: Request, error: Exception) -> JSONResponse:
        return service.refused(_as_ours(error))

    for kind in (
        Exception,
        ApiError,
        TemploraError,
        ValidationError,
        RequestValidationError,
        HTTPException,
        MemoryError,
    ):
        app.add_exception_handler(kind, refused)
    return app


def _as_ours(error: Exception) -> Exception:
    """What libraries raise, as the API says it."""
    if isinstance(error, ValidationError | RequestValidationError):
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"] if part not in ("body", "query"))
        param = where.split(".")[0] or None
        return ApiError(400, f"{where}: {first['msg']}" if where else str(first["msg"]), param=param)
    if isinstance(error, HTTPException):
        what = {404: "there is no such route", 405: "this route does not take that method"}
        return ApiError(error.status_code, what.get(error.status_code, str(error.detail)), code="not_found")
    return error


async def _sweep(service: Service) -> None:
    while True:
        await asyncio.sleep(_SWEEP)
        with contextlib.suppress(Exception):  # it is looked at again
            await service.in_worker(service.directory.sweep, service.limits.idle_seconds)
