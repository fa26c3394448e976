"""Sessions made by somebody else, whose files lead elsewhere; names; locks: nothing outside is written or deleted."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from templora.config import TempLoraConfig
from templora.engine.engine import Engine
from templora.errors import StoreError, TemploraError
from templora.store import lock
from templora.store.lock import hold, holder
from templora.store.store import SessionStore
from templora.testing import tiny_engine

CONFIG = TempLoraConfig(window=64, chunk_size=32, rank=2, alpha=2.0, learning_rate=0.01)
PLACES = ("", "files", "log.sqlite", "log.sqlite-wal", "log.sqlite-shm", "log.sqlite-journal", "lock", "snapshot")


@pytest.fixture(scope="module")
def engine() -> Engine:
    return tiny_engine()


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory, engine: Engine) -> Path:
    store = SessionStore(tmp_path_factory.mktemp("store") / "sessions")
    with store.create("novel", engine, CONFIG) as saved:
        saved.absorb("The keeper climbed the stairs. " * 3)
        saved.snapshot()
    return store.folder


@pytest.fixture
def store(sound: Path, tmp_path: Path) -> Iterator[SessionStore]:
    shutil.copytree(sound, tmp_path / "sessions")
    (tmp_path / "Documents").mkdir()
    for name in ("thesis.txt", "00000001.safetensors", ".templora-ab12"):
        (tmp_path / "Documents" / name).write_text("precious")
    signal.signal(signal.SIGALRM, lambda *_: pytest.fail("it waits for ever"))
    signal.alarm(60)
    yield SessionStore(tmp_path / "sessions")
    signal.alarm(0)


def verbs(store: SessionStore, engine: Engine) -> dict[str, Callable[[], object]]:
    return {
        "list": store.list,
        "show": lambda: store.show("novel"),
        "history": lambda: store.history("novel").text,
        "report": lambda: store.report("novel"),
        "fork": lambda: store.fork("novel", "other"),
        "open": lambda: absorb(store, engine),
        "rewind": lambda: store.rewind("novel", 1),
        "create": lambda: store.create("another", engine, CONFIG).close(),
        "keep text": lambda: store.discard("novel", keep_text=store.folder.parent / "kept.txt"),
        "discard": lambda: store.discard("novel"),
    }


def absorb(store: SessionStore, engine: Engine) -> None:
    with store.open("novel", engine) as saved:
        saved.absorb("He saw a ship far out. " * 3)
        saved.snapshot()


def outside(store: SessionStore) -> dict[str, bytes]:
    documents = store.folder.parent / "Documents"
    return {path.name: path.read_bytes() for path in documents.iterdir()}


def link_to_folder(path: Path, documents: Path) -> None:
    path.symlink_to(documents)


def link_to_file(path: Path, documents: Path) -> None:
    path.symlink_to(documents / "thesis.txt")


def link_to_nothing(path: Path, documents: Path) -> None:
    path.symlink_to(documents / "new.txt")


def hard_link(path: Path, documents: Path) -> None:
    os.link(documents / "thesis.txt", path)


def fifo(path: Path, documents: Path) -> None:
    os.mkfifo(path)


def folder(path: Path, documents: Path) -> None:
    path.mkdir()
    (path / "mine.txt").write_text("precious")


@pytest.mark.parametrize("made", [link_to_folder, link_to_file, link_to_nothing, hard_link, fifo, folder])
@pytest.mark.parametrize("place", PLACES, ids=lambda place: place or "itself")
def test_nothing_leads_out_of_a_sessions_folder(
    store: SessionStore, sound: Path, engine: Engine, place: str, made: Callable[[Path, Path], None]
) -> None:
    """Whatever stands in a file's place, each verb ends, with an answer or an error of ours, and harms nobody."""
    if place == "snapshot":
        place = str(next((sound / "novel" / "files").iterdir()).relative_to(sound / "novel"))
    before = outside(store)
    for name, verb in verbs(store, engine).items():
        for there in store.folder.iterdir():
            shutil.rmtree(there) if there.is_dir() and not there.is_symlink() else there.unlink()
        shutil.copytree(sound / "novel", store.folder / "novel")
        path = store.folder / "novel" / place
        if path.is_dir():
            shutil.rmtree(path)
        path.unlink(missing_ok=True)
        made(path, store.folder.parent / "Documents")
        with contextlib.suppress(TemploraError):
            verb()
        assert outside(store) == before, name
        assert made != folder or not place or (path / "mine.txt").exists(), name


def journal_that_deletes(victim: Path) -> bytes:
    """A rollback journal that has SQLite delete a file: in its eyes one that several databases once shared."""
    name, magic = str(victim).encode(), bytes.fromhex("d9d505f920a163d7")
    head = (magic + struct.pack(">5I", 0, 1234, 5, 512, 4096)).ljust(512, b"\0")
    return head + struct.pack(">I", 0x40000000 // 4096 + 1) + name + struct.pack(">2I", len(name), sum(name)) + magic


def test_no_journal_has_sqlite_delete_a_file(store: SessionStore, engine: Engine) -> None:
    victim = store.folder.parent / "Documents" / "thesis.txt"
    for name, verb in verbs(store, engine).items():
        if name == "discard":
            break
        for left in (store.folder / "novel").glob("log.sqlite-*"):
            left.unlink()
        (store.folder / "novel" / "log.sqlite-journal").write_bytes(journal_that_deletes(victim))
        with contextlib.suppress(StoreError):
            verb()
        assert victim.exists(), name
    assert "journal: is not ours" in store.show("novel").problem


def test_what_is_not_ours_is_not_deleted(store: SessionStore, engine: Engine) -> None:
    novel = store.folder / "novel"
    mine = [
        novel / "notes.txt",
        novel / "files" / "thesis.safetensors",
        novel / "files" / "old" / "00000001.safetensors",
    ]
    mine += [store.folder / f".{kind}-ideas" / "notes.txt" for kind in ("new", "gone")]
    for path in mine:
        path.parent.mkdir(exist_ok=True)
        path.write_text("precious")
    half_made = store.folder / ".new-ab12cd34" / "log.sqlite"
    half_made.parent.mkdir()
    half_made.touch()
    left = [novel / "files" / name for name in ("00000077.safetensors", ".templora-k3j9x2a1", ".tmpQCSPQa")]
    for path in left:
        path.touch()
    absorb(store, engine)
    assert not any(path.exists() for path in left)
    store.create("other", engine, CONFIG).close()
    assert not half_made.parent.exists()
    found = store.discard("novel")
    assert found.gone
    assert {path.name for path in found.left} == {"notes.txt", "thesis.safetensors", "old"}
    assert all(path.read_text() == "precious" for path in mine)
    assert [path for path in novel.rglob("*") if path.is_file()] == [path for path in novel.rglob("*") if path in mine]
    assert "novel" not in store
    assert store.names() == ["other"]
    with pytest.raises(StoreError, match="something else called 'novel'"):
        store.create("novel", engine, CONFIG)


HINDI = "\u0939\u093f\u0928\u094d\u0926\u0940"


@pytest.mark.parametrize(
    "name", ["\u5c0f" * 80, "\u5c0f" * 85, "\U0001d49c" * 63, "a" * 100, "e\u0301tude", HINDI, "a.", "_"]
)
def test_what_can_be_made_can_be_discarded(store: SessionStore, engine: Engine, name: str) -> None:
    store.create(name, engine, CONFIG).close()
    assert name in store.names()
    assert store.fork(name, "fork").name == "fork"
    assert store.discard(name).gone
    assert store.names() == ["fork", "novel"]


@pytest.mark.parametrize(
    "name", ["\u5c0f" * 86, "\U0001d49c" * 64, "a\u202eb", "a\u200bb", "\u0301a", "a\ud800", "a\n"]
)
def test_what_cannot_be_discarded_cannot_be_made(store: SessionStore, engine: Engine, name: str) -> None:
    with pytest.raises(StoreError, match="name"):
        store.create(name, engine, CONFIG)
    with pytest.raises(StoreError, match="name"):
        store.fork("novel", name)
    assert store.names() == ["novel"]


def test_a_path_that_sqlite_cannot_read_is_refused_first(store: SessionStore, engine: Engine) -> None:
    deep = SessionStore(store.folder.joinpath(*["d" * 90] * 4))
    with pytest.raises(StoreError, match="too long"):
        deep.create("n" * 100, engine, CONFIG)
    deep.create("n", engine, CONFIG).close()
    assert deep.discard("n").gone
    assert list(deep.folder.iterdir()) == []


def test_whoever_only_looks_keeps_nobody_out(store: SessionStore) -> None:
    novel = store.folder / "novel"
    looking = os.open(novel / "lock", os.O_RDONLY)
    fcntl.flock(looking, fcntl.LOCK_SH)
    timer = threading.Timer(0.1, os.close, [looking])
    timer.start()
    began = time.monotonic()
    with hold(novel):
        assert time.monotonic() - began > 0.05
        assert holder(novel) == f"process {os.getpid()}"
        with pytest.raises(StoreError, match=f"in use by process {os.getpid()}"), hold(novel):
            pass
    timer.join()
    assert holder(novel) == ""


@pytest.mark.parametrize(
    "said", [b"", b"[]", b"{", b'{"pid": "x", "host": "h"}', b'{"pid": 1e999, "host": 5}', b"[" * 999]
)
def test_a_lock_that_says_nonsense(store: SessionStore, said: bytes) -> None:
    novel = store.folder / "novel"
    with hold(novel):
        (novel / "lock").write_bytes(said)
        assert holder(novel) in ("another process", "process 1 on 5")
        (novel / "lock").write_bytes(b'{"pid": 7, "host": "\\u001b[2J"}')
        assert store.show("novel").holder == "process 7 on \ufffd[2J"


def test_two_that_make_sessions_at_once(store: SessionStore, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one tidies up what the other has made and does not hold yet."""
    real, left = SessionStore._tidy, [3]

    def take(handle: int, folder: Path) -> None:
        if left[0] and folder.name.startswith(".new-"):
            left[0] -= 1
            real(store)
            assert not folder.exists()
        held(handle, folder)

    held = lock.take
    monkeypatch.setattr(lock, "take", take)
    store.create("new", engine, CONFIG).close()
    assert left == [0]
    assert store.open("new", engine).text == ""
