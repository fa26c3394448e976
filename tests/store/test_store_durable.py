"""What is on the disk, and when: what a loss of power takes, and that a text is kept before anything is deleted."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from templora.config import TempLoraConfig
from templora.engine.engine import Engine
from templora.errors import OptionError, StoreError
from templora.events import TokenEvent
from templora.store import log as log_module
from templora.store.log import MAX_IDS, MAX_SECONDS
from templora.store.saved import SavedSession
from templora.store.store import SessionStore
from templora.testing import tiny_engine

TEXT = "The keeper climbed the stairs, and the lamp was lit. "


def config(**options: Any) -> TempLoraConfig:
    sizes = {"window": 96, "chunk_size": 32, "rank": 4, "alpha": 4.0, "learning_rate": 0.01}
    return TempLoraConfig(**{"learn_written": True, **sizes, **options})


@pytest.fixture(scope="module")
def engine() -> Engine:
    return tiny_engine()


@pytest.fixture
def store(tmp_path: Path) -> SessionStore:
    return SessionStore(tmp_path / "home" / "data" / "sessions")


@pytest.fixture
def done(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is forced to disk, renamed and deleted, in order, by the names of what it is."""
    found: list[str] = []
    fsync, rename, unlink = os.fsync, os.rename, os.unlink

    def note_sync(handle: int) -> None:
        found.append("sync " + Path(os.readlink(f"/proc/self/fd/{handle}")).name)
        fsync(handle)

    def note(what: str, act: Callable[..., None]) -> Callable[..., None]:
        def noted(path: Any, *more: Any, **how: Any) -> None:
            found.append(f"{what} {Path(path).name}")
            act(path, *more, **how)

        return noted

    monkeypatch.setattr(os, "fsync", note_sync)
    monkeypatch.setattr(os, "rename", note("rename", rename))
    monkeypatch.setattr(os, "unlink", note("unlink", unlink))
    return found


@pytest.mark.parametrize("options", [{}, {"learning": "parallel"}, {"learning": "off", "chunk_size": 90}], ids=str)
def test_at_most_so_many_tokens_are_not_on_the_disk(
    store: SessionStore, engine: Engine, done: list[str], monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    monkeypatch.setattr("time.monotonic", lambda: 0.0)
    with store.create("novel", engine, config(**options)) as saved:
        shown = most = synced = 0
        for event in saved.stream(TEXT, max_new_tokens=300):
            shown += isinstance(event, TokenEvent)
            if len(done) > synced and "sync log.sqlite-wal" in done[synced:]:
                shown = 0
            synced = len(done)
            most = max(most, shown)
        assert 20 < most <= MAX_IDS
        assert not saved.log.unsynced


def test_nor_what_is_older_than_so_many_seconds(
    store: SessionStore, engine: Engine, done: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr(log_module.time, "monotonic", lambda: now)
    with store.create("novel", engine, config(learning="off")) as saved:
        for event in saved.stream(TEXT, max_new_tokens=20):
            if isinstance(event, TokenEvent):
                before = len(done)
                now += MAX_SECONDS / 2 if event.index % 2 else MAX_SECONDS
                assert event.index % 2 or "sync log.sqlite-wal" not in done[before:]
        assert done.count("sync log.sqlite-wal") >= 10


def test_when_a_verb_has_ended_it_is_on_the_disk(
    store: SessionStore, engine: Engine, done: list[str], tmp_path: Path
) -> None:
    with engine.session(config()) as session:
        session.save_adapter(tmp_path / "adapter")
    verbs: list[Callable[[SavedSession], Any]] = [
        lambda s: s.absorb("Once."),
        lambda s: s.write("And", max_new_tokens=3),
        lambda s: s.mark({"a": 1}),
        lambda s: s.reseed(7),
        lambda s: s.close_chunk(),
        lambda s: s.snapshot(),
        lambda s: s.load_adapter(tmp_path / "adapter"),
        lambda s: next(s.stream(max_new_tokens=9)),  # and nobody listens any more
        lambda s: list(s.resume()),
        lambda s: s.close(),
    ]
    saved = store.create("novel", engine, config())
    for verb in verbs:
        done.clear()
        length = saved.log.length
        verb(saved)
        assert saved.log.length > length or saved.session.closed
        assert not saved.log.unsynced
        assert "sync log.sqlite-wal" in done or saved.session.closed
    kept = [name for name in done if not name.endswith("-wal")]
    assert kept in ([], ["sync files"]) or any(name.startswith("sync .templora-") for name in kept)


def test_folders_are_made_and_go_with_their_names(store: SessionStore, engine: Engine, done: list[str]) -> None:
    """Each renaming comes after what it names, and is forced to disk itself."""
    with store.create("novel", engine, config()) as saved:
        saved.absorb(TEXT)
        saved.snapshot()
    made = next(i for i, name in enumerate(done) if name.startswith("rename .new-"))
    assert done[made - 1] == "sync " + done[made].removeprefix("rename ")
    assert done[made + 1] == "sync sessions"
    assert {"sync home", "sync data"} <= set(done[:made])  # the folders above it are new, too
    named = done.index("sync files")
    assert done[named - 1].startswith("sync .templora-")
    assert "sync log.sqlite-wal" in done[named:]
    done.clear()
    store.fork("novel", "other")
    made = next(i for i, name in enumerate(done) if name.startswith("rename .new-"))
    assert "sync files" in done[:made]
    assert done[made + 1] == "sync sessions"
    done.clear()
    store.rewind("novel", 1)
    assert "sync log.sqlite-wal" in done
    done.clear()
    store.discard("novel", keep_text=store.folder.parent / "novel.txt")
    gone = done.index("rename novel")
    assert [name[:15] for name in done[:gone]] == ["sync .templora-", "unlink .templor", "sync data"]
    assert done[gone + 1] == done[-1] == "sync sessions"
    assert "unlink log.sqlite" in done[gone + 2 : -1]


def test_a_text_that_is_kept_is_kept(store: SessionStore, engine: Engine, tmp_path: Path) -> None:
    for name in ("novel", "other"):
        with store.create(name, engine, config()) as saved:
            saved.absorb(TEXT)
    mine, folder, nothing = tmp_path / "mine.txt", tmp_path / "folder", tmp_path / "nothing"
    mine.write_text("my own file")
    folder.mkdir()
    (tmp_path / "link").symlink_to(store.folder)
    (tmp_path / "out").symlink_to(store.folder / "novel" / "out.txt")
    nothing.symlink_to(tmp_path / "nowhere.txt")
    before = sorted(store.folder.rglob("*"))
    for where, problem in (
        (store.folder / "novel" / "novel.txt", "folder of sessions"),
        (store.folder / "novel" / "log.sqlite", "folder of sessions"),
        (store.folder / "other" / "files" / "novel.txt", "folder of sessions"),
        (store.folder / "novel.txt", "folder of sessions"),
        (store.folder / ".." / "sessions" / "x", "folder of sessions"),
        (tmp_path / "link" / "novel" / "novel.txt", "folder of sessions"),
        (tmp_path / "out", "folder of sessions"),
        (mine, "is there already"),
        (folder, "is there already"),
        (nothing, "is there already"),
        (tmp_path / "no" / "such" / "folder.txt", "cannot be written"),
        (tmp_path / ("a" * 300), "cannot be written"),
    ):
        with pytest.raises(StoreError, match=problem):
            store.discard("novel", keep_text=where)
        assert sorted(store.folder.rglob("*")) == before
        assert store.history("novel").text == TEXT
    assert mine.read_text() == "my own file"
    (tmp_path / "novel.txt").write_text(TEXT)  # as a run that failed after it has left it
    assert store.discard("novel", keep_text=tmp_path / "novel.txt").gone
    assert store.discard("other", keep_text=str(tmp_path / "other.txt")).text == tmp_path / "other.txt"
    assert (tmp_path / "novel.txt").read_text() == (tmp_path / "other.txt").read_text() == TEXT


def test_a_text_that_cannot_be_written_whole_is_not_left_in_part(
    store: SessionStore, engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with store.create("novel", engine, config()) as saved:
        saved.absorb(TEXT)

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(StoreError, match="No space left"):
            store.discard("novel", keep_text=tmp_path / "novel.txt")
    assert [p.name for p in tmp_path.iterdir()] == ["home"]
    assert store.history("novel").text == TEXT
    monkeypatch.setattr(os, "link", full)  # a file system without links
    assert store.discard("novel", keep_text=tmp_path / "novel.txt").gone
    assert (tmp_path / "novel.txt").read_text() == TEXT


@pytest.mark.parametrize("replaced", [False, True])
def test_a_session_that_was_deleted_while_it_is_used_says_so(
    store: SessionStore, engine: Engine, replaced: bool
) -> None:
    saved = store.create("novel", engine, config())
    saved.absorb(TEXT)
    shutil.rmtree(store.folder / "novel")
    if replaced:
        store.create("novel", engine, config()).close()
    for verb in (lambda: saved.absorb("x" * 40), lambda: saved.mark({}), lambda: saved.write("x", max_new_tokens=2)):
        with pytest.raises(StoreError, match="deleted or replaced while it was used"):
            verb()
    with pytest.raises(StoreError, match="deleted or replaced"):
        saved.close()
    assert saved.session.closed
    assert store.names() == (["novel"] if replaced else [])


@pytest.mark.parametrize("keep", [0, -1, 1.5, None, True])
def test_at_least_one_snapshot_is_kept(store: SessionStore, engine: Engine, keep: Any) -> None:
    with pytest.raises(OptionError, match="keep"):
        store.create("novel", engine, config(), keep=keep)
    assert store.names() == []
