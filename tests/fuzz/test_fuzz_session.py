"""Session folders and snapshots that somebody else made: what they say is used, or refused by an error of ours."""

from __future__ import annotations

import copy
import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TEXT, small
from fuzzing import Reader, fuzzed
from hypothesis import given, strategies as st

from templora.sampling import SamplingParams
from templora.session.session import Session
from templora.session.snapshot import Snapshot
from templora.store.log import Log
from templora.store.store import SessionStore
from templora.testing import tiny_engine

FOLDER, SNAPSHOT = Reader("session-folder"), Reader("snapshot")
ODD = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(), st.text(max_size=8), st.just([]), st.just({}),
    st.lists(st.integers(-5, 10**9), max_size=6), st.just([0] * 5000),
)  # fmt: skip
DTYPES = [torch.float32, torch.float64, torch.int8, torch.bfloat16, torch.uint8, torch.bool]
BEGIN = {"model": {"name": "m", "fingerprint": "0"}, "config": small().to_dict(), "opening": [], "versions": {}}
RECORDS: list[tuple[str, tuple[int, ...], dict[str, Any]]] = [
    ("begin", (), BEGIN),
    ("given", tuple(range(60, 100)), {"text": "A" * 40}),
    ("write", (), {"max_new_tokens": 5, "stop_at_end": False, "score": False, "sampling": {}}),
    ("token", (65,), {"text": "A"}),
    ("end", (), {"reason": "length", "text": ""}),
    ("learned", (), {"index": 0, "start": 0, "end": 32, "committed": True, "version": 1}),
    ("snapshot", (), {"file": "00000001.safetensors", "sha256": "0", "tokens": 32, "until": 3}),
    ("seed", (), {"seed": 4}),
    ("notes", (), {"notes": "Mara is dead.", "tokens": 15}),
    ("mark", (), {"text": "x"}),
    ("rewind", (), {"to": 32}),
]


@pytest.fixture(scope="module", autouse=True)
def saved() -> Iterator[None]:
    yield
    FOLDER.save()
    SNAPSHOT.save()


@pytest.fixture(scope="module")
def session() -> Iterator[tuple[Session, list[int], Snapshot]]:
    with tiny_engine().session(small()) as made:
        made.absorb(TEXT)
        made.write(max_new_tokens=5, sampling=SamplingParams(temperature=0))
        yield made, list(made.tokens), made.snapshot()


def replaced(data: st.DataObject, value: Any) -> Any:
    """`value` with something of it, at any depth, replaced, left out or put in."""
    keys = list(value) if isinstance(value, dict) else list(range(len(value))) if isinstance(value, list) else []
    if not keys or data.draw(st.integers(0, 3)) == 0:
        return data.draw(ODD)
    key = data.draw(st.sampled_from(keys))
    changed = copy.copy(value)
    if data.draw(st.integers(0, 5)) == 0:
        del changed[key]
    else:
        changed[key] = replaced(data, value[key])
    return changed


@fuzzed
@given(st.data())
def test_any_snapshot(session: tuple[Session, list[int], Snapshot], data: st.DataObject) -> None:
    made, tokens, sound = session
    tensors, meta = dict(sound.tensors), copy.deepcopy(dict(sound.meta))
    for _ in range(data.draw(st.integers(1, 2))):
        name = data.draw(st.sampled_from(sorted(tensors)))
        how = data.draw(st.integers(0, 5))
        if how == 0:
            tensors[name] = tensors[name].to(data.draw(st.sampled_from(DTYPES)))
        elif how == 1:
            axis = data.draw(st.integers(0, tensors[name].dim() - 1))
            tensors[name] = tensors[name].narrow(axis, 0, data.draw(st.integers(0, tensors[name].shape[axis])))
        elif how == 2:
            tensors[name] = tensors[name].flatten()[:0]
        else:
            meta = replaced(data, meta)
        if not isinstance(meta, dict):
            break
    size = len(json.dumps(meta, default=str)) + sum(t.nbytes for t in tensors.values())

    def read() -> str:
        made.restore(tokens, Snapshot(tensors, meta))
        return made.write(max_new_tokens=2, sampling=SamplingParams(temperature=0))

    SNAPSHOT(read, size)
    made.restore(tokens, sound)
    assert made.text.startswith(TEXT)


@fuzzed
@given(st.data())
def test_any_log(data: st.DataObject) -> None:
    records = [record for record in RECORDS if record[0] == "begin" or data.draw(st.integers(0, 4))]
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(records) - 1))
        kind, ids, said = records[at]
        changed = replaced(data, said)
        records[at] = (data.draw(st.sampled_from([kind] * 5 + [r[0] for r in RECORDS])), ids, changed)
    folder = Path(tempfile.mkdtemp())
    try:
        (folder / "a").mkdir()
        with Log.create(folder / "a" / "log.sqlite") as log:
            log.extend(records, durable=False)
        store = SessionStore(folder)
        size = (folder / "a" / "log.sqlite").stat().st_size
        assert FOLDER(store.list, size)
        FOLDER(lambda: store.history("a").text, size)
        FOLDER(lambda: store.report("a"), size)
        FOLDER(lambda: store.fork("a", "b"), size)
        FOLDER(lambda: store.discard("a", keep_text=folder / "kept.txt"), size)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
