"""The recorded step of one text; of several, `test_module_rows.py`. Recording itself needs CUDA (`test_cuda.py`)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from adapted import with_random_adapter
from conftest import small
from torch.utils._python_dispatch import TorchDispatchMode

from templora import SamplingParams
from templora.decoding.graph_rows import GraphRows, can_be_recorded, graph_rows
from templora.decoding.reader import Reader
from templora.session.session import Session
from templora.testing import FAMILIES, tiny_engine

GREEDY = SamplingParams(temperature=0, repetition_penalty=1.0)


def recorded(decoder: Reader, records: list[int] | None = None) -> None:
    """Makes a decoder take the recorded step; where there is no CUDA a replay runs the very step to be recorded.

    `records` gets an item for each recording.
    """

    def record(step: Any) -> Any:
        if records is not None:
            records.append(1)
        step()
        return step

    decoder.step = GraphRows(decoder.model, 1, record)


def both_ways(session: Session, plain: Session, text: str, tokens: int) -> None:
    """Writes the same tokens on both sessions and compares the logits of each step."""
    seen: list[list[torch.Tensor]] = [[], []]
    for s, kept in zip((session, plain), seen, strict=True):
        real = partial(Reader.next_logits, s.readers[0])

        def keep(
            ids: list[int],
            kept: list[torch.Tensor] = kept,
            real: Callable[[list[int]], torch.Tensor] = real,  # type: ignore[assignment]
        ) -> torch.Tensor:
            kept.append(real(ids).clone())
            return kept[-1]

        s.readers[0].next_logits = keep  # type: ignore[method-assign,assignment]
        s.write(text, max_new_tokens=tokens, sampling=GREEDY)
    assert session.tokens == plain.tokens
    for at, (ours, theirs) in enumerate(zip(*seen, strict=True)):
        assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-4), at


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("cache_reuse", [0, 2])
def test_the_static_step_is_the_step(family: str, cache_reuse: int, text: str) -> None:
    """Through commits, window moves and evictions, with one recording: fp32, every family, sliding windows included."""
    engine = tiny_engine(family)
    config = small(max_repetition=1.0, cache_reuse=cache_reuse)
    records: list[int] = []
    with engine.session(config) as session, engine.session(config) as plain:
        for s in (session, plain):
            with_random_adapter(s)
        recorded(session.readers[0], records)
        both_ways(session, plain, text[:40], 130)
        assert session.version == plain.version >= 4
        assert session.readers[0].cache.versions == plain.readers[0].cache.versions
        assert (session.readers[0].cache.shift > 0) == (cache_reuse > 0)
    assert records == [1]


def test_a_new_slot_needs_no_new_recording(text: str) -> None:
    """What the graph reads stays where it is."""
    engine = tiny_engine()
    records: list[int] = []
    with engine.session(small()) as session:
        recorded(session.readers[0], records)
        session.write(text[:10], max_new_tokens=4)
        with engine.session(small(seed=7)):
            session.write(max_new_tokens=4)
    assert records == [1]


class NothingReadBack(TorchDispatchMode):
    """Fails where a pass would read a value off the device, or make a tensor from a Python number, on its way."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        assert func.overloadpacket.__name__ not in ("_local_scalar_dense", "nonzero", "lift_fresh", "lift_fresh_copy")
        return func(*args, **kwargs or {})


def test_flops_are_counted_alike(text: str) -> None:
    engine = tiny_engine()
    with engine.session(small()) as session, engine.session(small()) as plain:
        recorded(session.readers[0])
        for s in (session, plain):
            s.write(text[:20], max_new_tokens=9, sampling=GREEDY)
        assert session.meter.flops == plain.meter.flops


def test_what_cannot_be_recorded() -> None:
    """No CUDA, or a rotary embedding that chooses its frequencies by the positions it is given."""
    model = tiny_engine().model
    assert can_be_recorded(model)
    assert graph_rows(model, 1) is None
    model.config.rope_parameters = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}
    assert not can_be_recorded(model)
