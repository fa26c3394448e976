"""One token through a Llama-like decoder and its head, as one compiled function.

    x       [hidden]        the residual stream                 t     [ranks]       A·input of every adapter in use
    qkv     [(h + 2 g) d]   queries, keys, values               att   [h d]         what attention brings together
    gate_up [2 inner]       the two halves of the MLP           act   [inner]       activation(gate) · up

with h query heads, g key-value heads, d numbers a head. All of it is float32; weights are widened as they are read,
keys and values are rounded to the cache's format as they are written. The adapters' A rows are read in the phase that
reads the weights of the same input, and B is applied where the next phase needs the result:

    phase 0  q, k, v, A·x         1  a head each: + B·t, rotary, cache, attention         2  o, A·att
          3  + B·t, residual      4  (norm after attention)                               5  gate, up, A·x
          6  + B·t, activation    7  down, A·act        8  + B·t, residual                9  (norm after the MLP)
"""

from __future__ import annotations

import numpy as np
from numba import njit

from templora.kernels.bf16 import exp, f32_to_bf16
from templora.kernels.gemv import BFLOAT16, FAST, PART, block_sums, float_gemv, gemv, gemv_transposed
from templora.kernels.pointers import read_float32, write_float32, write_uint16
from templora.kernels.thread_team import claim, finish, wait

PHASES = 10  # a layer
QKV, OUT, GATE_UP, DOWN, HEAD = range(5)  # products; the first four of each layer, then the head's

# Columns of the tables that `CpuStep` fills in.
FORMAT, CODES, SCALE, MINIMUM, BIAS, COLUMNS, OUTPUT, INTO_T = range(8)  # of a segment: rows with the same input
SEGMENT, FIRST, LAST = range(3)  # of a piece: some rows of a segment
B_CODES, B_FIRST_T, B_RANK = range(3)  # of an adapter's B
Q, K, V, O, GATE, UP, DOWN_B = range(7)  # noqa: E741  targets of a layer, in the order of `adapters`
HIDDEN, INNER, HEADS, GROUPS, HEAD_SIZE, LAYERS, GELU, COMPUTE, LENGTH, CAPACITY = range(10)
EPSILON, ATTENTION_SCALE, ADAPTER_SCALE = range(3)
BEFORE_ATTENTION, AFTER_ATTENTION, BEFORE_MLP, AFTER_MLP = range(4)  # norms of a layer

# Plain numbers would be types of their own to numba, which would compile what they are given to once more.
_NONE, _ONE = np.int64(0), np.int64(1)


@njit(**PART)
def _normalise(x, weight, n, epsilon, out):
    """RMSNorm of x [n] into out [n]."""
    total = np.float32(0)
    for i in range(n):
        total += x[i] * x[i]
    factor = np.float32(1) / np.sqrt(total / np.float32(n) + epsilon)
    for i in range(n):
        out[i] = x[i] * factor * weight[i]


@njit(**PART)
def _product(phase, sync, pieces, first, last, segments, x, sums, out, t):
    """Claims pieces of a matrix product until there are none: rows of weights, and of adapters' A, times x."""
    count = last - first
    piece = claim(sync, phase, count)
    if piece < count:
        block_sums(x, len(x), sums)
    while piece < count:
        s = segments[pieces[first + piece, SEGMENT]]
        lo, hi = pieces[first + piece, FIRST], pieces[first + piece, LAST]
        target = t if s[INTO_T] else out
        at = s[OUTPUT] + lo
        gemv(s[FORMAT], s[CODES], s[SCALE], s[MINIMUM], lo, hi, s[COLUMNS], x, sums, target, at)
        if s[BIAS]:
            for row in range(lo, hi):
                target[s[OUTPUT] + row] += read_float32(s[BIAS], row)
        finish(sync, phase)
        piece = claim(sync, phase, count)


@njit(**PART)
def _adapted(b, lo, hi, y, at, t, scaling, format, spare, out):
    """out [hi − lo] = y[at:] + scaling · B[lo:hi] · t, by way of `spare`; the first term alone where there is no B."""
    rank = b[B_RANK]
    if rank == 0:
        for i in range(hi - lo):
            out[i] = y[at + i]
        return
    float_gemv(format, b[B_CODES], lo, hi, rank, t[b[B_FIRST_T] :], spare, _NONE)
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
def _store(address, at, x, d, format):
    """Writes x [d] to a cache row, rounded to nearest even."""
    for i in range(d):
        if format == BFLOAT16:
            write_uint16(address, at + i, f32_to_bf16(x[i]))
        else:
            write_float32(address, at + i, x[i])


@njit(**PART)
def _head(head, qkv, t, att, keys, values, first, sizes, scales, adapters, head_norms, rope, scratch):
    """One query head: adapters, norm, rotary, cache, attention over entries [first, length] into its part of `att`."""
    d, heads, groups = sizes[HEAD_SIZE], sizes[HEADS], sizes[GROUPS]
    length, capacity, format = sizes[LENGTH], sizes[CAPACITY], sizes[COMPUTE]
    scaling = scales[ADAPTER_SCALE]
    group = head // (heads // groups)
    q, k, v = scratch[:d], scratch[d : 2 * d], scratch[2 * d : 3 * d]
    spare, p = scratch[3 * d : 4 * d], scratch[4 * d :]
    _adapted(adapters[Q], head * d, head * d + d, qkv, head * d, t, scaling, format, spare, q)
    at = heads * d + group * d
    _adapted(adapters[K], group * d, group * d + d, qkv, at, t, scaling, format, spare, k)
    at += groups * d
    _adapted(adapters[V], group * d, group * d + d, qkv, at, t, scaling, format, spare, v)
    if head_norms.shape[0]:
        _normalise(q, head_norms[0], d, scales[EPSILON], q)
        _normalise(k, head_norms[1], d, scales[EPSILON], k)
    _rotate(q, rope, d)
    _rotate(k, rope, d)
    # Every head of a group works its key and value out and writes the same bits, which is cheaper than a barrier.
    base = group * capacity
    _store(keys, (base + length) * d, k, d, format)
    _store(values, (base + length) * d, v, d, format)

    count = length + 1 - first
    float_gemv(format, keys, base + first, base + length + 1, d, q, p, _NONE)
    most = p[0]
    for j in range(count):
        most = max(most, p[j])
    total = np.float32(0)
    for j in range(count):
        e = exp((p[j] - most) * scales[ATTENTION_SCALE])
        p[j] = e
        total += e
    out = att[head * d : (head + 1) * d]
    gemv_transposed(format, values, base + first, count, d, p, out)
    for i in range(d):
        out[i] /= total


@njit(**PART)
def _residual(lo, hi, x, y, b, t, scaling, format, into_x, spare):
    _adapted(b, lo, hi, y, lo, t, scaling, format, spare, y[lo:hi])
    if into_x:
        for row in range(lo, hi):
            x[row] += y[row]


@njit(**PART)
def _activation(lo, hi, gate_up, act, inner, gelu, gate, up, t, scaling, format, spare):
    g, u = gate_up[lo:hi], gate_up[inner + lo : inner + hi]
    _adapted(gate, lo, hi, gate_up, lo, t, scaling, format, spare, g)
    _adapted(up, lo, hi, gate_up, inner + lo, t, scaling, format, spare, u)
    if gelu:  # the tanh form: 1 + tanh(z) = 2 − 2 / (e^2z + 1)
        for i in range(hi - lo):
            z = np.float32(0.7978845608028654) * (g[i] + np.float32(0.044715) * g[i] * g[i] * g[i])
            act[lo + i] = g[i] * (np.float32(1) - np.float32(1) / (exp(np.float32(2) * z) + np.float32(1))) * u[i]
    else:
        for i in range(hi - lo):
            act[lo + i] = g[i] / (np.float32(1) + exp(-g[i])) * u[i]


@njit(**PART)
def _share(piece, pieces, rows):
    return piece * rows // pieces, (piece + 1) * rows // pieces


@njit(**FAST)
def decode(
    worker,
    sync,
    sizes,
    scales,
    products,
    pieces,
    segments,
    adapters,
    norms,
    final_norm,
    has_norm,
    head_norms,
    caches,
    firsts,
    ropes,
    rope_of,
    x,
    t,
    qkv,
    att,
    y,
    gate_up,
    act,
    logits,
    scratch,
    parts,
):
    """Takes the embedding in `x` to `logits` and adds its key and value to the cache.

    Run by every worker of a team with the same arguments, `sync` fresh and zero. `products` [layers · 4 + 1, 2] says
    which `pieces` make up each product, `parts` into how many pieces the rows of the other phases are cut.
    """
    hidden, inner, layers = sizes[HIDDEN], sizes[INNER], sizes[LAYERS]
    scaling, format = scales[ADAPTER_SCALE], sizes[COMPUTE]
    own = scratch[worker]
    widest = max(hidden, inner, sizes[HEADS] * sizes[HEAD_SIZE])
    h, sums, rest = own[:hidden], own[hidden : hidden + widest // 32 + 1], own[hidden + widest // 32 + 1 :]
    phase = _NONE
    for layer in range(layers):
        b = adapters[layer]
        n = norms[layer]

        first, last = products[4 * layer + QKV, 0], products[4 * layer + QKV, 1]
        # The norm is worked out by each worker for itself, before it claims anything it needs it for: x stands still
        # while this phase has unclaimed pieces, and a worker that comes too late claims none.
        _normalise(x, n[BEFORE_ATTENTION], hidden, scales[EPSILON], h)
        _product(phase, sync, pieces, first, last, segments, h, sums, qkv, t)
        wait(sync, phase, last - first)

        phase += 1
        head = claim(sync, phase, sizes[HEADS])
        while head < sizes[HEADS]:
            _head(
                head,
                qkv,
                t,
                att,
                caches[layer, 0],
                caches[layer, 1],
                firsts[layer],
                sizes,
                scales,
                b,
                head_norms[layer],
                ropes[rope_of[layer]],
                rest,
            )
            finish(sync, phase)
            head = claim(sync, phase, sizes[HEADS])
        wait(sync, phase, sizes[HEADS])

        for product in (OUT, DOWN):
            if product == DOWN:
                phase += 1
                first, last = products[4 * layer + GATE_UP, 0], products[4 * layer + GATE_UP, 1]
                _normalise(x, n[BEFORE_MLP], hidden, scales[EPSILON], h)
                _product(phase, sync, pieces, first, last, segments, h, sums, gate_up, t)
                wait(sync, phase, last - first)
                phase += 1
                piece = claim(sync, phase, parts)
                while piece < parts:
                    lo, hi = _share(piece, parts, inner)
                    _activation(lo, hi, gate_up, act, inner, sizes[GELU], b[GATE], b[UP], t, scaling, format, rest)
                    finish(sync, phase)
                    piece = claim(sync, phase, parts)
                wait(sync, phase, parts)

            phase += 1
            first, last = products[4 * layer + product, 0], products[4 * layer + product, 1]
            _product(phase, sync, pieces, first, last, segments, att if product == OUT else act, sums, y, t)
            wait(sync, phase, last - first)

            phase += 1
            after = AFTER_ATTENTION if product == OUT else AFTER_MLP
            piece = claim(sync, phase, parts)
            while piece < parts:
                lo, hi = _share(piece, parts, hidden)
                _residual(
                    lo, hi, x, y, b[O if product == OUT else DOWN_B], t, scaling, format, not has_norm[after], rest
                )
                finish(sync, phase)
                piece = claim(sync, phase, parts)
            wait(sync, phase, parts)

            phase += 1
            if has_norm[after]:
                if claim(sync, phase, _ONE) < 1:
                    _normalise(y, n[after], hidden, scales[EPSILON], y)
                    for i in range(hidden):
                        x[i] += y[i]
                    finish(sync, phase)
                wait(sync, phase, _ONE)
        phase += 1

    first, last = products[4 * layers, 0], products[4 * layers, 1]
    _normalise(x, final_norm, hidden, scales[EPSILON], h)
    _product(phase, sync, pieces, first, last, segments, h, sums, logits, t)
    wait(sync, phase, last - first)
