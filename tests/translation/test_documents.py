"""Which kind a document is, and what is said of one that is none."""

from __future__ import annotations

import contextlib
import io
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given, settings, strategies as st

from templora.errors import TextError
from templora.translation.documents import open_document
from templora.translation.documents.markdown import Markdown
from templora.translation.documents.plain import PlainText
from templora.translation.languages import language


@pytest.mark.parametrize(
    ("name", "kind"), [("a.txt", PlainText), ("a.TXT", PlainText), ("a.b.md", Markdown), ("a.markdown", Markdown)]
)
def test_the_ending_says_the_kind(name: str, kind: type, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"*One*")
    document = open_document(str(tmp_path / name))
    assert type(document) is kind
    assert type(open_document(name, b"*One*")) is kind
    assert [segment.text for segment in document.segments] == (["*One*"] if kind is PlainText else ["One"])


def test_standard_input_is_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO("\ufeff# Ü".encode())))
    document = open_document("-")
    assert isinstance(document, PlainText)
    assert document.opening == "\ufeff"
    with pytest.raises(TextError, match=r"^standard input: empty"):
        open_document("-", b"")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (
            "a.pdf",
            r"a\.pdf: only \.txt, \.md, \.markdown, \.epub, .*\.docx, .*\.jsonl, \.json can be translated, not \.pdf",
        ),
        ("a.mkd", r"not \.mkd; did you mean '\.md'\?"),
        ("README", r"README: only .* not a file without ending"),
        ("", r"'': only .* not a file without ending"),
        ("none.txt", r"none\.txt: cannot be read: No such file"),
        ("a\0.txt", r"cannot be read: embedded null"),
        ("folder.md", r"folder\.md: cannot be read: Is a directory"),
    ],
)
def test_what_cannot_be_read(name: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.md").mkdir()
    with pytest.raises(TextError, match=said):
        open_document(name)


@settings(max_examples=200, deadline=None)
@given(
    st.binary(max_size=60) | st.text(max_size=60).map(str.encode), st.sampled_from([".txt", ".md", ".epub", ".docx"])
)
def test_whatever_comes_is_a_document_or_a_text_error(raw: bytes, suffix: str) -> None:
    with contextlib.suppress(TextError):
        document = open_document(f"x{suffix}", raw)
        done = document.render([segment.text for segment in document.segments], language("to", "de"))
        assert done or not document.segments
