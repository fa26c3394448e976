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

from templora.kernels.bf16 import LOOSE, bf16_to_f32
from templora.kernels.pointers import read_float32, read_int8, read_uint16

FLOAT32, BFLOAT16, INT8_ROWS, INT8_BLOCKS, INT4_BLOCKS = range(5)
BLOCK = 32
_NONE = np.int64(0)  # no address: of the type that addresses have, or it would be compiled for both
BLOCK_BYTES = {FLOAT32: 128, BFLOAT16: 64, INT8_ROWS: 32, INT8_BLOCKS: 32, INT4_BLOCKS: 16}  # codes of a block

FAST: dict[str, Any] = {
    "nogil": True,
    "cache": True,
    "error_model": "numpy",
    "fastmath": LOOSE,
}
# What one kernel calls of another is compiled into it. As a function of its own it would be compiled twice, alone and
# beside its caller, which under LOOSE are not the same sums; and which of the two is called would hang on which was
# loaded first: the process that compiles the kernels would compute other bits than those that find them compiled.
PART: dict[str, Any] = FAST | {"forceinline": True}

_F32, _F16 = ir.FloatType(), ir.HalfType()
_I8, _I16, _I32, _I64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))
_FLOATS = types.Array(types.float32, 1, "C")
LANES = 16
_GROUP = 8  # blocks whose scales are read and widened together
_FLAGS = tuple(LOOSE)


def vector(element: ir.Type, lanes: int = LANES) -> ir.VectorType:
    return ir.VectorType(element, lanes)


def _int(number: int) -> ir.Constant:
    return ir.Constant(_I64, number)


def _data(builder: Any, context: Any, kind: Any, array: Any) -> Any:
    """The address of an array's first element."""
    return builder.ptrtoint(cgutils.create_struct_proxy(kind)(context, builder, array).data, _I64)


def lanes_at(builder: Any, address: Any, element: ir.Type, at: Any, align: int) -> Any:
    """`LANES` elements from element `at` on."""
    pointer = builder.gep(builder.inttoptr(address, element.as_pointer()), [at])
    return builder.load(builder.bitcast(pointer, vector(element).as_pointer()), align=align)


def widened(builder: Any, address: Any, element: ir.Type, at: Any, width: int) -> Any:
    """`width` numbers from element `at` on, as float32; a plain number for width 1."""
    pointer = builder.gep(builder.inttoptr(address, element.as_pointer()), [at])
    if width > 1:
        pointer = builder.bitcast(pointer, vector(element, width).as_pointer())
    value = builder.load(pointer, align=2 if element == _F16 else 4)
    return value if element == _F32 else builder.fpext(value, _F32 if width == 1 else vector(_F32, width))


def spread(builder: Any, numbers: Any, lane: int = 0) -> Any:
    """All lanes the same: a number, or one lane of several."""
    if not isinstance(numbers.type, ir.VectorType):
        numbers = builder.insert_element(ir.Constant(vector(_F32), ir.Undefined), numbers, ir.Constant(_I32, 0))
    empty = ir.Constant(numbers.type, ir.Undefined)
    return builder.shuffle_vector(numbers, empty, ir.Constant(vector(_I32), [lane] * LANES))


def _total(builder: Any, vector: Any) -> Any:
    kind = ir.FunctionType(_F32, [_F32, vector.type])
    add = cgutils.get_or_insert_function(builder.module, kind, f"llvm.vector.reduce.fadd.v{vector.type.count}f32")
    return builder.call(add, [ir.Constant(_F32, 0.0), vector], fastmath=_FLAGS)


def _prefetch(builder: Any, address: Any, at: Any) -> None:
    """Asks for a byte's cache line ahead of its use: with several rows at once the hardware alone is late."""
    pointer = ir.IntType(8).as_pointer()
    kind = ir.FunctionType(ir.VoidType(), [pointer, _I32, _I32, _I32])
    call = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
    builder.call(
        call, [builder.inttoptr(builder.add(address, at), pointer), *(ir.Constant(_I32, n) for n in (0, 3, 1))]
    )


def _halves(builder: Any, format: int, codes: Any, block: Any) -> list[Any]:
    """The 32 codes of a block as two vectors of floats."""
    b = builder
    if format == INT4_BLOCKS:
        pair = lanes_at(b, codes, _I8, b.mul(block, _int(LANES)), 1)
        low = b.and_(pair, ir.Constant(vector(_I8), [15] * LANES))
        high = b.lshr(pair, ir.Constant(vector(_I8), [4] * LANES))
        return [b.sitofp(b.zext(half, vector(_I32)), vector(_F32)) for half in (low, high)]
    first = b.mul(block, _int(BLOCK))
    starts = [first, b.add(first, _int(LANES))]
    if format == FLOAT32:
        return [lanes_at(b, codes, _F32, at, 4) for at in starts]
    if format == BFLOAT16:
        shift = ir.Constant(vector(_I32), [16] * LANES)
        words = [b.zext(lanes_at(b, codes, _I16, at, 2), vector(_I32)) for at in starts]
        return [b.bitcast(b.shl(word, shift), vector(_F32)) for word in words]
    return [b.sitofp(b.sext(lanes_at(b, codes, _I8, at, 1), vector(_I32)), vector(_F32)) for at in starts]


def _rows_gemv(format: int, rows: int) -> Callable[..., None]:
    """A procedure that writes `rows` rows of a matrix in `format`, from row `row` on, times x to y[at], y[at + 1], ...

    Written in LLVM's own terms: numba leaves vectorising to loops that it recognises, and a loop over lanes inside one
    over blocks is not among them. Several rows at once share the reading of x and keep the adders busy.
    """

    @intrinsic
    def gemv(
        typing: Any, codes: Any, scale: Any, minimum: Any, row: Any, blocks: Any, x: Any, sums: Any, y: Any, at: Any
    ) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            b = builder
            codes, scale, minimum, row, blocks, x, sums, y, at = args
            x, sums, y = (_data(b, context, _FLOATS, array) for array in (x, sums, y))
            zero = ir.Constant(vector(_F32), None)
            totals = [cgutils.alloca_once_value(b, zero) for _ in range(rows)]
            offsets = [cgutils.alloca_once_value(b, ir.Constant(_F32, 0.0)) for _ in range(rows)]
            firsts = [b.mul(b.add(row, _int(i)), blocks) for i in range(rows)]  # blocks of each row

            def add(column: Any, scales: list[Any] | None) -> None:
                """Block `column` of every row, whose scales are spread over the lanes already."""
                begin = b.mul(column, _int(BLOCK))
                parts_of_x = [lanes_at(b, x, _F32, begin, 4), lanes_at(b, x, _F32, b.add(begin, _int(LANES)), 4)]
                for i in range(rows):
                    halves = _halves(b, format, codes, b.add(firsts[i], column))
                    ahead = b.mul(b.add(b.add(firsts[i], column), b.mul(blocks, _int(rows))), _int(BLOCK_BYTES[format]))
                    _prefetch(b, codes, ahead)
                    products = [b.fmul(c, part, flags=_FLAGS) for c, part in zip(halves, parts_of_x, strict=True)]
                    part = b.fadd(*products, flags=_FLAGS)
                    if scales:
                        part = b.fmul(part, scales[i], flags=_FLAGS)
                    b.store(b.fadd(b.load(totals[i]), part, flags=_FLAGS), totals[i])

            def add_least(column: Any, width: int) -> None:
                """Minimums of `width` blocks from `column` on, times the sums of x there."""
                for i in range(rows):
                    least = widened(b, minimum, _F16, b.add(firsts[i], column), width)
                    part = b.fmul(least, widened(b, sums, _F32, column, width), flags=_FLAGS)
                    offset = offsets[i] if width == 1 else wide_offsets[i]
                    b.store(b.fadd(b.load(offset), part, flags=_FLAGS), offset)

            single = _int(0)  # the first block that is not read in a group
            if format in (INT8_BLOCKS, INT4_BLOCKS):
                wide_offsets = [cgutils.alloca_once_value(b, ir.Constant(vector(_F32, _GROUP), None)) for _ in firsts]
                groups = b.udiv(blocks, _int(_GROUP))
                with cgutils.for_range(b, groups) as loop:
                    column = b.mul(loop.index, _int(_GROUP))
                    scales = [widened(b, scale, _F16, b.add(first, column), _GROUP) for first in firsts]
                    for j in range(_GROUP):
                        add(b.add(column, _int(j)), [spread(b, numbers, j) for numbers in scales])
                    if format == INT4_BLOCKS:
                        add_least(column, _GROUP)
                single = b.mul(groups, _int(_GROUP))
            with cgutils.for_range(b, b.sub(blocks, single)) as loop:
                column = b.add(single, loop.index)
                if format in (INT8_BLOCKS, INT4_BLOCKS):
                    add(column, [spread(b, widened(b, scale, _F16, b.add(first, column), 1)) for first in firsts])
                else:
                    add(column, None)
                if format == INT4_BLOCKS:
                    add_least(column, 1)
            for i in range(rows):
                total = _total(b, b.load(totals[i]))
                if format == INT4_BLOCKS:
                    total = b.fadd(total, b.fadd(b.load(offsets[i]), _total(b, b.load(wide_offsets[i]))))
                if format == INT8_ROWS:
                    total = b.fmul(total, widened(b, scale, _F32, b.add(row, _int(i)), 1))
                b.store(total, b.gep(b.inttoptr(y, _F32.as_pointer()), [b.add(at, _int(i))]))
            return context.get_dummy_value()

        i = types.int64
        return types.void(i, i, i, i, i, _FLOATS, _FLOATS, _FLOATS, i), generate

    return gemv


def _all_rows(format: int) -> Callable[..., None]:
    four, one = _rows_gemv(format, 4), _rows_gemv(format, 1)

    @njit(**PART)
    def all_rows(codes, scale, minimum, first, last, blocks, x, sums, y, at):
        row = first
        while row + 4 <= last:
            four(codes, scale, minimum, row, blocks, x, sums, y, at + row - first)
            row += 4
        while row < last:
            one(codes, scale, minimum, row, blocks, x, sums, y, at + row - first)
            row += 1

    return all_rows


_rows_float32, _rows_bfloat16 = _all_rows(FLOAT32), _all_rows(BFLOAT16)
_rows_int8_rows, _rows_int8_blocks = _all_rows(INT8_ROWS), _all_rows(INT8_BLOCKS)
_rows_int4_blocks = _all_rows(INT4_BLOCKS)


@njit(**PART)
def _odd_rows(format, codes, scale, first, last, n, x, y, at):
    """Rows whose length is no multiple of 32, which no format in blocks has."""
    for row in range(first, last):
        total = np.float32(0)
        for i in range(n):
            if format == BFLOAT16:
                code = bf16_to_f32(read_uint16(codes, row * n + i))
            elif format == FLOAT32:
                code = read_float32(codes, row * n + i)
            else:
                code = np.float32(read_int8(codes, row * n + i)) * read_float32(scale, row)
            total += code * x[i]
        y[at + row - first] = total


@njit(**PART)
def float_gemv(format, codes, first, last, n, x, y, at):
    """`gemv` for the two formats of floats."""
    if n % BLOCK:
        _odd_rows(format, codes, _NONE, first, last, n, x, y, at)
    elif format == BFLOAT16:
        _rows_bfloat16(codes, _NONE, _NONE, first, last, n // BLOCK, x, x, y, at)
    else:
        _rows_float32(codes, _NONE, _NONE, first, last, n // BLOCK, x, x, y, at)


@njit(**PART)
def gemv(format, codes, scale, minimum, first, last, n, x, sums, y, at):
    """y[at:] = rows [first, last) of a matrix of `n` columns times x [n], in float32.

    `codes`, `scale` and `minimum` are addresses; `sums` [n / 32] holds the sums of x's blocks (INT4_BLOCKS only).
    """
    if format == INT4_BLOCKS:
        _rows_int4_blocks(codes, scale, minimum, first, last, n // BLOCK, x, sums, y, at)
    elif format == INT8_BLOCKS:
        _rows_int8_blocks(codes, scale, minimum, first, last, n // BLOCK, x, sums, y, at)
    elif format == INT8_ROWS and n % BLOCK == 0:
        _rows_int8_rows(codes, scale, minimum, first, last, n // BLOCK, x, sums, y, at)
    elif format == INT8_ROWS:
        _odd_rows(format, codes, scale, first, last, n, x, y, at)
    else:
        float_gemv(format, codes, first, last, n, x, y, at)


def _strip(format: int, width: int) -> Callable[..., None]:
    """A procedure that writes y[:16 · width] = Σ p[j] · row[j], over the first columns of rows that lie `n` apart."""

    @intrinsic
    def strip(typing: Any, codes: Any, first: Any, n: Any, p: Any, rows: Any, y: Any, at: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            b = builder
            codes, first, n, p, rows, y, at = args
            p, y = _data(b, context, _FLOATS, p), _data(b, context, _FLOATS, y)
            zero = ir.Constant(vector(_F32), None)
            totals = [cgutils.alloca_once_value(b, zero) for _ in range(width)]
            with cgutils.for_range(b, rows) as loop:
                share = spread(b, widened(b, p, _F32, loop.index, 1))
                begin = b.add(first, b.mul(loop.index, n))
                for i in range(width):
                    element, align = (_F32, 4) if format == FLOAT32 else (_I16, 2)
                    value = lanes_at(b, codes, element, b.add(begin, _int(i * LANES)), align)
                    if format == BFLOAT16:
                        wide = b.shl(b.zext(value, vector(_I32)), ir.Constant(vector(_I32), [16] * LANES))
                        value = b.bitcast(wide, vector(_F32))
                    b.store(b.fadd(b.load(totals[i]), b.fmul(share, value, flags=_FLAGS), flags=_FLAGS), totals[i])
            for i in range(width):
                pointer = b.gep(b.inttoptr(y, _F32.as_pointer()), [b.add(at, _int(i * LANES))])
                b.store(b.load(totals[i]), b.bitcast(pointer, vector(_F32).as_pointer()), align=4)
            return context.get_dummy_value()

        i = types.int64
        return types.void(i, i, i, _FLOATS, i, _FLOATS, i), generate

    return strip


_wide_float32, _wide_bfloat16 = _strip(FLOAT32, 4), _strip(BFLOAT16, 4)


@njit(**PART)
def gemv_transposed(format, codes, first, rows, n, p, y):
    """y [n] = Σ p[j] · row first + j, over `rows` rows of a FLOAT32 or BFLOAT16 matrix of `n` columns."""
    done = 0
    while done + 4 * LANES <= n:
        if format == BFLOAT16:
            _wide_bfloat16(codes, first * n + done, n, p, rows, y, done)
        else:
            _wide_float32(codes, first * n + done, n, p, rows, y, done)
        done += 4 * LANES
    for i in range(done, n):
        total = np.float32(0)
        for j in range(rows):
            at = (first + j) * n + i
            if format == BFLOAT16:
                total += p[j] * bf16_to_f32(read_uint16(codes, at))
            else:
                total += p[j] * read_float32(codes, at)
        y[i] = total


@njit(**PART)
def block_sums(x, n, sums):
    for b in range(n // BLOCK):
        total = np.float32(0)
        for i in range(b * BLOCK, (b + 1) * BLOCK):
            total += x[i]
        sums[b] = total
