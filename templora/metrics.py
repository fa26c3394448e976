"""Numbers about text: how well it was predicted, how much it repeats itself, and how sure one can be of what is made of
them. No model, no tensors."""

from __future__ import annotations

import math
import random
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

_Item = TypeVar("_Item")


def perplexity(nll: float, units: int) -> float | None:
    """exp(total NLL / number of units); None where there is nothing to average. NLL in nats."""
    if units <= 0:
        return None
    mean = nll / units
    return math.exp(mean) if mean < 700 else math.inf


@dataclass
class Likelihood:
    """How well one model predicted a text, gathered chunk by chunk."""

    nll: float = 0.0
    tokens: int = 0
    chunk_nll: list[tuple[float, int]] = field(default_factory=list, repr=False)

    def add(self, nll: float, tokens: int) -> None:
        """Adds a chunk: its total NLL in nats over `tokens` predicted tokens."""
        self.nll += nll
        self.tokens += tokens
        self.chunk_nll.append((nll, tokens))

    def summary(self, words: int, utf8_bytes: int) -> dict[str, float | None]:
        """The report's figures for this model.

        - `perplexity`: exp(NLL / tokens), the standard definition.
        - `mean_chunk_perplexity`: token-weighted mean of each chunk's exp(loss). This is what the paper's released
          scripts print; it is never below `perplexity` (Jensen) and is here for comparison only.
        - `word_perplexity`: exp(NLL / words), PG19's convention; words are separated by white space.
        - `bits_per_byte`: NLL in bits over the UTF-8 bytes of the predicted text.
        """
        weighted = sum((perplexity(nll, n) or 0.0) * n for nll, n in self.chunk_nll)
        return {
            "nll": self.nll,
            "perplexity": perplexity(self.nll, self.tokens),
            "mean_chunk_perplexity": weighted / self.tokens if self.tokens else None,
            "word_perplexity": perplexity(self.nll, words),
            "bits_per_byte": self.nll / math.log(2) / utf8_bytes if utf8_bytes else None,
        }


def distinct(ids: Sequence[int], n: int) -> float:
    """Share of n-grams that are different from each other, 0 to 1 (distinct-n; Li et al., arXiv 1510.03055)."""
    grams = [tuple(ids[i : i + n]) for i in range(len(ids) - n + 1)]
    return len(set(grams)) / len(grams) if grams else 1.0


def repeated(ids: Sequence[int], n: int = 4) -> float:
    """Share of n-grams that occurred before in the same sequence: 1 − distinct-n (seq-rep-n; arXiv 1908.04319)."""
    return 1.0 - distinct(ids, n)


def compression_ratio(text: str) -> float:
    """UTF-8 bytes over their zlib-compressed size: ordinary English prose of 10 KB is near 2.3, a loop far above."""
    raw = text.encode()
    return len(raw) / len(zlib.compress(raw, 9)) if raw else 1.0


def repetition(ids: Sequence[int], text: str) -> dict[str, float]:
    """How much a written text repeats itself."""
    return {
        "distinct_1": distinct(ids, 1),
        "distinct_2": distinct(ids, 2),
        "distinct_4": distinct(ids, 4),
        "repeated_4grams": repeated(ids, 4),
        "compression_ratio": compression_ratio(text),
    }


def middle(values: Iterable[float]) -> tuple[float, float]:
    """Between what the middle 95 % of them lie, rounded outwards; of at least one value."""
    ordered = sorted(values)
    last = len(ordered) - 1
    return ordered[math.floor(0.025 * last)], ordered[math.ceil(0.975 * last)]


def bootstrap(
    statistic: Callable[[list[_Item]], float], items: Sequence[_Item], draws: int, seed: int
) -> tuple[float, float] | None:
    """The 95 % interval of a statistic, by draws of as many items with replacement; None for fewer than two items."""
    if len(items) < 2:
        return None
    draw = random.Random(seed)
    return middle(statistic(draw.choices(items, k=len(items))) for _ in range(draws))
