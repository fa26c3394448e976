"""Columns of the tables that `CpuStep` fills in and the compiled step reads."""

from __future__ import annotations

FORMAT, CODES, SCALE, MINIMUM, BIAS, OUTPUT, ROW, TEXTS = range(8)  # of a segment: rows of weights with one input
# ROW of the base's segments, which all texts are multiplied with. That of an adapter's A is the first of the TEXTS, one
# after another, that are its own, and what comes of it goes to `t`.
ALL = -1
SEGMENT, FIRST, LAST = range(3)  # of a piece: some rows of a segment
QKV, OUT, GATE_UP, DOWN, HEAD = range(5)  # products; the first four of each layer, then the head's
B_CODES, B_FIRST_T, B_RANK = range(3)  # of an adapter's B
Q, K, V, O, GATE, UP, DOWN_B = range(7)  # noqa: E741  targets of a layer, in the order of `adapters`
HIDDEN, INNER, HEADS, GROUPS, HEAD_SIZE, LAYERS, GELU, COMPUTE, DOTS, ROWS = range(10)  # sizes
LENGTH, CAPACITY = range(2)  # of a row's cache
EPSILON, ATTENTION_SCALE = range(2)  # scales
BEFORE_ATTENTION, AFTER_ATTENTION, BEFORE_MLP, AFTER_MLP = range(4)  # norms of a layer
