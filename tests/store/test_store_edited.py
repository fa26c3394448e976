"""A text that is given to a session that has one: the draft of it, or what comes after it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from templora.store.edited import Edited, edited, reading
from templora.store.history import History
from templora.store.log import Record

SIZE = 64
BEGIN = {"opening": [], "config": {"chunk_size": SIZE}, "model": {"name": "bytes", "fingerprint": ""}}
WRITE = {"max_new_tokens": 999, "stop_at_end": False, "score": False, "sampling": {}}
BOOK = "".join(
    f"In chapter {i} the keeper of lamp {i * i} climbed {i + 3} stairs, and wrote it down.\n" for i in range(20)
)
PROMPT, REST = BOOK[:300], BOOK[300:]


def made(*said: tuple[str, str]) -> History:
    """Of bytes as tokens, in chunks."""
    history = History()
    history.add(Record(0, "begin", (), BEGIN))

    def add(kind: str, ids: bytes, data: Any) -> None:
        history.add(Record(len(history.records) + 1000 * len(history.tokens), kind, tuple(ids), data))

    for kind, text in said:
        if kind == "token":
            add("write", b"", WRITE)
        raw = text.encode()
        while raw:
            room = SIZE - len(history.tokens) % SIZE if kind == "given" else 1
            add(kind, raw[:room], {"text": raw[:room].decode(errors="ignore")})
            raw = raw[room:]
        if kind == "token":
            add("end", b"", {"reason": "length", "text": ""})
    return history


def whole(_: int) -> bool:
    return True


HELD = made(("given", PROMPT), ("token", REST))
OTHER = "Far away the baker of bread number 7 opened his oven, and thought of rain. " * 20


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (BOOK, "draft"),
        (BOOK + "\n", "draft"),
        (BOOK.replace("\n", "\r\n"), "draft"),
        (BOOK + OTHER, "draft"),
        (BOOK[:-40], "draft"),
        (BOOK[:900] + OTHER, "draft"),
        (BOOK[:70] + OTHER, "draft"),  # a chunk is the same
        ("Chapter one.\n" + BOOK, "draft"),
        (BOOK[:10] + "X" + BOOK[11:], "draft"),
        (BOOK.replace("chapter 3", "CHAPTER 3"), "draft"),
        (PROMPT, "draft"),
        (OTHER, "more"),
        ("Then", "more"),
        (BOOK[:30], "more"),
        (BOOK[:30] + OTHER, "more"),
        (BOOK[600:650], "more"),
        (BOOK[500:1100], "unclear"),
        (OTHER + BOOK[: len(BOOK) // 2], "unclear"),
        (BOOK[200:] + OTHER, "draft"),
    ],
)
def test_which_it_is(text: str, kind: str) -> None:
    assert reading(HELD, text) == kind


def test_nothing_is_a_draft_of_nothing() -> None:
    assert reading(made(), BOOK) == "more"
    short = made(("given", "Once upon"))
    assert reading(short, "Once upon a time") == "draft"
    assert reading(short, "Once more") == "more"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (BOOK, Edited(None, "")),
        (BOOK + "\n", Edited(None, "")),
        (BOOK + "On.", Edited(None, "On.")),
        (BOOK.replace("\n", "\r\n") + "On.", Edited(None, "On.")),
        (BOOK[:SIZE], Edited(1, "")),
        (BOOK[: SIZE - 1], Edited(0, BOOK[: SIZE - 1])),
        (BOOK[:500], Edited(7, BOOK[7 * SIZE : 500])),
        (BOOK[:200] + "X" + BOOK[201:], Edited(3, BOOK[192:200] + "X" + BOOK[201:])),
        ("X" + BOOK, Edited(0, "X" + BOOK)),
        (PROMPT, Edited(None, "", again=True)),
    ],
)
def test_what_stays_and_what_is_read(text: str, expected: Edited) -> None:
    found = edited(HELD, text, whole)
    assert found == expected
    if not found.again:
        kept = BOOK[: SIZE * found.chunks] if found.chunks is not None else BOOK
        assert (kept + found.rest).rstrip("\n") == text.replace("\r\n", "\n").rstrip("\n")


def test_what_is_forced_goes_back_to_the_prompt() -> None:
    assert edited(HELD, PROMPT, whole, back=True) == Edited(4, PROMPT[4 * SIZE :])


def test_no_character_is_cut_in_two() -> None:
    text = "Der Wärter stieg über die Brücke, " * 10 + "ä" * 200
    held = made(("token", text))
    raw = text.encode()

    def whole(position: int) -> bool:
        return not raw[:position].decode(errors="replace").endswith("\ufffd")

    for cut in range(60, len(text)):
        found = edited(held, text[:cut], whole, back=True)
        assert found.chunks is not None
        assert whole(SIZE * found.chunks)
        assert raw[: SIZE * found.chunks].decode() + found.rest == text[:cut]


@pytest.mark.parametrize("grown", [lambda n: "a" * n, lambda n: "a. " * n, lambda n: ("ab" * 40 + ".\n") * (n // 80)])
def test_long_ones_are_compared_in_time_with_their_length(grown: Callable[[int], str]) -> None:
    """Those that are alike up to their end, and those that are not, of very many characters."""
    history = History()
    history.add(Record(0, "begin", (), BEGIN))
    history.add(Record(1, "given", (1,), {"text": grown(200_000)}))
    for text in (grown(200_000)[:-1] + "X", "X" + grown(200_000), "X" + grown(200_000) + "Y"):
        assert reading(history, text)
        assert edited(history, text, whole).rest
