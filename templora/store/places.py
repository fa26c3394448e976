"""Which files are a session's: what we write, under which names, and nothing that leads elsewhere.

    novel/                            a folder, not a link to one
      log.sqlite, -wal, -shm          plain files that have no other name; never a -journal: see `check_log`
      lock                            a plain file that has no other name
      files/                          a folder, not a link to one
        00000042.safetensors          plain files; forks share them by hard links
        adapter-00000007.safetensors
        .templora-k3j9x2a1            being written
        .tmpQCSPQa                    being written by safetensors, which gives it that name next

A session may come from anybody. So nothing here follows a link, nothing is opened before it is known to be a plain file
(a FIFO would have us wait for ever), and nothing is deleted whose name is none of these.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
import unicodedata
from pathlib import Path

from templora.errors import StoreError
from templora.runtime.files import sync_folder, told

LOG, LOCK, FILES = "log.sqlite", "lock", "files"
NEW, GONE = ".new-", ".gone-"  # begin the names of folders that are being made, and deleted

_OURS = (LOG, f"{LOG}-wal", f"{LOG}-shm", f"{LOG}-journal", LOCK)
_FILE = re.compile(r"(adapter-)?[0-9]{8,20}\.safetensors")
_OF_FILES = re.compile(rf"{_FILE.pattern}|\.templora-\w+|\.tmp[0-9A-Za-z]{{6}}")  # those being written too
_MAX_LENGTH = 100
_MAX_NAME_BYTES = 255  # of one name on all usual file systems
_MAX_PATH_BYTES = 500  # SQLite reads no path above 512, and adds to it


def is_name(name: str) -> bool:
    """Whether a session can have this name."""
    letters = bool(name) and len(name) <= _MAX_LENGTH and (name[0].isalnum() or name[0] == "_")
    letters = letters and all(c.isalnum() or c in "_.-" or unicodedata.category(c)[0] == "M" for c in name)
    return letters and len(name.encode()) <= _MAX_NAME_BYTES


def check_path(path: Path) -> None:
    """Raises StoreError if a new session cannot be there."""
    if len(os.fsencode((path / LOG).absolute())) > _MAX_PATH_BYTES:
        raise StoreError(f"{path}: the path is too long for a session: at most {_MAX_PATH_BYTES} bytes with its log's")


def is_file(name: str) -> bool:
    """Whether we give this name to what we write into `FILES`, when it is whole."""
    return _FILE.fullmatch(name) is not None


def is_folder(path: Path) -> bool:
    """Whether it is one, and not a link to one."""
    with contextlib.suppress(OSError):
        return stat.S_ISDIR(path.lstat().st_mode)
    return False


def is_session(path: Path) -> bool:
    """Whether it is a folder with anything of a session in it."""
    return is_folder(path) and bool(ours(path))


def check_plain(path: Path, *, shared: bool = False) -> None:
    """Finds out that it is safe to open.

    Args:
        path: of a file.
        shared: whether it may have other names, as files that forks have in common do. What is written to must not.

    Raises:
        FileNotFoundError: it is not there.
        StoreError: it is something else than a plain file, or is one elsewhere too.
    """
    found = path.lstat()
    if not stat.S_ISREG(found.st_mode):
        raise StoreError(f"{path}: is not a plain file")
    if not shared and found.st_nlink > 1:
        raise StoreError(f"{path}: has another name elsewhere (a hard link), so it is not written to; copy the session")


def check_log(path: Path) -> None:
    """Finds out that a log is safe to open, and that SQLite finds nothing beside it that leads elsewhere.

    SQLite deletes whatever file a rollback journal says; our logs have a write-ahead log and never such a journal.

    Raises:
        FileNotFoundError: it is not there.
        StoreError: it is not.
    """
    check_plain(path)
    for suffix in ("-wal", "-shm"):
        with contextlib.suppress(FileNotFoundError):
            check_plain(path.with_name(path.name + suffix))
    journal = path.with_name(path.name + "-journal")
    if os.path.lexists(journal):
        raise StoreError(f"{journal}: is not ours; delete it")


def open_lock(folder: Path, flags: int = os.O_RDONLY) -> int:
    """A session's lock, open.

    Raises:
        FileNotFoundError: it is not there.
        StoreError: it is no plain file, or cannot be opened.
    """
    path = folder / LOCK
    try:
        with contextlib.suppress(FileNotFoundError):
            check_plain(path)
        return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, 0o600)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror}") from error


def files_of(folder: Path) -> Path:
    """The folder of a session's files; made, if it is not there.

    Raises:
        StoreError: something else is in its place, or it cannot be made.
    """
    path = folder / FILES
    with told(StoreError, path), contextlib.suppress(FileExistsError):
        path.mkdir(mode=0o700)
        sync_folder(folder)
    if not is_folder(path):
        raise StoreError(f"{path}: is not a folder")
    return path


def ours(folder: Path) -> list[Path]:
    """All that we wrote of a session, or whatever has its names and is no folder."""
    found = [folder / name for name in (*_OURS, FILES)]
    found += [path for path in _inside(folder / FILES) if _OF_FILES.fullmatch(path.name)]
    return [path for path in found if os.path.lexists(path) and not is_folder(path)]


def remove(folder: Path) -> None:
    """Deletes what is ours in a folder, the lock last, and the folder, if nothing else is in it."""
    for path in sorted(ours(folder), key=lambda path: path.name == LOCK):
        with contextlib.suppress(OSError):
            path.unlink()
    for path in (folder / FILES, folder):
        with contextlib.suppress(OSError):
            path.rmdir()


def others(folder: Path) -> list[Path]:
    """What is in a session's folder and is not ours."""
    known = {*ours(folder), folder / FILES}
    return [path for where in (folder, folder / FILES) for path in _inside(where) if path not in known]


def _inside(folder: Path) -> list[Path]:
    """What is in a folder; nothing, if it is a link to one or cannot be read."""
    with contextlib.suppress(OSError):
        return sorted(folder.iterdir()) if is_folder(folder) else []
    return []


def taken(error: OSError) -> bool:
    """Whether a renaming failed because something of the new name is there."""
    return error.errno in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR)


def printable(text: str) -> str:
    """What a file says, without what a terminal would take for commands."""
    return "".join(c if c.isprintable() else "\ufffd" for c in text)
