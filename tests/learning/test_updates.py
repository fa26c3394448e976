"""Parallel learning: equal to a sequential run with the same delay of one chunk, whatever the timing."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from adapted import adapted_logits, bits, logits, same_bits
from conftest import TEXT, small

from templora import ChunkLearned, ChunkScored, ConfigError, Session, TokenEvent
from templora.chunks import Chunk
from templora.decoding.reader import Adapter, Reader
from templora.engine.engine import Engine
from templora.kvcache.window import WindowCache
from templora.learning.learner import Learner
from templora.learning.updates import Inline, worker
from templora.models.causal import Trace
from templora.reports.run_report import TextReport, build_report
from templora.runtime.metering import Meter
from templora.testing import FAMILIES, byte_tokenizer, tiny_engine, tiny_model


class Late(Executor):
    """Does the job when its result is asked for, at the latest moment there is, as `Inline` does at the earliest."""

    def submit(self, job: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        real = future.result

        def result(timeout: float | None = None) -> Any:
            if not future.done():
                future.set_result(job(*args, **kwargs))
            return real(timeout)

        future.result = result  # type: ignore[method-assign]
        return future


def parallel(**options: Any) -> Any:
    return small(learning="parallel", **options)


def plain(event: Any) -> Any:
    return replace(event, seconds=0.0) if hasattr(event, "seconds") else event


def life(session: Session) -> tuple[Any, ...]:
    """All verbs in turn; everything that can be seen of them but the time they took."""
    events: list[Any] = list(session.absorb_events(TEXT[:75]))
    events += session.score_events(TEXT[20:110])
    events += session.stream(TEXT[5:25], max_new_tokens=90, score=True)
    events.append(session.close_chunk())
    events += session.stream(max_new_tokens=50)
    state = session._bank.state(session._slot)
    return session.tokens, [plain(e) for e in events], state, dict(session.meter.flops)


def same(one: tuple[Any, ...], other: tuple[Any, ...]) -> bool:
    (*rest, a, flops), (*others, b, other_flops) = one, other
    tensors = all(
        torch.equal(x, y) for x, y in ((a.weights, b.weights), (a.exp_avg, b.exp_avg), (a.exp_avg_sq, b.exp_avg_sq))
    )
    return rest == others and flops == other_flops and tensors and (a.steps, a.version) == (b.steps, b.version)


def lived(config: Any, executor: Callable[[], Executor], **model: Any) -> tuple[Any, ...]:
    engine = tiny_engine(**model)
    engine.new_executor = executor  # type: ignore[method-assign]
    with engine.session(config) as session:
        return life(session)


def threads_left() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("templora")]


# Equalities -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("dtype", "options"),
    [
        (torch.float32, {"dropout": 0.1}),
        (torch.bfloat16, {"cache_reuse": 2, "epochs": 2, "train_context": 40}),
        (torch.float32, {"context_gradients": True, "dropout": 0.1, "cache_reuse": 1}),
    ],
)
def test_parallel_is_sequential_with_a_delay(family: str, dtype: torch.dtype, options: dict[str, Any]) -> None:
    """Token for token, event for event and bit for bit, however early or late the training runs."""
    config = parallel(**options)
    runs = [lived(config, e, family=family, dtype=dtype, bos=family == "llama") for e in (Inline, worker, Late)]
    assert runs[0][2].version >= 8
    assert same(runs[0], runs[1])
    assert same(runs[0], runs[2])
    assert threads_left() == []


def test_the_delay_is_one_chunk(text: str) -> None:
    """The sequential run written out: chunk k + 1 is scored with what was learnt up to chunk k − 1."""
    config, ids = parallel(dropout=0.1), list(text.encode())[:320]
    with tiny_engine().session(config) as session:
        scored = [e.adapted_nll for e in session.score_ids(ids) if isinstance(e, ChunkScored)]
        found = session._bank.state(session._slot).weights.clone()

    engine = tiny_engine()
    with engine.session(config) as session:
        bank, slot = session._bank, session._slot
        learner = Learner(engine.model, bank, slot, config, Meter())
        reader = Reader(engine.model, Adapter(bank, slot, config.scaling), config, 0, Meter())
        expected, staged = [], None
        for index, start in enumerate(range(0, len(ids), config.chunk_size)):
            chunk = Chunk(index, max(0, start - config.context), start, start + config.chunk_size)
            reader.cache.clear(chunk.start)
            reader.prepare(ids[: chunk.first_target], start, index)
            context = reader.cache.snapshot(chunk.first_target - 1, config.learn_context - 1)
            expected.append(float(reader.nll(ids[: chunk.end], chunk.first_target).double().sum()))
            if staged:
                staged.commit(bank, slot)
            staged, _ = learner.stage(bank.state(slot), ids, chunk, context)
        assert torch.equal(bank.state(slot).weights, found)
    assert scored == expected
    with tiny_engine().session(small(dropout=0.1)) as session:
        at_once = [e.adapted_nll for e in session.score_ids(ids) if isinstance(e, ChunkScored)]
    assert scored[0] == at_once[0]
    assert scored[1] != at_once[1]


def test_a_chunks_event_comes_at_the_end_of_the_next_one(engine: Engine, text: str) -> None:
    with engine.session(parallel()) as session:
        seen = [
            (e.index, e.version) if isinstance(e, ChunkLearned) else e.start
            for e in session.score_events(text[:110])
            if isinstance(e, ChunkLearned | ChunkScored)
        ]
        assert seen == [0, 32, (0, 1), 64, (1, 2), 96]
        assert session.version == 2
        last = session.close_chunk()  # chunk 2, whose training is under way, then the open one
        assert last is not None
        assert (last.index, last.version, session.version) == (3, 4, 4)
        (earlier,) = [e for e in session.absorb_events(text[:4]) if isinstance(e, ChunkLearned)]
        assert (earlier.index, earlier.version) == (2, 3)
        assert session.close_chunk() is not None
        assert session.close_chunk() is None


def test_writing_in_pieces_is_writing_at_once(text: str) -> None:
    """A verb that ends in the middle of a chunk does not end the delay."""
    found = []
    for pieces in ([90], [5, 30, 40, 15]):
        with tiny_engine().session(parallel()) as session:
            session.absorb(text[:70])
            for piece in pieces:
                session.write(max_new_tokens=piece)
            found.append(session.tokens)
    assert found[0] == found[1]


def test_a_chunk_under_the_brake_comes_after_the_one_in_training(engine: Engine, text: str) -> None:
    with engine.session(parallel(max_repetition=0.3)) as session:
        session.absorb(text[:32])
        for _ in range(32):
            session._append_written(9, 1.0)
        events = [e for e in session.absorb_events(text[:40]) if isinstance(e, ChunkLearned)]
    assert [(e.index, e.committed, e.version) for e in events] == [(0, True, 1), (1, False, 1)]


def test_sessions_of_one_engine_in_threads_are_each_alone() -> None:
    """Two threads of sessions and the worker, all through the same modules along their own routes."""
    configs = [parallel(dropout=0.1), parallel(seed=7, rank=2, chunk_size=24), small(seed=9), parallel(seed=3)]
    alone = [lived(config, Inline) for config in configs]
    engine = tiny_engine()
    base = logits(engine, list(range(40)))
    found: dict[int, Any] = {}

    def run(mine: list[int]) -> None:
        for i in mine:
            with engine.session(configs[i]) as session:
                found[i] = life(session)

    for _ in range(3):
        threads = [threading.Thread(target=run, args=(mine,)) for mine in ([0, 2], [1, 3])]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert all(same(found.pop(i), alone[i]) for i in range(4))
    assert threads_left() == []
    assert torch.equal(logits(engine, list(range(40))), base)
    assert Trace.of(engine.model.module) == Trace.of(tiny_engine().model.module)


# Beside one another -----------------------------------------------------------------------------------------------


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Training begins, then waits in the middle until this is set."""
    opened = threading.Event()
    real = Learner.stage

    def stage(self: Learner, *arguments: Any) -> Any:
        opened.wait(20)
        return real(self, *arguments)

    monkeypatch.setattr(Learner, "stage", stage)
    yield opened
    opened.set()


def test_a_chunk_is_written_while_the_one_before_is_learnt(engine: Engine, text: str, gate: threading.Event) -> None:
    """And scored, and other sessions go on too: the training holds no lock."""
    with engine.session(parallel()) as session, engine.session(small(learning="off")) as other:
        session.absorb(text[:32])
        stream = session.stream(max_new_tokens=40, score=True)
        while not isinstance(event := next(stream), ChunkScored):
            assert isinstance(event, TokenEvent)
        assert len(session.tokens) == 64
        held: list[Any] = []
        rest = threading.Thread(target=lambda: held.extend(stream))
        rest.start()  # now it waits, and holds nothing while it does
        assert other.write(text[:50], max_new_tokens=30)
        assert held == []
        gate.set()
        rest.join()
        assert session.version == 1
        assert sum(isinstance(e, ChunkLearned) for e in held) == 1


def test_what_a_training_reads_goes_when_it_is_done(engine: Engine, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One copy of the context at a time."""
    copies: list[weakref.ref[WindowCache]] = []
    alive: list[int] = []
    real = WindowCache.snapshot

    def snapshot(self: WindowCache, *arguments: int) -> WindowCache:
        gc.collect()
        alive.append(sum(c() is not None for c in copies))
        copies.append(weakref.ref(copy := real(self, *arguments)))
        return copy

    monkeypatch.setattr(WindowCache, "snapshot", snapshot)
    with engine.session(parallel()) as session:
        session.absorb(text[:200])
        session.write(max_new_tokens=60)
    assert alive == [0] * 8


def test_seconds_and_flops_of_the_worker_are_the_sessions(engine: Engine, text: str) -> None:
    meters, reports = {}, {}
    for learning, executor in (("cascaded", worker), ("parallel", worker), ("parallel", Inline)):
        engine.new_executor = executor  # type: ignore[method-assign]
        report = TextReport("a")
        with engine.session(small(learning=learning)) as session:
            for event in session.score_events(text[:200]):
                report.add(event)
            session.close_chunk()
        report.finish(session, engine.tokenizer)
        key = learning if executor is worker else "inline"
        meters[key], reports[key] = session.meter, build_report(engine, [report], 200, 1.0)
    assert meters["parallel"].flops == meters["inline"].flops
    # Cascaded learning begins with the pass that scored the chunk; only what `close_chunk` learns was not scored whole.
    assert sum(meters["parallel"].flops.values()) > sum(meters["cascaded"].flops.values()) > 0
    assert meters["cascaded"].overlapped == meters["inline"].overlapped == 0
    assert 0 < meters["parallel"].overlapped <= meters["parallel"].seconds["learn"]
    seconds = reports["parallel"]["seconds"]
    assert (seconds["overlapped"], seconds["learn"]) == (
        meters["parallel"].overlapped, meters["parallel"].seconds["learn"],
    )  # fmt: skip
    assert reports["parallel"]["config"]["learning"] == "parallel"
    # close_chunk's event and the one before it were not listened to.
    rows = [[(c["start"], c["tokens"], c["committed"]) for c in r["chunks"]] for r in reports.values()]
    assert [len(r) for r in rows] == [7, 7, 7]
    assert [c for _, _, c in rows[1]] == [True] * 5 + [False] * 2


# Readers and writers of the adapter -------------------------------------------------------------------------------


def test_a_saved_adapter_holds_every_full_chunk_and_saving_changes_nothing(text: str, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    found, saved = [], []
    for save in (True, False):
        with tiny_engine().session(parallel()) as session:
            session.absorb(text[:70])
            assert session.version == 1
            if save:
                session.save_adapter(tmp_path)
                assert session.version == 1
            session.write(max_new_tokens=40)
            found.append(session.tokens)
            saved.append(session._bank.state(session._slot))
    assert found[0] == found[1]
    with tiny_engine().session(small()) as session:
        session.load_adapter(tmp_path)
        loaded = session._bank.state(session._slot).weights.clone()
    with tiny_engine().session(parallel()) as session:
        session.absorb(text[:70])
        session._wait()
        session._settle()
        assert session.version == 2
        assert torch.equal(session._bank.state(session._slot).weights, loaded)
    assert load_file(tmp_path / "adapter_model.safetensors")


def test_an_adapter_is_loaded_over_what_is_being_learnt(engine: Engine, text: str, tmp_path: Path) -> None:
    with engine.session(parallel()) as session:
        session.absorb(text[:32])
        session.save_adapter(tmp_path)
        weights = session._updates.staged().weights  # type: ignore[union-attr]
        session.absorb(text[:32])
        session.load_adapter(tmp_path)
        state = session._bank.state(session._slot)
        assert torch.equal(state.weights, weights)
        assert (state.version, state.steps) == (3, 0)
        learned = [e.version for e in session.absorb_events(text[:40]) if isinstance(e, ChunkLearned)]
        assert learned == [2]  # it was finished before; chunk 2 is in training now
        assert session.version == 3


def test_what_is_not_sound_is_rolled_back_a_chunk_later(engine: Engine, text: str) -> None:
    with engine.session(parallel(max_update=1e-9)) as session:
        events = [e for e in session.absorb_events(text[:100]) if isinstance(e, ChunkLearned)]
        assert [(e.index, e.committed, e.version) for e in events] == [(0, False, 0), (1, False, 0)]
        assert "too large" in events[0].reason
        assert session._updates is not None
        assert session._updates.staged() is None


def test_a_model_that_rewrites_itself_learns_in_turn_only(text: str) -> None:
    """longrope switches its frequencies when a text grows long; a pass beside would compute with the wrong ones."""
    model = tiny_model()
    model.config.rope_parameters = {
        "rope_type": "longrope", "rope_theta": 10000.0, "short_factor": [1.0] * 4, "long_factor": [2.0] * 4,
        "original_max_position_embeddings": 32, "factor": 8.0,
    }  # fmt: skip
    engine = Engine(type(model)(model.config).eval(), byte_tokenizer())
    with pytest.raises(ConfigError, match="learning: cannot be parallel on this model"):
        engine.session(parallel())
    assert engine.sessions == 0
    with engine.session(small()) as session:
        session.absorb(text[:40])
        assert session.version == 1
    assert not any(tiny_engine(family).model.rewrites_itself for family in FAMILIES)


# Interrupted ------------------------------------------------------------------------------------------------------


def test_an_error_in_training_is_the_sessions_and_the_chunk_is_tried_again(
    engine: Engine, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tiny_engine().session(parallel()) as session:
        session.absorb(text[:150])
        wanted = session._bank.state(session._slot).weights.clone()
    real = Learner.stage
    errors = iter([MemoryError("no room for it"), None, KeyboardInterrupt(), None, None, None, None])

    def stage(self: Learner, *arguments: Any) -> Any:
        error = next(errors)
        if error:
            raise error
        return real(self, *arguments)

    monkeypatch.setattr(Learner, "stage", stage)
    with engine.session(parallel()) as session:
        session.absorb(text[:40])
        with pytest.raises(MemoryError, match="no room for it"):
            session.absorb(text[40:70])
        assert session.version == 0
        assert len(session.tokens) == 64  # taken in up to the boundary
        session.absorb(text[64:90])
        assert session.version == 1
        with pytest.raises(KeyboardInterrupt):
            session.absorb(text[90:100])
        session.absorb(text[96:150])
        assert session.version == 3
        assert torch.equal(session._bank.state(session._slot).weights, wanted)


def test_an_interrupted_wait_loses_nothing(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C reaches the session's thread while it waits without the lock, and again while it settles."""
    with tiny_engine().session(parallel()) as session:
        wanted = [plain(e) for e in session.absorb_events(text[:150]) if isinstance(e, ChunkLearned)]
        weights = session._bank.state(session._slot).weights.clone()
    real = Future.result
    calls = [0]

    def result(self: Future[Any], timeout: float | None = None) -> Any:
        calls[0] += 1
        if calls[0] % 5 in (1, 3):
            raise KeyboardInterrupt
        return real(self, timeout)

    monkeypatch.setattr(Future, "result", result)
    found = []
    with tiny_engine().session(parallel()) as session:
        while len(session.tokens) < 150:
            try:
                for event in session.absorb_events(text[len(session.tokens) : 150]):
                    found += [plain(event)] if isinstance(event, ChunkLearned) else []
            except KeyboardInterrupt:
                pass
        assert calls[0] >= 8
        assert found == wanted
        assert torch.equal(session._bank.state(session._slot).weights, weights)


@pytest.mark.parametrize("where", ["forward", "backward"])
def test_discard_stops_the_training(where: str, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the middle of an epoch, at the next layer; with no trace on the base, and no thread left."""
    engine = tiny_engine()
    model = engine.model
    weights, trace, ids = bits(model.module), Trace.of(model.module), list(range(40))
    base = logits(engine, ids)
    begun, passes = threading.Event(), [0, 0]
    real_hidden, real_backward = model.hidden, model.nll_backward

    def hidden(*arguments: Any) -> torch.Tensor:
        passes[0] += 1
        if where == "forward":
            begun.set()
            session._updates._job.stop.wait(20)  # type: ignore[union-attr]
        return real_hidden(*arguments)

    def backward(*arguments: Any) -> float:
        begun.set()
        session._updates._job.stop.wait(20)  # type: ignore[union-attr]
        total = real_backward(*arguments)
        passes[1] += 1
        return total

    config = parallel(epochs=1000, context_gradients=True)
    session = engine.session(config)
    monkeypatch.setattr(model, "hidden", hidden)
    monkeypatch.setattr(model, "nll_backward", backward)
    session.absorb(text[:32])
    assert begun.wait(20)
    flops = dict(session.meter.flops)
    receipt = session.discard()
    assert passes == [1, 0]
    assert (session.meter.flops["learn"] > flops["learn"]) == (where == "backward")
    assert receipt.base_unchanged
    assert receipt.discarded
    assert threads_left() == []
    monkeypatch.undo()
    assert same_bits(bits(model.module), weights)
    assert Trace.of(model.module) == trace
    assert torch.equal(logits(engine, ids), base)
    assert all(p.grad is None for p in model.module.parameters())


def test_a_second_interrupt_waits_for_the_training_to_stop(
    engine: Engine, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import templora.learning.updates

    real, calls = templora.learning.updates.wait, [0]

    def interrupted(futures: list[Future[Any]]) -> Any:
        calls[0] += 1
        if calls[0] == 1:
            raise KeyboardInterrupt
        return real(futures)

    begun = threading.Event()
    real_stage = Learner.stage

    def stage(self: Learner, tokens: Any, *arguments: Any) -> Any:
        begun.set()
        arguments[-1].wait(20)  # the stop flag
        time.sleep(0.2)
        try:
            return real_stage(self, tokens, *arguments)
        finally:
            order.append("stopped")

    order: list[str] = []
    real_release = engine.release
    monkeypatch.setattr(engine, "release", lambda *a: order.append("released") or real_release(*a))
    monkeypatch.setattr(templora.learning.updates, "wait", interrupted)
    monkeypatch.setattr(Learner, "stage", stage)
    session = engine.session(parallel())
    session.absorb(text[:32])
    assert begun.wait(20)
    with pytest.raises(KeyboardInterrupt):
        session.discard()
    assert order == ["stopped", "released"]  # hooks and all else stay until nobody goes through them
    assert session.closed
    assert threads_left() == []
    assert engine.sessions == 0
    assert session.discard().discarded


def test_a_failed_training_does_not_outlive_its_session(engine: Engine, text: str) -> None:
    """Errors nobody waited for go with the session."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Learner, "stage", lambda *_: 1 / 0)
        with engine.session(parallel()) as session:
            session.absorb(text[:40])
    assert session.receipt is not None
    assert session.receipt.discarded
    assert threads_left() == []
    with engine.session(parallel()) as session:  # a new worker comes with the next session
        before = adapted_logits(session, list(range(40)))
        session.absorb(text[:70])
        assert session.version == 1
        assert not torch.equal(adapted_logits(session, list(range(40))), before)
