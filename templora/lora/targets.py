"""Which linear layers of a model get an adapter."""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch
from torch import nn

from templora.config import TempLoraConfig
from templora.errors import ConfigError, nearest
from templora.layers.quantized import QuantLinear


@dataclass(frozen=True)
class Target:
    """One adapted layer: y = W x + scaling · B A x, with A [rank, inputs] and B [outputs, rank]."""

    name: str
    inputs: int
    outputs: int

    @property
    def kind(self) -> str:
        """The last part of its name: q_proj, down_proj, ..."""
        return self.name.rsplit(".", 1)[-1]

    @property
    def layer(self) -> int | None:
        """Number of the block it belongs to: the first number in its name."""
        found = re.search(r"(?:^|\.)(\d+)(?:\.|$)", self.name)
        return int(found.group(1)) if found else None

    def weights(self, rank: int) -> int:
        return rank * (self.inputs + self.outputs)


def linear_layers(model: nn.Module) -> list[Target]:
    """Every linear layer but the output head, in the model's order: nn.Linear, quantised ones, and GPT-2's Conv1D."""
    from transformers.pytorch_utils import Conv1D

    get_head = getattr(model, "get_output_embeddings", None)
    head = get_head() if get_head else None
    get_decoder = getattr(model, "get_decoder", None)
    text_part = {id(m) for m in (get_decoder() if get_decoder else model).modules()}  # no vision towers
    found = []
    for name, module in model.named_modules():
        if module is head or id(module) not in text_part:
            continue
        if isinstance(module, nn.Linear | QuantLinear):
            found.append(Target(name, module.in_features, module.out_features))
        elif isinstance(module, Conv1D):
            found.append(Target(name, module.weight.shape[0], module.weight.shape[1]))
    return found


def choose_targets(model: nn.Module, config: TempLoraConfig) -> tuple[Target, ...]:
    """The layers that `target_modules` and `layers` select; at least one.

    Raises:
        ConfigError: a name or a block that the model does not have.
    """
    found = linear_layers(model)
    kinds = {t.kind for t in found}
    if config.target_modules != ("all",):
        for kind in config.target_modules:
            if kind not in kinds:
                raise ConfigError("target_modules", f"this model has no linear layer {kind!r}; {nearest(kind, kinds)}")
        found = [t for t in found if t.kind in config.target_modules]
    blocks = 1 + max((t.layer for t in found if t.layer is not None), default=-1)
    chosen = parse_layers(config.layers, blocks)
    found = [t for t in found if t.layer is None or t.layer in chosen]
    if not found:
        raise ConfigError("layers", f"{config.layers!r} leaves no layer to adapt")
    largest = max(min(t.inputs, t.outputs) for t in found)
    if config.rank > largest:
        raise ConfigError("rank", f"must be at most {largest} on this model, the smaller side of its largest layer")
    return tuple(found)


def parse_layers(spec: str, blocks: int) -> frozenset[int]:
    """The blocks that `all`, `lower`, `upper` or a list such as `0-3,8` names, of a model with `blocks` blocks."""
    halves = {"all": range(blocks), "lower": range(blocks // 2), "upper": range(blocks // 2, blocks)}
    if spec in halves:
        return frozenset(halves[spec])
    chosen: set[int] = set()
    for part in spec.split(","):
        begin, _, end = part.partition("-")
        first, last = int(begin), int(end or begin)
        if first > last or last >= blocks:
            raise ConfigError("layers", f"{part!r} is not among this model's blocks 0-{blocks - 1}")
        chosen.update(range(first, last + 1))
    return frozenset(chosen)


def module_at(model: nn.Module, target: Target) -> nn.Module:
    return model.get_submodule(target.name)


@torch.no_grad()
def first_weights(targets: tuple[Target, ...], rank: int, seed: int) -> torch.Tensor:
    """A fresh adapter as one fp32 vector: A uniform in ±1/√inputs as in PEFT, B zero, so that it changes nothing.

    The layout is A then B of each target in turn, each row by row. Drawn on the CPU: the same on every device.
    """
    generator = torch.Generator().manual_seed(seed)
    parts = []
    for target in targets:
        bound = target.inputs**-0.5
        parts.append(torch.empty(rank * target.inputs).uniform_(-bound, bound, generator=generator))
        parts.append(torch.zeros(target.outputs * rank))
    return torch.cat(parts)
