from __future__ import annotations

import copy
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import small
from torch import nn
from transformers.activations import ACT2FN
from transformers.models.gemma3.modeling_gemma3 import Gemma3RMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from templora.layers import attention, quantized, upcast
from templora.layers.fused import FusedPasses, _fused
from templora.layers.quantized import quantize_model
from templora.lora.bank import _add, _Learnt
from templora.lora.slot import Route
from templora.models.causal import CausalModel
from templora.testing import FAMILIES, tiny_engine, tiny_model

# RMSNorms and gated MLPs in two layers of each family.
REPLACED = {"llama": 7, "qwen2": 7, "qwen3": 11, "gemma3": 15, "mistral": 7, "phi": 0, "gpt2": 0}


@pytest.fixture(autouse=True)
def any_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever this CPU can do, products with bf16 weights are left to it."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)


class GatedMLP(nn.Module):
    def __init__(self, activation: str) -> None:
        super().__init__()
        self.gate_proj, self.up_proj = nn.Linear(24, 40), nn.Linear(24, 40)
        self.down_proj, self.act_fn = nn.Linear(40, 24), ACT2FN[activation]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x))


def made(kind: str) -> nn.Module:
    torch.manual_seed(0)
    if kind in ("llama", "gemma"):
        module: nn.Module = (LlamaRMSNorm if kind == "llama" else Gemma3RMSNorm)(24)
        module.weight.data.normal_()
    else:
        module = GatedMLP(kind)
    return module.bfloat16().requires_grad_(False)


@pytest.mark.parametrize("kind", ["llama", "gemma", "silu", "gelu_pytorch_tanh"])
def test_what_replaces_a_forward_computes_the_same(kind: str) -> None:
    """Values as the module's own but for the last bit; gradients nearer to fp32's than the module's own, or as near."""
    module = made(kind)
    fused = _fused(module)
    assert fused is not None
    x = (2 * torch.randn(3, 50, 24)).bfloat16()
    along = torch.randn(3, 50, 24).bfloat16()
    exact = copy.deepcopy(module).float()
    results = []
    for forward, leaf in ((fused, x.clone()), (module, x.clone()), (exact, x.float())):
        y = forward(leaf.requires_grad_())
        y.backward(along.to(y.dtype))
        assert leaf.grad is not None
        results.append((y.detach().float(), leaf.grad.float()))
    ours, own, wanted = results
    assert torch.allclose(ours[0], own[0], rtol=2**-7, atol=2**-7)
    for mine, theirs, right in zip(ours, own, wanted, strict=True):
        assert (mine - right).norm() <= 1.1 * (theirs - right).norm()


@pytest.mark.parametrize("kind", ["relu", "gelu"])
def test_what_is_not_known_is_left_alone(kind: str) -> None:
    assert _fused(made(kind)) is None


def test_a_norm_that_computes_something_else_is_left_alone() -> None:
    class OddRMSNorm(LlamaRMSNorm):  # type: ignore[misc]
        def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
            return super().forward(hidden_states) + hidden_states

    assert _fused(OddRMSNorm(24).bfloat16()) is None


@pytest.mark.parametrize("family", FAMILIES)
def test_a_pass_leaves_no_trace_also_of_two_threads(family: str) -> None:
    model = tiny_model(family, torch.bfloat16)
    passes = FusedPasses(model, torch.bfloat16)
    before = model.config._attn_implementation
    inside, leave = threading.Event(), threading.Event()

    def other() -> None:
        with passes:
            inside.set()
            leave.wait()

    def replaced() -> int:
        return sum("forward" in m.__dict__ for m in model.modules())

    thread = threading.Thread(target=other)
    with passes:
        thread.start()
        inside.wait()
        assert replaced() == REPLACED[family]
    assert replaced() == REPLACED[family]  # the other one is still inside
    leave.set()
    thread.join()
    assert replaced() == 0
    assert model.config._attn_implementation == before


@pytest.mark.parametrize("bits", [8, 4])
def test_a_quantised_model_in_fp32_keeps_its_forwards(bits: Any) -> None:
    """Its layers take bf16 numbers as well as any, which says nothing about what they will be given."""
    module = tiny_model("llama")
    quantize_model(module, bits)
    assert FusedPasses(module, torch.float32)._forwards == []
    model = CausalModel(module)
    ids = list(range(3, 60, 2))
    with torch.no_grad():
        own = module(torch.tensor([ids])).logits[0]
        assert torch.allclose(model.logits(model.hidden(ids, None)), own, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_passes_are_in_use(family: str, text: str) -> None:
    """`check` gives them up quietly where they differ; they must not."""
    engine = tiny_engine(family, torch.bfloat16)
    assert engine.model._fused is not None
    seen: list[Any] = []
    real = FusedPasses.__enter__
    with pytest.MonkeyPatch.context() as patch, engine.session(small()) as session:
        patch.setattr(FusedPasses, "__enter__", lambda self: seen.append(1) or real(self))
        session.score(text[:70])
    assert seen


def test_a_model_they_do_not_fit_is_read_the_plain_way(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(module: Any, query: torch.Tensor, *_: Any, **__: Any) -> tuple[torch.Tensor, None]:
        return query.transpose(1, 2), None

    monkeypatch.setattr("templora.layers.attention.attend", wrong)
    assert tiny_engine("llama").model._fused is None


# CPUs without instructions for bf16 ---------------------------------------------------------------------------------


@pytest.fixture
def slow_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever CPU this is."""
    monkeypatch.setattr(upcast, "worthwhile", lambda: True)


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).bfloat16()


@contextmanager
def other_threads() -> Iterator[None]:
    """Bits must not depend on how many threads there are."""
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3 - min(2, threads))
        yield
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("rows", [1, 40])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.usefixtures("slow_bf16")
def test_a_widened_product_is_the_product(rows: int, bias: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """In pieces too, and so is its gradient; as near to fp32's as bf16's own."""
    monkeypatch.setattr(quantized, "_PIECE", 7 * 16)
    layer = nn.Linear(16, 24, bias=bias).bfloat16().requires_grad_(False)
    x, gradient = numbers(2, rows, 16).requires_grad_(), numbers(2, rows, 24, seed=1)
    exact = layer.float()(x.detach().float())
    layer.bfloat16()
    y = upcast.upcast_forward(layer)(x)
    assert y.dtype == torch.bfloat16
    assert torch.allclose(y.float(), exact, rtol=2**-8, atol=2**-8)
    (found,) = torch.autograd.grad(y, x, gradient, retain_graph=True)
    with other_threads():
        assert torch.equal(upcast.upcast_forward(layer)(x), y)
        assert torch.equal(torch.autograd.grad(y, x, gradient)[0], found)
    assert torch.allclose(found.float(), gradient.float() @ layer.weight.float(), rtol=2**-7, atol=2**-7)


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.usefixtures("slow_bf16")
def test_a_quantised_layer_is_widened_like_its_unpacked_weights(
    bits: int, bias: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bit for bit, in pieces of as many rows, forward and back; within the passes alone."""
    monkeypatch.setattr(quantized, "_PIECE", 7 * 64)
    plain = nn.Linear(64, 24, bias=bias).bfloat16().requires_grad_(False)
    codes = quantized.quantize_rows(plain.weight) if bits == 8 else quantized.quantize_blocks(plain.weight)
    packed = quantized.QuantLinear(*codes, *([None] * (3 - len(codes))), plain.bias)
    with torch.no_grad():
        plain.weight.copy_(packed.weight)
    x, gradient = numbers(2, 40, 64).requires_grad_(), numbers(2, 40, 24, seed=1)
    found = [upcast.upcast_forward(layer)(x) for layer in (plain, packed)]
    assert torch.equal(*found)
    assert torch.equal(*(torch.autograd.grad(y, x, gradient)[0] for y in found))
    model = nn.Sequential(packed)
    model.config = tiny_model().config  # type: ignore[assignment]
    with FusedPasses(model, torch.bfloat16):
        assert "forward" in packed.__dict__
        assert torch.equal(model(x), found[0])
    assert "forward" not in packed.__dict__


@pytest.mark.parametrize("scaling", [1.0, 0.5])
@pytest.mark.usefixtures("slow_bf16")
def test_a_widened_adapter_is_the_adapter(scaling: float) -> None:
    """What it adds, and the gradients of A, B and x; a fresh one still adds nothing at all."""
    x, output, grad = numbers(2, 40, 16), numbers(2, 40, 24, seed=1), numbers(2, 40, 24, seed=2)
    a, b = numbers(8, 16, seed=3), numbers(24, 8, seed=4)

    def learn() -> list[torch.Tensor]:
        d_a, d_b, leaf = torch.zeros_like(a), torch.zeros_like(b), x.clone().requires_grad_()
        route = Route(SimpleNamespace(between=lambda: None), [(a, b)], scaling)  # type: ignore[arg-type]
        y = _Learnt.apply(output.clone(), leaf, a.clone().requires_grad_(), b, (d_a, d_b), route)
        y.backward(grad)
        return [y.detach(), d_a, d_b, leaf.grad]

    exact = [t.double().requires_grad_() for t in (x, a, b)]
    y = output.double() + scaling * exact[0] @ exact[1].T @ exact[2].T
    y.backward(grad.double())
    found = learn()
    for mine, theirs in zip(found, [y.detach(), exact[1].grad, exact[2].grad, exact[0].grad], strict=True):
        assert (mine.double() - theirs).norm() < 5e-3 * theirs.norm()
    with other_threads():
        assert all(map(torch.equal, learn(), found))
    assert torch.equal(_add(output.clone(), x, a, torch.zeros_like(b), scaling)[0], output)


@pytest.mark.usefixtures("slow_bf16")
def test_widened_attention_does_not_depend_on_threads() -> None:
    inputs = [numbers(1, 4, 40, 16), numbers(1, 2, 70, 16, seed=1), numbers(1, 2, 70, 16, seed=2)]

    def attend() -> list[torch.Tensor]:
        leaves = [t.clone().requires_grad_() for t in inputs]
        y, _ = attention.attend(None, *leaves, None)
        y.backward(numbers(*y.shape, seed=3))
        return [y, *(leaf.grad for leaf in leaves)]

    found = attend()
    with other_threads():
        assert all(map(torch.equal, attend(), found))


def test_products_are_widened_where_that_is_worthwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    """Inside the passes alone; what learns itself is left alone, for it needs its own gradient."""
    layer = nn.Sequential(nn.Linear(8, 8)).bfloat16()
    layer.config = tiny_model().config  # type: ignore[assignment]
    x = torch.randn(40, 8).bfloat16()
    for known, wide in (({"avx2": True}, True), ({"avx2": True, "avx512_bf16": True}, False)):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda known=known: known)
        passes = FusedPasses(layer, torch.bfloat16)
        with passes:
            assert ("forward" in layer[0].__dict__) == wide
            layer(x).sum().backward()
        assert layer[0].weight.grad is not None
        assert "forward" not in layer[0].__dict__
        layer.zero_grad()


def test_a_norm_with_a_few_large_weights_is_not_taken_for_another() -> None:
    """Gemma's add one to their weights: beside a weight of 400 that is no more than rounding."""
    norm = Gemma3RMSNorm(64).bfloat16()
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([400.0, *[0.1] * 63]))
    forward = _fused(norm)
    assert forward is not None
    x = torch.randn(1, 5, 64).bfloat16()
    assert torch.allclose(forward(x).float(), norm(x).float(), rtol=2**-6, atol=1e-3)
