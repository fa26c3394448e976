"""From a paragraph's text and markup to what the model sees of it."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from templora.translation.characters import has_letter, one_line, readable, spaces
from templora.translation.marks import TAG, Mark, Part, Place, visible
from templora.translation.markup import Marked


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
        whole: the same as a thing, for the case that there is no text in it.
    """

    mark: Mark
    inner: Sequence[Inline]
    whole: Mark


Inline: TypeAlias = "str | Thing | Around"


def mark_up(content: Iterable[Inline]) -> Marked | None:
    """A paragraph as the model sees it; None if there is nothing in it to translate.

    Markup around all of it and things at its ends are not shown, markup around nothing but other markup is one with it,
    and markup without text is a thing: the fewer tags, the fewer mistakes.

    Args:
        content: texts, and the markup between and around them. White space at the ends is dropped.
    """
    left, _, _ = _stripped(_simple(content))
    if not has_letter(_written(left)):
        return None
    before: list[Part] = []
    after: list[Part] = []
    while True:
        first, last = left[0], left[-1]
        if len(left) == 1 and isinstance(first, Around):
            before.append(Place(first.mark, "opening"))
            after.insert(0, Place(first.mark, "closing"))
            left, leading, trailing = _stripped(first.inner)
        elif isinstance(first, Thing) and not first.mark.shown:
            before.append(Place(first.mark, "whole"))
            left, leading, trailing = _stripped(left[1:])
        elif isinstance(last, Thing) and not last.mark.shown:
            after.insert(0, Place(last.mark, "whole"))
            left, leading, trailing = _stripped(left[:-1])
        else:
            break
        before += [leading] if leading else []
        after[:0] = [trailing] if trailing else []
    parts = _collapsed(list(_numbered(left)))
    text = "".join(part if isinstance(part, str) else part.mark.tagged(part.edge) for part in parts)
    marks = (part.mark for part in parts if isinstance(part, Place) and part.edge != "closing")
    return Marked(text, tuple(marks), tuple(before), tuple(after))


def _simple(content: Iterable[Inline]) -> list[Inline]:
    """With texts joined, and no markup around nothing or around markup alone."""
    found: list[Inline] = []
    for item in content:
        if isinstance(item, Around):
            item = _simpler(item, _simple(item.inner))
        if isinstance(item, str):
            item = readable(item)
            if found and isinstance(found[-1], str):
                item = found.pop() + item  # type: ignore[operator]
        if item:
            found.append(item)
    return found


def _simpler(item: Around, inner: list[Inline]) -> Inline:
    if not _written(inner, kept=True).strip():
        return Thing(item.whole)
    if len(inner) == 1:
        (only,) = inner
        if isinstance(only, Around):
            return Around(item.mark.merged(only.mark), only.inner, item.whole)
        if isinstance(only, Thing):
            return Thing(replace(item.whole, shown=only.mark.shown))
    return Around(item.mark, inner, item.whole)


def _written(content: Iterable[Inline], kept: bool = False) -> str:
    """The texts, with or without those that are kept."""
    found = ""
    for item in content:
        if isinstance(item, str):
            found += item
        elif isinstance(item, Around):
            found += _written(item.inner, kept)
        elif kept:
            found += item.mark.shown
    return found


def _stripped(content: Sequence[Inline]) -> tuple[list[Inline], str, str]:
    """Without the white space at its ends, and a space for that at each end where there was some."""
    found = list(content)
    leading = trailing = ""
    if found and isinstance(found[0], str) and found[0][:1].isspace():
        found[0], leading = found[0].lstrip(), " "
        found = found[not found[0] :]
    if found and isinstance(found[-1], str) and found[-1][-1:].isspace():
        found[-1], trailing = found[-1].rstrip(), " "
        found = found[: len(found) - (not found[-1])]
    return found, leading, trailing


def _numbered(content: Sequence[Inline]) -> Iterator[Part]:
    """All parts, in order, with numbers that no tag in the text itself has."""
    taken = {int(match["number"]) for match in TAG.finditer(_written(content, kept=True))}
    numbers = (number for number in itertools.count(1) if number not in taken)
    yield from _flat(content, numbers, linked=False)


def _flat(content: Sequence[Inline], numbers: Iterator[int], linked: bool) -> Iterator[Part]:
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


def _collapsed(parts: Sequence[Part]) -> list[Part]:
    """With white space collapsed, also where an edge of markup is within it."""
    if all(isinstance(part, str) for part in parts):
        return [one_line("".join(map(str, parts)))]
    joined, owners = "", list[int]()
    for index, part in enumerate(parts):
        text = visible(part) or ("\ufffc" if part[1:] == ("whole",) else "")  # a thing parts white space
        joined += text
        owners += [index] * len(text)
    texts, at = [""] * len(parts), 0
    for start, end, instead in (*spaces(joined), (len(joined), len(joined), "")):
        for position in range(at, start):
            texts[owners[position]] += joined[position]
        if instead:
            texts[owners[start]] += instead
        at = end
    found = [text if isinstance(part, str) else part for part, text in zip(parts, texts, strict=True)]
    return [part for part in found if part]
