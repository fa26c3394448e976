"""Figures of pooled texts: perplexities, changes, and how sure one can be of them. Arithmetic only."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from templora.metrics import Likelihood, bootstrap

_RESAMPLES = 10_000
_SEED = 20240121


@dataclass(frozen=True)
class Pair:
    """One text under two settings: total NLLs in nats over the same tokens."""

    base: float
    ours: float
    tokens: int


def change(pairs: Sequence[Pair]) -> float | None:
    """Corpus perplexity under ours against base's, as a share: −0.1 = 10 % lower. None without tokens.

    Perplexity is exp(total NLL / total tokens), so its ratio is exp of the difference.
    """
    tokens = sum(p.tokens for p in pairs)
    if not tokens:
        return None
    return math.expm1(min(700.0, math.fsum(p.ours - p.base for p in pairs) / tokens))


def interval(pairs: Sequence[Pair]) -> tuple[float, float] | None:
    """Paired bootstrap of `change` over texts, 95 %: percentiles of resamples of whole texts; None for fewer than two.

    Both settings of a text stay together, so differences between texts do not widen it.
    """
    return bootstrap(lambda drawn: change(drawn) or 0.0, pairs, _RESAMPLES, _SEED)


@dataclass(frozen=True)
class Bucket:
    """From `low` up to below `high` tokens."""

    low: int
    high: float

    def __contains__(self, tokens: int) -> bool:
        return self.low <= tokens < self.high

    @property
    def name(self) -> str:
        if math.isinf(self.high):
            return f"{_short(self.low)}+" if self.low else "all"
        return f"{_short(self.low)}–{_short(int(self.high))}"


def _short(tokens: int) -> str:
    return f"{tokens / 1000:g}K" if tokens else "0"


ALL = Bucket(0, math.inf)
# The paper's.
PAPER = (0, 100_000, 300_000, 500_000, math.inf)
FINER = (
    (0, 1_000, 2_000, 5_000),
    (0, 2_000, 5_000, 10_000, 20_000),
    (0, 5_000, 10_000, 20_000, 40_000),
    (0, 10_000, 20_000, 40_000, 60_000),
    (0, 10_000, 20_000, 40_000, 60_000, 100_000),
)


def buckets(longest: int) -> list[Bucket]:
    """The paper's buckets; for shorter runs, all of which would lie in the first one, finer ones."""
    edges: Sequence[float] = PAPER
    if longest <= PAPER[1]:
        edges = min((e for e in FINER if longest <= e[-1]), key=lambda e: e[-1])
    return [Bucket(int(low), high) for low, high in pairwise(edges)]


class Figures(NamedTuple):
    """Every definition of perplexity, of the same predictions (see `templora.metrics.Likelihood.summary`)."""

    perplexity: float | None
    mean_chunk_perplexity: float | None
    word_perplexity: float | None
    bits_per_byte: float | None


def figures(chunks: Sequence[dict[str, float]]) -> Figures:
    """The summary of chunks with `nll`, `targets`, `words` and `bytes`."""
    tokens, words, utf8_bytes = (int(sum(c[key] for c in chunks)) for key in ("targets", "words", "bytes"))
    each = [(c["nll"], int(c["targets"])) for c in chunks]
    found = Likelihood(math.fsum(nll for nll, _ in each), tokens, each).summary(words, utf8_bytes)
    del found["nll"]
    return Figures(**found)
