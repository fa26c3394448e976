"""Figures of evaluations, against arithmetic written out."""

from __future__ import annotations

import math

import pytest

from templora.evals.reporting.statistics import PAPER, Pair, buckets, change, figures, interval


def chunk(nll: float, targets: int, words: int = 0, many: int = 0) -> dict[str, float]:
    return {"nll": nll, "targets": targets, "words": words, "bytes": many}


def test_every_definition_of_perplexity_by_hand() -> None:
    """Two chunks: 4 tokens at probability 1/2 and 2 at 1/8; 3 words, 20 bytes in all."""
    found = figures([chunk(4 * math.log(2), 4, 2, 12), chunk(2 * math.log(8), 2, 1, 8)])
    nll = 4 * math.log(2) + 2 * math.log(8)
    assert found.perplexity == pytest.approx(math.exp(nll / 6)) == pytest.approx(2 ** (10 / 6))
    assert found.mean_chunk_perplexity == pytest.approx((4 * 2 + 2 * 8) / 6)
    assert found.word_perplexity == pytest.approx(2 ** (10 / 3))
    assert found.bits_per_byte == pytest.approx(10 / 20)


def test_nothing_has_no_figures() -> None:
    assert figures([]) == figures([chunk(0.0, 0)])
    assert figures([]).perplexity is None
    assert change([]) is None
    assert interval([Pair(1, 1, 1)]) is None


def test_change_is_of_corpus_perplexity() -> None:
    """Pooled before the ratio: a mean of the two texts' own changes would be another number."""
    pairs = [Pair(30.0, 20.0, 10), Pair(100.0, 90.0, 90)]
    assert change(pairs) == pytest.approx(math.exp(110 / 100) / math.exp(130 / 100) - 1)


def test_the_interval_is_of_pairs() -> None:
    """Texts that differ a hundredfold, but gain alike, leave no doubt; gains of both signs do."""
    low, high = interval([Pair(10.0, 9.0, 10), Pair(1000.0, 999.0, 10), Pair(500.0, 499.0, 10)]) or (0, 0)
    assert low == pytest.approx(high) == pytest.approx(math.exp(-0.1) - 1)
    low, high = interval([Pair(10.0, 8.0, 10), Pair(10.0, 12.0, 10)]) or (0, 0)
    assert low == pytest.approx(math.expm1(-0.2))
    assert high == pytest.approx(math.expm1(0.2))
    assert interval([Pair(10.0, 8.0, 10), Pair(9.0, 12.0, 10)]) == interval([Pair(10.0, 8.0, 10), Pair(9.0, 12.0, 10)])


def test_a_chunk_on_a_boundary_is_in_one_bucket() -> None:
    for longest in (10, 5_000, 60_000, 90_000, 100_000, 100_001, 10**6):
        found = buckets(longest)
        for at in (0, 499, 10_000, 59_999, 99_999, 100_000, 300_000):
            if at < longest:
                assert sum(at in b for b in found) == 1, (longest, at)
    assert [b.name for b in buckets(10**6)] == ["0–100K", "100K–300K", "300K–500K", "500K+"]
    assert buckets(60_000)[-1].high == 60_000
    assert [b.low for b in buckets(200_000)] == list(PAPER[:-1])
