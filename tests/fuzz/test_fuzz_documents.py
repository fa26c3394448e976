"""Markdown and text, whatever they hold: opened, translated, and the same bytes where a translation is its source."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from fuzzing import LONG, Reader, fuzzed
from hypothesis import example, given, strategies as st

from templora.translation.documents import open_document
from templora.translation.documents.base import Document
from templora.translation.languages import language

MARKDOWN, TEXT = (
    Reader("markdown"),
    Reader("text"),
)
GERMAN = language("to", "de")
TAG = re.compile(r"(</?\d+/?>)")

# ruff: noqa: E501
INLINE = [
    *("word", "lamp", "灯", "שלום", "e\u0301", "1984", ".", "“a”", " ", "  ", "\n", "\t", "a\\", "\\*", "\\$", "&nbsp;"),
    *("*", "**", "_", "~~", "`", "``", "[", "]", "(", ")", "![", "](u)", "[x][y]", "[^1]", "<u>", "</u>", "<br>", "<!--"),
    *("$x$", "$", "$$", "$5", "\\(x\\)", "\\(", "\\[", "\\]", "\\begin{a}", "\\end{a}", "\\ref{x}", "{{ x }}", "{{", "}}"),
    *("{% x %}", "{%", "{#i .c}", "{", "}", "[[p|q]]", "[[", ":smile:", ":", "{kbd}`c`", "<A b={c} />", "<A b={", "[@k]"),
    *("${x}", "%%", "^id", "|", "\\|", "!", "#", "<1>", "</2>", "\x0b", "\x0c", "\x85", "\u2028", "\u00a0", "\u3000", "\x01"),
]  # fmt: skip
STARTS = [
    *("", "# ", "> ", ">> ", "- ", "1. ", "- [ ] ", "    ", "\t", "  ", ": ", ":   ", "~ ", "> [!NOTE]\n> ", "::: a\n"),
    *(":::", '!!! a "b"\n    ', "??? a\n\n    ", '=== "t"\n    ', "/// a\n", "$$\n", "$$", "\\[\n", "\\begin{a}\n", "{% a %}\n"),
    *("{{< a >}}\n", "{: .c}\n", "[TOC]\n", "*[H]: x\n", "import a from 'b'\n", "export const a = {\n", "<A>\n", "</A>\n"),
    *("[x]: /u\n", "[^1]: ", "|a|b|\n|-|-|\n|", "---\n", "===\n", "```\n", "~~~\n", "<div>\n", "<!-- ", "---\na: b\n", "+++\na = 1\n"),
    *('{"a": 1}\n', "% a\n", "%%\n", "\\newpage\n"),
]  # fmt: skip
LINES = st.tuples(st.sampled_from(STARTS), st.lists(st.sampled_from(INLINE), max_size=6).map("".join)).map("".join)
BOMBS = st.tuples(st.sampled_from([*INLINE, *STARTS]), st.integers(1, 400 if LONG else 40)).map(
    lambda pair: pair[0] * pair[1]
)
ENDS = st.sampled_from(["\n", "\n\n", "\r\n", "\r\n\r\n", "\r", "\n  \n"])


def mutated(parts: tuple[str, str, int, bytes]) -> bytes:
    beginning, text, at, odd = parts
    raw = (beginning + text).encode()
    return raw[:at] + odd + raw[at:]


FILES = st.one_of(
    st.tuples(st.lists(st.one_of(LINES, BOMBS, LINES), max_size=8), ENDS).map(lambda pair: pair[1].join(pair[0])),
    st.lists(st.sampled_from([*INLINE, *STARTS]), max_size=30).map("".join),
)
RAW = st.tuples(st.sampled_from(["", "", "\ufeff"]), FILES, st.integers(0, 60), st.sampled_from([b"", b"", b"\xff", b"\0"])).map(
    mutated
)  # fmt: skip
PROSE = st.lists(
    st.tuples(
        st.sampled_from(["", "", "  ", "    ", "- ", "1) ", "> ", "— ", "“", "\u3000\u3000", "\t", "KING. "]),
        st.lists(st.sampled_from(["lamp", "keeper", "the", "Sea,", "灯塔", "a.", "...", "1", "--", "b-", "\t", "    "]), max_size=14),
        st.sampled_from(["\n", "\n", "\n", "\n\n", ".\n", ",\n", "\r\n", "\r", "\x0c", "\u2028", ""]),
    ).map(lambda parts: parts[0] + " ".join(parts[1]) + parts[2]),
    max_size=12,
).map("".join)  # fmt: skip


@pytest.fixture(autouse=True, scope="module")
def _results() -> Iterator[None]:
    yield
    MARKDOWN.save()
    TEXT.save()


def read(reader: Reader, name: str, raw: bytes) -> Document | None:
    """The document, once it was written as it was, and with translations."""
    document = reader(lambda: open_document(name, raw), len(raw))
    if document is None:
        return None
    targets = [segment.text for segment in document.segments]
    assert reader(lambda: document.render(targets, GERMAN), len(raw)) == raw
    shouted = ["".join(part if TAG.fullmatch(part) else part.upper() for part in TAG.split(text)) for text in targets]
    written = reader(lambda: document.render(shouted, GERMAN), 3 * len(raw))
    reader(lambda: document.render([TAG.sub(" ", text) for text in shouted], GERMAN), 3 * len(raw))
    assert written is not None
    again = open_document(name, written)
    assert again.render([segment.text for segment in again.segments], GERMAN) == written
    return document


@fuzzed
@given(RAW)
@example(("a <b>" * 100 + "</b>" * 100).encode())
@example(("> " * 100 + "a").encode())
@example(b"\r\n$$\r\nx\r\n$$ \r\ny  \r\nz")
def test_any_markdown(raw: bytes) -> None:
    read(MARKDOWN, "x.md", raw)


@fuzzed
@given(st.one_of(RAW, PROSE.map(str.encode)))
@example(b"a" * 5_000)
@example(b"a\n" * 500)
@example(b". " * 2_000)
@example(b" " * 5_000 + b"a")
@example(b"a \n" * 500)
def test_any_text(raw: bytes) -> None:
    read(TEXT, "x.txt", raw)
