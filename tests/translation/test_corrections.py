"""Corrections are of this document, and every line that is not is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from templora.errors import TextError
from templora.translation.pairs import read_corrections, write_pairs

SOURCES = ["one", "two", "three " * 20, "two"]


@pytest.fixture
def file(tmp_path: Path) -> str:
    return str(tmp_path / "book.jsonl")


def read(file: str, *rows: Any) -> dict[int, str]:
    text = "\n".join(row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows)
    Path(file).write_text(text, encoding="utf-8")
    return read_corrections(file, SOURCES)


def line(segment: Any, source: Any, target: Any, **also: Any) -> dict[str, Any]:
    return {"segment": segment, "source": source, "target": target, **also}


def test_what_was_written_is_read(file: str) -> None:
    write_pairs(file, SOURCES, ["eins", "zwei", "drei", "zwei"])
    assert read_corrections(file, SOURCES) == {0: "eins", 1: "zwei", 2: "drei", 3: "zwei"}


def test_some_lines_in_any_order(file: str) -> None:
    rows = (line(4, "two", " ZWEI\u2028 B "), "", line(1, "one", "EINS", note="mine"), line(4, "two", "ZWEI B"))
    assert read(file, *rows) == {3: "ZWEI B", 0: "EINS"}


def test_lines_that_end_as_on_windows(file: str) -> None:
    Path(file).write_bytes(b'\xef\xbb\xbf{"segment": 1, "source": "one", "target": "EINS"}\r\n\r\n')
    assert read_corrections(file, SOURCES) == {0: "EINS"}


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "must be an object with segment, source and target"),
        ({"source": "one", "target": "x"}, "segment is missing, or no number"),
        (line("1", "one", "x"), "segment is missing, or no number"),
        (line(True, "one", "x"), "segment is missing, or no number"),
        (line(1, None, "x"), "source is missing, or no text"),
        (line(1, "one", ["x"]), "target is missing, or no text"),
        (line(0, "one", "x"), "there is no paragraph 0; the document has 4"),
        (line(5, "one", "x"), "there is no paragraph 5; the document has 4"),
        (line(-1, "two", "x"), "there is no paragraph -1; the document has 4"),
        (line(1, "one", " \n"), "the translation is empty"),
        (line(2, "two", "y"), "paragraph 2 is there twice, with different translations"),
        (line(1, "two", "x"), "its paragraph 1 is 'one', not 'two'; it is paragraph 2 now"),
        (line(3, "gone", "x"), "its paragraph 3 is 'three three three three three three thr…', not 'gone'"),
    ],
)
def test_a_wrong_line_is_named(row: Any, said: str, file: str) -> None:
    with pytest.raises(TextError) as caught:
        read(file, line(2, "two", "x"), row)
    assert str(caught.value).startswith(f"{file}, line 2: ")
    assert said in str(caught.value)
    assert "paragraph now" not in str(caught.value)
