from __future__ import annotations

import math
import random

import pytest

from templora.metrics import (
    Likelihood,
    bootstrap,
    compression_ratio,
    distinct,
    middle,
    perplexity,
    repeated,
    repetition,
)


def test_a_toy_text_by_hand() -> None:
    """Two chunks: 2 tokens of probability 1/2, then 1 token of probability 1/16."""
    likelihood = Likelihood()
    likelihood.add(2 * math.log(2), 2)
    likelihood.add(math.log(16), 1)
    found = likelihood.summary(words=2, utf8_bytes=12)
    assert found["nll"] == pytest.approx(6 * math.log(2))
    assert found["perplexity"] == pytest.approx(2 ** (6 / 3))
    assert found["mean_chunk_perplexity"] == pytest.approx((2 * 2 + 16) / 3)  # above 4: Jensen
    assert found["word_perplexity"] == pytest.approx(2 ** (6 / 2))
    assert found["bits_per_byte"] == pytest.approx(6 / 12)


def test_nothing_scored() -> None:
    assert Likelihood().summary(0, 0)["perplexity"] is None
    assert perplexity(1.0, 0) is None
    assert perplexity(1e6, 1) == math.inf


def test_repetition_by_hand() -> None:
    ids = [1, 2, 1, 2, 1, 2]
    assert distinct(ids, 1) == pytest.approx(2 / 6)
    assert distinct(ids, 2) == pytest.approx(2 / 5)
    assert repeated(ids, 4) == pytest.approx(1 / 3)
    assert repeated(list(range(50))) == 0.0
    assert distinct([1], 2) == 1.0


def test_a_loop_compresses_better_than_prose() -> None:
    prose = (
        "It was the best of times, it was the worst of times, it was the age of wisdom, it was the age of foolishness"
    )
    assert compression_ratio("the cat sat. " * 100) > 20 > 3 > compression_ratio(prose)
    assert set(repetition([1, 2, 3], "a b c")) == {
        "distinct_1",
        "distinct_2",
        "distinct_4",
        "repeated_4grams",
        "compression_ratio",
    }


def test_the_middle_is_rounded_outwards() -> None:
    assert middle(range(1000, -1, -1)) == (25, 975)
    assert middle(range(1000)) == (24, 975)
    assert middle([3.0, 1.0, 2.0]) == (1.0, 3.0)
    assert middle([7.0]) == (7.0, 7.0)


def test_a_bootstrap_draws_whole_items() -> None:
    """Written out: of 400 draws nine lie below it and nine above; the same seed, the same draws."""
    items, draw = [1.0, 5.0, 6.0, 20.0], random.Random(3)
    drawn = sorted(sum(draw.choices(items, k=4)) / 4 for _ in range(400))
    assert bootstrap(lambda some: sum(some) / len(some), items, 400, 3) == (drawn[9], drawn[390])
    assert bootstrap(sum, [1.0], 400, 3) is None
