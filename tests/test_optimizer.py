from __future__ import annotations

import pytest
import torch
from conftest import small

from templora import optimizer
from templora.adapters import AdapterState
from templora.optimizer import Step, change, state_after, write_weights

SIZE = 1000


@pytest.fixture(params=[64, 1 << 18], ids=["many blocks", "one block"])
def block(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(optimizer, "_BLOCK", {"cpu": request.param})
    return int(request.param)


def random(*, seed: int) -> torch.Tensor:
    return torch.randn(SIZE, generator=torch.Generator().manual_seed(seed))


def state() -> AdapterState:
    return AdapterState(random(seed=0), random(seed=1) / 100, random(seed=2).square() / 1000, steps=6, version=3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_steps_are_those_of_one_adamw_over_the_whole_vector(block: int, dtype: torch.dtype) -> None:
    config = small(epochs=3, weight_decay=0.1, adam_epsilon=1e-5, warmup_chunks=8)
    before = state()
    gradients = [random(seed=s).to(dtype) for s in (3, 4, 5)]
    weights = before.weights.clone().requires_grad_()
    plain = torch.optim.AdamW([weights], lr=config.learning_rate_at(2), eps=1e-5, weight_decay=0.1)
    moments = {"exp_avg": before.exp_avg.clone(), "exp_avg_sq": before.exp_avg_sq.clone()}
    plain.state[weights] = {"step": torch.tensor(6.0), **moments}
    for gradient in gradients:
        weights.grad = gradient.float()
        torch.nn.utils.clip_grad_norm_([weights], 0.5)
        plain.step()
    after = state_after(before, [Step.clipped(g, 0.5) for g in gradients], config)
    assert torch.allclose(after.weights, weights, rtol=1e-4, atol=1e-6)
    for name, moment in moments.items():
        assert torch.allclose(getattr(after, name), moment, rtol=1e-4, atol=1e-7), name
    assert (after.steps, after.version) == (9, 3)
    assert change(before, after) == pytest.approx(
        float((weights.detach() - before.weights).square().mean().sqrt()), rel=1e-4
    )


def test_nothing_that_is_given_is_changed(block: int) -> None:
    before, gradient = state(), random(seed=3)
    step = Step.clipped(gradient, 0.01)
    for _ in range(2):  # a step that scaled its gradient in place would do so twice
        after = state_after(before, [step], small())
    assert torch.equal(after.weights, state_after(state(), [Step.clipped(random(seed=3), 0.01)], small()).weights)
    assert torch.equal(gradient, random(seed=3))
    for name in ("weights", "exp_avg", "exp_avg_sq"):
        assert torch.equal(getattr(before, name), getattr(state(), name)), name


def test_weights_alone_are_those_of_the_state(block: int) -> None:
    steps = [Step.clipped(random(seed=s).bfloat16(), 1.0) for s in (3, 4)]
    out = torch.empty(SIZE, dtype=torch.bfloat16)
    write_weights(state(), steps, small(), out)
    assert torch.equal(out, state_after(state(), steps, small()).weights.bfloat16())
    write_weights(state(), [], small(), out)
    assert torch.equal(out, state().weights.bfloat16())


def test_a_step_is_shortened_to_the_bound_and_no_further(block: int) -> None:
    gradient = random(seed=3)
    norm = float(gradient.norm())
    assert Step.clipped(gradient, 2 * norm).factor == 1
    short = Step.clipped(gradient, norm / 4)
    assert (short.norm, short.factor) == pytest.approx((norm, 0.25), rel=1e-5)
    assert not torch.tensor(Step.clipped(gradient * torch.inf, 1.0).norm).isfinite()
