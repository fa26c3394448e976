"""Plain text: paragraphs out, translations in, everything between them as it was."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings, strategies as st

from templora.errors import TextError
from templora.translation.documents.plain import PlainText
from templora.translation.languages import language

GERMAN = language("to", "de")


def opened(text: str) -> PlainText:
    return PlainText("x.txt", text.encode())


def sources(text: str) -> list[str]:
    return [segment.text for segment in opened(text).segments]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("One.\n\nTwo.", ["One.", "Two."]),
        ("One\n  goes on  \nhere.\n \t\nTwo.\n", ["One goes on here.", "Two."]),
        ("One\r\ngoes on\r\n\r\nTwo\rgoes on\r\rThree", ["One goes on", "Two goes on", "Three"]),
        ("\ufeffOne", ["One"]),
        ("1984\n\n* * *\n\n— 3.5 —\n\nOne", ["One"]),
        ("第一行\n第二行\nword\n\n第三", ["第一行第二行 word", "第三"]),
        ("　　第一段\n　　第二段，\n还是第二段", ["第一段", "第二段，还是第二段"]),
        ("שלום עולם\n\nمرحبا", ["שלום עולם", "مرحبا"]),
        ("e\u0301 👩‍👩‍👧 x\u00a0y", ["e\u0301 👩‍👩‍👧 x\u00a0y"]),
        ("a <1> b </2>", ["a <1> b </2>"]),
        ("word " * 20_000, ["word " * 19_999 + "word"]),
    ],
)
def test_paragraphs(text: str, wanted: list[str]) -> None:
    assert sources(text) == wanted


def test_lines_that_are_paragraphs() -> None:
    """Where nearly all lines end with a stop; not where they were broken to fit a page."""
    novel = "Chapter One\n" + "“Who goes there?” he asked.\nNobody answered…\n他没有说话。\n" * 4
    assert len(sources(novel)) == 13
    page = "It was the best of times, it was\nthe worst of times. It was the\nage of wisdom and of\nfoolishness.\n" * 4
    assert len(sources(page)) == 1
    assert len(sources("Er kam.\nSie ging.\n\n" * 6)) == 6  # too few to tell


@pytest.mark.parametrize("end", ["", "\n", "  \n", "\r\n\r\n", "\n\n* * *"])
@pytest.mark.parametrize("start", ["", "\ufeff", "  ", "\n\n\t", "1984\n\n　"])
@pytest.mark.parametrize("gap", ["\n\n", "  \n \t\n  ", "\r\n\r\n\r\n", "\r\r", "\n\n***\n\n"])
def test_its_own_text_gives_the_document_again(start: str, gap: str, end: str) -> None:
    text = start + gap.join(["One <1> goes.", "他来了", "שלום & <b>"]) + end
    document = opened(text)
    assert len(document.segments) == 3
    assert document.render([segment.text for segment in document.segments], GERMAN) == text.encode()


def test_pieces_are_the_document() -> None:
    document = opened("\ufeff  One\ngoes on. \n\n\n1984\n\n Two \n")
    assert document.opening == "\ufeff  "
    assert document.piece(0, "Eins\n\ngeht <1>weiter</1>. ") == "Eins geht weiter. \n\n\n1984\n\n "
    assert document.piece(1, "Zwei") == "Zwei \n"
    assert document.render(["Eins"], GERMAN).decode() == "\ufeff  Eins \n\n\n1984\n\n "
    assert document.render([], GERMAN).decode() == document.opening
    assert document.streams
    assert document.moved(0, "<1>Eins</1>") == 0
    assert document.chapter(0) == ""


def test_nothing_to_translate() -> None:
    document = opened("1984\n\n* * *\n")
    assert document.segments == ()
    assert document.render([], GERMAN) == b"1984\n\n* * *\n"


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b"", "empty"),
        (b"\xef\xbb\xbf \r\n", "empty"),
        (b"a\xff", r"not UTF-8 text \(byte 1\)"),
        (b"a\0b", "a binary file"),
    ],
)
def test_no_text(raw: bytes, said: str) -> None:
    with pytest.raises(TextError, match=rf"^x\.txt: {said}"):
        PlainText("x.txt", raw)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(["a", "灯", " ", "\n", "\r\n", "\r", "\t", "1", "\u00a0", "　", "<1>", ".", "\u2028"])))
def test_all_outside_of_segments_stays(parts: list[str]) -> None:
    text = "x" + "".join(parts)
    document = opened(text)
    rest = document.render(["\u2603"] * len(document.segments), GERMAN).decode().split("\u2603")
    assert re.fullmatch(".+".join(re.escape(piece) for piece in rest), text, re.DOTALL)
    assert not any(c.isalpha() for c in "".join(rest))
