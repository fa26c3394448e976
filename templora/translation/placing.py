"""Where markup goes that a model lost: to the same words, else as far into the text as it was in the source."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from templora.translation.characters import EAST_ASIAN, breakable, words
from templora.translation.marks import Mark, Part, Place, visible

_QUOTES = "\"'“”„‘’‚«»‹›「」『』《》〈〉【】"  # which of them open and which close differs from language to language
_OPENERS = f"{_QUOTES}([{{¿¡（"
_CLOSERS = f"{_QUOTES}.,;:!?…)]}}）。，、；：！？؟،؛۔।"
# Of what a mark wraps: the same two letters in another language are often another word.
_FEWEST = 3


def place(missing: Sequence[Mark], parts: Sequence[Part], origin: Sequence[Part]) -> list[Part]:
    """Parts with marks put into them; never across another, and no link into a link.

    Args:
        missing: the marks, outer ones first.
        parts: of the translation.
        origin: parts of the source, in which all marks are.
    """
    found = list(parts)
    left = []
    length = _length(origin) or 1
    for mark in missing:
        near = _span(origin, mark).start / length * _length(found)
        found, placed = _at_same_words(found, mark, _text(origin, mark), near)
        if not placed:
            left.append(mark)
    for mark in left:
        span = _span(origin, mark)
        scale = _length(found) / length
        if mark.wraps:
            found = _around(found, mark, span.start * scale, span.end * scale, _is_initial(origin, span))
        else:
            found = _at(found, mark, span.start * scale)
    return found


# The source ----------------------------------------------------------------------------------------------------------


class _Span(NamedTuple):
    """Characters of what is visible."""

    start: float
    end: float


def _length(parts: Sequence[Part]) -> int:
    return sum(len(visible(part)) for part in parts)


def _span(origin: Sequence[Part], mark: Mark) -> _Span:
    edges, at = [], 0
    for part in origin:
        if isinstance(part, Place) and part.mark.number == mark.number:
            edges.append(at)
        at += len(visible(part))
    return _Span(edges[0], edges[-1])


def _text(origin: Sequence[Part], mark: Mark) -> str:
    """What a mark shows or wraps."""
    if not mark.wraps:
        return mark.shown
    edges = [at for at, part in enumerate(origin) if isinstance(part, Place) and part.mark.number == mark.number]
    return "".join(visible(part) for part in origin[edges[0] : edges[1]])


def _is_initial(origin: Sequence[Part], span: _Span) -> bool:
    """Whether a mark wraps the first letter of a word alone, as books begin chapters."""
    text = "".join(visible(part) for part in origin)
    word = text[int(span.start) : int(span.end) + 1]
    return len(word) == 2 and word.isalpha() and not EAST_ASIAN.search(word)


# The same words ------------------------------------------------------------------------------------------------------


def _at_same_words(parts: list[Part], mark: Mark, text: str, near: float) -> tuple[list[Part], bool]:
    """With the mark where its text stands as it is, if it does; if more than once, nearest to `near`."""
    wanted = text.strip()
    if len(wanted) < (_FEWEST if mark.wraps else 1):
        return parts, False
    pattern = re.compile(re.escape(wanted))
    linked = _linked(parts)
    starts = [0, *itertools.accumulate(len(visible(part)) for part in parts)]
    spots = [
        (index, match.start(), match.end())
        for index, part in enumerate(parts)
        if isinstance(part, str) and not (mark.link and linked[index])
        for match in pattern.finditer(part)
        if _bounded(part, match.start()) and _bounded(part, match.end())
    ]
    if not spots:
        return parts, False
    index, start, end = min(spots, key=lambda spot: abs(starts[spot[0]] + spot[1] - near))
    held = str(parts[index])
    between: list[Part] = [Place(mark, "whole")]
    if mark.wraps:
        between = [Place(mark, "opening"), held[start:end], Place(mark, "closing")]
    return _replaced(parts, index, [held[:start], *between, held[end:]]), True


def _bounded(text: str, at: int) -> bool:
    """Whether a word may begin or end there."""
    if not 0 < at < len(text):
        return True
    before, after = text[at - 1], text[at]
    return breakable(text, at) and not (before.isalnum() and after.isalnum() and not EAST_ASIAN.search(before + after))


# In proportion -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Word:
    """A word of a part.

    Args:
        index: of the part.
        start, end: in the part.
        middle: among all that is visible.
        linked: whether it is in a link.
    """

    index: int
    start: int
    end: int
    middle: float
    linked: bool


def _words(parts: Sequence[Part]) -> list[_Word]:
    found, at, linked = [], 0, _linked(parts)
    for index, part in enumerate(parts):
        if isinstance(part, str):
            found += [_Word(index, s, e, at + (s + e) / 2, linked[index]) for s, e in words(part)]
        at += len(visible(part))
    return found


def _linked(parts: Sequence[Part]) -> list[bool]:
    """For each part, whether it is in a link."""
    found, depth = [], 0
    for part in parts:
        if isinstance(part, Place) and part.mark.link and part.edge == "closing":
            depth -= 1
        found.append(depth > 0)
        if isinstance(part, Place) and part.mark.link and part.edge == "opening":
            depth += 1
    return found


def _around(parts: list[Part], mark: Mark, start: float, end: float, initial: bool) -> list[Part]:
    """With the mark around the words between `start` and `end`, or the nearest one."""
    candidates = [word for word in _words(parts) if not (mark.link and word.linked)]
    if not candidates:
        return [*parts, Place(mark, "opening"), Place(mark, "closing")]
    middle = (start + end) / 2
    chosen = [w for w in candidates if start <= w.middle < end] or [
        min(candidates, key=lambda w: abs(w.middle - middle))
    ]
    while len(groups := _groups(parts, chosen := _bared(parts, chosen), mark.link)) > 1:
        chosen = max(groups, key=lambda group: sum(word.end - word.start for word in group))
    first, last = chosen[0], chosen[-1]
    text = str(parts[first.index])
    begin = first.start + _without(_word(parts, first), _word(parts, first).lstrip(_OPENERS))
    finish = last.end - _without(_word(parts, last), _word(parts, last).rstrip(_CLOSERS))
    if initial:
        last = first
        finish = next((at for at in range(begin + 1, first.end) if breakable(text, at)), first.end)
    found = _inserted(parts, last.index, finish, [Place(mark, "closing")])
    return _inserted(found, first.index, begin, [Place(mark, "opening")])


def _bared(parts: Sequence[Part], chosen: Sequence[_Word]) -> list[_Word]:
    """Without words at the ends that are punctuation alone, as in scripts without spaces, if others are left."""
    texts = [_word(parts, word) for word in chosen]
    first = next((i for i, text in enumerate(texts) if text.strip(_OPENERS)), 0)
    last = next((i for i in reversed(range(first, len(texts))) if texts[i].strip(_CLOSERS)), first)
    return list(chosen[first : last + 1])


def _word(parts: Sequence[Part], word: _Word) -> str:
    return str(parts[word.index])[word.start : word.end]


def _groups(parts: Sequence[Part], chosen: Sequence[_Word], link: bool) -> list[list[_Word]]:
    """Words in a row, in groups that can be wrapped: between two of a group no mark begins that does not end there, or
    the other way round; for a link, none that is a link.
    """
    cuts, open_ = set(), []
    for index in range(chosen[0].index, chosen[-1].index):
        part = parts[index]
        if isinstance(part, str):
            continue
        if link and part.mark.link:
            cuts.add(index)
        elif part.edge == "opening":
            open_.append(index)
        elif part.edge == "closing":
            if open_:
                open_.pop()
            else:
                cuts.add(index)
    cuts |= set(open_)
    groups = [[chosen[0]]]
    for before, word in itertools.pairwise(chosen):
        if any(index in cuts for index in range(before.index, word.index)):
            groups.append([])
        groups[-1].append(word)
    return groups


def _without(word: str, trimmed: str) -> int:
    """How many characters of punctuation go; none if nothing were left."""
    return len(word) - len(trimmed) if trimmed else 0


def _at(parts: list[Part], mark: Mark, position: float) -> list[Part]:
    """With the mark behind the word that ends nearest to `position`."""
    # Not in front of all: what stands there in a source is not shown to the model, and HTML there would begin a block.
    spots = [(float(_length(parts)), len(parts), 0)]
    spots += [
        (word.middle + (word.end - word.start) / 2, word.index, word.end)
        for word in _words(parts)
        if not (mark.link and word.linked)
    ]
    # Of spots as near as each other the last: marks placed one after another keep their order.
    _, index, offset = min(spots, key=lambda spot: (abs(spot[0] - position), -spot[1], -spot[2]))
    return _inserted(parts, index, offset, _spaced(parts, index, offset, mark))


def _spaced(parts: Sequence[Part], index: int, offset: int, mark: Mark) -> list[Part]:
    """A mark with the spaces around it that its text needs."""
    if not mark.shown:
        return [Place(mark, "whole")]
    held = parts[index] if index < len(parts) else ""
    rest = str(held) if isinstance(held, str) else ""
    before = "".join(visible(part) for part in parts[:index]) + rest[:offset]
    after = rest[offset:] + "".join(visible(part) for part in parts[index + bool(rest) :])
    return [
        " " if before[-1:].strip() and not EAST_ASIAN.match(before[-1]) else "",
        Place(mark, "whole"),
        " " if after[:1].strip() and not EAST_ASIAN.match(after[0]) else "",
    ]


def _inserted(parts: Sequence[Part], index: int, offset: int, new: Sequence[Part]) -> list[Part]:
    """With `new` at a character of a text, or in front of another part."""
    held = parts[index] if index < len(parts) else None
    if isinstance(held, str):
        return _replaced(parts, index, [held[:offset], *new, held[offset:]])
    return [*parts[:index], *(part for part in new if part), *parts[index:]]


def _replaced(parts: Sequence[Part], index: int, new: Sequence[Part]) -> list[Part]:
    return [*parts[:index], *(part for part in new if part), *parts[index + 1 :]]
