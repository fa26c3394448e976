from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conftest import small
from gguf import GGMLQuantizationType as Kind
from ggufs import has_llama_cpp, write_gguf

import templora
from templora import ModelError
from templora.bench.llama_cpp import LlamaCpp
from templora.models.builtin import BUILTIN_MODELS


@has_llama_cpp
def test_a_file_it_cannot_read_is_named(tmp_path: Path) -> None:
    path = tmp_path / "broken.gguf"
    path.write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(ModelError, match=r"broken\.gguf"):
        LlamaCpp(path, 64, 1)


@has_llama_cpp
def test_each_slot_has_its_own_adapter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a text gets in one slot of two is what it gets alone, whichever slot it is."""
    monkeypatch.setenv("TEMPLORA_CACHE", str(tmp_path / "cache"))
    path, one, other = (tmp_path / f"{name}.gguf" for name in ("m", "one", "other"))
    write_gguf(path, kind=Kind.F32)
    engine = templora.load(path)
    for name, seed in ((one, 1), (other, 2)):
        with engine.session(small()) as session:
            noise = torch.randn(session.slot.layout.weights, generator=torch.Generator().manual_seed(seed))
            session.use_adapter(session.slot.state.weights + 0.5 * noise)
            session.save_adapter(name)
    prompts = [[116, 10, 32, 65], [66, 67, 40]]

    def alone(adapter: Path, prompt: list[int]) -> str:
        with LlamaCpp(path, 96, 1, adapter) as rival:
            return rival.decode(prompt, 12).text

    for adapters in ((one, other), (other, one)):
        with LlamaCpp(path, 96, 1, *adapters) as rival:
            assert rival.decode_together(prompts, 12).text == alone(adapters[0], prompts[0])
    assert alone(one, prompts[0]) != alone(other, prompts[0])


@pytest.mark.real
@has_llama_cpp
def test_it_decodes_greedily_and_is_gone_afterwards() -> None:
    model = BUILTIN_MODELS["smollm2-135m"].path()
    assert model is not None
    with LlamaCpp(model, 256, 1) as rival:
        prompt = list(range(400, 420))
        once, again = rival.decode(prompt, 5), rival.decode(prompt, 5, likeliest=3)
    assert once.text == again.text
    assert 0 < once.seconds_per_token < 10
    assert 2**26 < once.peak_memory_bytes < 2**33
    assert [len(step) for step in again.logprobs] == [3] * 5
    assert not once.logprobs
    assert rival._process.poll() is not None
