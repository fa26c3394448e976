"""Streams word for word, as clients get them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from serving import Serving, serving
from test_openai import call

from templora.events import TokenLogprobs, TopLogprob
from templora.server.errors import unavailable
from templora.server.items import Begun, Comment, Done, Item, Token

LIKELY = TokenLogprobs(-0.5, (TopLogprob(7, " sea", -0.5), TopLogprob(9, " sky", -1.25)))
SAID = [Begun(3), Comment("read 3 of 3 tokens"), Token(0, " sea", " sea", LIKELY), Comment("learning chunk 2")]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    with serving(tmp_path_factory.mktemp("sessions")) as made:
        yield made


@pytest.fixture
def stream(server: Serving, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """What is streamed where the base says some items, and then fails or does not."""

    def asked(items: list[Item], *, chat: bool = False, error: Exception | None = None, **body: Any) -> str:
        def base(_: Any, emit: Callable[[Item], None]) -> None:
            for item in items:
                emit(item)
            if error:
                raise error

        monkeypatch.setattr(server.service.runs, "base", base)
        prompt: dict[str, Any] = {"messages": [{"role": "user", "content": "x"}]} if chat else {"prompt": "x"}
        path = "/v1/chat/completions" if chat else "/v1/completions"
        status, raw, _ = call(server, "POST", path, {"model": "tiny", "stream": True, **prompt, **body})
        assert status == 200
        return re.sub(r'"created":\d+', '"created":0', re.sub(r"cmpl-[0-9a-f]{24}", "cmpl-0", raw))

    return asked


HEAD = '"id":"cmpl-0","object":"text_completion","created":0,"model":"tiny"'
CHAT = '"id":"chatcmpl-0","object":"chat.completion.chunk","created":0,"model":"tiny"'


def test_length(stream: Callable[..., str]) -> None:
    assert stream([*SAID, Done(0, "length", 1)]) == (
        ": read 3 of 3 tokens\n"
        f'data: {{{HEAD},"choices":[{{"index":0,"logprobs":null,"finish_reason":null,"text":" sea"}}]}}\n\n'
        ": learning chunk 2\n"
        f'data: {{{HEAD},"choices":[{{"index":0,"logprobs":null,"finish_reason":"length","text":""}}]}}\n\n'
        "data: [DONE]\n\n"
    )


def test_stop_with_log_probabilities_and_usage(stream: Callable[..., str]) -> None:
    said = stream([*SAID, Done(0, "stop", 1, "!")], logprobs=2, stream_options={"include_usage": True})
    assert said == (
        ": read 3 of 3 tokens\n"
        f'data: {{{HEAD},"choices":[{{"index":0,"logprobs":{{"tokens":[" sea"],"token_logprobs":[-0.5],"top_logprobs":'
        '[{" sea":-0.5," sky":-1.25}],"text_offset":[0]},"finish_reason":null,"text":" sea"}]}\n\n'
        ": learning chunk 2\n"
        f'data: {{{HEAD},"choices":[{{"index":0,"logprobs":null,"finish_reason":"stop","text":"!"}}]}}\n\n'
        f'data: {{{HEAD},"choices":[],"usage":{{"prompt_tokens":3,"completion_tokens":1,"total_tokens":4,'
        '"prompt_tokens_details":{"cached_tokens":0}}}\n\n'
        "data: [DONE]\n\n"
    )


def test_a_chat(stream: Callable[..., str]) -> None:
    assert stream([*SAID, Done(0, "stop", 1)], chat=True, logprobs=True, top_logprobs=1) == (
        f'data: {{{CHAT},"choices":[{{"index":0,"delta":{{"role":"assistant","content":""}},"logprobs":null,'
        '"finish_reason":null}]}\n\n'
        ": read 3 of 3 tokens\n"
        f'data: {{{CHAT},"choices":[{{"index":0,"logprobs":{{"content":[{{"token":" sea","logprob":-0.5,"bytes":'
        '[32,115,101,97],"top_logprobs":[{"token":" sea","logprob":-0.5,"bytes":[32,115,101,97]},'
        '{"token":" sky","logprob":-1.25,"bytes":[32,115,107,121]}]}],"refusal":null},"finish_reason":null,'
        '"delta":{"content":" sea"}}]}\n\n'
        ": learning chunk 2\n"
        f'data: {{{CHAT},"choices":[{{"index":0,"logprobs":null,"finish_reason":"stop","delta":{{}}}}]}}\n\n'
        "data: [DONE]\n\n"
    )


def test_an_error_in_mid_stream(stream: Callable[..., str]) -> None:
    """The stream ends with it, and without the line that says that all is there."""
    assert stream(SAID, error=unavailable("the disk is full", "store", 10)) == (
        ": read 3 of 3 tokens\n"
        f'data: {{{HEAD},"choices":[{{"index":0,"logprobs":null,"finish_reason":null,"text":" sea"}}]}}\n\n'
        ": learning chunk 2\n"
        'data: {"error":{"message":"the disk is full","type":"server_error","param":null,"code":"store"}}\n\n'
    )


def test_an_error_before_anything_is_said_has_a_status(server: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    def base(_: Any, emit: Callable[[Item], None]) -> None:
        raise unavailable("the disk is full", "store", 10)

    monkeypatch.setattr(server.service.runs, "base", base)
    status, said, headers = call(server, "POST", "/v1/completions", {"model": "tiny", "prompt": "x", "stream": True})
    assert (status, said["error"]["code"], headers["retry-after"]) == (503, "store", "10")
