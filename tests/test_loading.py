from __future__ import annotations

from pathlib import Path

import pytest
import torch

import templora
from templora import ModelError, OptionError
from templora.loading import find
from templora.models import BUILTIN_MODELS
from templora.testing import byte_tokenizer, tiny_model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tiny_model().save_pretrained(tmp_path)
    byte_tokenizer().save_pretrained(tmp_path)
    return tmp_path


def test_a_directory(folder: Path) -> None:
    engine = templora.load(folder, device="cpu")
    assert engine.model.dtype == torch.float32
    assert engine.load_seconds > 0
    with engine.session(engine.config(window=64, chunk_size=32, rank=2)) as session:
        assert session.write("ab", max_new_tokens=3)
    assert templora.load(folder, dtype="bfloat16").model.dtype == torch.bfloat16


def test_a_directory_without_tokenizer_or_model(folder: Path, tmp_path: Path) -> None:
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (folder / file).unlink()
    with pytest.raises(ModelError, match="no tokenizer"):
        templora.load(folder)
    (folder / "config.json").unlink()
    with pytest.raises(ModelError, match=r"no config\.json"):
        templora.load(folder)


def test_a_damaged_directory(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:500])
    with pytest.raises(ModelError, match="no model could be read in this directory"):
        templora.load(folder)


@pytest.mark.parametrize("content", [b"", b"GGUF", b"GGUF\x03\x00\x00\x00" + b"\xff" * 100, b"not a model"])
def test_a_gguf_that_is_none(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    with pytest.raises(ModelError, match="GGUF"):
        templora.load(path)


def test_names_that_lead_nowhere() -> None:
    with pytest.raises(ModelError, match="did you mean 'smollm2-135m'"):
        find("smollm-135m")
    with pytest.raises(ModelError, match="there is no model"):
        find("/nowhere/at/all")
    with pytest.raises(ModelError, match="there is no model"):
        find("missing/model.gguf")
    assert find("organisation/model") == "organisation/model"


def test_devices_and_dtypes(folder: Path) -> None:
    with pytest.raises(OptionError, match="device"):
        templora.load(folder, device="gpu")
    if not torch.cuda.is_available():
        with pytest.raises(OptionError, match="use cpu"):
            templora.load(folder, device="cuda")
    with pytest.raises(OptionError, match="did you mean 'bfloat16'"):
        templora.load(folder, dtype="bfloat")


def test_a_head_that_scales_its_logits_is_refused() -> None:
    import transformers as hf

    config = hf.CohereConfig(
        vocab_size=260,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        logit_scale=0.0625,
        pad_token_id=None,
        bos_token_id=None,
        eos_token_id=256,
    )
    model = hf.AutoModelForCausalLM.from_config(config)
    for parameter in model.parameters():
        parameter.data.mul_(10)
    with pytest.raises(ModelError, match="its likelihoods would be wrong"):
        templora.Engine(model, byte_tokenizer())


def test_loading_leaves_the_callers_random_state_alone(folder: Path) -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    templora.load(folder)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_window_must_fit_the_model(folder: Path) -> None:
    engine = templora.load(folder)
    assert engine.config().window == 256
    with pytest.raises(templora.ConfigError, match="at most 256"):
        engine.session(templora.TempLoraConfig(window=512, chunk_size=64))


@pytest.mark.parametrize("name", BUILTIN_MODELS)
def test_what_is_said_of_built_in_models_adds_up(name: str) -> None:
    model = BUILTIN_MODELS[name]
    assert model.memory_bytes(64) > model.memory_bytes(8) > 2 * model.parameters
