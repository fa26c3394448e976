"""`Log`: all that happened to a text, in order, in a file that is only appended to.

    seq │ kind     │ ids        │ data                  │ check
    ────┼──────────┼────────────┼───────────────────────┼──────────────────────────────
      0 │ begin    │            │ {"model": ..., ...}   │ hash of this row
      1 │ given    │ 12 508 ... │ {"text": "Once ..."}  │ hash of the last check and this row
      2 │ write    │            │ {"max_new_tokens": 9} │ ...

An SQLite database with a write-ahead log: a row is there or it is not, whenever the process is killed. Checks are
chained, so a row that was changed, dropped or taken from elsewhere is found when it is read. What the rows mean is not
known here.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import sqlite3
import struct
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from templora.errors import StoreError
from templora.runtime.files import sync_folder
from templora.runtime.signals import deferred
from templora.store.places import check_log
from templora.store.salvage import rows

# 1: random numbers came from a generator, whose state was in snapshots. 2: each is of its place in the text.
FORMAT = 2
# Of what was added without need to be on the disk at once, a loss of power takes so many tokens at most.
MAX_IDS, MAX_SECONDS = 64, 1.0
_APPLICATION = 0x74706C72  # "tplr", in the file's header
_TABLE = (
    "CREATE TABLE records (seq INTEGER PRIMARY KEY, kind TEXT NOT NULL, ids BLOB NOT NULL, data TEXT NOT NULL, "
    '"check" BLOB NOT NULL)'
)
_INSERT = "INSERT INTO records VALUES (?, ?, ?, ?, ?)"
_MAX_BYTES = 1 << 28  # of one value: no text that a session is given at once is as long
_CHECK_BYTES = 8
_LIMIT_LENGTH, _LIMIT_ATTACHED = 0, 7  # SQLite's numbers


class Record(NamedTuple):
    """One row.

    Args:
        seq: its number, from 0 without gaps.
        kind: what happened.
        ids: tokens that came with it.
        data: what else there is to say, as JSON can hold it.
    """

    seq: int
    kind: str
    ids: Sequence[int]
    data: Mapping[str, Any]


New: TypeAlias = tuple[str, Sequence[int], Mapping[str, Any]]  # kind, ids, data of a record that is to be


class DamagedLog(StoreError):
    """A log that is not whole. What can still be read of it: `salvaged`."""


class Log:
    """A log that is open. Made by `create` and `open`; a context manager that closes it.

    Args:
        path: of the database, for errors.
        connection: to it.

    Attributes:
        length: records that it holds.
        format: of the version that wrote to it last.
        unsynced: tokens, and other records, that a loss of power would take.
    """

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path = path
        self.length, self.format = 0, FORMAT
        self._connection = connection
        weakref.finalize(self, connection.close).atexit = False  # of a log that nobody holds any more
        self._last = b""
        self._file = os.stat(path)
        self.unsynced, self._synced = 0, time.monotonic()
        self._named = False  # the write-ahead log, which is made anew by whoever opens it, has its name on the disk

    @classmethod
    def create(cls, path: Path) -> Log:
        """A log without records, in a new file that only the user can read.

        Raises:
            StoreError: it cannot be made.
        """
        with _told(path):
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
            connection = _connect(path)
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute(f"PRAGMA application_id = {_APPLICATION}")
            connection.execute(f"PRAGMA user_version = {FORMAT}")
            connection.execute(_TABLE)
        return cls(path, connection)

    @classmethod
    def open(cls, path: Path, take: Callable[[Record], None] = lambda record: None) -> Log:
        """Reads a log, checks every record of it, and hands each to `take`.

        Raises:
            DamagedLog: it is not whole.
            StoreError: missing, or of a later version.
        """
        with _told(path):
            check_log(path)
            log = cls(path, _connect(path))
            try:
                log.format = _check_header(path, log._connection)
                for row in log._connection.execute("SELECT * FROM records ORDER BY seq"):
                    take(log._checked(row))
            except BaseException:
                log.close()
                raise
        return log

    def renew(self) -> None:
        """From here on it is written by this version; older ones refuse it."""
        with _told(self.path):
            self._connection.execute(f"PRAGMA user_version = {FORMAT}")
        self.format = FORMAT

    def _checked(self, row: tuple[Any, ...]) -> Record:
        """The record of the row that comes next."""
        seq, kind, ids, data, check = row
        types = [type(value) for value in row]
        if types != [int, str, bytes, str, bytes] or seq != self.length or _check(self._last, row[:4]) != check:
            raise DamagedLog(f"{self.path}: is damaged at record {self.length}")
        self.length, self._last = seq + 1, check
        return Record(seq, kind, _from_bytes(ids), json.loads(data))

    def extend(self, new: Iterable[New], *, durable: bool = False) -> list[Record]:
        """Adds records: all of them, or none. When this returns, a kill of the process does not lose them.

        Args:
            new: of each, kind, ids and data.
            durable: nor does a loss of power; takes some milliseconds.

        Raises:
            StoreError: they could not be written (the disk may be full), and are not there.
        """
        records, rows, last = [], [], self._last
        for seq, (kind, ids, data) in enumerate(new, self.length):
            row = (seq, kind, _to_bytes(ids), json.dumps(data))
            last = _check(last, row)
            records.append(Record(seq, kind, tuple(ids), data))
            rows.append((*row, last))
        with deferred(), _told(self.path):
            if len(rows) == 1:  # a token, as a rule: a transaction by itself
                self._connection.execute(_INSERT, rows[0])
            else:
                with self._connection:  # all of them, or none
                    self._connection.execute("BEGIN IMMEDIATE")
                    self._connection.executemany(_INSERT, rows)
            self.length, self._last = self.length + len(rows), last
            self.unsynced += sum(max(1, len(record.ids)) for record in records)
        if durable:
            self.sync()
        return records

    def sync(self, *, due: bool = False) -> None:
        """Forces to disk what was added: a commit by itself is handed to the system, which outlives us, no more.

        Args:
            due: only if it is time: `MAX_IDS` tokens or `MAX_SECONDS` after the last time.

        Raises:
            StoreError: it could not be, or the log is not there any more.
        """
        is_due = self.unsynced >= MAX_IDS or time.monotonic() - self._synced >= MAX_SECONDS
        if not self.unsynced or (due and not is_due):
            return
        with deferred(), _told(self.path):
            if not self.is_there:
                raise StoreError(
                    f"{self.path}: was deleted or replaced while it was used; of this text no more is kept"
                )
            handle = os.open(f"{self.path}-wal", os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
            if not self._named:
                sync_folder(self.path.parent)
            self.unsynced, self._synced, self._named = 0, time.monotonic(), True

    @property
    def is_there(self) -> bool:
        """Whether what has its path is still this file."""
        with contextlib.suppress(OSError):
            return os.path.samestat(os.stat(self.path), self._file)
        return False

    def close(self) -> None:
        """Folds the write-ahead log into the file. May be called twice."""
        # What cannot be folded now is folded when it is opened next.
        with contextlib.suppress(sqlite3.Error):
            self._connection.close()

    def __enter__(self) -> Log:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _connect(path: Path) -> sqlite3.Connection:
    uri = f"{path.absolute().as_uri()}?mode=rw"
    connection = sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False, timeout=10.0)
    try:
        # A schema in a file that came from elsewhere is data, and nothing in it is to be run.
        for pragma in ("trusted_schema = OFF", "cell_size_check = ON", "synchronous = NORMAL", "mmap_size = 0"):
            connection.execute(f"PRAGMA {pragma}")
        limit: Any = getattr(connection, "setlimit", None)  # Python 3.11
        if limit:
            limit(_LIMIT_LENGTH, _MAX_BYTES)
            limit(_LIMIT_ATTACHED, 0)
    except BaseException:
        connection.close()
        raise
    return connection


def _check_header(path: Path, connection: sqlite3.Connection) -> int:
    """The format that the log has."""

    def number(pragma: str) -> int:
        return int(connection.execute(f"PRAGMA {pragma}").fetchone()[0])

    if number("application_id") != _APPLICATION:
        raise StoreError(f"{path}: is not a session's log")
    version = number("user_version")
    if version > FORMAT:
        raise StoreError(f"{path}: was written by a later templora (format {version}; this one reads {FORMAT})")
    # A view in the table's place could make us compute for ever.
    if connection.execute("SELECT type, sql FROM sqlite_schema").fetchall() != [("table", _TABLE)]:
        raise DamagedLog(f"{path}: is damaged: its table is not ours")
    return version


def salvaged(path: Path) -> Iterator[Record]:
    """The records of a damaged log, from the first on, as far as each is there and whole."""
    found, last = rows(path), b""
    for seq in itertools.count():
        row = next((row for row in found.get(seq, ()) if _check(last, row[:4]) == row[4]), None)
        if row is None:
            return
        last = row[4]
        yield Record(seq, row[1], _from_bytes(row[2]), json.loads(row[3]))


def _check(last: bytes, row: tuple[Any, ...]) -> bytes:
    seq, kind, ids, data = row
    digest = hashlib.blake2b(last, digest_size=_CHECK_BYTES)
    for part in (str(seq).encode(), kind.encode(), ids, data.encode()):
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.digest()


def _to_bytes(ids: Sequence[int]) -> bytes:
    """Four bytes an id, the lowest first, on every machine."""
    return struct.pack(f"<{len(ids)}i", *ids)


def _from_bytes(raw: bytes) -> tuple[int, ...]:
    if len(raw) % 4:
        raise ValueError("the last of its tokens is cut off")
    return struct.unpack(f"<{len(raw) // 4}i", raw)


@contextlib.contextmanager
def _told(path: Path) -> Iterator[None]:
    """Turns what SQLite and the system raise into errors that name the file."""
    try:
        yield
    except StoreError:
        raise
    except FileNotFoundError as error:
        raise StoreError(f"{path}: is missing") from error
    except sqlite3.OperationalError as error:
        raise StoreError(f"{path}: {error}") from error
    except (sqlite3.Error, ValueError, OverflowError, RecursionError) as error:
        raise DamagedLog(f"{path}: is damaged: {error}") from error
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror or error}") from error
