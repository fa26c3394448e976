"""AdamW over an adapter's vector, worked out from the gradients of its steps, a block at a time.

While a chunk is trained nobody keeps a second copy of weights and moments: what a step leaves is its gradient, in
compute dtype, and what some steps make of a state is computed when it is asked for. Memory is at its peak in the
backward pass, where this saves 14 bytes a weight; rolling back is forgetting the gradients.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch.optim.adamw import adamw

from templora.adapters import AdapterState
from templora.config import TempLoraConfig

# Weights worked on together: on a CPU what fits its cache, on a GPU what is worth starting a kernel for.
_BLOCK = {"cpu": 1 << 18}
_LARGE_BLOCK = 1 << 24


@dataclass(frozen=True)
class Step:
    """One optimiser step.

    Args:
        gradient: of the loss, [weights] in compute dtype.
        norm: its L2 norm.
        factor: what it is multiplied by, so that its norm stays within bounds.
    """

    gradient: torch.Tensor
    norm: float
    factor: float

    @classmethod
    def clipped(cls, gradient: torch.Tensor, most: float) -> Step:
        """A step along a gradient, shortened to the norm `most`."""
        parts = torch.split(gradient, _block(gradient.device))
        norm = float(torch.stack([torch.linalg.vector_norm(part.float()) for part in parts]).norm())
        return cls(gradient, norm, min(1.0, most / (norm + 1e-6)))


@torch.no_grad()
def write_weights(state: AdapterState, steps: Sequence[Step], config: TempLoraConfig, out: torch.Tensor) -> None:
    """Writes the weights that `steps` make of `state` to `out` [weights], of any dtype."""
    for part, weights, _, _ in _blocks(state, steps, config):
        out[part] = weights


@torch.no_grad()
def state_after(state: AdapterState, steps: Sequence[Step], config: TempLoraConfig) -> AdapterState:
    """What `steps` make of `state`, which stays as it is."""
    weights, exp_avg, exp_avg_sq = (torch.empty_like(t) for t in (state.weights, state.exp_avg, state.exp_avg_sq))
    for part, w, m, v in _blocks(state, steps, config):
        weights[part], exp_avg[part], exp_avg_sq[part] = w, m, v
    return AdapterState(weights, exp_avg, exp_avg_sq, state.steps + len(steps), state.version)


@torch.no_grad()
def change(before: AdapterState, after: AdapterState) -> float:
    """Root mean square of the change of the weights, without another vector as long as they are."""
    blocks = zip(*(torch.split(s.weights, _block(s.weights.device)) for s in (before, after)), strict=True)
    return math.sqrt(sum(float((x - y).square_().sum()) for x, y in blocks) / len(before.weights))


@torch.no_grad()
def _blocks(
    state: AdapterState, steps: Sequence[Step], config: TempLoraConfig
) -> Iterator[tuple[slice, torch.Tensor, torch.Tensor, torch.Tensor]]:
    """(which weights, the weights and both moments after `steps`, fp32) block by block."""
    device, size = state.weights.device, _block(state.weights.device)
    for begin in range(0, len(state.weights), size):
        part = slice(begin, begin + size)
        w, m, v = (t[part].clone() for t in (state.weights, state.exp_avg, state.exp_avg_sq))
        for taken, step in enumerate(steps, state.steps):
            adamw(
                [w],
                [step.gradient[part].float() * step.factor],
                [m],
                [v],
                [],
                [torch.tensor(float(taken), device=device)],
                fused=True,
                amsgrad=False,
                beta1=0.9,
                beta2=0.999,
                lr=config.learning_rate_at(state.steps // config.epochs),
                weight_decay=config.weight_decay,
                eps=config.adam_epsilon,
                maximize=False,
            )
        yield part, w, m, v


def _block(device: torch.device) -> int:
    return _BLOCK.get(device.type, _LARGE_BLOCK)
