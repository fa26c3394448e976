"""`CpuStep`: one token of each of some texts through base, adapters and head on the CPU, without Python between layers.

transformers' modules are right for many tokens at once; for a few they spend their time on dispatch. For decoders
built like Llama (`LlamaLayout`) the step is one compiled function that reads the same weights where they lie, in the
format they are stored in, once for all texts; adds each text's adapter unmerged, and shares its window's cache with the
modules. Adapters are read in place, so a commit needs nothing done here.
"""

from __future__ import annotations

import itertools
import operator
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from templora.errors import ModelError
from templora.kernels import decode, decode_attention, products, tables, thread_team, vectors
from templora.kvcache.window import WindowCache
from templora.lora.slot import Route
from templora.models.causal import CausalModel
from templora.models.llama_layout import ACTIVATIONS, LlamaLayout, UnknownLayout
from templora.models.runner import Row, Runner
from templora.runtime.metering import Meter

_NIBBLES = {4: vectors.INT4_BLOCKS, 5: vectors.INT5_BLOCKS}
_FORMATS = {torch.bfloat16: vectors.BFLOAT16, torch.float32: vectors.FLOAT32}
# Rotary tables are worked out for so many positions at once, and so many tables are kept.
_ROTARY_ROWS, _ROTARY_TABLES = 512, 16
# A product is cut into pieces of about so many bytes: small ones balance the work, large ones are read faster.
_PIECE_BYTES = 1 << 18
_PLANS = 64  # that are kept: texts come together in many ways


@dataclass(frozen=True)
class _Plan:
    """Where the weights of base and adapters lie, and how the work is cut; tables as in `kernels.tables`."""

    segments: np.ndarray
    pieces: np.ndarray
    products: np.ndarray
    adapters: np.ndarray
    scalings: np.ndarray
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
    most_rows = 4  # in one pass: more of them are no faster, since each has an adapter and a window of its own to read

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
        self._turns = self._layout.turns
        self._plans: dict[tuple[int, ...], _Plan] = {}
        self._watched: set[int] = set()  # ids of the routes that plans are of
        self._checked: weakref.WeakKeyDictionary[WindowCache, _Entries] = weakref.WeakKeyDictionary()
        self._team = thread_team.Team(most)
        self._workers = workers
        self._scales = np.array([layout.epsilon, layout.attention_scale], np.float32)
        self._dots = int(vectors.DOTS and self._format == vectors.BFLOAT16)
        self._outputs = model.head.out_features
        self._rows = 0
        self._t = self._scratch = np.zeros((0, 0), np.float32)
        self._found = np.zeros((0, 0, 0, 0), np.float32)
        self._room(1, 1, 1)

    def _room(self, rows: int, ranks: int, capacity: int) -> None:
        """Makes the numbers that a pass works on, if they have no room for so much yet."""
        a, size = self._layout, self._team.size
        width, more = a.heads * a.head_size, rows > self._rows
        widest = max(a.hidden, a.inner, width)
        if more:
            self._rows = rows

            def zeros(*shape: int) -> np.ndarray:
                return np.zeros(shape, np.float32)

            self._x, self._y = zeros(rows, a.hidden), zeros(rows, a.hidden)
            self._qkv, self._att = zeros(rows, width + 2 * a.groups * a.head_size), zeros(rows, width)
            self._gate_up, self._act = zeros(rows, 2 * a.inner), zeros(rows, a.inner)
            self._logits, self._normed = zeros(rows, self._outputs), zeros(size, rows, a.hidden)
            # The most that is needed of it is what two numbers in bf16 take.
            self._prepared = zeros(size, 4, rows * widest // 2 + 1)
        pieces = -(-capacity // decode_attention.KEYS)
        if more or self._found.shape[2] < pieces:
            self._found = np.zeros((self._rows, a.heads, pieces, a.head_size + 2), np.float32)
        if more or self._t.shape[1] < ranks:
            self._t = np.zeros((self._rows, ranks), np.float32)
        scratch = max(3 * a.head_size, a.heads // a.groups * decode_attention.KEYS, a.hidden, a.inner)
        if more or self._scratch.shape[1] < scratch:
            self._scratch = np.zeros((size, scratch), np.float32)

    @torch.no_grad()
    def __call__(self, rows: Sequence[Row]) -> list[torch.Tensor]:
        """fp32 logits [vocabulary] after each row's token, whose key and value are written behind what the row's cache
        holds; rows of one cache are tokens that follow each other. What comes of a row is to the bit what it would be
        alone.

        The caller counts the entries (`cache.advance`), as after a pass through the modules.

        Args:
            rows: as many as there are; more than `most_rows` are no faster than in several passes.
        """
        caches, routes = [row.cache for row in rows], [row.route for row in rows]
        plan, entries = self._plan(routes), [self._entries(cache) for cache in caches]
        # Rows of one cache are tokens that follow each other.
        places = np.array([(cache.length + caches[:i].count(cache), cache.capacity) for i, cache in enumerate(caches)])
        placed = list(zip(caches, places.tolist(), strict=True))
        for cache, (length, capacity) in placed:
            if not 0 <= length < capacity or cache.next_position < 0:
                raise ModelError(
                    f"the window's cache holds {length} of {capacity} entries: there is no room for a token"
                )
        self._room(len(rows), plan.ranks, int(places[:, 1].max()))
        self._x[: len(rows)] = self._embed(torch.tensor([row.token for row in rows])).float().numpy()
        # Fresh for each pass: a helper that is late with the last one must not meet this one's counters.
        sync = np.zeros((decode.PHASES * len(self._linears) + 1) * thread_team.STRIDE, np.int64)
        self._team.held = self._kept, [each.tensors for each in entries], routes
        self._team.run(
            decode.decode,
            sync,
            self._sizes(len(rows)),
            self._scales,
            plan.scalings,
            places,
            products.entries(),
            plan.products,
            plan.pieces,
            plan.segments,
            plan.adapters,
            self._norms,
            self._final_norm,
            self._has_norm,
            self._head_norms,
            np.stack([each.addresses for each in entries]),
            np.where(self._sliding > 0, np.maximum(0, places[:, :1] + 1 - self._sliding), 0),
            np.stack([self._rotary_row(cache.next_position + n - cache.length) for cache, (n, _) in placed]),
            self._kinds,
            self._x,
            self._t,
            self._qkv,
            self._found,
            self._att,
            self._y,
            self._gate_up,
            self._act,
            self._logits,
            self._normed,
            self._prepared,
            self._scratch,
            self._team.size,
            workers=self._workers(),
        )
        logits = torch.from_numpy(self._logits[: len(rows)].copy())
        return list(self._softcap * torch.tanh(logits / self._softcap) if self._softcap else logits)

    def state(self, row: int) -> torch.Tensor:
        """The last hidden state [hidden size] of a row of the last pass, fp32."""
        x = torch.from_numpy(self._x[row])
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

    def _sizes(self, rows: int) -> np.ndarray:
        a = self._layout
        sizes = [a.hidden, a.inner, a.heads, a.groups, a.head_size, len(a.layers), ACTIVATIONS.index(a.activation)]
        return np.array([*sizes, self._format, self._dots, rows])

    def _rotary_row(self, position: int) -> np.ndarray:
        """[kinds, 2 · head size] of one position."""
        table, row = divmod(position, _ROTARY_ROWS)
        if self._turns != self._layout.turns:  # a method has rewritten the model's frequencies
            self._turns = self._layout.turns
            self._rotary.clear()
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
            by_group = {16: vectors.INT8_HALVES, vectors.BLOCK: vectors.INT8_BLOCKS}
            kind = by_group.get(linear.group, vectors.INT8_ROWS) if linear.bits == 8 else _NIBBLES[linear.bits]
            minimum = 0 if linear.minimum is None else linear.minimum.data_ptr()
            return (kind, linear.codes.data_ptr(), linear.scale.data_ptr(), minimum, *shape)
        weight = linear.weight
        if not isinstance(linear, nn.Linear) or _FORMATS.get(weight.dtype) is None or not weight.is_contiguous():
            raise UnknownLayout
        self._kept.append(weight)
        return (_FORMATS[weight.dtype], weight.data_ptr(), 0, 0, *shape)

    def _plan(self, routes: Sequence[Route | None]) -> _Plan:
        key = tuple(map(id, routes))
        plan = self._plans.get(key)
        if plan is None:
            while len(self._plans) >= _PLANS:
                del self._plans[next(iter(self._plans))]
            plan = self._plans[key] = self._planned(routes)
            for route in routes:  # a plan holds addresses only, and goes when an adapter that it is of does
                if route is not None and id(route) not in self._watched:
                    self._watched.add(id(route))
                    weakref.finalize(route, _forget, self._plans, self._watched, id(route))
        return plan

    def _planned(self, routes: Sequence[Route | None]) -> _Plan:
        a = self._layout
        pairs: list[dict[int, Any]] = [{} for _ in routes]
        for of, route in zip(pairs, routes, strict=True):
            if route is not None:
                targets = zip(route.bank.layout.targets, route.pairs, strict=True)
                of.update((self._names[target.name], pair) for target, pair in targets)
        segments: list[tuple[int, ...]] = []
        pieces: list[tuple[int, int, int]] = []
        products: list[tuple[int, int]] = []
        adapters = np.zeros((len(routes), len(a.layers), len(a.layers[0].linears), 3), np.int64)
        ranks = [0] * len(routes)
        # Texts that have an adapter in common, such as tokens of one text, read it once.
        starts = [row for row in range(len(routes)) if not row or routes[row] is not routes[row - 1]]
        runs = [range(first, last) for first, last in zip(starts, [*starts[1:], len(routes)], strict=True)]

        def add(product: list[tuple[tuple[int, ...], int, int, int]]) -> None:
            """Adds a product: segments with the same input, each with its first output, and which texts it is for."""
            begin, rows = len(pieces), sum(segment[-1] for segment, *_ in product)
            read = sum(s[-1] * s[-2] * vectors.BLOCK_BYTES[s[0]] // vectors.BLOCK for s, *_ in product)
            step = -(-rows // (self._team.size * max(1, read // (self._team.size * _PIECE_BYTES))))
            for segment, *of in product:
                every = range(0, segment[-1], step)
                pieces.extend((len(segments), first, min(segment[-1], first + step)) for first in every)
                segments.append((*segment[:-2], *of))
            products.append((begin, len(pieces)))

        keys = a.heads * a.head_size
        outputs = (0, keys, keys + a.groups * a.head_size, 0, 0, a.inner, 0)
        for layer, (parts, linears) in enumerate(zip(a.layers, self._linears, strict=True)):
            for group in ((0, 1, 2), (3,), (4, 5), (6,)):
                product = [(linears[i], outputs[i], tables.ALL, 0) for i in group]
                for run, i in itertools.product(runs, group):
                    row = run.start
                    if (pair := pairs[row].get(id(parts.linears[i]))) is not None:
                        self._check_pair(pair, linears[i])
                        rank, columns = pair[0].shape
                        segment = (self._format, pair[0].data_ptr(), 0, 0, 0, columns, rank)
                        product.append((segment, ranks[row], row, len(run)))
                        adapters[row : run.stop, layer, i] = pair[1].data_ptr(), ranks[row], rank
                        ranks[row] += rank
                add(product)
        add([(self._head, 0, tables.ALL, 0)])
        scalings = np.array([route.scaling if route else 0.0 for route in routes], np.float32)
        return _Plan(np.array(segments), np.array(pieces), np.array(products), adapters, scalings, max(1, *ranks))

    def _check_pair(self, pair: tuple[torch.Tensor, torch.Tensor], linear: tuple[int, ...]) -> None:
        (rank, columns), b = pair[0].shape, pair[1]
        fits = (columns, tuple(b.shape)) == (linear[-2], (linear[-1], rank))
        if not fits or not all(t.is_contiguous() and _FORMATS.get(t.dtype) == self._format for t in pair):
            raise ModelError(f"an adapter of {tuple(b.shape)} by {rank, columns} does not fit its layer")


def _forget(plans: dict[tuple[int, ...], _Plan], watched: set[int], route: int) -> None:
    """Forgets the plans of an adapter that is gone: another may come to lie where it did."""
    watched.discard(route)
    for key in [key for key in plans if route in key]:
        del plans[key]


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
            step([Row(token, ours, None, step, Meter())])[0],
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
