from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from ggufs import write_gguf
from safetensors.torch import load_file, save_file

import templora
from templora import ModelError, OptionError
from templora.gguf_file import GgufFile
from templora.loading import _bitsandbytes, find
from templora.models import BUILTIN_MODELS, cache_folder, is_unpacked
from templora.quantized import QuantLinear
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


def test_a_directory_that_lacks_a_tensor(folder: Path) -> None:
    """transformers would draw it at random, with a warning."""
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"incomplete: model\.layers\.1\.mlp\.up_proj\.weight is missing"):
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


# Weights ------------------------------------------------------------------------------------------------------------


def test_weights_by_name(folder: Path) -> None:
    assert templora.load(folder, weights="bf16").model.dtype == torch.bfloat16
    for weights, bits in (("int8", 8), ("int4", 4)):
        engine = templora.load(folder, weights=weights)
        assert engine.model.dtype == torch.float32
        layer = engine.model.module.model.layers[0].mlp.up_proj
        assert isinstance(layer, QuantLinear)
        assert (layer.bits, layer.dtype) == (bits, torch.float32)
    assert templora.load(folder, weights="int4", dtype="bfloat16").model.dtype == torch.bfloat16


def test_weights_that_cannot_be_had(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="weights: unknown 'int5'; did you mean 'int"):
        templora.load(folder, weights="int5")
    with pytest.raises(OptionError, match="bf16 does not go with --dtype float32"):
        templora.load(folder, weights="bf16", dtype="float32")
    tiny_model("gpt2").save_pretrained(tmp_path / "gpt2")
    byte_tokenizer().save_pretrained(tmp_path / "gpt2")
    with pytest.raises(ModelError, match=r"GPT2LMHeadModel has no linear layer that int4 could hold.*bf16 works"):
        templora.load(tmp_path / "gpt2", weights="int4")


def test_weights_on_cuda(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is refused, and what is asked of the library that is kept for it; no device is needed to see either."""
    write_gguf(tmp_path / "m.gguf")
    monkeypatch.setattr("templora.loading.find_device", lambda _: torch.device("cuda", 0))
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(OptionError, match="int8 is for the CPU; on CUDA use bf16, or int4 with bitsandbytes"):
        templora.load(folder, weights="int8")
    with pytest.raises(OptionError, match="int4 of a GGUF is for the CPU; on CUDA use bf16"):
        templora.load(tmp_path / "m.gguf", weights="int4")
    with pytest.raises(OptionError, match="int4 on CUDA needs bitsandbytes: pip install bitsandbytes; bf16 works"):
        templora.load(folder, weights="int4")
    monkeypatch.setattr("importlib.util.find_spec", lambda _: True)
    options = _bitsandbytes(torch.float16, torch.device("cuda", 1))
    assert options["device_map"] == {"": torch.device("cuda", 1)}
    assert options["quantization_config"].bnb_4bit_compute_dtype == torch.float16
    assert options["quantization_config"].load_in_4bit


@pytest.mark.parametrize("source", ["folder", "gguf"])
def test_too_little_memory_is_said_before_anything_is_read(
    source: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_gguf(tmp_path / "m.gguf")
    path = folder if source == "folder" else tmp_path / "m.gguf"
    plan = templora.TempLoraConfig(rank=4, window=64, chunk_size=32)
    monkeypatch.setattr("templora.memory.available", lambda: 200e3)

    def read(*_: Any, **__: Any) -> Any:
        raise AssertionError("weights were read")

    monkeypatch.setattr("templora.gguf_file.assemble", read)
    monkeypatch.setattr("transformers.modeling_utils.PreTrainedModel.from_pretrained", read)
    with pytest.raises(ModelError, match=r"too little memory: this run needs \d+ MB .* and 0 MB are free"):
        templora.load(path, plan=plan)
    monkeypatch.setattr("templora.memory.available", lambda: None)
    with pytest.raises((AssertionError, ModelError), match="weights were read"):
        templora.load(path, plan=plan)


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


# Unpacking a built-in model -----------------------------------------------------------------------------------------


@pytest.fixture(params=[1, 3], ids=["whole", "in pieces"])
def unpacked(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """A built-in model "tiny", its file in one or several pieces; the list says how often it was unpacked."""
    packed, calls = tmp_path / "tiny.gguf", []
    write_gguf(packed)
    raw, packages = packed.read_bytes(), tmp_path / "packages"
    size = len(raw) // request.param + 1
    for i in range(request.param):
        (packages / f"tiny_{i}").mkdir(parents=True)
        (packages / f"tiny_{i}" / "__init__.py").write_text("raise AssertionError('imported')")
        (packages / f"tiny_{i}" / "piece").write_bytes(raw[i * size : (i + 1) * size])
    monkeypatch.syspath_prepend(packages)
    tiny = dataclasses.replace(
        BUILTIN_MODELS[next(iter(BUILTIN_MODELS))],
        name="tiny",
        parts=tuple((f"tiny_{i}", "piece") for i in range(request.param)),
        sha256=hashlib.sha256(raw).hexdigest(),
    )

    class Counted(GgufFile):
        def tensors(self) -> Any:
            calls.append(self.path)
            return super().tensors()

    monkeypatch.setitem(BUILTIN_MODELS, "tiny", tiny)
    monkeypatch.setattr("templora.unpacked.GgufFile", Counted)
    monkeypatch.setenv("TEMPLORA_CACHE", str(tmp_path / "cache"))
    return calls


def test_a_built_in_model_is_unpacked_once(unpacked: list[Path], tmp_path: Path) -> None:
    first, second = templora.load("tiny"), templora.load("tiny")
    assert (first.name, len(unpacked)) == ("tiny", 1)
    assert first.model.fingerprint() == second.model.fingerprint()
    assert first.model.dtype == torch.bfloat16
    assert templora.load("tiny", dtype="float32").model.dtype == torch.float32
    (folder,) = (tmp_path / "cache").iterdir()  # and nothing beside it
    assert folder.name == f"tiny-{BUILTIN_MODELS['tiny'].sha256[:12]}-blocks"
    assert is_unpacked(BUILTIN_MODELS["tiny"])
    assert json.loads((folder / "complete.json").read_text())["sha256"] == BUILTIN_MODELS["tiny"].sha256


@pytest.mark.parametrize("weights", ["auto", "bf16", "int8", "int4"])
def test_a_built_in_model_is_the_gguf_it_came_from(unpacked: list[Path], tmp_path: Path, weights: str) -> None:
    """In every format, read from its package, from the cache, and where there can be none."""
    wanted = templora.load(tmp_path / "tiny.gguf", weights=weights)
    for _ in range(2):
        found = templora.load("tiny", weights=weights)
        assert found.model.fingerprint() == wanted.model.fingerprint()
        assert found.tokenizer.backend_tokenizer.to_str() == wanted.tokenizer.backend_tokenizer.to_str()
        assert found.generation_config.eos_token_id == wanted.generation_config.eos_token_id == 257
    assert len(unpacked) == 1


def test_terms_are_shown_once_before_the_first_use(
    unpacked: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "packages" / "tiny_0" / "TERMS").touch()
    tiny = dataclasses.replace(BUILTIN_MODELS["tiny"], terms=("there are terms.", "tiny_0", "TERMS"))
    monkeypatch.setitem(BUILTIN_MODELS, "tiny", tiny)
    templora.load("tiny")
    assert caplog.messages == [f"tiny: there are terms. They are in {tmp_path}/packages/tiny_0/TERMS"]
    templora.load("tiny")
    assert len(caplog.messages) == 1


def test_a_model_that_lacks_a_piece_is_not_installed(unpacked: list[Path], tmp_path: Path) -> None:
    assert BUILTIN_MODELS["tiny"].installed
    next((tmp_path / "packages").glob("*/piece")).unlink()
    assert not BUILTIN_MODELS["tiny"].installed
    with pytest.raises(ModelError, match="not installed: pip install"):
        templora.load("tiny")


def test_a_copy_that_was_damaged_since_is_named(unpacked: list[Path], tmp_path: Path) -> None:
    templora.load("tiny")
    (folder,) = (tmp_path / "cache").iterdir()
    (folder / "blocks.safetensors").write_bytes(b"half of it")
    with pytest.raises(ModelError, match="delete this folder"):
        templora.load("tiny")


def test_a_copy_that_is_not_complete_is_made_again(unpacked: list[Path], tmp_path: Path) -> None:
    templora.load("tiny")
    (folder,) = (tmp_path / "cache").iterdir()
    (folder / "complete.json").unlink()
    (folder / "blocks.safetensors").write_bytes(b"half of it")
    templora.load("tiny")
    assert len(unpacked) == 2
    assert (folder / "complete.json").is_file()


def test_a_copy_appears_whole_or_not_at_all(
    unpacked: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process may look while it is written; a run that is interrupted leaves nothing behind."""
    tokenizer = type(GgufFile(tmp_path / "tiny.gguf").tokenizer)
    real, seen = tokenizer.save_pretrained, []

    def interrupted(self: Any, folder: Path, *more: Any, **options: Any) -> Any:
        seen.extend(path.name for path in (tmp_path / "cache").iterdir())
        if len(seen) == 1:
            raise KeyboardInterrupt
        return real(self, folder, *more, **options)

    monkeypatch.setattr(tokenizer, "save_pretrained", interrupted)
    with pytest.raises(KeyboardInterrupt):
        templora.load("tiny")
    assert not list((tmp_path / "cache").iterdir())
    templora.load("tiny")
    assert len(seen) == 2
    assert all(name.startswith(".tiny-") for name in seen)


def test_a_damaged_package_is_named(unpacked: list[Path], tmp_path: Path) -> None:
    piece = sorted((tmp_path / "packages").glob("*/piece"))[-1]
    raw = bytearray(piece.read_bytes())
    raw[-1] ^= 1
    piece.write_bytes(raw)
    with pytest.raises(ModelError, match="this file is damaged; reinstall it"):
        templora.load("tiny")
    assert not unpacked
    assert not (tmp_path / "cache").exists()


def test_a_copy_that_cannot_be_kept_is_no_error(unpacked: list[Path], tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    with pytest.warns(UserWarning, match="could not be kept"):
        assert templora.load("tiny", dtype="float32").model.dtype == torch.float32
    assert len(unpacked) == 1


def test_where_copies_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEMPLORA_CACHE", "/a")
    monkeypatch.setenv("XDG_CACHE_HOME", "/b")
    monkeypatch.setenv("HOME", "/c")
    assert cache_folder() == Path("/a")
    monkeypatch.delenv("TEMPLORA_CACHE")
    assert cache_folder() == Path("/b/templora")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path("/c/.cache/templora")
