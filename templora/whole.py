"""Files that are there whole or not at all."""

from __future__ import annotations

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
    finally:
        beside.unlink(missing_ok=True)
