"""One token of each of several texts through a Llama-like decoder and its head, as one compiled function.

    x       [rows, hidden]       the residual streams        t     [rows, ranks]    A·input of every adapter in use
    qkv     [rows, (h + 2 g) d]  queries, keys, values       att   [rows, h d]      what attention brings together
    gate_up [rows, 2 inner]      the two halves of the MLP   act   [rows, inner]    activation(gate) · up

with h query heads, g key-value heads, d numbers a head. All of it is float32; weights are widened as they are read,
keys and values are rounded to the cache's format as they are written. The base's weights are read once for all rows,
each row's adapter and cache are its own. The adapters' A rows are read in the phase that reads the weights of the same
input, and B is applied where the next phase needs the result:

    phase 0  q, k, v, A·x    1  keys and values: + B·t, rotary, into the cache     2  a query head each: attention
          3  o, A·att        4  + B·t, residual     5  (norm after attention)      6  gate, up, A·x
          7  + B·t, activation     8  down, A·act       9  + B·t, residual        10  (norm after the MLP)

Rows may be tokens of one text that follow each other: all keys are in the cache before the first query is looked up.
What comes of a row is to the bit what it would be alone (`kernels.products`).
"""

from __future__ import annotations

import numpy as np
from numba import njit

from templora.kernels.bf16 import FAST, PART, exp, f32_to_bf16
from templora.kernels.pointers import address, call, read_float32, write_float32, write_uint16
from templora.kernels.products import PREPARE, TIMES, TIMES_FLOATS, TRANSPOSED
from templora.kernels.thread_team import claim, finish, wait
from templora.kernels.vectors import BFLOAT16, BLOCK

PHASES = 11  # a layer
QKV, OUT, GATE_UP, DOWN, HEAD = range(5)  # products; the first four of each layer, then the head's

# Columns of the tables that `CpuStep` fills in.
FORMAT, CODES, SCALE, MINIMUM, BIAS, OUTPUT, ROW = range(7)  # of a segment: rows of weights with one input
SEGMENT, FIRST, LAST = range(3)  # of a piece: some rows of a segment
B_CODES, B_FIRST_T, B_RANK = range(3)  # of an adapter's B
Q, K, V, O, GATE, UP, DOWN_B = range(7)  # noqa: E741  targets of a layer, in the order of `adapters`
HIDDEN, INNER, HEADS, GROUPS, HEAD_SIZE, LAYERS, GELU, COMPUTE, DOTS, ROWS = range(10)
LENGTH, CAPACITY = range(2)  # of a row's cache
EPSILON, ATTENTION_SCALE = range(2)
BEFORE_ATTENTION, AFTER_ATTENTION, BEFORE_MLP, AFTER_MLP = range(4)  # norms of a layer
ALL = -1  # ROW of the base's segments; that of an adapter's A is its text's, and its output goes to `t`

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
def _product(phase, sync, calls, pieces, first, last, segments, x, n, prepared, sizes, out, t):
    """Claims pieces of a matrix product until there are none: rows of weights, and of adapters' A, times x [rows, n].

    `prepared` [4, ...] is the worker's own memory for what `prepare` makes of x.
    """
    count, rows, dots = last - first, sizes[ROWS], sizes[DOTS]
    blocks = n // BLOCK
    in_halves, in_order, lying = address(prepared[0]), address(prepared[1]), address(prepared[2])
    sums = address(prepared[3])
    piece = claim(sync, phase, count)
    if piece < count:
        for row in range(rows):
            at = n * row
            to = (in_halves + 2 * at, in_order + 2 * at, lying + 2 * at, sums + at // 2)
            call(calls[PREPARE], (x + 4 * at, blocks, *to, dots))
    while piece < count:
        s = segments[pieces[first + piece, SEGMENT]]
        lo, hi, row, at = pieces[first + piece, FIRST], pieces[first + piece, LAST], s[ROW], s[OUTPUT]
        texts, stride, skipped, into = rows, np.int64(out.shape[1]), _NONE, address(out[0])
        if row != ALL:
            texts, stride, skipped, into = _ONE, _NONE, n * row, address(t[row])
        of = (s[FORMAT], s[CODES], s[SCALE], s[MINIMUM], lo, hi, n)
        of_x = (x + 4 * skipped, in_halves + 2 * skipped, in_order + 2 * skipped, lying + 2 * skipped)
        call(calls[TIMES], of + of_x + (sums + skipped // 2, dots, texts) + (into + 4 * (at + lo), stride))
        if s[BIAS]:
            for text in range(rows):
                for i in range(lo, hi):
                    out[text, at + i] += read_float32(s[BIAS], i)
        finish(sync, phase)
        piece = claim(sync, phase, count)


@njit(**PART)
def _adapted(calls, b, lo, hi, y, at, t, scaling, format, spare, out):
    """out [hi − lo] = y[at:] + scaling · B[lo:hi] · t, by way of `spare`; the first term alone where there is no B."""
    rank = b[B_RANK]
    if rank == 0:
        for i in range(hi - lo):
            out[i] = y[at + i]
        return
    given = address(t) + 4 * b[B_FIRST_T]
    call(calls[TIMES_FLOATS], (format, b[B_CODES], lo, hi, rank, given, _ONE, address(spare), _NONE))
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
def _key(calls, group, place, qkv, t, scaling, keys, values, sizes, scales, b, head_norms, rope, scratch):
    """One key-value head: adapters, norm, rotary, and into the cache, behind what it holds."""
    d, heads, groups, format = sizes[HEAD_SIZE], sizes[HEADS], sizes[GROUPS], sizes[COMPUTE]
    k, v, spare = scratch[:d], scratch[d : 2 * d], scratch[2 * d : 3 * d]
    at = heads * d + group * d
    _adapted(calls, b[K], group * d, group * d + d, qkv, at, t, scaling, format, spare, k)
    at += groups * d
    _adapted(calls, b[V], group * d, group * d + d, qkv, at, t, scaling, format, spare, v)
    if head_norms.shape[0]:
        _normalise(k, head_norms[1], d, scales[EPSILON], k)
    _rotate(k, rope, d)
    entry = (group * place[CAPACITY] + place[LENGTH]) * d
    _store(keys, entry, k, d, format)
    _store(values, entry, v, d, format)


@njit(**PART)
def _head(calls, head, place, first, qkv, t, scaling, att, keys, values, sizes, scales, b, head_norms, rope, scratch):
    """One query head: adapters, norm, rotary, attention over entries [first, length] into its part of `att`."""
    d, heads, groups, format = sizes[HEAD_SIZE], sizes[HEADS], sizes[GROUPS], sizes[COMPUTE]
    length = place[LENGTH]
    q, spare, p = scratch[:d], scratch[d : 2 * d], scratch[2 * d :]
    _adapted(calls, b[Q], head * d, head * d + d, qkv, head * d, t, scaling, format, spare, q)
    if head_norms.shape[0]:
        _normalise(q, head_norms[0], d, scales[EPSILON], q)
    _rotate(q, rope, d)
    base = head // (heads // groups) * place[CAPACITY]
    count = length + 1 - first
    begin, end = base + first, base + length + 1
    call(calls[TIMES_FLOATS], (format, keys, begin, end, d, address(q), _ONE, address(p), _NONE))
    most = p[0]
    for j in range(count):
        most = max(most, p[j])
    total = np.float32(0)
    for j in range(count):
        e = exp((p[j] - most) * scales[ATTENTION_SCALE])
        p[j] = e
        total += e
    out = att[head * d : (head + 1) * d]
    call(calls[TRANSPOSED], (format, values, begin, count, d, address(p), address(out)))
    for i in range(d):
        out[i] /= total


@njit(**PART)
def _residual(calls, lo, hi, x, y, b, t, scaling, format, into_x, spare):
    _adapted(calls, b, lo, hi, y, lo, t, scaling, format, spare, y[lo:hi])
    if into_x:
        for i in range(lo, hi):
            x[i] += y[i]


@njit(**PART)
def _activation(calls, lo, hi, gate_up, act, inner, gelu, gate, up, t, scaling, format, spare):
    g, u = gate_up[lo:hi], gate_up[inner + lo : inner + hi]
    _adapted(calls, gate, lo, hi, gate_up, lo, t, scaling, format, spare, g)
    _adapted(calls, up, lo, hi, gate_up, inner + lo, t, scaling, format, spare, u)
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
    scalings,
    places,
    calls,
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
    normed,
    prepared,
    scratch,
    parts,
):
    """Takes the embeddings in `x` to `logits` and adds their keys and values to the caches.

    Run by every worker of a team with the same arguments, `sync` fresh and zero. `calls` are those of
    `kernels.products`, `products` [layers · 4 + 1, 2] says
    which `pieces` make up each product, `parts` into how many pieces the columns of the other phases are cut; by row
    come `scalings` [rows], `places` [rows, 2], `adapters` [rows, layers, 7, 3], `caches` [rows, layers, 2], `firsts`
    [rows, layers], `ropes` [rows, kinds, 2 d]. A worker's own memory: `normed` [rows, hidden], `prepared`, `scratch`.
    """
    hidden, inner, layers, rows = sizes[HIDDEN], sizes[INNER], sizes[LAYERS], sizes[ROWS]
    heads, groups, format = sizes[HEADS], sizes[GROUPS], sizes[COMPUTE]
    h, own, rest = normed[worker], prepared[worker], scratch[worker]
    phase = _NONE
    for layer in range(layers):
        n, rope = norms[layer], rope_of[layer]

        first, last = products[4 * layer + QKV, 0], products[4 * layer + QKV, 1]
        # The norm is worked out by each worker for itself, before it claims anything it needs it for: x stands still
        # while this phase has unclaimed pieces, and a worker that comes too late claims none.
        for row in range(rows):
            _normalise(x[row], n[BEFORE_ATTENTION], hidden, scales[EPSILON], h[row])
        _product(phase, sync, calls, pieces, first, last, segments, address(h[0]), hidden, own, sizes, qkv, t)
        wait(sync, phase, last - first)

        phase += 1
        piece = claim(sync, phase, rows * groups)
        while piece < rows * groups:
            row, group = piece // groups, piece % groups
            _key(
                calls,
                group,
                places[row],
                qkv[row],
                t[row],
                scalings[row],
                caches[row, layer, 0],
                caches[row, layer, 1],
                sizes,
                scales,
                adapters[row, layer],
                head_norms[layer],
                ropes[row, rope],
                rest,
            )
            finish(sync, phase)
            piece = claim(sync, phase, rows * groups)
        wait(sync, phase, rows * groups)

        phase += 1
        piece = claim(sync, phase, rows * heads)
        while piece < rows * heads:
            row, head = piece // heads, piece % heads
            _head(
                calls,
                head,
                places[row],
                firsts[row, layer],
                qkv[row],
                t[row],
                scalings[row],
                att[row],
                caches[row, layer, 0],
                caches[row, layer, 1],
                sizes,
                scales,
                adapters[row, layer],
                head_norms[layer],
                ropes[row, rope],
                rest,
            )
            finish(sync, phase)
            piece = claim(sync, phase, rows * heads)
        wait(sync, phase, rows * heads)

        for product in (OUT, DOWN):
            if product == DOWN:
                phase += 1
                first, last = products[4 * layer + GATE_UP, 0], products[4 * layer + GATE_UP, 1]
                for row in range(rows):
                    _normalise(x[row], n[BEFORE_MLP], hidden, scales[EPSILON], h[row])
                _product(
                    phase, sync, calls, pieces, first, last, segments, address(h[0]), hidden, own, sizes, gate_up, t
                )
                wait(sync, phase, last - first)
                phase += 1
                piece = claim(sync, phase, rows * parts)
                while piece < rows * parts:
                    row = piece // parts
                    lo, hi = _share(piece % parts, parts, inner)
                    b, scaling, gelu = adapters[row, layer], scalings[row], sizes[GELU]
                    _activation(
                        calls,
                        lo,
                        hi,
                        gate_up[row],
                        act[row],
                        inner,
                        gelu,
                        b[GATE],
                        b[UP],
                        t[row],
                        scaling,
                        format,
                        rest,
                    )
                    finish(sync, phase)
                    piece = claim(sync, phase, rows * parts)
                wait(sync, phase, rows * parts)

            phase += 1
            first, last = products[4 * layer + product, 0], products[4 * layer + product, 1]
            given, width = (address(att[0]), heads * sizes[HEAD_SIZE]) if product == OUT else (address(act[0]), inner)
            _product(phase, sync, calls, pieces, first, last, segments, given, width, own, sizes, y, t)
            wait(sync, phase, last - first)

            phase += 1
            after = AFTER_ATTENTION if product == OUT else AFTER_MLP
            piece = claim(sync, phase, rows * parts)
            while piece < rows * parts:
                row = piece // parts
                lo, hi = _share(piece % parts, parts, hidden)
                b = adapters[row, layer, O if product == OUT else DOWN_B]
                _residual(calls, lo, hi, x[row], y[row], b, t[row], scalings[row], format, not has_norm[after], rest)
                finish(sync, phase)
                piece = claim(sync, phase, rows * parts)
            wait(sync, phase, rows * parts)

            phase += 1
            if has_norm[after]:
                row = claim(sync, phase, rows)
                while row < rows:
                    _normalise(y[row], n[after], hidden, scales[EPSILON], y[row])
                    for i in range(hidden):
                        x[row, i] += y[row, i]
                    finish(sync, phase)
                    row = claim(sync, phase, rows)
                wait(sync, phase, rows)
        phase += 1

    first, last = products[4 * layers, 0], products[4 * layers, 1]
    for row in range(rows):
        _normalise(x[row], final_norm, hidden, scales[EPSILON], h[row])
    _product(phase, sync, calls, pieces, first, last, segments, address(h[0]), hidden, own, sizes, logits, t)
    wait(sync, phase, last - first)
