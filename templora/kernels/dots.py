"""Rows of a weight matrix times a vector, for every format in which weights are stored.

    format        codes                          value
    FLOAT32       float32 [rows, n]              code
    BFLOAT16      uint16  [rows, n]              the upper half of a float32
    INT8_ROWS     int8    [rows, n]              scale[row] · code                      scale float32
    INT8_BLOCKS   int8    [rows, n]              scale[row, block] · code               scale float16, blocks of 32
    INT4_BLOCKS   uint8   [rows, n / 32, 16]     scale[row, block] · code + minimum[row, block]       GGUF's Q4_1:
                                                 byte j holds elements j (low half) and j + 16 (high half) of a block

Such products are bound by the bytes they read, so each format is read as it lies and widened in registers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from templora.kernels.memory import float_of, read_float32, read_int8, read_uint16

FLOAT32, BFLOAT16, INT8_ROWS, INT8_BLOCKS, INT4_BLOCKS = range(5)
BLOCK = 32

# Sums may be taken in any order, which is what lets them be vectorised; NaN and infinity keep their meaning.
FAST: dict[str, Any] = {
    "nogil": True,
    "cache": True,
    "error_model": "numpy",
    "fastmath": {"reassoc", "contract", "nsz", "arcp"},
}

_F32, _F16 = ir.FloatType(), ir.HalfType()
_I8, _I16, _I32, _I64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))
_FLOATS = types.Array(types.float32, 1, "C")
_LANES = 16
_LOOSE = ("reassoc", "contract", "nsz")


def _vector(element: ir.Type) -> ir.VectorType:
    return ir.VectorType(element, _LANES)


def _int(number: int) -> ir.Constant:
    return ir.Constant(_I64, number)


def _data(builder: Any, context: Any, kind: Any, array: Any) -> Any:
    """The address of an array's first element."""
    return builder.ptrtoint(cgutils.create_struct_proxy(kind)(context, builder, array).data, _I64)


def _lanes(builder: Any, address: Any, element: ir.Type, at: Any, align: int) -> Any:
    """`_LANES` elements from element `at` on."""
    pointer = builder.gep(builder.inttoptr(address, element.as_pointer()), [at])
    return builder.load(builder.bitcast(pointer, _vector(element).as_pointer()), align=align)


def _number(builder: Any, address: Any, element: ir.Type, at: Any) -> Any:
    """Element `at`, widened to float32."""
    value = builder.load(builder.gep(builder.inttoptr(address, element.as_pointer()), [at]))
    return value if element == _F32 else builder.fpext(value, _F32)


def _spread(builder: Any, number: Any) -> Any:
    empty = ir.Constant(_vector(_F32), ir.Undefined)
    one = builder.insert_element(empty, number, ir.Constant(_I32, 0))
    return builder.shuffle_vector(one, empty, ir.Constant(_vector(_I32), [0] * _LANES))


def _total(builder: Any, vector: Any) -> Any:
    kind = ir.FunctionType(_F32, [_F32, _vector(_F32)])
    add = cgutils.get_or_insert_function(builder.module, kind, f"llvm.vector.reduce.fadd.v{_LANES}f32")
    return builder.call(add, [ir.Constant(_F32, 0.0), vector], fastmath=_LOOSE)


def _halves(builder: Any, format: int, codes: Any, block: Any) -> list[Any]:
    """The 32 codes of a block as two vectors of floats."""
    b = builder
    if format == INT4_BLOCKS:
        pair = _lanes(b, codes, _I8, b.mul(block, _int(_LANES)), 1)
        low = b.and_(pair, ir.Constant(_vector(_I8), [15] * _LANES))
        high = b.lshr(pair, ir.Constant(_vector(_I8), [4] * _LANES))
        return [b.sitofp(b.zext(half, _vector(_I32)), _vector(_F32)) for half in (low, high)]
    first = b.mul(block, _int(BLOCK))
    starts = [first, b.add(first, _int(_LANES))]
    if format == FLOAT32:
        return [_lanes(b, codes, _F32, at, 4) for at in starts]
    if format == BFLOAT16:
        shift = ir.Constant(_vector(_I32), [16] * _LANES)
        words = [b.zext(_lanes(b, codes, _I16, at, 2), _vector(_I32)) for at in starts]
        return [b.bitcast(b.shl(word, shift), _vector(_F32)) for word in words]
    return [b.sitofp(b.sext(_lanes(b, codes, _I8, at, 1), _vector(_I32)), _vector(_F32)) for at in starts]


def _rows_times(format: int, rows: int) -> Callable[..., None]:
    """A procedure that writes `rows` rows of a matrix in `format`, from row `row` on, times x to y[at], y[at + 1], ...

    Written in LLVM's own terms: numba leaves vectorising to loops that it recognises, and a loop over lanes inside one
    over blocks is not among them. Several rows at once share the reading of x and keep the adders busy.
    """

    @intrinsic
    def rows_times(
        typing: Any, codes: Any, scale: Any, minimum: Any, row: Any, blocks: Any, x: Any, sums: Any, y: Any, at: Any
    ) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            b = builder
            codes, scale, minimum, row, blocks, x, sums, y, at = args
            x, sums, y = (_data(b, context, _FLOATS, array) for array in (x, sums, y))
            zero = ir.Constant(_vector(_F32), None)
            totals = [cgutils.alloca_once_value(b, zero) for _ in range(rows)]
            offsets = [cgutils.alloca_once_value(b, ir.Constant(_F32, 0.0)) for _ in range(rows)]
            with cgutils.for_range(b, blocks) as loop:
                first = b.mul(loop.index, _int(BLOCK))
                parts_of_x = [_lanes(b, x, _F32, first, 4), _lanes(b, x, _F32, b.add(first, _int(_LANES)), 4)]
                for i in range(rows):
                    block = b.add(b.mul(b.add(row, _int(i)), blocks), loop.index)
                    codes_ = _halves(b, format, codes, block)
                    products = [b.fmul(c, part, flags=_LOOSE) for c, part in zip(codes_, parts_of_x, strict=True)]
                    part = b.fadd(*products, flags=_LOOSE)
                    if format in (INT8_BLOCKS, INT4_BLOCKS):
                        part = b.fmul(part, _spread(b, _number(b, scale, _F16, block)), flags=_LOOSE)
                    if format == INT4_BLOCKS:
                        least = b.fmul(
                            _number(b, minimum, _F16, block), _number(b, sums, _F32, loop.index), flags=_LOOSE
                        )
                        b.store(b.fadd(b.load(offsets[i]), least, flags=_LOOSE), offsets[i])
                    b.store(b.fadd(b.load(totals[i]), part, flags=_LOOSE), totals[i])
            for i in range(rows):
                total = _total(b, b.load(totals[i]))
                if format == INT4_BLOCKS:
                    total = b.fadd(total, b.load(offsets[i]))
                if format == INT8_ROWS:
                    total = b.fmul(total, _number(b, scale, _F32, b.add(row, _int(i))))
                b.store(total, b.gep(b.inttoptr(y, _F32.as_pointer()), [b.add(at, _int(i))]))
            return context.get_dummy_value()

        i = types.int64
        return types.void(i, i, i, i, i, _FLOATS, _FLOATS, _FLOATS, i), generate

    return rows_times


_FOUR_FLOAT32, _ONE_FLOAT32 = _rows_times(FLOAT32, 4), _rows_times(FLOAT32, 1)
_FOUR_BFLOAT16, _ONE_BFLOAT16 = _rows_times(BFLOAT16, 4), _rows_times(BFLOAT16, 1)
_FOUR_INT8_ROWS, _ONE_INT8_ROWS = _rows_times(INT8_ROWS, 4), _rows_times(INT8_ROWS, 1)
_FOUR_INT8_BLOCKS, _ONE_INT8_BLOCKS = _rows_times(INT8_BLOCKS, 4), _rows_times(INT8_BLOCKS, 1)
_FOUR_INT4_BLOCKS, _ONE_INT4_BLOCKS = _rows_times(INT4_BLOCKS, 4), _rows_times(INT4_BLOCKS, 1)


def _all_rows(four: Callable[..., None], one: Callable[..., None]) -> Callable[..., None]:
    @njit(**FAST)
    def all_rows(codes, scale, minimum, first, last, blocks, x, sums, y, at):
        row = first
        while row + 4 <= last:
            four(codes, scale, minimum, row, blocks, x, sums, y, at + row - first)
            row += 4
        while row < last:
            one(codes, scale, minimum, row, blocks, x, sums, y, at + row - first)
            row += 1

    return all_rows


_rows_float32 = _all_rows(_FOUR_FLOAT32, _ONE_FLOAT32)
_rows_bfloat16 = _all_rows(_FOUR_BFLOAT16, _ONE_BFLOAT16)
_rows_int8_rows = _all_rows(_FOUR_INT8_ROWS, _ONE_INT8_ROWS)
_rows_int8_blocks = _all_rows(_FOUR_INT8_BLOCKS, _ONE_INT8_BLOCKS)
_rows_int4_blocks = _all_rows(_FOUR_INT4_BLOCKS, _ONE_INT4_BLOCKS)


@njit(**FAST)
def _odd_rows(format, codes, scale, first, last, n, x, y, at):
    """Rows whose length is no multiple of 32, which no format in blocks has."""
    for row in range(first, last):
        total = np.float32(0)
        for i in range(n):
            if format == BFLOAT16:
                code = float_of(np.uint32(read_uint16(codes, row * n + i)) << np.uint32(16))
            elif format == FLOAT32:
                code = read_float32(codes, row * n + i)
            else:
                code = np.float32(read_int8(codes, row * n + i)) * read_float32(scale, row)
            total += code * x[i]
        y[at + row - first] = total


@njit(**FAST)
def rows_times(format, codes, scale, minimum, first, last, n, x, sums, y, at):
    """y[at:] = rows [first, last) of a matrix of `n` columns times x [n], in float32.

    `codes`, `scale` and `minimum` are addresses; `sums` [n / 32] holds the sums of x's blocks (INT4_BLOCKS only).
    """
    if n % BLOCK:
        _odd_rows(format, codes, scale, first, last, n, x, y, at)
    elif format == BFLOAT16:
        _rows_bfloat16(codes, scale, minimum, first, last, n // BLOCK, x, sums, y, at)
    elif format == FLOAT32:
        _rows_float32(codes, scale, minimum, first, last, n // BLOCK, x, sums, y, at)
    elif format == INT8_ROWS:
        _rows_int8_rows(codes, scale, minimum, first, last, n // BLOCK, x, sums, y, at)
    elif format == INT8_BLOCKS:
        _rows_int8_blocks(codes, scale, minimum, first, last, n // BLOCK, x, sums, y, at)
    else:
        _rows_int4_blocks(codes, scale, minimum, first, last, n // BLOCK, x, sums, y, at)


def _strip(format: int, width: int) -> Callable[..., None]:
    """A procedure that writes y[:16 · width] = Σ p[j] · row[j], over the first columns of rows that lie `n` apart."""

    @intrinsic
    def strip(typing: Any, codes: Any, first: Any, n: Any, p: Any, rows: Any, y: Any, at: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            b = builder
            codes, first, n, p, rows, y, at = args
            p, y = _data(b, context, _FLOATS, p), _data(b, context, _FLOATS, y)
            zero = ir.Constant(_vector(_F32), None)
            totals = [cgutils.alloca_once_value(b, zero) for _ in range(width)]
            with cgutils.for_range(b, rows) as loop:
                share = _spread(b, _number(b, p, _F32, loop.index))
                begin = b.add(first, b.mul(loop.index, n))
                for i in range(width):
                    element, align = (_F32, 4) if format == FLOAT32 else (_I16, 2)
                    value = _lanes(b, codes, element, b.add(begin, _int(i * _LANES)), align)
                    if format == BFLOAT16:
                        wide = b.shl(b.zext(value, _vector(_I32)), ir.Constant(_vector(_I32), [16] * _LANES))
                        value = b.bitcast(wide, _vector(_F32))
                    b.store(b.fadd(b.load(totals[i]), b.fmul(share, value, flags=_LOOSE), flags=_LOOSE), totals[i])
            for i in range(width):
                pointer = b.gep(b.inttoptr(y, _F32.as_pointer()), [b.add(at, _int(i * _LANES))])
                b.store(b.load(totals[i]), b.bitcast(pointer, _vector(_F32).as_pointer()), align=4)
            return context.get_dummy_value()

        i = types.int64
        return types.void(i, i, i, _FLOATS, i, _FLOATS, i), generate

    return strip


_wide_float32, _wide_bfloat16 = _strip(FLOAT32, 4), _strip(BFLOAT16, 4)


@njit(**FAST)
def weighted_rows(format, codes, first, rows, n, p, y):
    """y [n] = Σ p[j] · row first + j, over `rows` rows of a FLOAT32 or BFLOAT16 matrix of `n` columns."""
    done = 0
    while done + 4 * _LANES <= n:
        if format == BFLOAT16:
            _wide_bfloat16(codes, first * n + done, n, p, rows, y, done)
        else:
            _wide_float32(codes, first * n + done, n, p, rows, y, done)
        done += 4 * _LANES
    for i in range(done, n):
        total = np.float32(0)
        for j in range(rows):
            at = (first + j) * n + i
            if format == BFLOAT16:
                total += p[j] * float_of(np.uint32(read_uint16(codes, at)) << np.uint32(16))
            else:
                total += p[j] * read_float32(codes, at)
        y[i] = total


@njit(**FAST)
def block_sums(x, n, sums):
    for b in range(n // BLOCK):
        total = np.float32(0)
        for i in range(b * BLOCK, (b + 1) * BLOCK):
            total += x[i]
        sums[b] = total
