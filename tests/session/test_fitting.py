"""A snapshot that is not of this session is refused whole, before any of it is held; so is a log that begins oddly."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TEXT, small

from templora.errors import StoreError, TextError
from templora.sampling import SamplingParams
from templora.session.snapshot import Snapshot
from templora.store.log import Log
from templora.store.store import SessionStore
from templora.testing import tiny_engine

Tensors = dict[str, torch.Tensor]
GREEDY = SamplingParams(temperature=0)


def each(part: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Tensors, Any], None]:
    def edit(tensors: Tensors, meta: Any) -> None:
        for name in [n for n in tensors if part in n]:
            tensors[name] = change(tensors[name])

    return edit


def cache(**values: Any) -> Callable[[Tensors, Any], None]:
    return lambda tensors, meta: meta["caches"]["adapted"].update(values)


def says(**values: Any) -> Callable[[Tensors, Any], None]:
    return lambda tensors, meta: meta.update(values)


def holds(name: str, tensor: torch.Tensor) -> Callable[[Tensors, Any], None]:
    return lambda tensors, meta: tensors.update({name: tensor})


CHANGES: dict[str, Callable[[Tensors, Any], Any]] = {
    "one number a head": each("adapted.keys", lambda x: x[..., :1]),
    "one head": each("adapted.", lambda x: x[:, :1]),
    "no head": each("adapted.", lambda x: x[:, :0]),
    "int8": each("adapted.", lambda x: x.to(torch.int8)),
    "fp64": each("adapted.", lambda x: x.double()),
    "entries nine times": each("adapted.", lambda x: torch.cat([x] * 9, 2)),
    "no values": lambda t, m: [t.pop(k) for k in list(t) if "values" in k],
    "versions cut": lambda t, m: m["caches"]["adapted"]["versions"].pop(),
    "versions beyond the window": cache(versions=[1] * 5000),
    "versions are no list": cache(versions=7),
    "shift below 0": cache(shift=-1),
    "shift beyond the text": cache(shift=10**9),
    "first token beyond the text": cache(first_token=10**9),
    "no number of the first": cache(first_token=None),
    "served version is text": cache(served_version="1"),
    "another text": says(tokens=3),
    "chunk beyond the text": says(chunk=[0, 10**6]),
    "chunk before it": says(chunk=[0, -32]),
    "chunk of long ago": says(chunk=[0, 0]),
    "version is text": says(version="x"),
    "steps below 0": says(steps=-7),
    "a true number": says(steps=True),
    "no guards": says(guards={}),
    "no mixture": says(mixture=[]),
    "mixture of nan": says(mixture=[float("nan")] * 3),
    "no meter": says(meter=[]),
    "masked beyond": says(masked=[[0, 10**9]]),
    "under way": says(under_way=[0, 0, 0, 10**9, []]),
    "no caches": says(caches=[]),
    "nothing": lambda t, m: m.clear(),
    "weights of another rank": each("weights", lambda x: x[:-1]),
    "weights in int8": each("weights", lambda x: x.to(torch.int8)),
    "weights of nan": each("weights", lambda x: x * float("nan")),
    "negative squares": each("exp_avg_sq", lambda x: -x - 1),
    "no moments": lambda t, m: t.pop("exp_avg"),
    "what is looked up of another size": each("neural_cache.keys", lambda x: x[:-1]),
    "what is looked up in fp32": each("neural_cache.keys", lambda x: x.float()),
    "nothing to look up": lambda t, m: t.pop("neural_cache.tokens"),
    "tokens that there are not": each("neural_cache.tokens", lambda x: x + 250),
    "tokens below 0": each("neural_cache.tokens", lambda x: x - 200),
    "more tokens than may be": lambda t, m: [
        t.update({n: torch.cat([t[n]] * 9)}) for n in ("neural_cache.keys", "neural_cache.tokens")
    ],
    "no spread": each("neural_cache.scale", lambda x: x * 0),
    "shares of text": says(neural_cache=[["a"] * 7] * 7),
    "shares of another table": says(neural_cache=[[0.0] * 6] * 7),
}


@pytest.fixture(scope="module")
def sound() -> tuple[list[int], Snapshot]:
    with tiny_engine().session(small(neural_cache=100)) as session:
        session.absorb(TEXT)
        session.write(max_new_tokens=7, sampling=GREEDY)  # so that its cache holds something
        return list(session.tokens), session.snapshot()


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_what_is_not_of_this_session_is_refused_whole(sound: tuple[list[int], Snapshot], change: Any) -> None:
    tokens, snapshot = sound
    tensors, meta = dict(snapshot.tensors), copy.deepcopy(snapshot.meta)
    change(tensors, meta)
    with tiny_engine().session(small(neural_cache=100)) as session:
        session.absorb(TEXT[:40])
        weights = session.adapter_weights()
        with pytest.raises(TextError, match="snapshot"):
            session.restore(tokens, Snapshot(tensors, meta))
        assert (session.text, session.version) == (TEXT[:40], 1)  # as it was, and of use
        assert torch.equal(session.adapter_weights(), weights)
        session.restore(tokens, snapshot)
        session.write(max_new_tokens=3, sampling=GREEDY)
        assert session.text.startswith(TEXT)


BEGINNINGS: dict[str, dict[str, Any]] = {
    "chunk of 0": {"config": small().to_dict() | {"chunk_size": 0}},
    "chunk of -1": {"config": small().to_dict() | {"chunk_size": -1}},
    "chunk of 1e-300": {"config": small().to_dict() | {"chunk_size": 1e-300}},
    "chunk of nan": {"config": small().to_dict() | {"chunk_size": float("nan")}},
    "no chunk fits": {"config": small().to_dict() | {"window": 7}},
    "a list as chunk": {"config": small().to_dict() | {"chunk_size": []}},
    "an option of nowhere": {"config": small().to_dict() | {"junk": 1}},
    "no name": {"model": {}},
    "a number as name": {"model": {"name": 5, "fingerprint": "0"}},
    "a number as model": {"model": {"name": "m", "fingerprint": "0", "model": 7}},
    "a list as dtype": {"model": {"name": "m", "fingerprint": "0", "dtype": []}},
    "texts as opening": {"opening": ["a"]},
    "negative opening": {"opening": [-1]},
    "true as token": {"opening": [True]},
}


@pytest.mark.parametrize("change", BEGINNINGS.values(), ids=BEGINNINGS.keys())
def test_a_beginning_that_cannot_be_is_a_problem_of_that_session_alone(change: dict[str, Any], tmp_path: Path) -> None:
    begin = {"model": {"name": "m", "fingerprint": "0"}, "config": small().to_dict(), "opening": [], "versions": {}}
    for name, data in (("bad", begin | change), ("good", begin)):
        (tmp_path / name).mkdir()
        with Log.create(tmp_path / name / "log.sqlite") as log:
            log.extend([("begin", (), data), ("given", [65] * 10, {"text": "A" * 10})], durable=True)
    store = SessionStore(tmp_path)
    bad, good = store.list()
    assert (bad.name, good.name, good.tokens, good.problem) == ("bad", "good", 10, "")
    assert "damaged" in bad.problem
    with pytest.raises(StoreError, match="damaged"):
        store.open("bad", tiny_engine())
