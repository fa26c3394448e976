"""Quantised weights to numbers: one pass, compiled by numba, without Python's lock.

bfloat16, which numba does not know, leaves as its bits: the upper half of a 32-bit float, rounded to nearest even.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

_OPTIONS: dict[str, Any] = {"nogil": True, "boundscheck": False, "error_model": "numpy", "cache": True}


@intrinsic  # type: ignore[untyped-decorator]
def _bits_of(typing_context: Any, value: Any) -> Any:
    """The 32 bits of a float32."""
    return types.uint32(types.float32), lambda context, builder, sig, args: builder.bitcast(args[0], ir.IntType(32))


@njit(inline="always", **_OPTIONS)  # type: ignore[untyped-decorator]
def _bfloat16(value: Any) -> Any:
    bits = _bits_of(value)
    return np.uint16((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16))


@njit(**_OPTIONS)  # type: ignore[untyped-decorator]
def four_bit_to_bfloat16(codes: Any, scale: Any, minimum: Any, out: Any) -> None:
    """codes uint8 [n, 16], scale and minimum float32 [n], out uint16 [n, 32]; n blocks.

    The low nibble of byte j is element j, the high one element j + 16.
    """
    for block in range(codes.shape[0]):
        s, m = scale[block], minimum[block]
        for j in range(16):
            code = codes[block, j]
            out[block, j] = _bfloat16(s * np.float32(code & 15) + m)
            out[block, j + 16] = _bfloat16(s * np.float32(code >> 4) + m)


@njit(**_OPTIONS)  # type: ignore[untyped-decorator]
def four_bit_to_float32(codes: Any, scale: Any, minimum: Any, out: Any) -> None:
    """As `four_bit_to_bfloat16`, out float32 [n, 32]."""
    for block in range(codes.shape[0]):
        s, m = scale[block], minimum[block]
        for j in range(16):
            code = codes[block, j]
            out[block, j] = s * np.float32(code & 15) + m
            out[block, j + 16] = s * np.float32(code >> 4) + m


@njit(**_OPTIONS)  # type: ignore[untyped-decorator]
def eight_bit_to_bfloat16(codes: Any, scale: Any, out: Any) -> None:
    """codes int8 [n, width], scale float32 [n], out uint16 [n, width]; n blocks or rows."""
    for block in range(codes.shape[0]):
        s = scale[block]
        for j in range(codes.shape[1]):
            out[block, j] = _bfloat16(s * np.float32(codes[block, j]))


@njit(**_OPTIONS)  # type: ignore[untyped-decorator]
def eight_bit_to_float32(codes: Any, scale: Any, out: Any) -> None:
    """As `eight_bit_to_bfloat16`, out float32 [n, width]."""
    for block in range(codes.shape[0]):
        s = scale[block]
        for j in range(codes.shape[1]):
            out[block, j] = s * np.float32(codes[block, j])
