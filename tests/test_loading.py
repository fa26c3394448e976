from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, dequantize
from ggufs import write_gguf
from safetensors.torch import load_file, save_file

import templora
from templora import ModelError, OptionError
from templora.decoding.cpu_step import CpuStep
from templora.gguf.file import GgufFile, as_asked
from templora.kvcache.window import WindowCache
from templora.layers.quantized import QuantLinear
from templora.loading import _bitsandbytes, find
from templora.models.builtin import BUILTIN_MODELS, cache_folder, folder_of, is_whole
from templora.models.causal import CausalModel
from templora.models.runner import Row
from templora.models.unpacked import UnpackedModel
from templora.runtime.metering import Meter
from templora.testing import byte_tokenizer, tiny_model


@pytest.fixture(autouse=True)
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where unpacked files are kept."""
    monkeypatch.setenv("TEMPLORA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


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
    monkeypatch.setattr("templora.models.memory_estimate.available", lambda: 200e3)

    def read(*_: Any, **__: Any) -> Any:
        raise AssertionError("weights were read")

    monkeypatch.setattr("templora.gguf.file.assemble", read)
    monkeypatch.setattr("transformers.modeling_utils.PreTrainedModel.from_pretrained", read)
    with pytest.raises(ModelError, match=r"too little memory: this run needs \d+ MB .* and 0 MB are free"):
        templora.load(path, plan=plan)
    monkeypatch.setattr("templora.models.memory_estimate.available", lambda: None)
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
    monkeypatch.setattr("templora.models.unpacked.GgufFile", Counted)
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
    assert is_whole(folder_of(BUILTIN_MODELS["tiny"]))
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


# A file of one's own is unpacked once, too ----------------------------------------------------------------------


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Says how often a file was unpacked."""
    calls: list[Path] = []

    class Counted(GgufFile):
        def tensors(self) -> Any:
            calls.append(self.path)
            return super().tensors()

    monkeypatch.setattr("templora.models.unpacked.GgufFile", Counted)
    return calls


def test_a_file_that_transformers_reads_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a family that is not read here: what it makes of the weights is kept, in the dtype it mostly serves in."""
    monkeypatch.setattr("templora.gguf.file.FAMILIES", {})
    path, calls = tmp_path / "m.gguf", []
    write_gguf(path)
    real = GgufFile._through_transformers

    def counted(self: GgufFile, dtype: torch.dtype) -> Any:
        calls.append(dtype)
        return real(self, dtype)

    monkeypatch.setattr(GgufFile, "_through_transformers", counted)
    for weights, dtype in (("auto", "auto"), ("auto", "auto"), ("int8", "auto"), ("auto", "float32")):
        found = templora.load(path, weights=weights, dtype=dtype)
        file = GgufFile(path)
        fresh = file.load(found.model.dtype, weights)
        assert calls.pop() == found.model.dtype
        assert found.model.fingerprint() == CausalModel(fresh).fingerprint()
        assert found.tokenizer.backend_tokenizer.to_str() == file.tokenizer.backend_tokenizer.to_str()
    assert calls == [torch.bfloat16, torch.float32]
    with pytest.raises(ModelError, match="cannot be used as they are"):
        templora.load(path, weights="int4")


KINDS = ("Q4_0", "Q4_1", "Q8_0", "F16", "BF16", "Q5_0", "Q4_K", "Q5_K", "Q6_K")


@pytest.mark.parametrize("kind", KINDS)
def test_a_kept_file_is_the_fresh_one_to_the_bit(kind: str, tmp_path: Path, counted: list[Path]) -> None:
    """In every format, with the bias, the frequencies and the tokenizer that it has."""
    path, model = tmp_path / "m.gguf", tiny_model("llama")
    keys: dict[str, Any] = {".tokenizer.ggml.eot_token_id": 259}
    tensors = {"rope_freqs.weight": np.linspace(1, 8, 4).astype(np.float32)}
    tensors["blk.0.attn_q.bias"] = np.linspace(-1, 1, 32).astype(np.float32)
    write_gguf(path, kind=GGMLQuantizationType.F32, model=model, keys=keys, tensors=tensors)
    if kind.endswith("_K"):
        super_blocks(path, kind)
    else:
        write_gguf(path, kind=GGMLQuantizationType[kind], model=model, keys=keys, tensors=tensors)
    fp32, bf16 = torch.float32, torch.bfloat16
    for weights, dtype in (("auto", fp32), ("bf16", bf16), ("int8", fp32), ("int4", bf16)):
        file = GgufFile(path)
        fresh = CausalModel(file.load(dtype, weights))
        found = templora.load(path, weights=weights, dtype="auto" if dtype == torch.bfloat16 else "float32")
        assert found.model.fingerprint() == fresh.fingerprint()
        assert torch.equal(found.model.decoder.rotary_emb.inv_freq, fresh.decoder.rotary_emb.inv_freq)
        assert found.tokenizer.backend_tokenizer.to_str() == file.tokenizer.backend_tokenizer.to_str()
        assert found.end_ids == [257, 259]
    assert len(counted) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_the_compiled_step_reads_a_files_blocks(kind: str, tmp_path: Path) -> None:
    """As the modules do, which unpack them."""
    path = tmp_path / "m.gguf"
    super_blocks(path, kind) if kind.endswith("_K") else write_gguf(path, kind=GGMLQuantizationType[kind])
    model = CausalModel(GgufFile(path).load(torch.float32, "int4"))
    cache, ids, step = WindowCache(model.layers, 8), [1, 200, 3], CpuStep(model)
    with torch.no_grad():
        wanted = model.logits(model.hidden(ids, None))
        model.hidden(ids[:1], cache)
    cache.advance(1, 0)
    for token, logits in zip(ids[1:], wanted[1:], strict=True):
        (found,) = step([Row(token, cache, None, step, Meter())])
        cache.advance(1, 0)
        torch.testing.assert_close(found, logits, rtol=1e-3, atol=1e-3)


def super_blocks(path: Path, kind: str) -> None:
    """One with rows of 256: nothing here writes them, so every byte is drawn but the halves."""
    model = tiny_model("llama")
    generator, size = np.random.default_rng(1), GGML_QUANT_SIZES[GGMLQuantizationType[kind]][1]
    config = type(model.config)(**model.config.to_dict() | {"hidden_size": 256, "head_dim": 64})
    with torch.random.fork_rng():
        model = type(model)(config)
    blocks = {}
    for name, rows in (("blk.0.attn_q", 256), ("blk.1.ffn_up", 48)):
        data = generator.integers(0, 256, (rows, size), dtype=np.uint8)
        halves = generator.uniform(1e-3, 1e-2, (rows, 2)).astype(np.float16).view(np.uint8)
        data[:, slice(-2, None) if kind == "Q6_K" else slice(0, 4)] = halves[:, : 2 if kind == "Q6_K" else 4]
        blocks[f"{name}.weight"] = (data, GGMLQuantizationType[kind])
    keys: dict[str, Any] = {".tokenizer.ggml.eot_token_id": 259}
    write_gguf(path, kind=GGMLQuantizationType.F32, model=model, keys=keys, blocks=blocks)
    (found,) = as_asked(GgufFile(path).exact("model.layers.1.mlp.up_proj.weight"), packed=False)
    assert torch.equal(found, torch.from_numpy(dequantize(*blocks["blk.1.ffn_up.weight"])))


def test_a_file_that_changed_is_another(tmp_path: Path, counted: list[Path]) -> None:
    """Though its name, size and date are the same."""
    path = tmp_path / "m.gguf"
    write_gguf(path)
    first, date = templora.load(path).model.fingerprint(), path.stat()
    raw = bytearray(path.read_bytes())
    raw[-100] ^= 1
    path.write_bytes(raw)
    os.utime(path, ns=(date.st_atime_ns, date.st_mtime_ns))
    assert templora.load(path).model.fingerprint() != first
    assert len(counted) == 2
    path.rename(tmp_path / "other.gguf")
    templora.load(tmp_path / "other.gguf", weights="int4")
    assert len(counted) == 3  # kept under its own name, for people


def test_what_was_not_used_for_longest_makes_room(
    tmp_path: Path, kept: Path, monkeypatch: pytest.MonkeyPatch, counted: list[Path]
) -> None:
    (kept / "mine").mkdir(parents=True)
    (kept / ".a-0123456789abcdef0123456789abcdef").mkdir()  # of a writer that was killed
    os.utime(kept / ".a-0123456789abcdef0123456789abcdef", (0, 0))
    for name in ("a", "b", "c"):
        write_gguf(tmp_path / f"{name}.gguf", model=tiny_model(seed=ord(name)))
        templora.load(tmp_path / f"{name}.gguf")
    (b,) = kept.glob("b-*")
    size = sum(p.stat().st_size for p in b.iterdir())
    assert sorted(p.name[:2] for p in kept.iterdir()) == ["a-", "b-", "c-", "mi"]
    for name, age in (("a", 3000), ("b", 9000), ("c", 6000)):
        (folder,) = kept.glob(f"{name}-*")
        os.utime(folder / "complete.json", (time.time() - age,) * 2)
    templora.load(tmp_path / "b.gguf")  # is used now
    monkeypatch.setenv("TEMPLORA_CACHE_GB", str(3.5 * size / 1e9))
    write_gguf(tmp_path / "d.gguf", model=tiny_model(seed=9))
    templora.load(tmp_path / "d.gguf")
    assert "c-" not in {p.name[:2] for p in kept.iterdir()}
    assert {"b-", "d-", "mi"} <= {p.name[:2] for p in kept.iterdir()}
    monkeypatch.setenv("TEMPLORA_CACHE_GB", "1e-9")
    write_gguf(tmp_path / "e.gguf", model=tiny_model(seed=8))
    with pytest.warns(UserWarning, match=r"could not be kept \(it is larger than the 1e-09 GB that TEMPLORA_CACHE_GB"):
        templora.load(tmp_path / "e.gguf")


def test_a_full_disk_is_no_error(tmp_path: Path, kept: Path) -> None:
    resource = pytest.importorskip("resource")
    write_gguf(tmp_path / "m.gguf")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    for room in (0, 9000, 20_000):
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, limits[1]))
        try:
            with pytest.warns(UserWarning, match="could not be kept"):
                found = templora.load(tmp_path / "m.gguf").model.fingerprint()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert not list(kept.iterdir())
    assert templora.load(tmp_path / "m.gguf").model.fingerprint() == found


def test_two_that_unpack_at_once(tmp_path: Path, kept: Path) -> None:
    """The second finds that the first was faster, whatever the first is doing with its copy."""
    write_gguf(tmp_path / "m.gguf")
    both = [UnpackedModel(tmp_path / "m.gguf") for _ in range(2)]
    assert len({CausalModel(one.load(torch.bfloat16, "auto")).fingerprint() for one in both}) == 1
    (folder,) = kept.iterdir()
    before = (folder / "blocks.safetensors").stat().st_ino
    both[1]._kept = False
    both[1].load(torch.bfloat16, "auto")
    assert (folder / "blocks.safetensors").stat().st_ino == before
    assert list(kept.iterdir()) == [folder]


def test_a_file_that_changes_while_it_is_read(tmp_path: Path, kept: Path) -> None:
    write_gguf(tmp_path / "m.gguf")
    model = UnpackedModel(tmp_path / "m.gguf")
    write_gguf(tmp_path / "m.gguf", model=tiny_model(seed=4))
    with pytest.raises(ModelError, match="was changed while it was read"):
        model.load(torch.bfloat16, "auto")
    assert not list(kept.iterdir())
