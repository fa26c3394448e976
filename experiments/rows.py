#!/usr/bin/env python3
"""A spike: what a step for several texts at once could gain on the CPU.

    experiments/rows.py [--runs 40] [--threads 2] [--out results/rows.json]

The products of one decoding step of the embedded model's shape (30 layers, int4; the head, int8), random weights, for
1, 2, 4 and 8 texts, each with an adapter of rank 64 of its own. What only reads keys and values is left out: it is the
same for a text whether it has neighbours or not. Compared in turn, in one process:

    today    the package's kernels, one text after another
    late     a block's codes are multiplied with every text, then scaled, as the package does; adapters bf16
    late-8   the same, adapters in int8 blocks of 32
    fp32     base weights are scaled once a block, then multiplied with every text; adapters bf16
    fp32-8   the same, adapters in int8 blocks
    dot      bf16 dot products (AVX512-BF16): 4-bit codes are exact in bf16, texts are rounded to it; adapters bf16
    dot-8    the same, adapters in int8 blocks, widened to fp32

Sums are taken in a fixed order, so that a text has the same bits whatever stands beside it: checked before anything is
timed, for every number of texts, place and number of workers. Run it on a quiet machine.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llvmlite.binding
import numpy as np
import torch
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from templora.kernels import gemv as today, thread_team
from templora.kernels.gemv import BFLOAT16, BLOCK, INT4_BLOCKS, INT8_BLOCKS, lanes_at, spread, vector, widened
from templora.reports.run_report import describe_device, source_commit, write_json

LAYERS, HIDDEN, INNER, KEYS, VOCABULARY, RANK = 30, 576, 1536, 192, 49_152, 64
TEXTS = (1, 2, 4, 8)
LANES, GROUP = 16, 8
_F32, _F16 = ir.FloatType(), ir.HalfType()
_I8, _I16, _I32, _I64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))
# Nothing may be rearranged: neither summed in another order nor contracted where LLVM sees fit.
STRICT: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": False}
PART = STRICT | {"forceinline": True}
ROWS = {1: 4, 2: 4, 4: 4, 8: 2}  # of weights in a tile, by texts: 16 sums stay in registers
AHEAD = 2  # tiles that weights are asked for before they are used


def number(value: int) -> ir.Constant:
    return ir.Constant(_I64, value)


def constant(value: int, element: ir.Type = _I32) -> ir.Constant:
    return ir.Constant(vector(element), [value] * LANES)


def fma(b: Any, x: Any, y: Any, z: Any) -> Any:
    name = f"llvm.fma.v{x.type.count}f32" if isinstance(x.type, ir.VectorType) else "llvm.fma.f32"
    kind = ir.FunctionType(x.type, [x.type] * 3)
    return b.call(cgutils.get_or_insert_function(b.module, kind, name), [x, y, z])


def dot(b: Any, total: Any, x: Any, y: Any) -> Any:
    """total + the products of pairs of bf16 in each of 16 words."""
    word = vector(_I32)
    asm = ir.InlineAsm(ir.FunctionType(vector(_F32), [vector(_F32), word, word]), "vdpbf16ps $3, $2, $0", "=v,0,v,v")
    return b.call(asm, [total, x, y])


def tree(b: Any, x: Any) -> Any:
    """The sum of all lanes, always in the same order."""
    for half in (n for n in (8, 4, 2, 1) if n < x.type.count):
        parts = [
            b.shuffle_vector(x, ir.Constant(x.type, ir.Undefined), ir.Constant(vector(_I32, half), list(lanes)))
            for lanes in (range(half), range(half, 2 * half))
        ]
        x = b.fadd(*parts)
    return b.extract_element(x, ir.Constant(_I32, 0))


def prefetch(b: Any, address: Any, at: Any) -> None:
    pointer = _I8.as_pointer()
    kind = ir.FunctionType(ir.VoidType(), [pointer, _I32, _I32, _I32])
    call = cgutils.get_or_insert_function(b.module, kind, "llvm.prefetch.p0")
    b.call(call, [b.inttoptr(b.add(address, at), pointer), *(ir.Constant(_I32, n) for n in (0, 3, 1))])


def words(b: Any, codes: Any, block: Any) -> Any:
    """The 16 bytes of an int4 block, each a word."""
    return b.zext(lanes_at(b, codes, _I8, b.mul(block, number(LANES)), 1), vector(_I32))


def wide(b: Any, format: int, codes: Any, block: Any) -> list[Any]:
    """The 32 codes of a block as two vectors of floats."""
    if format == INT4_BLOCKS:
        pair = words(b, codes, block)
        return [b.sitofp(half, vector(_F32)) for half in (b.and_(pair, constant(15)), b.lshr(pair, constant(4)))]
    starts = [b.mul(block, number(BLOCK)), b.add(b.mul(block, number(BLOCK)), number(LANES))]
    if format == BFLOAT16:
        found = [b.shl(b.zext(lanes_at(b, codes, _I16, at, 2), vector(_I32)), constant(16)) for at in starts]
        return [b.bitcast(each, vector(_F32)) for each in found]
    return [b.sitofp(b.sext(lanes_at(b, codes, _I8, at, 1), vector(_I32)), vector(_F32)) for at in starts]


def kernel(format: int, texts: int, rows: int, dots: bool, late: bool = False) -> Callable[..., None]:
    """A procedure for `rows` rows of weights from `row` on and `texts` texts: y[text · stride + row] = their product.

    x [texts, 32 · blocks] is fp32. With `dots` it is bf16: in pairs (k, k + 16) of each block for int4, as it lies for
    weights in bf16; and `sums` [texts, blocks] has the sum of each block's numbers.
    """
    scaled = format in (INT4_BLOCKS, INT8_BLOCKS)

    @intrinsic
    def times(
        typing: Any, codes: Any, scale: Any, minimum: Any, row: Any, blocks: Any, x: Any, sums: Any, y: Any, stride: Any
    ) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            b = builder
            codes, scale, minimum, row, blocks, x, sums, y, stride = args
            zero = ir.Constant(vector(_F32), None)
            totals = [[cgutils.alloca_once_value(b, zero) for _ in range(texts)] for _ in range(rows)]
            narrow = ir.Constant(vector(_F32, GROUP), None)
            offsets = [[cgutils.alloca_once_value(b, narrow) for _ in range(texts)] for _ in range(rows)]
            singles = [
                [cgutils.alloca_once_value(b, ir.Constant(_F32, 0.0)) for _ in range(texts)] for _ in range(rows)
            ]
            firsts = [b.mul(b.add(row, number(i)), blocks) for i in range(rows)]
            xs = [b.mul(blocks, number(t)) for t in range(texts)]  # blocks of x before each text's

            def add(column: Any, scales: list[Any], leasts: list[Any]) -> None:
                """Block `column` of every row; its scale and minimum are spread over the lanes already."""
                if dots:
                    inputs = [[lanes_at(b, x, _I32, b.mul(b.add(at, column), number(LANES)), 4)] for at in xs]
                else:
                    starts = [b.mul(b.add(at, column), number(BLOCK)) for at in xs]
                    inputs = [[lanes_at(b, x, _F32, b.add(at, number(n)), 4) for n in (0, LANES)] for at in starts]
                for i in range(rows):
                    block = b.add(firsts[i], column)
                    ahead = b.add(block, b.mul(blocks, number(AHEAD * rows)))
                    prefetch(b, codes, b.mul(ahead, number(today.BLOCK_BYTES[format])))
                    if dots and format == INT4_BLOCKS:
                        # A code c under this exponent is the bf16 128 + c; what is too much goes with the minimum.
                        pair = words(b, codes, block)
                        pair = b.or_(pair, b.shl(pair, constant(12)))
                        pair = b.or_(b.and_(pair, constant(0x000F000F)), constant(0x43004300))
                        for t in range(texts):
                            part = dot(b, zero, pair, inputs[t][0])
                            b.store(fma(b, part, scales[i], b.load(totals[i][t])), totals[i][t])
                        continue
                    if dots:
                        pair = lanes_at(b, codes, _I32, b.mul(block, number(LANES)), 4)
                        for t in range(texts):
                            b.store(dot(b, b.load(totals[i][t]), pair, inputs[t][0]), totals[i][t])
                        continue
                    halves = wide(b, format, codes, block)
                    if late and scaled:
                        for t in range(texts):
                            part = fma(b, halves[1], inputs[t][1], b.fmul(halves[0], inputs[t][0]))
                            b.store(fma(b, part, scales[i], b.load(totals[i][t])), totals[i][t])
                        continue
                    if format == INT4_BLOCKS:
                        halves = [fma(b, half, scales[i], leasts[i]) for half in halves]
                    elif format == INT8_BLOCKS:
                        halves = [b.fmul(half, scales[i]) for half in halves]
                    for t in range(texts):
                        total = b.load(totals[i][t])
                        for half, given in zip(halves, inputs[t], strict=True):
                            total = fma(b, half, given, total)
                        b.store(total, totals[i][t])

            def some(column: Any, width: int) -> None:
                """`width` blocks from `column` on, whose scales are widened together."""
                numbers = [widened(b, scale, _F16, b.add(at, column), width) for at in firsts] if scaled else []
                least = format == INT4_BLOCKS
                leasts = [widened(b, minimum, _F16, b.add(at, column), width) for at in firsts] if least else []
                for n in range(width):
                    lanes = [spread(b, each, n) for each in numbers]
                    add(
                        b.add(column, number(n)), lanes, [] if dots or late else [spread(b, each, n) for each in leasts]
                    )
                for i in range(rows if least and (dots or late) else 0):
                    much = ir.Constant(_F32, -128.0)
                    if width > 1:
                        much = ir.Constant(vector(_F32, width), [-128.0] * width)
                    less = fma(b, numbers[i], much, leasts[i]) if dots else leasts[i]
                    for t in range(texts):
                        into = (offsets if width > 1 else singles)[i][t]
                        given = widened(b, sums, _F32, b.add(xs[t], column), width)
                        b.store(fma(b, less, given, b.load(into)), into)

            groups = b.udiv(blocks, number(GROUP))
            with cgutils.for_range(b, groups) as loop:
                some(b.mul(loop.index, number(GROUP)), GROUP)
            single = b.mul(groups, number(GROUP))
            with cgutils.for_range(b, b.sub(blocks, single)) as loop:
                some(b.add(single, loop.index), 1)
            for i in range(rows):
                for t in range(texts):
                    total = tree(b, b.load(totals[i][t]))
                    if (dots or late) and format == INT4_BLOCKS:
                        total = b.fadd(total, b.fadd(tree(b, b.load(offsets[i][t])), b.load(singles[i][t])))
                    at = b.add(b.mul(stride, number(t)), b.add(row, number(i)))
                    b.store(total, b.gep(b.inttoptr(y, _F32.as_pointer()), [at]))
            return context.get_dummy_value()

        return types.void(*[types.int64] * 9), generate

    return times


def all_rows(format: int, texts: int, dots: bool, late: bool = False) -> Callable[..., None]:
    """The rows [first, last) of a matrix, in tiles."""
    size = ROWS[texts]
    tile, one = kernel(format, texts, size, dots, late), kernel(format, texts, 1, dots, late)

    @njit(**PART)
    def run(codes, scale, minimum, first, last, blocks, x, sums, y, stride):
        row = first
        while row + size <= last:
            tile(codes, scale, minimum, row, blocks, x, sums, y, stride)
            row += size
        while row < last:
            one(codes, scale, minimum, row, blocks, x, sums, y, stride)
            row += 1

    return run


# Columns of a piece: some rows of a matrix, times one text or all. Addresses of what each worker makes for itself are
# those of the first worker's; the others' lie OWN bytes apart.
FORMAT, CODES, SCALE, MINIMUM, FIRST, LAST, BLOCKS, X, XB, SUMS, Y, STRIDE, ALL = range(13)
OWN = 1 << 20


def nearest(b: Any, x: Any) -> Any:
    """The bits of 16 floats, with the nearest bf16 in the upper half; ties to even."""
    bits = b.bitcast(x, vector(_I32))
    return b.add(bits, b.add(b.and_(b.lshr(bits, constant(16)), constant(1)), constant(0x7FFF)))


@intrinsic
def to_bf16(typing: Any, source: Any, pairs: Any, lying: Any, sums: Any, blocks: Any) -> Any:
    """Rounds blocks of fp32 to bf16: as pairs (k, k + 16) in a word, and as they lie; and adds up what is in each."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        b = builder
        source, pairs, lying, sums, blocks = args

        def store(words: Any, to: Any, at: Any) -> None:
            pointer = b.gep(b.inttoptr(to, _I32.as_pointer()), [at])
            b.store(words, b.bitcast(pointer, vector(_I32).as_pointer()), align=4)

        with cgutils.for_range(b, blocks) as loop:
            begin, at = b.mul(loop.index, number(BLOCK)), b.mul(loop.index, number(LANES))
            low, high = (nearest(b, lanes_at(b, source, _F32, b.add(begin, number(n)), 4)) for n in (0, LANES))
            upper = constant(0xFFFF0000)
            store(b.or_(b.lshr(low, constant(16)), b.and_(high, upper)), pairs, at)
            halves = [b.trunc(b.lshr(half, constant(16)), vector(_I16)) for half in (low, high)]
            order = ir.Constant(vector(_I32, 2 * LANES), list(range(2 * LANES)))
            store(b.bitcast(b.shuffle_vector(*halves, order), vector(_I32)), lying, at)
            total = tree(b, b.fadd(*(b.bitcast(b.and_(half, upper), vector(_F32)) for half in (low, high))))
            b.store(total, b.gep(b.inttoptr(sums, _F32.as_pointer()), [loop.index]))
        return context.get_dummy_value()

    return types.void(*[types.int64] * 5), generate


def rows_step(texts: int, dots: bool, late: bool) -> Callable[..., None]:
    """All products of a step for so many texts, run by every worker of a team."""
    base4, base8 = all_rows(INT4_BLOCKS, texts, dots, late), all_rows(INT8_BLOCKS, texts, False, late)
    own16, own8 = all_rows(BFLOAT16, 1, dots), all_rows(INT8_BLOCKS, 1, False, late)

    @njit(**STRICT)
    def run(worker, sync, phases, pieces, inputs):
        for phase in range(len(phases)):
            first, count = phases[phase, 0], phases[phase, 1] - phases[phase, 0]
            piece = thread_team.claim(sync, phase, count)
            if (dots or late) and piece < count:
                for i in range(phases[phase, 2], phases[phase, 3]):
                    n, own = inputs[i], worker * OWN
                    to_bf16(n[0], n[1] + own, n[2] + own, n[3] + own, n[4])
            while piece < count:
                p = pieces[first + piece]
                x = p[XB] + worker * OWN if dots and p[FORMAT] != INT8_BLOCKS else p[X]
                sums = p[SUMS] + worker * OWN
                at = p[CODES], p[SCALE], p[MINIMUM], p[FIRST], p[LAST], p[BLOCKS]
                if p[ALL] and p[FORMAT] == INT4_BLOCKS:
                    base4(*at, x, sums, p[Y], p[STRIDE])
                elif p[ALL]:
                    base8(*at, x, sums, p[Y], p[STRIDE])
                elif p[FORMAT] == BFLOAT16:
                    own16(*at, x, sums, p[Y], p[STRIDE])
                else:
                    own8(*at, x, sums, p[Y], p[STRIDE])
                thread_team.finish(sync, phase)
                piece = thread_team.claim(sync, phase, count)
            thread_team.wait(sync, phase, count)

    return run


@njit(**today.FAST | {"cache": False})
def today_step(worker, sync, phases, pieces, inputs, x, sums, y):
    """The same for one text, by the package's kernels. Addresses are places in `x` and `y` here."""
    for phase in range(len(phases)):
        first, count = phases[phase, 0], phases[phase, 1] - phases[phase, 0]
        piece = thread_team.claim(sync, phase, count)
        own = sums[worker]
        if piece < count:
            for i in range(phases[phase, 2], phases[phase, 3]):
                n = inputs[i]
                today.block_sums(x[n[0] :], n[4] * BLOCK, own)
        while piece < count:
            p = pieces[first + piece]
            n = p[BLOCKS] * BLOCK
            given = x[p[X] : p[X] + n]
            today.gemv(p[FORMAT], p[CODES], p[SCALE], p[MINIMUM], p[FIRST], p[LAST], n, given, own, y, p[Y] + p[FIRST])
            thread_team.finish(sync, phase)
            piece = thread_team.claim(sync, phase, count)
        thread_team.wait(sync, phase, count)


class Matrix:
    """Random weights in a format."""

    def __init__(self, rng: np.random.Generator, format: int, rows: int, columns: int) -> None:
        self.format, self.rows, self.columns, self.blocks = format, rows, columns, columns // BLOCK
        self.codes = rng.integers(0, 256, rows * self.blocks * today.BLOCK_BYTES[format], dtype=np.uint8)
        many = rows * self.blocks
        if format == BFLOAT16:
            numbers = rng.standard_normal(rows * columns, dtype=np.float32) * np.float32(0.02)
            self.codes, many = (numbers.view(np.uint32) >> 16).astype(np.uint16), 0
        self.scale = (rng.random(many, dtype=np.float32) * 0.01).astype(np.float16)
        self.minimum = np.full(many if format == INT4_BLOCKS else 0, -0.05, np.float16)
        self.bytes = self.codes.nbytes + self.scale.nbytes + self.minimum.nbytes


class Model:
    """The base of the step, and adapters in both formats, all random; and what texts bring."""

    def __init__(self, rng: np.random.Generator, texts: int) -> None:
        shapes = [(HIDDEN + 2 * KEYS, HIDDEN), (HIDDEN, HIDDEN), (2 * INNER, HIDDEN), (HIDDEN, INNER)]
        self.base = [[Matrix(rng, INT4_BLOCKS, *shape) for shape in shapes] for _ in range(LAYERS)]
        self.head = Matrix(rng, INT8_BLOCKS, VOCABULARY, HIDDEN)
        # Rows of the layers that a product is made of: each has an A and a B.
        parts = [(HIDDEN, KEYS, KEYS), (HIDDEN,), (INNER, INNER), (HIDDEN,)]

        def adapter(format: int) -> list[list[tuple[list[Matrix], list[Matrix]]]]:
            return [
                [
                    (
                        [Matrix(rng, format, RANK, columns) for _ in part],
                        [Matrix(rng, format, rows, RANK) for rows in part],
                    )
                    for part, (_, columns) in zip(parts, shapes, strict=True)
                ]
                for _ in range(LAYERS)
            ]

        self.adapters = {format: [adapter(format) for _ in range(texts)] for format in (BFLOAT16, INT8_BLOCKS)}
        self.x = rng.standard_normal((texts, INNER), dtype=np.float32)
        self.t = rng.standard_normal((texts, 3, RANK), dtype=np.float32)


class Plan:
    """What one step does for some texts: tables, and the memory that they name.

    Args:
        model: whose weights.
        texts: which of its texts and adapters.
        adapters: their format.
        size: of the team.
        places: name numbers by their place in `numbers`, as the package's kernels want it, in place of addresses.
    """

    def __init__(self, model: Model, texts: tuple[int, ...], adapters: int, size: int, places: bool = False) -> None:
        self.texts, self.size, self.bytes = texts, size, 0
        outputs = 3 * RANK + 2 * INNER  # of an adapter, at most
        self.numbers = np.zeros(len(texts) * (HIDDEN + INNER + 3 * RANK + 2 * INNER + outputs + VOCABULARY), np.float32)
        self._own = np.zeros(size * OWN, np.uint8)
        self._used, self._places = 0, places
        self._phases: list[tuple[int, ...]] = []
        self._pieces: list[list[int]] = []
        self._inputs: list[list[int]] = []
        wide = {n: self._put(model.x[texts, :n]) for n in (HIDDEN, INNER)}
        ranks = self._put(model.t[texts, :])
        base, down, up, head = (self._take(n) for n in (2 * INNER, 3 * RANK, 2 * INNER, VOCABULARY))
        self.outputs = {
            "base": (base, 2 * INNER),
            "down": (down, 3 * RANK),
            "up": (up, 2 * INNER),
            "head": (head, VOCABULARY),
        }
        for layer in range(LAYERS):
            for product, matrix in enumerate(model.base[layer]):
                own = [model.adapters[adapters][text][layer][product] for text in texts]
                columns = matrix.columns
                jobs = [(matrix, wide[columns], base, 2 * INNER, 1)]
                for place, (a, _) in enumerate(own):
                    at = [down + place * 3 * RANK + n * RANK for n in range(len(a))]
                    jobs += [(m, wide[columns] + place * columns, y, 0, 0) for m, y in zip(a, at, strict=True)]
                self._phase(jobs, wide[columns], len(texts) * columns)
                jobs = []
                for place, (_, b) in enumerate(own):
                    firsts = np.cumsum([0, *(m.rows for m in b)])
                    for n, m in enumerate(b):
                        y = up + place * 2 * INNER + int(firsts[n])
                        jobs.append((m, ranks + (place * 3 + n) * RANK, y, 0, 0))
                self._phase(jobs, ranks, len(texts) * 3 * RANK)
        self._phase([(model.head, wide[HIDDEN], head, VOCABULARY, 1)], wide[HIDDEN], len(texts) * HIDDEN)
        tables = (self._phases, self._pieces, self._inputs)
        self.tables = tuple(np.array(table, np.int64) for table in tables)
        self.sums = np.zeros((size, INNER // BLOCK + 1), np.float32)

    def _take(self, numbers: int) -> int:
        """The place of so many numbers a text."""
        begin, self._used = self._used, self._used + numbers * len(self.texts)
        return begin

    def _put(self, given: np.ndarray) -> int:
        begin = self._take(given[0].size)
        self.numbers[begin : begin + given.size] = given.ravel()
        return begin

    def _at(self, place: int) -> int:
        return place if self._places else self.numbers.ctypes.data + 4 * place

    def _phase(self, jobs: list[tuple[Matrix, int, int, int, int]], source: int, many: int) -> None:
        """A phase of (matrix, place of x, place of y, its stride, whether it is of all texts), all of whose x lie in
        `many` numbers from `source` on."""
        begin, given = len(self._pieces), len(self._inputs)
        read, rows = sum(job[0].bytes for job in jobs), sum(job[0].rows for job in jobs)
        self.bytes += read
        step = -(-rows // (self.size * max(1, read // (self.size << 18))))
        pairs = self._own.ctypes.data
        lying, sums = pairs + OWN // 4, pairs + OWN // 2
        self._inputs.append([self._at(source), pairs, lying, sums, many // BLOCK])
        for m, x, y, stride, every in jobs:
            weights = [m.format, *(part.ctypes.data for part in (m.codes, m.scale, m.minimum))]
            xb = (pairs if m.format == INT4_BLOCKS else lying) + 2 * (x - source)
            for first in range(0, m.rows, step):
                last = min(m.rows, first + step)
                row = [*weights, first, last, m.blocks, self._at(x), xb, sums, self._at(y), stride, every]
                self._pieces.append(row)
        self._phases.append((begin, len(self._pieces), given, len(self._inputs)))

    def groups(self, text: int) -> list[np.ndarray]:
        """The outputs of one of its texts: the last layer's, and the head's."""
        place = self.texts.index(text)
        starts = [(begin + place * each, each) for begin, each in self.outputs.values()]
        return [self.numbers[begin : begin + each].copy() for begin, each in starts]

    def found(self, text: int) -> np.ndarray:
        return np.concatenate(self.groups(text))


class Way:
    """A way to take a step for some texts."""

    def __init__(self, name: str, model: Model, texts: tuple[int, ...], team: thread_team.Team) -> None:
        self._team, self._today = team, name == "today"
        format = INT8_BLOCKS if name.endswith("-8") else BFLOAT16
        together = [(text,) for text in texts] if self._today else [texts]
        self.plans = [Plan(model, some, format, team.size, self._today) for some in together]
        self._kernel = (
            today_step if self._today else rows_step(len(texts), name.startswith("dot"), name.startswith("late"))
        )

    def run(self, workers: int | None = None) -> None:
        for plan in self.plans:
            sync = np.zeros(len(plan.tables[0]) * thread_team.STRIDE, np.int64)
            more = (plan.numbers, plan.sums, plan.numbers) if self._today else ()
            self._team.run(self._kernel, sync, *plan.tables, *more, workers=workers)

    def found(self, text: int) -> np.ndarray:
        return next(plan for plan in self.plans if text in plan.texts).found(text)


NAMES = ("today", "late", "late-8", "fp32", "fp32-8", "dot", "dot-8")


def check(ways: dict[str, dict[int, Way]], model: Model, team: thread_team.Team) -> dict[str, float]:
    """Asserts that a text's bits are its own; how far each way is from the package's kernels, as a share."""
    apart = {}
    for name, by_texts in ways.items():
        for way in by_texts.values():
            way.run()
        for texts, way in by_texts.items():
            for text in range(texts):
                alone = by_texts[1].found(0) if text == 0 else by_texts[max(by_texts)].found(text)
                assert np.array_equal(way.found(text), alone), (name, texts, text)
        if name != "today":
            moved = Way(name, model, (3, 0), team)
            moved.run()
            assert np.array_equal(moved.found(0), by_texts[1].found(0)), (name, "place")
            before = by_texts[4].found(3)
            assert np.array_equal(moved.found(3), before), (name, "neighbour")
            by_texts[4].run(workers=1)
            assert np.array_equal(by_texts[4].found(3), before), (name, "workers")
        if not name.endswith("-8"):
            ours, theirs = by_texts[1].plans[0].groups(0), ways["today"][1].plans[0].groups(0)
            apart[name] = max(
                float(np.linalg.norm(one - other) / np.linalg.norm(other))
                for one, other in zip(ours, theirs, strict=True)
            )
    return apart


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=40)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--ways", nargs="*", default=NAMES, choices=NAMES)
    parser.add_argument("--check", action="store_true", help="only check")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent.parent / "results" / "rows.json")
    a = parser.parse_args()
    llvmlite.binding.initialize_native_asmparser()
    model, team = Model(np.random.default_rng(0), max(TEXTS)), thread_team.Team(a.threads)
    ways = {
        name: {texts: Way(name, model, tuple(range(texts)), team) for texts in TEXTS} for name in ("today", *a.ways)
    }
    apart = check(ways, model, team)
    print("bits are each text's own; apart from the package's kernels by", apart, flush=True)
    if a.check:
        return
    seconds: dict[tuple[str, int], list[float]] = {(name, texts): [] for name in ways for texts in TEXTS}
    for turn in range(a.runs + 1):
        for at, found in seconds.items():
            began = time.perf_counter()
            ways[at[0]][at[1]].run()
            if turn:
                found.append(time.perf_counter() - began)
    base = statistics.median(seconds["today", 1])
    rows = [
        {
            "way": name,
            "texts": texts,
            "milliseconds": 1e3 * statistics.median(found),
            # Of the tokens a second of today's kernels, in the same turns.
            "ratio": statistics.median(
                texts * one / each for one, each in zip(seconds["today", 1], found, strict=True)
            ),
            "megabytes": sum(plan.bytes for plan in ways[name][texts].plans) / 1e6,
        }
        for (name, texts), found in seconds.items()
    ]
    print("| way | " + " | ".join(f"{texts} texts" for texts in TEXTS) + " |\n|---|" + "---:|" * len(TEXTS))
    for name in ways:
        cells = [f"{row['milliseconds']:.2f} ms, {row['ratio']:.2f} ×" for row in rows if row["way"] == name]
        print(f"| {name} | {' | '.join(cells)} |")
    device = describe_device(torch.device("cpu"), a.threads)
    document = {"device": device, "commit": source_commit(), "runs": a.runs, "apart": apart, "rows": rows}
    write_json(a.out, document | {"today_milliseconds": 1e3 * base})


if __name__ == "__main__":
    main()
