"""`Slot`: one adapter, as it serves and as it is learnt; and what a pass needs to know of it, a `Route`.

An adapter is one vector: A then B of every target in turn. Staging an update, committing it, rolling it back, saving
and hashing all work on that vector, and each target's A and B are views into it.

    serving   [weights]   compute dtype   what decoding reads; rewritten only by `commit`
    state     [weights]   fp32            what learning refines (5e-5 updates vanish in bf16), with AdamW's moments
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import torch

from templora.errors import ModelError
from templora.lora.targets import Target

if TYPE_CHECKING:
    from templora.lora.bank import AdapterBank


@dataclass(frozen=True)
class Layout:
    """Where each target's A and B lie in an adapter's vector."""

    targets: tuple[Target, ...]
    rank: int

    @cached_property
    def weights(self) -> int:
        return sum(t.weights(self.rank) for t in self.targets)

    def views(self, flat: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """(A [rank, inputs], B [outputs, rank]) of each target, as views of `flat` [weights]."""
        pairs, at = [], 0
        for t in self.targets:
            a = flat[at : at + self.rank * t.inputs].view(self.rank, t.inputs)
            at += a.numel()
            b = flat[at : at + t.outputs * self.rank].view(t.outputs, self.rank)
            at += b.numel()
            pairs.append((a, b))
        return pairs


STATE = ("weights", "exp_avg", "exp_avg_sq")  # tensors of an `AdapterState`


@dataclass(frozen=True)
class AdapterState:
    """One adapter between two updates. Only a commit edits it (`optimizer.Staged`), and one that has taken no step yet
    not even that: other sessions may have begun with the same weights, and its moments are one zero.

    Args:
        weights: fp32 [weights].
        exp_avg, exp_avg_sq: AdamW's moments, fp32 [weights].
        steps: optimiser steps taken.
        version: commits so far.
    """

    weights: torch.Tensor
    exp_avg: torch.Tensor
    exp_avg_sq: torch.Tensor
    steps: int = 0
    version: int = 0

    @classmethod
    def fresh(cls, weights: torch.Tensor) -> AdapterState:
        """One that has taken no step."""
        nothing = weights.new_zeros(()).expand_as(weights)
        return cls(weights, nothing, nothing)

    def editable(self) -> AdapterState:
        """Itself, with memory of its own from the first step on."""
        if self.steps:
            return self
        return replace(self, **{name: getattr(self, name).clone() for name in STATE})


@dataclass(frozen=True)
class Route:
    """The adapter that a forward pass goes through: (A, B) of each target, in compute dtype.

    Args:
        bank: whose hooks add it.
        pairs: A and B of each target.
        scaling: what B A x is multiplied by.
        dropout: share of the adapter's inputs that are dropped.
        seed: of the dropped inputs, with the target's number added; each target's are the same whenever they are drawn.
        gradients: where a backward pass adds the gradients of `pairs`; None: they are constants.
    """

    bank: AdapterBank
    pairs: Sequence[tuple[torch.Tensor, torch.Tensor]]
    scaling: float
    dropout: float = 0.0
    seed: int = 0
    gradients: Sequence[tuple[torch.Tensor, torch.Tensor]] | None = None


class Slot:
    """One adapter of a bank. Made by `AdapterBank.allocate`.

    What serves has memory of its own that stays where it is until the slot is free: compiled steps and recorded graphs
    read it by address.

    Args:
        bank: whose hooks add it.
        weights: what it begins with, fp32 [weights].
        scaling: what B A x is multiplied by.
    """

    def __init__(self, bank: AdapterBank, weights: torch.Tensor, scaling: float) -> None:
        self.bank, self.layout, self.scaling = bank, bank.layout, scaling
        self._serving = torch.empty(bank.layout.weights, dtype=bank.dtype, device=bank.device)
        self._state: AdapterState | None = None
        self._route: Route | None = None
        self._zero: bool | None = None  # `adds_nothing`, once it was asked for
        self._write(AdapterState.fresh(weights.to(bank.device)))

    @property
    def state(self) -> AdapterState:
        """The adapter as it is learnt.

        Raises:
            ModelError: the slot is free.
        """
        if self._state is None:
            raise ModelError("this adapter's slot is free: its session has been discarded")
        return self._state

    @property
    def version(self) -> int:
        """Commits so far."""
        return self.state.version

    @property
    def adds_nothing(self) -> bool:
        """Whether B is zero, as a fresh adapter's: what goes through it is what it would be without, to the bit."""
        if self._zero is None:
            self._zero = not any(b.any() for _, b in self.layout.views(self.serving))
        return self._zero

    @property
    def serving(self) -> torch.Tensor:
        """What decoding reads, [weights] in compute dtype; not to be written."""
        return self._serving.data  # autograd would take a commit for a change of what a kept pass has read

    @property
    def route(self) -> Route:
        """The way through the committed adapter; the same until the slot is free."""
        if self._route is None:
            self._route = self.route_of(self.serving)
        return self._route

    def route_of(
        self, weights: torch.Tensor, dropout: float = 0.0, seed: int = 0, gradient: torch.Tensor | None = None
    ) -> Route:
        """The way through other weights of this shape, [weights] in compute dtype, with what a `Route` is told."""
        gradients = None if gradient is None else self.layout.views(gradient)
        return Route(self.bank, self.layout.views(weights), self.scaling, dropout, seed, gradients)

    def commit(self, state: AdapterState) -> None:
        """Makes a state the one that serves: all of it, or, if interrupted, none of it.

        One that was edited in place has no way back: `optimizer.Staged` lets nothing interrupt it.
        """
        before = self.state
        try:
            self._write(state)
        except BaseException:
            self._write(before)
            raise

    @torch.no_grad()
    def _write(self, state: AdapterState) -> None:
        self._serving.copy_(state.weights)
        self._state, self._zero = state, None

    def free(self) -> None:
        """Overwrites what it held, and lets it go; may be called twice."""
        self._state, self._route = None, None
        self._serving.data.zero_()
        self._serving = self._serving.new_empty(0)

    @property
    def is_empty(self) -> bool:
        """Whether it is free and wiped."""
        return self._state is None and not self._serving.any()
