"""Clients that leave, wait, crowd in; keys; the end; kills."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import http.client
import json
import random
import re
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from conftest import LONG, TEXT, small
from evaluations import tiny_folder
from forked import PYTHON
from serving import Serving, chatty_engine, serving
from test_openai import call

from templora.server.directory import that_fit
from templora.server.errors import unavailable
from templora.store.saved import SavedSession
from templora.store.store import SessionStore


@contextlib.contextmanager
def streaming(
    server: Serving, body: dict[str, Any], path: str = "/v1/completions"
) -> Iterator[http.client.HTTPResponse]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    try:
        connection.request("POST", path, json.dumps(body | {"stream": True}), {"content-type": "application/json"})
        yield connection.getresponse()
    finally:
        connection.close()


def until(what: Any, seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_client_that_leaves_stops_its_answer(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        call(server, "POST", "/v1/sessions", {"name": "novel"})
        with streaming(
            server, {"model": "novel@tiny", "prompt": TEXT, "max_tokens": 2000, "ignore_eos": True}
        ) as answer:
            shown = b"".join(answer.readline() for _ in range(40)).decode()
        until(lambda: server.service.queue.at_work == 0)
        said = "".join(json.loads(x[6:])["choices"][0]["text"] for x in shown.split("\n") if x.startswith("data: "))
        text = call(server, "GET", "/v1/sessions/novel/text")[1]
        assert text.startswith(TEXT + said)
        assert len(text) < 1500
        # And the text can be gone on with from what was shown.
        assert (
            call(server, "POST", "/v1/completions", {"model": "novel@tiny", "prompt": TEXT + said, "max_tokens": 5})[0]
            == 200
        )
        assert call(server, "GET", "/v1/sessions/novel/text")[1].startswith(TEXT + said)


def test_one_request_a_session_at_a_time(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        server.directory.patience = 0.1
        call(server, "POST", "/v1/sessions", {"name": "novel"})
        with streaming(
            server, {"model": "novel@tiny", "prompt": TEXT, "max_tokens": 2000, "ignore_eos": True}
        ) as answer:
            answer.readline()
            for method, path, body in (
                ("POST", "/v1/completions", {"model": "novel@tiny", "prompt": "x"}),
                ("POST", "/v1/sessions/novel/rewind", {"at": {"chunk": 0}}),
                ("DELETE", "/v1/sessions/novel", None),
            ):
                status, said, headers = call(server, method, path, body)
                assert (status, said["error"]["code"], headers["x-should-retry"]) == (409, "session_busy", "false")
            assert call(server, "GET", "/v1/sessions/novel")[1]["busy"]


def test_an_answer_that_was_left_keeps_nobody_from_the_session(tmp_path: Path) -> None:
    """As where an answer is stopped, and another wanted at once."""
    with serving(tmp_path) as server:
        server.directory.patience = 30.0  # leaving ends with what was shown on the disk, which may be slow
        call(server, "POST", "/v1/sessions", {"name": "novel"})
        for i in range(5):
            body = {"model": "novel@tiny", "prompt": f"{i} {TEXT}", "draft": False, "max_tokens": 2000}
            with streaming(server, body | {"ignore_eos": True}) as answer:
                answer.readline()
            status, said, _ = call(server, "POST", "/v1/completions", body | {"max_tokens": 2})
            assert status == 200, said


def test_changes_of_a_session_that_went_on_meanwhile_are_refused(tmp_path: Path) -> None:
    """In memory and on disk, whatever would change it."""
    with serving(tmp_path, resident=1, places=1) as server:
        call(server, "POST", "/v1/sessions", {"name": "novel"})
        call(server, "POST", "/v1/sessions/novel/absorb", {"text": TEXT})
        version = call(server, "GET", "/v1/sessions/novel")[1]["version"]
        assert version > 0
        for where in ("memory", "disk"):
            if where == "disk":
                call(server, "POST", "/v1/sessions", {"name": "other"})
                assert not call(server, "GET", "/v1/sessions/novel")[1]["in_memory"]
            for method, path, body in (
                ("POST", "absorb", {"text": "x"}),
                ("POST", "write", {"prompt": "", "max_tokens": 1}),
                ("POST", "rewind", {"at": {"chunk": 0}}),
                ("PUT", "notes", {"notes": "x"}),
            ):
                told = call(server, method, f"/v1/sessions/novel/{path}", body, **{"if-match": str(version - 1)})
                assert (told[0], told[1]["error"]["code"]) == (409, "version_mismatch")
        assert call(server, "PUT", "/v1/sessions/novel/notes", {"notes": "x"}, **{"if-match": f'"{version}"'})[0] == 200


@pytest.mark.parametrize("where", ["create", "open", "stream"])
def test_without_enough_memory_there_are_fewer_sessions(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Idle ones are left on disk, and it is tried again; by the client, where something was said already."""
    with serving(tmp_path, resident=4) as server:
        for i in range(4):
            call(server, "POST", "/v1/sessions", {"name": f"text-{i}"})
            call(server, "POST", f"/v1/sessions/text-{i}/absorb", {"text": TEXT})
        if where == "open":
            call(server, "POST", "/v1/sessions", {"name": "another"})
        held = server.directory.in_memory
        of = SessionStore if where != "stream" else SavedSession
        real = getattr(of, where)

        def no_room(*a: Any, **o: Any) -> Any:
            if server.directory.in_memory >= held - 1:
                raise RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes")
            return real(*a, **o)

        monkeypatch.setattr(of, where, no_room)
        ask = {"model": "text-0@tiny" if where != "create" else "tiny:temp", "prompt": "", "max_tokens": 3}
        if where == "create":
            ask["prompt"] = TEXT
        status, said, headers = call(server, "POST", "/v1/completions", ask)
        if where == "stream":
            assert (status, said["error"]["code"]) == (503, "memory")
            assert int(headers["retry-after"]) >= 1
            status = call(server, "POST", "/v1/completions", ask)[0]
        assert status == 200
        assert server.directory.resident < held


def test_a_session_that_is_returned_to_stays_longest(tmp_path: Path) -> None:
    with serving(tmp_path, resident=2, places=1) as server:
        talk = {"prompt": TEXT, "max_tokens": 4, "session": "temp-talk"}
        call(server, "POST", "/v1/completions", talk)
        call(server, "POST", "/v1/completions", talk)
        for i in range(3):
            call(server, "POST", "/v1/completions", {"prompt": f"{i} {TEXT}", "max_tokens": 4})
        assert {known.name: known.saved is not None for known in server.directory.all()}["temp-talk"]


def test_a_slow_reader_holds_up_itself_alone(tmp_path: Path) -> None:
    with serving(tmp_path, stall_seconds=1.0) as server:
        slow = socket.create_connection(("127.0.0.1", server.port))
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        body = json.dumps(
            {"model": "tiny", "prompt": TEXT, "max_tokens": 2000, "stream": True, "ignore_eos": True, "logprobs": 20}
        )
        slow.sendall(
            f"POST /v1/completions HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: {len(body)}\r\n\r\n{body}".encode()
        )
        until(lambda: server.service.queue.at_work == 1)
        began = time.monotonic()
        assert call(server, "POST", "/v1/completions", {"model": "tiny", "prompt": TEXT, "max_tokens": 20})[0] == 200
        assert time.monotonic() - began < 20
        until(lambda: server.service.queue.at_work == 0, 60)  # it was left
        slow.close()


def test_who_waits_too_long_or_with_too_many_is_told_when_to_come_back(tmp_path: Path) -> None:
    with serving(tmp_path, places=1, most=1, seconds=0.3) as server:
        body = {"model": "tiny", "prompt": TEXT, "max_tokens": 2000, "ignore_eos": True}
        with streaming(server, body) as answer:
            answer.readline()
            with concurrent.futures.ThreadPoolExecutor() as pool:
                found = list(pool.map(lambda _: call(server, "POST", "/v1/completions", body), range(3)))
        codes = sorted(said["error"]["code"] for _, said, _ in found)
        assert codes in (
            ["queue_full", "queue_full", "queue_timeout"],
            ["queue_full", "queue_timeout", "queue_timeout"],
        )
        assert all(status == 503 and int(headers["retry-after"]) >= 1 for status, _, headers in found)
        until(lambda: server.service.queue.at_work == 0)
        assert call(server, "POST", "/v1/completions", {"model": "tiny", "prompt": "x", "max_tokens": 2})[0] == 200


def test_openais_client_comes_back_when_it_is_told_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(tmp_path) as server:
        client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=2)
        left, real = [0], server.service.queue.check

        def check(key: str) -> None:
            if left[0]:
                left[0] -= 1
                raise unavailable("64 requests are waiting already", "queue_full", 0.1)
            real(key)

        monkeypatch.setattr(server.service.queue, "check", check)
        for refusals, retries in ((2, 2), (1, 0)):
            left[0] = refusals
            asking = client.with_options(max_retries=retries).completions
            if retries:
                assert asking.create(model="tiny", prompt="x", max_tokens=2).choices[0].finish_reason == "length"
            else:
                with pytest.raises(openai.InternalServerError, match="waiting already"):
                    asking.create(model="tiny", prompt="x", max_tokens=2)
            assert left == [0]


def test_keys_and_tenants(tmp_path: Path) -> None:
    with serving(tmp_path, keys={"ann": "secret-of-ann", "ben": "secret-of-ben"}) as server:
        ann, ben = ({"authorization": f"Bearer secret-of-{who}"} for who in ("ann", "ben"))
        for headers in ({}, {"authorization": "Bearer nobody-knows"}, {"authorization": "secret-of-ann"}):
            status, said, _ = call(server, "GET", "/v1/models", **headers)
            assert (status, said["error"]["code"]) == (401, "invalid_api_key")
        assert call(server, "POST", "/v1/sessions", {"name": "novel"}, **ann)[0] == 201
        assert call(server, "GET", "/v1/sessions/novel", **ben)[0] == 404
        assert call(server, "POST", "/v1/sessions", {"name": "novel"}, **ben)[0] == 201
        canary = "The password of the lighthouse is xylophone. " * 4
        fresh = call(server, "POST", "/v1/sessions/novel/score", {"text": canary}, **ben)[1]["nll"]
        call(server, "POST", "/v1/sessions/novel/absorb", {"text": canary}, **ann)
        assert call(server, "POST", "/v1/sessions/novel/score", {"text": canary}, **ben)[1]["nll"] == fresh
        assert call(server, "GET", "/v1/sessions/novel/text", **ben)[1] == ""
        learnt = call(server, "POST", "/v1/sessions/novel/score", {"text": canary}, **ann)[1]["nll"]
        assert learnt["adapted"] < fresh["adapted"]
        said = {"messages": [{"role": "user", "content": canary}], "max_tokens": 4}
        first = call(server, "POST", "/v1/chat/completions", said, **ann)[1]["choices"][0]["message"]
        more = {"messages": [*said["messages"], first, {"role": "user", "content": "And?"}], "max_tokens": 4}
        names = [
            call(server, "POST", "/v1/chat/completions", more, **who)[2]["x-templora-session"] for who in (ann, ben)
        ]
        assert names[0] != names[1]


def test_pages_of_strangers(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        ask = {"model": "tiny", "prompt": "x", "max_tokens": 1}
        for origin in ("http://localhost:3000", server.url):
            status, _, headers = call(server, "POST", "/v1/completions", ask, origin=origin)
            assert (status, headers["access-control-allow-origin"]) == (200, origin)
        for headers in ({"origin": "https://evil.example"}, {"origin": "null"}, {"host": "evil.example"}):
            assert call(server, "POST", "/v1/completions", ask, **headers)[1]["error"]["code"] == "origin"
    with serving(tmp_path, origins=["null"]) as server:
        preflight = {
            "origin": "null",
            "access-control-request-method": "POST",
            "access-control-request-headers": "authorization",
        }
        status, _, told = call(server, "OPTIONS", "/v1/completions", **preflight)
        assert (status, told["access-control-allow-origin"]) == (200, "null")
        assert "authorization" in told["access-control-allow-headers"]


def test_sessions_beyond_memory_are_on_disk(tmp_path: Path) -> None:
    with serving(tmp_path, resident=2, places=2) as server:
        for i in range(5):
            call(server, "POST", "/v1/sessions", {"name": f"text-{i}"})
            call(server, "POST", f"/v1/sessions/text-{i}/absorb", {"text": f"{i} " + TEXT})
        assert server.directory.in_memory == 2
        versions = [call(server, "GET", f"/v1/sessions/text-{i}")[1]["version"] for i in range(5)]
        assert len(set(versions)) == 1
        assert versions[0] > 0
        said = call(server, "POST", "/v1/completions", {"model": "text-0@tiny", "prompt": "", "max_tokens": 5})
        assert said[0] == 200
        assert server.directory.in_memory == 2


def test_who_wants_a_session_that_is_being_parked_waits(tmp_path: Path) -> None:
    with serving(tmp_path, resident=1, places=4) as server:
        for i in range(4):
            call(server, "POST", "/v1/sessions", {"name": f"text-{i}"})

        def ask(i: int) -> set[int]:
            body = {"model": f"text-{i}@tiny", "prompt": TEXT[:50], "draft": False, "max_tokens": 4}
            return {call(server, "POST", "/v1/completions", body)[0] for _ in range(12)}

        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            assert list(pool.map(ask, range(4))) == [{200}] * 4


def test_conversations_are_gone_after_their_time(tmp_path: Path) -> None:
    with serving(tmp_path, ttl=0.5) as server:
        name = call(server, "POST", "/v1/completions", {"prompt": TEXT, "max_tokens": 4})[2]["x-templora-session"]
        call(server, "POST", "/v1/sessions", {"name": "stays"})
        server.directory.sweep(3600)
        assert name in SessionStore(tmp_path)
        time.sleep(0.6)
        server.directory.sweep(0)
        assert SessionStore(tmp_path).names() == ["stays"]
        assert server.directory.in_memory == 0


def test_what_was_kept_with_a_session_is_there_after_a_start(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        call(server, "POST", "/v1/sessions", {"name": "novel", "metadata": {"title": "A novel"}})
        call(server, "POST", "/v1/sessions/novel/absorb", {"text": TEXT})
        call(server, "POST", "/v1/sessions/novel/fork", {"name": "other", "at": {"chunk": 2}})
    with serving(tmp_path) as server:
        found = {s["id"]: s["metadata"] for s in call(server, "GET", "/v1/sessions")[1]["data"]}
        assert found == {"novel": {"title": "A novel"}, "other": {"parent": "novel"}}


def test_draining(tmp_path: Path) -> None:
    with serving(tmp_path, drain_seconds=0.5) as server:
        call(server, "POST", "/v1/sessions", {"name": "novel"})
        with streaming(
            server, {"model": "novel@tiny", "prompt": TEXT, "max_tokens": 2000, "ignore_eos": True}
        ) as answer:
            answer.readline()
            asyncio.run_coroutine_threadsafe(server.service.drain(), server.loop)
            until(lambda: server.service.draining)
            assert call(server, "GET", "/readyz")[0] == 503
            assert call(server, "POST", "/v1/completions", {"prompt": "x"})[1]["error"]["code"] == "draining"
            rest = answer.read().decode()
        assert '"code":"draining"' in rest
        assert "[DONE]" not in rest
    assert SessionStore(tmp_path).show("novel").pending > 0


def command_of(model: Path, *options: str) -> list[str]:
    """`templora serve`, forked."""
    return [*PYTHON, "-m", "templora", "serve", "--model", str(model), *options]


class Process:
    """`templora serve` in a process of its own."""

    def __init__(self, model: Path, folder: Path, *options: str) -> None:
        sizes = ["--rank=4", "--window=96", "--chunk-size=32", "--learning-rate=5e-3", "--base-window=128", "--port=0"]
        command = command_of(model, "--sessions", str(folder), *sizes, *options)
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert self.process.stderr is not None
        self.said = ""
        while not (found := re.search(r"http://127\.0\.0\.1:(\d+)/v1", self.said)):
            line = self.process.stderr.readline()
            assert line, self.said
            self.said += line
        self.port = int(found[1])
        self.url = f"http://127.0.0.1:{self.port}"

    def end(self, number: int) -> int:
        self.process.send_signal(number)
        code = self.process.wait(60)
        assert self.process.stderr is not None
        self.said += self.process.stderr.read()
        self.process.stderr.close()
        return code


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_folder(tmp_path_factory.mktemp("served") / "model")


def test_sigterm_ends_it_with_everything_on_disk(model: Path, tmp_path: Path) -> None:
    server: Any = Process(model, tmp_path, "--drain-seconds", "0.3")
    name = call(server, "GET", "/v1/models")[1]["data"][0]["id"]
    call(server, "POST", "/v1/sessions", {"name": "novel"})
    with streaming(
        server, {"model": f"novel@{name}", "prompt": TEXT, "max_tokens": 5000, "ignore_eos": True}
    ) as answer:
        answer.readline()
        assert server.end(signal.SIGTERM) == 0
        rest = answer.read().decode()
    assert '"code":"draining"' in rest
    assert "ending: no new requests" in server.said
    assert SessionStore(tmp_path).show("novel").pending > 0


def test_killed_again_and_again_nothing_shown_is_lost(model: Path, tmp_path: Path) -> None:
    """Streams of several clients; each goes on with what it was shown, under the same idempotency key."""
    many, texts = 8, {i: f"Text {i}. " + TEXT for i in range(8)}
    shown: dict[int, str] = dict.fromkeys(range(many), "")
    body = {"max_tokens": 150, "ignore_eos": True, "seed": 3, "temperature": 1.0}

    def follow(server: Any, name: str, i: int) -> bool:
        """Reads an answer until it ends, or the server does; whether it ended."""
        said, done = "", False
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
        with contextlib.closing(connection), contextlib.suppress(OSError, http.client.HTTPException):
            asked = json.dumps(body | {"model": f"text-{i}@{name}", "prompt": texts[i], "stream": True})
            connection.request("POST", "/v1/completions", asked, {"idempotency-key": f"key-{i}"})
            answer = connection.getresponse()
            assert answer.status == 200, answer.read()
            while line := answer.readline().decode():
                if line.startswith("data: {"):
                    said += json.loads(line[6:])["choices"][0]["text"]
                done = done or line.startswith("data: [DONE]")
        # What was shown before is said again first, and not otherwise.
        least = min(len(said), len(shown[i]))
        assert said[:least] == shown[i][:least]
        shown[i] = max(said, shown[i], key=len)
        return done

    ended: set[int] = set()
    for attempt in range(4 if not LONG else 50):
        server: Any = Process(model, tmp_path, "--at-work", "8")
        name = call(server, "GET", "/v1/models")[1]["data"][0]["id"]
        for i in range(many):
            call(server, "POST", "/v1/sessions", {"name": f"text-{i}"})
        with concurrent.futures.ThreadPoolExecutor(many) as pool:
            found = [pool.submit(follow, server, name, i) for i in range(many)]
            time.sleep(0.15 + 0.1 * attempt)
            server.end(signal.SIGKILL)
            ended |= {i for i, one in enumerate(found) if one.result()}
    server = Process(model, tmp_path)
    with concurrent.futures.ThreadPoolExecutor(many) as pool:
        assert all(pool.map(lambda i: follow(server, name, i), range(many)))
    for i in range(many):
        assert call(server, "GET", f"/v1/sessions/text-{i}/text")[1] == texts[i] + shown[i]
    assert server.end(signal.SIGINT) == 0


def test_a_port_that_is_taken(model: Path, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        command = command_of(model, "--port", port, "--sessions", str(tmp_path))
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert f"--port: cannot listen on 127.0.0.1, port {port}: Address already in use" in done.stderr


def test_the_world_needs_a_key(model: Path) -> None:
    command = command_of(model, "--host", "0.0.0.0")
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "--host: 0.0.0.0 can be reached from elsewhere, so --api-keys is needed" in done.stderr


def test_a_thousand_sessions_are_known_and_a_few_in_memory(tmp_path: Path) -> None:
    """And a conversation is found among them, after the server was started anew."""
    with serving(tmp_path, resident=3) as server:
        said = {"messages": [{"role": "user", "content": "The one. " + TEXT}], "max_tokens": 8}
        _, answer, headers = call(server, "POST", "/v1/chat/completions", said)
        wanted = headers["x-templora-session"]
    store = SessionStore(tmp_path)
    many = 1000 if LONG else 100
    for i in range(many):
        store.fork(wanted, f"temp-{i:012x}", chunks=0)
    with serving(tmp_path, resident=3) as server:
        assert len(call(server, "GET", "/v1/sessions")[1]["data"]) == many + 1
        said["messages"] += [answer["choices"][0]["message"], {"role": "user", "content": "And?"}]
        began = time.monotonic()
        assert call(server, "POST", "/v1/chat/completions", said)[2]["x-templora-session"] == wanted
        assert time.monotonic() - began < 30
        assert server.directory.in_memory == 1


def test_how_many_fit_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = chatty_engine()
    assert that_fit(engine, small()) == 64
    monkeypatch.setattr("templora.server.directory.available", lambda: 4e6)
    many = [that_fit(engine, small(rank=rank)) for rank in (1, 8, 32)]
    assert 64 > many[0] > many[1] > many[2] >= 1


def test_random_clients(tmp_path: Path) -> None:
    """Some leave at once, some in the middle, some send what is no request: nothing breaks, nothing is left over."""
    count, chance = 1000 if LONG else 120, random.Random(5)
    with serving(tmp_path, stall_seconds=2.0, seconds=5.0) as server:
        for i in range(3):
            call(server, "POST", "/v1/sessions", {"name": f"text-{i}"})
        call(server, "POST", "/v1/completions", {"model": "tiny", "prompt": "x", "max_tokens": 2})
        threads, files = threading.active_count(), len(list(Path("/proc/self/fd").iterdir()))

        def client(seed: int) -> str:
            own = random.Random(seed)
            model = own.choice(["tiny", "tiny:temp", *(f"text-{i}@tiny" for i in range(3))])
            body = json.dumps({"model": model, "prompt": TEXT[: own.randrange(1, 100)], "draft": False, "stream": True,
                               "max_tokens": own.randrange(1, 60)}).encode()  # fmt: skip
            kind = own.choice(["ends", "leaves", "leaves at once", "no JSON", "no HTTP", "half a body"])
            if kind == "no JSON":
                body = body[: own.randrange(len(body))] + bytes([own.randrange(256)])
            length = len(body) + (10 if kind == "half a body" else 0)
            lines = [
                "POST /v1/completions HTTP/1.1",
                "host: 127.0.0.1",
                f"content-length: {length}",
                "connection: close",
            ]
            head = "\r\n".join([*lines, "", ""])
            with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
                connection.sendall(
                    (bytes(own.randrange(256) for _ in range(99)) if kind == "no HTTP" else head.encode()) + body
                )
                if kind in ("leaves at once", "half a body"):
                    return kind
                got = b""
                with contextlib.suppress(OSError):
                    while piece := connection.recv(4096):
                        got += piece
                        if kind == "leaves" and len(got) > 800:
                            break
            status = got[9:12].decode(errors="replace")
            if kind == "ends":
                assert status in ("200", "409", "503"), got
                assert status != "200" or got.rstrip().endswith((b"[DONE]", b"0")), got[-300:]
            elif kind in ("no JSON", "no HTTP"):
                assert status in ("", "200", "400", "409", "503"), got
            return kind

        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            kinds = set(pool.map(client, (chance.randrange(2**30) for _ in range(count))))
        assert len(kinds) == 6
        until(lambda: server.service.queue.at_work == 0 and server.service.queue.length == 0, 60)
        for i in range(3):
            assert call(server, "POST", f"/v1/sessions/text-{i}/absorb", {"text": "x"})[0] == 200
        until(lambda: len(list(Path("/proc/self/fd").iterdir())) <= files + 12, 30)
        # Workers, and of each session in memory what writes its snapshots.
        assert threading.active_count() <= threads + server.service.queue.places + 4 + server.directory.in_memory
        banks = server.directory.engine.sessions
        assert banks <= server.directory.in_memory + server.service.queue.places
