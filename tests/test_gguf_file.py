from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType as Kind, dequantize, quantize
from ggufs import write_gguf
from transformers import AutoModelForCausalLM

import templora
from templora import ModelError
from templora.gguf_file import FAMILIES, GgufFile, split_blocks
from templora.quantized import Packed, QuantEmbedding, QuantLinear, unpack


def numbers(data: np.ndarray, kind: Kind) -> torch.Tensor:
    """Our blocks of a GGUF's rows, unpacked in fp32."""
    codes, scale, *minimum = (torch.from_numpy(part) for part in split_blocks(data, kind))
    return unpack(codes, scale, minimum[0] if minimum else None, torch.float32)


@pytest.mark.parametrize("kind", [Kind.Q4_0, Kind.Q4_1, Kind.Q8_0])
@pytest.mark.parametrize("size", [1e-7, 1.0, 1e3])
def test_blocks_unpack_to_what_the_file_says(kind: Kind, size: float) -> None:
    """In fp32, bit for bit; also where scales are subnormal halves."""
    weights = size * np.random.default_rng(1).standard_normal((7, 96)).astype(np.float32)
    data = quantize(weights, kind)
    assert torch.equal(numbers(data, kind), torch.from_numpy(dequantize(data, kind)))


def test_super_blocks_lose_no_more_than_a_half_does() -> None:
    """Q4_K: every byte at random but the two halves, which are made plausible."""
    generator = np.random.default_rng(1)
    data = generator.integers(0, 256, (5, 3 * GGML_QUANT_SIZES[Kind.Q4_K][1]), dtype=np.uint8)
    halves = generator.uniform(1e-3, 1e-2, (5, 3, 2)).astype(np.float16)
    data.reshape(5, 3, -1)[..., :4] = halves.view(np.uint8)
    found, wanted = numbers(data, Kind.Q4_K), torch.from_numpy(dequantize(data, Kind.Q4_K))
    scale, minimum = (torch.from_numpy(part).float() for part in split_blocks(data, Kind.Q4_K)[1:])
    bound = (15 * scale.abs() + minimum.abs()) * 2.0**-11
    off = (found - wanted).abs().view(5, -1, 32)
    assert (off <= bound[..., None]).all()
    assert off.max() > 0


@pytest.mark.parametrize("kind", [Kind.Q4_0, Kind.Q4_1, Kind.Q8_0])
@pytest.mark.parametrize("family", [*FAMILIES, "mistral"])
def test_weights_are_those_of_transformers_reader(family: str, kind: Kind, tmp_path: Path) -> None:
    """In fp32 and bf16, and the packed ones once they are rounded to bf16."""
    write_gguf(tmp_path / "m.gguf", family, kind)
    file = GgufFile(tmp_path / "m.gguf")
    for dtype in (torch.float32, torch.bfloat16):
        wanted = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="m.gguf", dtype=dtype)
        found = file.load(dtype, "auto")
        assert type(found) is type(wanted)
        mark = {"quantization_config": None, "_name_or_path": None}
        assert found.config.to_dict() | mark == wanted.config.to_dict() | mark
        weights = dict(found.named_parameters())
        assert weights.keys() == dict(wanted.named_parameters()).keys()
        for name, parameter in wanted.named_parameters():
            assert torch.equal(weights[name], parameter), name
        packed = file.load(dtype, "int4")
        kinds = {name: m.bits for name, m in packed.named_modules() if isinstance(m, Packed)}
        assert kinds["model.layers.1.self_attn.q_proj"] == (8 if kind == Kind.Q8_0 else 4)
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


def test_a_missing_tensor_is_named(tmp_path: Path) -> None:
    write_gguf(tmp_path / "m.gguf", without="blk.1.ffn_up.weight")
    with pytest.raises(ModelError, match=r"incomplete: blk\.1\.ffn_up\.weight is missing"):
        templora.load(tmp_path / "m.gguf")


def test_a_family_that_is_not_read_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goes through transformers, and cannot keep its blocks."""
    write_gguf(tmp_path / "m.gguf")
    wanted = templora.load(tmp_path / "m.gguf").model.fingerprint()
    monkeypatch.setattr("templora.gguf_file.FAMILIES", ("qwen2",))
    assert templora.load(tmp_path / "m.gguf").model.fingerprint() == wanted
    assert isinstance(templora.load(tmp_path / "m.gguf", weights="int8").model.head, QuantLinear)
    with pytest.raises(ModelError, match=r"cannot be used as they are .* --weights int8 and bf16 work"):
        templora.load(tmp_path / "m.gguf", weights="int4")


def test_damaged_scales_are_found(tmp_path: Path) -> None:
    write_gguf(tmp_path / "m.gguf")
    path = tmp_path / "m.gguf"
    codes = GgufFile(path).stored("model.layers.0.mlp.up_proj.weight", packed=True)[0]
    at = path.read_bytes().index(codes[0, 0].numpy().tobytes()) - 4
    raw = bytearray(path.read_bytes())
    raw[at : at + 2] = np.float16(np.inf).tobytes()
    path.write_bytes(raw)
    with pytest.raises(ModelError, match="scale that is not finite"):
        templora.load(path, weights="int4")
