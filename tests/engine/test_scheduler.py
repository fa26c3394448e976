"""The scheduler: who is served when, who is left, and what becomes of errors."""

from __future__ import annotations

import contextlib
import gc
import threading
import time
from dataclasses import replace
from typing import Any

import pytest
import torch
from conftest import TEXT, small

from templora import ChunkLearned, Finished, ModelError, SamplingParams, SessionClosed, SessionStore
from templora.decoding.cpu_step import CpuStep
from templora.decoding.plans import Plan, Work
from templora.engine.engine import Engine
from templora.engine.scheduler import Scheduler
from templora.events import Absorbed
from templora.sampling import Sampler
from templora.store import snapshots
from templora.store.snapshots import Snapshots
from templora.testing import byte_tokenizer, tiny_engine, tiny_model

HOT = SamplingParams(temperature=1.5)


def said(done: int) -> Absorbed:
    return Absorbed(done, 9)


def until_quiet(scheduler: Scheduler) -> None:
    while scheduler.step():
        pass


def taken(run: Any) -> list[Any]:
    found = []
    while not run.outbox.empty():
        found.append(run.outbox.get_nowait())
    return found


# Plans --------------------------------------------------------------------------------------------------------------


def test_nothing_is_done_that_nobody_asked_for() -> None:
    """With `ahead=0` the plan waits at each event until the next one is wanted."""
    done: list[int] = []

    def plan() -> Plan[str]:
        for i in range(3):
            yield Work(lambda i=i: done.append(i))  # type: ignore[misc]
            yield said(i)
        return "result"

    scheduler = Scheduler()
    run = scheduler.submit(plan())
    for i in range(3):
        until_quiet(scheduler)
        assert done == list(range(i + 1))
        assert taken(run) == [("event", said(i))]
        run.more()
    until_quiet(scheduler)
    assert taken(run) == [("result", "result")]
    assert scheduler.runs == []
    ahead = scheduler.submit(plan(), ahead=1)
    until_quiet(scheduler)
    assert taken(ahead) == [("event", said(0)), ("event", said(1))]


def test_an_error_is_its_own_runs_alone() -> None:
    def plan(wrong: bool) -> Plan[int]:
        answer: int = yield Work(lambda: 1 // (0 if wrong else 1))
        yield said(answer)
        return answer

    def caught() -> Plan[str]:
        try:
            yield Work(lambda: 1 // 0)
        except ZeroDivisionError:
            return "caught"
        return "not raised"

    scheduler = Scheduler()
    runs = [scheduler.submit(p, ahead=9) for p in (plan(True), plan(False), caught())]
    until_quiet(scheduler)
    (kind, error), *rest = taken(runs[0])
    assert (kind, type(error), rest) == ("error", ZeroDivisionError, [])
    assert taken(runs[1]) == [("event", said(1)), ("result", 1)]
    assert taken(runs[2]) == [("result", "caught")]


def test_reads_go_before_learning_and_nobody_waits_for_ever() -> None:
    now, done = [0.0], list[str]()

    def plan(kind: Any) -> Plan[None]:
        yield Work(lambda: done.append(kind), kind)

    scheduler = Scheduler(clock=lambda: now[0])
    for kind in ("learn", "score", "read", "other"):
        scheduler.submit(plan(kind))
    until_quiet(scheduler)
    assert done == ["read", "other", "score", "learn"]
    done.clear()
    scheduler.submit(plan("learn"))
    scheduler.submit(plan("read"))
    scheduler.step()
    now[0] = 20.0
    scheduler.submit(plan("read"))
    until_quiet(scheduler)
    assert done == ["read", "learn", "read"]


def test_what_is_asked_for_later_is_done_when_there_is_time() -> None:
    done: list[str] = []

    def plan() -> Plan[None]:
        yield Work(lambda: done.append("later"), "learn", later=True)
        yield Work(lambda: done.append("now"))

    scheduler = Scheduler()
    scheduler.submit(plan())
    until_quiet(scheduler)
    assert done == ["now", "later"]


# Sessions -----------------------------------------------------------------------------------------------------------


def test_a_call_that_is_left_ends_at_the_next_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    """While its chunk is being learnt: what was begun is undone, and learnt the next time."""
    engine, expected = tiny_engine(), tiny_engine()
    with expected.session(small()) as session:
        session.absorb(TEXT[:70])
        weights = session.adapter_weights().tolist()
    begun, go = threading.Event(), threading.Event()
    real = Scheduler.between

    def between(self: Scheduler, whole: bool = False) -> None:
        if not begun.is_set() and session.loop.text.open_tokens == 32:
            begun.set()
            go.wait(5)
        real(self, whole)

    with engine.shared() as scheduler, engine.session(small()) as session:
        monkeypatch.setattr(Scheduler, "between", between)
        run = scheduler.submit(given(session, TEXT[:70]))
        assert begun.wait(5)
        run.cancel()
        go.set()
        while run.outbox.get(timeout=5)[0] == "event":
            pass
        assert session.version == 0
        assert len(session.tokens) == 32
        list(session.absorb_ids(session.encode(TEXT[32:70])))
        assert session.adapter_weights().tolist() == weights


def given(session: Any, text: str) -> Plan[None]:
    from templora.session.sources import Given

    return session.loop.run(Given(session.loop, session.encode(text), True))


@pytest.mark.parametrize(("seconds", "most"), [(0.0, 40), (1e9, 0)])
def test_others_write_while_one_learns(seconds: float, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within one chunk's learning, a token at each layer; in one piece, none.

    Nobody has to ask for these tokens: how fast another thread is would decide how many there are.
    """
    engine = tiny_engine()
    with engine.session(small()) as one, engine.session(small()) as other:
        one.absorb(TEXT[:31])
        other.absorb(TEXT[:20])
        scheduler, stage, during = Scheduler(engine.step, seconds), type(one.loop.cycle).close, []

        def close(self: Any) -> None:
            before = writing.outbox.qsize()
            stage(self)
            if self is one.loop.cycle:
                assert engine.learns
                during.append(writing.outbox.qsize() - before)

        monkeypatch.setattr(type(one.loop.cycle), "close", close)
        with engine.shared_by(scheduler):
            writing = scheduler.submit(written(other), of=other, ahead=100)
            scheduler.step()
            scheduler.submit(given(one, TEXT[31:33]), of=one, ahead=100)
            until_quiet(scheduler)
    assert not engine.learns
    assert len(during) == 1
    assert min(most, 2) <= during[0] <= most


def written(session: Any) -> Plan[None]:
    """Forty tokens, after a text that is a chunk and a few."""
    from templora.session.sources import Sampled

    loop = session.loop
    return loop.run(Sampled(loop, session.engine.tokenizer, Sampler(HOT, [], loop.seed), [], 40, False, ()))


@pytest.mark.parametrize("family", ["llama", "phi"])  # the compiled step's, and not
@pytest.mark.parametrize("broken", [False, True])
def test_rows_share_a_pass_and_errors_do_not(family: str, broken: bool, passes: list[int]) -> None:
    """Ten sessions, of which at most four go through the step at once, write what they write alone; where one cannot
    be read, the others are."""
    engine, found = tiny_engine(family), list[list[list[int]]]()
    engine.new_step()
    for together in (False, True):
        sessions = [engine.session(small(seed=seed)) for seed in range(10)]
        for session in sessions:
            session.absorb(TEXT[session.config.seed :][:40])
        scheduler = Scheduler()
        for group in [sessions] if together else [[session] for session in sessions]:
            runs = [scheduler.submit(written(session), ahead=99) for session in group]
            passes.clear()
            while not passes or max(passes) < len(group[: CpuStep.most_rows]):
                scheduler.step()
            if together and broken:
                group[4].readers[0].cache.layers[0].keys = torch.zeros(1)
            until_quiet(scheduler)
            ends = [taken(run)[-1] for run in runs]
        if together:
            assert max(passes) == CpuStep.most_rows == 4
            assert [kind for kind, _ in ends].count("error") == int(broken)
        found.append([session.tokens for session in sessions])
        for session in sessions:
            session.discard()
    different = [i for i, (alone, beside) in enumerate(zip(*found, strict=True)) if alone != beside]
    assert different == ([4] if broken else [])


def test_who_has_paused_is_waited_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Callers of two rows, who read nothing more: the pass after theirs waits for them, and no later one."""
    waited: list[int] = []
    monkeypatch.setattr(Scheduler, "_gather", lambda self, last: waited.append(len(last)))
    engine, scheduler = tiny_engine(), Scheduler()
    with engine.session(small()) as one, engine.session(small()) as other:
        for session in (one, other):
            session.absorb(TEXT[:20])
        runs = [scheduler.submit(written(session)) for session in (one, other)]
        until_quiet(scheduler)
        for run in runs:
            run.more()
        for _ in range(9):
            scheduler.step()
        assert waited == [2]


def test_a_model_without_a_compiled_step_is_shared_too() -> None:
    engine = Engine(tiny_model(), byte_tokenizer(), compiled=False)
    with engine.shared(0.0), engine.session(small()) as session:
        assert session.write(TEXT[:60], max_new_tokens=40, sampling=HOT)
        assert session.version == 3


def test_closing_ends_what_is_going_on() -> None:
    engine = tiny_engine()
    with engine.shared():
        session = engine.session(small())
        events = session.stream(TEXT[:20], max_new_tokens=100)
        next(events)
        engine.close()
        with pytest.raises((ModelError, SessionClosed)):
            list(events)
        with pytest.raises((ModelError, SessionClosed)):
            session.write("x", max_new_tokens=1)


def test_an_engine_is_shared_once_and_alone_again_afterwards() -> None:
    engine = tiny_engine()
    with engine.session(small()) as session:
        with engine.shared():
            assert engine.is_shared
            with pytest.raises(ModelError, match="shared already"), engine.shared():
                pass
            text = session.write(TEXT[:20], max_new_tokens=9)
            left = session.stream(max_new_tokens=9)
            next(left)
        assert not engine.is_shared
        with pytest.raises(ModelError, match="does not serve sessions together any more"):
            list(left)
        assert text
        assert isinstance(list(session.stream(max_new_tokens=9))[-1], Finished)
    assert session.discard().base_unchanged


def test_a_stream_that_nobody_holds_is_left() -> None:
    """Its session goes on with another verb."""
    engine = tiny_engine()
    with engine.shared() as scheduler, engine.session(small()) as session:
        events = session.stream(TEXT[:20], max_new_tokens=100)
        next(events)
        del events
        gc.collect()
        assert session.write(max_new_tokens=3) is not None
        until = time.monotonic() + 5
        while scheduler.runs and time.monotonic() < until:
            time.sleep(0.01)
        assert scheduler.runs == []


def test_sessions_are_begun_and_ended_by_many_threads() -> None:
    engine = tiny_engine()
    with engine.session(small()) as session:
        alone = session.write(TEXT[:40], max_new_tokens=40, sampling=HOT)
    found: list[str] = []

    def live() -> None:
        for _ in range(3):
            with engine.session(small()) as session:
                found.append(session.write(TEXT[:40], max_new_tokens=40, sampling=HOT))
            assert session.discard().discarded

    with engine.shared():
        threads = [threading.Thread(target=live) for _ in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert found == [alone] * 15
    assert engine.sessions == 0


def test_parallel_learning_is_done_ahead_when_there_is_time() -> None:
    """Before the chunk ends at which it is committed."""
    engine, ahead = tiny_engine(), []
    with engine.shared(), engine.session(replace(small(), learning="parallel")) as session:
        for event in session.absorb_events(TEXT[:40]):
            assert not isinstance(event, ChunkLearned)
        until = time.monotonic() + 5
        while not ahead and time.monotonic() < until:
            ahead = [session.loop.cycle.is_staged] if session.loop.cycle.is_staged else []
    assert ahead == [True]


def test_a_draft_is_a_row_among_others() -> None:
    """Token by token, each told to its caller as it comes; and the same as alone."""
    engine, told = tiny_engine(), list[str]()
    with engine.session(small()) as session:
        session.absorb(TEXT[:50])
        alone = session.preview("so: ", max_new_tokens=12, sampling=HOT)
    with engine.shared(), engine.session(small()) as session:
        session.absorb(TEXT[:50])
        assert session.preview("so: ", max_new_tokens=12, sampling=HOT, each=told.append) == alone
        assert len(told) > 3
        with pytest.raises(ZeroDivisionError):
            session.preview("so: ", max_new_tokens=12, each=lambda _: 1 // 0)
        assert session.likelihood("a", "b") == engine.likelihood("a", "b")


def test_sessions_on_disk_in_many_threads(tmp_path: Any) -> None:
    """Snapshots written aside are in the log when their session is closed, and can be gone on from."""
    engine, store = tiny_engine(), SessionStore(tmp_path)

    def live(name: str) -> None:
        with store.create(name, engine, small()) as saved:
            list(saved.stream(TEXT[:40], max_new_tokens=90, sampling=HOT))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(snapshots, "_SHARE", 1e9)  # one after every chunk
        with engine.shared():
            threads = [threading.Thread(target=live, args=(f"s{i}",)) for i in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
    texts = {store.history(name).text for name in store.names()}
    assert len(texts) == 1
    for name in store.names():
        assert store.history(name).snapshots
        done: list[int] = []
        with store.open(name, engine, progress=lambda now, of, done=done: done.append(of)) as saved:  # type: ignore[misc]
            assert max(done, default=0) <= 130 - 32  # from a snapshot, wherever the last one that came in time is
            assert saved.remarks == []


def test_two_threads_of_one_session() -> None:
    """One writes, the other asks for drafts and snapshots meanwhile, which come between two of its events."""
    engine, go, drafts = tiny_engine(), threading.Event(), list[str]()
    with engine.session(small()) as session:
        alone = session.write(TEXT[:40], max_new_tokens=120, sampling=HOT)

    with engine.shared(), engine.session(small()) as session:

        def ask() -> None:
            while not go.is_set():
                drafts.append(session.preview("so: ", max_new_tokens=3, sampling=HOT).text)
                session.snapshot()
                session.adapter_weights()

        thread = threading.Thread(target=ask)
        session.absorb(TEXT[:40])
        thread.start()
        text = session.write(max_new_tokens=120, sampling=HOT)
        go.set()
        thread.join()
    assert text == alone
    assert len(drafts) > 1


@pytest.mark.parametrize("act", ["seed", "adapter", "close"])
def test_what_is_asked_right_after_a_snapshot_aside_is_done_again(act: str, tmp_path: Any) -> None:
    """The snapshot's record comes into the log after that of the act, and holds none of it."""
    engine, store = tiny_engine(), SessionStore(tmp_path / "store")
    with engine.session(small(seed=9)) as session:
        session.absorb(TEXT[:70])
        session.save_adapter(tmp_path / "adapter")
    found = []
    for aside in (False, True):
        name = f"s{aside}"
        with pytest.MonkeyPatch.context() as patch, engine.shared() if aside else contextlib.nullcontext():
            patch.setattr(snapshots, "_SHARE", 1e9)  # one after every chunk
            with store.create(name, engine, small(learning="parallel")) as saved:
                saved.absorb(TEXT[:32])
                if act == "seed":
                    saved.reseed(77)
                elif act == "adapter":
                    saved.load_adapter(tmp_path / "adapter")
                else:
                    saved.close_chunk()
                patch.setattr(Snapshots, "make_if_worth_it", lambda self, length: self.settle(wait=True))
        assert len(store.history(name).snapshots) >= 1
        with store.open(name, engine) as saved:
            weights = saved.session.adapter_weights().tolist()
            found.append((saved.session.version, weights, saved.write(max_new_tokens=9, sampling=HOT)))
    assert found[0] == found[1]


def test_leaving_ends_what_is_being_done() -> None:
    """At its next layer, not when it is done."""
    engine, begun = tiny_engine(), threading.Event()

    def work() -> None:
        begun.set()
        until = time.monotonic() + 20
        while time.monotonic() < until:
            time.sleep(0.001)
            engine.model.between()

    errors: list[BaseException] = []

    def ask() -> None:
        try:
            engine.do(work)
        except ModelError as error:
            errors.append(error)

    began = time.monotonic()
    with engine.shared():
        thread = threading.Thread(target=ask)
        thread.start()
        assert begun.wait(5)
    thread.join()
    assert time.monotonic() - began < 10
    assert "any more" in str(errors[0])
    engine.close()
    with pytest.raises(ModelError, match="has been closed"):
        engine.identity()
