"""Quantised weights to numbers, on torch's own threads: as fast as the numbers can be written.

Slots are listed with each kernel (see `openmp.run`); slot 0 is how many groups there are that share a scale. bfloat16
leaves as its bits, rounded to nearest even. A code times a float16 scale is exact in float32, so there is no rounding
but that of the sum with the minimum and the one to bfloat16.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import cfunc, types
from numba.extending import intrinsic

from templora.kernels.bf16 import f32_to_bf16
from templora.kernels.openmp import floats, halves, integers, share, signed_bytes
from templora.kernels.vectors import (
    INT4_BLOCKS,
    INT5_BLOCKS,
    LANES,
    nibbles,
    spread,
    vector,
    widened,
)  # fmt: skip

_KERNEL = types.void(types.voidptr)
_OPTIONS: dict[str, Any] = {"cache": True, "error_model": "numpy"}
_F16, _F32 = ir.HalfType(), ir.FloatType()
_I8, _I16, _I32 = ir.IntType(8), ir.IntType(16), ir.IntType(32)


def _all(kind: ir.Type, number: int) -> ir.Constant:
    return ir.Constant(vector(kind), [number] * LANES)


def _nearest_halves(builder: Any, numbers: Any) -> Any:
    """float32 lanes as the bits of the nearest bfloat16, ties to even; not for NaN."""
    bits = builder.bitcast(numbers, vector(_I32))
    odd = builder.and_(builder.lshr(bits, _all(_I32, 16)), _all(_I32, 1))
    bits = builder.add(bits, builder.add(odd, _all(_I32, 0x7FFF)))
    return builder.trunc(builder.lshr(bits, _all(_I32, 16)), vector(_I16))


def _nibbles_block(format: int, half: bool) -> Any:
    """A procedure (codes, scale, minimum, out: addresses; block) that writes one block of 32 numbers.

    In LLVM's own terms: numba leaves vectorising to loops that it recognises, and these two of 16 are not among them.
    """

    @intrinsic
    def block(typing: Any, codes: Any, scale: Any, minimum: Any, out: Any, index: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            b = builder
            codes, scale, minimum, out, index = args
            kind = _I16 if half else _F32
            s, m = (spread(b, widened(b, factors, _F16, index, 1)) for factors in (scale, minimum))
            parts = [b.zext(part, vector(_I32)) for part in nibbles(b, format, codes, index)]
            for i, part in enumerate(parts):
                numbers = b.fadd(b.fmul(b.uitofp(part, vector(_F32)), s), m)
                first = b.add(b.mul(index, ir.Constant(index.type, 2 * LANES)), ir.Constant(index.type, i * LANES))
                place = b.gep(b.inttoptr(out, kind.as_pointer()), [first])
                to = b.bitcast(place, vector(kind).as_pointer())
                b.store(_nearest_halves(b, numbers) if half else numbers, to, align=2 if half else 4)
            return context.get_dummy_value()

        i = types.int64
        return types.void(i, i, i, i, i), generate

    return block


_four_to_halves, _four_to_floats = (_nibbles_block(INT4_BLOCKS, half) for half in (True, False))
_five_to_halves, _five_to_floats = (_nibbles_block(INT5_BLOCKS, half) for half in (True, False))


@cfunc(_KERNEL, **_OPTIONS)
def four_bit(data):
    """Blocks of 32: number j is scale · (low half of byte j) + minimum, number j + 16 the same of the high half.

    1 codes              uint8 [n, 16]
    2 scale, 3 minimum   float16 [n]
    4 out                bfloat16 or float32 [n, 32], written
    5 half               1: out is bfloat16
    """
    a = integers(data)
    first, end = share(a[0])
    if a[5]:
        for block in range(first, end):
            _four_to_halves(a[1], a[2], a[3], a[4], block)
    else:
        for block in range(first, end):
            _four_to_floats(a[1], a[2], a[3], a[4], block)


@cfunc(_KERNEL, **_OPTIONS)
def five_bit(data):
    """As `four_bit`, of codes uint8 [n, 20]: bit j of the last four bytes is the fifth of number j."""
    a = integers(data)
    first, end = share(a[0])
    if a[5]:
        for block in range(first, end):
            _five_to_halves(a[1], a[2], a[3], a[4], block)
    else:
        for block in range(first, end):
            _five_to_floats(a[1], a[2], a[3], a[4], block)


@cfunc(_KERNEL, **_OPTIONS)
def eight_bit(data):
    """Groups of `width`, 16, 32 or a row: scale · code.

    1 codes     int8 [n, width]
    2 scale     float32 [n]
    3 out       bfloat16 or float32 [n, width], written
    4 half      1: out is bfloat16
    5 width
    """
    a = integers(data)
    codes, scale, width = signed_bytes(a[1]), floats(a[2]), a[5]
    first, end = share(a[0])
    if a[4]:
        out = halves(a[3])
        for group in range(first, end):
            s = scale[group]
            for j in range(group * width, group * width + width):
                out[j] = f32_to_bf16(s * np.float32(codes[j]))
    else:
        numbers = floats(a[3])
        for group in range(first, end):
            s = scale[group]
            for j in range(group * width, group * width + width):
                numbers[j] = s * np.float32(codes[j])
