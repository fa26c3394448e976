"""Plain text: paragraphs out, translations in, everything between them as it was."""

from __future__ import annotations

import re
import textwrap

import pytest
from hypothesis import given, settings, strategies as st

from templora.errors import TextError
from templora.translation.documents.plain import PlainText
from templora.translation.languages import language

GERMAN = language("to", "de")


LONG = "The keeper climbed the stairs of the tower and he"
PROSE = (
    "It was a bright cold day, and the keeper climbed the stairs of the old tower to light the _lamp_ before the storm "
    "came in from the sea--as he had done every night for thirty years. He sat down and listened to the wind. In the "
    "morning the boats were gone, and the harbour lay quiet under the grey sky, as if there had never been a storm."
)


def wrapped(text: str, width: int = 70, **how: str) -> str:
    return textwrap.fill(text, width, **how)


def opened(text: str) -> PlainText:
    return PlainText("x.txt", text.encode())


def sources(text: str) -> list[str]:
    return [segment.text for segment in opened(text).segments]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("One.\n\nTwo.", ["One.", "Two."]),
        (f"{LONG}\n  goes on  \n\n \t\nTwo.\n", [f"{LONG} goes on", "Two."]),
        (f"{LONG}\r\ngoes on\r\n\r\n{LONG}\rhere\r\rThree", [f"{LONG} goes on", f"{LONG} here", "Three"]),
        ("\ufeffOne", ["One"]),
        ("1984\n\n* * *\n\n— 3.5 —\n\nOne", ["One"]),
        (f"{'一' * 20}\n{'二' * 20}\nword\n\n第三", [f"{'一' * 20}{'二' * 20} word", "第三"]),
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
    assert len(sources(page)) == 4  # each ends with a stop, and has room for more
    assert len(sources("Er kam.\nSie ging.\n\n" * 6)) == 12


# Of each: the text, where `~` stands around what is text to be translated.
LINES = r"""
~The first line of the poem goes to sea,~
~the second one comes back and asks for tea,~
~the third has lost its hat along the way,~
~the fourth one says that it would rather stay.~
----
~the river carries what the river will~
    ~and no one asks it where it means to go~
~we stand upon the bridge and count the boats~
    ~until the evening comes and takes them all~
----
~床前明月光~
~疑是地上霜~
----
~"Is the lamp lit?" asked Mary.~
~"It is," said the keeper.~
~"You can. I cannot."~
----
— ~Лампа горит? — спросила Мария.~
— ~Горит, — сказал смотритель.~
----
~Things to bring:~
- ~a lamp~
* ~two blankets~
1) ~wake up~
10. ~go home~
(a) ~or stay~
----
1
00:00:51,833 --> 00:00:54,207
~I went down to the harbour this morning~
~and saw that all the boats were gone~

2
00:00:54,333 --> 00:00:57,124
~made by means~
----
~CHAPTER I~
~The Lamp~
~The keeper climbed the stairs and lit the lamp before the storm came in from the sea.~
----
~CONTENTS~
~I. The Lamp~ ............ 1
~II. The Sea~ . . . . . . 12
~III. The Storm~		25
~Appendix~          99
----
~Mary Stone~
12 ~Sea Road~
~Harbour Town~

~Dear John,~

P*

~Yours truly,~
~Mary~
----
~HAMLET. To be, or not to be, that is the question.~
~OPHELIA. My lord, I have remembrances of yours.~
~I never gave you aught.~
----
~CHAPTER II.~

P*

    ~So long as men can breathe or eyes can see,~
    ~So long lives this~
      ~and this gives life to thee.~

P*
"""


@pytest.mark.parametrize("text", [text.strip("\n") for text in LINES.split("\n----\n")])
@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_lines_stay(text: str, ending: str) -> None:
    """And what is around them: indents, bullets, leaders."""
    text = text.replace("12 ~", "~12 ").replace("\\t", "\t").replace("\\f", "\f")
    text = text.replace("P*", f"~{wrapped(PROSE)}~").replace("\n", ending)
    document = opened(text.replace("~", ""))
    pieces = text.split("~")
    assert [segment.text for segment in document.segments] == [" ".join(piece.split()) for piece in pieces[1::2]]
    targets = [segment.text.upper() for segment in document.segments]
    wanted = "".join(" ".join(piece.split()).upper() if i % 2 else piece for i, piece in enumerate(pieces))
    assert document.render(targets, GERMAN).decode() == wanted


OTHER = PROSE.replace("keeper", "old man").replace("sea", "ocean")
SHORT = "“Yes,” he said."


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (f"{wrapped(PROSE)}\n\n{wrapped(OTHER)}", [PROSE, OTHER]),
        ("\n".join(wrapped(text, initial_indent="   ") for text in (PROSE, SHORT, OTHER)), [PROSE, SHORT, OTHER]),
        ("\n".join(wrapped(text) for text in (PROSE, SHORT, OTHER)), [PROSE, SHORT, OTHER]),
        ("\n".join(wrapped(text, subsequent_indent="    ") for text in (PROSE, OTHER)), [PROSE, OTHER]),
        (f"{wrapped(PROSE)}\n\n{wrapped(OTHER, 62, initial_indent='   ', subsequent_indent='   ')}", [PROSE, OTHER]),
        (wrapped(f"- {PROSE}", subsequent_indent="  ") + "\n" + wrapped(f"- {OTHER}"), [PROSE, OTHER]),
        (wrapped(PROSE, initial_indent="> ", subsequent_indent="> ") + "\n>\n> " + SHORT, [PROSE, SHORT]),
        ("\n".join(wrapped(f"{who}. {PROSE}") for who in ("HAMLET", "KING")), [f"HAMLET. {PROSE}", f"KING. {PROSE}"]),
        ("The keeper climbed the stairs,\nand lit the lamp.", ["The keeper climbed the stairs, and lit the lamp."]),
        (f"{PROSE}\n{OTHER}\n{SHORT}", [PROSE, OTHER, SHORT]),
        (f"{PROSE * 2}\n\n{wrapped(OTHER)}\n\n{PROSE}", [PROSE * 2, OTHER, PROSE]),
        ("\n".join(("灯塔的守护人在暴风雨来临之前点亮了灯" * 8)[i : i + 36] for i in range(0, 144, 36)),
         ["灯塔的守护人在暴风雨来临之前点亮了灯" * 8]),
    ],
)  # fmt: skip
def test_prose_that_was_wrapped(text: str, wanted: list[str]) -> None:
    assert sources(text) == wanted


@pytest.mark.parametrize("end", ["", "\n", "  \n", "\r\n\r\n", "\n\n* * *"])
@pytest.mark.parametrize("start", ["", "\ufeff", "  ", "\n\n\t", "1984\n\n　"])
@pytest.mark.parametrize("gap", ["\n\n", "  \n \t\n  ", "\r\n\r\n\r\n", "\r\r", "\n\n***\n\n"])
def test_its_own_text_gives_the_document_again(start: str, gap: str, end: str) -> None:
    text = start + gap.join(["One <1> goes.", "他来了", "שלום & <b>"]) + end
    document = opened(text)
    assert len(document.segments) == 3
    assert document.render([segment.text for segment in document.segments], GERMAN) == text.encode()


def test_pieces_are_the_document() -> None:
    document = opened(f"\ufeff  {LONG}\ngoes on. \n\n\n1984\n\n Two \n")
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
