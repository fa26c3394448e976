"""Rows of a quantised matrix times texts in whole numbers (`vectors.byte_dot`), exact but for the rounding of texts.

    a text's block of 32      in steps of a 32,512th of its largest number; a step's number is two digits, 256 h + l
    codes · digits            whole numbers: they may be summed in any order
    sums of four products     times both blocks' scales; added as fp32, in one order for every text and row

A number is off by at most a 65,024th of its block's largest, where bf16 is off by up to a 512th of itself. Codes go
without a sign: what is added to those of 8 and 6 bits goes with a minimum, which other formats have anyway.

Written in LLVM's own terms, as `kernels.products`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from templora.kernels.vectors import (
    BLOCK,
    BLOCK_BYTES,
    BYTES,
    F16,
    F32,
    I8,
    I32,
    INT4_BLOCKS,
    INT5_BLOCKS,
    INT8_BLOCKS,
    INT8_HALVES,
    NIBBLES,
    VNNI,
    byte_dot,
    fma,
    integer,
    lanes_at,
    nibbles,
    prefetch,
    same,
    shared,
    store,
    total,
    vector,
    widened,
)

# Those that this CPU multiplies so: with AVX2 two products must not sum to more than 16 bits.
FORMATS = (*((INT4_BLOCKS, INT5_BLOCKS, INT8_HALVES) if BYTES else ()), *((INT8_BLOCKS,) if VNNI else ()))
GROUP = 8  # blocks whose scales are read and widened together
_MOST = 32_512  # steps: 127 · 256
_LEAST = 1e-30  # a block whose numbers are smaller is zeros
_AHEAD = 4  # rows that weights are asked for before they are used
_ADDED = {INT8_BLOCKS: 128, INT8_HALVES: 32}  # to codes


def _codes(b: Any, format: int, codes: Any, block: Any, count: int) -> list[Any]:
    """Those of `count` blocks as bytes without a sign."""
    if format in NIBBLES:
        return nibbles(b, format, codes, block, count)
    found = lanes_at(b, codes, I8, b.mul(block, integer(BLOCK)), 1, BLOCK * count)
    added = same(found.type, _ADDED[format])
    return [b.xor(found, added) if format == INT8_BLOCKS else b.add(found, added)]


def tile(format: int, rows: int, texts: int) -> Callable[..., None]:
    """A procedure as `products._tile` makes; x are digits in the order of the format's codes."""
    halves, least = format == INT8_HALVES, format in NIBBLES
    each = 2 if halves else 1  # scales of a block
    wide = 4 if least else 2  # blocks in a vector of 64 bytes
    lanes = [16, 8, 4, 2] if least or halves else [16, 8, 2]  # what is added up apart

    @intrinsic
    def made(
        typing: Any, codes: Any, scale: Any, minimum: Any, row: Any, blocks: Any, x: Any, sums: Any, y: Any, stride: Any
    ) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            b = builder
            codes, scale, minimum, row, blocks, x, sums, y, stride = args
            kinds = {n: vector(F32, n) for n in lanes} | {1: F32}
            zeros = {n: ir.Constant(kind, None if n > 1 else 0.0) for n, kind in kinds.items()}
            so_far = {
                n: [[cgutils.alloca_once_value(b, zero) for _ in range(texts)] for _ in range(rows)]
                for n, zero in zeros.items()
            }
            firsts = [b.mul(b.add(row, integer(i)), blocks) for i in range(rows)]  # blocks of each row
            before = [b.mul(blocks, integer(t)) for t in range(texts)]  # blocks of x before each text's

            def add(i: int, t: int, one: Any, other: Any) -> None:
                held = so_far[one.type.count if isinstance(one.type, ir.VectorType) else 1][i][t]
                b.store(fma(b, one, other, b.load(held)), held)

            def of_text(t: int, column: Any, array: int, width: int) -> Any:
                """`width` numbers of what `prepare` has put into `sums`."""
                at = b.add(b.mul(before[t], integer(4)), b.mul(blocks, integer(array)))
                return widened(b, sums, F32, b.add(at, column), width)

            def digits(t: int, column: Any, count: int) -> Iterator[Any]:
                """Vectors of upper digits, then of lower ones."""
                size = (16 if least else BLOCK) * count
                begin = b.mul(b.add(before[t], column), integer(2 * BLOCK))
                for n in range(0, 2 * BLOCK * count, size):
                    yield lanes_at(b, x, I8, b.add(begin, integer(n)), 1, size)

            def some(column: Any, width: int) -> None:
                """`width` blocks from `column` on, whose scales and minimums are widened together."""
                at = [b.add(first, column) for first in firsts]
                scales = [widened(b, scale, F16, b.mul(n, integer(each)), each * width) for n in at]
                together = []
                for t in range(texts):
                    factors = of_text(t, column, 1, width)
                    factors = shared(b, factors, range(width), 2 * width) if halves else factors
                    together.append([b.fmul(row, factors) for row in scales])
                count = min(wide, width)
                for n in range(0, width, count):
                    places = [b.add(first, integer(n)) for first in at]
                    for place in places:
                        ahead = b.add(place, b.mul(blocks, integer(_AHEAD)))
                        prefetch(b, codes, b.mul(ahead, integer(BLOCK_BYTES[format])))
                    weights = [_codes(b, format, codes, place, count) for place in places]
                    for t in range(texts):
                        given = list(digits(t, b.add(column, integer(n)), count))
                        for i in range(rows):
                            size = given[0].type.count // 4
                            part = ir.Constant(vector(I32, size), None)
                            for m, numbers in enumerate(given):
                                if m == len(given) // 2:
                                    part = b.shl(part, same(part.type, 8))
                                part = byte_dot(b, part, weights[i][m % len(weights[i])], numbers)
                            of = range(each * n, each * (n + count))
                            add(i, t, b.sitofp(part, vector(F32, size)), shared(b, together[t][i], of, size))
                for i in range(rows):
                    if least:
                        less = widened(b, minimum, F16, at[i], width)
                    else:
                        less = b.fmul(scales[i], same(scales[i].type, -float(_ADDED[format])))
                    for t in range(texts):
                        if halves:
                            add(i, t, less, of_text(t, b.mul(column, integer(2)), 2, 2 * width))
                        else:
                            add(i, t, less, of_text(t, column, 0, width))

            done = integer(0)  # blocks
            for width in (GROUP, 2, 1):
                begin, times = done, b.udiv(b.sub(blocks, done), integer(width))
                with cgutils.for_range(b, times) as loop:
                    some(b.add(begin, b.mul(loop.index, integer(width))), width)
                done = b.add(begin, b.mul(times, integer(width)))
            for i in range(rows):
                for t in range(texts):
                    first, *more = (b.load(each[i][t]) for each in so_far.values())
                    store(b, total(b, first, more), y, F32, b.add(b.mul(stride, integer(t)), integer(i)))
            return context.get_dummy_value()

        return types.void(*[types.int64] * 9), generate

    return made


def _called(b: Any, name: str, result: ir.Type, *given: Any) -> Any:
    kind = ir.FunctionType(result, [each.type for each in given])
    return b.call(cgutils.get_or_insert_function(b.module, kind, name), given)


def put_digits(b: Any, x: Any, block: Any, blocks: Any, in_halves: Any, in_order: Any, sums: Any) -> None:
    """What `tile` needs of one block of a text's fp32 numbers.

    Args:
        in_halves, in_order: addresses of the text's digits [blocks, 64], in the order of `NIBBLES` and as they lie.
        sums: address of fp32 [4, blocks]: sums of each block, factors, and, in two rows, sums of its halves.
    """
    starts = [b.add(b.mul(block, integer(BLOCK)), integer(n)) for n in (0, 16)]
    numbers = [lanes_at(b, x, F32, at, 4) for at in starts]
    words = [b.and_(b.bitcast(half, vector(I32)), same(vector(I32), 0x7FFFFFFF)) for half in numbers]
    # The largest of their bits, among which those of what is not finite are larger than all.
    each = [_called(b, "llvm.vector.reduce.umax.v16i32", I32, word) for word in words]
    most = b.bitcast(b.select(b.icmp_unsigned(">", *each), *each), F32)
    none = b.fcmp_ordered("<", most, ir.Constant(F32, _LEAST))
    factor = b.select(none, ir.Constant(F32, 0.0), b.fmul(most, ir.Constant(F32, 1 / _MOST)))
    inverse = b.select(none, ir.Constant(F32, 0.0), b.fdiv(ir.Constant(F32, float(_MOST)), most))
    inverse = shared(b, inverse, range(1))
    steps = [_called(b, "llvm.roundeven.v16f32", half.type, b.fmul(half, inverse)) for half in numbers]
    steps = [_called(b, "llvm.fptosi.sat.v16i32.v16f32", vector(I32), half) for half in steps]
    eight = same(vector(I32), 8)
    upper = [b.ashr(b.add(half, same(vector(I32), 128)), eight) for half in steps]
    lower = [b.sub(half, b.shl(high, eight)) for half, high in zip(steps, upper, strict=True)]

    sums_of = [_called(b, "llvm.vector.reduce.add.v16i32", I32, half) for half in steps]
    by_half = [b.fmul(b.sitofp(half, F32), factor) for half in sums_of]
    in_all = b.fmul(b.sitofp(b.add(*sums_of), F32), factor)
    twice = b.mul(b.add(blocks, block), integer(2))
    places = block, b.add(blocks, block), twice, b.add(twice, integer(1))
    for number, at in zip((in_all, factor, *by_half), places, strict=True):
        store(b, number, sums, F32, at)

    # How many blocks lie in the vectors that this one is in, and which of them it is.
    whole = b.and_(blocks, integer(-GROUP))
    single = b.icmp_signed("==", b.or_(block, integer(1)), blocks)  # the last of an odd number
    two = b.select(single, integer(1), integer(2))
    four = b.select(b.icmp_signed("<", block, whole), integer(4), two)
    for to, count, size in ((in_halves, four, 16), (in_order, two, BLOCK)):
        place = b.and_(block, b.sub(count, integer(1)))
        begin = b.mul(b.sub(block, place), integer(2 * BLOCK))
        for n, half in enumerate((*upper, *lower)):
            # Vectors of `count · size` bytes; a block that lies as a whole has both halves in one.
            vector_, within = (n, 0) if size == 16 else (n // 2, 16 * (n % 2))
            at = b.add(b.mul(count, integer(vector_ * size)), b.add(b.mul(place, integer(size)), integer(within)))
            store(b, b.trunc(half, vector(I8)), to, I8, b.add(begin, at))
