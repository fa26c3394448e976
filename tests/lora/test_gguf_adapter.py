"""Adapters for llama.cpp. That it reads them as we mean them is shown on the embedded model, by logits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from adapted import with_random_adapter
from conftest import small
from ggufs import IDS, has_llama_cpp, predicted, tiny, write_gguf

import templora
from templora import ModelError
from templora.bench.llama_cpp import LlamaCpp
from templora.engine.engine import Engine
from templora.gguf.file import GgufFile
from templora.lora.gguf import interleaved
from templora.models.builtin import BUILTIN_MODELS
from templora.models.runner import through
from templora.testing import byte_tokenizer, tiny_engine


def test_rows_that_are_turned_together_lie_together() -> None:
    """Two heads of size 6."""
    rows = torch.arange(12)[:, None].expand(12, 2)
    assert interleaved(rows, 2)[:, 1].tolist() == [0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11]


def test_the_file_holds_every_layer_under_llama_cpps_names(engine: Engine, tmp_path: Path) -> None:
    path = tmp_path / "adapter.gguf"
    with engine.session(small()) as session:
        with_random_adapter(session)
        session.save_adapter(path)
        layout, weights = session.slot.layout, session.slot.state.weights
    reader = gguf.GGUFReader(path)
    fields = {name: field.contents() for name, field in reader.fields.items()}
    assert fields["general.architecture"] == "llama"
    assert (fields["general.type"], fields["adapter.type"], fields["adapter.lora.alpha"]) == ("adapter", "lora", 8.0)
    tensors = {t.name: torch.from_numpy(t.data.copy()).float() for t in reader.tensors}
    assert len(tensors) == 2 * len(layout.targets) == 2 * 2 * 7
    pairs = {t.name: pair for t, pair in zip(layout.targets, layout.views(weights), strict=True)}
    for ours, theirs in (
        ("mlp.down_proj", "ffn_down"),
        ("self_attn.v_proj", "attn_v"),
        ("self_attn.o_proj", "attn_output"),
    ):
        a, b = pairs[f"model.layers.1.{ours}"]
        assert torch.allclose(tensors[f"blk.1.{theirs}.weight.lora_a"], a, rtol=1e-3, atol=1e-6)
        assert torch.allclose(tensors[f"blk.1.{theirs}.weight.lora_b"], b, rtol=1e-3, atol=1e-6)
    for ours, theirs, heads in (("q_proj", "attn_q", 4), ("k_proj", "attn_k", 2)):
        _, b = pairs[f"model.layers.0.self_attn.{ours}"]
        assert torch.allclose(tensors[f"blk.0.{theirs}.weight.lora_b"], interleaved(b, heads), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3", "gemma3"])
def test_ours_come_back_to_the_bit(family: str, tmp_path: Path) -> None:
    engine = tiny_engine(family)
    with engine.session(small()) as session:
        with_random_adapter(session)
        weights = session.adapter_weights()
        session.save_adapter(tmp_path / "adapter.gguf")
    with engine.session(small()) as session:
        session.load_adapter(tmp_path / "adapter.gguf")
        assert torch.equal(session.adapter_weights(), weights)
    with engine.session(small(alpha=4.0)) as session, pytest.raises(ModelError, match=r"its scale is 2; set alpha=8"):
        session.load_adapter(tmp_path / "adapter.gguf")
    other = "qwen3" if family == "qwen2" else "qwen2"
    with tiny_engine(other).session(small()) as session, pytest.raises(ModelError, match=f"this one is '{other}'"):
        session.load_adapter(tmp_path / "adapter.gguf")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"adapter.type": "control_vector"}, "holds no LoRA adapter"),
        ({"adapter.alora.invocation_tokens": "x"}, r"without adapter\.alora\.invocation_tokens"),
        ({"adapter.lora.alpha": "x"}, "must be a positive number"),
        ({"blk.7.attn_q.weight.lora_a": np.zeros((4, 32), np.float32)}, "for which the session has no adapter"),
        ({"blk.0.attn_q.weight.lora_a": np.zeros((4, 16), np.float32)}, "another shape"),
        ({"blk.0.attn_q.weight.lora_a": np.full((4, 32), np.nan, np.float32)}, "not finite"),
        ({"blk.0.attn_q.weight.lora_b": None}, "one matrix of two"),
    ],
)
def test_files_that_do_not_fit_are_refused(change: dict[str, Any], says: str, tmp_path: Path) -> None:
    """Written by hand: type and alpha are what `change` says, and one layer's matrices."""
    held: dict[str, Any] = {"adapter.type": "lora", "adapter.lora.alpha": 8.0}
    held |= {f"blk.0.attn_q.weight.lora_{x}": np.ones(s, np.float32) for x, s in (("a", (4, 32)), ("b", (32, 4)))}
    writer = gguf.GGUFWriter(tmp_path / "adapter.gguf", "llama")
    writer.add_type("adapter")
    for key, value in (held | change).items():
        if isinstance(value, np.ndarray):
            writer.add_tensor(key, value)
        elif value is not None:
            writer.add_string(key, value) if isinstance(value, str) else writer.add_float32(key, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with tiny_engine().session(small()) as session, pytest.raises(ModelError, match=says):
        session.load_adapter(tmp_path / "adapter.gguf")


def test_other_families_are_refused(tmp_path: Path) -> None:
    with tiny_engine("gpt2").session(small()) as session, pytest.raises(ModelError, match="not for 'gpt2'"):
        session.save_adapter(tmp_path / "adapter.gguf")
    assert not (tmp_path / "adapter.gguf").exists()


def test_a_folder_that_is_not_there_is_one_error(engine: Engine, tmp_path: Path) -> None:
    with engine.session(small()) as session, pytest.raises(ModelError, match="cannot be written"):
        session.save_adapter(tmp_path / "nowhere" / "adapter.gguf")


@has_llama_cpp
@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "gemma3"])
def test_llama_cpp_changes_its_predictions_as_we_do(family: str, tmp_path: Path) -> None:
    path, lora = tmp_path / "m.gguf", tmp_path / "adapter.gguf"
    write_gguf(path, family, gguf.GGMLQuantizationType.F32, model=tiny(family))
    model = GgufFile(path).load(torch.float32, "auto")
    base = predicted(model)
    with Engine(model, byte_tokenizer()).session(small(rank=8)) as session:
        with_random_adapter(session)
        session.save_adapter(lora)
        with torch.no_grad(), through(session.slot.route):
            ours = predicted(model)
    assert (ours - base).abs().max() > 0.05
    with LlamaCpp(path, 512, 1, lora) as rival:
        (step,) = rival.decode(IDS, 1, likeliest=260).logprobs
    assert max(abs(value - float(ours[i])) for i, value in step.items()) < (0.03 if family == "gemma3" else 0.005)


@pytest.mark.real
@has_llama_cpp
def test_llama_cpp_predicts_as_we_do_with_a_trained_adapter(tmp_path: Path) -> None:
    """Next-token log-probabilities: near ours with the adapter, and far from ours without it.

    llama.cpp rounds activations to 8 bits, so that the base differs a little too: that is the yardstick.
    """
    engine = templora.load()
    story = (Path(__file__).parent.parent / "test_real.py").read_text().split('"""')[3]
    lora = tmp_path / "adapter.gguf"
    with engine.session(engine.config(chunk_size=96, window=192, learning_rate=2e-3, warmup_chunks=0)) as session:
        session.absorb(story * 3)
        session.save_adapter(lora)
        prompt = session.tokens[:150]
        ours = []
        for reader in session.readers:
            reader.cache.clear(0)
            reader.prepare(prompt, 0, session.version)
            ours.append(reader.next_logits(prompt).log_softmax(0))
    adapted, base = ours
    model = BUILTIN_MODELS["smollm2-135m"].path()
    assert model is not None
    found = {}
    for name, loras in (("with", [lora]), ("without", [])):
        with LlamaCpp(model, 192, 1, *loras) as rival:
            (step,) = rival.decode(prompt, 1, likeliest=20).logprobs
            found[name] = step

    def distance(theirs: dict[int, float], logprobs: torch.Tensor) -> float:
        return sum(abs(value - float(logprobs[i])) for i, value in theirs.items()) / len(theirs)

    noise = distance(found["without"], base)
    assert noise < 0.2  # llama.cpp rounds activations to 8 bits, we round to bf16
    assert distance(found["with"], adapted) < max(2 * noise, 0.2)
    assert distance(found["with"], base) > 3 * distance(found["with"], adapted)
