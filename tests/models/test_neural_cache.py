"""The neural cache against its own definition, and as a part of sessions."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from conftest import TEXT, small

from templora.decoding.cpu_step import cpu_step
from templora.engine.engine import Engine
from templora.events import ChunkScored, TokenEvent
from templora.kvcache.window import WindowCache
from templora.models.neural_cache import NeuralCache, States
from templora.models.runner import Row, Runner
from templora.runtime.metering import Meter
from templora.sampling import SamplingParams
from templora.testing import byte_tokenizer, tiny_engine, tiny_model

VOCABULARY, HIDDEN = 50, 16
GREEDY = SamplingParams(temperature=0)


def states(seed: int, tokens: int = 12) -> States:
    draw = torch.Generator().manual_seed(seed)
    targets = torch.randint(VOCABULARY, (tokens,), generator=draw).tolist()
    hidden = torch.randn(tokens, HIDDEN, generator=draw) * torch.arange(1, HIDDEN + 1) + 3
    return States(hidden, targets, torch.rand(tokens, generator=draw) * 5)


def defined(taken: list[States], now: States) -> list[float]:
    """NLL of what comes now, number by number."""
    bounds, shares = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95), (0.0, 0.02, 0.05, 0.1, 0.2, 0.4, 0.7)
    evidence = [[-12.0 * share for share in shares] for _ in range(7)]
    mean, spread = taken[0].hidden.mean(0), taken[0].hidden.std(0, correction=0)

    def key(hidden: torch.Tensor) -> torch.Tensor:
        plain = (hidden - mean) / spread
        return (plain / plain.norm()).bfloat16()

    keys: list[tuple[torch.Tensor, int]] = []
    found = []
    for chunk in [*taken, now]:
        weighed, found = [], []
        for hidden, target, nll in zip(chunk.hidden, chunk.targets, chunk.nll.tolist(), strict=True):
            if not keys:
                continue
            likeness = [float((key(hidden) @ other).float()) for other, _ in keys]
            weights = [math.exp(20 * x) for x in likeness]
            cache = sum(w for w, (_, token) in zip(weights, keys, strict=True) if token == target) / sum(weights)
            row = sum(max(likeness) > bound for bound in bounds)
            odds = [math.exp(nats) for nats in evidence[row]]
            share = sum(o * s for o, s in zip(odds, shares, strict=True)) / sum(odds)
            found.append(-math.log((1 - share) * math.exp(-nll) + share * cache))
            weighed.append((row, [math.log((1 - s) * math.exp(-nll) + s * cache) for s in shares]))
        for row, nats in weighed:
            evidence[row] = [a + b for a, b in zip(evidence[row], nats, strict=True)]
        keys += [(key(hidden), target) for hidden, target in zip(chunk.hidden, chunk.targets, strict=True)]
    return found


def test_it_is_what_it_is_said_to_be() -> None:
    taken, now = [states(1), states(2), states(3)], states(2)  # the second once more: close matches
    cache = NeuralCache(1000, VOCABULARY, Meter())
    for chunk in taken:
        cache.take(chunk)
    found = cache.nll(now.nll, now.hidden, now.targets)
    assert found.tolist() == pytest.approx(defined(taken, now), rel=1e-2)
    assert not torch.allclose(found, now.nll, rtol=1e-2)


def test_what_is_mixed_is_what_is_scored() -> None:
    cache = NeuralCache(1000, VOCABULARY, Meter())
    for chunk in (states(1), states(2)):
        cache.take(chunk)
    state = states(2).hidden[5]
    logits = torch.randn(VOCABULARY, generator=torch.Generator().manual_seed(5))
    mixed = cache.mixed(logits, state)
    assert float(mixed.logsumexp(0)) == pytest.approx(float(logits.logsumexp(0)), abs=1e-5)  # the scale is the model's
    every = list(range(VOCABULARY))
    nll = cache.nll(-logits.log_softmax(0), state.expand(VOCABULARY, -1), every)
    assert torch.allclose(-mixed.log_softmax(0), nll, atol=1e-4)


def test_tokens_that_are_hardly_possible_stay_so() -> None:
    """Nothing that the model can say becomes minus infinity."""
    cache = NeuralCache(1000, VOCABULARY, Meter())
    cache.take(states(1))
    mixed = cache.mixed(torch.linspace(-500, 500, VOCABULARY), states(2).hidden[0])
    assert bool(mixed.isfinite().all())


def test_what_was_not_taken_in_changes_nothing() -> None:
    cache, chunk = NeuralCache(1000, VOCABULARY, Meter()), states(1)
    assert cache.nll(chunk.nll, chunk.hidden, chunk.targets) is chunk.nll
    assert cache.mixed(chunk.nll, chunk.hidden[0]) is chunk.nll
    assert cache.state() == ({}, {})
    for _ in range(2):  # as one that is interrupted and done again
        cache.take(chunk)
    assert cache.held == 12


def test_the_oldest_go_first() -> None:
    long, short = NeuralCache(1000, VOCABULARY, Meter()), NeuralCache(20, VOCABULARY, Meter())
    for chunk in (states(1), states(2), states(3)):
        long.take(chunk)
        short.take(chunk)
    (kept, _), (few, _) = long.state(), short.state()
    assert torch.equal(few["neural_cache.tokens"], kept["neural_cache.tokens"][-20:])
    assert torch.equal(few["neural_cache.keys"], kept["neural_cache.keys"][-20 * HIDDEN :])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma3"])
def test_the_compiled_step_has_the_state_of_the_modules(family: str, dtype: torch.dtype) -> None:
    model = tiny_engine(family, dtype=dtype).model
    step = cpu_step(model)
    assert step is not None
    caches = [WindowCache(model.layers, 32) for _ in range(2)]
    runner = Runner(model)
    for cache in caches:
        runner.read(list(range(10)), cache, 0, None, Meter())
        cache.advance(10, 0)
    step([Row(10, caches[0], None, step, Meter())])
    wanted = runner.read([10], caches[1], 10, None, Meter())[0].float()
    assert (step.state(0) - wanted).norm() <= (1e-4 if dtype == torch.float32 else 0.03) * wanted.norm()


def test_nothing_changes_before_something_is_learnt_and_much_after_that() -> None:
    text = TEXT[:96] * 4
    found = []
    for most in (0, 10_000):
        with tiny_engine().session(small(neural_cache=most, mixture=False)) as session:
            rows = [e.adapted_nll for e in session.score_events(text) if isinstance(e, ChunkScored)]
            found.append((rows, session.adapter_weights()))
    (without, weights), (with_it, same) = found
    assert torch.equal(weights, same)  # it learns nothing else
    assert without[0] == with_it[0]
    assert sum(with_it[3:]) < 0.8 * sum(without[3:])  # the same text once more


def engine_of(compiled: bool) -> Engine:
    return Engine(tiny_model(), byte_tokenizer(), compiled=compiled)


@pytest.mark.parametrize("compiled", [True, False])
def test_what_is_written_previewed_and_gone_on_with_is_the_same(compiled: bool) -> None:
    config, known = small(neural_cache=10_000), TEXT[:100] * 3
    with engine_of(compiled).session(config) as session:
        session.absorb(known)
        tokens, snapshot = list(session.tokens), session.snapshot()
        drafted = session.preview(max_new_tokens=40, sampling=GREEDY).text
        written = session.write(max_new_tokens=100, sampling=GREEDY)
    with engine_of(compiled).session(config) as session:
        session.restore(tokens, snapshot)
        assert session.loop.neural_cache is not None
        assert session.loop.neural_cache.held == 287
        events = session.stream(max_new_tokens=100, sampling=GREEDY)
        again = "".join(e.text for e in events if isinstance(e, TokenEvent))
        session.restore(tokens, snapshot)
        assert session.loop.neural_cache.held == 287
    with engine_of(compiled).session(small()) as session:
        session.absorb(known)
        plain = session.write(max_new_tokens=100, sampling=GREEDY)
    assert again == written
    assert written.startswith(drafted[:20])
    assert plain != written


def test_parallel_learning_takes_in_each_chunk_when_it_is_committed() -> None:
    held = []
    with tiny_engine().session(small(neural_cache=10_000, learning="parallel")) as session:
        for _ in range(4):
            session.absorb(TEXT[:32])
            held.append(_held(session))
        session.close_chunk()
        assert [*held, _held(session)] == [0, 31, 63, 95, 127]


def _held(session: Any) -> int:
    return int(session.loop.neural_cache.held)
