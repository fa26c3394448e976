"""Quantised weights to numbers: one pass, compiled by numba, without Python's lock.

bfloat16 leaves as its bits.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from templora.kernels.numbers import narrowed

_OPTIONS: dict[str, Any] = {"nogil": True, "boundscheck": False, "error_model": "numpy", "cache": True}


@njit(**_OPTIONS)
def four_bit_to_bfloat16(codes: Any, scale: Any, minimum: Any, out: Any) -> None:
    """codes uint8 [n, 16], scale and minimum float32 [n], out uint16 [n, 32]; n blocks.

    The low nibble of byte j is element j, the high one element j + 16.
    """
    for block in range(codes.shape[0]):
        s, m = scale[block], minimum[block]
        for j in range(16):
            code = codes[block, j]
            out[block, j] = narrowed(s * np.float32(code & 15) + m)
            out[block, j + 16] = narrowed(s * np.float32(code >> 4) + m)


@njit(**_OPTIONS)
def four_bit_to_float32(codes: Any, scale: Any, minimum: Any, out: Any) -> None:
    """As `four_bit_to_bfloat16`, out float32 [n, 32]."""
    for block in range(codes.shape[0]):
        s, m = scale[block], minimum[block]
        for j in range(16):
            code = codes[block, j]
            out[block, j] = s * np.float32(code & 15) + m
            out[block, j + 16] = s * np.float32(code >> 4) + m


@njit(**_OPTIONS)
def eight_bit_to_bfloat16(codes: Any, scale: Any, out: Any) -> None:
    """codes int8 [n, width], scale float32 [n], out uint16 [n, width]; n blocks or rows."""
    for block in range(codes.shape[0]):
        s = scale[block]
        for j in range(codes.shape[1]):
            out[block, j] = narrowed(s * np.float32(codes[block, j]))


@njit(**_OPTIONS)
def eight_bit_to_float32(codes: Any, scale: Any, out: Any) -> None:
    """As `eight_bit_to_bfloat16`, out float32 [n, width]."""
    for block in range(codes.shape[0]):
        s = scale[block]
        for j in range(codes.shape[1]):
            out[block, j] = s * np.float32(codes[block, j])
