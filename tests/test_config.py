from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest

import templora
from templora import ConfigError, OptionError, SamplingParams, TempLoraConfig, recipe
from templora.recipes import RECIPES


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("rank", 0, "at least 1"),
        ("rank", 2.5, "whole number"),
        ("rank", True, "whole number"),
        ("rank", "many", "of type int"),
        ("rank", None, "must be given"),
        ("alpha", 0, "must be from 1e-06"),
        ("learning_rate", -1e-3, "above 0"),
        ("learning_rate", float("nan"), "finite"),
        ("learning_rate", float("inf"), "finite"),
        ("dropout", 1.0, "below 1"),
        ("epochs", 0, "at least 1"),
        ("chunk_size", 1024, "below window"),
        ("chunk_size", 1, "at least 2"),
        ("train_context", 600, "at most window − chunk_size = 512"),
        ("cache_reuse", -1, "at least 0"),
        ("learning", "parallell", "unknown mode"),
        ("learning", "cascade", "did you mean 'cascaded'"),
        ("target_modules", (), "at least one"),
        ("context_gradients", "yes", "true or false"),
    ],
)
def test_bad_values_are_refused_by_name(field: str, value: Any, says: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(says)) as error:
        TempLoraConfig(**{field: value})
    assert error.value.option == field


def test_unknown_fields_name_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'learning_rate'"):
        TempLoraConfig.from_dict({"learnig_rate": 1e-3})
    with pytest.raises(ConfigError, match="did you mean 'paper'"):
        recipe("papre")
    with pytest.raises(OptionError, match="top_p"):
        SamplingParams(top_p=1.5)


def test_round_trip_through_json() -> None:
    config = TempLoraConfig(rank=8, target_modules=("q_proj",), layers="0-3", train_context=100)
    assert TempLoraConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_warm_up_is_counted_in_chunks_and_never_zero() -> None:
    config = TempLoraConfig(learning_rate=1.0, warmup_chunks=4)
    assert [config.learning_rate_at(c) for c in range(6)] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    assert TempLoraConfig(learning_rate=1.0, warmup_chunks=0).learning_rate_at(0) == 1.0


def test_paper_recipe() -> None:
    config = recipe("paper", max_positions=8192)
    assert (config.rank, config.alpha, config.dropout, config.learning_rate) == (64, 64, 0.05, 5e-5)
    assert (config.warmup_chunks, config.adam_epsilon, config.max_grad_norm, config.epochs) == (2, 1e-7, 1.0, 2)
    assert (config.chunk_size, config.learn_context, config.window) == (1024, 3072, 4096)
    assert config.context_gradients


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("positions", [16, 512, 2048, 8192])
def test_recipes_fit_every_model(name: str, positions: int) -> None:
    config = recipe(name, max_positions=positions)
    assert config.window <= positions
    assert config.learn_context <= config.context


def test_a_recipe_shrinks_to_a_small_model() -> None:
    sizes = [(c.window, c.chunk_size, c.learn_context) for p in (2048, 512, 16) for c in [recipe("paper", p)]]
    assert sizes == [(2048, 512, 1536), (512, 128, 384), (16, 4, 12)]
    assert recipe("paper", 512, chunk_size=400).learn_context == 112
    assert (recipe("default", 512).chunk_size, recipe("default", 8192)) == (128, TempLoraConfig())


def test_a_window_that_was_asked_for_is_not_changed() -> None:
    assert recipe("paper", 512, window=1024, chunk_size=512).window == 1024
    assert recipe("default", 512, window=768).chunk_size == 512  # nor is the chunk in it
    assert recipe("paper", 8192, window=1024, chunk_size=512).learn_context == 512
    with pytest.raises(ConfigError, match="train_context"):
        recipe("paper", 8192, window=1024, chunk_size=512, train_context=513)


def test_every_field_is_read_somewhere() -> None:
    """An option that reaches nothing is a lie; the released scripts' eval_input_length was one."""
    package = Path(templora.__file__).parent
    code = {p: p.read_text() for p in package.rglob("*.py")}
    readers = "\n".join(text for path, text in code.items() if "cli" not in path.parts)
    for field in dataclasses.fields(TempLoraConfig):
        assert re.search(rf"(config|self)\.{field.name}\b", readers), field.name
        assert field.metadata["help"], field.name
    for field in dataclasses.fields(SamplingParams):
        assert re.search(rf"params\.{field.name}\b|self\.{field.name}\b", code[package / "sampling.py"]), field.name
