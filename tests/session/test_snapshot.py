"""Snapshots: a session that goes on from one is the session that was left."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import LONG

from templora.config import TempLoraConfig
from templora.errors import ModelError, TextError
from templora.events import ChunkScored
from templora.methods.attention_sinks import AttentionSinks
from templora.methods.base import Method
from templora.methods.dynamic_evaluation import DynamicEvaluation
from templora.methods.extended_positions import ExtendedPositions
from templora.runtime.files import sha256
from templora.session.session import Session
from templora.session.snapshot import Snapshot
from templora.store.log import Log
from templora.store.store import SessionStore
from templora.testing import tiny_engine

IDS = list(range(1, 200)) * 2
METHODS = [Method(), AttentionSinks(), DynamicEvaluation(step_size=1e-3), ExtendedPositions("dynamic", 2.0)]
OPTIONS = [
    {},
    {"cache_reuse": 2},
    {"dropout": 0.1, "epochs": 2},
    {"neural_cache": 100},
    {"learning": "off"},
    {"learning": "parallel", "neural_cache": 100},
    {"learning": "parallel", "context_gradients": True},
]


def config(**options: object) -> TempLoraConfig:
    sizes = {"window": 64, "chunk_size": 32, "rank": 4, "alpha": 4.0, "learning_rate": 0.01}
    return TempLoraConfig(**{"learn_written": True, **sizes, **options})


def scores(session: Session, ids: list[int]) -> list[tuple[float | None, float | None]]:
    return [(e.base_nll, e.adapted_nll) for e in session.score_ids(ids) if isinstance(e, ChunkScored)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "options",
    [
        {"neural_cache": 100},
        {"cache_reuse": 2},
        {"dropout": 0.1, "epochs": 2},
        {"learning": "off"},
        {"learning": "parallel"},
    ],
)
@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)
def test_going_on_gives_the_same_bits(
    method: Method, options: dict[str, object], dtype: torch.dtype, tmp_path: Path
) -> None:
    """After each of the first chunks, and in the middle of one, through a file and in another engine."""
    if dtype == torch.bfloat16 and options and not LONG:
        pytest.skip("in a long run: fp32 has these options, and bf16 the methods")
    settings = config(**options)
    if method.changes_passes and settings.learning == "parallel":
        with pytest.raises(ModelError, match="cascaded"):
            tiny_engine().session(settings, method=method)
        return
    if settings.cache_reuse and not isinstance(method, ExtendedPositions):
        settings = config(**options, window=96)
    with tiny_engine(dtype=dtype).session(settings, method=method) as session:
        expected = scores(session, IDS)
        weights = session.adapter_weights()
    for at in (32, 96, 112, 224):
        with tiny_engine(dtype=dtype).session(settings, method=method) as session:
            before = scores(session, IDS[:at])
            session.snapshot().save(tmp_path / "snapshot")
            tokens = session.tokens
        with tiny_engine(dtype=dtype).session(settings, method=method) as session:
            session.restore(tokens, Snapshot.load(tmp_path / "snapshot"))
            after = scores(session, IDS[at:])
            if at % 32 == 0:
                assert before + after == expected
            assert torch.equal(session.adapter_weights(), weights) or at % 32
        assert session.receipt is not None
        assert session.receipt.base_unchanged
        assert session.receipt.discarded


@pytest.mark.parametrize("learning", ["cascaded", "parallel"])
@pytest.mark.parametrize("cache_reuse", [0, 2])
def test_writing_goes_on_with_the_same_tokens(learning: str, cache_reuse: int) -> None:
    settings = config(learning=learning, cache_reuse=cache_reuse, window=96)
    with tiny_engine().session(settings) as session:
        session.write("once", max_new_tokens=200)
        expected = session.tokens
    for at in (63, 64, 65, 130):
        with tiny_engine().session(settings) as session:
            session.write("once", max_new_tokens=at)
            taken, tokens = session.snapshot(), list(session.tokens)
        with tiny_engine().session(settings) as session:
            session.restore(tokens, taken)
            session.write(max_new_tokens=200 - at)
            assert session.tokens == expected


@pytest.mark.parametrize("learning", ["cascaded", "parallel"])
def test_what_is_written_again_is_what_goes_on(learning: str) -> None:
    """Known tokens, written again, leave the session as it was when they were chosen."""
    settings = config(learning=learning)
    with tiny_engine().session(settings) as session:
        session.write("once", max_new_tokens=150)
        expected = session.tokens
    with tiny_engine().session(settings) as session:
        list(session.stream("once", max_new_tokens=150, forced_tokens=expected[4:104]))
        assert session.tokens == expected
    with tiny_engine().session(settings) as session:  # also if the model would have chosen others
        other = [(token + 1) % 200 for token in expected[4:104]]
        list(session.stream("once", max_new_tokens=150, forced_tokens=other))
        assert session.tokens[4:104] == other
        assert session.tokens[104:] != expected[104:]


def test_a_snapshot_stays_as_it_was_while_the_session_goes_on() -> None:
    with tiny_engine().session(config()) as session:
        scores(session, IDS[:96])
        taken = session.snapshot()
        kept = {name: tensor.clone() for name, tensor in taken.tensors.items()}
        scores(session, IDS[96:])
        assert all(torch.equal(kept[name], tensor) for name, tensor in taken.tensors.items())


def test_a_snapshot_can_be_gone_on_from_twice() -> None:
    """Learning edits the adapter's state in place: the session's, not the snapshot's."""
    with tiny_engine().session(config()) as session:
        scores(session, IDS[:96])
        taken, tokens = session.snapshot(), list(session.tokens)
    after = []
    for _ in range(2):
        with tiny_engine().session(config()) as session:
            session.restore(tokens, taken)
            after.append(scores(session, IDS[96:]))
    assert after[0] == after[1]


@pytest.mark.parametrize("seed", [-(2**63), -5, 2**64 - 1])
def test_every_seed_that_is_taken_goes_on(seed: int) -> None:
    with tiny_engine().session(config()) as session:
        session.reseed(seed)
        session.restore(session.tokens, session.snapshot())
        assert session.loop.seed == seed


@pytest.mark.parametrize("name", ["a\0b", "x" * 300, "\ud800", "a\0b.gguf", "x" * 300 + ".gguf", "\ud800.gguf"])
def test_a_name_that_nothing_can_have_is_an_error_of_ours(name: str, tmp_path: Path) -> None:
    with tiny_engine().session(config()) as session:
        for verb in (session.save_adapter, session.load_adapter):
            with pytest.raises(ModelError, match=r"the adapter cannot be written|no adapter can be read here"):
                verb(tmp_path / name)
        with pytest.raises(TextError, match="cannot be written"):
            session.snapshot().save(tmp_path / name)


def test_what_was_spent_goes_on_too() -> None:
    with tiny_engine().session(config()) as session:
        scores(session, IDS)
        expected = session.meter.flops
    with tiny_engine().session(config()) as session:
        scores(session, IDS[:96])
        taken, tokens = session.snapshot(), list(session.tokens)
    with tiny_engine().session(config()) as session:
        session.restore(tokens, taken)
        scores(session, IDS[96:])
        assert session.meter.flops == pytest.approx(expected)


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    with tiny_engine().session(config()) as session:
        scores(session, IDS[:96])
        taken, tokens = session.snapshot(), list(session.tokens)
    with tiny_engine().session(config(rank=2)) as session, pytest.raises(TextError, match="another session"):
        session.restore(tokens, taken)
    with tiny_engine().session(config()) as session, pytest.raises(TextError, match="another session"):
        session.restore(tokens[:-1], taken)
    (tmp_path / "torn").write_bytes(b"\x10\0\0\0\0\0\0\0{}")
    for name in ("torn", "absent"):
        with pytest.raises(TextError, match=name):
            Snapshot.load(tmp_path / name)
    with pytest.raises(TextError, match="cannot be written"):
        taken.save(tmp_path / "no folder" / "snapshot")


NAN, HUGE = float("nan"), 10**400
# (what is changed of a sound one: a part of tensors' names, or the way to a number; into what)
OTHERS: dict[str, tuple[Any, Any]] = {
    "head size": ("adapted.keys", lambda t: t[..., :1]),
    "heads": ("adapted", lambda t: t[:, :1, :, :1]),
    "int8": ("adapted", lambda t: t.to(torch.int8)),
    "bf16 values": ("adapted.values", lambda t: t.bfloat16()),
    "two texts": ("adapted", lambda t: torch.cat([t] * 2)),
    "keys nan": ("adapted.keys", lambda t: t * NAN),
    "seed too low": (["seed"], -(2**63) - 1),
    "seed too high": (["seed"], 2**64),
    "seed a text": (["seed"], "1"),
    "ends of one number": (["ends"], [1]),
    "ends below 0": (["ends"], [3, -1]),
    "weights [1, n]": ("weights", lambda t: t[None]),
    "moments infinite": ("exp_avg", lambda t: t + torch.inf),
    "versions long": (["caches", "adapted", "versions"], [1] * 5000),
    "versions true": (["caches", "adapted", "versions", 0], True),
    "versions huge": (["caches", "adapted", "versions", 0], HUGE),
    "shift": (["caches", "adapted", "shift"], 33),
    "chunk long ago": (["chunk"], [0, 3]),
    "chunk a float": (["chunk"], [1.0, 64]),
    "spans outside": (["guards", "spans"], [[0, 5]]),
    "entropies of others": (["guards", "entropies"], [1.0] * 999),
    "an entropy": (["guards", "entropies", 0], NAN),
    "patience": (["guards", "patience"], [HUGE, 0]),
    "mixture": (["mixture"], [1, 1, 1]),
    "meter": (["meter", 0], {"x": 1.0}),
    "masked": (["masked"], [[0, 10**9]]),
    "under way": (["under_way"], [1, 0, 32, 64, [[32, 64]]]),
}


@pytest.mark.parametrize(("where", "value"), OTHERS.values(), ids=OTHERS.keys())
def test_what_is_no_snapshot_of_this_session_is_refused_whole(where: Any, value: Any) -> None:
    """Keys and values are read by address: nothing is held before all of it is known to fit."""
    with tiny_engine().session(config()) as session:
        session.absorb("The keeper climbed the stairs, and the lamp was lit. He saw a ship far out")
        session.write(max_new_tokens=3)
        taken, tokens = session.snapshot(), list(session.tokens)
    tensors, meta = dict(taken.tensors), copy.deepcopy(dict(taken.meta))
    if isinstance(where, str):
        tensors.update({name: value(held) for name, held in tensors.items() if where in name})
    else:
        held: Any = meta
        for key in where[:-1]:
            held = held[key]
        held[where[-1]] = value
    with tiny_engine().session(config()) as session:
        before = session.adapter_weights()
        with pytest.raises(TextError, match="another session, or damaged"):
            session.restore(tokens, Snapshot(tensors, meta))
        assert session.tokens == []
        assert torch.equal(session.adapter_weights(), before)
        session.restore(tokens, taken)


@pytest.mark.parametrize(("key", "value"), [("first_token", 0), ("versions", [1]), ("shift", 10**6)])
def test_an_update_under_way_has_the_context_of_its_chunk(key: str, value: Any) -> None:
    settings = config(learning="parallel")
    with tiny_engine().session(settings) as session:
        scores(session, IDS[:96])
        taken, tokens = session.snapshot(), list(session.tokens)
    meta = copy.deepcopy(dict(taken.meta))
    meta["caches"]["context"][key] = value
    with tiny_engine().session(settings) as session, pytest.raises(TextError, match="another session"):
        session.restore(tokens, Snapshot(taken.tensors, meta))


def test_what_a_method_held_is_such() -> None:
    method = DynamicEvaluation(step_size=1e-3)
    with tiny_engine().session(config(), method=method) as session:
        scores(session, IDS[:96])
        taken, tokens = session.snapshot(), list(session.tokens)
    for kind in ("master.", "step.", "exp_avg_sq."):
        name = next(name for name in taken.tensors if name.startswith(kind))
        whole = taken.tensors[name]
        for found in (whole * NAN, whole[None], whole.to(torch.int64), None):
            changed = {k: t for k, t in {**taken.tensors, name: found}.items() if t is not None}
            other = tiny_engine().session(config(), method=method)
            with other as session, pytest.raises(TextError, match="another session"):
                session.restore(tokens, Snapshot(changed, taken.meta))


def test_a_session_on_disk_goes_on_without_a_snapshot_that_is_not_its_own(tmp_path: Path) -> None:
    """Though the log has its hash: what came after the one before is done again."""
    store = SessionStore(tmp_path / "sessions")
    with store.create("novel", tiny_engine(), config()) as saved:
        saved.absorb("The keeper climbed the stairs, and the lamp was lit. He saw a ship far out")
        saved.snapshot()
        tokens, weights = list(saved.tokens), saved.session.adapter_weights()
    history = store.history("novel")
    record = history.snapshots[-1]
    path = store.folder / "novel" / "files" / record.data["file"]
    sound = Snapshot.load(path)
    other = {name: tensor.double() for name, tensor in sound.tensors.items()}
    for tensors in (other, {**sound.tensors, "more": torch.zeros(1 << 23)}):
        Snapshot(tensors, sound.meta).save(path)
        for file in (store.folder / "novel").glob("log.sqlite*"):
            file.unlink()
        with Log.create(store.folder / "novel" / "log.sqlite") as log:
            changed = {**record.data, "sha256": sha256(path)}
            log.extend([(r.kind, r.ids, changed if r.seq == record.seq else r.data) for r in history.records])
        with store.open("novel", tiny_engine()) as saved:
            assert saved.tokens == tokens
            assert torch.equal(saved.session.adapter_weights(), weights)
            assert str(path) in saved.remarks[0]


def test_a_snapshot_stays_what_it_was(tmp_path: Path) -> None:
    """While its session goes on; and is gone back to, also where nothing had been learnt yet."""
    with tiny_engine().session(config()) as session:
        session.absorb("once")
        session.write(max_new_tokens=10)
        held, tokens, meta = session.snapshot(), list(session.tokens), json.dumps(session.snapshot().meta)
        fresh, after = session.adapter_weights(), session.write(max_new_tokens=60)
        assert session.version > 0
        assert json.dumps(held.meta) == meta
        session.restore(tokens, held)
        assert (session.version, session.meter.flops) == (0, held.meta["meter"][1])
        assert torch.equal(session.adapter_weights(), fresh)
        assert session.write(max_new_tokens=60) == after
