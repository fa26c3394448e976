"""What a model predicts through a session's adapter, and an adapter that does something."""

from __future__ import annotations

from dataclasses import replace

import torch

from templora import SamplingParams, Session
from templora.engine.engine import Engine
from templora.lora.bank import AdapterBank
from templora.lora.slot import Slot
from templora.lora.targets import first_weights
from templora.models.runner import through

GREEDY = SamplingParams(temperature=0, repetition_penalty=1.0)


@torch.no_grad()
def logits(engine: Engine, ids: list[int]) -> torch.Tensor:
    return engine.model.module(torch.tensor([ids])).logits


def adapted_logits(session: Session, ids: list[int]) -> torch.Tensor:
    """What the whole model says of `ids` through the session's adapter."""
    with through(session.slot.route):
        return logits(session.engine, ids)


def fresh_slot(bank: AdapterBank, seed: int = 1, scaling: float = 1.0) -> Slot:
    """A slot of a bank with the first weights of a seed."""
    return bank.allocate(first_weights(bank.layout.targets, bank.layout.rank, seed), scaling)


def bits(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {k: v.clone() for k, v in model.state_dict().items()}


def same_bits(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return list(a) == list(b) and all(torch.equal(a[k].view(torch.uint8), b[k].view(torch.uint8)) for k in a)


def with_random_adapter(session: Session) -> None:
    """Sets an adapter that does something: at a fresh one half of all gradients are zero."""
    state = session.slot.state
    state = replace(state, weights=state.weights.clone(), version=state.version + 1)
    generator = torch.Generator().manual_seed(3)
    state.weights.add_(torch.empty_like(state.weights).uniform_(-0.05, 0.05, generator=generator))
    session.slot.commit(state)


def appended(session: Session, token: int, nats: float) -> None:
    """Has a session write a token, of this entropy."""
    session.loop.cycle.written.append(len(session.tokens), nats)
    session.tokens.append(token)
