"""Where a request meets what a session holds."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from templora.chat import Message
from templora.server.alignment import Meeting, Turn, digest_of, meet_text, meet_turns

BOOK = "".join(f"In chapter {i} the keeper climbed {i * 7} stairs.\n" for i in range(40))


@pytest.mark.parametrize(
    ("held", "request_", "met"),
    [
        ("", BOOK, Meeting(0, 0)),
        (BOOK, BOOK, Meeting(len(BOOK), len(BOOK))),
        (BOOK, BOOK + "And then", Meeting(len(BOOK), len(BOOK))),
        (BOOK, BOOK[:-30], Meeting(len(BOOK) - 30, len(BOOK) - 30)),  # the last answer is wanted anew
        (BOOK, BOOK[:700] + "Far away", Meeting(700, 700)),
        (BOOK, BOOK[500:] + "And then", Meeting(len(BOOK), len(BOOK) - 500)),  # its beginning was left out
        (BOOK, BOOK[500:900] + "Far away", Meeting(900, 400)),
        (BOOK, "Far away", None),
        (BOOK, "Give this story a title: " + BOOK, None),
        (BOOK, BOOK[:40] + "Far away", None),
        ("It was", "It was the best", Meeting(6, 6)),
    ],
)
def test_texts(held: str, request_: str, met: Meeting | None) -> None:
    assert meet_text(held, request_) == met


@given(st.text("ab", max_size=300), st.text("ab", max_size=300))
def test_what_stays_is_the_same_text(held: str, asked: str) -> None:
    met = meet_text(held, asked)
    if met is not None:
        assert held[: met.held].endswith(asked[: met.given])
        assert met.given <= met.held


def turn(role: str, text: str, start: int, answered: bool | None = None) -> Turn:
    return Turn(role, digest_of(text), start, role != "assistant" if answered is None else answered)


HELD = [
    turn("user", "Hello", 0),
    turn("assistant", "Good day ", 9),
    turn("user", "Who?", 20),
    turn("assistant", "I", 30),
]


def talk(*said: str) -> list[Message]:
    """Of a user and an assistant in turn."""
    return [Message("assistant" if i % 2 else "user", text) for i, text in enumerate(said)]


@pytest.mark.parametrize(
    ("said", "sure", "met"),
    [
        (talk("Hello", "Good day", "Who?", "I", "Why?"), False, Meeting(4, 4)),
        (talk("Hello", "Good day", "Who?"), False, Meeting(3, 3)),  # the last answer anew
        (talk("Hello", "Good day", "What?"), False, Meeting(2, 2)),
        (talk("Hello", "Good evening", "Who?"), True, Meeting(1, 1)),  # an answer was edited
        (talk("Hello", "Good evening", "Who?"), False, None),  # anybody begins so
        (talk("Hello"), True, Meeting(1, 1)),
        (talk("Who?", "I", "Why?"), False, Meeting(4, 2)),  # its beginning was left out
        (talk("Name a title for this chat"), True, None),
        ([Message("user", "Hello"), Message("user", "Are you there?")], True, Meeting(0, 0)),
    ],
)
def test_conversations(said: list[Message], sure: bool, met: Meeting | None) -> None:
    assert meet_turns(HELD, said, sure=sure) == met


def test_an_empty_session_takes_any_conversation() -> None:
    assert meet_turns([], talk("Hello"), sure=False) == Meeting(0, 0)
