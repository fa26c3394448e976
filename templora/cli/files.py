"""Texts in, text and reports out. What cannot be read or written is found before a model is loaded."""

from __future__ import annotations

import contextlib
import gzip
import lzma
import os
import sys
from pathlib import Path
from typing import IO

from templora.errors import OptionError, TextError


def read_text(name: str) -> str:
    """The text of a .txt, .gz or .xz file, or of standard input for `-`.

    Raises:
        TextError: missing, empty, not text, or damaged.
    """
    label = "standard input" if name == "-" else name
    try:
        if name == "-":
            raw = sys.stdin.buffer.read()
        else:
            raw = Path(name).read_bytes()
            if name.endswith(".xz"):
                raw = lzma.decompress(raw)
            elif name.endswith(".gz"):
                raw = gzip.decompress(raw)
    except OSError as error:  # gzip's BadGzipFile is one too, without an errno text
        raise TextError(f"{label}: cannot be read: {error.strerror or error}") from error
    except (lzma.LZMAError, EOFError) as error:
        raise TextError(f"{label}: the compressed data are damaged: {error}") from error
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise TextError(f"{label}: not UTF-8 text (byte {error.start}); convert it first") from error
    if "\0" in text:
        raise TextError(f"{label}: a binary file, not text")
    if not text.strip():
        raise TextError(f"{label}: empty")
    return text


def check_writable(option: str, name: str | None) -> Path | None:
    """The path, after making sure that a file can be written there; an existing one is not touched.

    Raises:
        OptionError: it cannot; names the option.
    """
    if name is None:
        return None
    path = Path(name)
    try:
        existed = path.exists()
        with path.open("ab"):
            pass
        if not existed:
            path.unlink()
    except OSError as error:
        raise OptionError(option, f"{name} cannot be written: {error.strerror}") from error
    return path


class TextFile:
    """`--out`: a file that text is appended to, handed to the system at once and forced to disk by `sync`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: IO[str] = path.open("a", encoding="utf-8")

    def write(self, text: str) -> None:
        try:
            self._file.write(text)
            self._file.flush()
        except OSError as error:
            raise TextError(f"{self.path}: the text cannot be written: {error.strerror}") from error

    def sync(self) -> None:
        try:
            self._file.flush()
            if self._file.seekable():  # a regular file; pipes and terminals have no disk to reach
                os.fsync(self._file.fileno())
        except OSError as error:
            raise TextError(f"{self.path}: the text cannot be written: {error.strerror}") from error

    def close(self) -> None:
        with contextlib.suppress(OSError):  # what could not be flushed was reported by write or sync
            self._file.close()
