"""How a paragraph with markup is shown to a model, and how the markup comes back whatever the model wrote.

    source    The *keeper* lit `lamp 2` ![](lamp.png) at *six*.
    text      The <1>keeper</1> lit <2>lamp 2</2> <3/> at <4>six</4>.
    target    Um <4>sechs</4> zündete der <1>Wärter</1> <2>Lampe 2</2> <3/> an.
    restored  Um *sechs* zündete der *Wärter* `lamp 2` ![](lamp.png) an.

What the model lost, doubled or crossed is placed anew (`placing`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from templora.translation.inline.characters import one_line
from templora.translation.inline.marks import TAG, Mark, Part, Place, joined, tidied, visible
from templora.translation.inline.placing import misplaced, place

# A model may translate what is in a code span, but not write a sentence there: then its tags are wrong.
_MAX_TIMES, _MAX_BESIDES = 3, 10


@dataclass(frozen=True)
class Marked:
    """A paragraph as the model sees it. Made by `marking.mark_up`.

    Args:
        text: one line, with tags.
        marks: what the tags stand for, in order of appearance. Tags of other numbers are text.
        before, after: markup at the very ends or around everything; the model sees none of it.
    """

    text: str
    marks: tuple[Mark, ...] = ()
    before: tuple[Part, ...] = ()
    after: tuple[Part, ...] = ()

    @property
    def plain(self) -> str:
        """The text without its marks' tags."""
        return plain(self, self.text)


@dataclass(frozen=True)
class Restored:
    """A translation with its markup.

    Args:
        text: of the document.
        moved: how many marks are not where the model put them, because it lost, doubled or crossed them.
    """

    text: str
    moved: int = 0


def restore(marked: Marked, target: str, escape: Callable[[str], str]) -> Restored:
    """A translation with its markup: well-formed, and every mark once.

    Args:
        marked: what was translated.
        target: what the model wrote.
        escape: makes text of the document's kind, which reads as it stands here.
    """
    parts, moved = arrange(marked, target)
    return Restored("".join(escape(part) if isinstance(part, str) else part.source for part in parts), moved)


def arrange(marked: Marked, target: str) -> tuple[list[Part], int]:
    """What `restore` joins, those parts included that stand at the ends; and how many marks were moved."""
    parts, doubled = _read(marked, one_line(target).strip())
    if wrong := misplaced(marked.marks, parts, origin := _read(marked, marked.text)[0]):
        parts = joined(part for part in parts if isinstance(part, str) or part.mark.number not in wrong)
    there = {part.mark.number for part in parts if isinstance(part, Place)}
    missing = [mark for mark in marked.marks if mark.number not in there]
    if missing:
        parts = place(missing, parts, origin)
    return [*marked.before, *parts, *marked.after], len(doubled | {mark.number for mark in missing})


def plain(marked: Marked, target: str) -> str:
    """A translation without markup, for where there can be none."""
    return one_line("".join(visible(part) for part in _read(marked, one_line(target))[0])).strip()


class _Tag(NamedTuple):
    mark: Mark
    sort: str  # as in TAG: "/" of a closing one, "" of an opening or a void one
    void: bool


_Token: TypeAlias = str | _Tag


def _read(marked: Marked, text: str) -> tuple[list[Part], set[int]]:
    """The parts of a text, as far as its tags are sound; and the numbers of the marks that it has more than once."""
    doubled: set[int] = set()
    parts = _unlinked(_nested(_whole(_tokens(marked, text), doubled), doubled))
    return tidied(parts), doubled


def _tokens(marked: Marked, text: str) -> list[_Token]:
    """A text and the tags of marks in it. Tags that the source has as text are text; others were invented, and go."""
    marks = {mark.number: mark for mark in marked.marks}
    literal = {int(match["number"]) for match in TAG.finditer(marked.text)}
    found: list[_Token] = []
    written, at = "", 0
    for match in TAG.finditer(text):
        number = int(match["number"])
        mark = marks.get(number)
        if mark is None and number in literal:
            continue
        written += text[at : match.start()]
        at = match.end()
        if mark is not None and not (match["close"] and match["void"]):
            found += [written, _Tag(mark, match["close"], bool(match["void"]))]
            written = ""
    return [token for token in (*found, written + text[at:]) if token]


def _whole(tokens: Sequence[_Token], doubled: set[int]) -> list[_Token | Place]:
    """Tags of things and of what is kept, replaced by their places."""
    found: list[_Token | Place] = []
    done: set[int] = set()
    at = 0
    while at < len(tokens):
        token = tokens[at]
        at += 1
        if isinstance(token, str) or token.mark.wraps:
            found.append(token)
        elif token.sort:
            continue  # of `<2></2>`, or alone
        elif token.mark.number in done:
            doubled.add(token.mark.number)
        else:
            length = 0 if token.void or not token.mark.shown else _kept(tokens, at, token.mark)
            if length is not None:
                found.append(Place(token.mark, "whole"))
                done.add(token.mark.number)
                at += length
    return found


def _kept(tokens: Sequence[_Token], start: int, mark: Mark) -> int | None:
    """How many tokens from `start` on stand for what is kept, the closing tag included; None if they cannot."""
    text = ""
    for at in range(start, len(tokens)):
        token = tokens[at]
        if isinstance(token, str):
            text += token
        elif token.mark is mark and token.sort:
            return at + 1 - start if len(text) <= _MAX_TIMES * len(mark.shown) + _MAX_BESIDES else None
        else:
            return None
    return None


def _nested(tokens: Sequence[_Token | Place], doubled: set[int]) -> list[Part]:
    """Pairs of tags around some text, replaced by their places. Where two cross, the inner one goes."""
    found: list[Part | None] = []
    opened: dict[int, int] = {}  # where, by number; the innermost one is the last
    done: set[int] = set()
    for token in tokens:
        if not isinstance(token, _Tag):
            found.append(token)
            continue
        mark, number = token.mark, token.mark.number
        if token.void:
            continue
        if token.sort and number in opened:
            while (last := opened.popitem())[0] != number:
                found[last[1]] = None
            if any(visible(part or "").strip() for part in found[last[1] :]):
                found.append(Place(mark, "closing"))
                done.add(number)
            else:
                found[last[1]] = None
        elif not token.sort and (number in done or number in opened):
            doubled.add(number)
        elif not token.sort:
            opened[number] = len(found)
            found.append(Place(mark, "opening"))
    for start in opened.values():
        found[start] = None
    return joined(found)


def _unlinked(parts: Sequence[Part]) -> list[Part]:
    """Without those links that are in another."""
    found: list[Part] = []
    outer, dropped = 0, set[int]()
    for part in parts:
        if isinstance(part, Place) and part.mark.link:
            if part.mark.number in dropped or (outer and part.edge != "closing"):
                dropped.add(part.mark.number)
                continue
            outer += part.nesting
        found.append(part)
    return joined(found)
