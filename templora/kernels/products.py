"""Rows of a weight matrix times one text or several, in every format that weights have (`kernels.vectors`).

    weights ─► a block of 32 is widened in registers ─► times each of up to four texts ─► sums [rows, texts]

Such products are bound by the bytes they read, so texts that are decoded together read the weights once. Every sum is
taken in one order, written out here: a text's bits are the same alone, beside others, at whatever place among them, and
however rows are shared out. So nothing here may be compiled with LOOSE.

Where a CPU can, quantised weights are multiplied with a text in whole numbers (`kernels.digits`). With `dots` weights
in bf16 are multiplied with a text rounded to bf16, 32 products being one instruction (AVX512-BF16).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from llvmlite import ir
from numba import cfunc, njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from templora.kernels import digits
from templora.kernels.bf16 import bf16_to_f32
from templora.kernels.pointers import read_float32, read_int8, read_uint16, write_float32
from templora.kernels.vectors import (
    BFLOAT16,
    BLOCK,
    BLOCK_BYTES,
    BYTES,
    DOTS,
    F16,
    F32,
    FLOAT32,
    I8,
    I16,
    I32,
    INT4_BLOCKS,
    INT5_BLOCKS,
    INT8_BLOCKS,
    INT8_HALVES,
    INT8_ROWS,
    LANES,
    NIBBLES,
    VNNI,
    dot,
    fma,
    four_totals,
    integer,
    lanes_at,
    nibbles,
    prefetch,
    same,
    spread,
    store,
    total,
    vector,
    widened,
)

# Said, not left out: what is left out is as its caller has it.
STRICT: dict[str, Any] = {"error_model": "numpy", "fastmath": False}
# What `entries` call is compiled into them: names of functions are numbered as they come, and those of two processes,
# each of which has compiled another entry, would be taken for each other.
_INNER = STRICT | {"forceinline": True}

PREPARE, TIMES, TIMES_FLOATS, TRANSPOSED = range(4)  # places in `entries`
SUMS = 16  # bytes of sums, of a block of x
_GROUP = 8  # blocks whose scales are read and widened together
_TILE = 4  # rows, and texts, that are worked out at once: their sums stay in registers
# One row after another is read faster than several side by side, but reads x for each: not if that is more than this.
_AT_HAND = 1 << 14
_STRIP_AHEAD = 16  # rows
_FEW = 4  # blocks of a row: its sum takes longer than its products, if rows are worked out alone
_NEAR = 16  # rows whose weights stay in the nearest cache while one text after another is multiplied with them
_AHEAD = 2  # tiles that weights are asked for before they are used: with several rows the hardware alone is late


def _halves(b: Any, format: int, codes: Any, block: Any) -> list[Any]:
    """The 32 codes of a block as two vectors of floats."""
    if format in NIBBLES:
        return [b.uitofp(b.zext(half, vector(I32)), vector(F32)) for half in nibbles(b, format, codes, block)]
    first = b.mul(block, integer(BLOCK))
    starts = [first, b.add(first, integer(LANES))]
    if format == FLOAT32:
        return [lanes_at(b, codes, F32, at, 4) for at in starts]
    if format == BFLOAT16:
        words = [b.shl(b.zext(lanes_at(b, codes, I16, at, 2), vector(I32)), same(vector(I32), 16)) for at in starts]
        return [b.bitcast(word, vector(F32)) for word in words]
    return [b.sitofp(b.sext(lanes_at(b, codes, I8, at, 1), vector(I32)), vector(F32)) for at in starts]


def _tile(format: int, rows: int, texts: int, dots: bool) -> Callable[..., None]:
    """A procedure for `rows` rows from `row` on and `texts` texts: y[text · stride + i] = row + i of the product.

    Written in LLVM's own terms: numba leaves vectorising to loops that it recognises, and a loop over lanes inside one
    over blocks is not among them. All arguments are int64; x, sums and y are addresses, x of fp32 or, with `dots`,
    bf16.
    """
    halves, least = format == INT8_HALVES, format in NIBBLES
    scaled = halves or least or format == INT8_BLOCKS

    @intrinsic
    def tile(
        typing: Any, codes: Any, scale: Any, minimum: Any, row: Any, blocks: Any, x: Any, sums: Any, y: Any, stride: Any
    ) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            b = builder
            codes, scale, minimum, row, blocks, x, sums, y, stride = args

            def sums_of(kind: ir.Type) -> list[list[Any]]:
                zero = ir.Constant(kind, None if isinstance(kind, ir.VectorType) else 0.0)
                return [[cgutils.alloca_once_value(b, zero) for _ in range(texts)] for _ in range(rows)]

            totals, offsets = (sums_of(vector(F32, n)) for n in (LANES, _GROUP))
            singles = sums_of(F32)
            firsts = [b.mul(b.add(row, integer(i)), blocks) for i in range(rows)]  # blocks of each row
            before = [b.mul(blocks, integer(t)) for t in range(texts)]  # blocks of x before each text's

            def add(column: Any, scales: list[list[Any]]) -> None:
                """Block `column` of every row; scales, one or two of a block, are spread over the lanes already."""
                if dots:
                    given = [[lanes_at(b, x, I32, b.mul(b.add(t, column), integer(LANES)), 4)] for t in before]
                else:
                    starts = [b.mul(b.add(t, column), integer(BLOCK)) for t in before]
                    given = [[lanes_at(b, x, F32, b.add(at, integer(n)), 4) for n in (0, LANES)] for at in starts]
                for i in range(rows):
                    block = b.add(firsts[i], column)
                    ahead = b.add(block, b.mul(blocks, integer(_AHEAD * rows)))
                    prefetch(b, codes, b.mul(ahead, integer(BLOCK_BYTES[format])))
                    if dots:
                        word = lanes_at(b, codes, I32, b.mul(block, integer(LANES)), 2)
                    else:
                        weights = _halves(b, format, codes, block)
                    for t in range(texts):
                        so_far = b.load(totals[i][t])
                        into = ir.Constant(vector(F32), None) if scaled else so_far
                        if halves:
                            for n in (0, 1):
                                so_far = fma(b, b.fmul(weights[n], given[t][n]), scales[i][n], so_far)
                            b.store(so_far, totals[i][t])
                            continue
                        if dots:
                            part = dot(b, into, word, given[t][0])
                        elif scaled:
                            part = fma(b, weights[1], given[t][1], b.fmul(weights[0], given[t][0]))
                        else:
                            part = fma(b, weights[1], given[t][1], fma(b, weights[0], given[t][0], into))
                        b.store(fma(b, part, scales[i][0], so_far) if scaled else part, totals[i][t])

            def some(column: Any, width: int) -> None:
                """`width` blocks from `column` on, whose scales and minimums are widened together."""
                each = 2 if halves else 1
                places = [b.mul(b.add(at, column), integer(each)) for at in firsts] if scaled else []
                numbers = [widened(b, scale, F16, at, each * width) for at in places]
                for n in range(width):
                    of = range(each * n, each * n + each)
                    add(b.add(column, integer(n)), [[spread(b, row, lane) for lane in of] for row in numbers])
                for i in range(rows if least else 0):
                    less = widened(b, minimum, F16, b.add(firsts[i], column), width)
                    for t in range(texts):
                        into = (offsets if width > 1 else singles)[i][t]
                        given = widened(b, sums, F32, b.add(b.mul(before[t], integer(4)), column), width)
                        b.store(fma(b, less, given, b.load(into)), into)

            done = integer(0)  # blocks
            for width in (*((_GROUP,) if scaled else ()), 1):
                begin, times = done, b.udiv(b.sub(blocks, done), integer(width))
                with cgutils.for_range(b, times) as loop:
                    some(b.add(begin, b.mul(loop.index, integer(width))), width)
                done = b.add(begin, b.mul(times, integer(width)))
            if rows == 4 and not scaled and format != INT8_ROWS:
                for t in range(texts):
                    found = four_totals(b, [b.load(totals[i][t]) for i in range(rows)])
                    store(b, found, y, F32, b.mul(stride, integer(t)))
                return context.get_dummy_value()
            for i in range(rows):
                for t in range(texts):
                    more = [b.load(each[i][t]) for each in (offsets, singles)] if least else []
                    found = total(b, b.load(totals[i][t]), more)
                    if format == INT8_ROWS:
                        found = b.fmul(found, widened(b, scale, F32, b.add(row, integer(i)), 1))
                    store(b, found, y, F32, b.add(b.mul(stride, integer(t)), integer(i)))
            return context.get_dummy_value()

        return types.void(*[types.int64] * 9), generate

    return tile


def _all_rows(format: int, texts: int, dots: bool) -> Callable[..., None]:
    size = 2 if dots else 4  # bytes of a number of x
    many = 2 if format in (*NIBBLES, *digits.FORMATS) else _TILE
    alone, few = (_AT_HAND // (size * texts * BLOCK), _FEW) if many == _TILE else (0, 0)  # blocks of x
    if format in digits.FORMATS:
        tile, one = (digits.tile(format, rows, texts) for rows in (many, 1))
    else:
        tile, one = (_tile(format, rows, texts, dots) for rows in (many, 1))

    @njit(**_INNER)
    def all_rows(codes, scale, minimum, first, last, blocks, x, sums, y, stride):
        row = first
        if few < blocks <= alone or last - first < many:
            while row < last:
                one(codes, scale, minimum, row, blocks, x, sums, y + 4 * (row - first), stride)
                row += 1
        while row < last:
            row = min(row, last - many)  # some rows are worked out twice, to the same bits
            tile(codes, scale, minimum, row, blocks, x, sums, y + 4 * (row - first), stride)
            row += many

    return all_rows


def _all_texts(format: int, dots: bool = False, together: bool = True) -> Callable[..., None]:
    """Four texts at once, then two, then one: the weights of a few rows at a time, so that they are read once."""
    one = _all_rows(format, 1, dots)
    four, two = (_all_rows(format, texts, dots) if together else one for texts in (4, 2))
    size = 2 if dots or format in digits.FORMATS else 4

    @njit(**_INNER)
    def all_texts(codes, scale, minimum, first, last, n, x, sums, texts, y, stride):
        blocks, row = n // BLOCK, first
        while row < last:
            end = row + _NEAR if row + _NEAR + _TILE <= last else last  # fewer rows than a tile are slow
            text = 0
            while text < texts:
                xs, ss = x + size * n * text, sums + SUMS * blocks * text
                to = y + 4 * (stride * text + row - first)
                if together and text + 4 <= texts:
                    four(codes, scale, minimum, row, end, blocks, xs, ss, to, stride)
                    text += 4
                elif together and text + 2 <= texts:
                    two(codes, scale, minimum, row, end, blocks, xs, ss, to, stride)
                    text += 2
                else:
                    one(codes, scale, minimum, row, end, blocks, xs, ss, to, stride)
                    text += 1
            row = end

    return all_texts


_float32, _int8_rows = _all_texts(FLOAT32, together=False), _all_texts(INT8_ROWS, together=False)
_bfloat16, _bfloat16_dots = _all_texts(BFLOAT16), _all_texts(BFLOAT16, DOTS)
_int8_blocks, _int8_halves = _all_texts(INT8_BLOCKS), _all_texts(INT8_HALVES)
_int4_blocks, _int5_blocks = _all_texts(INT4_BLOCKS), _all_texts(INT5_BLOCKS)


@njit(**_INNER)
def _odd_rows(format, codes, scale, first, last, n, x, texts, y, stride):
    """Rows whose length is no multiple of 32, which no format in blocks has."""
    for row in range(first, last):
        for text in range(texts):
            found = np.float32(0)
            for i in range(n):
                if format == BFLOAT16:
                    code = bf16_to_f32(read_uint16(codes, row * n + i))
                elif format == FLOAT32:
                    code = read_float32(codes, row * n + i)
                else:
                    code = np.float32(read_int8(codes, row * n + i)) * read_float32(scale, row)
                found += code * read_float32(x, n * text + i)
            write_float32(y, stride * text + row - first, found)


@njit(**_INNER)
def times_floats(format, codes, first, last, n, x, texts, y, stride):
    """`times` for weights in FLOAT32 or BFLOAT16, and texts in fp32."""
    if n % BLOCK:
        _odd_rows(format, codes, np.int64(0), first, last, n, x, texts, y, stride)
    elif format == BFLOAT16:
        _bfloat16(codes, np.int64(0), np.int64(0), first, last, n, x, x, texts, y, stride)
    else:
        _float32(codes, np.int64(0), np.int64(0), first, last, n, x, x, texts, y, stride)


@njit(**_INNER)
def times(format, codes, scale, minimum, first, last, n, x, in_halves, in_order, lying, sums, dots, texts, y, stride):
    """Rows [first, last) of a matrix of `n` columns times texts: y[text · stride + i] = row first + i, in fp32.

    Args:
        format, codes, scale, minimum: of the matrix; the latter three are addresses.
        x: address of the texts, fp32 [texts, n].
        in_halves, in_order, lying, sums: what `prepare` made of x; `lying` with `dots` alone.
        dots: whether texts are rounded to bf16 for weights in BFLOAT16.
        y: address of fp32 [texts, stride].
    """
    if format == INT4_BLOCKS:
        given = in_halves if BYTES else x
        _int4_blocks(codes, scale, minimum, first, last, n, given, sums, texts, y, stride)
    elif format == INT5_BLOCKS:
        given = in_halves if BYTES else x
        _int5_blocks(codes, scale, minimum, first, last, n, given, sums, texts, y, stride)
    elif format == INT8_HALVES:
        given = in_order if BYTES else x
        _int8_halves(codes, scale, minimum, first, last, n, given, sums, texts, y, stride)
    elif format == INT8_BLOCKS:
        given = in_order if VNNI else x
        _int8_blocks(codes, scale, minimum, first, last, n, given, sums, texts, y, stride)
    elif format == INT8_ROWS and n % BLOCK == 0:
        _int8_rows(codes, scale, minimum, first, last, n, x, sums, texts, y, stride)
    elif format == INT8_ROWS:
        _odd_rows(format, codes, scale, first, last, n, x, texts, y, stride)
    elif dots and format == BFLOAT16 and n % BLOCK == 0:
        _bfloat16_dots(codes, scale, minimum, first, last, n, lying, sums, texts, y, stride)
    else:
        times_floats(format, codes, first, last, n, x, texts, y, stride)


def _strip(format: int, width: int, texts: int) -> Callable[..., None]:
    """A procedure that writes y[t · to : t · to + 16 · width] = Σ p[t · apart + j] · row[j] for each text t, over the
    first columns of rows that lie `n` apart."""

    size = BLOCK_BYTES[format] // BLOCK

    @intrinsic
    def strip(typing: Any, codes: Any, first: Any, n: Any, p: Any, apart: Any, rows: Any, y: Any, to: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            b = builder
            codes, first, n, p, apart, rows, y, to = args
            zero = ir.Constant(vector(F32), None)
            totals = [[cgutils.alloca_once_value(b, zero) for _ in range(width)] for _ in range(texts)]
            starts, places = ([b.mul(step, integer(t)) for t in range(texts)] for step in (apart, to))
            with cgutils.for_range(b, rows) as loop:
                shares = [spread(b, widened(b, p, F32, b.add(start, loop.index), 1)) for start in starts]
                begin = b.add(first, b.mul(loop.index, n))
                for line in range(0, width * LANES * size, 64):
                    later = b.add(begin, b.mul(n, integer(_STRIP_AHEAD)))
                    prefetch(b, codes, b.add(b.mul(later, integer(size)), integer(line)))
                for i in range(width):
                    at = b.add(begin, integer(i * LANES))
                    if format == FLOAT32:
                        value = lanes_at(b, codes, F32, at, 4)
                    else:
                        value = b.shl(b.zext(lanes_at(b, codes, I16, at, 2), vector(I32)), same(vector(I32), 16))
                        value = b.bitcast(value, vector(F32))
                    for share, held in zip(shares, totals, strict=True):
                        b.store(fma(b, share, value, b.load(held[i])), held[i])
            for place, held in zip(places, totals, strict=True):
                for i in range(width):
                    store(b, b.load(held[i]), y, F32, b.add(place, integer(i * LANES)))
            return context.get_dummy_value()

        return types.void(*[types.int64] * 8), generate

    return strip


def _strips(format: int) -> Callable[..., None]:
    """`_strip` of 64 columns for any number of texts, as many at once as their sums stay in registers."""
    four, three, two, one = (_strip(format, 4, texts) for texts in (4, 3, 2, 1))

    @njit(**_INNER)
    def strips(codes, first, n, p, apart, rows, texts, y, to):
        text = 0
        while text < texts:
            ps, ys = p + 4 * apart * text, y + 4 * to * text
            if text + 4 <= texts:
                four(codes, first, n, ps, apart, rows, ys, to)
                text += 4
            elif text + 3 <= texts:
                three(codes, first, n, ps, apart, rows, ys, to)
                text += 3
            elif text + 2 <= texts:
                two(codes, first, n, ps, apart, rows, ys, to)
                text += 2
            else:
                one(codes, first, n, ps, apart, rows, ys, to)
                text += 1

    return strips


_float32_strips, _bfloat16_strips = _strips(FLOAT32), _strips(BFLOAT16)


@njit(**_INNER)
def times_transposed(format, codes, first, rows, n, texts, p, apart, y, to):
    """y[text · to + i] = Σ p[text · apart + j] · row[first + j, i], over `rows` rows of a FLOAT32 or BFLOAT16 matrix of
    `n` columns; p and y are addresses of fp32."""
    done = 0
    while done + 4 * LANES <= n:
        if format == BFLOAT16:
            _bfloat16_strips(codes, first * n + done, n, p, apart, rows, texts, y + 4 * done, to)
        else:
            _float32_strips(codes, first * n + done, n, p, apart, rows, texts, y + 4 * done, to)
        done += 4 * LANES
    for text in range(texts):
        for i in range(done, n):
            found = np.float32(0)
            for j in range(rows):
                at = (first + j) * n + i
                value = bf16_to_f32(read_uint16(codes, at)) if format == BFLOAT16 else read_float32(codes, at)
                found += read_float32(p, text * apart + j) * value
            write_float32(y, text * to + i, found)


@intrinsic
def _prepare(typing: Any, x: Any, blocks: Any, in_halves: Any, in_order: Any, lying: Any, sums: Any, dots: Any) -> Any:

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        b = builder
        x, blocks, in_halves, in_order, lying, sums, dots = args

        with cgutils.for_range(b, blocks) as loop:
            starts = [b.add(b.mul(loop.index, integer(BLOCK)), integer(n)) for n in (0, LANES)]
            numbers = [lanes_at(b, x, F32, at, 4) for at in starts]
            with b.if_then(b.icmp_signed("!=", dots, integer(0))):
                for half, at in zip(numbers, starts, strict=True):
                    store(b, b.trunc(b.lshr(_nearest(b, half), same(vector(I32), 16)), vector(I16)), lying, I16, at)
            if BYTES:
                digits.put_digits(b, x, loop.index, blocks, in_halves, in_order, sums)
            else:
                store(b, total(b, b.fadd(*numbers)), sums, F32, loop.index)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 7), generate


def _nearest(b: Any, x: Any) -> Any:
    """The bits of floats, with the nearest bf16 in the upper half."""
    bits = b.bitcast(x, vector(I32))
    odd = b.and_(b.lshr(bits, same(vector(I32), 16)), same(vector(I32), 1))
    return b.add(bits, b.add(odd, same(vector(I32), 0x7FFF)))


@njit(**_INNER)
def prepare(x, blocks, in_halves, in_order, lying, sums, dots):
    """What products need of a text's fp32 numbers, block by block; all arguments are int64, and addresses but `blocks`
    and `dots`.

    in_halves, in_order, sums: as `digits.put_digits` says; where that cannot be done, `sums` begins with each block's.
    lying: with `dots` the numbers rounded to bf16, nearest, ties to even.
    """
    _prepare(x, blocks, in_halves, in_order, lying, sums, dots)


_kept: list[Any] = []  # what is called by address must not go


def _address(procedure: Any, arguments: int) -> int:
    made = cfunc(types.void(*[types.int64] * arguments), cache=True, **STRICT)(procedure.py_func)
    _kept.append(made)
    address: int = made.address
    return address


@cache
def entries() -> np.ndarray:
    """Addresses of what a step calls (`PREPARE` and the others say at which place), to be called with `pointers.call`.

    Called so they are compiled once. Compiled into their callers they would be so many times over, and take the longest
    time of all kernels.
    """
    made = (prepare, 7), (times, 16), (times_floats, 9), (times_transposed, 10)
    return np.array([_address(*each) for each in made])
