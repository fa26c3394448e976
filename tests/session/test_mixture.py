"""The mixture of base and adapter: its arithmetic, and what it guarantees."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given, strategies as st

from templora.session.mixture import EXPERTS, SHARE, Mixture

NLLS = st.lists(st.tuples(st.floats(0, 60), st.floats(0, 60)), min_size=1, max_size=80)


def test_two_tokens_by_hand() -> None:
    """Likelihoods 1/2 and 1/4, then 1/8 and 1/2: every expert, its weight, and the sums written out."""
    mixture = Mixture()
    first, second = mixture.nll([math.log(4), math.log(2)], [math.log(2), math.log(8)])
    p = [1 / 2, 0.8 / 2 + 0.2 / 4, 1 / 4]
    assert first == pytest.approx(-math.log(sum(p) / 3))
    w = [(1 - SHARE) * x / sum(p) + SHARE / 3 for x in p]
    assert second == pytest.approx(-math.log(w[0] / 8 + w[1] * (0.8 / 8 + 0.2 / 2) + w[2] / 2))


@given(NLLS)
def test_it_costs_no_more_than_the_best_expert_and_a_little(nlls: list[tuple[float, float]]) -> None:
    base, adapted = [b for b, _ in nlls], [a for _, a in nlls]
    total = sum(Mixture().nll(base, adapted))
    for part in EXPERTS:
        alone = -sum(math.log(part * math.exp(-a) + (1 - part) * math.exp(-b)) for b, a in nlls)
        assert total <= alone + math.log(3) - len(nlls) * math.log(1 - SHARE) + 1e-6


def test_it_follows_whoever_is_better_now() -> None:
    rng = random.Random(0)
    good, bad = [rng.uniform(1, 3) for _ in range(400)], [rng.uniform(3, 5) for _ in range(400)]
    mixture = Mixture()
    assert sum(mixture.nll(bad, good)) < sum(good) + 2
    assert mixture.weights[-1] < 0.01
    assert sum(mixture.nll(good, bad)) < sum(good) + 15
    assert mixture.weights[-1] > 0.99


def test_numbers_that_are_not_finite_are_the_bases_alone() -> None:
    mixture = Mixture()
    assert mixture.nll([2.0, 1.0], [math.nan, 3.0])[0] == 2.0
    assert mixture.weights[-1] > 0.9


@given(NLLS, st.integers(0, 80))
def test_weights_are_all_there_is_to_it(nlls: list[tuple[float, float]], at: int) -> None:
    base, adapted = [b for b, _ in nlls], [a for _, a in nlls]
    whole, first = Mixture(), Mixture()
    expected = whole.nll(base, adapted)
    part = first.nll(base[:at], adapted[:at])
    assert part + Mixture(first.weights).nll(base[at:], adapted[at:]) == expected
