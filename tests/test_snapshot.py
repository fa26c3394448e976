"""Snapshots: a session that goes on from one is the session that was left."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from templora.config import TempLoraConfig
from templora.errors import ModelError, TextError
from templora.events import ChunkScored
from templora.methods.attention_sinks import AttentionSinks
from templora.methods.base import Method
from templora.methods.dynamic_evaluation import DynamicEvaluation
from templora.methods.extended_positions import ExtendedPositions
from templora.session import Session
from templora.snapshot import Snapshot
from templora.testing import tiny_engine

IDS = list(range(1, 200)) * 2
METHODS = [Method(), AttentionSinks(), DynamicEvaluation(step_size=1e-3), ExtendedPositions("dynamic", 2.0)]
OPTIONS = [
    {},
    {"cache_reuse": 2},
    {"dropout": 0.1, "epochs": 2},
    {"learning": "off"},
    {"learning": "parallel"},
    {"learning": "parallel", "context_gradients": True},
]


def config(**options: object) -> TempLoraConfig:
    sizes = {"window": 64, "chunk_size": 32, "rank": 4, "alpha": 4.0, "learning_rate": 0.01}
    return TempLoraConfig(**(sizes | options))


def scores(session: Session, ids: list[int]) -> list[tuple[float | None, float | None]]:
    return [(e.base_nll, e.adapted_nll) for e in session.score_ids(ids) if isinstance(e, ChunkScored)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "options", [{}, {"cache_reuse": 2}, {"dropout": 0.1, "epochs": 2}, {"learning": "off"}, {"learning": "parallel"}]
)
@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)
def test_going_on_gives_the_same_bits(
    method: Method, options: dict[str, object], dtype: torch.dtype, tmp_path: Path
) -> None:
    """After each of the first chunks, and in the middle of one, through a file and in another engine."""
    settings = config(**options)
    if method.changes_passes and settings.learning == "parallel":
        with pytest.raises(ModelError, match="cascaded"):
            tiny_engine().session(settings, method=method)
        return
    if settings.cache_reuse and not isinstance(method, ExtendedPositions):
        settings = config(**options, window=96)
    with tiny_engine(dtype=dtype).session(settings, method=method) as session:
        expected = scores(session, IDS)
        weights = session.adapter_weights()
    for at in (32, 96, 112, 224):
        with tiny_engine(dtype=dtype).session(settings, method=method) as session:
            before = scores(session, IDS[:at])
            session.snapshot().save(tmp_path / "snapshot")
            tokens = session.tokens
        with tiny_engine(dtype=dtype).session(settings, method=method) as session:
            session.restore(tokens, Snapshot.load(tmp_path / "snapshot"))
            after = scores(session, IDS[at:])
            if at % 32 == 0:
                assert before + after == expected
            assert torch.equal(session.adapter_weights(), weights) or at % 32
        assert session.receipt is not None
        assert session.receipt.base_unchanged
        assert session.receipt.discarded


@pytest.mark.parametrize("learning", ["cascaded", "parallel"])
@pytest.mark.parametrize("cache_reuse", [0, 2])
def test_writing_goes_on_with_the_same_tokens(learning: str, cache_reuse: int) -> None:
    settings = config(learning=learning, cache_reuse=cache_reuse, window=96)
    with tiny_engine().session(settings) as session:
        session.write("once", max_new_tokens=200)
        expected = session.tokens
    for at in (63, 64, 65, 130):
        with tiny_engine().session(settings) as session:
            session.write("once", max_new_tokens=at)
            taken, tokens = session.snapshot(), list(session.tokens)
        with tiny_engine().session(settings) as session:
            session.restore(tokens, taken)
            session.write(max_new_tokens=200 - at)
            assert session.tokens == expected


@pytest.mark.parametrize("learning", ["cascaded", "parallel"])
def test_what_is_written_again_is_what_goes_on(learning: str) -> None:
    """Known tokens, written again, leave the session as it was when they were chosen."""
    settings = config(learning=learning)
    with tiny_engine().session(settings) as session:
        session.write("once", max_new_tokens=150)
        expected = session.tokens
    with tiny_engine().session(settings) as session:
        list(session.stream("once", max_new_tokens=150, again=expected[4:104]))
        assert session.tokens == expected
    with tiny_engine().session(settings) as session:  # also if the model would have chosen others
        other = [(token + 1) % 200 for token in expected[4:104]]
        list(session.stream("once", max_new_tokens=150, again=other))
        assert session.tokens[4:104] == other
        assert session.tokens[104:] != expected[104:]


def test_a_snapshot_stays_as_it_was_while_the_session_goes_on() -> None:
    with tiny_engine().session(config()) as session:
        scores(session, IDS[:96])
        taken = session.snapshot()
        kept = {name: tensor.clone() for name, tensor in taken.tensors.items()}
        scores(session, IDS[96:])
        assert all(torch.equal(kept[name], tensor) for name, tensor in taken.tensors.items())


def test_a_snapshot_can_be_gone_on_from_twice() -> None:
    """Learning edits the adapter's state in place: the session's, not the snapshot's."""
    with tiny_engine().session(config()) as session:
        scores(session, IDS[:96])
        taken, tokens = session.snapshot(), list(session.tokens)
    after = []
    for _ in range(2):
        with tiny_engine().session(config()) as session:
            session.restore(tokens, taken)
            after.append(scores(session, IDS[96:]))
    assert after[0] == after[1]


def test_what_was_spent_goes_on_too() -> None:
    with tiny_engine().session(config()) as session:
        scores(session, IDS)
        expected = session.meter.flops
    with tiny_engine().session(config()) as session:
        scores(session, IDS[:96])
        taken, tokens = session.snapshot(), list(session.tokens)
    with tiny_engine().session(config()) as session:
        session.restore(tokens, taken)
        scores(session, IDS[96:])
        assert session.meter.flops == pytest.approx(expected)


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    with tiny_engine().session(config()) as session:
        scores(session, IDS[:96])
        taken, tokens = session.snapshot(), list(session.tokens)
    with tiny_engine().session(config(rank=2)) as session, pytest.raises(TextError, match="another session"):
        session.restore(tokens, taken)
    with tiny_engine().session(config()) as session, pytest.raises(TextError, match="another session"):
        session.restore(tokens[:-1], taken)
    (tmp_path / "torn").write_bytes(b"\x10\0\0\0\0\0\0\0{}")
    for name in ("torn", "absent"):
        with pytest.raises(TextError, match=name):
            Snapshot.load(tmp_path / name)
    with pytest.raises(TextError, match="cannot be written"):
        taken.save(tmp_path / "no folder" / "snapshot")
