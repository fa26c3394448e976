"""`SettledTerms`: what each term of a document is called in its translation, once that is settled.

    source   …虚拟控制台…          the model is asked for 控制台 alone, with what it has read before it:  console
    target   …virtual consoles…    the paragraph's translation has that too
    back     console               asked for the way back it says 控制台:  settled

A term is settled where readings agree: alone and in its paragraph, and then on the way back, or in another paragraph.
A rendering belongs to one term, and is its own only while it seldom stands where the term does not: so words of the
grammar are never settled, and a mistake is left again. Nothing but the document and the model is asked, no dictionary.
(Agreement of both directions: Liang et al. 2006, "Alignment by agreement"; one sense a discourse: Gale et al. 1992;
Carpuat 2009, "One translation per discourse".)
"""

from __future__ import annotations

import math
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from templora.translation.glossary import Term
from templora.translation.inline.characters import UNSPACED, has_letter
from templora.translation.term_finder import Found, TermFinder

# Terms that are asked for in a paragraph, and how often one is, at most.
_MOST, _TRIES = 3, 4
# Of a rendering: words, or characters of a script without spaces, at most; paragraphs in which it agreed that stand for
# the way back; share of the paragraphs that have it, of the last so many, in which the term must stand.
_WORDS, _CHARACTERS, _AGREED, _OWN, _LAST = 4, 10, 2, 0.35, 1000
# How much of a rendering any of its forms begins with.
_STEM, _SHORTEST = 0.8, 3


@dataclass(frozen=True)
class Settled:
    """A term that is settled.

    Args:
        term: in the source.
        rendering: in the translation, as it stands within a sentence.
        since: number of the paragraph that settled it.
    """

    term: str
    rendering: str
    since: int = 0

    @property
    def stem(self) -> str:
        """What any form of the rendering begins with."""
        if UNSPACED.search(self.rendering):
            return self.rendering
        return self.rendering[: max(_SHORTEST, math.ceil(_STEM * len(self.rendering)))]

    def kept_in(self, target: str) -> bool:
        """Whether a translation has some form of the rendering."""
        return Term(self.term, self.stem).kept_in(target)


def no_terms(_: str) -> Mapping[str, str]:
    """A glossary without terms."""
    return {}


class SettledTerms:
    """The terms of one document.

    Args:
        finder: of its terms.
        given: the terms in a text whose rendering is known: a glossary's, which are none of ours.
    """

    def __init__(self, finder: TermFinder, given: Callable[[str], Mapping[str, str]] = no_terms) -> None:
        self._finder, self._given = finder, given
        self._settled: dict[str, Settled] = {}
        self._asked: dict[str, int] = {}
        self._agreed: dict[tuple[str, str], int] = {}
        self._seen: deque[tuple[frozenset[str], str]] = deque(maxlen=_LAST)  # terms, and the translation
        self._counts: dict[str, tuple[int, int]] = {}  # of the paragraphs with a rendering: those with its term, all

    @property
    def all(self) -> dict[str, Settled]:
        """All that are settled, by term."""
        return dict(self._settled)

    def found(self, segment: int, text: str) -> list[Settled]:
        """The settled terms of a paragraph, or of a part of it."""
        given = {term.casefold() for term in self._given(text)}
        held = (one for one in self._finder.found(segment, text) if given.isdisjoint((one.term, one.text.casefold())))
        found = (self._settled.get(one.term) for one in held)
        return [one for one in found if one and self._is_own(self._counts[one.term])]

    def open(self, segment: int, text: str) -> list[Found]:
        """The terms of a paragraph that the model is to be asked for: those that come again, the commonest first."""
        given = {term.casefold() for term in self._given(text)}
        found = [
            one
            for one in self._finder.found(segment, text)
            if one.term not in self._settled
            and given.isdisjoint((one.term, one.text.casefold()))
            and self._asked.get(one.term, 0) < _TRIES
            and self._finder.again(one, segment)
        ]
        return sorted(found, key=lambda one: -self._finder.again(one, segment))[:_MOST]

    def agree(
        self, segment: int, text: str, target: str, readings: Mapping[str, str], back: Callable[[str], str]
    ) -> dict[str, str]:
        """The terms that are settled by what they are called alone, and their renderings. Changes nothing.

        Args:
            segment, text: a paragraph, or a part of it.
            target: its translation.
            readings: what the model was asked for, of `open`.
            back: asks it for the way back.
        """
        found: dict[str, str] = {}
        for term, made in self._readings(segment, text, target, readings):
            again = self._agreed.get((made.term, made.rendering.casefold()), 0) + 1
            if made.rendering.casefold() in map(str.casefold, found.values()) or not self._is_own(self._count(made)):
                continue
            if again >= _AGREED or back(made.rendering).casefold() in (term.text.casefold(), term.term):
                found[made.term] = made.rendering
        return found

    def take(
        self, segment: int, text: str, target: str, readings: Mapping[str, str], settled: Mapping[str, str]
    ) -> None:
        """Takes note of a translation that stays, and of what `agree` said of it."""
        for _, made in list(self._readings(segment, text, target, readings)):
            key = made.term, made.rendering.casefold()
            self._agreed[key] = self._agreed.get(key, 0) + 1
        self.asked(readings)
        for term, rendering in settled.items():
            self._settled[term] = Settled(term, rendering, segment)
            self._counts[term] = self._count(self._settled[term])
        here = frozenset(found.term for found in self._finder.found(segment, text)), target.casefold()
        self._seen.append(here)
        for term, made in self._settled.items():
            mine, all_ = self._counts[term]
            there = _there(made, here[1])
            self._counts[term] = mine + (there and term in here[0]), all_ + there

    def asked(self, terms: Iterable[str]) -> None:
        """Takes note of terms that were asked for."""
        for term in terms:
            self._asked[term] = self._asked.get(term, 0) + 1

    def corrected(self, segment: int, text: str, target: str) -> None:
        """Leaves those terms that somebody who knows calls otherwise, so that they are asked for again."""
        for one in self.found(segment, text):
            if not one.kept_in(target):
                del self._settled[one.term]
                self._asked.pop(one.term, None)

    def _readings(
        self, segment: int, text: str, target: str, readings: Mapping[str, str]
    ) -> Iterator[tuple[Found, Settled]]:
        """The readings that agree with a translation."""
        for found in self._finder.found(segment, text):
            reading = readings.get(found.term, "")
            if reading and self._plausible(found, reading) and Term(found.text, reading).kept_in(target):
                inner = _within_a_sentence(reading, target)
                if inner:
                    yield found, Settled(found.term, inner)

    def _plausible(self, found: Found, reading: str) -> bool:
        """Whether a reading may be a rendering at all."""
        said = reading.casefold()
        if len(reading) < 2 or not has_letter(reading) or said in (found.text.casefold(), found.term):
            return False
        if any(other.rendering.casefold() == said for other in self._settled.values()):
            return False
        return len(reading) <= _CHARACTERS if UNSPACED.search(reading) else len(reading.split()) <= _WORDS

    def _count(self, made: Settled) -> tuple[int, int]:
        mine = [made.term in terms for terms, target in self._seen if _there(made, target)]
        return sum(mine), len(mine)

    @staticmethod
    def _is_own(counts: tuple[int, int]) -> bool:
        """Whether a rendering seldom stands where its term does not."""
        mine, all_ = counts
        return mine + 1 >= _OWN * (all_ + 1)


def _there(made: Settled, target: str) -> bool:
    """Whether a translation, in one case, has a rendering as it is."""
    said, at = made.rendering.casefold(), -1
    while (at := target.find(said, at + 1)) >= 0:
        before, behind = target[at - 1 : at], target[at + len(said) : at + len(said) + 1]
        if UNSPACED.search(said) or not (before.isalnum() or behind.isalnum()):
            return True
    return False


def _within_a_sentence(reading: str, target: str) -> str:
    """A rendering as it is written where no sentence begins; empty if a translation does not tell."""
    inner = re.search(r"(?<=[\w,;] )" + re.escape(reading), target, re.IGNORECASE)
    if inner:
        return inner[0]
    first, *rest = reading.split(" ")
    told = reading[0] == reading[0].lower() or any(word != word.lower() for word in (first[1:], *rest))
    return reading if told else ""
