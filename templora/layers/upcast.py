"""Products of bf16 numbers on CPUs without instructions for bf16, as most laptops' are: in fp32.

Such a CPU multiplies bf16 numbers several times slower than those of fp32 (`benchmarks/upcast.py`). Here they are
widened first, and the product is one of fp32 rounded to bf16 once: the same sums, in another order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from templora.layers.quantized import QuantLinear, pieces
from templora.runtime.scratch import scratch_memory

# Fewer rows than this gain nothing.
_MIN_ROWS = 8
_FLAGS = ("avx512_bf16", "amx_bf16", "arm_bf16", "bf16")


def worthwhile() -> bool:
    """Whether this CPU has no instructions for bf16, but some for fp32 that are worth it."""
    known = torch.cpu.get_capabilities()
    has = bool(known.get("avx2")) and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    return has and not any(known.get(flag) for flag in _FLAGS)


def applies(x: torch.Tensor) -> bool:
    """Whether a product of x [..., in] should be widened."""
    enough = x.numel() >= _MIN_ROWS * x.shape[-1]
    return enough and x.dtype == torch.bfloat16 and x.device.type == "cpu" and worthwhile()


def product(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """x Wᵀ in fp32, of x [..., in] and W [out, in] in bf16 or fp32, strided as they like.

    By oneDNN: its bits do not depend on the number of threads, as those of MKL may.
    """
    y: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x.float(), weight.float(), None, "none", [], "")
    return y


def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """x Wᵀ + b, as `torch.nn.functional.linear`."""
    if _left_alone(x):
        return F.linear(x, weight, bias)
    y = product(x, weight)
    return (y if bias is None else y.add_(bias)).to(x.dtype)


def add_product(total: torch.Tensor, x: torch.Tensor, weight: torch.Tensor) -> None:
    """Adds x Wᵀ to `total`, all of them matrices, and rounds only the sum."""
    if _left_alone(x):
        total.addmm_(x, weight.t())
    else:
        total.add_(product(x, weight))


def _left_alone(x: torch.Tensor) -> bool:
    """`product` has no gradient."""
    return not applies(x) or (x.requires_grad and torch.is_grad_enabled())


def upcast_forward(layer: nn.Linear | QuantLinear) -> Callable[[torch.Tensor], torch.Tensor]:
    """A `forward` for a linear layer with frozen weights, in bf16 or unpacked to it."""
    own = layer.forward

    def forward(x: torch.Tensor) -> torch.Tensor:
        if not applies(x) or (isinstance(layer, nn.Linear) and layer.weight.requires_grad):
            return own(x)
        y: torch.Tensor = _Product.apply(x, layer)  # type: ignore[no-untyped-call]
        return y

    return forward


class _Product(torch.autograd.Function):
    """y = W x + b; the gradient goes to x alone."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, layer: nn.Linear | QuantLinear) -> torch.Tensor:
        ctx.layer = layer
        wide = x.float()
        y = x.new_empty(*x.shape[:-1], layer.out_features)
        for part, weights in _pieces(layer):
            found = product(wide, weights)
            y[..., part] = found if layer.bias is None else found.add_(layer.bias[part])
        return y

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        total: torch.Tensor | None = None
        for part, weights in _pieces(ctx.layer):
            found = product(grads[0][..., part], weights.t())
            total = found if total is None else total.add_(found)
        assert total is not None
        return total.bfloat16(), None


def _pieces(layer: nn.Linear | QuantLinear) -> Iterator[tuple[slice, torch.Tensor]]:
    """(rows, their weights [rows, in] in fp32) one piece after the other, in memory that the next overwrites.

    A quantised layer's are those of its unpacked weights, or gradients would be summed from other pieces.
    """
    if isinstance(layer, QuantLinear):
        found = layer.pieces(torch.bfloat16)
    else:
        weight = layer.weight
        found = ((part, weight[part]) for part in pieces(*weight.shape))
    for part, held in found:
        yield part, scratch_memory(held.numel(), torch.float32).view_as(held).copy_(held)
