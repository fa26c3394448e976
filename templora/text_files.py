"""Text files, compressed or not, as text."""

from __future__ import annotations

import gzip
import lzma
import sys
import zlib
from pathlib import Path

from templora.errors import TextError


def read_text(name: str) -> str:
    """The text of a .txt, .gz or .xz file, or of standard input for `-`.

    Raises:
        TextError: missing, empty, not text, or damaged.
    """
    label = "standard input" if name == "-" else name or "''"
    try:
        if name == "-":
            raw = sys.stdin.buffer.read() if sys.stdin else b""
        else:
            raw = Path(name).read_bytes()
            if name.endswith(".xz"):
                raw = lzma.decompress(raw)
            elif name.endswith(".gz"):
                raw = gzip.decompress(raw)
    except (lzma.LZMAError, gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise TextError(f"{label}: the compressed data are damaged: {error}") from error
    except (OSError, ValueError) as error:  # ValueError: a name with a zero byte
        raise TextError(f"{label}: cannot be read: {getattr(error, 'strerror', None) or error}") from error
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise TextError(f"{label}: not UTF-8 text (byte {error.start}); convert it first") from error
    if "\0" in text:
        raise TextError(f"{label}: a binary file, not text")
    if not text.strip():
        raise TextError(f"{label}: empty")
    return text
