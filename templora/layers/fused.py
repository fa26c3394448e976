"""Faster passes over many tokens through a model's own modules, on the CPU, without a trace.

For the length of a `with`, attention goes through `attention.attend`, and of modules in bf16 that compute something
known, the `forward` is replaced by one kernel's: RMSNorm, and the product of gate and up in a gated MLP. What a module
computes is not guessed from its name: it is tried on random numbers, and left alone if the results differ.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from templora.kernels import rowwise
from templora.kernels.openmp import run
from templora.layers import attention, upcast
from templora.layers.quantized import QuantLinear


class FusedPasses:
    """A context manager; may be entered from several threads. The model is as it was when the last one has left.

    Args:
        model: a transformers model on the CPU.
        dtype: what it computes in. The kernels know bf16 alone, and a quantised layer takes any: so what a module makes
            of bf16 numbers does not tell what it is given.
    """

    def __init__(self, model: Any, dtype: torch.dtype) -> None:
        self._config = model.config.get_text_config()
        self._attends = attention.supported(model)
        if self._attends:
            attention.register()
        modules = model.modules() if dtype == torch.bfloat16 else ()
        self._forwards = [(m, f) for m in modules for f in [_fused(m)] if f is not None]
        if dtype == torch.bfloat16 and upcast.worthwhile():
            linear = [m for m in model.modules() if isinstance(m, nn.Linear | QuantLinear) and _is_plain(m)]
            self._forwards += [(m, upcast.upcast_forward(m)) for m in linear]
        self._lock = threading.Lock()
        self._inside = 0
        self._before: str | None = None

    @property
    def forwards(self) -> list[Callable[..., Any]]:
        """What stands on modules while somebody is inside."""
        return [forward for _, forward in self._forwards]

    @property
    def attends(self) -> str | None:
        """The model's own attention, in whose place ours stands then."""
        return self._before

    def __enter__(self) -> None:
        with self._lock:
            self._inside += 1
            if self._inside > 1:
                return
            self._before = self._config._attn_implementation
            if self._attends:
                self._config._attn_implementation = attention.NAME
            for module, forward in self._forwards:
                module.__dict__["forward"] = forward

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside:
                return
            for module, _forward in self._forwards:
                module.__dict__.pop("forward", None)
            if self._attends:
                self._config._attn_implementation = self._before


def _is_plain(layer: nn.Linear | QuantLinear) -> bool:
    """Whether it is bf16's, and nobody's who computes something else."""
    dtype = layer.dtype if isinstance(layer, QuantLinear) else layer.weight.dtype
    return type(layer) in (nn.Linear, QuantLinear) and dtype == torch.bfloat16 and "forward" not in layer.__dict__


def _fused(module: nn.Module) -> Callable[[torch.Tensor], torch.Tensor] | None:
    """A faster `forward` for `module`, or None."""
    if "forward" in module.__dict__:
        return None
    candidates: list[Callable[[torch.Tensor], torch.Tensor]] = []
    if type(module).__name__.endswith("RMSNorm"):
        weight = getattr(module, "weight", None)
        epsilon = getattr(module, "variance_epsilon", getattr(module, "eps", None))
        if not isinstance(weight, nn.Parameter) or epsilon is None:
            return None
        if weight.dtype != torch.bfloat16 or weight.dim() != 1:
            return None
        size = weight.shape[0]
        candidates = [_norm(weight, float(epsilon), plus_one) for plus_one in (False, True)]
    elif all(isinstance(getattr(module, name, None), nn.Module) for name in ("gate_proj", "up_proj", "down_proj")):
        size = getattr(module.gate_proj, "in_features", 0)
        kind = _kind_of(getattr(module, "act_fn", None))
        candidates = [_gated_mlp(module, kind)] if size and kind is not None else []
    if not candidates:
        return None
    x = torch.randn(1, 3, size, generator=torch.Generator().manual_seed(0)).bfloat16()
    try:
        with torch.no_grad():
            own = module(x)
            # The nearest: where a few weights are much larger than the others, the wrong one is near enough too.
            found = min(candidates, key=lambda forward: float((forward(x) - own).float().norm()))
            # Sums in another order may round the last of bf16's eight bits the other way.
            near = torch.allclose(found(x), own, rtol=2**-7, atol=2**-7 * float(own.abs().max()))
    except (RuntimeError, TypeError):  # it takes something else
        return None
    return found if near and own.dtype == torch.bfloat16 else None


def _kind_of(activation: Any) -> int | None:
    """The kernel's number for an activation function; tried in fp32, since in bf16 the forms of GELU look alike."""
    x = torch.linspace(-6, 6, 97)
    try:
        y = activation(x)
    except (RuntimeError, TypeError):
        return None
    for kind, known in enumerate((F.silu(x), F.gelu(x, approximate="tanh"))):
        if isinstance(y, torch.Tensor) and torch.allclose(y, known, rtol=1e-5, atol=1e-6):
            return kind
    return None


def _norm(weight: torch.Tensor, epsilon: float, plus_one: bool) -> Callable[[torch.Tensor], torch.Tensor]:
    def forward(hidden_states: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = _RMSNorm.apply(hidden_states, weight, epsilon, plus_one)  # type: ignore[no-untyped-call]
        return y

    return forward


def _gated_mlp(module: Any, kind: int) -> Callable[[torch.Tensor], torch.Tensor]:
    def forward(x: torch.Tensor) -> torch.Tensor:
        inner = _Gated.apply(module.gate_proj(x), module.up_proj(x), kind)  # type: ignore[no-untyped-call]
        y: torch.Tensor = module.down_proj(inner)
        return y

    return forward


class _RMSNorm(torch.autograd.Function):
    """x [..., columns] → the same; the weight is frozen."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, epsilon: float, plus_one: bool) -> torch.Tensor:
        x = x.contiguous()
        columns = x.shape[-1]
        rows = x.numel() // columns
        y, scales = torch.empty_like(x), torch.empty(rows)
        run(rowwise.rms_norm, rows, x, weight, y, scales, columns, int(plus_one), epsilon)
        ctx.save_for_backward(x, scales)
        ctx.weight, ctx.plus_one = weight, plus_one
        return y

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, scales = ctx.saved_tensors
        dx, dy = torch.empty_like(x), grads[0].contiguous()
        run(rowwise.rms_norm_gradient, len(scales), x, ctx.weight, dy, scales, x.shape[-1], int(ctx.plus_one), dx)
        return dx, None, None, None


class _Gated(torch.autograd.Function):
    """f(gate) · up, of two tensors of one shape."""

    @staticmethod
    def forward(ctx: Any, gate: torch.Tensor, up: torch.Tensor, kind: int) -> torch.Tensor:
        gate, up = gate.contiguous(), up.contiguous()
        y = torch.empty_like(gate)
        run(rowwise.gated, gate.numel(), gate, up, y, kind)
        ctx.save_for_backward(gate, up)
        ctx.kind = kind
        return y

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        gate, up = ctx.saved_tensors
        dy = grads[0].contiguous()
        d_gate, d_up = torch.empty_like(gate), torch.empty_like(up)
        run(rowwise.gated_gradient, gate.numel(), gate, up, dy, d_gate, d_up, ctx.kind)
        return d_gate, d_up, None
