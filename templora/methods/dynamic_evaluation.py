"""Dynamic evaluation (Krause et al., arXiv 1709.07432): the weights themselves learn each chunk after it is scored.

The loss is the mean NLL of the chunk's tokens after their window, as an adapter's is. Every matrix is trained with
AdamW on an fp32 copy (as in Rannen-Triki et al., arXiv 2403.01518); the weights of norms stay. The base is put back at
the end.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import nn

from templora.chunks import Chunk
from templora.config import TempLoraConfig
from templora.errors import OptionError
from templora.lora.targets import linear_layers
from templora.methods.base import Method, MethodState, alike
from templora.models.causal import CausalModel
from templora.models.runner import Runner
from templora.runtime.metering import Meter
from templora.runtime.signals import deferred

_ROWS = 128  # of logits at a time
# A longer gradient is shortened to this, as in the recipes.
_MAX_GRAD_NORM = 1.0


@dataclass(frozen=True)
class DynamicEvaluation(Method):
    """A sliding window over a model that learns the text with all of its weights.

    Args:
        step_size: AdamW's learning rate; the best of four on the embedded model (results/dynamic-evaluation).
        steps: on each chunk.
    """

    name: ClassVar[str] = "dynamic_evaluation"

    step_size: float = 1e-4
    steps: int = 1

    def __post_init__(self) -> None:
        if not 0 < self.step_size < 1:
            raise OptionError("step_size", f"must be above 0 and below 1, not {self.step_size}")
        if self.steps < 1:
            raise OptionError("steps", f"must be at least 1, not {self.steps}")

    @property
    def changes_model(self) -> bool:
        return True

    def problem(self, model: CausalModel, config: TempLoraConfig) -> str | None:
        if len(_matrices(model)) < len(linear_layers(model.module)):
            return "its weights are quantised, so they cannot be trained; use --weights bf16"
        return super().problem(model, config)

    def begin(self, model: CausalModel, config: TempLoraConfig, opening: int = 0) -> MethodState:
        return _Trained(model, self, opening)


def _matrices(model: CausalModel) -> dict[str, nn.Parameter]:
    """Every parameter with two dimensions or more, by name; one that is shared once."""
    return {name: p for name, p in model.module.named_parameters() if p.dim() > 1 and p.dtype.is_floating_point}


class _Trained(MethodState):
    def __init__(self, model: CausalModel, method: DynamicEvaluation, opening: int) -> None:
        self._model, self._method, self._opening = model, method, opening
        self._parameters = _matrices(model)
        self._own = {name: p.detach().clone() for name, p in self._parameters.items()}
        self._masters = {name: p.detach().float().clone() for name, p in self._parameters.items()}
        self._taken = 0  # steps on the chunk that is being learnt
        self._optimizer = torch.optim.AdamW(list(self._masters.values()), lr=method.step_size, weight_decay=0.0)

    def learn(self, tokens: Sequence[int], chunk: Chunk, meter: Meter) -> None:
        if not chunk.targets:
            return
        with meter.phase("learn"):
            while self._taken < self._method.steps:
                self._step(tokens, chunk, meter)
        self._taken = 0
        self.version += 1

    def _step(self, tokens: Sequence[int], chunk: Chunk, meter: Meter) -> None:
        opening = min(self._opening, chunk.start)
        ids = [*tokens[:opening], *tokens[chunk.start + opening : chunk.end - 1]]
        targets = list(tokens[chunk.first_target : chunk.end])
        self._count(meter, len(ids), len(targets))
        for parameter in self._parameters.values():
            parameter.requires_grad_(True)
        try:
            with torch.enable_grad(), self._model.passes():
                read = Runner(self._model).read(ids, None, 0, None, meter, logits=len(targets))
                hidden = read[-len(targets) :]
                torch.autograd.backward(hidden, self._head_gradient(hidden, targets))
            for name, master in self._masters.items():
                gradient = self._parameters[name].grad
                master.grad = None if gradient is None else gradient.float()
        finally:
            for parameter in self._parameters.values():
                parameter.requires_grad_(False)
                parameter.grad = None
        nn.utils.clip_grad_norm_(list(self._masters.values()), _MAX_GRAD_NORM)
        with deferred():
            self._optimizer.step()
            self._optimizer.zero_grad()
            self._serve()
            self._taken += 1

    def _head_gradient(self, hidden: torch.Tensor, targets: list[int]) -> torch.Tensor:
        """The gradient of the mean NLL with respect to `hidden` [T, H]; the head's own is left on its weight."""
        wanted = torch.tensor(targets, device=hidden.device)
        parts = []
        for h, t in zip(torch.split(hidden.detach(), _ROWS), torch.split(wanted, _ROWS), strict=True):
            h.requires_grad_()
            (F.cross_entropy(self._model.logits(h), t, reduction="sum") / len(targets)).backward()  # type: ignore[no-untyped-call]
            assert h.grad is not None
            parts.append(h.grad)
        return torch.cat(parts)

    def _count(self, meter: Meter, read: int, targets: int) -> None:
        """Backward as an adapter's with context gradients, and a product more for the weights' own."""
        shape = self._model.shape
        weights = read * shape.linear_weights + targets * shape.head_weights
        meter.count(shape.backward(read, 0, targets, 0) + 2.0 * weights)

    @torch.no_grad()
    def _serve(self) -> None:
        for name, parameter in self._parameters.items():
            parameter.copy_(self._masters[name])

    def tensors(self) -> dict[str, torch.Tensor]:
        found = {f"master.{name}": master for name, master in self._masters.items()}
        for name, master in self._masters.items():
            for key, value in self._optimizer.state.get(master, {}).items():
                found[f"{key}.{name}"] = value
        return found

    def fits(self, tensors: Mapping[str, torch.Tensor]) -> bool:
        step = torch.zeros(())
        for name, master in self._masters.items():
            moments = {"exp_avg": master, "exp_avg_sq": master, "step": step}
            held = {key: tensors[f"{key}.{name}"] for key in moments if f"{key}.{name}" in tensors}
            if not alike(tensors.get(f"master.{name}"), master) or len(held) not in (0, len(moments)):
                return False
            if not all(alike(found, moments[key]) for key, found in held.items()):
                return False
            if held and (float(held["step"]) < 0 or bool((held["exp_avg_sq"] < 0).any())):
                return False
        return True

    def restore(self, tensors: Mapping[str, torch.Tensor], version: int) -> None:
        super().restore(tensors, version)
        for name, master in self._masters.items():
            master.copy_(tensors[f"master.{name}"])
            state = {
                key: tensors[f"{key}.{name}"].clone()
                for key in ("step", "exp_avg", "exp_avg_sq")
                if f"{key}.{name}" in tensors
            }
            if state:
                self._optimizer.state[master] = state
        self._serve()

    @torch.no_grad()
    def end(self) -> None:
        for name, parameter in self._parameters.items():
            parameter.copy_(self._own[name])
