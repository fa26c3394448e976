"""`CpuStep`: one token through base, adapter and head on the CPU, without Python between the layers.

transformers' modules are right for many tokens at once; for one token they spend their time on dispatch. For decoders
built like Llama (`LlamaLayout`) the step is one compiled function that reads the same weights where they lie, in the
format they are stored in, adds the adapter unmerged, and shares the window's cache with the modules. Adapters are read
in place, so a commit needs nothing done here.
"""

from __future__ import annotations

import operator
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from templora.errors import ModelError
from templora.kernels import decode, gemv, thread_team
from templora.kvcache.window import WindowCache
from templora.lora.slot import Route
from templora.models.causal import CausalModel
from templora.models.llama_layout import ACTIVATIONS, LlamaLayout, UnknownLayout
from templora.models.runner import Runner
from templora.runtime.metering import Meter

_FORMATS = {torch.bfloat16: gemv.BFLOAT16, torch.float32: gemv.FLOAT32}
# Rotary tables are worked out for so many positions at once, and so many tables are kept.
_ROTARY_ROWS, _ROTARY_TABLES = 512, 16
# A product is cut into pieces of about so many bytes: small ones balance the work, large ones are read faster.
_PIECE_BYTES = 1 << 18


@dataclass(frozen=True)
class _Plan:
    """Where the weights of base and one adapter lie, and how the work is cut; tables as in `kernels.decode`."""

    segments: np.ndarray
    pieces: np.ndarray
    products: np.ndarray
    adapters: np.ndarray
    scales: np.ndarray
    ranks: int


@dataclass(frozen=True)
class _Entries:
    """The keys and values of a cache, by turns, and the addresses of both in each layer."""

    tensors: list[torch.Tensor]
    addresses: np.ndarray


class CpuStep:
    """The compiled step of one model.

    Args:
        model: the base, on the CPU.
        most: threads to make.
        workers: says how many of them to use for the next token.

    Raises:
        UnknownLayout: it does not apply to this model.
    """

    is_apart = True  # from the model's modules, and from what is attached to them

    def __init__(self, model: CausalModel, most: int = 1, workers: Callable[[], int] = lambda: 1) -> None:
        if model.device.type != "cpu" or model.dtype not in _FORMATS:
            raise UnknownLayout
        self._softcap = model.softcap
        self._layout = layout = LlamaLayout(model)
        self._format = _FORMATS[model.dtype]
        self._embed: nn.Module = model.module.get_input_embeddings()
        self._names = {name: id(m) for name, m in model.module.named_modules()}
        self._kept: list[torch.Tensor] = []  # what is read by address: weights, and biases in fp32
        self._linears = [[self._segment(linear) for linear in layer.linears] for layer in layout.layers]
        self._head = self._segment(model.head)
        self._norms = np.stack([_rows(layer.norms, layout.hidden) for layer in layout.layers])
        self._has_norm = np.array([norm is not None for norm in layout.layers[0].norms])
        self._final_norm = layout.final_norm.numpy()
        self._head_norms = np.stack([_rows(layer.head_norms, layout.head_size) for layer in layout.layers])
        self._sliding = np.array([layer.sliding for layer in layout.layers])
        self._kinds = np.array([layer.kind for layer in layout.layers])
        self._rotary: dict[int, np.ndarray] = {}
        self._plans: dict[int, _Plan] = {}
        self._checked: weakref.WeakKeyDictionary[WindowCache, _Entries] = weakref.WeakKeyDictionary()
        self._team = thread_team.Team(most)
        self._workers = workers
        width = layout.heads * layout.head_size
        self._x, self._y = np.zeros((2, layout.hidden), np.float32)
        self._qkv = np.zeros(width + 2 * layout.groups * layout.head_size, np.float32)
        self._att = np.zeros(width, np.float32)
        self._gate_up, self._act = np.zeros(2 * layout.inner, np.float32), np.zeros(layout.inner, np.float32)
        self._logits = np.zeros(model.head.out_features, np.float32)
        widest = max(layout.hidden, layout.inner, width)
        self._scratch_fixed = (
            layout.hidden + widest // gemv.BLOCK + 1 + max(4 * layout.head_size, layout.hidden, layout.inner)
        )
        self._scratch = np.zeros((self._team.size, self._scratch_fixed), np.float32)
        self._t = np.zeros(1, np.float32)

    @torch.no_grad()
    def __call__(self, token: int, cache: WindowCache, route: Route | None) -> torch.Tensor:
        """fp32 logits [vocabulary] after `token`, whose key and value are written behind what the cache holds.

        The caller counts the entry (`cache.advance`), as after a pass through the modules.
        """
        plan, entries = self._plan(route), self._entries(cache)
        length, capacity = cache.length, cache.capacity
        if not 0 <= length < capacity or cache.next_position < 0:
            raise ModelError(f"the window's cache holds {length} of {capacity} entries: there is no room for a token")
        self._x[:] = self._embed(torch.tensor([token]))[0].float().numpy()
        if self._scratch.shape[1] < self._scratch_fixed + capacity:
            self._scratch = np.zeros((self._team.size, self._scratch_fixed + capacity), np.float32)
        if len(self._t) < plan.ranks:
            self._t = np.zeros(plan.ranks, np.float32)
        # Fresh for each token: a helper that is late with the last one must not meet this one's counters.
        sync = np.zeros((decode.PHASES * len(self._linears) + 1) * thread_team.STRIDE, np.int64)
        self._team.held = self._kept, entries.tensors, route
        self._team.run(
            decode.decode,
            sync,
            self._sizes(length, capacity),
            plan.scales,
            plan.products,
            plan.pieces,
            plan.segments,
            plan.adapters,
            self._norms,
            self._final_norm,
            self._has_norm,
            self._head_norms,
            entries.addresses,
            np.where(self._sliding > 0, np.maximum(0, length + 1 - self._sliding), 0),
            self._rotary_row(cache.next_position),
            self._kinds,
            self._x,
            self._t,
            self._qkv,
            self._att,
            self._y,
            self._gate_up,
            self._act,
            self._logits,
            self._scratch,
            self._team.size,
            workers=self._workers(),
        )
        logits = torch.from_numpy(self._logits.copy())
        return self._softcap * torch.tanh(logits / self._softcap) if self._softcap else logits

    def state(self) -> torch.Tensor:
        """The last hidden state [hidden size] of the token that was read last, fp32."""
        x = torch.from_numpy(self._x)
        weight, epsilon = torch.from_numpy(self._final_norm), self._layout.epsilon
        return x * torch.rsqrt(x.square().mean() + epsilon) * weight

    def _entries(self, cache: WindowCache) -> _Entries:
        """Where a cache's keys and values lie: what the kernel writes to, so nothing of it is taken on trust.

        Raises:
            ModelError: they are not what it reads and writes.
        """
        tensors = [tensor for layer in cache.layers for tensor in (layer.keys, layer.values)]
        known = self._checked.get(cache)
        if known is None or len(known.tensors) != len(tensors) or not all(map(operator.is_, known.tensors, tensors)):
            a = self._layout
            shape = (1, a.groups, cache.capacity, a.head_size)
            for tensor in tensors:
                fits = isinstance(tensor, torch.Tensor) and tensor.shape == shape and tensor.is_contiguous()
                if not fits or _FORMATS.get(tensor.dtype) != self._format or tensor.device.type != "cpu":
                    raise ModelError(f"the window's cache is not one of {shape} keys and values in this model's dtype")
            if len(tensors) != 2 * len(a.layers):
                raise ModelError(f"the window's cache has {len(cache)} layers, and the model {len(a.layers)}")
            addresses = np.array([tensor.data_ptr() for tensor in tensors]).reshape(-1, 2)
            known = self._checked[cache] = _Entries(tensors, addresses)
        return known

    def _sizes(self, length: int, capacity: int) -> np.ndarray:
        a = self._layout
        sizes = [a.hidden, a.inner, a.heads, a.groups, a.head_size, len(a.layers), ACTIVATIONS.index(a.activation)]
        return np.array([*sizes, self._format, length, capacity])

    def _rotary_row(self, position: int) -> np.ndarray:
        """[kinds, 2 · head size] of one position."""
        table, row = divmod(position, _ROTARY_ROWS)
        if table not in self._rotary:
            if len(self._rotary) == _ROTARY_TABLES:
                del self._rotary[next(iter(self._rotary))]
            self._rotary[table] = self._layout.rotary(table * _ROTARY_ROWS, _ROTARY_ROWS).numpy()
        found: np.ndarray = self._rotary[table][row]
        return found

    def _segment(self, linear: Any) -> tuple[int, ...]:
        """A linear layer as format, addresses of codes, scale, minimum and bias, columns, rows."""
        bias = 0
        if linear.bias is not None:
            self._kept.append(linear.bias.detach().float().contiguous())
            bias = self._kept[-1].data_ptr()
        shape = (bias, linear.in_features, linear.out_features)
        if hasattr(linear, "codes"):
            self._kept.extend(linear.buffers())
            kind = gemv.INT8_BLOCKS if linear.grouped else gemv.INT8_ROWS
            if linear.bits == 4:
                return (
                    gemv.INT4_BLOCKS,
                    linear.codes.data_ptr(),
                    linear.scale.data_ptr(),
                    linear.minimum.data_ptr(),
                    *shape,
                )
            return (kind, linear.codes.data_ptr(), linear.scale.data_ptr(), 0, *shape)
        weight = linear.weight
        if not isinstance(linear, nn.Linear) or _FORMATS.get(weight.dtype) is None or not weight.is_contiguous():
            raise UnknownLayout
        self._kept.append(weight)
        return (_FORMATS[weight.dtype], weight.data_ptr(), 0, 0, *shape)

    def _plan(self, route: Route | None) -> _Plan:
        plan = self._plans.get(id(route))
        if plan is None:
            plan = self._plans[id(route)] = self._planned(route)
            if route is not None:  # a plan holds addresses only, and goes when the adapter they are of does
                weakref.finalize(route, self._plans.pop, id(route), None)
        return plan

    def _planned(self, route: Route | None) -> _Plan:
        a = self._layout
        pairs = {}
        if route is not None:
            pairs = {self._names[t.name]: pair for t, pair in zip(route.bank.layout.targets, route.pairs, strict=True)}
        segments: list[tuple[int, ...]] = []
        pieces: list[tuple[int, int, int]] = []
        products: list[tuple[int, int]] = []
        adapters = np.zeros((len(a.layers), len(a.layers[0].linears), 3), np.int64)
        ranks = 0

        def add(product: list[tuple[tuple[int, ...], int, int]]) -> None:
            """Adds a product: segments with the same input, each with its first output and whether that is in t."""
            begin, rows = len(pieces), sum(segment[-1] for segment, _, _ in product)
            read = sum(s[-1] * s[-2] * gemv.BLOCK_BYTES[s[0]] // gemv.BLOCK for s, _, _ in product)
            step = -(-rows // (self._team.size * max(1, read // (self._team.size * _PIECE_BYTES))))
            for segment, output, into_t in product:
                every = range(0, segment[-1], step)
                pieces.extend((len(segments), first, min(segment[-1], first + step)) for first in every)
                segments.append((*segment[:-1], output, into_t))
            products.append((begin, len(pieces)))

        keys = a.heads * a.head_size
        outputs = (0, keys, keys + a.groups * a.head_size, 0, 0, a.inner, 0)
        for layer, (parts, linears) in enumerate(zip(a.layers, self._linears, strict=True)):
            for group in ((0, 1, 2), (3,), (4, 5), (6,)):
                product = [(linears[i], outputs[i], 0) for i in group]
                for i in group:
                    if (pair := pairs.get(id(parts.linears[i]))) is not None:
                        (rank, columns), b = pair[0].shape, pair[1]
                        rows = linears[i][-1]
                        if (
                            columns != linears[i][-2]
                            or b.shape != (rows, rank)
                            or not (all(t.is_contiguous() and _FORMATS.get(t.dtype) == self._format for t in pair))
                        ):
                            raise ModelError(
                                f"an adapter of {tuple(b.shape)} by {rank, columns} does not fit its layer"
                            )
                        product.append(((self._format, pair[0].data_ptr(), 0, 0, 0, columns, rank), ranks, 1))
                        adapters[layer, i] = b.data_ptr(), ranks, rank
                        ranks += rank
                add(product)
        add([(self._head, 0, 0)])
        scaling = route.scaling if route else 0.0
        scales = np.array([a.epsilon, a.attention_scale, scaling], np.float32)
        return _Plan(np.array(segments), np.array(pieces), np.array(products), adapters, scales, ranks)


def cpu_step(model: CausalModel, most: int = 1, workers: Callable[[], int] = lambda: 1) -> CpuStep | None:
    """The compiled step of `model`, or None where it does not apply, or does not predict what the model predicts."""
    try:
        step = CpuStep(model, most, workers)
    except UnknownLayout:
        return None
    return step if _agrees(step, model) else None


@torch.no_grad()
def _agrees(step: CpuStep, model: CausalModel) -> bool:
    ids = [i % model.vocabulary for i in range(1, 41)]
    runner = Runner(model)
    ours, theirs = (WindowCache(model.layers, len(ids)) for _ in range(2))
    for cache in (ours, theirs):
        runner.read(ids[:-2], cache, 0, None, Meter())
        cache.advance(len(ids) - 2, 0)
    for token in ids[-2:]:
        found, wanted = (
            step(token, ours, None),
            model.logits(runner.read([token], theirs, theirs.next_position, None, Meter()))[0],
        )
        for cache in (ours, theirs):
            cache.advance(1, 0)
        # Loose enough for bf16, which the modules round to after each operation.
        if not (found - wanted).norm() <= 0.05 * wanted.norm():
            return False
    return True


def _rows(weights: tuple[torch.Tensor | None, ...], size: int) -> np.ndarray:
    return np.array([np.zeros(size) if w is None else w.numpy() for w in weights], np.float32).reshape(-1, size)
