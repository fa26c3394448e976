from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from templora import ModelError, TempLoraConfig
from templora.lora.targets import linear_layers
from templora.models.builtin import BUILTIN_MODELS, DEFAULT_MODEL
from templora.models.memory_estimate import Need, Sizes, available, check, needed
from templora.testing import FAMILIES, tiny_engine, tiny_model

PLAN = TempLoraConfig(rank=4, window=64, chunk_size=32)


@pytest.mark.parametrize("family", FAMILIES)
def test_sizes_are_those_of_the_model(family: str) -> None:
    model = tiny_model(family)
    sizes = Sizes.of(model.config)
    assert sizes.linear + sizes.ends + sizes.other == sum(p.numel() for p in model.parameters())
    assert sizes.linear == tiny_engine(family).model.shape.linear_weights
    assert sizes.adapter == sum(t.inputs + t.outputs for t in linear_layers(model))
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert sizes.ends == 260 * 32 * (1 if tied else 2)
    with torch.no_grad():
        cache = model(torch.arange(5)[None], use_cache=True).past_key_values
    held = sum(t.numel() for layer in cache.layers for t in (layer.keys, layer.values))
    assert sizes.cache * 5 == held
    assert (sizes.vocabulary, sizes.positions) == (260, 256)


def test_weights_are_counted_by_format() -> None:
    sizes = Sizes(linear=3200, ends=320, other=10, adapter=100, cache=8, vocabulary=10, positions=64)
    whole = 3530 * 2
    assert needed(sizes, "unpacked", 2, None) == needed(sizes, "bf16", 2, None) == Need(whole)
    assert needed(sizes, "unpacked", 4, None).total == 3530 * 4
    assert needed(sizes, "int4", 2, None, blocks=1234.0).total == 1234
    for weights in ("int8", "int4"):
        assert needed(sizes, weights, 2, None).total == whole  # it is read whole first
    assert needed(sizes, "int8", 2, None, blocks=1234.0).total == whole


def test_what_a_plan_adds() -> None:
    sizes = Sizes(linear=3200, ends=320, other=10, adapter=100, cache=8, vocabulary=10, positions=64)
    need = needed(sizes, "bf16", 2, PLAN)
    assert need.adapter == 16 * 4 * 100
    assert needed(sizes, "bf16", 2, replace(PLAN, epochs=2)).adapter == 20 * 4 * 100
    assert need.cache == 2 * 64 * 8 * 2
    off = needed(sizes, "bf16", 2, TempLoraConfig(rank=4, window=64, chunk_size=32, learning="off"))
    assert off.adapter == 6 * 4 * 100
    again = needed(sizes, "bf16", 2, replace(PLAN, checkpointing=True))
    # An update that is committed: what it began with in fp32, and what was tried, where activations take less.
    assert off.learning + 6 * 4 * 100 - 0.1 * 32 * 100 * 2 == pytest.approx(again.learning)
    assert again.learning < need.learning
    longer = needed(sizes, "bf16", 2, TempLoraConfig(rank=4, window=1024, chunk_size=512))
    assert longer.cache == need.cache  # the model has no more positions than 64
    whole = needed(sizes, "bf16", 2, TempLoraConfig(rank=4, window=64, chunk_size=32, context_gradients=True))
    assert whole.learning > 1.9 * need.learning


def needs(weights: float, rest: float = 0) -> Need:
    return Need(weights, rest)


def test_enough_or_unknown_memory_passes() -> None:
    check("m", needs(3e9), 3e9, {})
    check("m", needs(3e12), None, {})


@pytest.mark.parametrize(
    ("need", "others", "hint"),
    [
        (needs(2e9, 1e9), {"int8": needs(1.2e9), "int4": needs(5e8)}, "--weights int8 needs 1.2 GB"),
        (needs(2e9, 1e9), {"int8": needs(1.6e9), "int4": needs(5e8)}, "--weights int4 needs 0.5 GB"),
        (
            needs(1e9, 1e9),
            {"int4": needs(5e8, 1e9)},
            "--checkpointing, or a smaller --rank, --window or --chunk-size, needs less",
        ),
        (needs(4e9), {"int4": needs(2e9)}, "take a smaller model"),
    ],
)
def test_too_little_memory_names_what_works(need: Need, others: dict[str, Need], hint: str) -> None:
    with pytest.raises(
        ModelError, match=r"^m: too little memory: this run needs \d\.\d GB .* and 1\.4 GB are free"
    ) as e:
        check("m", need, 1.4e9, others)
    assert str(e.value).endswith(hint) or "smaller model" in hint
    assert hint in str(e.value)
    assert "\n" not in str(e.value)


def test_available_is_what_the_machine_or_the_container_has(tmp_path: Path) -> None:
    proc, group = tmp_path / "proc", tmp_path / "group"
    proc.mkdir()
    group.mkdir()
    assert available(proc, group) is None
    (proc / "meminfo").write_text("MemTotal:  9000 kB\nMemFree:  100 kB\nMemAvailable:    5000 kB\n")
    assert available(proc, group) == 5000 * 1024
    (group / "memory.max").write_text("max\n")
    assert available(proc, group) == 5000 * 1024
    (group / "memory.max").write_text("3000000\n")
    (group / "memory.current").write_text("2000000\n")
    (group / "memory.stat").write_text("anon 1000\ninactive_file 400000\nactive_file 100000\n")
    assert available(proc, group) == 1_500_000
    (group / "memory.max").write_text("9000000000\n")
    assert available(proc, group) == 5000 * 1024
    (proc / "meminfo").write_text("MemAvailable: some kB\n")
    assert available(proc, group) == 8_998_500_000


MEASURE = """
import json, sys
import templora
from templora.models.unpacked import UnpackedModel
from templora.models.builtin import BUILTIN_MODELS, DEFAULT_MODEL
import transformers.models.llama.modeling_llama, templora.engine.engine, numba
from templora.models import memory_estimate
from templora.runtime.rss import peak_rss_bytes as peak
weights, plan = sys.argv[1], templora.TempLoraConfig(chunk_size=256, window=512, learning=sys.argv[2])
source = UnpackedModel(BUILTIN_MODELS[DEFAULT_MODEL])
sizes = memory_estimate.Sizes.of(source.config)
before = peak()
need = memory_estimate.needed(sizes, weights, 2, plan, source.blocks_bytes)
with templora.load(weights=weights).session(plan) as session:
    for _ in session.score_ids([i % 9973 for i in range(1, 769)]):
        pass
print(json.dumps({"before": before, "need": need.total, "peak": peak()}))
"""


@pytest.mark.real
@pytest.mark.parametrize(("weights", "learning"), [("bf16", "cascaded"), ("int4", "cascaded"), ("int4", "off")])
def test_the_estimate_is_near_what_is_used(weights: str, learning: str) -> None:
    """Of the whole process: what it held before, and what was foreseen."""
    assert BUILTIN_MODELS[DEFAULT_MODEL].path() is not None
    command = [sys.executable, "-c", MEASURE, weights, learning]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert found["before"] + found["need"] == pytest.approx(found["peak"], rel=0.25)
