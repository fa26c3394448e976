"""Whatever a field holds, it is answered or refused with the field's name: no error of the server's own, no hang."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
from conftest import LONG, TEXT
from hypothesis import HealthCheck, given, settings, strategies as st
from pydantic import BaseModel
from serving import Serving, serving
from test_openai import call

from templora.server import schemas

# As JSON has them: a lone half of a pair, and numbers that no other program reads, can be written there.
NASTY: list[Any] = [
    None, True, False, 0, -1, 1, 3, 2**31, 2**63, 2**64, -(2**63) - 1, 10**400, 0.5, -0.5, 1e308, -1e308, float("nan"),
    float("inf"), "", " ", "a", "-1", "\0", "\ud800", "\udfff\ud800", "\x1b[31m\x07", "\u202e", "é\u0301", "<|im_end|>",
    "x" * 5000, "../../etc/passwd", "[1", [], [None], [0], [-1], [2**63], [[]], [[[]]], [""], ["\0", "\ud800"], [{}],
    {}, {"": None}, {"a": {"b": []}}, {"chunk": 2**63}, {"token": -1}, {"response": "\0"}, {"\ud800": 1}, {"1": 1e308},
    {"1": float("nan")}, [[1, float("nan")]], {"rank": 10**9}, {"chunk_size": 10**9}, {"window": 10**9}, {"rank": "x"},
    [{"role": "user", "content": "\0\ud800"}], [{"role": "\ud800", "content": "x"}], [{"role": "tool"}],
    [{"role": "user", "content": [{"type": "text"}]}], [{"role": "system", "content": "x"}],
]  # fmt: skip

TEXTS = "/v1/completions"
WHERE: list[tuple[str, str, type[BaseModel], dict[str, Any]]] = [
    ("POST", TEXTS, schemas.CompletionRequest, {"model": "tiny", "prompt": TEXT[:40], "max_tokens": 2}),
    ("POST", TEXTS, schemas.CompletionRequest, {"model": "tiny:temp", "prompt": TEXT[:40], "max_tokens": 2}),
    ("POST", TEXTS, schemas.CompletionRequest, {"model": "novel@tiny", "prompt": TEXT[:40], "max_tokens": 2}),
    ("POST", "/v1/chat/completions", schemas.ChatRequest,
     {"model": "tiny:temp", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 2}),
    ("POST", "/completion", schemas.CompletionRequest, {"prompt": TEXT[:40], "n_predict": 2}),
    ("POST", "/tokenize", schemas.TokenizeRequest, {"content": "x"}),
    ("POST", "/detokenize", schemas.DetokenizeRequest, {"tokens": [65]}),
    ("POST", "/v1/sessions", schemas.SessionRequest, {}),
    ("POST", "/v1/sessions/novel/absorb", schemas.AbsorbRequest, {"text": "x"}),
    ("POST", "/v1/sessions/novel/write", schemas.CompletionRequest, {"prompt": "x", "max_tokens": 2, "draft": False}),
    ("POST", "/v1/sessions/novel/preview", schemas.PreviewRequest, {"max_tokens": 2}),
    ("POST", "/v1/sessions/novel/score", schemas.ScoreRequest, {"text": "x"}),
    ("POST", "/v1/sessions/novel/fork", schemas.ForkRequest, {}),
    ("POST", "/v1/sessions/novel/rewind", schemas.RewindRequest, {"at": {"chunk": 0}}),
    ("POST", "/v1/sessions/novel/reseed", schemas.SeedRequest, {}),
    ("PUT", "/v1/sessions/novel/notes", schemas.NotesRequest, {"notes": "x"}),
]  # fmt: skip


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    with serving(tmp_path_factory.mktemp("sessions"), ttl=30.0) as made:
        call(made, "POST", "/v1/sessions", {"name": "novel"})
        call(made, "POST", "/v1/sessions/novel/absorb", {"text": TEXT})
        yield made


def sent(server: Serving, method: str, path: str, raw: bytes) -> tuple[int, str]:
    request = urllib.request.Request(server.url + path, raw, {"content-type": "application/json"}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def is_fine(status: int, said: str, fields: set[str]) -> None:
    """An answer, or a refusal that names one of these fields; in a stream, too."""
    assert status < 500, said
    assert "Traceback" not in said
    refusals = [json.loads(said)] if status >= 400 else []
    refusals += [json.loads(line[6:]) for line in said.split("\n") if line.startswith('data: {"error"')]
    for refusal in refusals:
        error = refusal["error"]
        assert error["type"] != "server_error", said
        assert error["param"] in fields or error["code"] == "invalid_json" or status in (404, 409), said


@pytest.mark.parametrize("at", range(len(WHERE)), ids=[f"{path} {body.get('model', '')}" for _, path, _, body in WHERE])
def test_every_field(server: Serving, at: int) -> None:
    method, path, model, body = WHERE[at]
    names = sorted(model.model_fields)
    fields = {*names, "max_tokens", "messages", "config", "name", "at", *_options()}

    @settings(max_examples=400 if LONG else 60, deadline=None, derandomize=not LONG,
              suppress_health_check=[HealthCheck.too_slow])  # fmt: skip
    @given(st.dictionaries(st.sampled_from(names), st.sampled_from(NASTY), min_size=1, max_size=2))
    def check(said: dict[str, Any]) -> None:
        began = time.monotonic()
        status, answer = sent(server, method, path, json.dumps({**body, **said}).encode())
        is_fine(status, answer, fields)
        assert time.monotonic() - began < 30

    check()
    assert call(server, "GET", "/healthz")[0] == 200


def _options() -> set[str]:
    """Names that the library refuses by."""
    from dataclasses import fields

    from templora import SamplingParams, TempLoraConfig

    return {field.name for kind in (SamplingParams, TempLoraConfig) for field in fields(kind)}


@pytest.mark.parametrize("name", ["\0", "%00", "..", "../x", "x" * 300, "%F0%9F%98%80", "a%2Fb", " "])
def test_names_of_sessions(server: Serving, name: str) -> None:
    quoted = urllib.request.quote(name, safe="%")  # type: ignore[attr-defined]
    for method, path in (("GET", ""), ("DELETE", ""), ("POST", "/rewind"), ("GET", "/text"), ("POST", "/write")):
        status, said = sent(server, method, f"/v1/sessions/{quoted}{path}", b'{"at": {"chunk": 0}}')
        assert status in (400, 404, 405), said
    for wrong in (name, "a b", "", ".x"):
        assert call(server, "POST", "/v1/sessions", {"name": wrong})[1]["error"]["param"] == "name"
    assert call(server, "POST", "/v1/completions", {"model": f"{name}@tiny", "prompt": "x"})[0] == 404


def test_a_name_that_no_header_can_hold(server: Serving) -> None:
    """It is quoted there, and the client may say it as it was told."""
    body = {"model": "tiny:temp", "prompt": "x", "max_tokens": 1}
    status, _, headers = call(server, "POST", TEXTS, body | {"session": "Привет", "Поле": 1})
    assert (status, headers["x-templora-session"][:3], headers["x-templora-ignored"][:3]) == (200, "%D0", "%D0")
    told = {"x-templora-session": headers["x-templora-session"]}
    assert call(server, "POST", TEXTS, body, **told)[2]["x-templora-session"] == headers["x-templora-session"]
    assert call(server, "GET", "/v1/sessions/%D0%9F%D1%80%D0%B8%D0%B2%D0%B5%D1%82")[1]["id"] == "Привет"


def test_an_adapter_that_is_none(server: Serving) -> None:
    for raw in (b"", b"GGUF", b"GGUF" + b"\xff" * 100, b"\0" * 1000):
        status, said = sent(server, "PUT", "/v1/sessions/novel/adapter", raw)
        assert (status, json.loads(said)["error"]["param"]) == (400, "adapter")


def test_what_is_too_much(server: Serving) -> None:
    """A body of 100 MB, ten thousand messages, a very deep one, a prompt of a megabyte."""
    began = time.monotonic()
    try:
        status, said = sent(server, "POST", TEXTS, b'{"prompt": "' + b"x" * 100_000_000 + b'"}')
        assert (status, json.loads(said)["error"]["code"]) == (413, "request_too_large")
    except OSError:  # it does not listen to the end
        pass
    messages = [{"role": ("user", "assistant")[i % 2], "content": f"{i}"} for i in range(9_999)]
    said_much = {"model": "tiny", "messages": messages, "max_tokens": 1}
    status, answer, _ = call(server, "POST", "/v1/chat/completions", said_much)
    assert (status, answer["error"]["param"]) == (400, "messages")
    status, answer, _ = call(server, "POST", TEXTS, {"model": "tiny", "prompt": "x" * 1_000_000})
    assert (status, answer["error"]["param"]) == (400, "prompt")
    assert sent(server, "POST", TEXTS, b'{"prompt": ' + b"[" * 100_000 + b"}")[0] == 400
    assert time.monotonic() - began < 60
    assert call(server, "GET", "/healthz")[0] == 200
