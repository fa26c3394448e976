"""Text files: what they hold is read, and no more of it than a text has."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from templora import text_files
from templora.errors import TextError
from templora.text_files import read_text

PACKED: dict[str, Callable[[bytes], bytes]] = {
    ".gz": lambda raw: gzip.compress(raw, mtime=0),
    ".xz": lzma.compress,
    ".bz2": bz2.compress,
}
TEXT = "The lamp was lit — at six.\n" * 40


@pytest.mark.parametrize("ending", PACKED)
def test_compressed_texts(tmp_path: Path, ending: str) -> None:
    path, pack = tmp_path / f"book.txt{ending}", PACKED[ending]
    path.write_bytes(pack(TEXT.encode()) + pack(TEXT.encode("utf-8")))  # two in one file are one text
    assert read_text(str(path)) == TEXT * 2
    path.write_bytes(pack(TEXT.encode())[:-9])
    with pytest.raises(TextError, match=rf"book.txt{ending}: the compressed data are damaged"):
        read_text(str(path))


@pytest.mark.parametrize("ending", PACKED)
def test_a_bomb_is_refused_in_little_memory(tmp_path: Path, ending: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_files, "_ALWAYS", 1 << 22)
    path = tmp_path / f"book.txt{ending}"
    path.write_bytes(PACKED[ending](b" " * (1 << 25)))
    tracemalloc.start()
    with pytest.raises(TextError, match=r"more than [46] MiB unpacked, from [\d,]+ bytes; no text is"):
        read_text(str(path))
    assert tracemalloc.get_traced_memory()[1] < 14 << 20  # the dictionary of .xz alone is 8 MiB
    tracemalloc.stop()
    monkeypatch.setattr(text_files, "_ALWAYS", 1 << 25)
    with pytest.raises(TextError, match="empty"):
        read_text(str(path))


def test_what_is_not_compressed_has_a_bound_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_files, "MAX_BYTES", 1 << 20)
    path = tmp_path / "book.txt"
    with path.open("wb") as file:
        file.truncate((1 << 20) + 1)
    for name in (str(path), "/dev/zero") if Path("/dev/zero").exists() else (str(path),):
        with pytest.raises(TextError, match="more than 1 MiB; no text is"):
            read_text(name)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"x" * ((1 << 20) + 1))))
    with pytest.raises(TextError, match="standard input: more than 1 MiB"):
        read_text("-")
