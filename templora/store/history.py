"""`History`: what the records of a log say of a text. Knows neither models nor files.

    kind       ids   what it says
    begin            which model and config
    given      yes   text that was given, at most to the end of a chunk, to be learnt or not
    write            the model is to write on, with these arguments, ...
    token      yes   ... wrote this, ...
    end              ... and stopped: `length`, `stop` (an end-of-text token was drawn), or `left` by the caller
    mark             what the user of the session has to say at this point
    close            the open chunk is learnt though it is not full
    adapter          the adapter was replaced by the one in this file
    seed             random numbers begin anew
    notes            these stand in every window from here on, in place of those before
    learned, scored  what became of a chunk: the fields of the event
    snapshot         all of the session but its tokens is in this file
    rewind           of what came before, only the first tokens count

Positions count tokens from the start of the text, its opening (BOS) included.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any

from templora.arguments import SEEDS
from templora.config import TempLoraConfig
from templora.errors import TemploraError
from templora.store.log import New, Record
from templora.store.places import is_file

_OF_CHUNK = ("end", "close", "scored", "learned", "snapshot")  # what may follow tokens and is still of them
_OF_BEGINNING = ("begin", "adapter", "seed", "notes")
# What the data of each kind must have.
_FIELDS: dict[str, dict[str, type]] = {
    "begin": {"model": dict, "config": dict, "opening": list},
    "given": {"text": str},
    "write": {"max_new_tokens": int, "stop_at_end": bool, "score": bool, "sampling": dict},
    "token": {"text": str},
    "end": {"reason": str, "text": str},
    "mark": {},
    "close": {},
    "adapter": {"file": str, "sha256": str},
    "seed": {"seed": int},
    "notes": {"notes": str, "tokens": int},
    "learned": {"index": int, "end": int, "committed": bool, "version": int},
    "scored": {"end": int},
    "snapshot": {"file": str, "sha256": str, "tokens": int, "until": int},
    "rewind": {"to": int},
}
_JOINED = 512  # most tokens written one a record that are in one piece
_LOADED = ("model", "dtype", "weights")  # how its model was loaded; older logs say less
_VERBS = ("given", "write", "close", "adapter", "seed", "notes")
_NO_NOTES = {"notes": "", "tokens": 0}


@dataclass
class Act:
    """Something that was asked of the session.

    Args:
        kind: given, write, close, adapter, seed or notes.
        seq: of the record that began it.
        start: position of its first token.
        data: of that record.
        ids: tokens given or written.
        ended: seq of the record by which it ended; None: it is to go on.
        reason: why a write ended.
    """

    kind: str
    seq: int
    start: int
    data: Mapping[str, Any]
    ids: list[int] = field(default_factory=list)
    ended: int | None = None
    reason: str = ""

    @property
    def end(self) -> int:
        return self.start + len(self.ids)

    @property
    def learn(self) -> bool:
        """Whether what was given is to be learnt."""
        return bool(self.data.get("learn", True))

    @property
    def score(self) -> bool:
        """Whether what was given is predicted before it is learnt."""
        return bool(self.data.get("score", False))

    @property
    def left(self) -> int:
        """Tokens that a write has still to write."""
        return int(self.data["max_new_tokens"]) - len(self.ids)


class History:
    """What counts of a log whose records are added one by one.

    Attributes:
        records: those that count, in order; what was written one token a record is in pieces, each
            within a chunk.
        opening: tokens before every text.
        acts: what was asked for, in order.
        tokens: the whole text.
        chunks: position at which each finished chunk ends.
        snapshots: records of those that are of this text.
        marks: what the user of the session said, and at which position.
        dropped: why records were left out, each.
    """

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.dropped: list[str] = []
        self.opening: list[int] = []
        self.acts: list[Act] = []
        self.tokens: list[int] = []
        self.chunks: list[int] = []
        self.snapshots: list[Record] = []
        self.marks: list[tuple[int, Mapping[str, Any]]] = []
        self._size = 0
        self._sizes: list[tuple[int, ...]] = []  # of each of `_lists`, after each record
        self._cuts: dict[int, int] = {}  # position -> index of the first record there that is not of what ends there

    @property
    def begin(self) -> Mapping[str, Any]:
        """Which model and config."""
        return self.records[0].data

    def check(self, record: Record) -> None:
        """Whether `add` would take in this record next; called before it is logged.

        Raises:
            ValueError: it makes no sense.
        """
        _check(record)
        if (record.kind == "begin") == bool(self.records):
            raise ValueError(f"record {record.seq}: a session begins once")
        if record.kind == "token" and not self.pending:
            raise ValueError(f"record {record.seq}: nothing was to be written")
        if record.kind == "rewind" and record.data["to"] < len(self.opening):
            raise ValueError(f"record {record.seq}: a text has no such beginning")

    def read(self, record: Record) -> None:
        """`add` for a record that is in a log already: one that makes no sense is left out, and `dropped` says so.

        Older versions logged what they were asked before they refused it.

        Raises:
            ValueError: it makes no sense, and without it nothing does.
        """
        try:
            self.add(record)
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            if not self.records:
                raise
            self.dropped.append(str(error))

    def add(self, record: Record) -> None:
        """Takes in the next record.

        Raises:
            ValueError: it makes no sense.
        """
        self.check(record)
        if record.kind == "rewind":
            self._cut(self._index(record.data["to"]))
        self._take(record)

    @property
    def text(self) -> str:
        """What was given and written, as it was shown."""
        return "".join(map(text_of, self.records))

    @property
    def given_last(self) -> list[Act]:
        """What was given right before the last act; a write that goes on under other notes is still that act."""
        before = self.acts[:-1]
        while len(before) > 1 and before[-1].kind == "notes" and before[-1].seq == before[-2].ended:
            del before[-2:]
        return list(takewhile(lambda act: act.kind == "given", reversed(before)))[::-1]

    @property
    def notes(self) -> Mapping[str, Any]:
        """The notes that stand now: their text (`notes`), and how many `tokens` that is."""
        return next((act.data for act in reversed(self.acts) if act.kind == "notes"), _NO_NOTES)

    @property
    def chunk_texts(self) -> list[str]:
        """The text of each finished chunk."""
        found, at = [""], len(self.opening)
        for record in self.records:
            found[-1] += record.data.get("text", "")
            at += len(record.ids)
            while record.ids and len(found) <= len(self.chunks) and at >= self.chunks[len(found) - 1]:
                found.append("")
        return found[: len(self.chunks)]

    @property
    def pending(self) -> Act | None:
        """The write that was under way, if it was neither finished nor left."""
        last = self.acts[-1] if self.acts else None
        return last if last and last.kind == "write" and last.ended is None else None

    def first(self, position: int) -> list[Record]:
        """The records of the tokens before a position, where one ends (`ends`); up to the moment when the chunk that
        ends there was learnt."""
        return self.records[: self._index(position)]

    def back(self, position: int) -> list[New]:
        """The records that take it back to a position. Notes are the author's, not the text's: those that stand now
        stand then too."""
        stood = next((r.data for r in reversed(self.first(position)) if r.kind == "notes"), _NO_NOTES)
        rewind: New = ("rewind", (), {"to": position})
        return [rewind] if stood == self.notes else [rewind, ("notes", (), self.notes)]

    @property
    def ends(self) -> dict[int, int]:
        """Where the text can be cut, as positions, and how many characters it shows before each: where something given
        or a piece of what was written ends."""
        found, shown = {len(self.opening): 0}, 0
        for record, (tokens, *_) in zip(self.records, self._sizes, strict=True):
            shown += len(text_of(record))
            found[tokens] = shown
        return found

    def position(self, chunks: int) -> int:
        """Where the first `chunks` chunks end."""
        return self.chunks[chunks - 1] if chunks else len(self.opening)

    def _index(self, position: int) -> int:
        """How many records are of the first tokens, up to the moment when the chunk that ends there was learnt."""
        within = bisect_right(self._sizes, position, key=lambda sizes: sizes[0])
        return min(within, self._cuts.get(position, within))

    @property
    def _lists(self) -> tuple[list[Any], ...]:
        """What grows with the records, and is cut with them; the tokens first."""
        return self.tokens, self.chunks, self.acts, self.snapshots, self.marks

    def _cut(self, count: int) -> None:
        """Keeps the first records alone, in time that grows with what goes: a log may hold many rewinds."""
        for tokens, *_ in self._sizes[count:]:
            if self._cuts.get(tokens, 0) >= count:
                del self._cuts[tokens]
        del self.records[count:], self._sizes[count:]
        for grown, size in zip(self._lists, self._sizes[-1], strict=True):
            del grown[size:]
        if self.acts and (act := self.acts[-1]).kind == "write":
            del act.ids[len(self.tokens) - act.start :]
            if act.ended is not None and act.ended > self.records[-1].seq:
                act.ended, act.reason = None, ""

    def _take(self, record: Record) -> None:
        kind, data = record.kind, record.data
        if kind == "begin":
            self.opening, self._size = list(data["opening"]), TempLoraConfig.stored(data["config"]).chunk_size
            self.tokens = list(self.opening)
        if kind in (*_VERBS, "end", "rewind") and (pending := self.pending):
            pending.ended = record.seq
            pending.reason = data["reason"] if kind == "end" else "left"
        if kind in _VERBS:
            ended = None if kind == "write" else record.seq
            self.acts.append(Act(kind, record.seq, len(self.tokens), data, list(record.ids), ended))
        elif kind == "token":
            self.acts[-1].ids += record.ids
        elif kind == "snapshot":
            self.snapshots.append(record)
        elif kind == "mark":
            self.marks.append((len(self.tokens), data))
        last = self.records[-1] if self.records else None
        joined = last and kind == last.kind == "token" and len(last.ids) < _JOINED and not self._at_border
        self.tokens += record.ids
        begun = self.chunks[-1] if self.chunks else 0
        if kind == "close" and len(self.tokens) > begun:
            self.chunks.append(len(self.tokens))
        else:
            self.chunks += range(begun + self._size, len(self.tokens) + 1, self._size)
        if last and joined:
            data = {"text": last.data["text"] + data["text"]}
            self.records[-1] = Record(last.seq, kind, [*last.ids, *record.ids], data)
            del self._sizes[-1]
        else:
            of_end = _OF_CHUNK if len(self.tokens) > len(self.opening) else _OF_BEGINNING
            if not record.ids and kind not in of_end:
                self._cuts.setdefault(len(self.tokens), len(self.records))
            self.records.append(record)
        self._sizes.append(tuple(map(len, self._lists)))

    @property
    def _at_border(self) -> bool:
        """Whether a chunk ends where the text ends."""
        return len(self.tokens) in self.chunks[-1:]


def text_of(record: Record) -> str:
    """What a record adds to the text; a mark's fields are its user's own."""
    return str(record.data["text"]) if "text" in _FIELDS[record.kind] else ""


def file_of(record: Record) -> str | None:
    """Name of the file that belongs to a record."""
    return str(record.data["file"]) if "file" in _FIELDS[record.kind] else None


def _check(record: Record) -> None:
    """Raises ValueError if a record is none that we write."""
    fields = _FIELDS.get(record.kind)
    if fields is None or not isinstance(record.data, dict):
        raise ValueError(f"record {record.seq}: unknown kind {record.kind!r}")
    wrong = [name for name, kind in fields.items() if type(record.data.get(name)) is not kind]
    counts = [name for name, kind in fields.items() if kind is int and name != "seed"]
    if wrong or min([*record.ids, *(record.data[name] for name in counts)], default=0) < 0:
        raise ValueError(f"record {record.seq}: {record.kind} cannot be that")
    file = file_of(record)
    if file is not None and not is_file(file):
        raise ValueError(f"record {record.seq}: {file!r} is no name of a file")
    if record.kind == "begin":
        _check_begin(record.data)
    if record.kind == "seed" and not SEEDS[0] <= record.data["seed"] <= SEEDS[1]:
        raise ValueError(f"record {record.seq}: random numbers cannot begin from that seed")


def _check_begin(data: Mapping[str, Any]) -> None:
    """Raises ValueError if a session cannot have begun so: everything else in a log is read with what this says."""
    model = data["model"]
    texts = [model.get("name"), model.get("fingerprint"), *(model[key] for key in _LOADED if key in model)]
    if not all(type(text) is str for text in texts):
        raise ValueError("its beginning names no model")
    try:
        TempLoraConfig.stored(data["config"])
    except TemploraError as error:
        raise ValueError(f"its config cannot be: {error}") from error
    if not all(type(token) is int and token >= 0 for token in data["opening"]):
        raise ValueError("its beginning holds what is no token")
