"""A server on a tiny model, in this process, for tests that talk to it as clients do."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import uvicorn
from conftest import small
from test_chat import CHATML

from templora.engine.engine import Engine
from templora.server.app import make_app
from templora.server.directory import Directory
from templora.server.keys import Keys
from templora.server.queue import Queue
from templora.server.runs import Runs
from templora.server.service import Limits, Service
from templora.testing import byte_tokenizer, tiny_model


def chatty_engine(**options: Any) -> Engine:
    """A tiny engine whose tokenizer has a chat template."""
    tokenizer = byte_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.chat_template = CHATML
    return Engine(tiny_model(**options), tokenizer, name="tiny")


class Serving:
    """A server that runs; `url` is where."""

    def __init__(self, service: Service, port: int, loop: asyncio.AbstractEventLoop) -> None:
        self.service, self.url, self.port, self.loop = service, f"http://127.0.0.1:{port}", port, loop

    @property
    def directory(self) -> Directory:
        return self.service.directory


@contextlib.contextmanager
def serving(
    folder: Path, *, keys: dict[str, str] | None = None, engine: Engine | None = None, **o: Any
) -> Iterator[Serving]:
    """A server whose sessions are in `folder`."""
    engine, origins = engine or chatty_engine(), o.pop("origins", ())
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    sock.listen(128)
    with engine.shared() as scheduler:
        directory = Directory(
            engine, folder, o.pop("config", small()), resident=o.pop("resident", 4), ttl=o.pop("ttl", 3600.0)
        )
        queue = Queue(o.pop("places", 4), o.pop("most", 64), o.pop("seconds", 30.0))
        limits = Limits(max_tokens=2000, **o)
        service = Service(Runs(engine, directory, 128), directory, queue, Keys(keys), limits, "tiny")
        app = make_app(service, lambda: scheduler.alive, origins)
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False))
        loops: list[asyncio.AbstractEventLoop] = []

        async def serve() -> None:
            loops.append(asyncio.get_running_loop())
            await server.serve(sockets=[sock])

        thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
        thread.start()
        while not server.started and thread.is_alive():
            thread.join(0.01)
        try:
            yield Serving(service, sock.getsockname()[1], loops[0])
        finally:
            server.should_exit = True
            thread.join(20)
            service.close()
