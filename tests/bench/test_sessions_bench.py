"""`templora bench --sessions`: figures of several sessions, at tiny sizes."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import small
from ggufs import has_llama_cpp, write_gguf
from test_bench import CEILINGS

import templora
from templora import OptionError
from templora.bench.bench import weight_bytes
from templora.bench.sessions import SessionsBench
from templora.cli.bench import numbers_of_sessions
from templora.testing import tiny_engine


def test_figures_of_sessions() -> None:
    """Names, runs, and the bytes that a token reads: the base's weights are shared, adapter and cache are not."""
    engine = tiny_engine()
    bench = SessionsBench(engine, small(), CEILINGS, runs=2, tokens=6)
    figures = {f.name: f for f in bench.figures([1, 3])}
    names = [f"{n}{more}" for n in ("1 session", "3 sessions") for more in ("", ", one more learns")]
    kinds = ("together", "wait", "wait, 99 in 100")
    assert set(figures) == {f"{name}: {kind}" for name in names for kind in kinds} | {"memory of a further session"}
    memory = figures.pop("memory of a further session")
    assert len(memory.runs) == 3
    assert all(len(f.runs) == 2 and min(f.runs) > 0 for f in figures.values())
    one, three = (figures[f"{n}: together"].work for n in ("1 session", "3 sessions"))
    assert one is not None
    assert three is not None
    assert one - three == pytest.approx(weight_bytes(engine.model) * 2 / 3)
    assert figures["1 session: wait, 99 in 100"].median >= figures["1 session: wait"].median
    assert engine.sessions == 0


def test_what_is_written_is_not_learnt() -> None:
    """Each run reads a chunk, learns it, and writes into the next one, which it leaves open."""
    engine = tiny_engine()
    bench = SessionsBench(engine, small(), CEILINGS, runs=1, tokens=6)
    with engine.session(small()) as session:
        bench._fill(session, 3)
        assert (len(session.tokens) % 32, session.version) == (32 - 7, 3)
        bench._written([session], None)
        assert (len(session.tokens) % 32, session.version) == (31, 3)


def test_what_fails_in_a_thread_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = tiny_engine()
    bench = SessionsBench(engine, small(), CEILINGS, runs=1, tokens=6)
    with engine.session(small()) as session, pytest.raises(templora.TextError):
        bench._written([session], None)


@pytest.mark.parametrize("given", ["", "0", "1,x", "1,-2", "65"])
def test_numbers_that_cannot_be(given: str) -> None:
    with pytest.raises(OptionError, match=r"sessions: takes numbers from 1 to 64, as in 1,2,4"):
        numbers_of_sessions(given)


def test_numbers_in_order() -> None:
    assert numbers_of_sessions("4, 1,4") == [1, 4]


@has_llama_cpp
def test_beside_llama_cpp_with_as_many_slots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEMPLORA_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "m.gguf"
    write_gguf(path)
    engine = templora.load(path, threads=1)
    bench = SessionsBench(engine, engine.config(chunk_size=32, window=96, rank=4), CEILINGS, runs=1, tokens=6)
    figures = {f.name: f for f in bench.figures([2], path)}
    assert figures["2 sessions: together, llama.cpp"].median > 0
    ratio = figures["2 sessions: together"].median / figures["2 sessions: together, llama.cpp"].median
    assert figures["2 sessions: ours / llama.cpp"].median == pytest.approx(ratio)
