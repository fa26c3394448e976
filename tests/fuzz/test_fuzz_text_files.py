"""Whatever a text file holds, compressed or not: its text, or an error in a line."""

from __future__ import annotations

import bz2
import gzip
import lzma
from collections.abc import Iterator
from pathlib import Path

import pytest
from fuzzing import Reader, fuzzed
from hypothesis import given, strategies as st

from templora.text_files import read_text

# At most 64 MiB are unpacked, whatever the size.
READER = Reader("text-files", memory_floor=100_000_000)
PACKED = {
    "txt": lambda raw: raw,
    "gz": lambda raw: gzip.compress(raw, mtime=0),
    "xz": lzma.compress,
    "bz2": bz2.compress,
    "GZ": lambda raw: gzip.compress(raw, mtime=0),
}


@pytest.fixture(autouse=True, scope="module")
def saved() -> Iterator[None]:
    yield
    READER.save()


TEXT = st.lists(
    st.sampled_from(["The lamp ", "was lit.\n", "\r\n", "\t", "灯", "\ufeff", "\x00", "é", " ", "\u2028"]), max_size=30
).map("".join)
CONTENTS = TEXT.map(str.encode) | st.binary(max_size=40) | st.just(b" " * (1 << 20))


@st.composite
def files(draw: st.DrawFn) -> tuple[str, bytes]:
    """A file's ending and what it holds."""
    ending = draw(st.sampled_from([*PACKED]))
    raw = draw(CONTENTS)
    for _ in range(draw(st.sampled_from([1, 1, 1, 2, 0]))):
        raw = PACKED[ending](raw)
    raw *= draw(st.sampled_from([1, 1, 2]))
    for _ in range(draw(st.sampled_from([0, 0, 1, 3]))):
        at = draw(st.integers(0, len(raw)))
        raw = raw[:at] + draw(st.binary(max_size=4)) + raw[at + draw(st.integers(0, 4)) :]
    return ending, raw[: draw(st.just(len(raw)) | st.integers(0, len(raw)))]


@fuzzed
@given(files())
def test_text_files(tmp_path_factory: pytest.TempPathFactory, held: tuple[str, bytes]) -> None:
    ending, raw = held
    path: Path = tmp_path_factory.getbasetemp() / f"text.{ending}"
    path.write_bytes(raw)
    text = READER(lambda: read_text(str(path)), len(raw))
    if text is not None:
        assert text.strip()
        assert "\0" not in text
    if ending == "txt" and text is not None and "\ufffd" not in raw.decode(errors="replace"):
        assert text == raw.decode("utf-8-sig")
