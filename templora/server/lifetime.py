"""From the first request to the last: sockets, signals, and an end that loses nothing.

SIGTERM, SIGINT   nobody is let in any more; answers end, or stop at their next token; sessions stay on disk
the same again    at once: what was shown is in the logs
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import sys
from collections.abc import Callable, Coroutine, Iterator, Sequence
from typing import Any, TypeVar

import uvicorn

from templora.errors import OptionError
from templora.server.app import make_app
from templora.server.service import Service

_STALLED = 120  # seconds that what was sent may lie in the network

_T = TypeVar("_T")


def run(main: Coroutine[Any, Any, _T]) -> _T:
    """`asyncio.run`, on the faster loop where it is installed (docs/server.md says what it gains)."""
    try:
        import uvloop
    except ImportError:  # there is none for Windows
        return asyncio.run(main)
    found: _T = uvloop.run(main)
    return found


class _Server(uvicorn.Server):
    """Signals are ours: uvicorn's own handling would end connections before answers."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def listening(host: str, port: int) -> socket.socket:
    """A socket that listens.

    Raises:
        OptionError: there is no such address, or somebody else listens there.
    """
    try:
        family, kind, proto, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        made = socket.socket(family, kind, proto)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):  # of who reads nothing the connection ends too; those accepted have it
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 1000 * _STALLED)
        made.bind(address)
        made.listen(1024)
        return made
    except OSError as error:
        raise OptionError("port", f"cannot listen on {host}, port {port}: {error.strerror or error}") from error


def serve(
    service: Service,
    sock: socket.socket,
    *,
    alive: Callable[[], bool],
    origins: Sequence[str] = (),
    ready: Callable[[], None] = lambda: None,
    say: Callable[[str], None] = lambda _: None,
) -> int:
    """Serves until a signal says otherwise; returns the exit code.

    Args:
        service: what there is to serve.
        sock: listening.
        alive: whether the engine's own thread is.
        origins: of pages that may use it.
        ready: called when requests are taken.
        say: told what is being done at the end.
    """
    # A step of the engine takes some milliseconds, and no other thread may keep it from its next one for as long.
    before = sys.getswitchinterval()
    sys.setswitchinterval(0.0005)
    try:
        return run(_serve(service, sock, alive, origins, ready, say))
    finally:
        sys.setswitchinterval(before)
        service.close()


async def _serve(
    service: Service,
    sock: socket.socket,
    alive: Callable[[], bool],
    origins: Sequence[str],
    ready: Callable[[], None],
    say: Callable[[str], None],
) -> int:
    loop, stop, at_once = asyncio.get_running_loop(), asyncio.Event(), asyncio.Event()

    def told() -> None:
        (at_once if stop.is_set() else stop).set()

    numbers = (signal.SIGTERM, signal.SIGINT)
    for number in numbers:
        loop.add_signal_handler(number, told)
    app = make_app(service, alive, origins)
    how = {"log_level": "warning", "access_log": False, "timeout_graceful_shutdown": 5, "lifespan": "on", "ws": "none"}
    config = uvicorn.Config(app, **how)  # type: ignore[arg-type]
    server = _Server(config)
    serving = asyncio.create_task(server.serve(sockets=[sock]))
    try:
        while not server.started and not serving.done():
            await asyncio.sleep(0.01)
        ready()
        failed = await _until(stop, serving, alive)
        if not failed:
            say("ending: no new requests; answers under way have their time")
            drain = asyncio.create_task(service.drain())
            await asyncio.wait([drain, asyncio.create_task(at_once.wait())], return_when=asyncio.FIRST_COMPLETED)
        server.should_exit = True
        server.force_exit = failed or at_once.is_set()
        await serving
        return 70 if failed else 0
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)


async def _until(stop: asyncio.Event, serving: asyncio.Task[None], alive: Callable[[], bool]) -> bool:
    """Waits until it is to end; whether that is since something failed: a supervisor will start it again."""
    while not stop.is_set():
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(stop.wait(), 1.0)
        if serving.done() or not alive():
            return True
    return False
