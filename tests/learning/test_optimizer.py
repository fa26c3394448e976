from __future__ import annotations

import os
import signal
from typing import Any

import pytest
import torch
from adapted import fresh_slot
from conftest import small

from templora.learning import optimizer
from templora.learning.optimizer import Staged, Step
from templora.lora.bank import AdapterBank
from templora.lora.slot import AdapterState, Layout, Slot
from templora.lora.targets import choose_targets
from templora.testing import tiny_model

SIZE = 1000


@pytest.fixture(params=[64, 1 << 18], ids=["many blocks", "one block"])
def block(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(optimizer, "_BLOCK", {"cpu": request.param})
    return int(request.param)


def random(*, seed: int, size: int = SIZE) -> torch.Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(seed))


def state(size: int = SIZE) -> AdapterState:
    weights, first, second = (random(seed=seed, size=size) for seed in range(3))
    return AdapterState(weights, first / 100, second.square() / 1000, steps=6, version=3)


def same(a: AdapterState, b: AdapterState) -> bool:
    return all(torch.equal(getattr(a, name), getattr(b, name)) for name in ("weights", "exp_avg", "exp_avg_sq"))


def slot_with(held: AdapterState | None = None) -> tuple[Slot, AdapterState]:
    """A slot, and what it holds."""
    model = tiny_model()
    bank = AdapterBank(model, Layout(choose_targets(model, small()), 4), torch.float32)
    slot = fresh_slot(bank)
    slot.commit(held or state(bank.layout.weights))
    return slot, slot.state


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_steps_are_those_of_one_adamw_over_the_whole_vector(block: int, dtype: torch.dtype) -> None:
    config = small(epochs=3, weight_decay=0.1, adam_epsilon=1e-5, warmup_chunks=8)
    slot, before = slot_with()
    size = slot.layout.weights
    gradients = [random(seed=s, size=size).to(dtype) for s in (3, 4, 5)]
    weights = before.weights.clone().requires_grad_()
    plain = torch.optim.AdamW([weights], betas=(0.7, 0.99), lr=config.learning_rate_at(2), eps=1e-5, weight_decay=0.1)
    moments = {"exp_avg": before.exp_avg.clone(), "exp_avg_sq": before.exp_avg_sq.clone()}
    plain.state[weights] = {"step": torch.tensor(6.0), **moments}
    for gradient in gradients:
        weights.grad = gradient.float()
        torch.nn.utils.clip_grad_norm_([weights], 0.5)
        plain.step()
    staged = Staged(before, [Step.clipped(g, 0.5) for g in gradients], config)
    moved = float((weights.detach() - before.weights).square().mean().sqrt())
    assert staged.change() == pytest.approx(moved, rel=1e-4)
    assert torch.allclose(staged.weights, weights, rtol=1e-4, atol=1e-6)
    staged.commit(slot)
    after = slot.state
    assert torch.allclose(after.weights, weights, rtol=1e-4, atol=1e-6)
    assert torch.equal(slot.serving, after.weights)
    for name, moment in moments.items():
        assert torch.allclose(getattr(after, name), moment, rtol=1e-4, atol=1e-7), name
    assert (after.steps, after.version) == (9, 4)


def test_nothing_changes_before_it_is_committed_and_nothing_twice(block: int) -> None:
    slot, before = slot_with()
    size = slot.layout.weights
    staged = Staged(before, [Step.clipped(random(seed=3, size=size), 0.01)], small())
    wanted = staged.weights
    assert staged.change() == staged.change() > 0
    assert torch.equal(staged.weights, wanted)  # a step that scaled its gradient in place would do so again
    assert same(before, state(size))
    assert torch.equal(staged.steps[0].gradient, random(seed=3, size=size))
    for _ in range(2):
        staged.commit(slot)
        assert torch.equal(slot.state.weights, wanted)
        assert torch.equal(staged.weights, wanted)
        assert (slot.state.version, slot.state.steps) == (4, 7)


def test_weights_in_another_dtype_are_those_rounded(block: int) -> None:
    staged = Staged(state(), [Step.clipped(random(seed=s).bfloat16(), 1.0) for s in (3, 4)], small())
    out = torch.empty(SIZE, dtype=torch.bfloat16)
    staged.change(out)
    assert torch.equal(out, staged.weights.bfloat16())


def test_a_step_is_shortened_to_the_bound_and_no_further(block: int) -> None:
    gradient = random(seed=3)
    norm = float(gradient.norm())
    assert Step.clipped(gradient, 2 * norm).factor == 1
    short = Step.clipped(gradient, norm / 4)
    assert (short.norm, short.factor) == pytest.approx((norm, 0.25), rel=1e-5)
    assert not torch.tensor(Step.clipped(gradient * torch.inf, 1.0).norm).isfinite()


def test_a_commit_that_is_interrupted_is_done_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C between two blocks: half an update must never serve."""
    monkeypatch.setattr(optimizer, "_BLOCK", {"cpu": 64})
    slot, before = slot_with()
    staged = Staged(before, [Step.clipped(random(seed=3, size=slot.layout.weights), 1.0)], small())
    wanted, real = staged.weights, optimizer.adamw
    calls = iter(range(1000))

    def interrupted(*arguments: Any, **options: Any) -> None:
        if next(calls) == 3:
            os.kill(os.getpid(), signal.SIGINT)
        real(*arguments, **options)

    monkeypatch.setattr(optimizer, "adamw", interrupted)
    with pytest.raises(KeyboardInterrupt):
        staged.commit(slot)
    assert next(calls) > 10
    assert torch.equal(slot.state.weights, wanted)
    assert torch.equal(slot.serving, wanted)
    assert slot.state.version == 4


def test_the_first_steps_are_not_taken_in_memory_that_others_began_with(block: int) -> None:
    slot, _ = slot_with()
    weights, gradients = random(seed=7, size=slot.layout.weights), random(seed=8, size=slot.layout.weights)
    given = weights.clone()
    fresh = AdapterState.fresh(given)
    slot.commit(fresh)
    staged = Staged(slot.state, [Step.clipped(gradients, 1.0)], small())
    coming = staged.weights
    staged.commit(slot)
    assert torch.equal(given, weights)
    assert same(fresh, AdapterState(weights, torch.zeros_like(weights), torch.zeros_like(weights)))
    assert torch.equal(slot.state.weights, coming)
    assert torch.equal(staged.weights, coming)
    assert slot.state.exp_avg.any()
    assert slot.state.exp_avg_sq.any()
    after = slot.state
    Staged(slot.state, [Step.clipped(gradients, 1.0)], small()).commit(slot)
    assert slot.state.weights is after.weights  # from here on where the state lies
