"""What a model predicts through a session's adapter, and an adapter that does something."""

from __future__ import annotations

from dataclasses import replace

import torch

from templora import SamplingParams, Session
from templora.engine.engine import Engine

GREEDY = SamplingParams(temperature=0, repetition_penalty=1.0)


@torch.no_grad()
def logits(engine: Engine, ids: list[int]) -> torch.Tensor:
    return engine.model.module(torch.tensor([ids])).logits


def adapted_logits(session: Session, ids: list[int]) -> torch.Tensor:
    """What the whole model says of `ids` through the session's adapter."""
    bank, slot = session._bank, session._slot
    with bank.through(bank.serving(slot, session.config.scaling)):
        return logits(session._engine, ids)


def bits(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {k: v.clone() for k, v in model.state_dict().items()}


def same_bits(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return list(a) == list(b) and all(torch.equal(a[k].view(torch.uint8), b[k].view(torch.uint8)) for k in a)


def with_random_adapter(session: Session) -> None:
    """Sets an adapter that does something: at a fresh one half of all gradients are zero."""
    state = session._bank.state(session._slot)
    state = replace(state, weights=state.weights.clone(), version=state.version + 1)
    generator = torch.Generator().manual_seed(3)
    state.weights.add_(torch.empty_like(state.weights).uniform_(-0.05, 0.05, generator=generator))
    session._bank.commit(session._slot, state)
