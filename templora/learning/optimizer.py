"""AdamW over an adapter's vector, worked out from the gradients of its steps, a block at a time.

While a chunk is trained nobody keeps a second copy of weights and moments: what a step leaves is its gradient, in
compute dtype, and what some steps make of a state is computed when it is asked for. Rolling back is forgetting the
gradients; committing takes the steps where the state lies. That is 14 bytes a weight less than training a copy.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch.optim.adamw import adamw

from templora.config import TempLoraConfig
from templora.lora.slot import AdapterState, Slot
from templora.models.neural_cache import States
from templora.runtime.signals import Between, between, deferred

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


@dataclass
class Staged:
    """An update that is ready: a state, and the steps that are to be taken from it.

    Args:
        state: what it starts from. Edited by `commit`, and by nothing else; after it, what came of it.
        steps: in order.
        config: the optimiser's settings.
        between: called between two blocks.
        read: the chunk as it was read for the first of them.
    """

    state: AdapterState
    steps: Sequence[Step]
    config: TempLoraConfig
    between: Between = between
    read: States | None = None
    _committed: bool = False

    @property
    def weights(self) -> torch.Tensor:
        """The weights as they will be, fp32 [weights], in memory of their own."""
        weights = torch.empty_like(self.state.weights)
        self.change(weights)
        return weights

    @torch.no_grad()
    def change(self, out: torch.Tensor | None = None) -> float:
        """Root mean square of the change of the weights; writes them, as they will be, to `out` [weights], of any
        dtype."""
        weights, squares = self.state.weights, 0.0
        for part, w, _, _ in self._blocks(whole=False):
            if out is not None:
                out[part] = w
            squares += float((w - weights[part]).square_().sum())
        return math.sqrt(squares / len(weights))

    @torch.no_grad()
    def commit(self, slot: Slot) -> None:
        """Takes the steps, in the state's own memory, and makes `slot` serve the result; whole, even if interrupted.

        Doing it again changes nothing.
        """
        with deferred():
            if self._committed:
                return
            self.state = old = self.state.editable()
            for part, w, m, v in self._blocks(whole=True):
                old.weights[part], old.exp_avg[part], old.exp_avg_sq[part] = w, m, v
            steps, version = old.steps + len(self.steps), old.version + 1
            slot.commit(replace(old, steps=steps, version=version))
            self._committed, self.steps = True, ()  # they are taken; what follows is what was committed

    def _blocks(self, whole: bool) -> Iterator[tuple[slice, torch.Tensor, torch.Tensor, torch.Tensor]]:
        """(which weights, they and both moments after the steps, fp32) block by block; the next overwrites them."""
        state, config = self.state, self.config
        device, size = state.weights.device, _block(state.weights.device)
        # Made before anything is written, so that a commit cannot run out of memory half-way.
        scratch = torch.empty(4, min(size, len(state.weights)), device=device)
        for begin in range(0, len(state.weights), size):
            self.between(whole)
            part = slice(begin, begin + size)
            w, m, v, gradient = scratch[:, : len(state.weights[part])]
            for into, held in ((w, state.weights), (m, state.exp_avg), (v, state.exp_avg_sq)):
                into.copy_(held[part])
            for taken, step in enumerate(self.steps, state.steps):
                gradient.copy_(step.gradient[part]).mul_(step.factor)
                adamw(
                    [w],
                    [gradient],
                    [m],
                    [v],
                    [],
                    [torch.tensor(float(taken), device=device)],
                    fused=True,
                    amsgrad=False,
                    beta1=config.adam_beta1,
                    beta2=config.adam_beta2,
                    lr=config.learning_rate_at(state.steps // config.epochs),
                    weight_decay=config.weight_decay,
                    eps=config.adam_epsilon,
                    maximize=False,
                )
            yield part, w, m, v


def _block(device: torch.device) -> int:
    return _BLOCK.get(device.type, _LARGE_BLOCK)
