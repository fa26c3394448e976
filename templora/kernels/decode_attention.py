"""Attention of one token: a group's queries over some keys at a time, and what comes of all of them together.

    keys      a key-value head: adapters, norm, rotary, and into the cache      queries   the same, left where they are
    attend    scores of up to `KEYS` keys, their shares, times values           merge     over a head's pieces

Keys and values are most of what is read of a long window, and query heads of a group share them, so a group's are read
once for all its heads. A window in pieces keeps every worker busy however few heads there are (FlashDecoding does so on
GPUs); where a piece begins hangs on the window alone, so a text's bits do not hang on workers or neighbours.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from templora.kernels.bf16 import LOWEST, PART, exp, f32_to_bf16, ordered, unordered
from templora.kernels.pointers import address, call, write_float32, write_uint16
from templora.kernels.products import TIMES_FLOATS, TRANSPOSED
from templora.kernels.tables import (
    ATTENTION_SCALE,
    B_CODES,
    B_FIRST_T,
    B_RANK,
    CAPACITY,
    COMPUTE,
    EPSILON,
    GROUPS,
    HEAD_SIZE,
    HEADS,
    LENGTH,
    K,
    Q,
    V,
)
from templora.kernels.vectors import BFLOAT16

KEYS = 256  # of a piece: its values come from the nearest caches as its scores are ready

# Plain numbers would be types of their own to numba, which would compile what they are given to once more.
NONE, ONE = np.int64(0), np.int64(1)


@njit(**PART)
def normalise(x, weight, n, epsilon, out):
    """RMSNorm of x [n] into out [n]."""
    total = np.float32(0)
    for i in range(n):
        total += x[i] * x[i]
    factor = np.float32(1) / np.sqrt(total / np.float32(n) + epsilon)
    for i in range(n):
        out[i] = x[i] * factor * weight[i]


@njit(**PART)
def adapted(calls, b, lo, hi, y, at, t, scaling, format, spare, out):
    """out [hi − lo] = y[at:] + scaling · B[lo:hi] · t, by way of `spare`; the first term alone where there is no B."""
    rank = b[B_RANK]
    if rank == 0:
        for i in range(hi - lo):
            out[i] = y[at + i]
        return
    given = address(t) + 4 * b[B_FIRST_T]
    call(calls[TIMES_FLOATS], (format, b[B_CODES], lo, hi, rank, given, ONE, address(spare), NONE))
    for i in range(hi - lo):
        out[i] = y[at + i] + scaling * spare[i]


@njit(**PART)
def _rotate(x, rope, d):
    """Rotary position embedding of one head, in place; rope holds d cosines, then d sines."""
    half = d // 2
    for i in range(half):
        low, high = x[i], x[i + half]
        x[i] = low * rope[i] - high * rope[d + i]
        x[i + half] = high * rope[i + half] + low * rope[d + i + half]


@njit(**PART)
def store(address, at, x, d, format):
    """Writes x [d] to a cache row, rounded to nearest even."""
    for i in range(d):
        if format == BFLOAT16:
            write_uint16(address, at + i, f32_to_bf16(x[i]))
        else:
            write_float32(address, at + i, x[i])


@njit(**PART)
def keys(calls, group, place, qkv, t, scaling, cache, sizes, scales, b, head_norms, rope, scratch):
    """A key-value head of `qkv`, behind what `cache`, addresses of keys and values, holds."""
    d, heads, groups, format = sizes[HEAD_SIZE], sizes[HEADS], sizes[GROUPS], sizes[COMPUTE]
    k, v, spare = scratch[:d], scratch[d : 2 * d], scratch[2 * d : 3 * d]
    at = heads * d + group * d
    adapted(calls, b[K], group * d, group * d + d, qkv, at, t, scaling, format, spare, k)
    at += groups * d
    adapted(calls, b[V], group * d, group * d + d, qkv, at, t, scaling, format, spare, v)
    if head_norms.shape[0]:
        normalise(k, head_norms[1], d, scales[EPSILON], k)
    _rotate(k, rope, d)
    entry = (group * place[CAPACITY] + place[LENGTH]) * d
    store(cache[0], entry, k, d, format)
    store(cache[1], entry, v, d, format)


@njit(**PART)
def queries(calls, group, qkv, t, scaling, sizes, scales, b, head_norms, rope, scratch):
    """A group's query heads, in place."""
    d, format, each = sizes[HEAD_SIZE], sizes[COMPUTE], sizes[HEADS] // sizes[GROUPS]
    for head in range(group * each, group * each + each):
        q = qkv[head * d : head * d + d]
        adapted(calls, b[Q], head * d, head * d + d, qkv, head * d, t, scaling, format, scratch, q)
        if head_norms.shape[0]:
            normalise(q, head_norms[0], d, scales[EPSILON], q)
        _rotate(q, rope, d)


@njit(**PART)
def attend(calls, group, part, place, first, qkv, cache, sizes, scales, found, scratch):
    """A group's queries over piece `part` of the cache's entries from `first` to the token's own.

    Args:
        found: [heads, pieces, d + 2], written: values by the share of the piece that their keys have, not divided by
            its sum; the largest score; the sum.
    """
    d, groups, format = sizes[HEAD_SIZE], sizes[GROUPS], sizes[COMPUTE]
    each = sizes[HEADS] // groups
    begin = first + part * KEYS
    count = min(KEYS, place[LENGTH] + 1 - begin)
    if count <= 0:
        return
    begin += group * place[CAPACITY]
    p = address(scratch)
    given = address(qkv) + 4 * d * each * group
    call(calls[TIMES_FLOATS], (format, cache[0], begin, begin + count, d, given, each, p, np.int64(KEYS)))
    for head in range(each):
        shares, out = scratch[head * KEYS : head * KEYS + count], found[group * each + head, part]
        largest = LOWEST
        for j in range(count):
            largest = max(largest, ordered(shares[j]))
        most, total = unordered(largest), np.float32(0)
        for j in range(count):
            e = exp((shares[j] - most) * scales[ATTENTION_SCALE])
            shares[j] = e
            total += e
        out[d], out[d + 1] = most, total
    to = address(found[group * each, part])
    apart = np.int64(found.shape[1] * found.shape[2])
    call(calls[TRANSPOSED], (format, cache[1], begin, count, d, each, p, np.int64(KEYS), to, apart))


@njit(**PART)
def merge(head, parts, found, sizes, scales, att):
    """What `attend` has found over a head's `parts` pieces, into its part of `att`."""
    d = sizes[HEAD_SIZE]
    of, out = found[head], att[head * d : (head + 1) * d]
    most = of[0, d]
    for part in range(1, parts):
        most = max(most, of[part, d])
    total = np.float32(0)
    for i in range(d):
        out[i] = np.float32(0)
    for part in range(parts):
        weight = exp((of[part, d] - most) * scales[ATTENTION_SCALE])
        total += weight * of[part, d + 1]
        for i in range(d):
            out[i] += weight * of[part, i]
    for i in range(d):
        out[i] /= total
