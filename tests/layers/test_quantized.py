from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from adapted import with_random_adapter
from conftest import small
from gguf import GGMLQuantizationType as Kind, dequantize, quantize
from torch import nn

from templora import ModelError
from templora.engine.engine import Engine
from templora.gguf.file import split_blocks
from templora.layers.quantized import (
    Packed,
    QuantEmbedding,
    QuantLinear,
    count_weights,
    quantize_blocks,
    quantize_model,
    quantize_rows,
    unpack,
)
from templora.lora.targets import linear_layers
from templora.models.runner import through
from templora.testing import FAMILIES, byte_tokenizer, tiny_model

LINEAR = [family for family in FAMILIES if family != "gpt2"]
FORMATS = ("rows", "blocks of 8", "halves of 8", "blocks of 5", "blocks of 4")


def random_weights(rows: int = 70, columns: int = 96) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(1))


def parts(form: str, weight: torch.Tensor) -> tuple[torch.Tensor, ...]:
    if form == "rows":
        return quantize_rows(weight)
    if form == "blocks of 4":
        return quantize_blocks(weight)
    if form == "blocks of 5":
        return tuple(map(torch.from_numpy, split_blocks(quantize(weight.numpy(), Kind.Q5_1), Kind.Q5_1)))
    group, most = (16, 31) if form == "halves of 8" else (32, 127)
    scale = (weight.view(weight.shape[0], -1, group).abs().amax(-1) / most).half()
    codes = (weight.view(weight.shape[0], -1, group) / scale.float()[..., None]).round().clamp(-most, most)
    return codes.to(torch.int8).view_as(weight), scale


def quantised_engine(family: str, bits: Any, dtype: torch.dtype = torch.float32) -> Engine:
    model = tiny_model(family, dtype)
    quantize_model(model, bits)
    return Engine(model, byte_tokenizer(), name=f"tiny-{family}-{bits}")


# Numbers ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMATS)
def test_rounding_is_to_nearest(form: str) -> None:
    """No weight is further off than half a step (and, by blocks, what rounding scale and minimum to a half adds)."""
    weight = random_weights()
    codes, scale, *minimum = parts(form, weight)
    found = unpack(codes, scale, minimum[0] if minimum else None, torch.float32)
    steps = scale.float().view(70, -1)
    step = steps.repeat_interleave(96 // steps.shape[1], 1)
    assert ((found - weight).abs() <= 0.5 * step + (4e-3 if form != "rows" else 1e-6)).all()
    assert (found - weight).abs().max() > 0.3 * step.min()


def test_our_blocks_are_those_of_ggufs_own_quantiser() -> None:
    """But where it rounds a tie, or against a scale that is not yet a half."""
    weight = random_weights()
    wanted = torch.from_numpy(dequantize(quantize(weight.numpy(), Kind.Q4_1), Kind.Q4_1))
    found = unpack(*quantize_blocks(weight), torch.float32)
    assert ((found - weight).abs().mean() / (wanted - weight).abs().mean()) == pytest.approx(1, abs=1e-2)
    assert (found == wanted).float().mean() > 0.98


@pytest.mark.parametrize("form", FORMATS)
def test_unpacked_weights_are_the_exact_ones_rounded(form: str) -> None:
    packed = parts(form, random_weights())
    codes, scale, minimum = packed if len(packed) == 3 else (*packed, None)
    exact = unpack(codes, scale, minimum, torch.float32)
    per = scale.float().view(70, -1, 1)
    if minimum is not None:
        elements = torch.cat([codes[..., :16] & 15, codes[..., :16] >> 4], -1).float()
        if form == "blocks of 5":
            elements += 16 * (codes[..., 16:, None] >> torch.arange(8, dtype=torch.uint8) & 1).flatten(-2).float()
        assert torch.equal(exact, (per * elements + minimum.float()[..., None]).view(70, 96))
    else:
        assert torch.equal(exact, (per * codes.float().view(70, per.shape[1], -1)).view(70, 96))
    for dtype in (torch.bfloat16, torch.float16):
        out = torch.empty(70, 96, dtype=dtype)
        assert torch.equal(unpack(codes, scale, minimum, dtype), exact.to(dtype))
        assert unpack(codes, scale, minimum, dtype, out) is out
        assert torch.equal(out, exact.to(dtype))


def test_rows_of_zeros_and_blocks_of_one_value_are_exact() -> None:
    weight = torch.zeros(3, 64)
    assert torch.equal(unpack(*quantize_rows(weight), None, torch.float32), weight)
    assert quantize_rows(weight)[1].all()  # no division by zero
    weight[1] = 0.5
    assert torch.equal(unpack(*quantize_blocks(weight), torch.float32), weight)


# A layer ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("piece", [1 << 22, 96 * 16])
@pytest.mark.parametrize("tokens", [1, 9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("form", FORMATS)
def test_a_layer_is_the_linear_layer_it_stands_for(
    form: str, dtype: torch.dtype, tokens: int, piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Forward, and the gradient with respect to its input; also in pieces, the last one smaller."""
    monkeypatch.setattr("templora.layers.quantized._PIECE", piece)
    bias = random_weights(1, 70)[0].to(dtype)
    layer = QuantLinear(*parts(form, random_weights()), bias=bias, dtype=dtype)
    x, gradient = random_weights(tokens, 96)[None].to(dtype), random_weights(tokens, 70)[None].to(dtype)
    ours, plain = x.clone().requires_grad_(), x.clone().requires_grad_()
    y, wanted = layer(ours), F.linear(plain, layer.weight, bias)
    y.backward(gradient)
    wanted.backward(gradient)
    assert ours.grad is not None
    assert plain.grad is not None
    assert y.dtype == ours.grad.dtype == dtype
    close = {"rtol": 1e-5, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 2e-2, "atol": 1e-1}
    assert torch.allclose(y, wanted, **close)
    assert torch.allclose(ours.grad, plain.grad, **close)
    assert [p.requires_grad for p in layer.parameters()] == [False]


def test_no_unpacked_copy_is_kept_for_the_backward_pass() -> None:
    """Two layers in a row share the scratch memory, so what they return must not lie in it."""
    a, b = (QuantLinear(*quantize_blocks(random_weights(64, 64) * s), dtype=torch.float32) for s in (1, -2))
    x = random_weights(5, 64).requires_grad_()
    kept: list[Any] = []
    with torch.autograd.graph.saved_tensors_hooks(kept.append, lambda t: t):
        y = b(a(x))
    assert not kept
    y.sum().backward()
    wanted = torch.ones(5, 64) @ b.weight @ a.weight
    assert x.grad is not None
    assert torch.allclose(x.grad, wanted, rtol=1e-4, atol=1e-4)


def test_a_layer_says_what_it_is() -> None:
    layer = QuantLinear(*quantize_blocks(random_weights()))
    assert (layer.in_features, layer.out_features, layer.bits, layer.group, layer.bias) == (96, 70, 4, 32, None)
    assert (layer.codes.dtype, layer.codes.shape) == (torch.uint8, (70, 3, 16))
    assert (layer.scale.dtype, layer.scale.shape, layer.minimum.dtype) == (torch.float16, (70, 3), torch.float16)
    layer = QuantLinear(*quantize_rows(random_weights()))
    assert (layer.in_features, layer.out_features, layer.bits, layer.group) == (96, 70, 8, None)
    assert (layer.codes.dtype, layer.scale.dtype, layer.minimum) == (torch.int8, torch.float32, None)
    assert "in_features=96, out_features=70, 8 bit by rows" in repr(layer)
    assert list(layer.state_dict()) == ["codes", "scale"]


@pytest.mark.parametrize("form", FORMATS)
def test_an_embedding_looks_up_the_rows(form: str) -> None:
    embedding = QuantEmbedding(*parts(form, random_weights()), dtype=torch.bfloat16)
    ids = torch.tensor([[3, 69, 0], [3, 3, 1]])
    assert torch.equal(embedding(ids), F.embedding(ids, embedding.weight))
    scaled = QuantEmbedding(*parts(form, random_weights()), factor=torch.tensor(3.0), dtype=torch.float32)
    assert torch.equal(scaled(ids), 3 * F.embedding(ids, scaled.weight))
    assert (embedding.num_embeddings, embedding.embedding_dim) == (70, 96)


def test_a_scale_that_is_not_finite_is_refused() -> None:
    codes, scale, minimum = quantize_blocks(random_weights())
    minimum[3, 1] = float("nan")
    with pytest.raises(ModelError, match="damaged"):
        QuantLinear(codes, scale, minimum)


# A model ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("family", LINEAR)
def test_a_quantised_model_is_the_model_of_its_unpacked_weights(family: str, bits: Any) -> None:
    """Logits of the whole tree; names, shapes and adapter targets are as they were."""
    model, plain = tiny_model(family), tiny_model(family)
    quantize_model(model, bits)
    assert linear_layers(model) == linear_layers(plain)
    ids = torch.arange(40)[None]
    before = plain(ids).logits
    changed = 0
    for name, module in model.named_modules():
        if isinstance(module, Packed):
            layer = plain.get_submodule(name)
            assert isinstance(layer, nn.Linear | nn.Embedding)
            changed += 1
            layer.weight = nn.Parameter(module.weight)
    # Rows of 48 are no whole blocks: those layers keep their weights.
    kept = [name for name, m in model.named_modules() if type(m) is nn.Linear]
    ragged = [t.name for t in linear_layers(plain) if t.inputs % 32]
    assert kept == (ragged if bits == 4 else [])
    assert changed == len(linear_layers(plain)) + 2 - len(kept)
    with torch.no_grad():
        assert torch.allclose(model(ids).logits, plain(ids).logits, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(before, plain(ids).logits, rtol=1e-4, atol=1e-4)


def test_tied_ends_stay_tied() -> None:
    model = tiny_model("gemma3")
    assert model.lm_head.weight is model.model.embed_tokens.weight
    quantize_model(model, 4)
    assert model.lm_head.codes.data_ptr() == model.model.embed_tokens.codes.data_ptr()
    assert model.lm_head.bits == 8
    assert count_weights(model) == sum(p.numel() for p in tiny_model("gemma3").parameters())
    assert model.model.embed_tokens.factor == pytest.approx(32**0.5)


@pytest.mark.parametrize("bits", [8, 4])
def test_gpt2_cannot_be_quantised(bits: Any) -> None:
    with pytest.raises(ModelError, match=f"GPT2LMHeadModel has no linear layer that int{bits} could hold.* bf16 works"):
        quantize_model(tiny_model("gpt2"), bits)


# Sessions on it -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("family", LINEAR)
def test_learning_leaves_a_quantised_base_as_it_was(family: str, bits: Any, dtype: torch.dtype, text: str) -> None:
    """An engine accepts it (`check`); a fresh adapter is the base; learning changes the adapter and no bit of the
    base; nothing is left."""
    engine = quantised_engine(family, bits, dtype)
    assert engine.model.dtype == dtype
    assert engine.model.vocabulary == 260
    ids = torch.arange(40)[None]
    with torch.no_grad():
        before = engine.model.module(ids).logits
    fingerprint = engine.model.fingerprint()
    session = engine.session(small())
    with torch.no_grad(), through(session.slot.route):
        assert torch.equal(engine.model.module(ids).logits, before)
    score = session.score(text)
    assert score.base.chunk_nll[0] == score.adapted.chunk_nll[0]
    assert score.base.nll != score.adapted.nll
    assert engine.model.fingerprint() == fingerprint
    session.discard()
    assert session.receipt is not None
    assert (session.receipt.base_unchanged, session.receipt.discarded) == (True, True)
    with torch.no_grad():
        assert torch.equal(engine.model.module(ids).logits, before)
    assert not any(m._forward_hooks for m in engine.model.module.modules())


def test_the_fingerprint_sees_a_single_code() -> None:
    engine = quantised_engine("llama", 4)
    before = engine.model.fingerprint()
    for name in ("codes", "scale", "minimum"):
        bits = getattr(engine.model.module.model.layers[1].mlp.gate_proj, name).view(torch.uint8).view(-1)
        bits[-1] ^= 1
        assert engine.model.fingerprint() != before
        bits[-1] ^= 1
    assert engine.model.fingerprint() == before


@pytest.mark.parametrize("bits", [8, 4])
def test_adapters_are_exported_as_from_a_plain_base(bits: Any, tmp_path: Path) -> None:
    """And loaded again, with the same weights."""
    engine = quantised_engine("llama", bits)
    with engine.session(small()) as session, engine.session(small()) as other:
        with_random_adapter(session)
        session.save_adapter(tmp_path)
        config = json.loads((tmp_path / "adapter_config.json").read_text())
        assert config["target_modules"] == [t.name for t in linear_layers(tiny_model("llama"))]
        assert config["fan_in_fan_out"] is False
        other.load_adapter(tmp_path)
        weights = [s.slot.state.weights for s in (session, other)]
        assert torch.equal(*weights)
        assert weights[0].any()


@pytest.mark.parametrize("code", [-33, 32])
def test_codes_that_six_bits_cannot_hold(code: int) -> None:
    """Kernels add 32 to them and take what they get for 6 bits."""
    codes, scale = torch.zeros(2, 64, dtype=torch.int8), torch.ones(2, 4, dtype=torch.float16)
    QuantLinear(codes, scale)
    codes[1, 5] = code
    with pytest.raises(ModelError, match="damaged"):
        QuantLinear(codes, scale)
