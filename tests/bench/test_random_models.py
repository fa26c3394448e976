from __future__ import annotations

import pytest
import torch

from templora import OptionError
from templora.bench.random_models import SHAPES, random_engine
from templora.models.builtin import BUILTIN_MODELS


def test_a_shape_is_a_model_that_works() -> None:
    engine = random_engine("tiny", "cpu")
    assert engine.model.dtype == torch.bfloat16
    assert engine.name == "tiny (random weights)"
    with engine.session(engine.config(chunk_size=16, window=32, rank=2)) as session:
        assert session.score("It was the best of times, it was the worst of times.").base.tokens == 51
    assert session.receipt is not None
    assert session.receipt.base_unchanged


def test_weights_are_the_same_each_time() -> None:
    assert random_engine("tiny", "cpu").model.fingerprint() == random_engine("tiny", "cpu").model.fingerprint()


@pytest.mark.parametrize(("shape", "parameters"), [("llama-2-7b", 6_738_415_616), ("smollm2-135m", 134_515_008)])
def test_shapes_have_the_models_sizes(shape: str, parameters: int) -> None:
    from transformers import AutoModelForCausalLM, LlamaConfig

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(LlamaConfig(**SHAPES[shape]))
    assert sum(p.numel() for p in model.parameters()) == parameters
    if shape in BUILTIN_MODELS:
        assert BUILTIN_MODELS[shape].parameters == parameters


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"shape": "llama-2-70b"}, "llama-2-7b"),
        ({"shape": "tiny", "device": "tpu"}, "unknown device"),
        ({"shape": "tiny", "dtype": "int3"}, "unknown 'int3'"),
    ],
)
def test_what_is_not_known_is_named(options: dict[str, str], named: str) -> None:
    with pytest.raises(OptionError, match=named):
        random_engine(**options)
