"""Where a terminal's cursor may stand, known from what was written alone.

A cursor that is saved and restored in the last column forgets, on many terminals, that the next letter goes to the
next line: it is written over the last one. So nobody may save it there. How wide a letter is, terminals do not agree;
so what each kind of them makes of a text is followed, and only where none of them is in the last column is no danger.
"""

from __future__ import annotations

import unicodedata
from itertools import product
from typing import NamedTuple

# Of a line that is longer, nobody knows where it ends on a terminal that has become narrower or wider.
_MAX_LENGTH = 10_000
_JOINER, _AS_EMOJI = "\u200d", "\ufe0f"
_TAB = 8


class _Kind(NamedTuple):
    """How a terminal lays out text.

    Args:
        ambiguous: columns of a letter that East Asian fonts draw wide: 1 or 2.
        stays: a wide letter begins in the last column too, and there what has no width begins a line, and a tab goes
            back (as in pyte).
        clusters: what belongs to one emoji is as wide as that one; vowel signs have no width.
    """

    ambiguous: int
    stays: bool
    clusters: bool


_KINDS = tuple(_Kind(*kind) for kind in product((1, 2), (False, True), (False, True)))


class Cursor:
    """The columns that the cursor may stand in. After the last one, the next letter begins a line."""

    def __init__(self, columns: int) -> None:
        self._columns = columns
        self._begin()

    def _begin(self) -> None:
        self._line = ""
        self._at = {(kind, 0) for kind in _KINDS}

    @property
    def at_start(self) -> bool:
        """Surely in the first column."""
        return all(column == 0 for _, column in self._at)

    @property
    def may_be_last(self) -> bool:
        """Perhaps after the last column; or in the middle of an emoji, which is drawn in one go."""
        return self._line.endswith(_JOINER) or any(column >= self._columns for _, column in self._at)

    def feed(self, text: str) -> None:
        """Text was written."""
        *lines, rest = text.replace("\r\n", "\n").split("\n")
        if lines:
            self._begin()
        if not rest:
            return
        before = self._line[-1:]
        self._line = (self._line + rest)[-_MAX_LENGTH - 1 :]
        if rest.isascii() and rest.isprintable():
            self._at = {(kind, _after(column, len(rest), self._columns)) for kind, column in self._at}
        elif any(unicodedata.category(c) == "Cc" and c not in "\t\r" for c in rest):
            self._anywhere()
        else:
            self._at = {(kind, _laid_out(rest, before, kind, column, self._columns)) for kind, column in self._at}

    def resize(self, columns: int) -> None:
        """The terminal has another width. What it did with the line, it does not say: broken it anew, or not."""
        if columns == self._columns:
            return
        self._columns = columns
        held = {(kind, min(column, columns - less)) for kind, column in self._at for less in (0, 1)}
        if len(self._line) > _MAX_LENGTH:
            self._anywhere()
            return
        line, before = self._line, self._at
        self._begin()
        if any(column for _, column in before):
            self.feed(line)
            self._at |= held

    def _anywhere(self) -> None:
        self._at = {(kind, column) for kind in _KINDS for column in range(self._columns + 1)}


def _after(column: int, letters: int, columns: int) -> int:
    """Where letters of one column each lead."""
    end = column + letters
    return end if end <= columns else (end - 1) % columns + 1


def _laid_out(text: str, before: str, kind: _Kind, column: int, columns: int) -> int:
    for char in text:
        if char == "\r":
            column = 0
        elif char == "\t":
            stop = min((column // _TAB + 1) * _TAB, columns - 1)
            column = stop if kind.stays else max(column, stop)
        elif width := _width(char, before, kind):
            room = columns - column
            if room == 0 or (room < width and not kind.stays):
                column = 0
            column = min(column + width, columns)
        elif column == columns and kind.stays:
            column = 0
        before = char
    return column


def _width(char: str, before: str, kind: _Kind) -> int:
    category, wide = unicodedata.category(char), unicodedata.east_asian_width(char)
    if category in ("Mn", "Me") or "\u1160" <= char <= "\u11ff" or "\ud7b0" <= char <= "\ud7ff":
        return int(kind.clusters and char == _AS_EMOJI and _width(before or "x", "", kind) == 1)
    if category == "Mc":
        return int(not kind.clusters)
    if category == "Cf":
        return int(char == "\u00ad" and not kind.clusters)
    if wide in "WF":
        joined = before == _JOINER or "\U0001f3fb" <= char <= "\U0001f3ff"
        return 0 if kind.clusters and joined else 2
    if category == "Cn":  # newer than our tables
        return 2 if kind.clusters else 1
    return kind.ambiguous if wide == "A" else 1


def fitted(text: str, columns: int) -> str:
    """As much of the text as fits."""
    width = 0
    for i, char in enumerate(text):
        width += _width(char, text[i - 1 : i], _KINDS[0])
        if width > columns:
            return text[:i]
    return text
