"""The adapter bank: the LoRA weights of many sessions on one base model, stacked by slot.

An adapter is one vector: A then B of every target in turn. A slot is a row; staging an update, committing it, rolling
it back, saving and hashing all work on that vector, and each target's A and B are views into it.

    serving   [slots, weights]   compute dtype   what decoding reads; rewritten only by `commit`
    master    [weights] a slot   fp32            what learning refines (5e-5 updates vanish in bf16), with AdamW's state

The base model takes part through forward hooks that add B A x to a layer's output. With no route set the hooks do
nothing at all, so the base's own output stays bit for bit what it was. `detach` removes them; no module is ever
replaced and no base weight is ever written.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import nn

from templora.errors import ModelError
from templora.layers import upcast
from templora.lora.targets import Target, first_weights, module_at
from templora.runtime.signals import safe_point


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


@dataclass(frozen=True)
class AdapterState:
    """One adapter between two updates. Only a commit edits it (`optimizer.Staged`).

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
        return cls(weights, torch.zeros_like(weights), torch.zeros_like(weights))


@dataclass(frozen=True)
class Route:
    """The adapter that a forward pass goes through: (A, B) of each target, in compute dtype.

    Args:
        pairs: A and B of each target.
        scaling: what B A x is multiplied by.
        dropout: share of the adapter's inputs that are dropped.
        seed: of the dropped inputs, with the target's number added; each target's are the same whenever they are drawn.
        check: called at each target, on the way forward and back, so that a long pass can be stopped by what it raises.
        gradients: where a backward pass adds the gradients of `pairs`; None: they are constants.
    """

    pairs: Sequence[tuple[torch.Tensor, torch.Tensor]]
    scaling: float
    dropout: float = 0.0
    seed: int = 0
    check: Callable[[], object] | None = None
    gradients: Sequence[tuple[torch.Tensor, torch.Tensor]] | None = None


class _Current(threading.local):
    """The route of the calling thread: whoever uses the model in another one meets the bare base."""

    route: Route | None = None


class AdapterBank:
    """Adapters of one shape (targets and rank) on one model.

    Args:
        model: the base. Only its hooks, `requires_grad` and train/eval mode are touched, and only until `detach`.
        layout: targets and rank.
        dtype: compute dtype, the base's own.
    """

    def __init__(self, model: nn.Module, layout: Layout, dtype: torch.dtype) -> None:
        self.layout = layout
        self.device = next(model.parameters()).device
        self._serving = torch.zeros(0, layout.weights, dtype=dtype, device=self.device)
        self._states: list[AdapterState | None] = []
        self._routes: dict[tuple[int, float], Route] = {}  # hundreds of views each, made once
        self._current = _Current()
        self.hooks = [self._hook(index) for index in range(len(layout.targets))]
        self._handles = [
            module_at(model, target).register_forward_hook(hook)
            for target, hook in zip(layout.targets, self.hooks, strict=True)
        ]

    def _hook(self, index: int) -> Callable[..., torch.Tensor | None]:
        def add_adapter(_: nn.Module, args: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor | None:
            safe_point()
            route = self._current.route
            if route is None:
                return None
            if route.check:
                route.check()
            a, b = route.pairs[index]
            x = args[0]
            if route.dropout:
                x = _dropped(x, route.dropout, route.seed + index)
            if output._is_view() or not output.is_contiguous():  # autograd lets nobody edit some views in place
                output = output.clone(memory_format=torch.contiguous_format)
            if route.gradients is None:
                return _add(output, x, a, b, route.scaling)[0]
            gradients = route.gradients[index]
            # Its way back begins at A even where nothing before this layer can be learnt.
            a = a.detach().requires_grad_()
            learnt: torch.Tensor = _Learnt.apply(output, x, a, b, gradients, route)  # type: ignore[no-untyped-call]
            return learnt

        return add_adapter

    @property
    def used(self) -> int:
        """Slots in use."""
        return sum(state is not None for state in self._states)

    def allocate(self, seed: int) -> int:
        """A slot holding a fresh adapter: the identity."""
        weights = first_weights(self.layout.targets, self.layout.rank, seed).to(self.device)
        if None in self._states:
            slot = self._states.index(None)
        else:
            slot = len(self._states)
            self._states.append(None)
            self._serving = torch.cat([self._serving, self._serving.new_zeros(1, self.layout.weights)])
            self._routes = {}
        self._write(slot, AdapterState.fresh(weights))
        return slot

    def release(self, slot: int) -> None:
        """Frees a slot and overwrites what it held; may be called twice."""
        if slot < len(self._states):
            self._states[slot] = None
            self._serving[slot].zero_()
        if not self.used:
            self._states, self._serving, self._routes = [], self._serving[:0].clone(), {}

    def holds_nothing(self, slot: int) -> bool:
        """Whether the slot is gone, or taken anew, or free and wiped."""
        if slot >= len(self._states) or self._states[slot] is not None:
            return True
        return not self._serving[slot].any()

    def state(self, slot: int) -> AdapterState:
        state = self._states[slot]
        if state is None:
            raise ModelError(f"slot {slot} of the adapters is free: its session has been discarded")
        return state

    def commit(self, slot: int, staged: AdapterState) -> None:
        """Makes a state the one that serves: all of it, or, if interrupted, none of it.

        One that was edited in place has no way back: `optimizer.Staged` lets nothing interrupt it.
        """
        before = self.state(slot)
        try:
            self._write(slot, staged)
        except BaseException:
            self._write(slot, before)
            raise

    @torch.no_grad()
    def _write(self, slot: int, state: AdapterState) -> None:
        self._serving[slot].copy_(state.weights)
        self._states[slot] = state

    def serving_weights(self, slot: int) -> torch.Tensor:
        """What decoding reads of a slot, [weights] in compute dtype; not to be written."""
        return self._serving[slot].data  # autograd would take another slot's commit for a change of this one

    def serving(self, slot: int, scaling: float) -> Route:
        """The route through a slot's committed adapter. Valid until the next `allocate`."""
        key = (slot, scaling)
        if key not in self._routes:
            self._routes[key] = Route(self.layout.views(self._serving[slot]), scaling)
        return self._routes[key]

    @property
    def route(self) -> Route | None:
        """What the calling thread's forward passes go through."""
        return self._current.route

    @contextmanager
    def through(self, route: Route | None) -> Iterator[None]:
        """The calling thread's forward passes inside go through this adapter; None is the bare base."""
        current = self._current
        before, current.route = current.route, route
        try:
            yield
        finally:
            current.route = before

    def detach(self) -> None:
        """Takes the hooks off the model."""
        for handle in self._handles:
            handle.remove()
        self._handles = []


def _add(
    output: torch.Tensor, x: torch.Tensor, a: torch.Tensor, b: torch.Tensor, scaling: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Adds scaling · B A x to `output`, in place, as one fused product-and-add: (output, scaling · A x [rows, rank]).

    B starts at zero, and adding an exact zero changes no value of the output.
    """
    inner = upcast.linear(x.flatten(0, -2), a)
    if scaling != 1:
        inner = inner * scaling
    upcast.add_product(output.view(-1, output.shape[-1]), inner, b)
    return output, inner


class _Learnt(torch.autograd.Function):
    """`_add`, whose backward pass adds the gradients of A and B to where they are collected.

    Autograd would make each of the hundreds of them anew first, and a copy of `output`.
    """

    @staticmethod
    def forward(
        ctx: Any,
        output: torch.Tensor,
        x: torch.Tensor,
        a: torch.Tensor,
        b: torch.Tensor,
        gradients: tuple[torch.Tensor, torch.Tensor],
        route: Route,
    ) -> torch.Tensor:
        output, inner = _add(output, x, a, b, route.scaling)
        ctx.mark_dirty(output)
        ctx.save_for_backward(x, inner, a, b)
        ctx.gradients, ctx.route = gradients, route
        return output

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        route = ctx.route
        safe_point()
        if route.check:
            route.check()
        x, inner, a, b = ctx.saved_tensors
        d_a, d_b = ctx.gradients
        grad, rows = grads[0].flatten(0, -2), x.flatten(0, -2)
        d_inner = upcast.linear(grad, b.t())
        if route.scaling != 1:
            d_inner *= route.scaling
        upcast.add_product(d_b, grad.t(), inner.t())
        upcast.add_product(d_a, d_inner.t(), rows.t())
        d_x = upcast.linear(d_inner, a.t()).view_as(x) if ctx.needs_input_grad[1] else None
        return grads[0], d_x, None, None, None, None


def _dropped(x: torch.Tensor, share: float, seed: int) -> torch.Tensor:
    """Dropout with a generator of its own: torch's own one is everybody's, in every thread."""
    generator = torch.Generator(x.device).manual_seed(seed)
    kept = torch.empty_like(x).bernoulli_(1 - share, generator=generator)
    return x * kept.div_(1 - share)
