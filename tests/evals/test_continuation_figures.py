from __future__ import annotations

import random

import pytest

from templora.evals.continuation.figures import figures
from templora.evals.continuation.voice import Voices, commonest, style
from templora.reports.names import Book, names, words

STORY = """CHAPTER ONE

The keeper, Tobin, climbed the stairs. With him Odalie carried the lantern, and Tobin’s coat was wet. "Will you come?"
she asked Odalie. He told Tobin that the Harbour was closed; the harbour is always closed, and the harbour was cold.

He saw I was there. Paris is far. The lantern, the lantern, and the saltmarsh: saltmarsh on saltmarsh.
"""


def test_a_word_within_a_sentence_is_told_from_one_that_may_begin_one() -> None:
    text = 'He came. Then, Tobin said: "Well, Mary\n\nHe went on\nwith Ann-Marie and (Peter) in the U.S.'
    found = [(word.text, word.inside) for word in words(text) if word.text[0].isupper()]
    expected = [("He", False), ("Then", False), ("Tobin", True), ("Well", False), ("Mary", True), ("He", False)]
    expected += [("Ann", True), ("Marie", False), ("Peter", False), ("U", True), ("S", True)]
    assert found == expected
    said = {word.text: word.inside for word in words("Then Dr. Finch and J. Wells left. Nobody saw. Mrs. Gould did")}
    assert said == {
        "Then": False, "Dr": True, "Finch": True, "and": True, "J": True, "Wells": True, "left": True,
        "Nobody": False, "saw": True, "Mrs": False, "Gould": True, "did": True,
    }  # fmt: skip


def test_what_is_shortened_is_no_name() -> None:
    assert names("so I'd go, and I'd go; and We'll go, and We'll go with O'Brien, and O'Brien's dog") == {"O'Brien"}


def test_names_are_what_has_a_capital_within_sentences() -> None:
    assert names(STORY) == {"Tobin", "Odalie"}  # not the harbour, which mostly has none, nor Paris, which is seen once


def test_in_scripts_without_capitals_there_are_no_names() -> None:
    assert names("他对老人说话。老人不说话。" * 5) == set()


def test_what_is_carried_is_what_had_left_the_window() -> None:
    book = Book(STORY, STORY, others={"lantern", "harbour"})
    assert book.rare == {"saltmarsh"}
    written = "And Odalie's saltmarsh lay before Tobin, and Odalie saw the saltmarsh."
    carried, rare = book.carried(written, window="and Tobin was there")
    assert carried == {"Odalie": 2}
    assert rare == {"saltmarsh": 2}
    assert book.carried(written, window=STORY) == ({}, {})
    others = Book(STORY, STORY, others={"odalie"})  # whoever has that name in another book may come from there
    assert others.carried(written, window="and Tobin was there")[0] == {}


def test_without_other_books_no_word_is_rare() -> None:
    assert Book(STORY, STORY).rare == set()


def test_invented_is_what_stands_nowhere_in_the_book() -> None:
    book = Book(STORY, STORY + " Later Marius came.")
    written = "And then Belinda met Marius and Tobin. Clarence met Belinda, the Moon and the moon."
    assert book.invented(written) == {"Belinda": 2}


def test_style_counts_what_it_says() -> None:
    text = "“One two,” he said; three. Four -- five six?\n"
    per_1000 = 1000 / 8
    spoken = len("“One two,") / len(text.replace("--", "—"))
    assert style(text) == pytest.approx([4, spoken, per_1000, per_1000, per_1000, 0, per_1000])
    assert style("") == [0, 0, 0, 0, 0, 0, 0]


def plain(seed: int, of: str, many: int = 4000) -> str:
    draw = random.Random(seed)
    said = [draw.choice(of.split()) for _ in range(many)]
    return " ".join(word + ("." if i % 9 == 8 else "") for i, word in enumerate(said))


ONE, TWO = "the and of he was she said then the the", "a and in it is they go now but or"


def test_a_text_is_nearest_to_the_voice_that_wrote_it() -> None:
    voices = Voices({"one": plain(1, ONE), "two": plain(2, TWO)}, size=300)
    for seed in range(3, 6):
        own, other = plain(seed, ONE, 300), plain(seed, TWO, 300)
        assert voices.distance(own, "one")[0] < voices.distance(own, "two")[0]
        assert voices.distance(other, "two")[0] < voices.distance(other, "one")[0]
    assert commonest([plain(1, ONE), plain(1, ONE)])[0] == "the"


def test_any_text_has_figures() -> None:
    book, voices = Book(STORY, STORY), Voices({"it": STORY}, size=500)
    for text in ("", " ", "一二三", "!!!", "A", STORY):
        found = figures(text, [1] * len(text), "", book, "it", voices)
        assert found["words"] == sum(1 for _ in words(text))
        assert all(value >= 0 for value in found.values() if isinstance(value, float))
