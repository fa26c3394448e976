"""`Snapshots`: when a session on disk gets one, where it is written, and which are kept.

    due ─► taken, between two chunks ─► written and hashed ─► its record is in the log ─► old ones go
           (copied, if others wait)     (aside, if others wait)

Writing takes seconds where sessions are large. Where an engine serves several sessions a copy is written by a thread
beside it, with pauses for them, while they all go on; alone, where it would only take cores from what goes on, at once.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from templora.errors import StoreError, TextError
from templora.runtime.files import sha256
from templora.runtime.priority import Pace, step_aside
from templora.store.history import History, file_of
from templora.store.log import New
from templora.store.places import check_plain, files_of, ours

if TYPE_CHECKING:
    from templora.session.session import Session
    from templora.session.snapshot import Snapshot

MAX_KEPT = 2**31  # of a session
# Most of the time that they may take.
_SHARE = 0.02
# Before the first one was made: bytes a second that one is written and hashed at, on a slow disk.
_SLOWEST = 2e8
# Of a core, while others wait: for copying, which keeps its session, and for writing, which keeps nobody.
_COPYING, _WRITING = 0.3, 0.1


_aside: ThreadPoolExecutor  # its thread writes snapshots, one after another


def _renew() -> None:
    global _aside
    _aside = ThreadPoolExecutor(1, "templora-snapshots", initializer=step_aside)


_renew()
if hasattr(os, "register_at_fork"):  # a process that was forked has a thread of its own
    os.register_at_fork(after_in_child=_renew)


@dataclass(frozen=True)
class _Written:
    """A snapshot that is being written aside.

    Args:
        digest: will be its SHA-256 and the seconds that writing took.
        data: of its record.
        copied: seconds that copying took.
        pace: of the writing thread.
    """

    digest: Future[tuple[str, float]]
    data: dict[str, Any]
    copied: float
    pace: Pace


class Snapshots:
    """The snapshots of one session on disk, and its other files.

    Args:
        folder: of the session.
        session: they are of.
        history: what its log says.
        note: puts records into the log.
        keep: most of them to keep.
    """

    def __init__(
        self, folder: Path, session: Session, history: History, note: Callable[[list[New]], None], keep: int
    ) -> None:
        self._folder, self._session, self._history, self._note, self._keep = folder, session, history, note, keep
        self._cost, self._since = 0.0, time.perf_counter()
        self._written: _Written | None = None

    @property
    def files(self) -> Path:
        return files_of(self._folder)

    def make_if_due(self, length: int, until: int | None = None) -> None:
        """Makes one if that takes no more than its share of the time; arguments as for `make`."""
        self.settle()
        if self._written is None and self._expected_cost <= _SHARE * (time.perf_counter() - self._since):
            with contextlib.suppress(StoreError, TextError):  # no room, perhaps: going on will only take longer
                self.make(length, until, aside=self._session.engine.is_shared)

    def make_if_worth_it(self, length: int) -> None:
        """At the end: if opening the session without it would take longer than making it."""
        self.settle(wait=True)
        known = self._history.snapshots[-1].data["tokens"] if self._history.snapshots else 0
        same = len(self._session.tokens) == len(self._history.tokens)
        worth = time.perf_counter() - self._since > self._expected_cost
        if same and len(self._session.tokens) > known and worth:
            with contextlib.suppress(StoreError, TextError):
                self.make(length)

    def make(self, length: int, until: int | None = None, *, aside: bool = False) -> None:
        """Makes one.

        Args:
            length: records in the log.
            until: number of the record up to which it holds what they say; without it, all of them.
            aside: do not wait for it to be written; `settle` puts it into the log.
        """
        self.settle(wait=True)
        began, pace = time.perf_counter(), Pace(_COPYING)
        path = self.files / self.new_name(length)
        taken, tokens = self._session.snapshot(copy=False), len(self._session.tokens)
        if aside:  # copied here, by the caller's own thread: the session waits for it, and no other does
            taken = taken.copied(pace)
        data = {"file": path.name, "tokens": tokens, "until": length - 1 if until is None else until}
        copied = time.perf_counter() - began - pace.paused
        if aside:
            pace = Pace(_WRITING)
            self._written = _Written(_aside.submit(_write, taken, path, pace), data, copied, pace)
        else:
            pace.hurry()
            self._log(data, *_write(taken, path, pace), copied)

    def settle(self, *, wait: bool = False) -> None:
        """Puts one that was written meanwhile into the log; one that could not be written is forgotten."""
        written = self._written
        if written is None:
            return
        if wait:
            written.pace.hurry()
        elif not written.digest.done():
            return
        done = None
        with contextlib.suppress(StoreError, TextError):
            done = written.digest.result()  # interrupted here, it is waited for another time
        self._written = None
        if done is not None:
            with contextlib.suppress(StoreError, TextError):
                self._log(written.data, *done, written.copied)

    def leave(self) -> None:
        """Waits for what is being written, and forgets it: who opens the session next deletes it."""
        if self._written is not None:
            written = self._written
            written.pace.hurry()
            written.digest.cancel()
            with contextlib.suppress(Exception, CancelledError):
                written.digest.result()
            self._written = None

    def _log(self, data: Mapping[str, Any], digest: str, writing: float, copying: float) -> None:
        self._note([("snapshot", (), {**data, "sha256": digest})])
        # By name: in forks of older versions two may share one.
        tokens = {r.data["file"]: r.data["tokens"] for r in self._history.snapshots}
        for name in _to_drop([(n, many) for n, many in tokens.items() if (self.files / n).exists()], self._keep):
            with contextlib.suppress(OSError):  # a folder of that name is not ours to delete
                (self.files / name).unlink()
        self._since, self._cost = time.perf_counter(), copying + writing

    @property
    def _expected_cost(self) -> float:
        """Seconds that one takes."""
        return self._cost or self._session.loop.snapshot_bytes / _SLOWEST

    def new_name(self, length: int, begin: str = "") -> str:
        """A name that no record's file has: a fork has files that are numbered as in the session that it is from."""
        number, taken = length, {file_of(record) for record in self._history.records}
        while (name := f"{begin}{number:08d}.safetensors") in taken or os.path.lexists(self.files / name):
            number += 1
        return name

    def sweep(self) -> None:
        """Deletes files that no record is of: their process was killed before it could say so."""
        known, files = {file_of(record) for record in self._history.records}, self.files
        for path in ours(self._folder):
            if path.parent == files and path.name not in known:
                path.unlink(missing_ok=True)

    def read(self, data: Mapping[str, Any]) -> Snapshot:
        """A file of the session, if it is the one that was written.

        Raises:
            FileNotFoundError: it is not there.
            StoreError: it is another one.
        """
        from templora.session.snapshot import Snapshot

        path = self.files / data["file"]
        check_plain(path, shared=True)
        most = self._session.engine.do(lambda: self._session.loop.max_snapshot_bytes)
        if path.stat().st_size > most:  # before it is read, and held in memory
            raise StoreError(f"{path}: is larger than any file of this session")
        if sha256(path) != data["sha256"]:
            raise StoreError(f"{path}: is damaged")
        return Snapshot.load(path)


def _to_drop(held: Sequence[tuple[str, int]], keep: int) -> list[str]:
    """Which to delete, so that at most `keep` are left: few, close together where the text is new.

    Each time the one goes whose two neighbours, left without it, are nearest to one another for their age: what is kept
    then lies about evenly on a logarithmic scale, and any chunk can be rebuilt from one that is not much farther back
    than it is from the end. The newest stays.

    Args:
        held: of each, a name and the tokens it holds, in order.
        keep: at least 1.
    """
    left, dropped = list(held), []
    while len(left) > keep:
        newest = left[-1][1]
        before = [0, *(tokens for _, tokens in left)]
        # gap that dropping snapshot i would leave, over its distance from the newest
        cost = [(before[i + 2] - before[i]) / max(1, newest - before[i]) for i in range(len(left) - 1)]
        dropped.append(left.pop(cost.index(min(cost)))[0])
    return dropped


def _write(taken: Snapshot, path: Path, pace: Pace) -> tuple[str, float]:
    """Its SHA-256, when it is on the disk, and the seconds that this took, less the pauses."""
    began = time.perf_counter()
    return taken.save(path, durable=True, between=pace), time.perf_counter() - began - pace.paused
