"""Kernels over rows of bf16 numbers: what torch does in several passes over memory, in one.

Arithmetic is fp32 within a row; only what is read and written is bf16, rounded to nearest even as torch does. Sums may
be taken in any order, so results agree with torch's to fp32's accuracy before that rounding. Slots are listed with
each kernel (see `openmp.run`); slot 0 is the number of rows.
"""

from __future__ import annotations

import numpy as np
from numba import cfunc, njit, types

from templora.kernels.bf16 import LOOSE, LOWEST, bf16_to_f32, exp, f32_to_bf16, ordered, rounded, unordered
from templora.kernels.openmp import doubles, floats, halves, integers, longs, share

_KERNEL = types.void(types.voidptr)

_f = np.float32
_ZERO, _ONE, _TWO, _HALF = _f(0), _f(1), _f(2), _f(0.5)
_GELU_A, _GELU_B = _f((2 / np.pi) ** 0.5), _f(0.044715)
_GELU_3B = _f(3 * 0.044715)


@njit(inline="always")
def _load(pointer, index):
    """The bf16 number at pointer[index], as float32."""
    return bf16_to_f32(pointer[index])


@njit(fastmath=LOOSE, error_model="numpy", inline="always")
def _tanh(x):
    return _ONE - _TWO / (exp(_TWO * x) + _ONE)


@cfunc(_KERNEL, cache=True, fastmath=LOOSE, error_model="numpy")
def cross_entropy(data):
    """NLL of each row's target and, if asked for, its gradient in place of the logits.

    1 logits     bf16 [rows, columns]
    2 targets    int64 [rows]
    3 nll        fp32 [rows], written
    4 columns
    5 gradient   0: the logits are left alone
    6 cap        soft cap of logits, 0 for none (double)
    7 weight     of each row's gradient (double)
    """
    a, d = integers(data), doubles(data)
    rows, x, targets, nll, columns, gradient = a[0], halves(a[1]), longs(a[2]), floats(a[3]), a[4], a[5]
    cap, weight = np.float32(d[6]), np.float32(d[7])
    first, end = share(rows)
    for r in range(first, end):
        at, target = r * columns, r * columns + targets[r]
        top = LOWEST
        for j in range(at, at + columns):
            top = max(top, ordered(_load(x, j)))
        most, goal, total = unordered(top), _load(x, target), _ZERO
        if cap > _ZERO:
            most, goal = cap * _tanh(most / cap), cap * _tanh(goal / cap)
            for j in range(at, at + columns):
                total += exp(cap * _tanh(_load(x, j) / cap) - most)
        else:
            for j in range(at, at + columns):
                total += exp(_load(x, j) - most)
        norm = most + np.float32(np.log(total))
        nll[r] = norm - goal
        if gradient:
            if cap > _ZERO:
                slope = _ONE - (goal / cap) * (goal / cap)
                at_target = (exp(goal - norm) - _ONE) * slope * weight
                for j in range(at, at + columns):
                    t = _tanh(_load(x, j) / cap)
                    x[j] = f32_to_bf16(exp(cap * t - norm) * (_ONE - t * t) * weight)
            else:
                at_target = (exp(goal - norm) - _ONE) * weight
                for j in range(at, at + columns):
                    x[j] = f32_to_bf16(exp(_load(x, j) - norm) * weight)
            x[target] = f32_to_bf16(at_target)


@cfunc(_KERNEL, cache=True, fastmath=LOOSE, error_model="numpy")
def rms_norm(data):
    """RMSNorm in the two ways of the field.

    1 x, 2 weight, 3 y    bf16 [rows, columns], [columns], [rows, columns]
    4 scales              fp32 [rows], written: what each row of x is multiplied by
    5 columns
    6 plus_one            0: y = w · bf16(x / rms), as Llama; 1: y = (1 + w) · x / rms, as Gemma
    7 epsilon             (double)
    """
    a = integers(data)
    rows, x, w, y, scales, columns, plus_one = a[0], halves(a[1]), halves(a[2]), halves(a[3]), floats(a[4]), a[5], a[6]
    epsilon = np.float32(doubles(data)[7])
    first, end = share(rows)
    for r in range(first, end):
        at = r * columns
        squares = _ZERO
        for j in range(columns):
            v = _load(x, at + j)
            squares += v * v
        scale = _ONE / np.sqrt(squares / np.float32(columns) + epsilon)
        scales[r] = scale
        if plus_one:
            for j in range(columns):
                y[at + j] = f32_to_bf16(_load(x, at + j) * scale * (_ONE + _load(w, j)))
        else:
            for j in range(columns):
                y[at + j] = f32_to_bf16(rounded(_load(x, at + j) * scale) * _load(w, j))


@cfunc(_KERNEL, cache=True, fastmath=LOOSE, error_model="numpy")
def rms_norm_gradient(data):
    """The gradient of x, over that of y: dx = s (g − x s² mean(g x)), with g = w dy and s the row's scale.

    1 x, 2 weight, 3 dy    bf16, as in `rms_norm`
    4 scales               fp32 [rows]
    5 columns
    6 plus_one
    7 dx                   bf16 [rows, columns], written
    """
    a = integers(data)
    rows, x, w, d, scales, columns, plus_one = a[0], halves(a[1]), halves(a[2]), halves(a[3]), floats(a[4]), a[5], a[6]
    out = halves(a[7])
    extra = _ONE if plus_one else _ZERO
    first, end = share(rows)
    for r in range(first, end):
        at, scale = r * columns, scales[r]
        inner = _ZERO
        for j in range(columns):
            inner += _load(d, at + j) * (extra + _load(w, j)) * _load(x, at + j)
        inner *= scale * scale / np.float32(columns)
        for j in range(columns):
            g = _load(d, at + j) * (extra + _load(w, j))
            out[at + j] = f32_to_bf16(scale * (g - _load(x, at + j) * inner))


@njit(fastmath=LOOSE, error_model="numpy", inline="always")
def _logistic(x):
    return _ONE / (_ONE + exp(-x))


@cfunc(_KERNEL, cache=True, fastmath=LOOSE, error_model="numpy")
def gated(data):
    """y = f(gate) · up, f(gate) rounded to bf16 before the product, as two operators of torch do.

    1 gate, 2 up, 3 y    bf16 [rows], rows being single numbers
    4 kind               0: f = SiLU; 1: f = GELU in its tanh form
    """
    a = integers(data)
    rows, gate, up, y, kind = a[0], halves(a[1]), halves(a[2]), halves(a[3]), a[4]
    first, end = share(rows)
    if kind == 0:
        for j in range(first, end):
            g = _load(gate, j)
            y[j] = f32_to_bf16(rounded(g * _logistic(g)) * _load(up, j))
    else:
        for j in range(first, end):
            g = _load(gate, j)
            t = _tanh(_GELU_A * (g + _GELU_B * g * g * g))
            y[j] = f32_to_bf16(rounded(_HALF * g * (_ONE + t)) * _load(up, j))


@cfunc(_KERNEL, cache=True, fastmath=LOOSE, error_model="numpy")
def gated_gradient(data):
    """The gradients of gate and up, given that of y.

    1 gate, 2 up, 3 dy    bf16 [rows], rows being single numbers
    4 dgate, 5 dup        bf16 [rows], written
    6 kind                as in `gated`
    """
    a = integers(data)
    rows, gate, up, d = a[0], halves(a[1]), halves(a[2]), halves(a[3])
    dgate, dup, kind = halves(a[4]), halves(a[5]), a[6]
    first, end = share(rows)
    if kind == 0:
        for j in range(first, end):
            g, u, dy = _load(gate, j), _load(up, j), _load(d, j)
            s = _logistic(g)
            dup[j] = f32_to_bf16(dy * g * s)
            dgate[j] = f32_to_bf16(dy * u * s * (_ONE + g * (_ONE - s)))
    else:
        for j in range(first, end):
            g, u, dy = _load(gate, j), _load(up, j), _load(d, j)
            t = _tanh(_GELU_A * (g + _GELU_B * g * g * g))
            slope = _HALF * (_ONE + t) + _HALF * g * (_ONE - t * t) * _GELU_A * (_ONE + _GELU_3B * g * g)
            dup[j] = f32_to_bf16(dy * _HALF * g * (_ONE + t))
            dgate[j] = f32_to_bf16(dy * u * slope)
