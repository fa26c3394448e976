"""A text that is given to a session that holds one already: is it that text, edited, or what comes after it?

    session   The keeper climbed the stairs. │ The lamp was lit. He saw │ a ship
    given     The keeper climbed the stairs.   The lamp was out. He saw   a ship, and
              └── both begin so; whole chunks of it stay ─┘└ and the rest is read

Knows neither models nor files.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from templora.store.history import History, text_of

Reading = Literal["draft", "more", "unclear"]

# Of a session's sentences so many are in a draft of it, and in no text that goes on from it, as shares of characters.
_DRAFT, _MORE = 0.75, 0.4
_MIN, _SHORTEST = 200, 40  # characters; of less, likeness says nothing, nor does the same beginning
_SENTENCE = re.compile(r"[^\n.!?…。！？]+")


@dataclass(frozen=True)
class Edited:
    """What a draft changes in the session's text.

    Args:
        chunks: how many of them stay; None: nothing is to be taken back.
        rest: what is to be read after those.
        again: it is what the session was given before its last write, and nothing else.
    """

    chunks: int | None
    rest: str
    again: bool = False


def reading(history: History, text: str) -> Reading:
    """Whether a text is the session's own, edited, or is to come after it; `unclear` where it may be either.

    It is a draft if it goes on from all that is there, if it begins with the same words for at least a chunk, or if
    most sentences of the session are in it.
    """
    held, text = history.text, _lines_as(history.text, text)
    if not held:
        return "more"
    same, first = _same(held, text), _characters(history)[0].get(1, len(held))
    if same >= min(len(held), max(first, _SHORTEST)):
        return "draft"
    if len(text) >= _MIN and text.strip() in held:  # a part of it, and not the first
        return "unclear"
    known = set(_sentences(text))
    said = _sentences(held)
    there, total = (sum(map(len, found)) for found in ([s for s in said if s in known], said))
    share = there / total if total >= _MIN else 0.0
    return "draft" if share >= _DRAFT else "unclear" if share >= _MORE else "more"


def edited(history: History, text: str, whole: Callable[[int], bool], *, back: bool = False) -> Edited:
    """What a draft of the session's text changes.

    Args:
        history: of the session.
        text: the draft.
        whole: whether no character is cut in two at a position, in tokens.
        back: go back to the end of what the session was given, too, if that is the draft; else that is the same command
            once more, and nothing is taken back.
    """
    held, text = history.text, _lines_as(history.text, text)
    same = _same(held, text)
    ends, begun = _characters(history)
    if same == len(held):
        rest = text[same:]
        return Edited(None, rest if rest.strip("\r\n") else "")
    if same == len(text) and same in begun and not back:
        return Edited(None, "", again=same == begun[-1])
    fit = [chunks for chunks, shown in ends.items() if shown <= same and whole(history.position(chunks))]
    return Edited(fit[-1], text[ends[fit[-1]] :])


def _characters(history: History) -> tuple[dict[int, int], list[int]]:
    """How many characters the first chunks show, for each number of them; and how many there were before each write."""
    ends, begun = {0: 0}, []
    number = {position: chunks for chunks, position in enumerate(history.chunks, 1)}
    position, shown = len(history.opening), 0
    for record in history.records:
        if record.kind == "write":
            begun.append(shown)
        shown += len(text_of(record))
        position += len(record.ids)
        if record.ids and position in number:
            ends[number[position]] = shown
    return ends, begun


def _same(one: str, other: str) -> int:
    """How many characters both begin with."""
    shorter = min(len(one), len(other))
    return next((i for i in range(shorter) if one[i] != other[i]), shorter)


def _lines_as(held: str, text: str) -> str:
    """With ends of lines as in the session's text: an editor may have changed them all."""
    return text.replace("\r\n", "\n") if "\r" not in held else text


def _sentences(text: str) -> list[str]:
    return [sentence.strip() for sentence in _SENTENCE.findall(text) if not sentence.isspace()]
