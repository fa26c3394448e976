"""What is measured, counted and divided; never how fast it was."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from conftest import small

from templora.bench.bench import (
    Bench,
    Figure,
    alternate,
    cache_bytes,
    load_figure,
    model_products,
    ratios,
    weight_bytes,
)
from templora.bench.ceilings import Ceilings
from templora.engine.engine import Engine
from templora.kvcache.window import WindowCache
from templora.testing import byte_tokenizer, tiny_engine, tiny_model

CEILINGS = Ceilings(1e9, 2e9, 4e9)
# tiny_model: hidden 32, feed-forward 48, two layers, 4 heads and 2 for keys and values of size 8, 260 ids.
LINEAR = 2 * (2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 48)
NORMS = 5 * 32


def test_the_ratio_is_the_share_of_the_ceilings_speed() -> None:
    assert Figure("decode", "tok/s", (10.0, 30.0, 20.0), ceiling=80.0).ratio == 0.25
    assert Figure("learn", "s", (10.0, 30.0, 20.0), ceiling=5.0).ratio == 0.25
    assert Figure("load", "s", (10.0, 30.0, 20.0)).ratio is None


def test_a_figure_keeps_its_runs() -> None:
    kept = Figure("learn", "s", (3.0, 1.0, 2.0), ceiling=1.0, work=7.0).to_dict()
    assert kept["runs"] == [3.0, 1.0, 2.0]
    assert (kept["median"], kept["lowest"], kept["highest"], kept["work"]) == (2.0, 1.0, 3.0, 7.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_are_counted_as_they_are_stored(dtype: torch.dtype) -> None:
    """All but the embedding, of which one row is read; the rotary frequencies too."""
    model = tiny_engine(dtype=dtype).model
    rotary = sum(b.numel() * b.element_size() for b in model.decoder.buffers())
    head, row = 260 * 32, 32
    assert weight_bytes(model) == (LINEAR + NORMS + head + row) * dtype.itemsize + rotary


def test_a_head_that_is_the_embedding_is_read_whole() -> None:
    model = tiny_engine().model
    own = weight_bytes(model)
    model.head.weight = model.module.get_input_embeddings().weight
    assert weight_bytes(model) == own


@torch.no_grad()
def test_keys_and_values_are_counted() -> None:
    model = tiny_engine().model
    cache = WindowCache(model.layers, 64)
    model.hidden([1, 2], cache)
    assert cache_bytes(cache, 50) == 50 * 2 * 2 * (2 * 8) * 4


def test_each_side_has_its_turn_in_each_run() -> None:
    called: list[str] = []
    sides = {name: (lambda name=name: (called.append(name), float(len(called)))[1]) for name in ("a", "b")}
    found = alternate(sides, 3)
    assert "".join(called) == "abbaabba"  # one round that is not counted, then the order turns
    assert found == {"a": (4.0, 5.0, 8.0), "b": (3.0, 6.0, 7.0)}


def test_ratios_are_taken_run_by_run() -> None:
    found = {
        "decode, with adapter": (2.0, 6.0),
        "decode, with adapter: llama.cpp": (1.0, 2.0),
        "decode, without: llama.cpp": (4.0, 3.0),
    }
    named = {f.name: f.runs for f in ratios(found)}
    assert named == {
        "ours with adapter / llama.cpp with adapter": (2.0, 3.0),
        "ours with adapter / llama.cpp without": (0.5, 2.0),
    }


@pytest.mark.parametrize("bos", [False, True])
def test_figures_of_a_model(bos: bool) -> None:
    """Names, and each ceiling from the formula: window 96 and chunk 32 leave 64 tokens of context."""
    engine = tiny_engine(bos=bos)
    before = engine.model.fingerprint()
    figures = {f.name: f for f in Bench(engine, small(), CEILINGS, runs=2, decode_tokens=6).figures()}
    assert list(figures) == [
        "score a chunk, base and adapted",
        "learn a chunk, 1 epoch",
        "learn a chunk, 2 epochs",
        "decode, with adapter",
        "decode, without",
        "peak memory",
    ]
    assert all(len(f.runs) == 2 and min(f.runs) > 0 for name, f in figures.items() if name != "peak memory")
    shape, adapter = engine.model.shape, 4 * 2 * (4 * 32 + 2 * 48 + 3 * 80)
    # The token before the chunk is an input, and the last of the context.
    # The first step goes on from the pass that scored the chunk, in which the head's gradient was taken too.
    # Then the update is tried: the text before and the base's predictions, 32 each, as it is and as it was.
    tried = 2 * shape.forward(63 + bos, 0, 63, adapter)
    first = shape.backward(32, 63, 0, adapter) + tried
    learn = figures["learn a chunk, 1 epoch"]
    assert learn.work == first
    again = shape.forward(32, 63, 32, adapter) + shape.backward(32, 63, 32, adapter)
    assert figures["learn a chunk, 2 epochs"].work == first + again
    assert learn.ceiling == first / 4e9
    score = figures["score a chunk, base and adapted"]
    read = [shape.forward(63, 0, 0, r) + shape.forward(32, 63, 32, r) for r in (0, adapter)]
    assert score.work == sum(read) + shape.backward(0, 0, 32, 0)
    with_adapter, without = figures["decode, with adapter"], figures["decode, without"]
    assert without.work == weight_bytes(engine.model) + (96 - 3) * 2 * 2 * 16 * 4
    assert with_adapter.work == without.work + adapter * 4
    assert with_adapter.ceiling == 1e9 / with_adapter.work
    assert engine.model.fingerprint() == before
    assert engine.sessions == 0


@pytest.mark.parametrize(
    "options", [{"learning_rate": 1e9}, {"probe_tolerance": 1e-9, "patience": 1}, {"chunk_size": 2, "window": 4}]
)
def test_what_is_rolled_back_is_measured_too(engine: Engine, options: dict[str, float]) -> None:
    """Neither does learning pause, nor is anything divided by the time of a chunk that was passed over."""
    figures = {f.name: f for f in Bench(engine, small(**options), CEILINGS, runs=5, decode_tokens=6).figures()}
    for name, figure in figures.items():
        assert len(figure.runs) == 5 or name == "peak memory"
        assert min(figure.runs) > 0
        assert json.dumps(figure.to_dict())
    assert figures["learn a chunk, 2 epochs"].ratio


def test_what_took_no_time_has_no_ratio() -> None:
    assert Figure("learn", "s", (0.0, 0.0), ceiling=1.0).ratio is None
    assert Figure("decode", "tok/s", (1.0,), ceiling=0.0).ratio is None


def test_decoding_ends_where_the_window_is_full(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    lengths: list[int] = []
    from templora.decoding.reader import Reader

    real = Reader.next_logits
    monkeypatch.setattr(
        Reader, "next_logits", lambda self, tokens: (lengths.append(self.cache.length), real(self, tokens))[1]
    )
    list(Bench(engine, small(), CEILINGS, runs=1, decode_tokens=6).figures())
    # Two rounds, two readers; the newest token is not in the cache yet.
    assert lengths == [89, 90, 91, 92, 93, 94] * 4


def test_the_models_products_leave_the_head_out() -> None:
    products = model_products(tiny_engine().model)
    assert sum(inputs * outputs for inputs, outputs in products) == LINEAR
    assert (32, 260) not in products


def test_loading_is_measured_in_fresh_processes(tmp_path: Path) -> None:
    tiny_model().save_pretrained(tmp_path)
    byte_tokenizer().save_pretrained(tmp_path)
    figure = load_figure({"model": str(tmp_path), "device": "cpu"}, 2)
    assert len(figure.runs) == 2
    assert min(figure.runs) > 0.1  # torch is imported anew each time
