from __future__ import annotations

import itertools
import sys

import pytest
import torch
from conftest import small
from torch.utils.flop_counter import FlopCounterMode

from templora.engine.engine import Engine
from templora.models.runner import through
from templora.runtime import metering
from templora.runtime.metering import Meter, ModelShape, peak_memory_bytes
from templora.testing import FAMILIES, tiny_engine

SHAPE = ModelShape(linear_weights=1000, head_weights=300, attention_width=10)


def test_flops_by_hand() -> None:
    """3 tokens over 5 cached ones attend to 6 + 7 + 8 keys; each key costs 2 multiply-adds a unit of width."""
    attention = 4 * 10 * (6 + 7 + 8)
    assert SHAPE.forward(3, 5, 0, 0) == 2 * 3 * 1000 + attention
    assert SHAPE.forward(3, 5, 2, 70) == 2 * (3 * (1000 + 70) + 2 * 300) + attention
    assert SHAPE.backward(3, 5, 2, 70) == 2 * (3 * (1000 + 2 * 70) + 2 * 300) + 2 * attention


def test_attention_is_as_wide_as_the_queries() -> None:
    """Two layers of 4 heads; qwen3 has heads of 128 whatever its hidden size, gpt2 says nothing of heads."""
    widths = [tiny_engine(family).model.shape.attention_width for family in ("llama", "qwen3", "gpt2")]
    assert widths == [2 * 4 * 8, 2 * 4 * 128, 2 * 4 * 8]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_models_products_are_those_that_torch_counts(family: str) -> None:
    engine = tiny_engine(family)
    model = engine.model
    with engine.session(small()) as session, torch.no_grad():
        adapter = session.slot.layout.weights
        in_place = {torch.ops.aten.addmm_: lambda _, a, b, **__: 2 * a[0] * a[1] * b[1]}
        with (
            FlopCounterMode(display=False, custom_mapping=in_place) as counter,
            through(session.slot.route),
        ):
            model.logits(model.hidden(list(range(40)), None)[:7])
    counts = counter.get_flop_counts()["Global"]
    products = sum(n for op, n in counts.items() if str(op) in ("aten.mm", "aten.addmm", "aten.addmm_"))
    assert products == model.shape.forward(40, 0, 7, adapter) - model.shape.attention(40, 0)


def test_an_inner_phase_stops_the_clock_of_the_outer_one(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = itertools.accumulate([0, 1, 2, 4])  # decode from 0 to 1 and from 3 to 7, cache in between
    monkeypatch.setattr(metering.time, "perf_counter", lambda: float(next(ticks)))
    meter = Meter()
    with meter.phase("decode"):
        meter.count(10)
        with meter.phase("cache"):
            meter.count(5)
        meter.count(20)
    meter.count(1000)  # outside of all phases
    assert meter.seconds == {"decode": 5.0, "score": 0.0, "learn": 0.0, "cache": 2.0}
    assert meter.flops == {"decode": 30, "score": 0, "learn": 0, "cache": 5}


def test_a_session_counts_each_phase(engine: Engine, text: str) -> None:
    """A first chunk: scored by base and adapted reader, then learnt over itself; the next token needs a new cache."""
    shape = engine.model.shape
    with engine.session(small()) as session:
        adapter = session.slot.layout.weights
        session.score(text[:32])
        assert session.meter.flops == {
            "decode": 0,
            # The scoring pass is the first half of learning; the head's gradient, taken at once, is for learning.
            "score": shape.forward(31, 0, 31, 0) + shape.forward(31, 0, 31, adapter),
            # What the update is tried on: drawn from the base, then read as the adapter was and as it is.
            "learn": shape.backward(31, 0, 31, adapter)
            + shape.forward(32, 0, 32, 0)
            + 2 * shape.forward(32, 0, 32, adapter),
            "cache": 0,
        }
        session.write(max_new_tokens=2)
        assert session.meter.flops["decode"] == shape.forward(1, 31, 1, adapter) + shape.forward(1, 32, 1, adapter)
        assert session.meter.flops["cache"] == shape.forward(31, 0, 0, adapter)
        assert all(seconds > 0 for seconds in session.meter.seconds.values())


@pytest.mark.skipif(sys.platform not in ("linux", "darwin"), reason="units are the system's own")
def test_peak_memory_is_in_bytes() -> None:
    """A process that has imported torch holds more than 32 MB and less than a terabyte."""
    assert 2**25 < peak_memory_bytes(torch.device("cpu")) < 2**40
