"""From a paragraph's text and markup to what the model sees of it."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from templora.translation.inline.characters import SPACES, collapsed, has_letter, readable
from templora.translation.inline.marks import TAG, Mark, Part, Place, visible
from templora.translation.inline.markup import Marked


@dataclass(frozen=True)
class Thing:
    """Markup without text, or with text that is kept."""

    mark: Mark


@dataclass(frozen=True)
class Around:
    """Markup around something.

    Args:
        mark: with its opening and closing.
        inner: what it wraps.
        whole: the same as a thing, for the case that there is no text in it; None: put together from what it wraps.
    """

    mark: Mark
    inner: Sequence[Inline]
    whole: Mark | None = None


Inline: TypeAlias = "str | Thing | Around"


def mark_up(content: Iterable[Inline]) -> Marked | None:
    """A paragraph as the model sees it; None if there is nothing in it to translate.

    Markup around all of it and things at its ends are not shown, markup around nothing but other markup is one with it,
    and markup without text is a thing: the fewer tags, the fewer mistakes.

    Args:
        content: texts, and the markup between and around them. White space at the ends is dropped.
    """
    left = deque(_simple(content))
    _strip(left)
    if not has_letter(_written(left)):
        return None
    before: list[Part] = []
    after: list[Part] = []  # from the end
    while True:
        first, last = left[0], left[-1]
        if len(left) == 1 and isinstance(first, Around):
            before.append(Place(first.mark, "opening"))
            after.append(Place(first.mark, "closing"))
            left = deque(first.inner)
        elif isinstance(first, Thing) and not first.mark.shown:
            before.append(Place(first.mark, "whole"))
            left.popleft()
        elif isinstance(last, Thing) and not last.mark.shown:
            after.append(Place(last.mark, "whole"))
            left.pop()
        else:
            break
        leading, trailing = _strip(left)
        before += [leading] if leading else []
        after += [trailing] if trailing else []
    taken = {int(match["number"]) for match in TAG.finditer(_written(left, kept=True))}  # by tags in the text itself
    numbers = (number for number in itertools.count(1) if number not in taken)
    parts = _on_one_line(list(_flat(left, numbers, linked=False)))
    text = "".join(part if isinstance(part, str) else part.mark.tagged(part.edge) for part in parts)
    marks = (part.mark for part in parts if isinstance(part, Place) and part.edge != "closing")
    return Marked(text, tuple(marks), tuple(before), tuple(reversed(after)))


def _simple(content: Iterable[Inline]) -> list[Inline]:
    """With texts joined, and no markup around nothing or around markup alone."""
    found: list[Inline] = []
    for texts, group in itertools.groupby(content, lambda item: isinstance(item, str)):
        if texts:
            found.append(readable("".join(map(str, group))))
        else:
            found += [_simpler(item, _simple(item.inner)) if isinstance(item, Around) else item for item in group]
    return [item for item in found if item]


def _simpler(item: Around, inner: list[Inline]) -> Inline:
    mark, only = item.mark, inner[0] if len(inner) == 1 else None
    if isinstance(only, Around):
        return Around(mark.merged(only.mark), only.inner, item.whole)
    shown = _written(inner, kept=True)
    if shown.strip() and not isinstance(only, Thing):
        return Around(mark, inner, item.whole)
    written = "".join(held if isinstance(held, str) else held.mark.opening for held in inner)
    whole = item.whole or Mark(f"{mark.opening}{written}{mark.closing}", link=mark.link)
    return Thing(replace(whole, shown=shown if shown.strip() else ""))


def _written(content: Iterable[Inline], kept: bool = False) -> str:
    """The texts, with or without those that are kept."""
    return "".join(
        item
        if isinstance(item, str)
        else _written(item.inner, kept)
        if isinstance(item, Around)
        else item.mark.shown * kept
        for item in content
    )


def _strip(content: deque[Inline]) -> tuple[str, str]:
    """Takes the white space at its ends away; returns a space for each end where there was some."""
    leading = trailing = ""
    if content and isinstance(first := content[0], str) and first[:1].isspace():
        content[0], leading = first.lstrip(), " "
        if not content[0]:
            content.popleft()
    if content and isinstance(last := content[-1], str) and last[-1:].isspace():
        content[-1], trailing = last.rstrip(), " "
        if not content[-1]:
            content.pop()
    return leading, trailing


def _flat(content: Sequence[Inline], numbers: Iterator[int], linked: bool) -> Iterator[Part]:
    """All parts, in order, with numbers."""
    for item in content:
        if isinstance(item, str):
            yield item
            continue
        # A link in a link is none that could be kept from being in one.
        mark = replace(item.mark, number=next(numbers), link=item.mark.link and not linked)
        if isinstance(item, Thing):
            yield Place(mark, "whole")
        else:
            yield Place(mark, "opening")
            yield from _flat(item.inner, numbers, linked or mark.link)
            yield Place(mark, "closing")


def _on_one_line(parts: Sequence[Part]) -> list[Part]:
    """With white space collapsed, also where an edge of markup is within it."""
    # A thing parts white space.
    seen = [visible(part) or ("\ufffc" if part[1:] == ("whole",) else "") for part in parts]
    characters = [*"".join(seen)]
    for space in SPACES.finditer("".join(seen)):
        characters[space.start() : space.end()] = [collapsed(space), *[""] * (len(space[0]) - 1)]
    found: list[Part] = []
    at = 0
    for part, text in zip(parts, seen, strict=True):
        found.append("".join(characters[at : at + len(text)]) if isinstance(part, str) else part)
        at += len(text)
    return [part for part in found if part]
