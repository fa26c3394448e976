"""Blocks of 32 quantised weights to numbers: one pass, compiled by numba, without Python's lock.

A scale is a 16-bit float and numba has none, so it comes as its bits and is widened by arithmetic: its 15 low bits,
shifted to where a 32-bit float has them, are 2¹¹² too small. That holds for every finite half, the subnormal too.
bfloat16 is the upper half of a 32-bit float, rounded to nearest even; it leaves as bits as well.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

_OPTIONS: dict[str, Any] = {"nogil": True, "boundscheck": False, "error_model": "numpy", "cache": True}
_HALF_EXPONENT = np.float32(2.0**112)


@intrinsic  # type: ignore[untyped-decorator]
def _float_of(typing_context: Any, bits: Any) -> Any:
    """The float32 that these 32 bits are."""
    return types.float32(types.uint32), lambda context, builder, sig, args: builder.bitcast(args[0], ir.FloatType())


@intrinsic  # type: ignore[untyped-decorator]
def _bits_of(typing_context: Any, value: Any) -> Any:
    """The 32 bits of a float32."""
    return types.uint32(types.float32), lambda context, builder, sig, args: builder.bitcast(args[0], ir.IntType(32))


@njit(inline="always", **_OPTIONS)  # type: ignore[untyped-decorator]
def _widen(half: int) -> float:
    bits = np.uint32(half)
    magnitude = _float_of((bits & np.uint32(0x7FFF)) << np.uint32(13)) * _HALF_EXPONENT
    return -magnitude if bits & np.uint32(0x8000) else magnitude


@njit(inline="always", **_OPTIONS)  # type: ignore[untyped-decorator]
def _rounded(value: float) -> int:
    bits = _bits_of(value)
    return np.uint16((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16))


@njit(**_OPTIONS)  # type: ignore[untyped-decorator]
def four_bit_to_bfloat16(codes: Any, scale: Any, minimum: Any, out: Any) -> None:
    """codes uint8 [n, 16], scale and minimum uint16 [n], out uint16 [n, 32]; n blocks.

    The low nibble of byte j is element j, the high one element j + 16.
    """
    for block in range(codes.shape[0]):
        s, m = _widen(scale[block]), _widen(minimum[block])
        for j in range(16):
            code = codes[block, j]
            out[block, j] = _rounded(s * np.float32(code & 15) + m)
            out[block, j + 16] = _rounded(s * np.float32(code >> 4) + m)


@njit(**_OPTIONS)  # type: ignore[untyped-decorator]
def four_bit_to_float32(codes: Any, scale: Any, minimum: Any, out: Any) -> None:
    """As `four_bit_to_bfloat16`, out float32 [n, 32]."""
    for block in range(codes.shape[0]):
        s, m = _widen(scale[block]), _widen(minimum[block])
        for j in range(16):
            code = codes[block, j]
            out[block, j] = s * np.float32(code & 15) + m
            out[block, j + 16] = s * np.float32(code >> 4) + m


@njit(**_OPTIONS)  # type: ignore[untyped-decorator]
def eight_bit_to_bfloat16(codes: Any, scale: Any, out: Any) -> None:
    """codes int8 [n, 32], scale uint16 [n], out uint16 [n, 32]; n blocks."""
    for block in range(codes.shape[0]):
        s = _widen(scale[block])
        for j in range(32):
            out[block, j] = _rounded(s * np.float32(codes[block, j]))


@njit(**_OPTIONS)  # type: ignore[untyped-decorator]
def eight_bit_to_float32(codes: Any, scale: Any, out: Any) -> None:
    """As `eight_bit_to_bfloat16`, out float32 [n, 32]."""
    for block in range(codes.shape[0]):
        s = _widen(scale[block])
        for j in range(32):
            out[block, j] = s * np.float32(codes[block, j])
