"""The API through OpenAI's own client: shapes, streams, errors, and what sessions do meanwhile."""

from __future__ import annotations

import json
import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from conftest import TEXT, small
from serving import Serving, serving

from templora.sampling import SamplingParams


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    with serving(tmp_path_factory.mktemp("sessions"), resident=6) as made:
        yield made


@pytest.fixture
def client(server: Serving) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)


def call(server: Serving, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any, Any]:
    """Status, what was answered (JSON if it is), and its headers."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(
        server.url + path, data, {"content-type": "application/json", **headers}, method=method
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            raw, status, told = answer.read(), answer.status, answer.headers
    except urllib.error.HTTPError as error:
        with error:
            raw, status, told = error.read(), error.code, error.headers
    try:
        return status, json.loads(raw), told
    except ValueError:
        return status, raw.decode(errors="replace"), told


# Answers of whole characters: bytes of others are shown as U+FFFD, which, given back, are other bytes.
ASCII = {str(byte): -100.0 for byte in range(128, 256)}
PLAIN = SamplingParams(temperature=0, repetition_penalty=1.0, min_p=0.0)


def test_models(client: openai.OpenAI, server: Serving) -> None:
    assert [m.id for m in client.models.list()][:2] == ["tiny", "tiny:temp"]
    assert client.models.retrieve("tiny:temp").id == "tiny:temp"
    with pytest.raises(openai.NotFoundError, match="did you mean 'tiny'"):
        client.models.retrieve("tinny")


def test_the_base_answers_as_the_library_does(client: openai.OpenAI, server: Serving) -> None:
    with server.directory.engine.session(small(learning="off", window=128, chunk_size=64)) as session:
        wanted = session.write(TEXT, max_new_tokens=40, sampling=PLAIN, stop_at_end=True)
    said = client.completions.create(model="tiny", prompt=TEXT, max_tokens=40, temperature=0)
    assert said.choices[0].text == wanted
    assert said.choices[0].finish_reason in ("length", "stop")
    assert said.usage is not None
    assert (said.usage.prompt_tokens, said.usage.completion_tokens) == (len(TEXT), 40)
    pieces = client.completions.create(model="tiny", prompt=TEXT, max_tokens=40, temperature=0, stream=True)
    assert "".join(piece.choices[0].text for piece in pieces) == wanted


def test_seeds_choices_and_several_prompts(client: openai.OpenAI) -> None:
    how: dict[str, Any] = {"model": "tiny", "max_tokens": 12, "temperature": 1.0, "seed": 5}
    said = client.completions.create(prompt=["It was", "The best"], n=2, **how)
    assert [c.index for c in said.choices] == [0, 1, 2, 3]
    assert said.choices[0].text != said.choices[1].text
    assert client.completions.create(prompt="It was", **how).choices[0].text == said.choices[0].text


def test_stop_texts_across_tokens_are_never_shown(client: openai.OpenAI) -> None:
    how: dict[str, Any] = {"model": "tiny", "prompt": TEXT, "max_tokens": 60, "temperature": 0}
    whole = client.completions.create(**how).choices[0].text
    stop = whole[20:23]
    end = whole.index(stop)
    assert client.completions.create(stop=[stop], **how).choices[0].text == whole[:end]
    pieces = list(client.completions.create(stop=[stop], stream=True, **how))
    assert "".join(p.choices[0].text for p in pieces) == whole[:end]
    assert [p.choices[0].finish_reason for p in pieces][-1] == "stop"
    assert all(p.choices[0].finish_reason is None for p in pieces[:-1])


@pytest.mark.parametrize("tokens", [False, True])
def test_echo_and_logprobs_in_the_old_shape(client: openai.OpenAI, server: Serving, tokens: bool) -> None:
    prompt: Any = list(b"It was the best") if tokens else "It was the best"
    said = client.completions.create(model="tiny", prompt=prompt, max_tokens=1, temperature=0, echo=True, logprobs=3)
    logprobs = said.choices[0].logprobs
    assert said.choices[0].text[:15] == "It was the best"
    assert logprobs is not None
    assert logprobs.tokens is not None
    assert logprobs.token_logprobs is not None
    assert logprobs.top_logprobs is not None
    assert logprobs.tokens[:15] == list("It was the best")
    assert logprobs.text_offset == list(range(16))
    assert logprobs.token_logprobs[0] is None  # nothing stands before it
    for name, value, top in zip(
        logprobs.tokens[1:], logprobs.token_logprobs[1:], logprobs.top_logprobs[1:], strict=True
    ):
        assert len(top) == 3 or "\ufffd" in top
        assert (value == max(top.values())) == (top.get(name) == max(top.values()))
    found = server.directory.engine.likelihood("I", "t was the best")
    assert -sum(v for v in logprobs.token_logprobs[1:15] if v is not None) == pytest.approx(found.nll, abs=1e-3)


def test_only_the_prompt_is_read(client: openai.OpenAI) -> None:
    said = client.completions.create(model="tiny", prompt="It was", max_tokens=0, echo=True, logprobs=0)
    assert said.choices[0].text == "It was"
    assert said.choices[0].logprobs is not None
    assert len(said.choices[0].logprobs.token_logprobs or []) == 6


def test_logprobs_of_chats_while_streaming(client: openai.OpenAI) -> None:
    how: dict[str, Any] = {
        "model": "tiny", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 8, "temperature": 0,
        "logprobs": True, "top_logprobs": 2,
    }  # fmt: skip
    said = client.chat.completions.create(**how).choices[0]
    assert said.logprobs is not None
    assert said.logprobs.content is not None
    assert all(len(t.top_logprobs) == 2 and t.logprob == t.top_logprobs[0].logprob for t in said.logprobs.content)
    pieces = [p.choices[0] for p in client.chat.completions.create(stream=True, **how)]
    streamed = [t for p in pieces if p.logprobs for t in p.logprobs.content or []]
    assert [t.token for t in streamed] == [t.token for t in said.logprobs.content]
    assert pieces[0].delta.role == "assistant"


def test_usage_in_a_stream_only_if_asked_for(client: openai.OpenAI) -> None:
    how: dict[str, Any] = {"model": "tiny", "prompt": "It was", "max_tokens": 5, "stream": True}
    assert all(piece.choices and piece.usage is None for piece in client.completions.create(**how))
    last = list(client.completions.create(stream_options={"include_usage": True}, **how))[-1]
    assert last.choices == []
    assert last.usage is not None


@pytest.mark.parametrize(
    ("body", "param", "why"),
    [
        ({"temperature": -1}, "temperature", "at least 0"),
        ({"temperature": "warm"}, "temperature", "number"),
        ({"logprobs": 21}, "logprobs", "0 to 20"),
        ({"n": 0}, "n", "from 1 to 128"),
        ({"max_tokens": 0}, "max_tokens", "at least 1"),
        ({"max_tokens": 10**6}, "max_tokens", "at most 2,000"),
        ({"prompt": "It was " * 100}, "prompt", "a session reads any number"),
        ({"prompt": []}, "prompt", "holds nothing"),
        ({"prompt": [999]}, "prompt", "the model knows 0 to 259"),
        ({"tools": [{"type": "function"}]}, "tools", "not supported"),
        ({"logit_bias": {"x": 1}}, "logit_bias", "ids of tokens"),
        ({"logit_bias": {"999": 1}}, "logit_bias", "there is no token 999"),
        ({"model": "gpt-4"}, "model", "there is no model"),
    ],
)
def test_what_is_refused(server: Serving, body: dict[str, Any], param: str, why: str) -> None:
    status, said, _ = call(server, "POST", "/v1/completions", {"model": "tiny", "prompt": "It was", **body})
    assert status == (404 if "model" in body else 400)
    assert said["error"]["param"] == param
    assert why in said["error"]["message"]


def test_what_is_no_request(server: Serving) -> None:
    for raw in (b"{", b"[1]", b"\xff", b"[" * 100_000):
        request = urllib.request.Request(f"{server.url}/v1/completions", raw, {"content-type": "application/json"})
        with pytest.raises(urllib.error.HTTPError) as error:
            urllib.request.urlopen(request, timeout=60)
        with error.value as answer:
            assert answer.code == 400
            assert json.loads(answer.read())["error"]["type"] == "invalid_request_error"
    assert call(server, "GET", "/v1/nothing")[0] == 404
    assert call(server, "GET", "/v1/completions")[0] == 405


def test_unknown_fields_are_named(server: Serving) -> None:
    body = {"model": "tiny", "prompt": "It was", "max_tokens": 1, "mirostat": 0, "rep_pen_slope": 1, "tools": []}
    status, _, headers = call(server, "POST", "/v1/completions", body)
    assert (status, headers["x-templora-ignored"]) == (200, "rep_pen_slope")


def test_a_conversation_is_found_again_and_learnt(client: openai.OpenAI, server: Serving) -> None:
    talk: list[Any] = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": TEXT}]
    first = client.chat.completions.with_raw_response.create(model="tiny:temp", messages=talk, max_tokens=20)
    name, said = first.headers["x-templora-session"], first.parse().choices[0].message.content
    known = server.directory.tenant("").known[name]
    assert known.saved is not None
    assert known.saved.notes == "<|im_start|>system\nBe brief.<|im_end|>\n"
    before = list(known.saved.tokens)
    talk += [{"role": "assistant", "content": said}, {"role": "user", "content": "Go on. " + TEXT}]
    second = client.chat.completions.with_raw_response.create(model="tiny:temp", messages=talk, max_tokens=20)
    assert second.headers["x-templora-session"] == name
    assert int(second.headers["x-templora-version"]) > 2
    assert known.saved.tokens[: len(before)] == before
    # The last answer anew: what came of the first is taken back.
    again = client.chat.completions.with_raw_response.create(model="tiny:temp", messages=talk, max_tokens=20)
    assert again.headers["x-templora-session"] == name
    text = known.saved.text
    assert again.parse().choices[0].message.content in text
    assert text.count("Go on. ") == 1
    # Another conversation is another session, and the title of this one is nobody's.
    other = client.chat.completions.with_raw_response.create(
        model="tiny:temp", messages=[{"role": "user", "content": "Something else"}], max_tokens=5
    )
    assert other.headers["x-templora-session"] != name
    title = client.chat.completions.with_raw_response.create(
        model="tiny:temp", messages=[{"role": "user", "content": "A title for this chat"}], max_tokens=5,
        extra_headers={"X-Templora-Session": name},
    )  # fmt: skip
    assert title.headers["x-templora-kept"] == "no"
    assert known.saved.text == text


def test_a_stream_while_chunks_are_learnt(client: openai.OpenAI, server: Serving) -> None:
    """Comments say what is done meanwhile; the client passes over them."""
    talk: list[Any] = [{"role": "user", "content": "Learn this: " + TEXT * 2}]
    how: dict[str, Any] = {
        "model": "tiny:temp",
        "messages": talk,
        "max_tokens": 100,
        "extra_body": {"ignore_eos": True},
    }
    pieces = list(client.chat.completions.create(stream=True, **how))
    said = "".join(piece.choices[0].delta.content or "" for piece in pieces)
    assert pieces[-1].choices[0].finish_reason == "length"
    body = {
        "model": "tiny:temp",
        "messages": [*talk, {"role": "assistant", "content": said}, talk[0]],
        "max_tokens": 70,
    }
    raw = call(server, "POST", "/v1/chat/completions", body | {"stream": True, "ignore_eos": True})[1]
    assert "\n: learning chunk " in raw
    assert re.search(r"\n: chunk \d+: learnt, version \d+\n", raw)
    assert re.search(r"\nid: \d+\ndata: ", raw)


def test_a_text_is_found_again_and_edited(client: openai.OpenAI, server: Serving) -> None:
    def go_on(prompt: str, **how: Any) -> tuple[str | None, str]:
        said = client.completions.with_raw_response.create(
            model="tiny:temp", prompt=prompt, max_tokens=20, logit_bias=ASCII, **how
        )
        return said.headers.get("x-templora-session"), said.parse().choices[0].text

    book = "One: " + TEXT * 3
    name, first = go_on(book)
    assert name is not None
    known = server.directory.tenant("").known[name]
    assert known.saved is not None
    assert known.saved.text == book + first
    assert go_on(book + first)[0] == name
    other, again = go_on(book)  # the last answers anew
    assert other == name
    assert known.saved.text == book + again
    assert go_on(book[60:] + again + " And")[0] == name  # without its beginning
    assert known.saved.text.startswith(book + again + " And")
    edited = book[:-50] + "the end. "
    assert go_on(edited)[0] == name
    assert known.saved.text.startswith(edited)
    kept = known.saved.text
    assert go_on("Summarize: " + edited, extra_body={"learn": False})[0] is None
    assert known.saved.text == kept


def test_named_sessions(client: openai.OpenAI, server: Serving) -> None:
    status, made, _ = call(
        server, "POST", "/v1/sessions", {"name": "novel", "notes": "Ann is old.", "metadata": {"a": 1}}
    )
    assert (status, made["id"], made["notes"], made["metadata"]) == (201, "novel", "Ann is old.", {"a": 1})
    assert call(server, "POST", "/v1/sessions", {"name": "novel"})[0] == 409
    said = client.completions.create(model="novel@tiny", prompt=TEXT * 2, max_tokens=40, temperature=0)
    assert said.id.startswith("cmpl-")
    on = client.completions.create(model="novel@tiny", prompt="", max_tokens=10, temperature=0)
    text = call(server, "GET", "/v1/sessions/novel/text")[1]
    assert text == TEXT * 2 + said.choices[0].text + on.choices[0].text
    about = call(server, "GET", "/v1/sessions/novel")[1]
    assert about["tokens"] == len(TEXT) * 2 + 50
    assert about["chunks"] == about["tokens"] // 32
    assert any(m.id == "novel@tiny" for m in client.models.list())
    status, fork, _ = call(server, "POST", "/v1/sessions/novel/fork", {"name": "other", "at": {"response": said.id}})
    assert (status, fork["tokens"], fork["parent"]) == (201, len(TEXT) * 2, "novel")
    moments = call(server, "GET", "/v1/sessions/novel/tree")[1]["data"]
    assert {m["kind"] for m in moments} == {"chunk", "response"}
    back = call(server, "POST", "/v1/sessions/novel/rewind", {"at": {"chunk": 2}})[1]
    assert (back["tokens"], back["chunks"]) == (64, 2)
    score = call(server, "POST", "/v1/sessions/other/score", {"text": TEXT, "tokens": True, "top": 2})[1]
    assert score["count"] == len(TEXT) == len(score["tokens"])
    assert score["nll"]["base"] != score["nll"]["adapted"]
    assert score["tokens"][0]["adapted"]["top"][0].keys() == {"text", "logprob"}
    assert call(server, "POST", "/v1/sessions/other/reseed", {"seed": 3})[1]["seed"] == 3
    assert call(server, "PUT", "/v1/sessions/other/notes", {"notes": "Bob is young."})[0] == 200
    assert call(server, "POST", "/v1/sessions/other/commit", {})[1]["tokens"] == len(TEXT) * 2
    gone = call(server, "DELETE", "/v1/sessions/other")[1]
    assert gone["deleted"]
    assert gone["base_unchanged"]
    assert call(server, "GET", "/v1/sessions/other")[0] == 404
    with pytest.raises(openai.NotFoundError, match="did you mean 'novel'"):
        client.completions.create(model="novl@tiny", prompt="x")


def test_absorb_tells_what_it_does(server: Serving) -> None:
    call(server, "POST", "/v1/sessions", {"name": "read"})
    _, raw, _ = call(server, "POST", "/v1/sessions/read/absorb", {"text": TEXT})
    events = [json.loads(line[6:]) for line in raw.splitlines() if line.startswith("data: {")]
    kinds = {event["type"] for event in events}
    assert kinds == {"Absorbed", "ChunkLearned"}
    assert raw.rstrip().endswith("data: [DONE]")
    _, log, _ = call(server, "GET", "/v1/sessions/read/events?after=0")
    assert '"kind":"given"' in log
    status, raw, _ = call(server, "GET", "/v1/sessions/read/adapter")
    assert status == 200


def test_the_same_request_again_is_the_same_answer(server: Serving) -> None:
    call(server, "POST", "/v1/sessions", {"name": "once"})
    body = {"model": "once@tiny", "prompt": TEXT, "max_tokens": 20}
    first = call(server, "POST", "/v1/completions", body, **{"Idempotency-Key": "k1"})[1]
    again = call(server, "POST", "/v1/completions", body, **{"Idempotency-Key": "k1"})[1]
    assert again["choices"][0]["text"] == first["choices"][0]["text"]
    assert again["usage"]["completion_tokens"] == first["usage"]["completion_tokens"]
    status, said, headers = call(
        server, "POST", "/v1/completions", body | {"max_tokens": 9}, **{"Idempotency-Key": "k1"}
    )
    assert (status, said["error"]["code"], headers["x-should-retry"]) == (409, "idempotency_mismatch", "false")


def test_alternatives_in_a_session_are_not_kept(client: openai.OpenAI, server: Serving) -> None:
    call(server, "POST", "/v1/sessions", {"name": "several"})
    how: dict[str, Any] = {"model": "several@tiny", "max_tokens": 10, "logit_bias": ASCII}
    said = client.completions.create(prompt=TEXT, n=3, **how)
    assert len({c.text for c in said.choices}) > 1
    assert call(server, "GET", "/v1/sessions/several/text")[1] == TEXT
    client.completions.create(prompt=TEXT + said.choices[1].text, **how)
    assert call(server, "GET", "/v1/sessions/several/text")[1].startswith(TEXT + said.choices[1].text)


def test_tokens_and_llama_cpp(server: Serving) -> None:
    said = call(server, "POST", "/tokenize", {"model": "tiny", "prompt": "<|im_start|>Hé"})[1]
    assert said == {"tokens": [257, *"Hé".encode()], "count": 4, "max_model_len": 128}
    assert call(server, "POST", "/detokenize", {"tokens": said["tokens"]})[1]["content"] == "<|im_start|>Hé"
    pieces = call(server, "POST", "/tokenize", {"content": "a", "with_pieces": True})[1]["tokens"]
    assert pieces == [{"id": 97, "piece": "a"}]
    assert call(server, "GET", "/tokenizer_info")[1]["eos_token"] == "<|endoftext|>"
    assert "im_start" in call(server, "GET", "/props")[1]["chat_template"]
    body = {
        "prompt": "It was",
        "n_predict": 6,
        "ignore_eos": True,
        "n_probs": 2,
        "stream": True,
        "repeat_penalty": 1.1,
        "dry_penalty_last_n": -1,
    }
    _, raw, _ = call(server, "POST", "/completion", body)
    events = [json.loads(line[6:]) for line in raw.splitlines() if line.startswith("data: ")]
    assert [e["stop"] for e in events] == [False] * (len(events) - 1) + [True]
    assert events[-1]["tokens_predicted"] == 6
    assert len(events[0]["completion_probabilities"][0]["top_logprobs"]) == 2


def test_health_and_metrics(server: Serving) -> None:
    assert call(server, "GET", "/healthz")[1] == {"status": "ok"}
    assert call(server, "GET", "/readyz")[0] == 200
    said = call(server, "GET", "/metrics")[1]
    assert 'templora_tokens_total{kind="written"}' in said
    assert "novel" not in said


def test_a_preview_says_what_would_be_written_and_keeps_nothing(server: Serving) -> None:
    """From before an answer: what the base would have written there, which an adapter that has learnt nothing does."""
    call(server, "POST", "/v1/sessions", {"name": "look", "config": {"learning": "off"}})
    how = {"max_tokens": 20, "ignore_eos": True, "logit_bias": ASCII, "temperature": 1.5}
    answer = call(server, "POST", "/v1/completions", {"model": "look@tiny", "prompt": TEXT, **how})[1]
    call(server, "POST", "/v1/completions", {"model": "look@tiny", "prompt": "", **how})
    before = call(server, "GET", "/v1/sessions/look/text")[1]
    for asked in ({"base": True}, {"base": False}):
        at = {"at": {"response": answer["id"]}}
        found = call(server, "POST", "/v1/sessions/look/preview", {**at, **how, **asked})[1]
        items = [json.loads(line[6:]) for line in found.split("\n") if line.startswith("data: {")]
        assert [item["type"] for item in (items[0], items[-1])] == ["Begun", "Done"]
        assert "".join(i["text"] for i in items if i["type"] == "Token") == answer["choices"][0]["text"]
    assert call(server, "GET", "/v1/sessions/look/text")[1] == before
    for wrong in ({"seed": 3}, {"n": 2}, {"prompt": "x"}, {"at": {"chunk": 99}}):
        said = call(server, "POST", "/v1/sessions/look/preview", {**how, **wrong})[1]
        (error,) = [json.loads(line[6:])["error"] for line in said.split("\n") if line.startswith('data: {"error"')]
        assert error["param"] == next(iter(wrong))
