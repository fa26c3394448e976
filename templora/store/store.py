"""`SessionStore`: the folder that sessions are kept in.

    sessions/                 0700, as everything in it
      novel/
        log.sqlite            what happened: log.py
        files/                snapshots, and adapters that were loaded
        lock                  held while somebody uses it
      .new-…, .gone-…         being made, being deleted: left by a kill, and cleaned up by whoever comes next

A session appears and disappears by one renaming of its folder.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from templora.arguments import whole
from templora.errors import StoreError, TemploraError, nearest
from templora.runtime.files import sync_folder, told, written_whole
from templora.store.history import History, file_of
from templora.store.lock import Gone, hold, holder
from templora.store.log import DamagedLog, Log, New, Record, salvaged
from templora.store.places import (
    FILES,
    GONE,
    LOG,
    NEW,
    check_path,
    check_plain,
    files_of,
    is_folder,
    is_name,
    is_session,
    others,
    ours,
    printable,
    remove,
    taken,
)
from templora.store.report import account
from templora.store.saved import Progress, SavedSession, noted
from templora.store.snapshots import MAX_KEPT

if TYPE_CHECKING:
    from templora.config import TempLoraConfig
    from templora.engine.engine import Engine


@dataclass(frozen=True)
class SessionInfo:
    """What there is to know of a session without its model.

    Args:
        name, folder: where it is.
        model: name of its model.
        tokens, chunks: of the text.
        learnt: chunks that changed the adapter.
        notes: tokens of the notes that stand in its windows.
        pending: tokens that a write which was cut short has still to write.
        snapshots: how many are kept.
        bytes: on disk; what forks share counts for each.
        used: when it was last written to, in seconds since 1970.
        holder: who uses it now; empty if nobody does.
        problem: why it cannot be read; empty if it can.
    """

    name: str
    folder: Path
    model: str = ""
    tokens: int = 0
    chunks: int = 0
    learnt: int = 0
    notes: int = 0
    pending: int = 0
    snapshots: int = 0
    bytes: int = 0
    used: float = 0.0
    holder: str = ""
    problem: str = ""


@dataclass(frozen=True)
class Discarded:
    """What is left of a session on disk.

    Args:
        name: of the session.
        gone: whether nothing of it is there any more.
        files: how many there were.
        bytes: how much that was.
        text: where its text was put, if that was wanted.
        left: what was in its folder and was not ours; it is there still.
    """

    name: str
    gone: bool
    files: int
    bytes: int
    text: Path | None
    left: Sequence[Path] = ()


def default_folder() -> Path:
    """Where sessions are kept: `$TEMPLORA_SESSIONS`, else beside the user's other data."""
    if given := os.environ.get("TEMPLORA_SESSIONS"):
        return Path(given)
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "templora" / "sessions"


class SessionStore:
    """Sessions on disk, by name.

    Args:
        folder: where they are; `default_folder()` without one. Made when the first one is.

    Raises:
        StoreError: from every verb, for a name that cannot be one, a session that is not there, is damaged or in use,
            or a folder that cannot be written.
    """

    def __init__(self, folder: str | os.PathLike[str] | None = None) -> None:
        self.folder = Path(folder) if folder is not None else default_folder()
        # A name with a zero byte, or no UTF-8; all else is told where it matters.
        with told(StoreError, repr(str(self.folder)), ValueError), contextlib.suppress(OSError):
            self.folder.lstat()

    def __repr__(self) -> str:
        return f"<SessionStore {self.folder}>"

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and is_name(name) and is_session(self.folder / name)

    def check(self, name: str) -> None:
        """Finds out early whether a session of this name could be begun, or gone on with.

        Raises:
            StoreError: it could not be.
        """
        if name not in self:
            self._free(name)
        elif who := holder(self.folder / name):
            raise StoreError(f"session {name!r} is in use by {who}")

    def names(self) -> list[str]:
        """Names of all sessions."""
        with told(StoreError, self.folder), contextlib.suppress(FileNotFoundError, NotADirectoryError):
            return sorted(p.name for p in self.folder.iterdir() if is_name(p.name) and is_session(p))
        return []

    def list(self) -> list[SessionInfo]:
        """All sessions, those that cannot be read among them."""
        return [self._info(name) for name in self.names()]

    def show(self, name: str) -> SessionInfo:
        """One session."""
        return self._info(self._folder(name).name)

    def history(self, name: str) -> History:
        """What its log says."""
        log, history = _opened(self._folder(name))
        log.close()
        return history

    def readable(self, name: str) -> tuple[History, str]:
        """`history` as far as it can be read, and what is wrong with the log; empty if nothing is."""
        try:
            return self.history(name), ""
        except _Readable as error:
            return error.history, str(error)

    def report(self, name: str) -> dict[str, Any]:
        """The report of the whole session (`templora.store.report`)."""
        history, _ = self.readable(name)
        try:
            return account(history)
        except (KeyError, TypeError, ValueError) as error:  # its check is right, and yet no version wrote it
            raise StoreError(f"{self.folder / name}: its log makes no report: {error!r}") from error

    def create(
        self,
        name: str,
        engine: Engine,
        config: TempLoraConfig | None = None,
        *,
        source: Mapping[str, Any] | None = None,
        keep: int = 3,
        notes: str = "",
    ) -> SavedSession:
        """Begins a text.

        Args:
            name: letters, digits, `.`, `-` and `_`, up to 100, and 255 bytes.
            engine: its model.
            config: as for `Engine.session`.
            source: how the model was loaded, for who opens the session next.
            keep: most snapshots to keep.
            notes: as for `Session.set_notes`.
        """
        self._free(name)
        keep = whole("keep", keep, 1, MAX_KEPT)
        session = engine.session(config, notes=notes)
        try:
            opening, settings, stand = list(session.tokens), session.config, session.loop.text.notes
            model = {"name": engine.name, **engine.identity(), **(source or {})}
            begin = {"model": model, "config": settings.to_dict(), "opening": opening, "versions": engine.versions()}
            first: list[New] = [("begin", (), begin), *([noted(stand)] if stand else [])]
            self._make(name, lambda folder: _write(folder, first))
            return self._open(name, engine, keep=keep, session=session)
        except BaseException:
            session.discard()
            raise

    def open(self, name: str, engine: Engine, *, keep: int = 3, progress: Progress = lambda *_: None) -> SavedSession:
        """Goes on with a text. Arguments as for `create`; `progress` as for `SavedSession`.

        Raises:
            ModelError: it began with another model.
        """
        return self._open(name, engine, keep=keep, progress=progress)

    def _open(self, name: str, engine: Engine, **how: Any) -> SavedSession:
        folder = self._folder(name)
        with contextlib.ExitStack() as held:
            held.enter_context(hold(folder))
            log, history = _opened(folder)
            held.enter_context(log)
            try:
                saved = SavedSession(name, folder, log, history, engine, **how)
            except TemploraError:
                raise
            except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
                raise StoreError(f"{log.path}: is damaged: its records make no sense: {error}") from error
            saved.on_close(held.pop_all().close)
        return saved

    def fork(
        self, name: str, new: str, chunks: int | None = None, *, tokens: int | None = None, mark: Any = None
    ) -> SessionInfo:
        """Another session with the same beginning: its first `chunks` chunks, or `tokens`, or everything; and a `mark`.

        The files that both have in common are on disk once, where the file system allows it. Of a session whose log is
        damaged it is what can still be read; `problem` of what is returned says so.
        """
        self._free(new)
        folder = self._folder(name)
        history, problem = self.readable(name)
        records = list(history.records)
        if chunks is not None or tokens is not None:
            position = _position(history, name, chunks, tokens)
            records = history.first(position)
            # a write under way ends there
            records += [Record(seq, *new) for seq, new in enumerate(history.back(position), records[-1].seq + 1)]

        def fill(made: Path) -> None:
            kept: list[New] = []
            seqs: list[int] = []  # in this log, of those
            for seq, kind, ids, data in records:
                if (file := file_of(Record(seq, kind, ids, data))) is not None:
                    try:
                        _link(files_of(folder) / file, files_of(made) / file)
                    except FileNotFoundError as error:
                        if kind == "snapshot":  # is kept no more
                            continue
                        problem = "is missing, and what follows was written with it; fork fewer chunks, from before it"
                        raise StoreError(f"{folder / FILES / file}: {problem}") from error
                if kind == "snapshot":  # of all that comes up to that record, which has another number here
                    until = len(kept) if data["until"] >= seq else bisect_right(seqs, data["until"]) - 1
                    data = {**data, "until": until}
                kept.append((kind, ids, data))
                seqs.append(seq)
            kept += [("mark", (), dict(mark))] if mark else []
            sync_folder(files_of(made))
            _write(made, kept)

        self._make(new, fill)
        return replace(self.show(new), problem=problem) if problem else self.show(new)

    def rewind(self, name: str, chunks: int | None = None, *, tokens: int | None = None) -> SessionInfo:
        """Back to where the first `chunks` chunks had been learnt, or to its first `tokens`, where something given or
        written ends (`History.ends`): text, adapter and optimiser together.

        What came after stays in the log until the session is discarded, but counts no more; `fork` first to keep it.
        """
        folder = self._folder(name)
        with hold(folder):
            log, history = _opened(folder)
            with log:
                back = history.back(_position(history, name, chunks, tokens))
                for record in log.extend(back, durable=True):
                    history.add(record)
        return self._told(name, history)

    def discard(self, name: str, *, keep_text: str | os.PathLike[str] | None = None) -> Discarded:
        """Deletes a session: log, snapshots, everything.

        Args:
            keep_text: new file to put the text into first, outside of the folder of sessions. It is on the disk before
                anything is deleted.
        """
        folder = self._folder(name)
        with hold(folder):
            if keep_text is not None:
                self._keep(Path(keep_text), self.readable(name)[0].text)
            files = ours(folder)
            size, left = sum(p.lstat().st_size for p in files), others(folder)
            gone = folder.with_name(f"{GONE}{time.time_ns()}")
            if left:
                remove(folder)
                gone = folder
            else:  # disappears at once, whatever happens meanwhile
                folder.rename(gone)
                sync_folder(self.folder)
        remove(gone)
        sync_folder(self.folder)
        text = Path(keep_text) if keep_text is not None else None
        return Discarded(name, not ours(gone), len(files), size, text, left)

    def _keep(self, path: Path, text: str) -> None:
        """Puts a text where it stays. Nothing is written over, unless it is that text already."""
        self.check_outside(path)
        raw = text.encode("utf-8", "replace")
        with told(StoreError, f"{path}: cannot be written"):
            if path.is_file() and path.stat().st_size == len(raw) and path.read_bytes() == raw:
                return
            try:
                with written_whole(path, new=True) as beside:
                    beside.write_bytes(raw)
            except FileExistsError:
                raise StoreError(f"{path}: is there already and is not written over: name another file") from None

    def check_outside(self, path: Path) -> None:
        """Raises StoreError for a file that would be among the sessions, where it is deleted with one, or harms it."""
        with told(StoreError, path, ValueError), contextlib.suppress(FileNotFoundError, NotADirectoryError):
            here = self.folder.stat()
            for above in Path(os.path.realpath(path)).parents:
                if above.exists() and os.path.samestat(above.stat(), here):
                    raise StoreError(f"{path}: is in the folder of sessions, where nothing else is kept: name another")

    # Folders ---------------------------------------------------------------------------------------------------

    def _folder(self, name: str) -> Path:
        """The folder of a session that is there."""
        _check(name)
        folder = self.folder / name
        if not is_session(folder):
            known = self.names()
            raise StoreError(
                f"there is no session {name!r}; " + (nearest(name, known) if known else f"none is in {self.folder}")
            )
        return folder

    def _free(self, name: str) -> None:
        _check(name)
        check_path(self.folder / name)
        if os.path.lexists(self.folder / name):
            what = "a session" if name in self else "something else called"
            raise StoreError(f"there is {what} {name!r} already, in {self.folder}")

    def _make(self, name: str, fill: Callable[[Path], None]) -> None:
        """A session's folder, which is there when `fill` has filled it."""
        try:
            _make_folder(self.folder)
            self._tidy()
            while not self._made(name, fill):
                pass
        except OSError as error:
            problem = f"there is a session {name!r} already" if taken(error) else f"cannot be written: {error.strerror}"
            raise StoreError(f"{self.folder}: {problem}") from error

    def _made(self, name: str, fill: Callable[[Path], None]) -> bool:
        """False if somebody tidied the folder away before it was held."""
        made = Path(tempfile.mkdtemp(prefix=NEW, dir=self.folder))
        try:
            with hold(made):
                fill(made)
                sync_folder(made)
                made.rename(self.folder / name)
                sync_folder(self.folder)
        except (Gone, FileNotFoundError):
            if made.exists():
                raise
            return False
        except BaseException:
            remove(made)
            raise
        return True

    def _tidy(self) -> None:
        """Deletes what a kill left half made or half deleted."""
        for path in self.folder.iterdir():
            # One without a file may be somebody's, who is about to hold it.
            if path.name.startswith((NEW, GONE)) and is_folder(path) and ours(path) and not holder(path):
                remove(path)

    def _info(self, name: str) -> SessionInfo:
        try:
            return self._told(name, self.history(name))
        except StoreError as error:
            return SessionInfo(name, self.folder / name, **self._seen(name), problem=str(error))

    def _seen(self, name: str) -> dict[str, Any]:
        """What can be said of a folder without reading its log."""
        folder, files = self.folder / name, []
        for path in ours(self.folder / name):
            with contextlib.suppress(OSError):  # deleted meanwhile
                files.append(path.lstat())
        used = max((s.st_mtime for s in files), default=0.0)
        return {"bytes": sum(s.st_size for s in files), "used": used, "holder": holder(folder)}

    def _told(self, name: str, history: History) -> SessionInfo:
        folder, pending = self.folder / name, history.pending
        return SessionInfo(
            name,
            folder,
            model=printable(history.begin["model"]["name"]),
            tokens=len(history.tokens),
            chunks=len(history.chunks),
            learnt=sum(r.data["committed"] for r in history.records if r.kind == "learned"),
            notes=history.notes["tokens"],
            pending=pending.left if pending else 0,
            snapshots=sum((folder / FILES / r.data["file"]).exists() for r in history.snapshots),
            **self._seen(name),
        )


def _check(name: str) -> None:
    if not is_name(name):
        raise StoreError(
            f"{name!r} cannot be a session's name: letters, digits, '.', '-' and '_', the first a letter or digit, "
            "at most 100, and 255 bytes"
        )


class _Readable(DamagedLog):
    """A log that is not whole, and `history`: what the records say that are."""

    def __init__(self, message: str, history: History) -> None:
        super().__init__(message)
        self.history = history


def _opened(folder: Path) -> tuple[Log, History]:
    """A session's log, and what it says.

    Raises:
        StoreError: it cannot be read, or says what cannot be.
    """
    path, history = folder / LOG, History()
    if os.path.lexists(folder / FILES):
        files_of(folder)
    try:
        log = Log.open(path, history.read)
        if not history.records:
            log.close()
            raise ValueError("there are none")
    except DamagedLog as error:
        there, many = _salvaged(path)
        if not there.records:
            raise
        held = f"its first {many:,} records can be read, of {len(there.tokens):,} tokens"
        raise _Readable(f"{error}; {held}: templora sessions fork makes a session of them", there) from error
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError) as error:
        raise StoreError(f"{path}: is damaged: its records make no sense: {error}") from error
    return log, history


def _salvaged(path: Path) -> tuple[History, int]:
    """What can be read of a log that is damaged, and how many records that is."""
    history, many = History(), 0
    with contextlib.suppress(OSError, LookupError, TypeError, ValueError, ArithmeticError, RecursionError):
        for record in salvaged(path):
            history.read(record)
            many += 1
    return history, many


def _position(history: History, name: str, chunks: int | None, tokens: int | None) -> int:
    """Where so many chunks end, or tokens, if the text can be cut there."""
    if tokens is not None:
        if tokens not in history.ends:
            raise StoreError(
                f"session {name!r} cannot be cut after {tokens} tokens: nothing given or written ends there"
            )
        return tokens
    if chunks is None or not 0 <= chunks <= len(history.chunks):
        raise StoreError(f"session {name!r} has {len(history.chunks)} finished chunks; there is no chunk {chunks}")
    return history.position(chunks)


def _write(folder: Path, records: Sequence[New]) -> None:
    with Log.create(folder / LOG) as log:
        log.extend(records, durable=True)


def _make_folder(path: Path) -> None:
    """With those above it."""
    if not path.is_dir():
        _make_folder(path.parent)
        path.mkdir(mode=0o700, exist_ok=True)
        sync_folder(path.parent)


def _link(file: Path, to: Path) -> None:
    """Gives a file another name, or copies it.

    Raises:
        FileNotFoundError: it is not there.
        StoreError: it is no plain file.
    """
    check_plain(file, shared=True)
    try:
        os.link(file, to, follow_symlinks=False)
    except FileNotFoundError:
        raise
    except OSError:  # a file system without links
        with written_whole(to) as beside:
            shutil.copyfile(file, beside, follow_symlinks=False)
