"""Whatever a `SavedSession` is called with, its log holds nothing that cannot be read and done again."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fuzzing import fuzzed
from hypothesis import given, strategies as st

from templora.config import TempLoraConfig
from templora.engine.engine import Engine
from templora.errors import SessionClosed, StoreError, TemploraError
from templora.events import TokenEvent
from templora.sampling import SamplingParams
from templora.store.log import Log
from templora.store.saved import SavedSession
from templora.store.store import SessionStore
from templora.testing import tiny_engine

CONFIG = TempLoraConfig(window=64, chunk_size=32, rank=2, alpha=2.0, learning_rate=0.01)
TEXT = "The keeper climbed the stairs, and the lamp was lit. "


@pytest.fixture(scope="module")
def engine() -> Engine:
    return tiny_engine()


@pytest.fixture
def store(tmp_path: Path) -> SessionStore:
    return SessionStore(tmp_path / "sessions")


def check(store: SessionStore, engine: Engine, text: str) -> list[str]:
    """That it can be read, opened, branched and taken back; the notes of opening it."""
    assert store.history("novel").text == text
    assert not store.show("novel").problem
    with store.open("novel", engine) as saved:
        assert saved.text == text
        notes = saved.remarks
        json.dumps(store.report("novel"))
    for name in ("fork", "rewound"):
        with contextlib.suppress(StoreError):
            store.discard(name)
        store.fork("novel", name)
        assert store.history(name).text == text
    store.rewind("rewound", 0)
    return notes


@pytest.mark.parametrize("name", ["a\0b", "\ud800"])
def test_a_folder_that_nothing_can_have_is_an_error_of_ours(name: str, tmp_path: Path, store: SessionStore) -> None:
    with pytest.raises(StoreError, match=r"null byte|can.t encode"):
        SessionStore(tmp_path / name)
    store.folder.mkdir()
    with pytest.raises(StoreError, match=r"null byte|can.t encode"):
        store.check_outside(tmp_path / name)


REFUSED: list[Callable[[SavedSession], Any]] = [
    lambda s: s.write("x", max_new_tokens=0),
    lambda s: s.write("x", max_new_tokens=5.0),  # type: ignore[arg-type]
    lambda s: s.write("x", max_new_tokens=True),
    lambda s: s.write("x", max_new_tokens=10**40),
    lambda s: s.write("x", max_new_tokens=10**5000),  # more digits than Python prints
    lambda s: s.write("x", max_new_tokens="5"),  # type: ignore[arg-type]
    lambda s: s.write("x", stop_at_end=None),  # type: ignore[arg-type]
    lambda s: s.write("x", score="no"),
    lambda s: s.write("x", learn_prompt=[]),
    lambda s: s.write("x", chat=True),
    lambda s: s.write("x", chat=2),
    lambda s: s.write(b"x"),  # type: ignore[arg-type]
    lambda s: s.write("\ud800"),
    lambda s: s.write("x", sampling={"temperature": 1}),
    lambda s: s.write("x", sampling=0),
    lambda s: s.write("x", sampling=SamplingParams(temperature=10**400)),
    lambda s: s.write("x", sampling=SamplingParams(n=2)),
    lambda s: s.write("x", sampling=SamplingParams(logit_bias={260: 1})),
    lambda s: s.write("x", sampling=SamplingParams(logit_bias=dict.fromkeys(range(260), -100))),
    lambda s: s.absorb(None),  # type: ignore[arg-type]
    lambda s: s.absorb("a" * 40 + "\udfff"),
    lambda s: s.absorb("hello", learn="no"),  # type: ignore[arg-type]
    lambda s: s.absorb("hello", learn=2),  # type: ignore[arg-type]
    lambda s: list(s.absorb_parts([("a", True), (b"b", True)])),  # type: ignore[list-item]
    lambda s: list(s.absorb_parts([("a", True)], mark={"x": {1, 2}})),
    lambda s: s.reseed(2**64),
    lambda s: s.reseed(-(2**63) - 1),
    lambda s: s.reseed(1.5),  # type: ignore[arg-type]
    lambda s: s.reseed(None),  # type: ignore[arg-type]
    lambda s: s.mark(["here"]),  # type: ignore[arg-type]
    lambda s: s.mark({"x": object()}),
    lambda s: s.mark({"x": functools.reduce(lambda inner, _: [inner], range(900), 1)}),
    lambda s: s.mark({"x": 10**5000}),
    lambda s: s.load_adapter(None),  # type: ignore[arg-type]
    lambda s: s.load_adapter("nowhere\0"),
]
TAKEN: list[Callable[[SavedSession], Any]] = [
    lambda s: s.write("x", max_new_tokens=np.int64(3), score=np.True_, stop_at_end=1),  # type: ignore[arg-type]
    lambda s: s.write("x", max_new_tokens=3, sampling=SamplingParams(top_k=2.0, repetition_penalty=2)),  # type: ignore[arg-type]
    lambda s: s.write("x", max_new_tokens=3, sampling=SamplingParams(temperature=np.float32(0.5))),
    lambda s: s.absorb("hello", learn=np.False_),  # type: ignore[arg-type]
    lambda s: s.absorb(""),
    lambda s: s.reseed(-1),
    lambda s: s.reseed(np.uint64(2**64 - 1)),  # type: ignore[arg-type]
    lambda s: s.mark({"file": "/a/book.epub", "text": 5, "kind": "token", "ids": [1], "to": -1}),
    lambda s: s.mark({"text": "no part of the text", "x": float("nan"), "y": "\ud800", 7: (1, 2)}),
    lambda s: s.session.absorb("past its log, " * 5) or s.absorb("x"),
    lambda s: s.session.absorb("past its log, " * 5),
    lambda s: s.session.absorb("past its log, " * 5) or s.snapshot(),
]


def test_what_is_refused_is_not_logged(store: SessionStore, engine: Engine) -> None:
    with store.create("novel", engine, CONFIG) as saved:
        saved.absorb(TEXT)
        length = saved.log.length
        for misuse in REFUSED:
            with pytest.raises(TemploraError):
                misuse(saved)
            assert saved.log.length == length
        saved.absorb("On.")
    assert not check(store, engine, TEXT + "On.")


def test_what_is_taken_can_be_done_again(store: SessionStore, engine: Engine) -> None:
    for begin, end in ((0, 9), (9, 10), (10, 11), (11, 12)):
        with store.create("novel", engine, CONFIG) as saved:
            saved.absorb(TEXT)
            for use in TAKEN[begin:end]:
                use(saved)
            saved.mark({})
            text, tokens, marks = saved.text, saved.tokens, saved.history.marks
            assert text == engine.tokenizer.decode(tokens, skip_special_tokens=True)
        assert not check(store, engine, text)
        assert repr(store.history("novel").marks) == repr(marks)  # what is there now is what will be read
        store.discard("novel")


BAD: list[Any] = [
    ("write", (), {"max_new_tokens": 5, "stop_at_end": False, "score": 1, "sampling": {}}),
    ("write", (), {"max_new_tokens": 5.0, "stop_at_end": False, "score": False, "sampling": {}}),
    ("write", (), {"max_new_tokens": 5, "stop_at_end": False, "score": False, "sampling": {"top_k": 2.5}}),
    ("write", (), {"max_new_tokens": 5, "stop_at_end": False, "score": False, "sampling": {"of_later": 1}}),
    ("write", (), {"max_new_tokens": 5, "stop_at_end": False, "score": False, "sampling": {"n": 3}}),
    ("write", (), {"max_new_tokens": 5, "stop_at_end": False, "score": False, "sampling": {"logit_bias": [[300, 1]]}}),
    ("seed", (), {"seed": 2**64}),
    ("seed", (), {"seed": True}),
    ("seed", (), {"seed": "7"}),
    ("mark", (), ["here"]),
    ("mark", (), {"file": "/a/book.epub"}),
    ("mark", (), {"file": 7}),
    ("mark", (), {"text": 5}),
    ("token", (120, 120), {"text": "xx"}),
    ("adapter", (), {"file": "../x", "sha256": ""}),
    ("learned", (), {"index": "1"}),
    ("begin", (), {"model": {}, "config": {}, "opening": []}),
    ("of a later version", (), {}),
]


@pytest.mark.parametrize("record", BAD, ids=lambda record: f"{record[0]}-{record[2]}"[:40])
def test_a_log_with_a_record_that_was_refused_is_usable(store: SessionStore, engine: Engine, record: Any) -> None:
    """As older versions left them; the session went on after it."""
    with store.create("novel", engine, CONFIG) as saved:
        saved.absorb(TEXT)
        saved.snapshot()
    with Log.open(store.folder / "novel" / "log.sqlite") as log:
        log.extend([record, ("given", tuple(b"On."), {"text": "On."})])
    notes = check(store, engine, TEXT + "On.")
    assert bool(notes) == (record[0] != "mark" or not isinstance(record[2], dict))
    with store.open("novel", engine) as saved:
        assert saved.pending == 0
        assert list(saved.resume()) == []
        saved.write(max_new_tokens=2)
        text = saved.text
    check(store, engine, text)


def test_a_write_that_cannot_be_asked_for_keeps_its_tokens(store: SessionStore, engine: Engine) -> None:
    with store.create("novel", engine, CONFIG) as saved:
        saved.absorb(TEXT)
    how = {"max_new_tokens": 50, "stop_at_end": False, "score": False, "sampling": {"temperature": "warm"}}
    with Log.open(store.folder / "novel" / "log.sqlite") as log:
        log.extend([("write", (), how), ("token", tuple(b"He saw a ship"), {"text": "He saw a ship"})])
    assert len(check(store, engine, TEXT + "He saw a ship")) == 1
    with store.open("novel", engine) as saved:
        assert list(saved.resume()) == []


def test_a_verb_that_was_left_does_not_go_on(store: SessionStore, engine: Engine) -> None:
    others: list[Callable[[SavedSession], Any]] = [
        lambda s: s.absorb("No."),
        lambda s: s.reseed(3),
        lambda s: s.close_chunk(),
        lambda s: next(s.stream("Then", max_new_tokens=3)),
    ]
    with store.create("novel", engine, CONFIG) as saved:
        saved.absorb(TEXT)
        for other in others:
            events = saved.stream(max_new_tokens=20)
            next(events)
            saved.mark({"while": "it writes"})
            assert isinstance(next(events), TokenEvent)
            other(saved)
            with pytest.raises(StoreError, match="asked for something else"):
                next(events)
        text = saved.text
    assert not check(store, engine, text)


def test_nothing_can_be_asked_of_a_closed_session(store: SessionStore, engine: Engine, tmp_path: Path) -> None:
    with store.create("novel", engine, CONFIG) as saved:
        saved.absorb(TEXT)
        running = saved.stream(max_new_tokens=9)
        next(running)
        text, tokens = saved.text, list(saved.tokens)
    verbs: list[Callable[[], Any]] = [
        lambda: saved.absorb("x"),
        lambda: saved.write("x", max_new_tokens=2),
        lambda: saved.mark({"a": 1}),
        lambda: saved.reseed(1),
        lambda: saved.close_chunk(),
        lambda: saved.snapshot(),
        lambda: list(saved.resume()),
        lambda: saved.load_adapter(tmp_path),
        lambda: saved.save_adapter(tmp_path / "adapter"),
        lambda: saved.preview("x"),
        lambda: saved.likelihood("x", "y"),
        lambda: next(running),
    ]
    for verb in verbs:
        with pytest.raises(SessionClosed):
            verb()
    saved.close()
    assert (saved.text, saved.tokens, saved.pending, saved.open_tokens) == (text, tokens, 8, len(tokens) - 32)
    assert not check(store, engine, text)


_ANY = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(), st.text(max_size=4), st.binary(max_size=4),
    st.sampled_from([np.int64(3), np.float32(0.5), np.True_, [], {}, 10**400, "\ud800", 1, 5, -1, object()]),
)  # fmt: skip
_JSON = st.recursive(
    _ANY,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
    max_leaves=5,
)
_SAMPLING = st.none() | st.dictionaries(
    st.sampled_from([field.name for field in dataclasses.fields(SamplingParams)]),
    _ANY | st.floats(0, 2) | st.integers(0, 3),
    max_size=3,
)
_WRITE = st.dictionaries(
    st.sampled_from(["max_new_tokens", "stop_at_end", "chat", "learn_prompt", "score"]), _ANY, max_size=3
)
_CALLS = st.one_of(
    st.tuples(st.just("write"), _ANY | st.just("x"), _WRITE, _SAMPLING),
    st.tuples(st.just("absorb"), _ANY | st.text(max_size=40), _ANY),
    st.tuples(st.just("parts"), st.lists(st.tuples(_ANY | st.just("xy"), _ANY | st.booleans()), max_size=3), _JSON),
    st.tuples(st.just("mark"), _JSON | st.dictionaries(st.sampled_from(["text", "file", "a"]), _ANY)),
    st.tuples(st.just("reseed"), _ANY),
    st.tuples(st.just("adapter"), _ANY),
    st.tuples(st.just("past"), st.text(max_size=40)),
    st.tuples(st.sampled_from(["close_chunk", "snapshot", "resume", "next"])),
)


def call(saved: SavedSession, running: list[Any], name: str, *with_: Any) -> None:
    if name == "write":
        prompt, how, params = with_
        running.append(
            saved.stream(prompt, **{"max_new_tokens": 3} | how, sampling=params and SamplingParams(**params))
        )
        for _ in zip(running[-1], range(5), strict=False):
            pass
    elif name == "absorb":
        saved.absorb(with_[0], learn=with_[1])
    elif name == "parts":
        list(saved.absorb_parts(with_[0], mark=with_[1]))
    elif name == "past":
        saved.session.absorb(with_[0])
    elif name == "next":
        for events in running:
            next(events, None)
    elif name == "resume":
        next(saved.resume(), None)
    else:
        {"mark": saved.mark, "reseed": saved.reseed, "adapter": saved.load_adapter}.get(
            name, lambda: getattr(saved, name)()
        )(*with_)


@given(st.lists(_CALLS, min_size=1, max_size=6), st.booleans())
@fuzzed
def test_whatever_it_is_called_with_the_same_text_opens(
    engine: Engine, tmp_path_factory: pytest.TempPathFactory, calls: list[Any], leave: bool
) -> None:
    store = SessionStore(tmp_path_factory.mktemp("arguments") / "sessions")
    with store.create("novel", engine, CONFIG) as saved:
        running: list[Any] = []
        for arguments in calls:
            with contextlib.suppress(TemploraError):
                call(saved, running, *arguments)
        if leave:
            saved.mark({})  # which brings log and session together
            text, tokens = saved.text, list(saved.tokens)
        else:
            saved.close()
            text, tokens = saved.text, list(saved.tokens)
    with store.open("novel", engine) as saved:
        assert (saved.text, saved.tokens, saved.remarks) == (text, tokens, [])
