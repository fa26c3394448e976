"""Sessions whose files were damaged, swapped or made up: a clear error or nothing lost, and the others stay usable."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import LONG, TEXT, small
from hypothesis import HealthCheck, given, settings, strategies as st

from templora.config import TempLoraConfig
from templora.errors import StoreError, TemploraError
from templora.session.loop import Loop
from templora.session.snapshot import Snapshot
from templora.store.history import History
from templora.store.log import Log, Record
from templora.store.snapshots import Snapshots
from templora.store.store import SessionStore
from templora.testing import tiny_engine

CONFIG = TempLoraConfig(window=64, chunk_size=32, rank=2, alpha=2.0, learning_rate=0.01)
CHANCE = random.Random(0)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of three sessions, with snapshots where they are asked for and none by the clock; nobody writes to it."""
    store = SessionStore(tmp_path_factory.mktemp("store") / "sessions")
    for name in ("novel", "other", "third"):
        with pytest.MonkeyPatch.context() as patch, store.create(name, tiny_engine(), CONFIG, keep=2) as saved:
            patch.setattr(Snapshots, "make_if_due", lambda *_: None)
            patch.setattr(Snapshots, "make_if_worth_it", lambda *_: None)
            saved.absorb(f"The {name} keeper climbed the stairs. " * 3)
            saved.snapshot()
            saved.write(max_new_tokens=40)
            saved.snapshot()
            saved.write(max_new_tokens=10)
    return store.folder


@pytest.fixture
def store(sound: Path, tmp_path: Path) -> SessionStore:
    shutil.copytree(sound, tmp_path / "sessions")
    return SessionStore(tmp_path / "sessions")


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at % len(data)] ^= 1 << CHANCE.randrange(8)
    path.write_bytes(data)


def files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.is_file() and p.stat().st_size)


def check(store: SessionStore, damaged: Path, tokens: list[int]) -> bool:
    """Whether the session can still be used, as it was; if it cannot, an error names the file."""
    listed = {info.name: info for info in store.list()}
    assert set(listed) == {"novel", "other", "third"}
    assert not listed["third"].problem
    with store.open("third", tiny_engine()) as saved:
        saved.write(max_new_tokens=2)
    problem = ""
    try:
        with store.open("novel", tiny_engine()) as saved:
            assert saved.tokens == tokens
            assert all(str(damaged) in note for note in saved.remarks)
    except StoreError as error:
        problem = str(error)
    assert listed["novel"].problem == problem
    assert not problem or str(damaged) in problem
    return not problem


def test_every_file_flipped(store: SessionStore, sound: Path) -> None:
    tokens = store.history("novel").tokens
    usable = {True: 0, False: 0}
    for file in files(store.folder / "novel"):
        size = file.stat().st_size
        for at in {0, 17, size - 1, *(CHANCE.randrange(size) for _ in range(12))}:
            flip(file, at)
            usable[check(store, file, tokens)] += 1
            shutil.rmtree(store.folder / "novel")
            shutil.copytree(sound / "novel", store.folder / "novel")
    assert usable[True]
    assert usable[False]


@pytest.mark.parametrize("part", [0.0, 0.3, 0.9])
def test_every_file_cut_short(store: SessionStore, sound: Path, part: float) -> None:
    tokens = store.history("novel").tokens
    for file in files(store.folder / "novel"):
        os.truncate(file, int(file.stat().st_size * part))
        usable = check(store, file, tokens)
        assert usable == (file.name != "log.sqlite"), file
        shutil.rmtree(store.folder / "novel")
        shutil.copytree(sound / "novel", store.folder / "novel")


def test_every_file_swapped_for_another_of_its_kind(store: SessionStore, sound: Path) -> None:
    tokens = store.history("novel").tokens
    for file in files(store.folder / "novel"):
        shutil.copyfile(sound / "other" / file.relative_to(store.folder / "novel"), file)
        if file.name == "log.sqlite":  # a whole session in itself, whose snapshots are not there
            with store.open("novel", tiny_engine()) as saved:
                assert saved.tokens == SessionStore(sound).history("other").tokens
                assert saved.remarks
        else:
            assert check(store, file, tokens)
        shutil.rmtree(store.folder / "novel")
        shutil.copytree(sound / "novel", store.folder / "novel")


def test_a_link_out_of_the_folder_is_not_followed(store: SessionStore, tmp_path: Path) -> None:
    tokens = store.history("novel").tokens
    outside = tmp_path / "outside"
    for file in files(store.folder / "novel"):
        if file.name == "lock":
            continue
        shutil.move(file, outside)
        file.symlink_to(outside)
        assert check(store, file, tokens) == (file.name != "log.sqlite")
        file.unlink(missing_ok=True)
        shutil.move(outside, file)
    shutil.move(store.folder / "novel", outside)
    (store.folder / "novel").symlink_to(outside)
    assert "novel" not in store.names()
    with pytest.raises(StoreError, match="no session 'novel'"):
        store.open("novel", tiny_engine())


def edit(path: Path, statement: str) -> None:
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA writable_schema = ON")
    connection.executescript(statement)
    connection.commit()
    connection.close()


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM records WHERE seq = 3",
        "UPDATE records SET ids = x'00' WHERE seq = 3",
        "UPDATE records SET data = '{}' WHERE seq = 0",
        "UPDATE records SET kind = 5 WHERE seq = 2",
        "UPDATE records SET seq = -1 WHERE seq = 2",
        "DROP TABLE records",
        "CREATE TABLE more (x)",
        "CREATE TRIGGER t AFTER INSERT ON records BEGIN DELETE FROM records; END",
        "DROP TABLE records; CREATE VIEW records AS WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x FROM n) "
        "SELECT x AS seq, 'a' AS kind, x'' AS ids, '{}' AS data, x'' AS 'check' FROM n",
        "PRAGMA application_id = 7",
    ],
)
def test_a_log_that_was_edited_is_refused(store: SessionStore, statement: str) -> None:
    log = store.folder / "novel" / "log.sqlite"
    edit(log, statement)
    with pytest.raises(StoreError, match=r"log\.sqlite"):
        store.history("novel")
    assert not check(store, log, [])


def test_a_log_of_a_later_version_is_refused(store: SessionStore) -> None:
    edit(store.folder / "novel" / "log.sqlite", "PRAGMA user_version = 3")
    with pytest.raises(StoreError, match="later templora"):
        store.history("novel")


def test_a_session_of_an_older_version_goes_on_and_says_so(
    store: SessionStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its snapshots hold the state of a generator; the seed that it was given last is in its log alone."""
    real = Loop.snapshot

    def older(self: Loop, copy: bool = True) -> Snapshot:
        made = real(self, copy)
        meta = {name: value for name, value in made.meta.items() if name not in ("seed", "ends", "unshown")}
        return Snapshot({**made.tensors, "generator": torch.zeros(5056, dtype=torch.uint8)}, meta)

    with monkeypatch.context() as patch, store.create("old", tiny_engine(), small()) as saved:
        patch.setattr(Loop, "snapshot", older)
        saved.absorb(TEXT[:70])
        saved.reseed(5)
        saved.write(max_new_tokens=9)
        saved.snapshot()
        text = saved.text
    with store.create("new", tiny_engine(), small()) as saved:
        saved.absorb(TEXT[:70])
        saved.reseed(5)
        saved.write(max_new_tokens=9)
        wanted = saved.write(max_new_tokens=20)
    edit(store.folder / "old" / "log.sqlite", "PRAGMA user_version = 1")
    assert store.history("old").text == text
    with store.open("old", tiny_engine()) as saved:
        assert saved.text == text
        assert "an older version began it" in " ".join(saved.remarks)
        assert saved.write(max_new_tokens=20) == wanted
    with store.open("old", tiny_engine()) as saved:
        assert saved.remarks == []
        assert saved.text == text + wanted


# Records that have their checks right, but make no sense.
_ANY = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=6,
)
_KINDS = ("begin", "given", "write", "token", "end", "close", "adapter", "seed", "learned", "snapshot", "rewind", "no")
_KEYS = ("to", "file", "sha256", "tokens", "until", "reason", "max_new_tokens", "sampling", "text", "end", "config")
_DATA = st.dictionaries(st.sampled_from(_KEYS), _ANY | st.sampled_from(["../../x", "/etc/passwd"]), max_size=4)
_RECORDS = st.lists(
    st.tuples(st.sampled_from(_KINDS), st.lists(st.integers(-(2**31), 2**31 - 1), max_size=5), _DATA), max_size=6
)


@given(_RECORDS)
@settings(max_examples=150 if LONG else 50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_made_up_records_are_refused_or_read(sound: Path, tmp_path_factory: pytest.TempPathFactory, new: list) -> None:
    store = SessionStore(tmp_path_factory.mktemp("made") / "sessions")
    shutil.copytree(sound / "novel", store.folder / "novel")
    with Log.open(store.folder / "novel" / "log.sqlite") as log:
        log.extend(new)
    for use in (store.list, lambda: store.fork("novel", "fork"), lambda: store.rewind("novel", 1)):
        try_it(use)
    try_it(lambda: store.open("novel", tiny_engine()).close())
    assert {p.name for p in store.folder.parent.iterdir()} == {"sessions"}


def try_it(use: Callable[[], object]) -> None:
    with contextlib.suppress(TemploraError):
        use()


@given(st.binary(max_size=4000))
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_are_no_log(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.mktemp("bytes") / "log.sqlite"
    path.write_bytes(data)
    with pytest.raises(StoreError, match=r"log\.sqlite"):
        Log.open(path)


@given(st.lists(st.builds(Record, st.integers(0, 9), st.sampled_from(_KINDS), st.just(()), _DATA), max_size=6))
def test_a_history_of_nonsense_ends(records: list[Record]) -> None:
    begin = Record(0, "begin", (), {"opening": [], "config": {"chunk_size": 4}, "model": {}})
    history = History()
    try:
        for record in (begin, *records):
            history.add(record)
    except (LookupError, TypeError, ValueError, AttributeError):
        return
    assert json.dumps(history.tokens)


def zeros(raw: bytes, size: int) -> bytes:
    return raw[:-size] + bytes(size)


def cut(raw: bytes, size: int) -> bytes:
    return raw[:-size]


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A log of so many pages that one at its end leads to those before it."""
    path = tmp_path_factory.mktemp("large") / "log.sqlite"
    begin = {"model": {"name": "m", "fingerprint": "0"}, "config": CONFIG.to_dict(), "opening": [], "versions": {}}
    with Log.create(path) as log:
        given = ({"text": f"{at:04}" * 200} for at in range(2800))
        log.extend([("begin", (), begin), ("given", [7] * 9000, {"text": "a" * 9000})])  # in pages of its own
        log.extend([("given", [8], data) for data in given])
    return path.read_bytes()


@pytest.mark.parametrize(("harm", "pages"), [(zeros, 0.01), (zeros, 3), (zeros, 300), (cut, 0.01), (cut, 3)])
def test_what_can_be_read_of_a_log_is_given(
    tmp_path: Path, large: bytes, harm: Callable[[bytes, int], bytes], pages: float
) -> None:
    """Zeros at its end, where the disk was full or the power failed, also over pages that lead to all others."""
    store = SessionStore(tmp_path / "sessions")
    log = store.folder / "novel" / "log.sqlite"
    log.parent.mkdir(parents=True)
    log.write_bytes(large)
    text = store.history("novel").text
    log.write_bytes(harm(large, int(4096 * pages)))
    history, problem = store.readable("novel")
    begins = text.startswith(history.text)  # no diff of megabytes
    assert begins
    assert len(history.text) > len(text) - 4096 * (pages + 2)
    assert f"records can be read, of {len(history.tokens):,} tokens" in problem
    assert store.show("novel").problem == problem
    assert store.fork("novel", "rescued").problem == problem
    rescued = store.history("rescued").text == history.text
    assert rescued
    assert store.discard("novel", keep_text=tmp_path / "kept.txt").gone
    kept = (tmp_path / "kept.txt").read_text() == history.text
    assert kept
