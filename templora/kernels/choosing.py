"""One token from fp32 logits [vocabulary] on the CPU, in a few passes over them: `templora.sampling` for its most usual
options, several times faster than one operator after another.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
from numba import njit

from templora.kernels.bf16 import FAST, LOWEST, exp, ordered, unordered

_f = np.float32
_ZERO, _FAINT = _f(0), _f(-60)
_INFINITE = _f(np.inf)


@njit(inline="always")
def _largest(x):
    """The maximum; of NaNs, those without a sign count as larger than infinity, the others are passed over."""
    top = LOWEST
    for j in range(x.size):
        top = max(top, ordered(x[j]))
    return unordered(top)


@njit(**FAST)
def entropy(logits):
    """Entropy in nats, fp32, of the softmax of logits."""
    most = _largest(logits)
    total, weighted = _ZERO, _ZERO
    for j in range(logits.size):
        # What is 60 nats less likely than the likeliest has no part in it, and −inf would give 0 · −inf.
        below = max(logits[j] - most, _FAINT)
        weight = exp(below)
        total += weight
        weighted += weight * below
    return math.log(total) - weighted / total


@njit(**FAST)
def penalised(logits, banned, recent, penalty, scores):
    """Logits [V] with those of `banned` ids at −inf, and of `recent` ones divided by the penalty, or multiplied where
    they are negative (arXiv 1909.05858, section 4.1), into `scores` [V]; False if the largest logit is not finite, or
    one of them no number."""
    wrong = 0
    for j in range(logits.size):
        scores[j] = logits[j]
        wrong += np.int32(logits[j] != logits[j])
    most = _largest(logits)
    if wrong or most == _INFINITE or most == -_INFINITE:
        return False
    for token in banned:
        if 0 <= token < scores.size:  # a tokenizer may know more than the model
            scores[token] = -_INFINITE
    if penalty != _f(1):
        for token in recent:
            if 0 <= token < scores.size and scores[token] != -_INFINITE:
                scores[token] = logits[token] * penalty if logits[token] < _ZERO else logits[token] / penalty
    return True


@njit(**FAST)
def likeliest(scores):
    """The first index of the largest of scores [V]; −1 if all are −inf."""
    most = _largest(scores)
    for j in range(scores.size):
        if scores[j] == most and most > -_INFINITE:
            return j
    return -1


@njit(**FAST)
def drawn(scores, temperature, margin, uniform, kept, below):
    """The index that is drawn from the softmax of scores [V] / temperature, without those that are further than −margin
    below the largest; −1 if none is left.

    Args:
        uniform: from [0, 1).
        kept, below: memory, int64 and float64 [V].
    """
    most = _largest(scores)
    least, many = most + margin, 0
    if temperature != _f(1):
        for j in range(scores.size):
            scores[j] = (scores[j] - most) / temperature
        most, least = _ZERO, margin
    for j in range(scores.size):
        if scores[j] >= least and scores[j] > -_INFINITE:
            kept[many] = j
            many += 1
    total = 0.0
    for i in range(many):
        total += math.exp(float(scores[kept[i]]) - float(most))
        below[i] = total
    for i in range(many):
        if below[i] > total * uniform:
            return kept[i]
    return kept[many - 1] if many else -1


class _Scratch(threading.local):
    """Memory of a thread: whoever chooses is done with it before another one begins."""

    scores = np.empty(0, np.float32)
    kept = np.empty(0, np.int64)
    below = np.empty(0, np.float64)

    def room(self, size: int) -> None:
        if self.scores.size != size:
            self.scores, self.kept = np.empty(size, np.float32), np.empty(size, np.int64)
            self.below = np.empty(size, np.float64)


_scratch = _Scratch()


class Chooser:
    """Chooses tokens with the options that most texts are written with.

    Args:
        banned: ids that are never chosen.
        penalty: that of repetition; 1: none.
        temperature: 0: always the likeliest.
        min_p: above 0.
    """

    def __init__(self, banned: Sequence[int], penalty: float, temperature: float, min_p: float) -> None:
        self._banned = np.array(banned, np.int64)
        self._penalty, self._greedy, self._margin = _f(penalty), temperature == 0, _f(math.log(min_p or 1))
        self._temperature = _f(min(1e6, max(1e-6, temperature)))
        self(np.zeros(2, np.float32), (), 0.0)  # compiled or loaded before the first token's clock runs

    def __call__(self, logits: Any, recent: Sequence[int], uniform: float) -> int | None:
        """A token; None: logits that are not finite, or none that may be chosen.

        Args:
            logits: fp32 [vocabulary], as torch or numpy has them; left as they are.
            recent: ids that the penalty is for.
            uniform: the random number, from [0, 1).
        """
        x, own = np.asarray(logits), _scratch
        own.room(x.size)
        ids = np.array(recent if self._penalty != 1 else (), np.int64)
        if not penalised(x, self._banned, ids, self._penalty, own.scores):
            return None
        if self._greedy:
            token = likeliest(own.scores)
        else:
            token = drawn(own.scores, self._temperature, self._margin, uniform, own.kept, own.below)
        return None if token < 0 else int(token)
