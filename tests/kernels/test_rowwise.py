from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from templora.kernels import rowwise
from templora.kernels.openmp import run

ROWS, COLUMNS = 37, 1003


def numbers(*shape: int, scale: float = 1.0, seed: int = 0) -> torch.Tensor:
    return (scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))).bfloat16()


@pytest.mark.parametrize("cap", [0.0, 30.0])
@pytest.mark.parametrize("scale", [0.1, 4.0, 60.0])
def test_cross_entropy_and_its_gradient_are_torchs(cap: float, scale: float) -> None:
    """Likelihoods to 2e-6 of their size or of one nat, gradients to bf16's rounding."""
    logits, targets = numbers(ROWS, COLUMNS, scale=scale), torch.arange(ROWS) * 27
    leaf = logits.float().requires_grad_()
    capped = cap * torch.tanh(leaf / cap) if cap else leaf
    wanted = F.cross_entropy(capped, targets, reduction="none")
    (wanted.sum() * 0.01).backward()
    for gradient in (0, 1):
        given, nll = logits.clone(), torch.empty(ROWS)
        run(rowwise.cross_entropy, ROWS, given, targets, nll, COLUMNS, gradient, cap, 0.01)
        assert torch.allclose(nll, wanted, rtol=2e-6, atol=1e-5 if cap else 2e-6)
        if gradient:
            assert leaf.grad is not None
            assert (given.float() - leaf.grad).norm() < 3e-3 * leaf.grad.norm()
        else:
            assert torch.equal(given, logits)


def test_logits_that_are_no_numbers_give_no_number() -> None:
    """The learner rolls back what is not finite; it must get to see it."""
    for bad in (float("nan"), float("inf")):
        logits, nll = numbers(2, COLUMNS), torch.empty(2)
        logits[1, 500] = bad
        run(rowwise.cross_entropy, 2, logits, torch.tensor([3, 3]), nll, COLUMNS, 0, 0.0, 0.0)
        assert nll[0].isfinite()
        assert not nll[1].isfinite()


@pytest.mark.parametrize("threads", [1, 2])
def test_every_row_is_worked_on_whatever_the_threads(threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for rows in (1, 2, 3, 64):
            gate, up = numbers(rows, 5), numbers(rows, 5, seed=1)
            y = torch.full_like(gate, float("nan"))
            run(rowwise.gated, y.numel(), gate, up, y, 0)
            assert torch.allclose(y, F.silu(gate) * up, rtol=2**-7)
    finally:
        torch.set_num_threads(before)
