"""`ApiError`: what a request is refused with, in the shape that OpenAI's clients read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from templora.errors import OptionError, SessionClosed, StoreError, TemploraError, TextError, is_out_of_memory

# What the library calls an option where the API has another name for it.
_PARAMS = {"max_new_tokens": "max_tokens", "notes": "messages", "chat": "messages"}


class ApiError(Exception):
    """A request that is refused.

    Args:
        status: of HTTP.
        message: for a person.
        param: which field of the request is to blame.
        code: for a program.
        headers: to send with it.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code
        self.headers = headers or {}
        if status == 409:  # what OpenAI's clients would try again, though it comes out the same
            self.headers.setdefault("x-should-retry", "false")

    @property
    def body(self) -> dict[str, Any]:
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        if self.status == 401:
            kind = "authentication_error"
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}


def bad(param: str, message: str, code: str | None = None) -> ApiError:
    """A field that cannot be used."""
    return ApiError(400, f"{param}: {message}", param=param, code=code)


def check_ids(ids: Sequence[int], param: str, known: int) -> None:
    """Raises `ApiError` for what is no token of a model that knows so many."""
    if wrong := [token for token in ids if not 0 <= token < known]:
        raise bad(param, f"there is no token {wrong[0]}: the model knows 0 to {known - 1}")


def busy(session: str) -> ApiError:
    """A session that somebody else is using."""
    return ApiError(409, f"session {session!r} is in use by another request", param="model", code="session_busy")


def unavailable(message: str, code: str, seconds: float) -> ApiError:
    """What can be tried again in some seconds."""
    wait = str(max(1, min(60, round(seconds))))
    return ApiError(503, message, code=code, headers={"retry-after": wait})


def as_api_error(error: BaseException) -> ApiError:
    """What a client is told of an error."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, OptionError):
        param = _PARAMS.get(error.option, error.option)
        return ApiError(400, f"{param}: {error.problem}", param=param)
    if isinstance(error, TextError):
        return ApiError(400, str(error), param="prompt")
    if isinstance(error, SessionClosed):
        return ApiError(409, str(error), code="session_closed")
    if isinstance(error, StoreError):
        return unavailable(f"the session cannot be read or written now: {error}", "store", 10)
    if is_out_of_memory(error):
        return unavailable("there is not enough memory for this now", "memory", 30)
    if isinstance(error, TemploraError):
        return ApiError(500, str(error), code="model")
    return ApiError(500, f"an error of the server's own: {type(error).__name__}: {error}", code="internal")
