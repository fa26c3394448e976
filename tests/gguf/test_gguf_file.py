from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import small
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType as Kind, GGUFReader, GGUFWriter, dequantize, quantize
from ggufs import IDS, PLAIN, predicted, tiny, write_gguf
from transformers import AutoModelForCausalLM

import templora
from templora import ModelError
from templora.bench.llama_cpp import LlamaCpp
from templora.gguf.file import FAMILIES, GgufFile, as_asked, split_blocks, split_super_blocks
from templora.layers.quantized import Packed, QuantEmbedding, QuantLinear, unpack
from templora.testing import byte_tokenizer


@pytest.fixture(autouse=True)
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where unpacked files are kept."""
    monkeypatch.setenv("TEMPLORA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


SMALL = [Kind.Q4_0, Kind.Q4_1, Kind.Q5_0, Kind.Q5_1, Kind.Q8_0]
SUPER = [Kind.Q4_K, Kind.Q5_K, Kind.Q6_K]


def blocks(data: np.ndarray, kind: Kind) -> list[torch.Tensor]:
    """A GGUF's rows as they are held in int4."""
    split = split_super_blocks if kind in SUPER else split_blocks
    return as_asked([torch.from_numpy(part) for part in split(data, kind)], packed=True)


def numbers(data: np.ndarray, kind: Kind) -> torch.Tensor:
    """Our blocks of a GGUF's rows, unpacked in fp32."""
    codes, scale, *minimum = blocks(data, kind)
    return unpack(codes, scale, minimum[0] if minimum else None, torch.float32)


@pytest.mark.parametrize("kind", SMALL)
@pytest.mark.parametrize("size", [1e-7, 1.0, 1e3])
def test_blocks_unpack_to_what_the_file_says(kind: Kind, size: float) -> None:
    """In fp32, bit for bit; also where scales are subnormal halves."""
    weights = size * np.random.default_rng(1).standard_normal((7, 96)).astype(np.float32)
    data = quantize(weights, kind)
    assert torch.equal(numbers(data, kind), torch.from_numpy(dequantize(data, kind)))


@pytest.mark.parametrize("kind", SUPER)
def test_super_blocks_lose_no_more_than_a_half_does(kind: Kind) -> None:
    """Every byte at random but the halves, which are made plausible."""
    generator = np.random.default_rng(1)
    data = generator.integers(0, 256, (5, 3 * GGML_QUANT_SIZES[kind][1]), dtype=np.uint8)
    where = slice(208, 210) if kind == Kind.Q6_K else slice(0, 4)
    place = data.reshape(5, 3, -1)[..., where]
    place[:] = generator.uniform(1e-3, 1e-2, (5, 3, place.shape[-1] // 2)).astype(np.float16).view(np.uint8)
    found, wanted = numbers(data, kind), torch.from_numpy(dequantize(data, kind))
    scale, *minimum = (part.float().abs() for part in blocks(data, kind)[1:])
    most = {Kind.Q4_K: 15, Kind.Q5_K: 31, Kind.Q6_K: 32}[kind]
    bound = (most * scale + sum(minimum)) * 2.0**-11
    off = (found - wanted).abs().view(*scale.shape, -1)
    assert (off <= bound[..., None]).all()
    assert off.max() > 0


@pytest.mark.parametrize("kind", SMALL)
@pytest.mark.parametrize("family", [*FAMILIES, "mistral"])
def test_weights_are_those_of_transformers_reader(family: str, kind: Kind, tmp_path: Path) -> None:
    """In fp32 and bf16, and the packed ones once they are rounded to bf16."""
    write_gguf(tmp_path / "m.gguf", family, kind)
    file = GgufFile(tmp_path / "m.gguf")
    for dtype in (torch.float32, torch.bfloat16):
        wanted = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="m.gguf", dtype=dtype)
        found = file.load(dtype, "auto")
        assert type(found) is type(wanted)
        mark: dict[str, Any] = dict.fromkeys(("quantization_config", "_name_or_path", "bos_token_id", "pad_token_id"))
        # Not in the file; llama.cpp takes the size of a head, transformers' reader what most Gemmas have.
        mark |= {"query_pre_attn_scalar": found.config.head_dim} if family == "gemma3" else {}
        assert found.config.to_dict() | mark == wanted.config.to_dict() | mark
        weights = dict(found.named_parameters())
        assert weights.keys() == dict(wanted.named_parameters()).keys()
        for name, parameter in wanted.named_parameters():
            assert torch.equal(weights[name], parameter), name
        packed = file.load(dtype, "int4")
        kinds = {name: m.bits for name, m in packed.named_modules() if isinstance(m, Packed)}
        assert kinds["model.layers.1.self_attn.q_proj"] == int(kind.name[1])
        assert kinds["model.embed_tokens"] == kinds["lm_head"] == 8
        for name, module in packed.named_modules():
            # down_proj is F16 in the file, so it is held by row, in other numbers.
            if isinstance(module, Packed) and "down_proj" not in name:
                assert torch.equal(module.weight, wanted.get_submodule(name).weight), name


@pytest.mark.parametrize("family", [*FAMILIES, "mistral"])
def test_logits_over_blocks_are_those_of_the_unpacked_model(family: str, tmp_path: Path) -> None:
    write_gguf(tmp_path / "m.gguf", family)
    file, ids = GgufFile(tmp_path / "m.gguf"), torch.arange(3, 40)[None]
    plain, packed = file.load(torch.bfloat16, "auto"), file.load(torch.bfloat16, "int4")
    for layer in packed.model.layers:  # was F16
        assert isinstance(layer.mlp.down_proj, QuantLinear)
        plain.model.layers[layer.self_attn.layer_idx].mlp.down_proj.weight.data = layer.mlp.down_proj.weight
    with torch.no_grad():
        assert torch.equal(plain(ids).logits, packed(ids).logits)


def test_a_tied_head_shares_the_embeddings_blocks(tmp_path: Path) -> None:
    write_gguf(tmp_path / "m.gguf", without="output.weight")
    packed = GgufFile(tmp_path / "m.gguf").load(torch.bfloat16, "int4")
    assert isinstance(packed.model.embed_tokens, QuantEmbedding)
    assert packed.lm_head.codes.data_ptr() == packed.model.embed_tokens.codes.data_ptr()
    plain = GgufFile(tmp_path / "m.gguf").load(torch.bfloat16, "auto")
    assert plain.lm_head.weight is plain.model.embed_tokens.weight


def test_blocks_are_kept_where_nothing_else_is_said(tmp_path: Path) -> None:
    path, folder = tmp_path / "m.gguf", tmp_path / "plain"
    write_gguf(path).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)

    def packed(where: Path, **options: str) -> bool:
        return isinstance(templora.load(where, **options).model.head, QuantLinear)

    assert packed(path)
    assert packed(path, dtype="bfloat16")
    assert not packed(path, dtype="float32")
    assert not packed(path, weights="unpacked")
    assert not packed(folder)


@pytest.mark.parametrize("kind", SMALL)
def test_what_blocks_take_is_known_before_they_are_read(kind: Kind, tmp_path: Path) -> None:
    write_gguf(tmp_path / "m.gguf", kind=kind)
    file = GgufFile(tmp_path / "m.gguf")
    model = file.load(torch.bfloat16, "int4")
    held = {t.data_ptr(): t.nbytes for m in model.modules() if isinstance(m, Packed) for t in m.buffers()}
    plain = sum(p.nbytes for p in model.parameters())
    assert file.blocks_bytes == pytest.approx(sum(held.values()) + plain, rel=0.03)  # scales of rows are not counted


def test_a_missing_tensor_is_named(tmp_path: Path) -> None:
    write_gguf(tmp_path / "m.gguf", without="blk.1.ffn_up.weight")
    with pytest.raises(ModelError, match=r"incomplete: blk\.1\.ffn_up\.weight is missing"):
        templora.load(tmp_path / "m.gguf")


def test_a_family_that_is_not_read_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goes through transformers, and cannot keep its blocks."""
    write_gguf(tmp_path / "m.gguf")
    wanted = templora.load(tmp_path / "m.gguf", weights="unpacked").model.fingerprint()
    monkeypatch.setattr("templora.gguf.file.FAMILIES", {"qwen2": "qwen2"})
    assert templora.load(tmp_path / "m.gguf").model.fingerprint() == wanted
    assert isinstance(templora.load(tmp_path / "m.gguf", weights="int8").model.head, QuantLinear)
    with pytest.raises(ModelError, match=r"cannot be used as they are .* --weights int8 and bf16 work"):
        templora.load(tmp_path / "m.gguf", weights="int4")


def test_damaged_scales_are_found(tmp_path: Path) -> None:
    write_gguf(tmp_path / "m.gguf")
    path = tmp_path / "m.gguf"
    codes = GgufFile(path).exact("model.layers.0.mlp.up_proj.weight")[0]
    at = path.read_bytes().index(codes[0, 0].numpy().tobytes()) - 4
    raw = bytearray(path.read_bytes())
    raw[at : at + 2] = np.float16(np.inf).tobytes()
    path.write_bytes(raw)
    with pytest.raises(ModelError, match="scale that is not finite"):
        templora.load(path, weights="int4")


# What the file says -------------------------------------------------------------------------------------------------

YARN = {
    "rope.scaling.type": "yarn",
    "rope.scaling.factor": 4.0,
    "rope.scaling.original_context_length": 128,
}
LINEAR = {"rope.scaling.type": "linear", "rope.scaling.factor": 4.0}
SCALED = {"rope_parameters": {**PLAIN, "rope_type": "linear", "factor": 4.0}}
FACTORS = np.linspace(1, 8, 16).astype(np.float32)
BIAS = np.linspace(-1, 1, 64).astype(np.float32)


def with_factors(factors: np.ndarray) -> dict[str, Any]:
    """transformers' one way to say them; without its change with length, since both are the same."""
    both = {"short_factor": factors.tolist(), "long_factor": factors.tolist(), "attention_factor": 1.0}
    return {"rope_parameters": {**PLAIN, "rope_type": "longrope", "original_max_position_embeddings": 512, **both}}


def sliding(*slides: bool) -> list[str]:
    return ["sliding_attention" if s else "full_attention" for s in slides]


# What is applied: family, keys, tensors, and what the transformers config that means the same has different.
SAID: dict[str, tuple[str, dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "nothing": ("llama", {}, {}, {}),
    "linear": ("llama", LINEAR, {}, SCALED),
    "a factor alone": ("qwen3", {"rope.scaling.factor": 4.0}, {}, SCALED),
    "as older files say it": ("llama", {"rope.scale_linear": 4.0}, {}, SCALED),
    "a factor of no use": ("llama", {**LINEAR, "rope.scaling.type": "none"}, {}, {}),
    "yarn": (
        "qwen2", YARN, {},
        {"rope_parameters": {**PLAIN, "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}},
    ),
    "factors": ("llama", {}, {"rope_freqs.weight": FACTORS}, with_factors(FACTORS)),
    "scaled factors": ("llama", LINEAR, {"rope_freqs.weight": FACTORS}, with_factors(4 * FACTORS)),
    "gemma": (
        "gemma3", {**LINEAR, "rope.freq_base": 1e6}, {},
        {"rope_parameters": {
            "full_attention": {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e6}, "sliding_attention": PLAIN,
        }},
    ),
    "gemma's own": (
        "gemma3",
        {"final_logit_softcapping": 5.0, "attention.sliding_window_pattern": 2, "rope.freq_base_swa": 500.0}, {},
        {
            "final_logit_softcapping": 5.0, "layer_types": sliding(True, False, True, False, True, False, True),
            "rope_parameters": {"full_attention": PLAIN, "sliding_attention": {**PLAIN, "rope_theta": 500.0}},
        },
    ),
    "which layers slide": (
        "gemma3", {"attention.sliding_window_pattern": [True, True, False, True, False, False, True]}, {},
        {"layer_types": sliding(True, True, False, True, False, False, True)},
    ),
}  # fmt: skip


@pytest.mark.parametrize("label", SAID)
def test_what_a_file_says_is_applied(label: str, tmp_path: Path) -> None:
    """Beside the transformers model that means the same, and beside llama.cpp where it is installed."""
    family, keys, tensors, means = SAID[label]
    path = tmp_path / "m.gguf"
    write_gguf(path, family, Kind.F32, model=tiny(family), keys=keys, tensors=tensors)
    ours = predicted(GgufFile(path).load(torch.float32, "auto"))
    assert torch.allclose(ours, predicted(tiny(family, **means)), rtol=0, atol=2e-5)
    if means:
        assert not torch.allclose(ours, predicted(tiny(family)), rtol=0, atol=0.02)
    if importlib.util.find_spec("xllamacpp"):
        with LlamaCpp(path, 512, 1) as rival:
            (step,) = rival.decode(IDS, 1, likeliest=260).logprobs
        off = max(abs(value - float(ours[i])) for i, value in step.items())
        assert off < (0.03 if family == "gemma3" else 0.005)  # llama.cpp keeps keys and values in fp16


def test_a_bias_of_one_layer_is_added(tmp_path: Path) -> None:
    """Though transformers' model of the family has none there."""
    model, path = tiny("qwen3"), tmp_path / "m.gguf"
    write_gguf(path, "qwen3", Kind.F32, model=model, tensors={"blk.1.attn_output.bias": BIAS})
    plain = predicted(model)
    model.model.layers[1].self_attn.o_proj.bias = torch.nn.Parameter(torch.from_numpy(BIAS))
    wanted = predicted(model)
    assert not torch.allclose(wanted, plain, atol=0.1)
    assert torch.allclose(predicted(GgufFile(path).load(torch.float32, "auto")), wanted, atol=1e-5)
    packed = GgufFile(path).load(torch.float32, "int4")
    assert torch.equal(packed.model.layers[1].self_attn.o_proj.bias, torch.from_numpy(BIAS))
    with templora.load(path, dtype="float32").session(small()) as session:  # through the compiled step
        session.absorb_ids(IDS[:40])
        reader = session.readers[0]
        reader.prepare(IDS[:40], 0, 0)
        step = reader.next_logits(IDS[:40])
    with torch.no_grad():
        assert torch.allclose(step, model(torch.tensor([IDS[:40]])).logits[0, -1], atol=1e-3)


@pytest.mark.parametrize(
    ("family", "key", "value"),
    [
        ("llama", "attention.scale", 0.5),
        ("llama", "logit_scale", 0.5),
        ("llama", "residual_scale", 0.5),
        ("llama", "embedding_scale", 12.0),
        ("llama", "attention.clamp_kqv", 8.0),
        ("llama", "attention.causal", False),
        ("llama", "attention.sliding_window", 32),
        ("llama", "expert_count", 8),
        ("llama", "rope.dimension_count", 16),
        ("llama", "attention.value_length", 16),
        ("llama", "rope.scaling.type", "longrope"),
        ("llama", "something.new", 1),
        ("llama", "something.else", [1, 2, 3]),
        ("llama", "attention.head_count_kv", [1, 2]),
        ("llama", "vocab_size", 261),
        ("llama", "block_count", 10**9),
        ("llama", "embedding_length", 2**31),
        ("llama", ".tokenizer.ggml.something_new", 1),
        ("llama", ".tokenizer.ggml.pre", "of tomorrow"),
        ("llama", ".tokenizer.ggml.eot_token_id", 260),
        ("qwen2", "rope.scaling.yarn_ext_factor", 0.5),
        ("qwen2", "rope.scaling.yarn_beta_fast", 8.0),
        ("qwen2", "rope.scaling.attn_factor", 1.5),
        ("qwen3", "final_logit_softcapping", 30.0),
        ("gemma3", "attn_logit_softcapping", 50.0),
    ],
)
def test_what_is_not_known_is_refused_by_name(family: str, key: str, value: Any, tmp_path: Path) -> None:
    write_gguf(tmp_path / "m.gguf", family, keys={key: value})
    name = key[1:] if key.startswith(".") else f"{family}.{key}"
    with pytest.raises(ModelError, match=re.escape(f"{name} is ")):
        templora.load(tmp_path / "m.gguf")


def test_a_key_that_asks_for_nothing_is_none(tmp_path: Path) -> None:
    keys = {"attention.scale": 0.0, "expert_count": 0, "attention.causal": True, "attention.sliding_window": 4096,
            "attention.head_count_kv": [2, 2], ".somebody.quantized_it": "yes", "logit_scale": 1.0}  # fmt: skip
    write_gguf(tmp_path / "m.gguf")
    plain = templora.load(tmp_path / "m.gguf").model.fingerprint()
    write_gguf(tmp_path / "m.gguf", keys=keys)
    assert templora.load(tmp_path / "m.gguf").model.fingerprint() == plain


@pytest.mark.parametrize(
    ("tensor", "family"),
    [
        ("blk.0.attn_q_norm.weight", "llama"),
        ("blk.0.attn_norm.bias", "llama"),
        ("blk.2.attn_q.weight", "llama"),
        ("output.bias", "llama"),
        ("rope_freqs.weight", "qwen2"),
        ("something.weight", "gemma3"),
    ],
)
def test_a_tensor_that_nothing_takes_is_refused(tensor: str, family: str, tmp_path: Path) -> None:
    write_gguf(tmp_path / "m.gguf", family, tensors={tensor: np.ones(8, np.float32)})
    with pytest.raises(ModelError, match=re.escape(f"{tensor} is not known")):
        templora.load(tmp_path / "m.gguf")


def test_a_family_of_transformers_reader_is_held_to_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("templora.gguf.file.FAMILIES", {})
    write_gguf(tmp_path / "key.gguf", keys={"rope.scaling.factor": 8.0})
    write_gguf(tmp_path / "tensor.gguf", tensors={"rope_freqs.weight": np.ones(4, np.float32)})
    write_gguf(tmp_path / "missing.gguf", without="blk.0.ffn_up.weight")
    for name, says in (
        ("key", "llama.rope.scaling.factor is 8.0"),
        ("tensor", "rope_freqs.weight is not known"),
        ("missing", "incomplete: model.layers.0.mlp.up_proj.weight is missing"),
    ):
        with pytest.raises(ModelError, match=re.escape(says)):
            templora.load(tmp_path / f"{name}.gguf")


# Tokens --------------------------------------------------------------------------------------------------------------


def test_tokens_that_end_a_text(tmp_path: Path) -> None:
    """By the keys that name them, in a list, and by what they are called."""
    path = tmp_path / "m.gguf"
    write_gguf(path)
    assert templora.load(path).end_ids == [257]
    write_gguf(path, keys={".tokenizer.ggml.eot_token_id": 259, ".tokenizer.ggml.eom_token_id": 258})
    assert templora.load(path).end_ids == [257, 258, 259]
    write_gguf(path, keys={".tokenizer.ggml.eos_token_ids": [257, 259], ".tokenizer.ggml.bos_token_id": 2**32 - 1})
    assert templora.load(path).end_ids == [257, 259]
    write_gguf(path, tokens=("<eos>", "<start_of_turn>", "<end_of_turn>"))
    engine = templora.load(path)
    assert engine.end_ids == [257, 259]
    first, second = engine.tokenizer("Hi")["input_ids"]
    assert engine.tokenizer.decode([first, 259, second], skip_special_tokens=True) == "Hi"


# Parts ---------------------------------------------------------------------------------------------------------------


def split(path: Path, count: int) -> list[Path]:
    """As llama.cpp's gguf-split does it: metadata in the first, tensors divided."""
    source = GGUFReader(path)
    parts = []
    for no in range(count):
        parts.append(path.with_name(f"{path.stem}-{no + 1:05d}-of-{count:05d}.gguf"))
        writer = GGUFWriter(parts[-1], source.fields["general.architecture"].contents())
        for key, field in source.fields.items() if no == 0 else ():
            if not key.startswith("GGUF.") and key != "general.architecture":
                kinds = field.types
                writer.add_key_value(key, field.contents(), kinds[0], kinds[-1] if len(kinds) > 1 else None)
        writer.add_uint16("split.no", no)
        writer.add_uint16("split.count", count)
        writer.add_int32("split.tensors.count", len(source.tensors))
        for tensor in source.tensors[no::count]:
            writer.add_tensor(tensor.name, np.array(tensor.data), raw_dtype=tensor.tensor_type)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    return parts


def test_parts_are_read_together(tmp_path: Path) -> None:
    write_gguf(tmp_path / "m.gguf")
    wanted = templora.load(tmp_path / "m.gguf").model.fingerprint()
    parts = split(tmp_path / "m.gguf", 3)
    assert {templora.load(part).model.fingerprint() for part in parts} == {wanted}
    parts[1].unlink()
    for number, part in ((1, parts[0]), (3, parts[2])):
        with pytest.raises(ModelError, match=rf"part {number} of 3 of a GGUF.*gguf-split --merge") as said:
            templora.load(part)
        assert str(said.value).count("gguf-split") == 1
    parts[0].rename(tmp_path / "other.gguf")
    with pytest.raises(ModelError, match="part 1 of 3"):
        templora.load(tmp_path / "other.gguf")
    cut = tmp_path / "cut-00001-of-00002.gguf"  # cut anywhere, as by `split`
    cut.write_bytes((tmp_path / "m.gguf").read_bytes()[:20_000])
    with pytest.raises(ModelError, match=r"truncated.*part 1 of 2"):
        templora.load(cut)
