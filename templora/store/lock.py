"""One process at a time uses a session: a lock on a file in its folder, which says who has it."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import random
import time
from collections.abc import Iterator
from pathlib import Path

from templora.errors import StoreError
from templora.store.places import LOCK, open_lock, printable

# How long those who only look at a lock may keep one waiting, in seconds.
_LOOKING = 5.0


class Gone(StoreError):
    """What was to be held is not there any more."""


@contextlib.contextmanager
def hold(folder: Path) -> Iterator[None]:
    """Inside, the session is ours alone."""
    handle = open_lock(folder, os.O_RDWR | os.O_CREAT)
    try:
        take(handle, folder)
        if not _is_lock(handle, folder):  # discarded between the two
            raise Gone(f"there is no session {folder.name!r} any more")
        with contextlib.suppress(OSError):  # no room to say who we are
            os.ftruncate(handle, 0)
            os.write(handle, json.dumps({"pid": os.getpid(), "host": os.uname().nodename}).encode())
        yield
    finally:
        os.close(handle)


def _is_lock(handle: int, folder: Path) -> bool:
    """Whether it is the lock of the session that is there now."""
    with contextlib.suppress(OSError):
        return os.path.samestat(os.fstat(handle), (folder / LOCK).lstat())
    return False


def take(handle: int, folder: Path) -> None:
    """Takes a lock, unless somebody has it. Those who only look share it for a moment, and are waited for."""
    began = time.monotonic()
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            pass
        except OSError:  # a file system without locks
            return
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
            fcntl.flock(handle, fcntl.LOCK_UN)
        except BlockingIOError:
            raise StoreError(f"session {folder.name!r} is in use by {_said(handle)}") from None
        if time.monotonic() > began + _LOOKING:
            raise StoreError(f"session {folder.name!r} is in use by another process") from None
        time.sleep(random.uniform(0.0005, 0.005))


def holder(folder: Path) -> str:
    """Who holds a session, in words; empty if nobody does."""
    with contextlib.suppress(OSError, StoreError):
        handle = open_lock(folder)
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return _said(handle)
        finally:
            os.close(handle)
    return ""


def _said(handle: int) -> str:
    """Who holds a lock, by what he wrote into it."""
    try:
        who = json.loads(os.pread(handle, 1000, 0))
        here = who["host"] == os.uname().nodename
        return f"process {int(who['pid'])}" + ("" if here else f" on {printable(str(who['host']))}")
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return "another process"
