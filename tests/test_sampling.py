from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from transformers.generation import logits_process as hf

from templora.sampling import Sampler, SamplingParams, _min_p, uniform


def sampler(banned: list[int] | None = None, seed: int = 0, **params: Any) -> Sampler:
    return Sampler(
        SamplingParams(**{"min_p": 0.0, "repetition_penalty": 1.0} | params),
        banned or [],
        seed,
    )


def spread(s: Sampler, logits: torch.Tensor, n: int = 4000) -> torch.Tensor:
    counts = torch.zeros(len(logits))
    for index in range(n):
        counts[s(logits, [], index)] += 1
    return counts / n


LOGITS = torch.tensor([2.0, 1.0, 0.0, -1.0, -6.0])


def test_sampling_follows_the_softmax() -> None:
    assert torch.allclose(spread(sampler(), LOGITS), LOGITS.softmax(0), atol=0.03)
    assert torch.allclose(spread(sampler(temperature=2.0), LOGITS), (LOGITS / 2).softmax(0), atol=0.03)


def test_a_random_number_is_that_of_its_place() -> None:
    """Whatever was drawn before: the same place gives the same, another seed or place another."""
    found = [uniform(seed, index, earlier) for seed in (0, 1, 2**63 - 1) for index in range(300) for earlier in (0, 1)]
    assert len(set(found)) == len(found)
    assert 0 <= min(found) < 0.01
    assert 0.99 < max(found) < 1
    assert found == [uniform(s, i, e) for s in (0, 1, 2**63 - 1) for i in range(300) for e in (0, 1)]
    assert uniform(42, 7) == 0.04572156290398832  # for ever: what a seed writes depends on it
    s, other = sampler(seed=3), sampler(seed=4)
    drawn = [s(LOGITS, [], index) for index in range(50)]
    assert drawn[::-1] == [s(LOGITS, [], index) for index in reversed(range(50))]
    assert drawn != [other(LOGITS, [], index) for index in range(50)]
    assert len({s(LOGITS, [], 9, earlier) for earlier in range(40)}) > 1


def test_filters_keep_what_they_say() -> None:
    assert set(spread(sampler(top_k=2), LOGITS, 300).nonzero().flatten().tolist()) == {0, 1}
    assert set(spread(sampler(top_p=0.7), LOGITS, 300).nonzero().flatten().tolist()) == {0, 1}
    assert set(spread(sampler(min_p=0.3), LOGITS, 300).nonzero().flatten().tolist()) == {0, 1}


def test_greedy_and_bans() -> None:
    assert sampler(temperature=0)(LOGITS, [], 7) == 0
    assert sampler([0], temperature=0)(LOGITS, [], 7) == 1
    assert 0 not in {sampler([0], seed=s)(LOGITS, [], 7) for s in range(200)}
    assert LOGITS[0] == 2.0  # the caller's logits are left alone


def test_repetition_penalty_looks_at_the_window() -> None:
    assert sampler(temperature=0, repetition_penalty=3.0)(LOGITS, [0, 0], 7) == 1


def test_min_p_is_transformers_own() -> None:
    logits = torch.randn(1, 500, generator=torch.Generator().manual_seed(1)) * 3
    for p in (0.01, 0.1, 0.5):
        theirs = hf.MinPLogitsWarper(p)(torch.tensor([[0]]), logits.clone())
        assert torch.equal(_min_p(p)(torch.tensor([[0]]), logits), theirs)


@pytest.mark.parametrize("value", [-1, math.nan, math.inf, True, "warm"])
def test_bad_temperature(value: Any) -> None:
    with pytest.raises(ValueError, match="temperature"):
        SamplingParams(temperature=value)
