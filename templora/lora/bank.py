"""The adapter bank: the LoRA adapters of many sessions on one base model, each in a `Slot`.

The base model takes part through forward hooks that add B A x to a layer's output. With no route set the hooks do
nothing at all, so the base's own output stays bit for bit what it was. `detach` removes them; no module is ever
replaced and no base weight is ever written.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from templora.layers import upcast
from templora.lora.slot import Layout, Route, Slot
from templora.lora.targets import module_at
from templora.runtime.signals import Between, between


class _Current(threading.local):
    """The route of the calling thread, or one for each row of its passes: whoever uses the model in another one meets
    the bare base."""

    route: Route | None = None
    rows: Sequence[Route | None] = ()


class AdapterBank:
    """Adapters of one shape (targets and rank) on one model.

    Args:
        model: the base. Only its hooks, `requires_grad` and train/eval mode are touched, and only until `detach`.
        layout: targets and rank.
        dtype: compute dtype, the base's own.
        between: called at each target, on the way forward and back, whoever's pass it is.
    """

    def __init__(self, model: nn.Module, layout: Layout, dtype: torch.dtype, between: Between = between) -> None:
        self.layout, self.dtype = layout, dtype
        self.device = next(model.parameters()).device
        self.slots: list[Slot] = []
        self.between = between
        self._current = _Current()
        self.hooks = [self._hook(index) for index in range(len(layout.targets))]
        self._handles = [
            module_at(model, target).register_forward_hook(hook)
            for target, hook in zip(layout.targets, self.hooks, strict=True)
        ]

    def _hook(self, index: int) -> Callable[..., torch.Tensor | None]:
        def add_adapter(_: nn.Module, args: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor | None:
            self.between()
            route, rows = self._current.route, self._current.rows
            if route is None and not rows:
                return None
            x = args[0]
            if output._is_view() or not output.is_contiguous():  # autograd lets nobody edit some views in place
                output = output.clone(memory_format=torch.contiguous_format)
            if route is None:
                # Some modules get the tokens of all rows in one.
                by_row = output.view(len(rows), -1, output.shape[-1]), x.reshape(len(rows), -1, x.shape[-1])
                for own, out, inputs in zip(rows, *by_row, strict=True):
                    if own is not None:
                        _add(out, inputs, *own.pairs[index], own.scaling)
                return output
            a, b = route.pairs[index]
            if route.dropout:
                x = dropped_inputs(x, route.dropout, route.seed + index)
            if route.gradients is None:
                return _add(output, x, a, b, route.scaling)[0]
            gradients = route.gradients[index]
            # Its way back begins at A even where nothing before this layer can be learnt.
            a = a.detach().requires_grad_()
            learnt: torch.Tensor = _Learnt.apply(output, x, a, b, gradients, route)  # type: ignore[no-untyped-call]
            return learnt

        return add_adapter

    def allocate(self, weights: torch.Tensor, scaling: float) -> Slot:
        """A slot that begins with these weights, fp32 [weights]."""
        slot = Slot(self, weights, scaling)
        self.slots.append(slot)
        return slot

    def release(self, slot: Slot) -> None:
        """Frees a slot; may be called twice."""
        slot.free()
        if slot in self.slots:
            self.slots.remove(slot)

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

    @contextmanager
    def by_rows(self, routes: Sequence[Route | None]) -> Iterator[None]:
        """In the calling thread's forward passes inside, which learn nothing and have as many rows, each row goes
        through an adapter of its own; None is the bare base."""
        current = self._current
        before, current.rows = current.rows, routes
        try:
            yield
        finally:
            current.rows = before

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
        route.bank.between()
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


def dropped_inputs(x: torch.Tensor, share: float, seed: int) -> torch.Tensor:
    """Dropout with a generator of its own: torch's own one is everybody's, in every thread."""
    generator = torch.Generator(x.device).manual_seed(seed)
    kept = torch.empty_like(x).bernoulli_(1 - share, generator=generator)
    return x * kept.div_(1 - share)
