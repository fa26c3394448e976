from __future__ import annotations

from pathlib import Path

import pytest
from ggufs import has_llama_cpp

from templora import ModelError
from templora.bench.llama_cpp import LlamaCpp
from templora.models.builtin import BUILTIN_MODELS


@has_llama_cpp
def test_a_file_it_cannot_read_is_named(tmp_path: Path) -> None:
    path = tmp_path / "broken.gguf"
    path.write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(ModelError, match=r"broken\.gguf"):
        LlamaCpp(path, 64, 1)


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
