"""Pieces are the text again, fit, and end where a reader would pause."""

from __future__ import annotations

import itertools
import unicodedata

import pytest
from hypothesis import example, given, settings, strategies as st

from templora.translation.inline.characters import breakable
from templora.translation.inline.marks import TAG
from templora.translation.languages import language
from templora.translation.sentences import _sentence_ends, join, pieces

GERMAN, CHINESE, THAI, ARABIC = (language("to", code) for code in ("de", "zh", "th", "ar"))


def cut(text: str, longest: int) -> list[str]:
    return pieces(text, lambda part: len(part) <= longest)


def test_a_text_that_fits_is_one_piece() -> None:
    assert cut("One. Two. Three.", 16) == ["One. Two. Three."]
    assert cut("", 0) == [""]


def test_sentences_are_joined_as_far_as_they_fit() -> None:
    assert cut("One. Two. Three. Four.", 12) == ["One. Two. ", "Three. Four."]
    assert cut("One. Two. Three. Four.", 11) == ["One. Two. ", "Three. ", "Four."]
    assert cut("One. Two. Three. Four.", 17) == ["One. Two. Three. ", "Four."]


@pytest.mark.parametrize(
    "text",
    [
        "He came.| She went?| They stayed!| And so on…| Then nothing.",
        "“He came.”| ‘She went.’| (They stayed.)| «Et puis.»| Done.",
        "他来了。|她走了？|“他们留下了！”|然后……没有了。|好",
        "彼は来た。|「行くのか？」|と言った。",
        "هل جاء؟| نعم جاء.| ثم ذهب.",
        "כן.| לא!| אולי?",
        "वह आया।|वह गया।|बस",
        "<1>He came.</1>| <2>She <3/>went.</2><4/>| Done.",
        "What?!| No...| Yes.",
        "He waited 3 days.| Then 14 more.",
    ],
)
def test_sentences_end_there(text: str) -> None:
    wanted = text.split("|")
    longest = max(len(part) for part in wanted) + 1  # a space may follow
    found = cut("".join(wanted), longest)
    ends = itertools.accumulate(len(part) for part in wanted)
    spaced = [end + (text.replace("|", "")[end : end + 1] == " ") for end in ends]
    assert "".join(found) == "".join(wanted)
    assert {*itertools.accumulate(len(part) for part in found)} <= {*spaced}


@pytest.mark.parametrize(
    "text",
    [
        "He met Mr. Finch, Dr. Watson and J. R. R. Tolkien there",
        "It costs 3.5 or 1,000.25 of them, e.g. in Rome, i.e. here",
        "Am 3. Mai, z. B. um 5 Uhr, vgl. S. 14 und Nr. 7 dort",
        "“Why?” he asked, and “Never!” she said… and left",
        "See vol. 3 or fig. 12 of the U.S. edition",
        "version 2.0.1 of example.com/a.b.c here",
    ],
)
def test_sentences_do_not_end_there(text: str) -> None:
    assert _sentence_ends(text) == []
    assert _sentence_ends(f"{text}. Then he left.") == [len(text) + 2]


def test_a_long_sentence_is_cut_at_commas_then_at_spaces_then_anywhere() -> None:
    assert cut("one two, three four; five six", 12) == ["one two, ", "three four; ", "five six"]
    assert cut("他来了，她走了，他们留下了", 5) == ["他来了，", "她走了，", "他们留下了"]
    assert cut("one two three four", 9) == ["one two ", "three ", "four"]
    assert cut("abcdefgh", 3) == ["abc", "def", "gh"]
    assert cut("1,000,000 and 2,000,000", 15) == ["1,000,000 and ", "2,000,000"]


@pytest.mark.parametrize("whole", ["e\u0301", "👩‍👩‍👧", "👍🏽", "🇩🇪", "<12>", "</3>", "क्षि", "เก", "각", "ก็"])
def test_what_is_one_character_to_a_reader_is_never_cut(whole: str) -> None:
    assert cut(whole * 3, len(whole)) == [whole] * 3
    assert cut(whole * 3, len(whole) * 2 - 1) == [whole] * 3
    assert cut("x" + whole, 1) == ["x", whole]  # though it does not fit


def test_a_long_text_needs_few_questions() -> None:
    asked = []

    def fits(text: str) -> bool:
        asked.append(len(text))
        return len(text) <= 1000

    text = "灯" * 200_000
    assert "".join(pieces(text, fits)) == text
    assert len(asked) < 200 * 25


TEXT = st.lists(
    st.sampled_from(
        [
            "word",
            ". ",
            "Mr. ",
            ", ",
            "。",
            "，",
            "灯",
            "é",
            "👩\u200d👩\u200d👧",
            "🇩🇪",
            "<1>",
            "</12>",
            "<3/>",
            "<",
            "3.5",
            "שלום",
            "؟ ",
            "\xa0",
            " ",
            "!”",
        ]
    )
    | st.characters(),
    max_size=40,
).map("".join)


@settings(max_examples=300, deadline=None)
@given(TEXT, st.integers(1, 40))
@example(". \u08ca", 1)  # a mark on a space
def test_pieces_are_the_text_again(text: str, longest: int) -> None:
    found = cut(text, longest)
    assert "".join(found) == text
    assert all(found) or not text
    assert len(found) == 1 or len("".join(found)) > longest
    at = 0
    tags = [match.span() for match in TAG.finditer(text)]
    for part in found:
        assert len(part) <= longest or not any(
            breakable(part, i) and not any(s - at < i < e - at for s, e in tags) for i in range(1, len(part))
        )
        assert at == 0 or unicodedata.category(text[at])[0] != "M"
        assert not any(start < at < end for start, end in tags)
        at += len(part)


# Joining -------------------------------------------------------------------------------------------------------------


def test_pieces_are_joined_as_the_language_writes() -> None:
    assert join([" Er kam. ", "", "Sie ging."], GERMAN) == "Er kam. Sie ging."
    assert join(["他来了。", "她走了。"], CHINESE) == "他来了。她走了。"
    assert join(["هل جاء؟", "نعم."], ARABIC) == "هل جاء؟ نعم."
    assert join([], GERMAN) == join([" "], CHINESE) == ""


def test_a_space_stands_where_one_is_written_all_the_same() -> None:
    assert join(["用 Windows", "and Linux"], CHINESE) == "用 Windows and Linux"
    assert join(["用 Windows", "好"], CHINESE) == "用 Windows好"
    assert join(["เขามาแล้ว", "เธอไปแล้ว"], THAI) == "เขามาแล้ว เธอไปแล้ว"  # between sentences, as Thai does
