"""Causal attention of bf16 numbers on the CPU, and its gradients: scores never leave the nearest caches.

    forward     64 queries × their keys: scores, softmax, times values; kept is the norm of each query's softmax
    backward    64 queries × 64 keys after each other: probabilities from scores and norm again, then all products

as FlashAttention does on GPUs (arXiv 2205.14135; 2307.08691, section 3.1). Sums are fp32, scores too; what goes into a
product is bf16. Heads are worked on apart, so what comes out does not depend on the number of threads.

Numbers go into products as words, two bf16 that follow each other in the sum. One side has them in rows, the other in
panels [words, 64]:

    across    columns are keys, a word is two numbers of one key     scores, and the gradient of probabilities
    along     columns are numbers, a word is one of two keys         values, and the gradient of queries

Slots are listed with each kernel (`openmp.run`). H heads, G key heads, Q queries, K keys, D and V numbers of a key and
a value; Q' is Q rounded up to whole blocks, K', D' and V' to whole panels, with zeros.
"""

from __future__ import annotations

from itertools import chain
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from llvmlite import ir
from numba import cfunc, njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from templora.kernels.bf16 import LOOSE, LOWEST, bf16_to_f32, exp, f32_to_bf16, ordered, unordered
from templora.kernels.openmp import doubles, floats, halves, integers, run, share, words
from templora.kernels.vectors import F32, I32, LANES, dot, integer, lanes_at, spread, store, vector, widened

_KERNEL = types.void(types.voidptr)
_ROWS = 4  # of a tile, whose sums stay in registers
COLUMNS = 64  # of a tile and a panel
_QUERIES = 64  # of a block
_f = np.float32
_ZERO, _ONE = _f(0), _f(1)


@intrinsic
def _tile(typing: Any, a: Any, panel: Any, depth: Any, c: Any, stride: Any, add: Any) -> Any:
    """`_times` for four rows, whose sums stay in registers."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        b = builder
        a, panel, depth, c, stride, add = args
        zero, vectors = ir.Constant(vector(F32), None), range(0, COLUMNS, LANES)
        rows, starts = ([b.mul(n, integer(r)) for r in range(_ROWS)] for n in (depth, stride))
        sums = [[cgutils.alloca_once_value(b, zero) for _ in vectors] for _ in rows]
        places = [[b.add(start, integer(v)) for v in vectors] for start in starts]
        with b.if_then(b.icmp_signed("!=", add, integer(0))):
            for held, at in zip(chain(*sums), chain(*places), strict=True):
                b.store(lanes_at(b, c, F32, at, 4), held)
        with cgutils.for_range(b, depth) as loop:
            begin = b.mul(loop.index, integer(COLUMNS))
            columns = [lanes_at(b, panel, I32, b.add(begin, integer(v)), 4) for v in vectors]
            for row, of_row in zip(rows, sums, strict=True):
                # As a float: what is spread over the lanes is one.
                word = b.bitcast(spread(b, widened(b, a, F32, b.add(row, loop.index), 1)), vector(I32))
                for held, column in zip(of_row, columns, strict=True):
                    b.store(dot(b, b.load(held), word, column), held)
        for held, at in zip(chain(*sums), chain(*places), strict=True):
            store(b, b.load(held), c, F32, at)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 6), generate


@njit(inline="always")
def _times(a, rows, panel, depth, c, stride, add):
    """c [rows, 64] = a [rows, depth] · panel [depth, 64], plus what c was if `add`; addresses, `rows` a multiple of 4,
    those of c `stride` numbers apart."""
    for r in range(0, rows, _ROWS):
        _tile(a + 4 * depth * r, panel, depth, c + 4 * stride * r, stride, add)


@njit(inline="always")
def _softmax(scores, scale, begin, end, wide, shares):
    """Shares [wide] of scores, not yet divided by their sum, zero outside of [begin, end): (largest score, sum)."""
    top, total = LOWEST, _ZERO
    for j in range(begin, end):
        top = max(top, ordered(scores[j]))
    most = unordered(top) * scale
    for j in range(begin):
        shares[j] = np.uint16(0)
    for j in range(begin, end):
        e = exp(scores[j] * scale - most)
        total += e
        shares[j] = f32_to_bf16(e)
    for j in range(end, wide):
        shares[j] = np.uint16(0)
    return most, total


@cfunc(_KERNEL, cache=True, fastmath=LOOSE, error_model="numpy")
def forward(data):
    """0 blocks of all heads
    1 query [H, Q', D / 2] words          2 keys across [G, K' / 64, D / 2, 64] words
    3 values along [G, V' / 64, K' / 2, 64] words
    4 out bf16 [Q, H, V], written         5 norm fp32 [H, Q'], written: the logarithm of what each softmax divides by
    6 rest bf16 [Q, H, V], written unless it is 0: of out, what rounding took
    7 H   8 H / G   9 Q'   10 Q   11 K'   12 K   13 D   14 V   15 window   16 scale (double)   17 queries of a block
    """
    a = integers(data)
    query, across, along, out, norm, rest = a[1], a[2], a[3], halves(a[4]), floats(a[5]), halves(a[6])
    heads, shared, all_queries, queries, all_keys, keys = a[7], a[8], a[9], a[10], a[11], a[12]
    size, width, window, scale, many = a[13], a[14], a[15], np.float32(doubles(data)[16]), a[17]
    blocks, own, panels = all_queries // many, keys - queries, (width + COLUMNS - 1) // COLUMNS
    stride = panels * COLUMNS
    memory, halves_memory = np.empty(many * (all_keys + stride + 1), np.float32), np.empty(many * all_keys, np.uint16)
    score_at, share_at = memory.ctypes.data, halves_memory.ctypes.data
    sum_at = score_at + 4 * many * all_keys
    sums, totals = floats(sum_at), floats(sum_at + 4 * many * stride)
    first, last = share(a[0])
    for unit in range(first, last):
        head, begin = unit // blocks, unit % blocks * many
        group, row = head // shared, head * all_queries + begin
        seen = own + begin + 1  # keys that the first query has seen, if there is no window
        left = max(0, seen - window) // COLUMNS * COLUMNS
        wide = (min(keys, seen + many - 1) - left + COLUMNS - 1) // COLUMNS * COLUMNS
        for c in range(0, wide, COLUMNS):
            panel = across + 2 * size * (group * all_keys + left + c)
            _times(query + 2 * size * row, many, panel, size // 2, score_at + 4 * c, wide, 0)
        for r in range(many):
            end = min(keys, seen + r)
            scores, shares = floats(score_at + 4 * r * wide), halves(share_at + 2 * r * wide)
            most, total = _softmax(scores, scale, max(0, end - window) - left, end - left, wide, shares)
            norm[row + r] = most + np.float32(np.log(total))
            totals[r] = total
        for p in range(panels):
            panel = along + 2 * COLUMNS * (all_keys * (group * panels + p) + left)
            _times(share_at, many, panel, wide // 2, sum_at + 4 * COLUMNS * p, stride, 0)
        for r in range(min(many, queries - begin)):
            to, factor = ((begin + r) * heads + head) * width, _ONE / totals[r]
            for j in range(width):
                out[to + j] = f32_to_bf16(sums[r * stride + j] * factor)
            if a[6]:
                for j in range(width):
                    rest[to + j] = f32_to_bf16(sums[r * stride + j] * factor - bf16_to_f32(out[to + j]))
    memory[0], halves_memory[0] = _ZERO, 0  # uses of the arrays, which would be freed after their last one


@njit(inline="always")
def _turn(x, many, size, turned):
    """Words [size, many / 2] of x bf16 [many, size]: two numbers of a column each."""
    for i in range(many // 2):
        above, below = 2 * i * size, (2 * i + 1) * size
        for d in range(size):
            turned[d * (many // 2) + i] = _word(x[above + d], x[below + d])


@njit(inline="always")
def _word(low, high):
    return np.int32(low) | (np.int32(high) << np.int32(16))


@njit(inline="always")
def _probability(score, norm, j, end, window):
    p = exp(score - norm)
    return p if j < end and j >= end - window else _ZERO


@njit(inline="always")
def _score_gradients(scores, slopes, scale, window, many, end, norm, means, rows, pairs, shares):
    """Gradients of scores [many, 64], given those of probabilities: P (slope − mean) · scale.

    Args:
        end: of the keys that the first query sees.
        norm, means: of each query.
        rows: of the gradients, bf16 [many, 64], written.
        pairs, shares: of the gradients and of probabilities, as panels [many / 2, 64] of words, written.
    """
    for i in range(many // 2):
        one, other = 2 * i, 2 * i + 1
        above, below = one * COLUMNS, other * COLUMNS
        for j in range(COLUMNS):
            p = _probability(scores[above + j] * scale, norm[one], j, end + one, window)
            q = _probability(scores[below + j] * scale, norm[other], j, end + other, window)
            rows[above + j] = d = f32_to_bf16(p * (slopes[above + j] - means[one]) * scale)
            rows[below + j] = e = f32_to_bf16(q * (slopes[below + j] - means[other]) * scale)
            pairs[i * COLUMNS + j] = _word(d, e)
            shares[i * COLUMNS + j] = _word(f32_to_bf16(p), f32_to_bf16(q))


@cfunc(_KERNEL, cache=True, fastmath=LOOSE, error_model="numpy")
def backward(data):
    """0 parts of all heads
    1 query [H, Q', D / 2] words                     2 keys across [G, K' / 64, D / 2, 64] words
    3 values across [G, K' / 64, V / 2, 64] words    4 keys along [G, D' / 64, K' / 2, 64] words
    5 gradient of out [H, Q', V / 2] words           6 norm fp32 [H, Q']
    7 means fp32 [H, Q'] of the gradients of each query's probabilities, weighted by these
    8 gradient of query bf16 [H, Q', D], written
    9, 10 of keys and values fp32 [H, P, D or V, keys from the own ones' first panel on], added to
    11 H / G   12 Q'   13 Q   14 K'   15 K   16 D   17 V   18 window   19 scale (double)   20 queries of a block
    21 P: parts that the blocks of a head are worked on in
    """
    a = integers(data)
    query, across, values, along, given = a[1], a[2], a[3], a[4], a[5]
    norm, means, d_query, d_key, d_value = a[6], a[7], halves(a[8]), a[9], a[10]
    shared, all_queries, queries, all_keys, keys, size, width = a[11], a[12], a[13], a[14], a[15], a[16], a[17]
    window, scale, many, parts = a[18], np.float32(doubles(data)[19]), a[20], a[21]
    blocks, own, panels = all_queries // many, keys - queries, (size + COLUMNS - 1) // COLUMNS
    first_own, stride, tile = own // COLUMNS * COLUMNS, panels * COLUMNS, many * COLUMNS
    wide = all_keys - first_own
    memory = np.empty(2 * tile + many * stride, np.float32)
    words_memory = np.empty(tile // 2 * 3 + many // 2 * (size + width), np.int32)
    score_at, rows_at = memory.ctypes.data, words_memory.ctypes.data
    slope_at, sum_at = score_at + 4 * tile, score_at + 8 * tile
    pairs_at, shares_at, turned_at = rows_at + 2 * tile, rows_at + 4 * tile, rows_at + 6 * tile
    given_turned_at, sums = turned_at + 2 * many * size, floats(sum_at)
    first, last = share(a[0])
    for unit in range(first, last):
        head, part = unit // parts, unit % parts
        for block in range(blocks * part // parts, blocks * (part + 1) // parts):
            begin = block * many
            row, seen = head * all_queries + begin, own + begin + 1  # as in `forward`
            of_query, of_given = query + 2 * size * row, given + 2 * width * row
            _turn(halves(of_query), many, size, words(turned_at))
            _turn(halves(of_given), many, width, words(given_turned_at))
            for j in range(many * stride):
                sums[j] = _ZERO
            for c in range(max(0, seen - window) // COLUMNS * COLUMNS, min(keys, seen + many - 1), COLUMNS):
                panel = head // shared * all_keys + c
                _times(of_query, many, across + 2 * size * panel, size // 2, score_at, COLUMNS, 0)
                _times(of_given, many, values + 2 * width * panel, width // 2, slope_at, COLUMNS, 0)
                _score_gradients(
                    floats(score_at), floats(slope_at), scale, window, many, seen - c,
                    floats(norm + 4 * row), floats(means + 4 * row), halves(rows_at), words(pairs_at), words(shares_at),
                )  # fmt: skip
                for p in range(panels):
                    panel = along + 2 * COLUMNS * (all_keys * (head // shared * panels + p) + c)
                    _times(rows_at, many, panel, COLUMNS // 2, sum_at + 4 * COLUMNS * p, stride, 1)
                if c >= first_own:
                    to_key = d_key + 4 * (size * wide * unit + c - first_own)
                    to_value = d_value + 4 * (width * wide * unit + c - first_own)
                    _times(turned_at, size, pairs_at, many // 2, to_key, wide, 1)
                    _times(given_turned_at, width, shares_at, many // 2, to_value, wide, 1)
            for r in range(many):
                for d in range(size):
                    d_query[(row + r) * size + d] = f32_to_bf16(sums[r * stride + d])
    memory[0], words_memory[0] = _ZERO, 0  # as in `forward`


def _padded(x: torch.Tensor, rows: int) -> torch.Tensor:
    """x [N, M, D], contiguous and beginning with a whole word, with M made `rows` by zeros."""
    if x.shape[1] < rows:
        return F.pad(x, (0, 0, 0, rows - x.shape[1]))
    x = x.contiguous()
    return x.clone() if x.storage_offset() % 2 else x


def _across(x: torch.Tensor) -> torch.Tensor:
    """Panels [N, K / 64, D / 2, 64] whose columns are keys, of x [N, K, D]."""
    n, rows, size = x.shape
    return x.view(torch.int32).view(n, rows // COLUMNS, COLUMNS, size // 2).transpose(2, 3).contiguous()


def _along(x: torch.Tensor) -> torch.Tensor:
    """Panels [N, D' / 64, K / 2, 64] whose columns are numbers, of x [N, K, D]."""
    n, rows, size = x.shape
    wide = -(-size // COLUMNS) * COLUMNS
    x = F.pad(x, (0, wide - size)) if wide > size else x
    pairs = x.view(n, rows // 2, 2, wide // COLUMNS, COLUMNS).permute(0, 3, 1, 4, 2).contiguous()
    return pairs.view(torch.int32)


def _rounded_up(number: int, to: int) -> int:
    return -(-number // to) * to


def attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float, window: int, learnt: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """query [H, Q, D], key [G, K, D], value [G, K, V] in bf16, D and V multiples of 4 → out [Q, H, V] and, if it is
    `learnt`, what `gradients` needs: what rounding took of out, bf16 [Q, H, V], and the softmax's norm, fp32 [H, Q'].
    """
    (heads, queries, size), (groups, keys, width) = query.shape, value.shape
    many = min(_QUERIES, _rounded_up(queries, _ROWS))
    rows, columns = _rounded_up(queries, many), _rounded_up(keys, COLUMNS)
    out, norm = query.new_empty(queries, heads, width), torch.empty(heads, rows, dtype=torch.float32)
    rest = torch.empty_like(out) if learnt else out.new_empty(0)
    given = _padded(query, rows), _across(_padded(key, columns)), _along(_padded(value, columns))
    shape = heads, heads // groups, rows, queries, columns, keys, size, width, window
    run(forward, heads * rows // many, *given, out, norm, rest, *shape, float(scale), many)
    return out, rest, norm


def gradients(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    out: torch.Tensor,
    rest: torch.Tensor,
    norm: torch.Tensor,
    grad: torch.Tensor,
    scale: float,
    window: int,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Those of query, key and value, of which the first K − Q are constants; grad [Q, H, V] is that of out."""
    (heads, queries, size), (groups, keys, width) = query.shape, value.shape
    many = min(_QUERIES, _rounded_up(queries, _ROWS))
    rows, columns, own = _rounded_up(queries, many), _rounded_up(keys, COLUMNS), keys - queries
    key, value = _padded(key, columns), _padded(value, columns)
    # Of out before it was rounded: what is left of a gradient after its mean has gone may be little.
    means = _padded((grad * (out.float() + rest)).sum(-1).t()[..., None], rows)
    given = _padded(query, rows), _across(key), _across(value), _along(key), _padded(grad.transpose(0, 1), rows)
    parts = 1 if heads >= 16 else 2  # with few heads threads would wait for the one that has one more
    begin = own // COLUMNS * COLUMNS
    d_query = query.new_empty(heads, rows, size)
    sums = [norm.new_zeros(groups, heads // groups * parts, n, columns - begin) for n in (size, width)]
    shape = heads // groups, rows, queries, columns, keys, size, width, window
    run(backward, heads * parts, *given, norm, means, d_query, *sums, *shape, float(scale), many, parts)
    found = [query.new_zeros(groups, keys, n) for n in (size, width)]
    for whole, each in zip(found, sums, strict=True):
        whole[:, own:] = each.sum(1)[:, :, own - begin : keys - begin].transpose(1, 2)
    return d_query[:, :queries], found[0], found[1]
