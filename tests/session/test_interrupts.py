"""A verb that is interrupted anywhere, and gone on with, leads to what an undisturbed one does."""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from conftest import small

from templora import ChunkLearned, Finished, ModelError, SamplingParams, Session
from templora.engine.engine import Engine
from templora.kernels.thread_team import Team
from templora.kvcache.window import WindowCache
from templora.learning.guards import Written
from templora.models.runner import Row
from templora.runtime.metering import Meter
from templora.runtime.signals import _State, deferrable, deferred, safe_point
from templora.testing import byte_tokenizer, tiny_engine, tiny_model

HOT = SamplingParams(temperature=1.5)


class Stopped(BaseException):
    pass


def lines(code: str, which: Callable[[], bool]) -> Any:
    """A trace function that raises `Stopped` at a line of templora, between two steps, if `which` says so."""

    def local(frame: Any, event: str, _: Any) -> Any:
        if event == "line" and not _State.whole and _State.waiting is None and which():
            sys.settrace(None)
            raise Stopped
        return local

    def begin(frame: Any, *_: Any) -> Any:
        name = frame.f_code.co_filename
        return local if code in name and not name.endswith("signals.py") else None

    return begin


def played(engine: Engine, text: str, which: Callable[[], bool], **options: Any) -> tuple[Any, ...]:
    """Verbs one after another, each called again for what is left of it whenever it is interrupted."""
    drafts = []
    with engine.session(small(mixture=True, **options)) as session:
        ids = session.encode(text)

        def rest(most: int) -> int:
            return most - len(session.tokens)

        def write(upto: int, *stop: str) -> None:
            sampling, going_on = SamplingParams(temperature=1.5, stop=stop), len(session.tokens) > upto - 30
            list(session.stream(max_new_tokens=rest(upto), sampling=sampling, score=True, resume=going_on))

        for upto, verb in (
            (40, lambda upto: list(session.absorb_ids(ids[len(session.tokens) : upto], learn=False))),
            (40, lambda upto: drafts.append(session.preview(max_new_tokens=9, sampling=HOT))),
            (70, write),
            (110, lambda upto: list(session.score_ids(ids[-rest(upto) :]))),
            (140, lambda upto: write(upto, "\0\1\2\3")),
        ):
            for again in range(9):
                try:
                    if again < 8:
                        sys.settrace(lines("/templora/", which))
                    session.settle()
                    if rest(upto) > 0 or not drafts:
                        verb(upto)  # type: ignore[no-untyped-call]
                    break
                except Stopped:
                    continue
                finally:
                    sys.settrace(None)
        list(session.absorb_ids([]))
        return session.tokens, session.adapter_weights().tolist(), session.loop.scorer.mixture.weights, drafts[-1]


@pytest.mark.parametrize("options", [{}, {"learning": "parallel"}, {"cache_reuse": 2}], ids=str)
def test_interrupted_between_two_steps(text: str, options: dict[str, Any]) -> None:
    engine = tiny_engine()
    wanted = played(engine, text, lambda: False, **options)
    for seed in range(4):
        draw = random.Random(seed)
        assert played(engine, text, lambda draw=draw: draw.random() < 0.003, **options) == wanted  # type: ignore[misc]


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("times", [1, 2, 40])
def test_between_reading_a_token_and_appending_it(
    text: str, compiled: bool, times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one chunk, more often than the cache has room for."""
    found = []
    for interrupts in (0, times):
        with Engine(tiny_model(), byte_tokenizer(), compiled=compiled).session(small()) as session:
            left, written = interrupts, session.loop.cycle.written
            real = type(written).append

            def append(self: Written, at: int, nats: float, real: Any = real) -> None:
                nonlocal left
                if left:
                    left -= 1
                    raise KeyboardInterrupt
                real(self, at, nats)

            monkeypatch.setattr(Written, "append", append)
            session.absorb(text[:70])
            while len(session.tokens) < 120:
                try:
                    list(session.stream(max_new_tokens=120 - len(session.tokens), sampling=HOT))
                except KeyboardInterrupt:
                    cache = session.readers[0].cache
                    assert cache.length <= cache.capacity
            found.append((session.tokens, session.adapter_weights().tolist()))
    assert found[0] == found[1]


@pytest.fixture
def signals() -> Iterator[None]:
    before = signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.SIGINT))
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.usefixtures("signals")
def test_ctrl_c_at_any_moment(text: str) -> None:
    found, draw, engine = [], random.Random(1), tiny_engine()
    for limits in ((), (0.0003, 0.001, 0.004)):
        with engine.session(small()) as session:
            session.absorb(text[:70])
            for _ in range(60):
                try:
                    try:
                        if limits:
                            signal.setitimer(signal.ITIMER_REAL, draw.choice(limits) * draw.random() + 1e-5)
                        list(session.stream(max_new_tokens=150 - len(session.tokens), sampling=HOT))
                    finally:
                        signal.setitimer(signal.ITIMER_REAL, 0)
                    break
                except KeyboardInterrupt:
                    session.settle()
                if len(session.tokens) == 150:
                    break
            limits = ()
            if len(session.tokens) < 150:
                list(session.stream(max_new_tokens=150 - len(session.tokens), sampling=HOT))
            found.append((session.tokens, session.adapter_weights().tolist()))
    assert found[0] == found[1]


# Nothing is written where there is no room --------------------------------------------------------------------------


def test_the_compiled_step_writes_where_there_is_room_alone(text: str) -> None:
    with tiny_engine().session(small()) as session:
        session.write(text[:40], max_new_tokens=2)
        reader, step = session.readers[0], session.readers[0].step
        assert step is not None
        route, cache = reader.route, reader.cache
        length = cache.length
        row = lambda cache: Row(1, cache, route, step, Meter())  # noqa: E731
        step([row(cache)])
        cache.versions += [0] * (cache.capacity - length)
        with pytest.raises(ModelError, match="there is no room"):
            step([row(cache)])
        cache.truncate(length)
        for broken in (
            WindowCache(2, cache.capacity),  # of which nothing was made
            _with(cache, lambda t: t[:, :, :9]),
            _with(cache, lambda t: t.bfloat16()),
            _with(cache, lambda t: t[:, :1]),
            _with(cache, lambda t: t.transpose(2, 3)),
        ):
            with pytest.raises(ModelError, match="the window's cache is not"):
                step([row(broken)])
        short = _with(cache, torch.clone)
        short.layers = short.layers[:1]
        with pytest.raises(ModelError, match="has 1 layers"):
            step([row(short)])
        assert torch.equal(step([row(cache)])[0], step([row(_with(cache, torch.clone))])[0])


def _with(cache: WindowCache, change: Callable[[torch.Tensor], torch.Tensor]) -> WindowCache:
    """A cache whose keys and values are made from those of another."""
    made = WindowCache(len(cache), cache.capacity)
    for layer, held in zip(made.layers, cache.layers, strict=True):
        layer.keys, layer.values, layer.is_initialized = change(held.keys), change(held.values), True
    made.versions = list(cache.versions)
    return made


def test_modules_write_where_there_is_room_alone(text: str) -> None:
    with Engine(tiny_model(), byte_tokenizer(), compiled=False).session(small()) as session:
        session.absorb(text[:40])
        session.write(max_new_tokens=1)
        reader = session.readers[0]
        with pytest.raises(ModelError, match="no room for 200 tokens"):
            reader.feed([1] * 200, logits=0)
        with pytest.raises(ModelError, match="was not read"):
            reader.nll([1] * 60, 55)


def test_helpers_of_a_run_that_was_interrupted_are_waited_for() -> None:
    """Before the next begins; and what they write to is kept until they are done."""
    team, go, order = Team(2), threading.Event(), []

    def kernel(worker: int, name: str) -> None:
        if worker == 0:
            if name == "first":
                raise KeyboardInterrupt
        else:
            go.wait(5)
        order.append((name, worker))

    with pytest.raises(KeyboardInterrupt):
        team.run(kernel, "first")
    threading.Timer(0.05, go.set).start()
    team.run(kernel, "second")
    assert order[0] == ("first", 1)
    team.rest()
    assert sorted(order[1:]) == [("second", 0), ("second", 1)]


# Signals put off ----------------------------------------------------------------------------------------------------


def test_a_signal_waits_for_a_safe_point_or_the_end() -> None:
    done: list[str] = []
    before = signal.signal(signal.SIGINT, lambda *_: done.append("handled"))
    try:
        with deferrable():
            os.kill(os.getpid(), signal.SIGINT)
            with deferred():
                safe_point()
            assert done == []
            safe_point()
            assert done == ["handled"]
            os.kill(os.getpid(), signal.SIGINT)  # again: at once
            assert done == ["handled"] * 2
        with deferrable(), deferrable():
            os.kill(os.getpid(), signal.SIGINT)
            assert len(done) == 2
        assert len(done) == 3
    finally:
        signal.signal(signal.SIGINT, before)


def test_ctrl_c_ends_a_long_pass_at_its_next_layer(text: str) -> None:
    with tiny_engine().session(small()) as session:
        session.absorb(text[:20])
        calls = []

        def hook(*_: Any) -> None:
            calls.append(1)
            if len(calls) == 1:
                os.kill(os.getpid(), signal.SIGINT)

        handle = session.engine.model.decoder.layers[0].register_forward_hook(hook)  # type: ignore[union-attr]
        with pytest.raises(KeyboardInterrupt):
            session.score(text[20:60])
        handle.remove()
        assert len(calls) == 1
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_discard_that_is_interrupted_is_whole(text: str) -> None:
    session: Session = tiny_engine().session(small())
    assert isinstance(list(session.stream(text[:20], max_new_tokens=3))[-1], Finished)
    before = signal.signal(signal.SIGINT, lambda *_: (_ for _ in ()).throw(Stopped()))
    try:
        real = session.engine.release
        session.engine.release = lambda *a: (os.kill(os.getpid(), signal.SIGINT), real(*a))[1]  # type: ignore[method-assign, assignment]
        with pytest.raises(Stopped):
            session.discard()
    finally:
        signal.signal(signal.SIGINT, before)
    receipt = session.discard()
    assert receipt.base_unchanged
    assert receipt.discarded


def test_what_nobody_was_told_of_is_told_by_the_next_verb(text: str) -> None:
    """A signal that comes when a chunk is learnt already, and before its event has reached the caller."""
    for stop in ((), ("\0\1",)):
        engine = tiny_engine()
        with engine.session(small()) as session, pytest.MonkeyPatch.context() as patch:
            told, sampling = list[Any](), SamplingParams(temperature=1.5, stop=stop)
            session.absorb(text[:20])
            real, left = type(session.loop.text).close, [1]

            def close(self: Any, chunk: Any, real: Any = real, left: list[int] = left) -> None:
                real(self, chunk)
                if left[0]:
                    left[0] -= 1
                    os.kill(os.getpid(), signal.SIGINT)

            patch.setattr(type(session.loop.text), "close", close)
            # It is handled at the end of the step, when the event is on its way.
            patch.setattr("templora.decoding.plans.safe_point", lambda: None)
            with pytest.raises(KeyboardInterrupt):
                told.extend(session.stream(max_new_tokens=40, sampling=sampling))
            assert session.version == 1
            for _ in range(2):
                told += session.absorb_ids([])
            # What may be a stop text is taken back, and with it what became of a chunk that ended in it.
            assert [e.index for e in told if isinstance(e, ChunkLearned)] == list(range(session.version))
            assert stop or session.version == 1
