"""Floats by their bits, bf16 among them, which numba does not know; and an exponential that is vectorised."""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

# Sums may be taken in any order, which is what lets them be vectorised; NaN and infinity keep their meaning.
LOOSE = {"reassoc", "contract", "nsz"}
FAST: dict[str, Any] = {"nogil": True, "cache": True, "error_model": "numpy", "fastmath": LOOSE}
# What one kernel calls of another is compiled into it. As a function of its own it would be compiled twice, alone and
# beside its caller, which under LOOSE are not the same sums; and which of the two is called would hang on which was
# loaded first: the process that compiles the kernels would compute other bits than those that find them compiled.
PART: dict[str, Any] = FAST | {"forceinline": True}

LOWEST = np.int32(-(2**31))  # below what `ordered` makes of any number

_WORD, _HALF = ir.IntType(32), ir.IntType(16)
_f = np.float32
_LOG2E, _LN2_HIGH, _LN2_LOW = _f(1.4426950408889634), _f(0.693359375), _f(-2.12194440e-4)
_MIN, _MAX, _ROUND = _f(-87.0), _f(88.0), _f(0.5)
_C1, _C2, _C3, _C4, _C5, _C6 = _f(1), _f(0.5), _f(1 / 6), _f(1 / 24), _f(1 / 120), _f(1 / 720)


@intrinsic
def float_of(typing: Any, bits: Any) -> Any:
    """The float32 that an int32's bits stand for."""
    return types.float32(types.int32), lambda c, builder, s, args: builder.bitcast(args[0], ir.FloatType())


@intrinsic
def bits_of(typing: Any, number: Any) -> Any:
    """A float32's bits as int32."""
    return types.int32(types.float32), lambda c, builder, s, args: builder.bitcast(args[0], _WORD)


@njit(inline="always")
def ordered(x):
    """An int32 that is larger where x is: a maximum of integers is vectorised, one of floats is not."""
    bits = bits_of(x)
    return np.int32(bits ^ (np.int32(bits >> np.int32(31)) & np.int32(0x7FFFFFFF)))


@njit(inline="always")
def unordered(key):
    """What `ordered` has made it of."""
    return float_of(np.int32(key ^ (np.int32(key >> np.int32(31)) & np.int32(0x7FFFFFFF))))


@intrinsic
def bf16_to_f32(typing: Any, half: Any) -> Any:
    """The float32 that a bf16's bits stand for: its upper half."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        word = builder.shl(builder.zext(args[0], _WORD), ir.Constant(_WORD, 16))
        return builder.bitcast(word, ir.FloatType())

    return types.float32(types.uint16), generate


def _nearest(builder: Any, number: Any) -> Any:
    """A float32's bits, changed so that the upper half is the nearest bf16, ties to even."""
    bits = builder.bitcast(number, _WORD)
    odd = builder.and_(builder.lshr(bits, ir.Constant(_WORD, 16)), ir.Constant(_WORD, 1))
    return builder.add(bits, builder.add(odd, ir.Constant(_WORD, 0x7FFF)))


@intrinsic
def f32_to_bf16(typing: Any, number: Any) -> Any:
    """A float32 as the bits of the nearest bf16, ties to even as in torch."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.trunc(builder.lshr(_nearest(builder, args[0]), ir.Constant(_WORD, 16)), _HALF)

    return types.uint16(types.float32), generate


@intrinsic
def rounded(typing: Any, number: Any) -> Any:
    """A float32 rounded to bf16 and back."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        upper = builder.and_(_nearest(builder, args[0]), ir.Constant(_WORD, 0xFFFF0000))
        return builder.bitcast(upper, ir.FloatType())

    return types.float32(types.float32), generate


@njit(fastmath=LOOSE, error_model="numpy", inline="always")
def exp(x):
    """e^x to 2e-7, for |x| < 87 (beyond, as at the bound): 2^n times a polynomial."""
    x = min(max(x, _MIN), _MAX)
    n = np.floor(x * _LOG2E + _ROUND)
    r = (x - n * _LN2_HIGH) - n * _LN2_LOW
    p = _C1 + r * (_C1 + r * (_C2 + r * (_C3 + r * (_C4 + r * (_C5 + r * _C6)))))
    return p * float_of(np.int32((np.int32(n) + np.int32(127)) << np.int32(23)))
