"""`learning = "parallel"`: a chunk is committed when the next one ends, whenever the training runs in between."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from adapted import appended, logits
from conftest import TEXT, small

from templora import ChunkLearned, ChunkScored, ConfigError, Session
from templora.chunks import Chunk
from templora.decoding.reader import Reader
from templora.engine.engine import Engine
from templora.learning.learner import Learner
from templora.learning.pending import PendingUpdate
from templora.models.causal import Trace
from templora.runtime.metering import Meter
from templora.testing import FAMILIES, byte_tokenizer, tiny_engine, tiny_model


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
    events.append(session.close_chunk())
    state = session.slot.state
    return session.tokens, [plain(e) for e in events], state, dict(session.meter.flops)


def same(one: tuple[Any, ...], other: tuple[Any, ...]) -> bool:
    (*rest, a, flops), (*others, b, other_flops) = one, other
    tensors = all(
        torch.equal(x, y) for x, y in ((a.weights, b.weights), (a.exp_avg, b.exp_avg), (a.exp_avg_sq, b.exp_avg_sq))
    )
    return rest == others and flops == other_flops and tensors and (a.steps, a.version) == (b.steps, b.version)


def lived(config: Any, **model: Any) -> tuple[Any, ...]:
    with tiny_engine(**model).session(config) as session:
        return life(session)


def early(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trains as soon as there is something to learn, not when the next chunk ends."""
    real = PendingUpdate.start

    def start(self: PendingUpdate, *arguments: Any) -> None:
        real(self, *arguments)
        self.stage()

    monkeypatch.setattr(PendingUpdate, "start", start)


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
def test_it_does_not_matter_when_the_training_runs(
    family: str, dtype: torch.dtype, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Token for token, event for event and bit for bit."""
    config = parallel(**options)
    late = lived(config, family=family, dtype=dtype, bos=family == "llama")
    early(monkeypatch)
    assert late[2].version >= 8
    assert same(late, lived(config, family=family, dtype=dtype, bos=family == "llama"))


def test_the_delay_is_one_chunk(text: str) -> None:
    """The sequential run written out: chunk k + 1 is scored with what was learnt up to chunk k − 1."""
    config, ids = parallel(dropout=0.1), list(text.encode())[:320]
    with tiny_engine().session(config) as session:
        scored = [e.adapted_nll for e in session.score_ids(ids) if isinstance(e, ChunkScored)]
        found = session.slot.state.weights.clone()

    engine = tiny_engine()
    with engine.session(config) as session:
        slot = session.slot
        learner = Learner(engine.runner, slot, config, Meter())
        reader = Reader(engine.runner, slot, config, 0, Meter())
        expected, staged = [], None
        for index, start in enumerate(range(0, len(ids), config.chunk_size)):
            chunk = Chunk(index, max(0, start - config.context), start, start + config.chunk_size)
            reader.cache.clear(chunk.start)
            reader.prepare(ids[: chunk.first_target], start, index)
            context = reader.cache.snapshot(chunk.first_target - 1, config.learn_context - 1)
            expected.append(float(reader.nll(ids[: chunk.end], chunk.first_target).double().sum()))
            if staged:
                staged.commit(slot)
            staged, _ = learner.stage(slot.state, ids, chunk, context)
        assert torch.equal(slot.state.weights, found)
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
            appended(session, 9, 1.0)
        events = [e for e in session.absorb_events(text[:40]) if isinstance(e, ChunkLearned)]
    assert [(e.index, e.committed, e.version) for e in events] == [(0, True, 1), (1, False, 1)]


def test_sessions_of_one_engine_in_threads_are_each_alone() -> None:
    """Two threads of sessions, all through the same modules."""
    configs = [parallel(dropout=0.1), parallel(seed=7, rank=2, chunk_size=24), small(seed=9), parallel(seed=3)]
    alone = [lived(config) for config in configs]
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
    assert torch.equal(logits(engine, list(range(40))), base)
    assert Trace.of(engine.model.module) == Trace.of(tiny_engine().model.module)


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
            saved.append(session.slot.state)
    assert found[0] == found[1]
    with tiny_engine().session(small()) as session:
        session.load_adapter(tmp_path)
        loaded = session.slot.state.weights.clone()
    with tiny_engine().session(parallel()) as session:
        session.absorb(text[:70])
        session.loop.cycle.settle()
        assert session.version == 2
        assert torch.equal(session.slot.state.weights, loaded)
    assert load_file(tmp_path / "adapter_model.safetensors")


def test_an_adapter_is_loaded_over_what_is_being_learnt(engine: Engine, text: str, tmp_path: Path) -> None:
    with engine.session(parallel()) as session:
        session.absorb(text[:32])
        session.save_adapter(tmp_path)
        weights = session.loop.cycle.stage().weights  # type: ignore[union-attr]
        session.absorb(text[:32])
        session.load_adapter(tmp_path)
        state = session.slot.state
        assert torch.equal(state.weights, weights)
        assert (state.version, state.steps) == (3, 0)
        learned = [e.version for e in session.absorb_events(text[:40]) if isinstance(e, ChunkLearned)]
        assert learned == [2]  # it was finished before; chunk 2 is still to be learnt
        assert session.version == 3


def test_what_is_not_sound_is_rolled_back_a_chunk_later(engine: Engine, text: str) -> None:
    with engine.session(parallel(max_update=1e-9)) as session:
        events = [e for e in session.absorb_events(text[:100]) if isinstance(e, ChunkLearned)]
        assert [(e.index, e.committed, e.version) for e in events] == [(0, False, 0), (1, False, 0)]
        assert "too large" in events[0].reason
        assert session.loop.cycle.stage() is None


def test_a_model_that_rewrites_itself_learns_in_turn_only(text: str) -> None:
    """longrope switches its frequencies when a text grows long; a later pass computes with other ones."""
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
        wanted = session.slot.state.weights.clone()
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
        assert torch.equal(session.slot.state.weights, wanted)
