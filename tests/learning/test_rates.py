"""The learning rate that suits a model."""

from __future__ import annotations

import statistics

import pytest
import torch
from conftest import small

from templora.config import TempLoraConfig
from templora.engine.engine import Engine
from templora.layers.quantized import quantize_model
from templora.learning.rates import FACTOR, HIGHEST, LOWEST, POWER, learning_rate_for, typical_weight
from templora.lora.targets import choose_targets, module_at
from templora.testing import FAMILIES, byte_tokenizer, tiny_engine, tiny_model


@pytest.mark.parametrize("family", FAMILIES)
def test_typical_weights_are_measured_by_what_layers_do(family: str) -> None:
    """Within what 64 random vectors can tell, the root mean square of the weights; a bias does not matter."""
    model = tiny_model(family)
    targets = choose_targets(model, small())
    direct = statistics.median(float(module_at(model, t).weight.detach().square().mean().sqrt()) for t in targets)
    assert typical_weight(model, targets) == pytest.approx(direct, rel=0.15)
    assert typical_weight(model, targets) == typical_weight(model, targets)


def test_quantised_weights_are_as_large_as_before() -> None:
    model = tiny_model(dtype=torch.bfloat16)
    targets = choose_targets(model, small())
    before = typical_weight(model, targets)
    quantize_model(model, 8)
    assert typical_weight(model, choose_targets(model, small())) == pytest.approx(before, rel=0.02)


def test_the_rate_grows_with_the_weights_within_bounds() -> None:
    model = tiny_model()
    targets = choose_targets(model, small())
    rates = []
    for scale in (0.001, 0.5, 1.0, 1000.0):
        for target in targets:
            module_at(model, target).weight.data.mul_(scale)
        rates.append(learning_rate_for(model, targets))
        expected = FACTOR * typical_weight(model, targets) ** POWER
        assert rates[-1] == pytest.approx(min(HIGHEST, max(LOWEST, expected)), rel=0.05)
        for target in targets:
            module_at(model, target).weight.data.div_(scale)
    assert rates == sorted(rates)
    assert (rates[0], rates[-1]) == (LOWEST, HIGHEST)


def test_a_session_learns_at_the_rate_of_its_model() -> None:
    engine = tiny_engine()
    config = TempLoraConfig(rank=4, window=64, chunk_size=32)
    assert config.learning_rate is None
    with engine.session(config) as session, engine.session(small(learning_rate=0.5)) as told:
        rate = learning_rate_for(engine.model.module, choose_targets(engine.model.module, config))
        assert session.config.learning_rate == rate == engine.learning_rate(config)
        assert told.config.learning_rate == 0.5


@pytest.mark.real
def test_the_embedded_model_learns_at_the_rate_that_was_tuned() -> None:
    import templora

    engine = templora.load()
    assert engine.learning_rate(engine.config()) == 1e-3


def test_an_adapter_in_the_way_does_not_matter() -> None:
    engine = Engine(tiny_model(), byte_tokenizer())
    before = engine.learning_rate(small())
    with engine.session(small()) as session:
        session.absorb("It was the best of times. " * 6)
        engine._rates.clear()
        assert engine.learning_rate(small()) == before
