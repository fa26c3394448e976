"""`Unit`: what is translated in one go, a paragraph or, where that is too long, a part of it: cut where it hurts least,
and the translations of the parts joined again.
"""

from __future__ import annotations

import itertools
import re
from bisect import bisect_left
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from templora.translation.inline.characters import EAST_ASIAN, breakable
from templora.translation.inline.marks import TAG
from templora.translation.languages import Language

Cuts: TypeAlias = Callable[[str], list[int]]

_CLOSERS = r"(?:[\"'”’»›)\]}」』】〉》）］｝]|</\d+>|<\d+/>)*"
_OPENERS = r"(?:[\"'“‘„«‹(\[{¿¡「『【〈《（［｛]|<\d+/?>)*"
_STOPS, _FREE_STOPS = ".!?…‼⁇⁈⁉⸮؟۔", "。！？｡．।॥։။።៕"
# After a stop white space must follow; free ones are written without. White space goes with the piece before it.
_SENTENCE = re.compile(
    rf"(?<![{_STOPS}])(?P<stop>[{_STOPS}]+){_CLOSERS}\s+|[{_FREE_STOPS}][{_FREE_STOPS}…]*{_CLOSERS}\s*"
)
_CLAUSE = re.compile(rf"[,;:–]{_CLOSERS}\s+|[、，；：،؛—]+{_CLOSERS}\s*")
_SPACE = re.compile(r"[\s\u200b]+")
_CHARACTER = re.compile(".", re.DOTALL)
_AFTER = re.compile(_OPENERS)
_LAST_WORD = re.compile(rf"{_OPENERS}(\S*)$")
_NUMBERED = frozenset({"art", "bd", "cap", "ch", "fig", "no", "nr", "num", "p", "pp", "s", "vol"})
_ABBREVIATED = frozenset(
    re.findall(
        r"\w+",
        "abs adm art aug bd bzw ca capt cf ch col dec dept dr ed eg et etc feb fig fr gen gov hon hr ie jan jr lt "
        "ltd mag maj mlle mme mr mrs ms mt nov oct op pp prof rev sen sep sept sgt sr sra st str tel vgl vol vs",
    )
)


@dataclass(frozen=True)
class Unit:
    """A paragraph, or a part of one.

    Args:
        segment: number of the paragraph, from 0.
        part: number within it, from 0.
        source: its text, without white space around it.
        last: whether the paragraph ends with it.
    """

    segment: int
    part: int
    source: str
    last: bool


def units(sources: Sequence[str], fits: Callable[[str], bool], whole: Container[int] = ()) -> list[Unit]:
    """The paragraphs in order, in parts where they do not fit, but for those that are to stay `whole`."""
    found = []
    for segment, source in enumerate(sources):
        parts = [source] if segment in whole else pieces(source, fits)
        parts = [part.strip() for part in parts if part.strip()] or [source]
        found += [Unit(segment, i, part, i == len(parts) - 1) for i, part in enumerate(parts)]
    return found


def pieces(text: str, fits: Callable[[str], bool]) -> list[str]:
    """A text in as few pieces as fit: whole sentences, else parts of them, at worst cut between two characters.

    Joined, they are the text again. What cannot be cut is a piece though it does not fit.

    Args:
        text: of one paragraph; tags like `<1>` are never cut.
        fits: whether a text is short enough. One that does not fit should not fit with more after it either.
    """
    return _pieces(text, fits, (_sentence_ends, *map(_matches, (_CLAUSE, _SPACE, _CHARACTER))))


def join(targets: Sequence[str], language: Language) -> str:
    """The translations of the pieces as one: with a space between, or without where the language writes none.

    Languages without spaces between words still have one between a Latin word and the next, and Thai and its
    neighbours between sentences; only Chinese and Japanese have none.
    """
    joined = ""
    for target in (target.strip() for target in targets):
        if joined and target and (language.spaces or not (EAST_ASIAN.match(joined[-1]) or EAST_ASIAN.match(target))):
            joined += " "
        joined += target
    return joined


def _pieces(text: str, fits: Callable[[str], bool], levels: Sequence[Cuts]) -> list[str]:
    if not levels or fits(text):
        return [text]
    tags = [match.span() for match in TAG.finditer(text)]
    cuts = [0, *(cut for cut in levels[0](text) if breakable(text, cut) and not _inside(cut, tags)), len(text)]
    parts = [text[start:end] for start, end in itertools.pairwise(cuts)]
    found: list[str] = []
    at = 0
    while at < len(parts):
        count = _fitting(parts[at:], fits) if len(parts) > 1 else 0
        if count:
            found.append("".join(parts[at : at + count]))
        else:
            found += _pieces(parts[at], fits, levels[1:])
        at += count or 1
    return found


def _fitting(parts: Sequence[str], fits: Callable[[str], bool]) -> int:
    """How many of the first parts fit together. Looked for by doubling, since `fits` may run a tokenizer."""
    high = 1
    while high <= len(parts) and fits("".join(parts[:high])):
        high *= 2
    between = range(high // 2 + 1, min(high, len(parts) + 1))
    return high // 2 + bisect_left(between, True, key=lambda count: not fits("".join(parts[:count])))


def _inside(cut: int, tags: Sequence[tuple[int, int]]) -> bool:
    at = bisect_left(tags, (cut, 0)) - 1  # the last tag that begins before the cut
    return at >= 0 and cut < tags[at][1]


def _sentence_ends(text: str) -> list[int]:
    return [m.end() for m in _SENTENCE.finditer(text) if m.end() < len(text) and (not m["stop"] or _ends(text, m))]


def _ends(text: str, match: re.Match[str]) -> bool:
    """Whether a full stop with white space after it ends a sentence. In doubt it does not: then a piece is longer."""
    opened = _AFTER.match(text, match.end())
    following = text[opened.end() : opened.end() + 1] if opened else ""
    if following.islower():
        return False
    if match["stop"] != ".":
        return True
    before = _LAST_WORD.search(text[max(0, match.start() - 40) : match.start()])
    word = before[1].casefold() if before else ""
    if "." in word or word in _ABBREVIATED or (len(word) == 1 and word.isalpha()):  # e.g., Mr., J. R. R.
        return False
    if word.isdigit() and len(word) < 3:  # the 3. of a date
        return False
    return not (word in _NUMBERED and following.isdigit())


def _matches(pattern: re.Pattern[str]) -> Cuts:
    """Where what a pattern matches ends."""
    return lambda text: [m.end() for m in pattern.finditer(text) if m.end() < len(text)]
