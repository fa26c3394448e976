"""The same equalities on a GPU. Skipped where there is none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import small
from test_graph_rows import both_ways
from test_module_rows import alone_and_together

from templora import ChunkLearned, ChunkScored
from templora.engine.engine import Engine
from templora.methods.attention_sinks import AttentionSinks
from templora.methods.base import Method
from templora.methods.dynamic_evaluation import DynamicEvaluation
from templora.session.snapshot import Snapshot
from templora.testing import FAMILIES, byte_tokenizer, tiny_model

pytestmark = [pytest.mark.cuda, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_session_on_the_gpu(family: str, dtype: torch.dtype, text: str) -> None:
    """Fresh adapter = base, learning moves it, the same seed writes the same, and nothing is left."""
    engine = Engine(tiny_model(family, dtype).cuda(), byte_tokenizer())
    written = []
    for _ in range(2):
        with engine.session(small(dropout=0.05)) as session:
            scored = [e for e in session.score_events(text[:96]) if isinstance(e, ChunkScored)]
            assert scored[0].adapted_nll == scored[0].base_nll
            assert scored[1].adapted_nll != scored[1].base_nll
            events = list(session.stream(max_new_tokens=70))
            assert all(e.committed for e in events if isinstance(e, ChunkLearned))
            written.append(session.tokens)
        assert session.receipt is not None
        assert session.receipt.base_unchanged
        assert session.receipt.discarded
    assert written[0] == written[1]


@pytest.mark.parametrize("options", [{}, {"checkpointing": True}, {"epochs": 2}, {"learning": "parallel"}], ids=str)
def test_learning_is_that_of_the_cpu(options: dict[str, Any], text: str) -> None:
    found = []
    for device in ("cpu", "cuda"):
        engine = Engine(tiny_model().to(device), byte_tokenizer())
        with engine.session(small(**options)) as session:
            session.score(text[:48])
            session.absorb(text[48:96])
            session.close_chunk()
            found.append(session.slot.state.weights.cpu())
    assert torch.allclose(*found, rtol=1e-2, atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_recorded_step_is_the_step(family: str, text: str) -> None:
    """The same logits with and without the graph, through commits, window moves and a new recording."""
    engine = Engine(tiny_model(family).cuda(), byte_tokenizer())
    with engine.session(small(max_repetition=1.0)) as session, engine.session(small(max_repetition=1.0)) as plain:
        assert session.readers[0].step is not None
        plain.readers[0].step = None
        both_ways(session, plain, text[:70], 50)
        with engine.session(small(seed=7)):  # moves the serving rows
            both_ways(session, plain, "", 30)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_of_a_graph_are_each_what_they_are_alone(family: str, dtype: torch.dtype, text: str) -> None:
    """Three sessions at once and one after another, with commits, window moves and known tokens."""
    engine = Engine(tiny_model(family, dtype).cuda(), byte_tokenizer(), rows=4)
    assert type(engine.new_step()).__name__ == "GraphRows"
    alone, together = alone_and_together(engine, text)
    assert alone == together


def test_going_on_from_a_file(tmp_path: Path, text: str) -> None:
    """What a file gives is on the CPU, and the session is not."""
    engine = Engine(tiny_model().cuda(), byte_tokenizer())
    for method in (Method(), AttentionSinks(), DynamicEvaluation(step_size=1e-3)):
        with engine.session(small(), method=method) as session:
            expected = [e.adapted_nll for e in session.score_events(text[:192]) if isinstance(e, ChunkScored)]
        with engine.session(small(), method=method) as session:
            ids = session.encode(text[:192])
            found = [e.adapted_nll for e in session.score_ids(ids[:96]) if isinstance(e, ChunkScored)]
            session.snapshot().save(tmp_path / "snapshot")
            tokens = session.tokens
        with engine.session(small(), method=method) as session:
            session.restore(tokens, Snapshot.load(tmp_path / "snapshot"))
            found += [e.adapted_nll for e in session.score_ids(ids[96:]) if isinstance(e, ChunkScored)]
        assert found == pytest.approx(expected, rel=1e-5)
