"""PEFT folders with anything in them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from fuzzing import Reader, fuzzed
from hypothesis import given, strategies as st
from safetensors.torch import save

from templora.lora.peft import load_adapter
from templora.lora.slot import Layout
from templora.lora.targets import Target, first_weights

READER = Reader("peft", seconds=2.0, memory=20.0)
LAYOUT = Layout((Target("model.layers.0.q_proj", 8, 6), Target("model.layers.1.q_proj", 8, 6)), 2)
FRESH = first_weights(LAYOUT.targets, 2, 0)
CONFIG = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "bias": "none", "use_rslora": False, "init_lora_weights": True,
          "rank_pattern": {}, "modules_to_save": None, "target_modules": ["q_proj"]}  # fmt: skip
NUMBERS = [0, -1, 2, 4, 2**31, 10**400, 1e308, float("nan"), float("inf"), 1e-320, True, False, None]
VALUES = st.recursive(
    st.sampled_from(NUMBERS) | st.text(max_size=8) | st.integers(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int8, torch.bool, torch.complex64]


@pytest.fixture(autouse=True, scope="module")
def saved() -> Iterator[None]:
    yield
    READER.save()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("peft")


def read(folder: Path, config: bytes, weights: bytes) -> None:
    (folder / "adapter_config.json").write_bytes(config)
    (folder / "adapter_model.safetensors").write_bytes(weights)
    found = READER(lambda: load_adapter(folder, LAYOUT, 4.0, FRESH), len(config) + len(weights))
    if found is not None:
        assert found.shape == FRESH.shape
        assert found.isfinite().all()
        for a, b in LAYOUT.views(found):  # whatever was in it, every rank can learn
            assert (a.any(1) | b.any(0)).all()


def whole() -> dict[str, torch.Tensor]:
    tensors = {}
    for target in LAYOUT.targets:
        tensors[f"base_model.model.{target.name}.lora_A.weight"] = torch.ones(2, 8)
        tensors[f"base_model.model.{target.name}.lora_B.weight"] = torch.ones(6, 2)
    return tensors


WEIGHTS = save(whole())


@fuzzed
@given(st.dictionaries(st.sampled_from([*CONFIG, "use_dora", "alpha_pattern", "lora_bias", "new"]), VALUES, max_size=3))
def test_settings(folder: Path, change: dict[str, Any]) -> None:
    read(folder, json.dumps(CONFIG | change).encode(), WEIGHTS)


@fuzzed
@given(VALUES | st.just([[[]] * 50] * 50), st.binary(max_size=40), st.integers(0, 200))
def test_settings_that_are_none(folder: Path, value: Any, junk: bytes, at: int) -> None:
    text = json.dumps(value if at % 2 else CONFIG).encode()
    read(folder, text[:at] + junk + text[at:] if at % 3 else junk * (at * 20) or b"[" * 500 * at, WEIGHTS)


@fuzzed
@given(st.data())
def test_tensors(folder: Path, data: st.DataObject) -> None:
    tensors: dict[str, torch.Tensor] = {}
    for name, tensor in whole().items():
        what = data.draw(st.sampled_from(["as it is"] * 2 + ["left out", "zeros", "shape", "dtype", "value", "name"]))
        if what == "shape":
            tensor = torch.ones(data.draw(st.lists(st.integers(0, 9), max_size=3)))
        if what == "dtype":
            tensor = tensor.to(data.draw(st.sampled_from(DTYPES)))
        if what == "value":
            tensor[0, 0] = data.draw(st.floats(width=32))
        if what == "name":
            others = [f"{name}.lora_A.weight", ".lora_A.weight", name[:-2]]
            name = data.draw(st.text(max_size=30) | st.sampled_from(others))
        if what == "zeros":
            tensor.zero_()
        if what != "left out":
            tensors[name] = tensor
    read(folder, json.dumps(CONFIG).encode(), save(tensors))


@fuzzed
@given(
    st.lists(st.tuples(st.integers(0, len(WEIGHTS) - 1), st.integers(0, 255)), max_size=8),
    st.integers(0, 2 * len(WEIGHTS)),
    st.binary(max_size=30),
)
def test_bytes(folder: Path, flips: list[tuple[int, int]], end: int, more: bytes) -> None:
    raw = bytearray(WEIGHTS)
    for at, value in flips:
        raw[at] = value
    read(folder, json.dumps(CONFIG).encode(), bytes(raw[:end]) + more)
