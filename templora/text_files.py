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

from templora.errors import TextError
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


def read_text(name: str) -> str:
    """The text of a file, compressed if its name ends in .gz, .xz or .bz2, or of standard input for `-`.

    Raises:
        TextError: missing, empty, not text, damaged, or larger than any text is.
    """
    label = "standard input" if name == "-" else name or "''"
    return decoded(label, read_bytes(name, label)).removeprefix(BOM)


def read_notes(name: str | None) -> str | None:
    """The text of a file as `read_text` has it, but that an empty one, or no name at all (''), is an empty text.

    None stays None: nothing was said.
    """
    if not name:
        return name
    label = "standard input" if name == "-" else name
    raw = read_bytes(name, label).removeprefix(BOM.encode())
    return decoded(label, raw) if raw.strip() else ""


def decoded(label: str, raw: bytes) -> str:
    """The text of a file, with its byte order mark if it has one.

    Raises:
        TextError: it is empty, or no UTF-8 text.
    """
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        raise TextError(f"{label}: not UTF-8 text (byte {error.start}); convert it first") from error
    if "\0" in text:
        raise TextError(f"{label}: a binary file, not text")
    if not text.removeprefix(BOM).strip():
        raise TextError(f"{label}: empty")
    return text


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
