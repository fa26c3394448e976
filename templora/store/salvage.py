"""What can still be read of a log that is damaged: whole records, found page by page, without SQLite.

A power failure or a full disk may leave zeros where the end of a file should be. Then SQLite gives up where the tree of
pages does, with most records still there. Each row says its number, and its check covers the row before: so wherever
rows are found, those that follow on one another from the first are known to be the log's own.

    leaf page    13 │ · · │ cells │ · · · │ where each cell begins ...          see sqlite.org/fileformat.html
    cell         bytes │ seq │ header: a type a column │ kind │ ids │ data │ check  (│ page that it goes on in)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

_LEAF = 13
_WAL_HEADER, _FRAME_HEADER = 32, 24
_SIZES = [1 << power for power in range(9, 17)]
_USUAL_SIZE = 4096
# Bytes put together, of each byte of the file: pages that are linked in a circle end there.
_MAX = 4

Row: TypeAlias = tuple[int, str, bytes, str, bytes]  # seq, kind, ids, data, check


def rows(path: Path) -> dict[int, list[Row]]:
    """All rows that a log's file and its write-ahead log hold, by number; of some there may be several states.

    Raises:
        OSError: they cannot be read.
    """
    raw = path.read_bytes()
    size = _page_size(raw)
    pages = {number: raw[at : at + size] for number, at in enumerate(range(0, len(raw), size), 1)}
    images = list(pages.values())
    beside = path.with_name(path.name + "-wal")
    wal = beside.read_bytes() if beside.exists() else b""
    for at in range(_WAL_HEADER, len(wal), _FRAME_HEADER + size):
        image = wal[at + _FRAME_HEADER : at + _FRAME_HEADER + size]
        pages[int.from_bytes(wal[at : at + 4], "big")] = image
        images.append(image)
    found: dict[int, list[Row]] = {}
    left = _MAX * (len(raw) + len(wal))
    for image in images:
        for cell in _cells(image):
            row, used = _row(image, cell, pages, size, left)
            left -= used
            if row:
                found.setdefault(row[0], []).append(row)
            if left <= 0:
                return found
    return found


def _page_size(raw: bytes) -> int:
    said = int.from_bytes(raw[16:18], "big")
    said = 1 << 16 if said == 1 else said
    return said if said in _SIZES else _USUAL_SIZE


def _cells(page: bytes) -> Iterator[int]:
    """Where the cells of a leaf page begin."""
    if page[:1] == bytes([_LEAF]):
        for i in range(int.from_bytes(page[3:5], "big")):
            at = int.from_bytes(page[8 + 2 * i : 10 + 2 * i], "big")
            if not 8 < at < len(page):
                return
            yield at


def _row(page: bytes, at: int, pages: Mapping[int, bytes], size: int, left: int) -> tuple[Row | None, int]:
    """The row of a cell, if it is one of ours, and how many bytes were put together for it."""
    try:
        many, at = _varint(page, at)
        seq, at = _varint(page, at)
        if many > left:
            return None, 0
        payload = _payload(page, at, many, pages, size)
        return _columns(seq, payload), len(payload)
    except (IndexError, ValueError):  # no row begins there
        return None, 0


def _payload(page: bytes, at: int, many: int, pages: Mapping[int, bytes], size: int) -> bytes:
    """The bytes of a row, which may go on in other pages."""
    most = size - 35
    if many <= most:
        return page[at : at + many]
    least = (size - 12) * 32 // 255 - 23
    here = least + (many - least) % (size - 4)
    here = here if here <= most else least
    parts, there = [page[at : at + here]], here
    following = int.from_bytes(page[at + here : at + here + 4], "big")
    while there < many:
        more = pages.get(following, b"")[: 4 + many - there]
        if len(more) <= 4:
            raise ValueError
        parts.append(more[4:])
        there += len(more) - 4
        following = int.from_bytes(more[:4], "big")
    return b"".join(parts)


def _columns(seq: int, payload: bytes) -> Row | None:
    """What a row of the table holds; its number stands in the cell itself, and as nothing here."""
    head, at = _varint(payload, 0)
    kinds: list[int] = []
    while at < head:
        kind, at = _varint(payload, at)
        kinds.append(kind)
    if len(kinds) != 5 or kinds[0] or [kind % 2 for kind in kinds[1:]] != [1, 0, 1, 0] or min(kinds[1:]) < 12:
        return None
    values: list[Any] = []
    for kind in kinds[1:]:
        value = payload[at : at + (kind - 12 - kind % 2) // 2]
        if len(value) != (kind - 12 - kind % 2) // 2:
            return None
        at += len(value)
        values.append(value.decode() if kind % 2 else value)
    return (seq, *values)


def _varint(raw: bytes, at: int) -> tuple[int, int]:
    """A number of one to nine bytes, and where it ends."""
    value = 0
    for i in range(8):
        byte = raw[at + i]
        value = value << 7 | byte & 0x7F
        if byte < 0x80:
            return value, at + i + 1
    return value << 8 | raw[at + 8], at + 9
