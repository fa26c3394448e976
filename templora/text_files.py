"""Text files, compressed or not, as text."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import stat
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from templora.encodings import names
from templora.errors import OptionError, TextError, nearest
from templora.runtime.files import told

# Bytes of a text. A compressed one may hold 200 times its size, and a small one always 64 MiB: prose shrinks to a
# fifth, the most repetitive of real texts to a fiftieth. What is beyond was made to fill the memory.
MAX_BYTES = 1 << 30
_MAX_TIMES, _ALWAYS = 200, 1 << 26
_PIECE = 1 << 20
BOM = "\ufeff"


_OPENERS: dict[str, Callable[[io.BytesIO], io.BufferedIOBase]] = {
    ".gz": lambda file: gzip.GzipFile(fileobj=file),
    ".xz": lzma.LZMAFile,
    ".bz2": bz2.BZ2File,
}


def read_text(name: str, *, encoding: str | None = None, remarks: list[str] | None = None) -> str:
    """The text of a file, compressed if its name ends in .gz, .xz or .bz2, or of standard input for `-`.

    Args:
        encoding, remarks: as for `decoded`.

    Raises:
        TextError: missing, empty, not text, damaged, or larger than any text is.
    """
    label = _label(name)
    return decoded(label, read_bytes(name, label), encoding=encoding, remarks=remarks).removeprefix(BOM)


def read_notes(name: str | None, remarks: list[str] | None = None) -> str | None:
    """The text of a file as `read_text` has it, but that an empty one, or no name at all (''), is an empty text.

    None stays None: nothing was said.
    """
    if not name:
        return name
    label = _label(name)
    text = _text(label, read_bytes(name, label), None, remarks).removeprefix(BOM)
    return text if text.strip() else ""


def decoded(label: str, raw: bytes, *, encoding: str | None = None, remarks: list[str] | None = None) -> str:
    """The text of a file, with its byte order mark if it has one: in the encoding that is named; else in what a byte
    order mark says, in UTF-8, or in what is found, if that is sure.

    Args:
        label: its name, for errors.
        raw: what it holds.
        encoding: its name, if it is known.
        remarks: gets what the user should know: which encoding was found.

    Raises:
        TextError: it is empty, not text, or not in that encoding.
        OptionError: there is no such encoding.
    """
    text = _text(label, raw, encoding, remarks)
    if not text.removeprefix(BOM).strip():
        raise TextError(f"{label}: empty")
    return text


def _text(label: str, raw: bytes, encoding: str | None, remarks: list[str] | None) -> str:
    said = _codec(encoding, raw) if encoding else names.marked(raw)
    if not said and (zeros := raw.count(0)):
        wide = zeros > len(raw) / 4  # as of UTF-16 without a byte order mark
        raise TextError(f"{label}: a binary file, not text{'; UTF-16 must be named (--encoding)' if wide else ''}")
    try:
        text = raw.decode(said or "utf-8")
    except UnicodeDecodeError as error:
        problem = f"{label}: not {names.shown(said or 'utf-8')} text (byte {error.start})"
        if said:
            raise TextError(f"{problem}, which {'--encoding' if encoding else 'its byte order mark'} says") from error
        text = _found(label, raw, problem, remarks)
    if "\0" in text:
        raise TextError(f"{label}: a binary file, not text")
    return text


def _codec(encoding: str, raw: bytes) -> str:
    """Python's name of an encoding."""
    own = names.known(encoding)
    if own is None:
        hint = nearest(encoding[:40].lower(), map(str.lower, names.NAMES))
        raise OptionError("encoding", f"unknown encoding {encoding[:40]!r}; {hint}")
    if own in ("utf-16", "utf-32"):
        mark = names.marked(raw) or ""
        return mark if mark.startswith(own) else f"{own}-le"
    return names.WIDER.get(own, own)


def _found(label: str, raw: bytes, problem: str, remarks: list[str] | None) -> str:
    """The text of bytes that are no UTF-8, of which nobody has said what they are."""
    from templora.encodings.finding import find

    found = find(raw)
    if found.damaged:
        raise TextError(f"{problem}, but the rest is: a damaged file")
    if found.name is None:
        perhaps = f", perhaps {' or '.join(found.likely)}" if found.likely else ""
        raise TextError(f"{problem}{perhaps}; convert it first, or name its encoding (translate --encoding)")
    try:
        text = raw.decode(names.NAMES[found.name])
    except UnicodeDecodeError as error:
        raise TextError(f"{problem}, and as {found.name} damaged (byte {error.start}); convert it first") from error
    if remarks is not None:
        remarks.append(f"{label}: read as {found.name}")
    return text


def _label(name: str) -> str:
    return "standard input" if name == "-" else name or "''"


def read_bytes(name: str, label: str) -> bytes:
    """What a file holds, unpacked, or standard input for `-`.

    Raises:
        TextError: it cannot be read, is damaged, or holds more than is read; compressed files and files on a disk are
            refused for their size before they are in memory.
    """
    with told(TextError, f"{label}: cannot be read", ValueError):  # of a name with a zero byte
        if name == "-":
            return _read(sys.stdin.buffer, MAX_BYTES, label) if sys.stdin else b""
        opener = _OPENERS.get(Path(name).suffix.lower())
        with Path(name).open("rb") as file:
            about = os.fstat(file.fileno())
            if stat.S_ISREG(about.st_mode) and about.st_size > MAX_BYTES:
                raise _too_large(label, MAX_BYTES)
            raw = _read(file, MAX_BYTES, label)
    return raw if opener is None else _unpacked(raw, opener, label)


def _read(file: BinaryIO | io.BufferedIOBase, most: int, label: str) -> bytes:
    """All of a file, a piece at a time: one that is asked for a gibibyte makes room for it first."""
    found = io.BytesIO()
    while piece := file.read(_PIECE):
        found.write(piece)
        if found.tell() > most:
            raise _too_large(label, most)
    return found.getvalue()


def _unpacked(packed: bytes, opener: Callable[[io.BytesIO], io.BufferedIOBase], label: str) -> bytes:
    """What compressed bytes hold. They are measured before they are kept."""
    most = min(MAX_BYTES, max(_ALWAYS, _MAX_TIMES * len(packed)))
    harm = (ValueError, lzma.LZMAError, zlib.error, EOFError, MemoryError)
    with told(TextError, f"{label}: the compressed data are damaged", *harm):
        size, file = 0, opener(io.BytesIO(packed))
        while piece := file.read(_PIECE):
            size += len(piece)
            if size > most:
                raise _too_large(label, most, f", from {len(packed):,} bytes")
        return _read(opener(io.BytesIO(packed)), most, label)


def _too_large(label: str, most: int, packed: str = "") -> TextError:
    unpacked = " unpacked" if packed else ""
    return TextError(f"{label}: more than {most >> 20:,} MiB{unpacked}{packed}; no text is. Split it if it is one")
