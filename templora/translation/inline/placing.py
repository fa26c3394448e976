"""Where markup goes that a model lost: to the same words, else as far into the text as it was in the source."""

from __future__ import annotations

import bisect
import itertools
import re
from collections.abc import Iterable, Iterator, Sequence, Set
from dataclasses import dataclass
from typing import NamedTuple

from templora.translation.inline.characters import EAST_ASIAN, breakable, has_letter, words
from templora.translation.inline.marks import Mark, Part, Place, visible

_QUOTES = "\"'“”„‘’‚«»‹›「」『』《》〈〉【】"  # which of them open and which close differs from language to language
_OPENERS = f"{_QUOTES}([{{¿¡（"
_CLOSERS = f"{_QUOTES}.,;:!?…)]}}）。，、；：！？؟،؛۔।"
# Of what a mark wraps: the same two letters in another language are often another word.
_MIN = 3
# Marks of a paragraph that are placed with care, each of which is looked for in all of it: a model that lost more than
# these has not kept the paragraph. Characters from where a mark was to a word that it goes around.
_MAX, _FAR = 100, 20
# A raised or lowered text of so few characters gets no longer by more than this in another language.
_SHORT, _MORE = 4, 2
_WORD_BEFORE, _WORD_BEHIND = re.compile(r"\S+\Z"), re.compile(r"\S+")


def place(missing: Sequence[Mark], parts: Sequence[Part], origin: Sequence[Part]) -> list[Part]:
    """Parts with marks put into them; never across another, and no link into a link.

    Not every mark comes back. What is raised or lowered, and what wraps no letter, belongs to its own text: without
    that it goes, and so does what could only be put around words that have got another lost mark already. Things never
    go, nor do links and what something may refer to.

    Args:
        missing: the marks, outer ones first.
        parts: of the translation.
        origin: parts of the source, in which all marks are.
    """
    source, found = _Source(origin), list(parts)
    placed: set[int] = set()
    careful = [mark for mark in missing if mark.wraps or mark.shown][:_MAX]
    for mark in careful:
        spot = _own_text(found, mark, source, placed)
        if spot is not None:
            found = _put(found, mark, *spot)
            placed.add(mark.number)
    units: list[_Unit] = []
    for mark in [mark for mark in missing if mark.number not in placed]:
        start, end = source.spans[mark.number]
        text = source.of(mark)
        if not mark.wraps:
            units.append(_Unit(start, (Place(mark, "whole"),), bool(mark.shown), mark.link))
            continue
        wrapped = None
        if not _fixed(mark, text) and len(careful) < _MAX:
            scale = sum(len(visible(part)) for part in found) / (len(source.text) or 1)
            wrapped = _around(found, mark, start * scale, end * scale, source, placed)
        if wrapped is not None:
            found = wrapped
            placed.add(mark.number)
        elif mark.needed:
            held = [text] if text and _fixed(mark, text) else []
            edges: tuple[Part, ...] = (Place(mark, "opening"), *held, Place(mark, "closing"))
            units.append(_Unit(start, edges, bool(held) and not mark.raised, mark.link))
    return _with_units(found, units, len(source.text) or 1)


def misplaced(marks: Sequence[Mark], parts: Sequence[Part], origin: Sequence[Part]) -> set[int]:
    """Numbers of raised and lowered marks that a model put around words where there was a sign or two."""
    raised = [mark for mark in marks if mark.wraps and mark.raised]
    if not raised:
        return set()
    source, target = _Source(origin), _Source(parts)
    found = set()
    for mark in raised:
        if mark.number in target.spans:
            said, text = source.of(mark), target.of(mark)
            most = len(said) + _MORE if has_letter(said) else 0
            if len(said) <= _SHORT and (" " in text or sum(c.isalpha() for c in text) > most):
                found.add(mark.number)
    return found


def _fixed(mark: Mark, text: str) -> bool:
    """Whether a mark belongs to its own text and to no other word."""
    return mark.raised or not has_letter(text)


# The source ----------------------------------------------------------------------------------------------------------


class _Source:
    """Where marks are in a text.

    Attributes:
        text: what is visible of it.
        spans: characters that a mark wraps or is at, by its number.
    """

    def __init__(self, parts: Sequence[Part]) -> None:
        self.text = "".join(visible(part) for part in parts)
        self.spans: dict[int, tuple[int, int]] = {}
        self._outer: dict[int, tuple[int, ...]] = {}
        at, open_ = 0, list[int]()
        for part in parts:
            if isinstance(part, Place):
                number = part.mark.number
                if part.edge == "closing":
                    self.spans[number] = self.spans[number][0], at
                    open_.pop()
                else:
                    self.spans[number] = at, at
                    self._outer[number] = tuple(open_)
                    open_ += [number] * (part.edge == "opening")
            at += len(visible(part))

    def of(self, mark: Mark) -> str:
        """What a mark shows or wraps, without white space at its ends."""
        start, end = self.spans[mark.number]
        return (self.text[start:end] if mark.wraps else mark.shown).strip()

    def related(self, one: int, other: int) -> bool:
        """Whether one mark is in the other."""
        return one in self._outer[other] or other in self._outer[one]

    def initial(self, mark: Mark) -> bool:
        """Whether a mark wraps the first letter of a word alone, as books begin chapters."""
        start, end = self.spans[mark.number]
        word = self.text[start : end + 1]
        return len(word) == 2 and word.isalpha() and not EAST_ASIAN.search(word)


def _free(parts: Sequence[Part], mark: Mark, source: _Source, placed: Set[int]) -> list[bool]:
    """For each part, whether a mark may be put into it: not a link into a link, and none into another one that was
    lost, unless one is in the other in the source.
    """
    found, inside = [], list[int]()
    for part, links in zip(parts, _links(parts), strict=True):
        if isinstance(part, Place) and part.mark.number in placed:
            if part.edge == "opening":
                inside.append(part.mark.number)
            elif part.edge == "closing":
                inside.pop()
        alone = not inside or not mark.wraps or source.related(mark.number, inside[-1])
        found.append(alone and not (mark.link and links))
    return found


def _links(parts: Sequence[Part]) -> Iterator[int]:
    """For each part, how many links it is in."""
    return itertools.accumulate(part.mark.link * part.nesting if isinstance(part, Place) else 0 for part in parts)


# The same words ------------------------------------------------------------------------------------------------------


def _own_text(parts: list[Part], mark: Mark, source: _Source, placed: Set[int]) -> tuple[int, int, int] | None:
    """Where a mark's text stands as it is: the part, and characters of it; if more than once, the nearest."""
    text = source.of(mark)
    fixed = mark.wraps and _fixed(mark, text)
    if not text or (len(text) < _MIN and mark.wraps and not fixed):
        return None
    free = _free(parts, mark, source, placed)
    joined = "".join(visible(part) for part in parts)
    starts = [0, *itertools.accumulate(len(visible(part)) for part in parts)]
    near = source.spans[mark.number][0] / (len(source.text) or 1) * len(joined)
    for before, after in _contexts(source, mark, text) if fixed else [("", "")]:
        spots = []
        for match in re.finditer(re.escape(before + text + after), joined):
            start = match.start() + len(before)
            index = bisect.bisect_right(starts, start) - 1
            held, end = parts[index], start + len(text)
            if isinstance(held, str) and free[index] and end <= starts[index + 1] and _apart(joined, match.span()):
                spots.append((abs(start - near), index, start - starts[index], end - starts[index]))
        if spots:
            return min(spots)[1:]
    return None


def _contexts(source: _Source, mark: Mark, text: str) -> list[tuple[str, str]]:
    """What stands right before and behind a mark's text, for texts that are too short to be found by themselves."""
    start, end = source.spans[mark.number]
    start = source.text.index(text, start)
    end = start + len(text)
    before = _WORD_BEFORE.search(source.text, max(0, start - _FAR), start)
    after = _WORD_BEHIND.match(source.text, end, end + _FAR)
    sides = before[0] if before else "", after[0] if after else ""
    found = [sides, (sides[0], ""), ("", sides[1])]
    alone = sides == ("", "") or (not mark.raised and _apart(source.text, (start, end)))
    return [pair for pair in found if pair != ("", "")] + [("", "")] * alone


def _apart(text: str, span: tuple[int, int]) -> bool:
    """Whether words may begin and end there."""
    for at in span:
        if 0 < at < len(text):
            before, after = text[at - 1], text[at]
            within = before.isalnum() and after.isalnum() and not EAST_ASIAN.search(before + after)
            if within or not breakable(text, at):
                return False
    return True


def _put(parts: list[Part], mark: Mark, index: int, start: int, end: int) -> list[Part]:
    """With a mark in place of its text, or around it."""
    held = str(parts[index])
    between: list[Part] = [Place(mark, "whole")]
    if mark.wraps:
        between = [Place(mark, "opening"), held[start:end], Place(mark, "closing")]
    return _replaced(parts, index, [held[:start], *between, held[end:]])


# In proportion -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Word:
    """A word of a part.

    Args:
        index: of the part.
        start, end: in the part.
        text: of it.
        at: characters that are visible in front of the part.
    """

    index: int
    start: int
    end: int
    text: str
    at: int

    @property
    def middle(self) -> float:
        return self.at + (self.start + self.end) / 2


def _words(parts: Sequence[Part], free: Iterable[bool]) -> list[_Word]:
    """The words of those parts that are free."""
    found, at = [], 0
    for index, (part, is_free) in enumerate(zip(parts, free, strict=True)):
        if isinstance(part, str) and is_free:
            found += [_Word(index, start, end, part[start:end], at) for start, end in words(part)]
        at += len(visible(part))
    return found


def _around(
    parts: list[Part], mark: Mark, start: float, end: float, source: _Source, placed: Set[int]
) -> list[Part] | None:
    """With the mark around the words between `start` and `end`, or the nearest one; None if there is none near."""
    candidates = _words(parts, _free(parts, mark, source, placed))
    middle = (start + end) / 2
    chosen = [w for w in candidates if start <= w.middle < end]
    if not chosen:
        near = [w for w in candidates if abs(w.middle - middle) <= _FAR + len(w.text) / 2]
        if not near:
            return None
        chosen = [min(near, key=lambda w: abs(w.middle - middle))]
    while len(groups := _groups(parts, chosen := _bared(chosen), mark.link)) > 1:
        chosen = max(groups, key=lambda group: sum(len(word.text) for word in group))
    first, last = chosen[0], chosen[-1]
    # Without punctuation, unless nothing is left.
    begin = first.end - (len(first.text.lstrip(_OPENERS)) or len(first.text))
    finish = last.start + (len(last.text.rstrip(_CLOSERS)) or len(last.text))
    if source.initial(mark):
        last, text = first, str(parts[first.index])
        finish = next((at for at in range(begin + 1, first.end) if breakable(text, at)), first.end)
    found = _inserted(parts, last.index, finish, Place(mark, "closing"))
    return _inserted(found, first.index, begin, Place(mark, "opening"))


def _bared(chosen: Sequence[_Word]) -> list[_Word]:
    """Without words at the ends that are punctuation alone, as in scripts without spaces, if others are left."""
    first = next((i for i, word in enumerate(chosen) if word.text.strip(_OPENERS)), 0)
    last = next((i for i in reversed(range(first, len(chosen))) if chosen[i].text.strip(_CLOSERS)), first)
    return list(chosen[first : last + 1])


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


class _Unit(NamedTuple):
    """What stands between words.

    Args:
        at: character of the source.
        parts: of it.
        spaced: it is text, with spaces around it where words have some.
        link: it must not be in a link.
    """

    at: float
    parts: tuple[Part, ...]
    spaced: bool
    link: bool


def _with_units(parts: list[Part], units: Sequence[_Unit], length: int) -> list[Part]:
    """With each unit behind the word that ends nearest to where it was in the source, in their order."""
    if not units:
        return parts
    seen = "".join(map(visible, parts))
    # Not in front of all: what stands there in a source is not shown to the model, and HTML there would begin a block.
    last = (len(seen), len(parts), 0)
    unlinked = [not links for links in _links(parts)]
    spots, outside = (
        [*((word.at + word.end, word.index, word.end) for word in _words(parts, free)), last]
        for free in ([True] * len(parts), unlinked)
    )
    chosen: dict[tuple[int, int, int], list[_Unit]] = {}
    for unit in sorted(units, key=lambda unit: unit.at):
        ends, position = outside if unit.link else spots, unit.at * len(seen) / length
        after = bisect.bisect_left(ends, (position,))
        # Of two that are as near the later one.
        near = range(max(0, after - 1), min(after + 2, len(ends)))
        end = ends[min(near, key=lambda at: (abs(ends[at][0] - position), -at))]
        chosen.setdefault(end, []).append(unit)
    found: list[Part] = [*parts, ""]
    for (at, index, offset), group in sorted(chosen.items(), reverse=True):
        held, before, new = str(found[index]), seen[:at][-1:], list[Part]()
        for unit in group:
            new += [" "] * (unit.spaced and _spaced(before))
            new += unit.parts
            before = "".join(map(visible, unit.parts))[-1:] or before
        new += [" "] * (any(unit.spaced for unit in group) and _spaced(seen[at : at + 1]))
        found[index : index + 1] = [held[:offset], *new, held[offset:]]
    return [part for part in found if part]


def _spaced(beside: str) -> bool:
    """Whether a space belongs between a character and a text beside it."""
    return bool(beside.strip()) and not EAST_ASIAN.match(beside)


def _inserted(parts: Sequence[Part], index: int, offset: int, new: Part) -> list[Part]:
    """With `new` at a character of a text."""
    held = str(parts[index])
    return _replaced(parts, index, [held[:offset], new, held[offset:]])


def _replaced(parts: Sequence[Part], index: int, new: Sequence[Part]) -> list[Part]:
    return [*parts[:index], *(part for part in new if part), *parts[index + 1 :]]
