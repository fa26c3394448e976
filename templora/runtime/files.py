"""Files that are there whole or not at all, also after a loss of power."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """An empty file beside `path` to write to. It takes the place of `path` once it is on the disk; if something is
    raised meanwhile it is gone, and what `path` held before is still there. A link is followed.

    Raises:
        OSError: no room, no right, or `path` is no regular file.
    """
    where = Path(os.path.realpath(path))
    if where.exists() and not where.is_file():
        raise OSError(None, "a folder or a device has this name", str(path))
    beside = where.with_name(f".templora-{uuid.uuid4().hex}")
    beside.touch(exist_ok=False)
    try:
        yield beside
        with beside.open("rb+") as file:
            os.fsync(file.fileno())
        if where.exists():
            beside.chmod(where.stat().st_mode & 0o7777)
        os.replace(beside, where)
        sync_folder(where.parent)
    finally:
        beside.unlink(missing_ok=True)


def write_new(path: Path, raw: bytes) -> None:
    """A new file, on the disk when this returns.

    Raises:
        FileExistsError: something is there, even if it is a link to nothing; it is left as it is.
        OSError: no room, no right.
    """
    beside = path.with_name(f".templora-{uuid.uuid4().hex}")
    try:
        with beside.open("xb") as file:
            file.write(raw)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(beside, path)
        except FileExistsError:
            raise
        except OSError:  # a file system without links
            if os.path.lexists(path):
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from None
            os.rename(beside, path)
    finally:
        beside.unlink(missing_ok=True)
    sync_folder(path.parent)


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
