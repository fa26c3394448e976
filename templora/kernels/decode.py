"""One token of each of several texts through a Llama-like decoder and its head, as one compiled function.

    x       [rows, hidden]       the residual streams        t     [rows, ranks]    A·input of every adapter in use
    qkv     [rows, (h + 2 g) d]  queries, keys, values       att   [rows, h d]      what attention brings together
    found   [rows, h, pieces, d + 2]  the same of some keys each
    gate_up [rows, 2 inner]      the two halves of the MLP   act   [rows, inner]    activation(gate) · up

with h query heads, g key-value heads, d numbers a head. All of it is float32; weights are widened as they are read,
keys and values are rounded to the cache's format as they are written. The base's weights are read once for all rows,
each row's adapter and cache are its own. The adapters' A rows are read in the phase that reads the weights of the same
input, and B is applied where the next phase needs the result:

    phase 0  q, k, v, A·x    1  + B·t, rotary, keys and values into the cache      2  attention over some keys each
          3  over all        4  o, A·att            5  + B·t, residual             6  (norm after attention)
          7  gate, up, A·x   8  + B·t, activation   9  down, A·act                10  + B·t, residual
         11  (norm after the MLP)

Rows may be tokens of one text that follow each other: all keys are in the cache before the first query is looked up.
What comes of a row is to the bit what it would be alone (`kernels.products`).
"""

from __future__ import annotations

import numpy as np
from numba import njit

from templora.kernels.bf16 import FAST, PART, exp
from templora.kernels.decode_attention import KEYS, NONE, adapted, attend, keys, merge, normalise, queries
from templora.kernels.pointers import address, call, read_float32
from templora.kernels.products import PREPARE, SUMS, TIMES
from templora.kernels.tables import (
    AFTER_ATTENTION,
    AFTER_MLP,
    ALL,
    BEFORE_ATTENTION,
    BEFORE_MLP,
    BIAS,
    CODES,
    COMPUTE,
    DOTS,
    DOWN,
    DOWN_B,
    EPSILON,
    FIRST,
    FORMAT,
    GATE,
    GATE_UP,
    GELU,
    GROUPS,
    HEAD_SIZE,
    HEADS,
    HIDDEN,
    INNER,
    LAST,
    LAYERS,
    LENGTH,
    MINIMUM,
    OUT,
    OUTPUT,
    QKV,
    ROW,
    ROWS,
    SCALE,
    SEGMENT,
    TEXTS,
    UP,
    O,
)
from templora.kernels.thread_team import claim, finish, wait
from templora.kernels.vectors import BLOCK

PHASES = 12  # a layer


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
            to = (in_halves + 2 * at, in_order + 2 * at, lying + 2 * at, sums + SUMS * blocks * row)
            call(calls[PREPARE], (x + 4 * at, blocks, *to, dots))
    while piece < count:
        s = segments[pieces[first + piece, SEGMENT]]
        lo, hi, row, at = pieces[first + piece, FIRST], pieces[first + piece, LAST], s[ROW], s[OUTPUT]
        texts, stride, skipped, into = rows, np.int64(out.shape[1]), NONE, address(out[0])
        if row != ALL:
            texts, stride, skipped, into = s[TEXTS], np.int64(t.shape[1]), n * row, address(t[row])
        of = (s[FORMAT], s[CODES], s[SCALE], s[MINIMUM], lo, hi, n)
        of_x = (x + 4 * skipped, in_halves + 2 * skipped, in_order + 2 * skipped, lying + 2 * skipped)
        given = (*of_x, sums + SUMS * blocks * (skipped // n), dots, texts)
        call(calls[TIMES], of + given + (into + 4 * (at + lo), stride))
        if s[BIAS]:
            for text in range(rows):
                for i in range(lo, hi):
                    out[text, at + i] += read_float32(s[BIAS], i)
        finish(sync, phase)
        piece = claim(sync, phase, count)


@njit(**PART)
def _residual(calls, lo, hi, x, y, b, t, scaling, format, into_x, spare):
    adapted(calls, b, lo, hi, y, lo, t, scaling, format, spare, y[lo:hi])
    if into_x:
        for i in range(lo, hi):
            x[i] += y[i]


@njit(**PART)
def _activation(calls, lo, hi, gate_up, act, inner, gelu, gate, up, t, scaling, format, spare):
    g, u = gate_up[lo:hi], gate_up[inner + lo : inner + hi]
    adapted(calls, gate, lo, hi, gate_up, lo, t, scaling, format, spare, g)
    adapted(calls, up, lo, hi, gate_up, inner + lo, t, scaling, format, spare, u)
    if gelu:  # the tanh form: 1 + tanh(z) = 2 − 2 / (e^2z + 1)
        for i in range(hi - lo):
            z = np.float32(0.7978845608028654) * (g[i] + np.float32(0.044715) * g[i] * g[i] * g[i])
            act[lo + i] = g[i] * (np.float32(1) - np.float32(1) / (exp(np.float32(2) * z) + np.float32(1))) * u[i]
    else:
        for i in range(hi - lo):
            act[lo + i] = g[i] / (np.float32(1) + exp(-g[i])) * u[i]


@njit(**PART)
def _pieces(place, first):
    """Into how many pieces the entries from `first` to the token's own are cut."""
    return (place[LENGTH] - first) // KEYS + 1


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
    found,
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
    phase = NONE
    for layer in range(layers):
        n, turn = norms[layer], rope_of[layer]

        first, last = products[4 * layer + QKV, 0], products[4 * layer + QKV, 1]
        # The norm is worked out by each worker for itself, before it claims anything it needs it for: x stands still
        # while this phase has unclaimed pieces, and a worker that comes too late claims none.
        for row in range(rows):
            normalise(x[row], n[BEFORE_ATTENTION], hidden, scales[EPSILON], h[row])
        _product(phase, sync, calls, pieces, first, last, segments, address(h[0]), hidden, own, sizes, qkv, t)
        wait(sync, phase, last - first)

        phase += 1
        piece = claim(sync, phase, 2 * rows * groups)
        while piece < 2 * rows * groups:
            row, group = piece // 2 % rows, piece // 2 // rows
            b = adapters[row, layer]
            of = qkv[row], t[row], scalings[row]
            if piece % 2:
                queries(calls, group, *of, sizes, scales, b, head_norms[layer], ropes[row, turn], rest)
            else:
                keys(
                    calls, group, places[row], *of, caches[row, layer], sizes, scales, b, head_norms[layer],
                    ropes[row, turn], rest,
                )  # fmt: skip
            finish(sync, phase)
            piece = claim(sync, phase, 2 * rows * groups)
        wait(sync, phase, 2 * rows * groups)

        phase += 1
        most = NONE
        for row in range(rows):
            most = max(most, _pieces(places[row], firsts[row, layer]))
        piece = claim(sync, phase, rows * groups * most)
        while piece < rows * groups * most:
            row, group, part = piece % rows, piece // rows // most, piece // rows % most
            attend(
                calls, group, part, places[row], firsts[row, layer], qkv[row], caches[row, layer], sizes, scales,
                found[row], rest,
            )  # fmt: skip
            finish(sync, phase)
            piece = claim(sync, phase, rows * groups * most)
        wait(sync, phase, rows * groups * most)

        phase += 1
        piece = claim(sync, phase, rows * heads)
        while piece < rows * heads:
            row = piece // heads
            merge(piece % heads, _pieces(places[row], firsts[row, layer]), found[row], sizes, scales, att[row])
            finish(sync, phase)
            piece = claim(sync, phase, rows * heads)
        wait(sync, phase, rows * heads)

        for product in (OUT, DOWN):
            if product == DOWN:
                phase += 1
                first, last = products[4 * layer + GATE_UP, 0], products[4 * layer + GATE_UP, 1]
                for row in range(rows):
                    normalise(x[row], n[BEFORE_MLP], hidden, scales[EPSILON], h[row])
                _product(
                    phase, sync, calls, pieces, first, last, segments, address(h[0]), hidden, own, sizes, gate_up, t
                )
                wait(sync, phase, last - first)
                phase += 1
                piece = claim(sync, phase, rows * parts)
                while piece < rows * parts:
                    row = piece % rows  # rows of one text read the same of an adapter's B, one after another
                    lo, hi = _share(piece // rows, parts, inner)
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
                row = piece % rows
                lo, hi = _share(piece // rows, parts, hidden)
                b = adapters[row, layer, O if product == OUT else DOWN_B]
                _residual(calls, lo, hi, x[row], y[row], b, t[row], scalings[row], format, not has_norm[after], rest)
                finish(sync, phase)
                piece = claim(sync, phase, rows * parts)
            wait(sync, phase, rows * parts)

            phase += 1
            if has_norm[after]:
                row = claim(sync, phase, rows)
                while row < rows:
                    normalise(y[row], n[after], hidden, scales[EPSILON], y[row])
                    for i in range(hidden):
                        x[row, i] += y[row, i]
                    finish(sync, phase)
                    row = claim(sync, phase, rows)
                wait(sync, phase, rows)
        phase += 1

    first, last = products[4 * layers, 0], products[4 * layers, 1]
    for row in range(rows):
        normalise(x[row], final_norm, hidden, scales[EPSILON], h[row])
    _product(phase, sync, calls, pieces, first, last, segments, address(h[0]), hidden, own, sizes, logits, t)
    wait(sync, phase, last - first)
