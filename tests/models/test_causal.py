from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from templora.engine.engine import Engine
from templora.models.memory_estimate import _LOGIT_ROWS
from templora.testing import tiny_engine

ROWS = 2 * _LOGIT_ROWS + 45


@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_nll_and_its_gradient_are_those_of_all_rows_at_once(family: str) -> None:
    """Over several blocks of rows, the last one ragged."""
    model = tiny_engine(family).model
    generator = torch.Generator().manual_seed(1)
    leaf = torch.randn(ROWS, 32, generator=generator).requires_grad_()
    targets = torch.randint(260, (ROWS,), generator=generator)
    whole = F.cross_entropy(model.logits(leaf), targets)
    (wanted,) = torch.autograd.grad(whole, leaf)
    assert float(model.nll(leaf.detach(), targets.tolist()).sum()) == pytest.approx(
        float(whole.detach()) * ROWS, rel=1e-5
    )
    nll = model.nll_backward(leaf * 1, targets.tolist())
    assert float(nll.mean()) == pytest.approx(float(whole.detach()), rel=1e-5)
    assert leaf.grad is not None
    assert torch.allclose(leaf.grad, wanted, rtol=1e-4, atol=1e-8)


@torch.no_grad()
def test_logits_are_soft_capped() -> None:
    """On hidden states so large that the cap of 30 shapes every logit."""
    model = tiny_engine("gemma3").model
    hidden = 100 * torch.randn(20, 32, generator=torch.Generator().manual_seed(1))
    raw = model.head(hidden)
    assert raw.abs().max() > 60
    assert torch.allclose(model.logits(hidden), 30 * torch.tanh(raw / 30))


@torch.no_grad()
def test_logits_are_fp32() -> None:
    assert tiny_engine(dtype=torch.bfloat16).model.logits(torch.ones(1, 32).bfloat16()).dtype == torch.float32


def test_the_fingerprint_sees_the_last_bit_of_everything(engine: Engine) -> None:
    model = engine.model
    model.module.register_buffer("kept", torch.ones(3))
    before = model.fingerprint()
    for tensor in model.module.state_dict().values():
        bits = tensor.detach().flatten().view(torch.uint8)
        for at in (0, -4):  # the lowest byte of the first and of the last number
            bits[at] ^= 1
            assert model.fingerprint() != before
            bits[at] ^= 1
    assert model.fingerprint() == before


def test_the_fingerprint_sees_names_shapes_and_types(engine: Engine) -> None:
    """Tensors without a bit to hash, or with the same ones."""
    found = {engine.model.fingerprint()}
    kinds = [("x", torch.zeros(0)), ("y", torch.zeros(0)), ("x", torch.zeros(0, 2)), ("x", torch.zeros(0).int())]
    for name, tensor in kinds:
        engine.model.module.register_buffer(name, tensor)
        found.add(engine.model.fingerprint())
        delattr(engine.model.module, name)
    assert len(found) == 5
