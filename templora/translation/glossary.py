"""`Glossary`: terms that are to be translated in one way."""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from templora.translation.inline.characters import UNSPACED
from templora.translation.inline.marks import TAG

# A character of a word, in a script with spaces between words.
_IN_WORD = f"[^\\W{UNSPACED.pattern[1:-1]}]"
# Hebrew and Arabic write articles and prepositions on to the word behind them.
_PREFIXED = re.compile("[\u0590-\u08ff]")


@dataclass(frozen=True)
class Term:
    """A term and what it is to be called."""

    source: str
    target: str

    def in_source(self, text: str) -> Iterator[tuple[int, int]]:
        """Where it stands in a text without tags, as [start, end): whole words where words are written with spaces.
        Upper and lower case are the same, unless the term has a capital itself.
        """
        exact = self.source != self.source.lower()
        word = self.source.split()[0]  # quickly says no to most terms
        if word in text if exact else word in text.lower():
            pattern = _pattern(_composed(self.source), True, exact)
            yield from (match.span() for match in pattern.finditer(text))

    def kept_in(self, target: str) -> bool:
        """Whether a translation has it so; an ending may follow it."""
        pattern = _pattern(_composed(self.target).casefold(), False, True)
        return pattern.search(_bare(target).casefold()) is not None


class Glossary:
    """Terms.

    Args:
        terms: each source once.
    """

    def __init__(self, terms: Sequence[Term]) -> None:
        self.terms = tuple(terms)
        # Of two as long, the one that knows its capitals goes first.
        self._longest_first = sorted(terms, key=lambda term: (-len(term.source), term.source == term.source.lower()))

    def found(self, text: str) -> list[Term]:
        """The terms that stand in a text, in order; of terms that overlap, the longest."""
        bare = _bare(text)
        taken, places = bytearray(len(bare)), list[tuple[int, Term]]()
        for term in self._longest_first:
            for start, end in term.in_source(bare):
                if not any(taken[start:end]):
                    taken[start:end] = b"\1" * (end - start)
                    places.append((start, term))
        return list(dict.fromkeys(term for _, term in sorted(places, key=lambda place: place[0])))


def _composed(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def _bare(text: str) -> str:
    """A paragraph without tags, which may stand within a term."""
    return _composed(TAG.sub("", text))


@functools.cache
def _pattern(term: str, whole: bool, exact: bool) -> re.Pattern[str]:
    """A term at the start of a word, and at the end of one, where it is of a script with spaces.

    Args:
        term: as it is looked for.
        whole: whether no ending may follow.
        exact: whether upper and lower case differ.
    """
    start = "" if _free(term[0]) or (not whole and _PREFIXED.match(term)) else f"(?<!{_IN_WORD})"
    end = "" if _free(term[-1]) or not whole else f"(?!{_IN_WORD})"
    spaced = r"\s+".join(re.escape(word) for word in term.split())
    return re.compile(f"{start}{spaced}{end}", 0 if exact else re.IGNORECASE)


def _free(character: str) -> bool:
    return bool(UNSPACED.match(character)) or not character.isalnum()
