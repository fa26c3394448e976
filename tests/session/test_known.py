"""Tokens that are known are read several at once, and everything is as if they had been written one by one."""

from __future__ import annotations

from typing import Any

import pytest
from conftest import TEXT, small

from templora import SamplingParams, Session, TokenEvent
from templora.engine.engine import Engine
from templora.events import END
from templora.testing import tiny_engine

HOT = SamplingParams(temperature=1.5, logprobs=2)


def state(session: Session) -> list[Any]:
    session.settle()
    written = session.loop.cycle.written
    spent = session.meter.flops  # by phase
    return [session.tokens, session.adapter_weights().tolist(), session.slot.version, vars(written), spent]


@pytest.mark.parametrize("family", ["llama", "phi"])  # the compiled step's, and not
@pytest.mark.parametrize("options", [{}, {"neural_cache": 64}, {"cache_reuse": 2}, {"learning": "parallel"}])
def test_as_if_written(family: str, options: dict[str, Any], passes: list[int]) -> None:
    """Tokens, log-probabilities, entropies and updates are the same, and what comes after; in a third of the passes."""
    found, counts = [], []
    for known in (0, 120):
        with tiny_engine(family).session(small(min_entropy=0.1, **options)) as session:
            session.absorb(TEXT[:50])
            session.readers[0].ready()
            passes.clear()
            begin = len(session.tokens)
            forced = found[0][0][0][begin : begin + known] if known else []
            events = list(session.stream(max_new_tokens=120, sampling=HOT, forced_tokens=forced))
            counts.append(len(passes))
            told = [event.logprobs for event in events if isinstance(event, TokenEvent)]
            before = state(session)
            session.write(max_new_tokens=20, sampling=HOT)
            found.append((before, told, session.tokens))
    assert found[0] == found[1]
    assert counts[1] <= counts[0] / 3


def test_an_end_is_the_last(engine: Engine, passes: list[int]) -> None:
    with engine.session(small()) as session:
        session.absorb(TEXT[:50])
        forced = [*session.encode(TEXT[50:56]), END]
        events = list(session.stream(max_new_tokens=9, sampling=HOT, forced_tokens=forced))
        assert session.tokens == session.encode(TEXT[:56])
        assert [len(events), passes[-2:]] == [7, [4, 3]]


def test_left_amid_known_tokens(engine: Engine) -> None:
    """What was read ahead is taken back: by another verb, which goes on from what was told of."""
    texts = []
    for left in (False, True):
        with engine.session(small()) as session:
            session.absorb(TEXT[:40])
            forced = session.encode(TEXT[40:50])
            events = session.stream(
                max_new_tokens=10 if left else 2, sampling=HOT, forced_tokens=forced[: 10 if left else 2]
            )
            for _ in range(2):
                next(events)
            if left:
                events.close()
            else:
                list(events)
            assert session.tokens == session.encode(TEXT[:42])
            session.write(max_new_tokens=30, sampling=HOT)
            texts.append(state(session)[:-1])  # what was read and left has cost something
    assert texts[0] == texts[1]
