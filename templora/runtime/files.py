"""Files that are there whole or not at all, also after a loss of power; and what the system says of them."""

from __future__ import annotations

import contextlib
import hashlib
import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def told(kind: Callable[[str], Exception], what: object, *also: type[Exception]) -> Iterator[None]:
    """Turns what the system refuses into an error of ours: `what` was tried, or the file, and why it could not be.

    Args:
        also: what else is turned into one, as the ValueError of a name with a zero byte.
    """
    kinds: tuple[type[Exception], ...] = (OSError, *also)
    try:
        yield
    except kinds as error:
        raise kind(f"{what}: {getattr(error, 'strerror', None) or error}") from error


def said(error: Exception) -> str:
    """What a library has to say, on one line."""
    return " ".join(str(error).split())[:200] or type(error).__name__


@contextmanager
def written_whole(path: Path, *, new: bool = False) -> Iterator[Path]:
    """An empty file beside `path` to write to. It takes the place of `path` once it is on the disk; if something is
    raised meanwhile it is gone, and what `path` held before is still there. A link is followed.

    Args:
        new: only where there is nothing, not even a link to nothing.

    Raises:
        FileExistsError: something is there all the same.
        OSError: no room, no right, or `path` is no regular file.
    """
    where = path if new else Path(os.path.realpath(path))
    if not new and where.exists() and not where.is_file():
        raise OSError(None, "a folder or a device has this name", str(path))
    beside = where.with_name(f".templora-{uuid.uuid4().hex}")
    beside.touch(exist_ok=False)
    try:
        yield beside
        with beside.open("rb+") as file:
            os.fsync(file.fileno())
        if new:
            _link_new(beside, where)
        else:
            if where.exists():
                beside.chmod(where.stat().st_mode & 0o7777)
            os.replace(beside, where)
    finally:
        beside.unlink(missing_ok=True)
    sync_folder(where.parent)


def _link_new(beside: Path, path: Path) -> None:
    """Gives a file a second name that nothing has."""
    try:
        os.link(beside, path)
    except OSError as error:
        if os.path.lexists(path):
            raise FileExistsError(str(path)) from error
        os.rename(beside, path)  # a file system without links


def sha256(*paths: Path) -> str:
    """SHA-256 of the bytes of files, one after the other."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while block := file.read(1 << 22):
                digest.update(block)
    return digest.hexdigest()


def sync_folder(path: Path) -> None:
    """Forces the names of what is in a folder to disk: what was made, renamed or deleted there."""
    handle = os.open(path, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some file systems cannot, and some need not
            os.fsync(handle)
    finally:
        os.close(handle)
