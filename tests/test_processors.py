"""What is done to logits, on logits made by hand: each definition in the plainest words there are."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from templora import processors

LOGITS = torch.tensor([[2.0, 1.0, 0.0, -1.0, -6.0]])
NO_IDS = torch.zeros(1, 0, dtype=torch.long)
TEXTS = st.lists(st.integers(0, 3), max_size=40)


def row(ids: list[int]) -> torch.Tensor:
    return torch.tensor([ids], dtype=torch.long)


def penalties(processor: processors.Processor, ids: list[int], vocabulary: int = 6) -> dict[int, float]:
    """What is taken from which tokens."""
    scores = torch.zeros(1, vocabulary)
    taken = -processor(row(ids), scores)
    assert not scores.any(), "the caller's scores are left alone"
    return {i: float(taken[0, i]) for i in taken[0].nonzero()[:, 0].tolist()}


# Frequency and presence, bias ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("frequency", "presence", "expected"),
    [
        (0.5, 0.0, {1: 1.5, 2: 0.5}),
        (0.0, 0.5, {1: 0.5, 2: 0.5}),
        (0.5, 1.0, {1: 2.5, 2: 1.5}),
        (-1.0, 0.25, {1: -2.75, 2: -0.75}),
    ],
)
def test_frequency_counts_and_presence_does_not(frequency: float, presence: float, expected: dict[int, float]) -> None:
    assert penalties(processors.frequency_and_presence(frequency, presence), [1, 2, 1, 1]) == expected


@given(TEXTS, st.floats(-2, 2), st.floats(-2, 2))
def test_frequency_and_presence_of_any_text(ids: list[int], frequency: float, presence: float) -> None:
    found = processors.frequency_and_presence(frequency, presence)(row(ids), torch.zeros(1, 4))[0]
    counts = Counter(ids)
    for token in range(4):
        assert found[token] == pytest.approx(-counts[token] * frequency - (counts[token] > 0) * presence, abs=1e-4)


def test_bias_is_added_and_minus_infinity_bans() -> None:
    found = processors.bias({1: 2.5, 4: -math.inf}, "cpu")(NO_IDS, LOGITS)
    assert found.tolist() == [[2.0, 3.5, 0.0, -1.0, -math.inf]]
    assert processors.bias({0: 3.0}, "cpu")(NO_IDS, torch.full((1, 2), -math.inf))[0, 0] == -math.inf


# DRY ----------------------------------------------------------------------------------------------------------------


def dry(ids: list[int], allowed: int = 2, most: int = 0, breakers: tuple[int, ...] = ()) -> dict[int, float]:
    return penalties(processors.dry(1.0, 2.0, allowed, most, breakers), ids)


def test_who_goes_on_with_a_repeat_pays() -> None:
    assert dry([1, 2, 3, 1, 2]) == {3: 1.0}  # a match of two, allowed 2: the multiplier
    assert dry([1, 2, 3, 4, 1, 2, 3]) == {4: 2.0}  # of three
    assert dry([1, 2, 3, 1, 2], allowed=3) == {}
    assert dry([1, 2, 3, 1, 2], allowed=1) == {3: 2.0}
    assert dry([1, 2, 3, 4, 5, 0, 2]) == {}  # one token is no repeat of two
    assert dry([]) == dry([1]) == dry([1, 2]) == {}


def test_the_longest_match_of_a_token_counts() -> None:
    assert dry([1, 2, 3, 5, 0, 2, 3, 5, 4, 1, 2, 3]) == {5: 2.0}
    assert dry([1, 2, 3, 0, 2, 3, 5, 4, 1, 2, 3]) == {0: 2.0, 5: 1.0}
    assert dry([1, 1, 1, 1, 1]) == {1: 4.0}  # matches may overlap


def test_no_match_reaches_across_a_breaker() -> None:
    text = [1, 2, 3, 4, 1, 2, 3]
    assert dry(text, breakers=(1,)) == {4: 1.0}
    assert dry(text, breakers=(2,)) == {}
    assert dry(text, breakers=(3,)) == {}  # the last one
    assert dry(text, breakers=(4,)) == {}  # a breaker itself loses nothing
    assert dry(text, breakers=(5, 99)) == {4: 2.0}
    assert dry([250, *text], breakers=(0,)) == {4: 2.0}  # tokens beyond the largest breaker


def test_as_far_back_as_the_range() -> None:
    text = [1, 2, 3, 4, 1, 2, 3]
    assert dry(text, most=7) == dry(text, most=99) == {4: 2.0}
    assert dry(text, most=6) == {4: 1.0}  # of the first match two tokens are left
    assert dry(text, most=5) == {}


def test_a_penalty_is_never_infinite() -> None:
    """Nor is the search as long as the text: 60 tokens more are no more than 50 more."""
    with np.errstate(over="raise"):
        taken = penalties(processors.dry(1e308, 100.0, 2, 0, ()), [1] * 300)
    assert taken[1] == pytest.approx(1e30)
    assert penalties(processors.dry(1.0, 2.0, 2, 0, ()), [1] * 300) == {1: 2.0**50}


@settings(max_examples=300)
@given(TEXTS, st.sets(st.integers(0, 3), max_size=2), st.integers(1, 4))
def test_repeats_of_any_text(ids: list[int], breakers: set[int], allowed: int) -> None:
    """By the definition, each suffix at each place in turn."""
    expected: dict[int, float] = {}
    for length in range(allowed, len(ids)):
        suffix = ids[-length:]
        if breakers & set(suffix):
            break
        for end in range(length, len(ids)):
            if ids[end - length : end] == suffix and ids[end] not in breakers:
                expected[ids[end]] = 1.5 ** (length - allowed)
    assert penalties(processors.dry(1.0, 1.5, allowed, 0, breakers), ids) == pytest.approx(expected)


# XTC ----------------------------------------------------------------------------------------------------------------


def left(threshold: float, probabilities: list[float], kept: tuple[int, ...] = ()) -> list[int]:
    scores = torch.tensor([probabilities]).log()
    found = processors.xtc(threshold, kept, "cpu")(scores.clone())
    assert torch.equal(found[found.isfinite()], scores[found.isfinite()])
    return found[0].isfinite().nonzero()[:, 0].tolist()


def test_all_that_are_likely_go_but_the_least_likely_of_them() -> None:
    assert left(0.1, [0.5, 0.3, 0.15, 0.05]) == [2, 3]
    assert left(0.1, [0.15, 0.05, 0.5, 0.3]) == [0, 1]
    assert left(0.2, [0.5, 0.3, 0.15, 0.05]) == [1, 2, 3]
    assert left(0.4, [0.5, 0.3, 0.15, 0.05]) == [0, 1, 2, 3]  # one alone is no choice
    assert left(0.25, [0.25, 0.25, 0.25, 0.25]) == [3]


def test_the_end_of_a_line_is_never_dropped() -> None:
    """As in the reference: nothing is done at all then; where it would stay anyway, all is as usual."""
    assert left(0.1, [0.5, 0.3, 0.15, 0.05], kept=(1,)) == [0, 1, 2, 3]
    assert left(0.1, [0.5, 0.3, 0.15, 0.05], kept=(2,)) == [2, 3]
    assert left(0.1, [0.5, 0.3, 0.15, 0.05], kept=(3,)) == [2, 3]


@given(st.lists(st.floats(0.01, 1), min_size=1, max_size=12), st.floats(0.01, 1))
def test_xtc_of_any_distribution(weights: list[float], threshold: float) -> None:
    """By the reference's own words: of tokens in order, those go whose next one meets the threshold."""
    scores = torch.tensor([weights]).log()
    order = scores[0].sort(descending=True, stable=True).indices
    meets = scores[0].softmax(-1)[order] >= threshold
    gone = set(order[:-1][meets[1:]].tolist())
    found = processors.xtc(threshold, (), "cpu")(scores)[0]
    assert {i for i in range(len(weights)) if not math.isfinite(found[i])} == gone
