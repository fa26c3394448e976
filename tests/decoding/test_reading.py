"""The pass that scores a chunk is the first one of learning it: nothing comes out differently, and it happens once."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest
import torch
from conftest import small

from templora import ChunkLearned, ChunkScored, SamplingParams, Session, TokenEvent
from templora.learning.learner import Learner
from templora.lora.slot import Slot
from templora.session.scoring import Scorer
from templora.testing import FAMILIES, tiny_engine

GREEDY = SamplingParams(temperature=0, repetition_penalty=1.0)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The chunks that are read so, as they are."""
    seen: list[int] = []
    real = Learner.read

    def read(self: Learner, tokens: Any, chunk: Any, cache: Any) -> Any:
        seen.append(chunk.index)
        return real(self, tokens, chunk, cache)

    monkeypatch.setattr(Learner, "read", read)
    return seen


def scored(session: Session, text: str, written: int = 0) -> tuple[list[Any], list[float], torch.Tensor]:
    """What each chunk's score and update were, and the adapter's weights at the end."""
    events = list(session.score_events(text))
    if written:
        events += session.stream(max_new_tokens=written, sampling=GREEDY, score=True)
    scores = [(e.start, e.base_nll, e.adapted_nll) for e in events if isinstance(e, ChunkScored)]
    losses = [x for e in events if isinstance(e, ChunkLearned) for x in (e.loss, e.grad_norm, e.update)]
    return scores, losses, session.slot.state.weights


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", FAMILIES)
def test_reading_once_is_reading_twice(
    family: str, dtype: torch.dtype, text: str, reads: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small(epochs=2, max_repetition=1.0)
    found = []
    for once in (True, False):
        with monkeypatch.context() as patch:
            if not once:
                patch.setattr(Learner, "reads", False)
            with tiny_engine(family, dtype).session(config) as session:
                found.append(scored(session, text[:200], written=56))
    assert reads == [0, 1, 2, 3, 4, 5, 7]  # of chunk 6 a part was given and a part was written: two scores
    (scores, losses, weights), (scores_twice, losses_twice, weights_twice) = found
    assert scores == scores_twice
    assert losses == losses_twice
    assert torch.equal(weights, weights_twice)


@pytest.mark.parametrize(
    "options",
    [
        {"dropout": 0.1},
        {"context_gradients": True},
        {"train_context": 40},
        {"cache_reuse": 1},
        {"checkpointing": True},
        {"learning": "parallel"},
        {"learning": "off"},
    ],
    ids=str,
)
def test_not_where_learning_goes_forward_otherwise(options: dict[str, Any], text: str, reads: list[int]) -> None:
    with tiny_engine().session(small(**options)) as session:
        session.score(text[:150])
    assert reads == []


def test_a_reading_is_not_used_for_another_adapter(text: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[bool] = []
    real = Learner.learn

    def learn(self: Learner, tokens: Any, chunk: Any, cache: Any, reading: Any, *rest: Any) -> Any:
        used.append(reading is not None)
        return real(self, tokens, chunk, cache, reading, *rest)

    monkeypatch.setattr(Learner, "learn", learn)
    with tiny_engine().session(small()) as session:
        session.score(text[:32])
        session.save_adapter(tmp_path / "adapter")
        events = session.score_events(text[32:64])
        while not isinstance(next(events), ChunkScored):
            pass
        session.load_adapter(tmp_path / "adapter")  # between the score of a chunk and its being learnt
        session.absorb(text[64:70])
    assert used == [True, False]


def test_a_reading_is_not_used_for_another_text(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Interrupted after the pass and before its tokens are taken in, then given others, as many."""
    real = Scorer._read

    def interrupted(self: Scorer, tokens: list[int], first: int) -> Any:
        real(self, tokens, first)
        raise KeyboardInterrupt

    found = []
    for interrupt in (True, False):
        with tiny_engine().session(small()) as session:
            if interrupt:
                with monkeypatch.context() as patch:
                    patch.setattr(Scorer, "_read", interrupted)
                    with pytest.raises(KeyboardInterrupt):
                        session.score(text[32:64])
            session.absorb(text[:32])
            assert session.version == 1
            found.append(session.slot.state.weights.clone())
    assert torch.equal(*found)


def test_a_reading_needs_a_context_of_its_own_adapter(text: str, tmp_path: Any, reads: list[int]) -> None:
    """An adapter that is loaded before a written chunk's score: the cache still holds what the old one read."""
    with tiny_engine().session(small()) as session:
        session.absorb(text[:40])
        session.save_adapter(tmp_path)
        for event in session.stream(max_new_tokens=24 + 32, sampling=GREEDY, score=True):
            if isinstance(event, TokenEvent) and event.index == 95:
                session.load_adapter(tmp_path)
    assert reads == []


@pytest.mark.parametrize("learning", ["cascaded", "parallel"])
def test_ctrl_c_while_a_chunk_is_committed_changes_nothing(
    learning: str, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is committed, it is reported once, and the run goes on as if nothing had been."""
    found = []
    for interrupt in (True, False):
        events: list[Any] = []
        with tiny_engine().session(small(learning=learning)) as session, monkeypatch.context() as patch:
            real, done = Slot.commit, []

            def commit(self: Slot, state: Any) -> None:
                if not done:  # noqa: B023
                    os.kill(os.getpid(), signal.SIGINT)
                done.append(state.version)  # noqa: B023
                real(self, state)  # noqa: B023

            if interrupt:
                patch.setattr(Slot, "commit", commit)
                with pytest.raises(KeyboardInterrupt):
                    events.extend(session.score_events(text[:150]))
                events.extend(session.score_events(text[len(session.tokens) : 150]))
            else:
                events.extend(session.score_events(text[:150]))
            session.close_chunk()
            learnt = [e.index for e in events if isinstance(e, ChunkLearned)]
            state = session.slot.state
            found.append((session.tokens, learnt, state.weights.clone(), state.version))
    (tokens, learnt, weights, version), wanted = found
    assert (tokens, version) == (wanted[0], wanted[3])
    assert learnt == wanted[1]
    assert torch.equal(weights, wanted[2])


def test_what_a_reading_keeps_goes_with_it(text: str) -> None:
    with tiny_engine().session(small()) as session:
        events = session.score_events(text[:64])
        while not isinstance(next(events), ChunkScored):
            pass
        assert session.loop.scorer.keeps
        list(events)
        assert not session.loop.scorer.keeps
    session = tiny_engine().session(small())
    next(iter(session.score_events(text[:32])))
    session.discard()
    assert not hasattr(session.loop, "scorer")


def test_an_update_that_is_rolled_back_leaves_the_next_chunk_its_context(text: str) -> None:
    """The reading wrote nothing into the cache, so the chunk is read for it then."""
    found = []
    for once in (True, False):
        with pytest.MonkeyPatch.context() as patch:
            if not once:
                patch.setattr(Learner, "reads", False)
            with tiny_engine().session(small(max_update=1e-12)) as session:
                scores, _, _ = scored(session, text[:150])
                assert session.version == 0
                found.append(torch.tensor([s[1:] for s in scores]))
    assert torch.allclose(*found, rtol=1e-5)
