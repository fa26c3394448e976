"""`TermFinder`: a document's terms, found as it goes, a stretch of paragraphs at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from templora.translation.quality import wording
from templora.translation.quality.terms import source_terms
from templora.translation.quality.wording import GAP, Gram, tokens

# Paragraphs whose terms are looked for at once: counts of all their phrases are in memory meanwhile.
_STRETCH = 2000


@dataclass(frozen=True)
class Found:
    """A term where it stands.

    Args:
        term: in lower case, words in their shortest form.
        text: as it stands there.
    """

    term: str
    text: str


class TermFinder:
    """What looks like terms and names in a document, and where (`quality.terms.source_terms`).

    Args:
        sources: its paragraphs.
    """

    def __init__(self, sources: Sequence[str]) -> None:
        self._sources = sources
        self._number = -1  # of the stretch that the rest is of
        self._vocabulary: set[str] = set()
        self._terms: dict[str, list[tuple[Gram, str]]] = {}  # by their first word, long ones first
        self.last: dict[str, int] = {}
        self.many: dict[str, int] = {}

    def found(self, segment: int, text: str) -> list[Found]:
        """The terms in a paragraph, or a part of it, in order; of those that overlap the first one, and its longest.

        Args:
            segment: number of the paragraph.
            text: of it, or of the part.
        """
        if segment // _STRETCH != self._number:
            self._begin(segment // _STRETCH)
        return list(dict.fromkeys(self._in(text)))

    def again(self, found: Found, segment: int) -> int:
        """In how many paragraphs of the stretch a term stands, if it does after this one, else 0."""
        return self.many[found.term] if self.last.get(found.term, segment) > segment else 0

    def _begin(self, number: int) -> None:
        """Finds the terms of a stretch, and where they stand."""
        self._number, first = number, number * _STRETCH
        stretch = self._sources[first : first + _STRETCH]
        written = [tokens(source) for source in stretch]
        self._vocabulary = {token.casefold() for segment in written for token in segment}
        self._terms, self.last, self.many = {}, {}, {}
        for term in source_terms(stretch):
            gram = tuple(tokens(term))
            self._terms.setdefault(gram[0], []).append((gram, term))
        for terms in self._terms.values():
            terms.sort(key=lambda held: -len(held[0]))
        for segment, source in enumerate(stretch, first):
            for term in {found.term for found in self._in(source)}:
                self.last[term] = segment
                self.many[term] = self.many.get(term, 0) + 1

    def _in(self, text: str) -> Iterator[Found]:
        written = tokens(text)
        folded = [wording.stem(token.casefold(), self._vocabulary) for token in written]
        at = 0
        while at < len(folded):
            gram, term = next(
                (held for held in self._terms.get(folded[at], ()) if tuple(folded[at : at + len(held[0])]) == held[0]),
                ((), ""),
            )
            if gram:
                shown = written[at : at + len(gram)]
                spaced = wording.kind(shown[0][0]) == "w"
                yield Found(term, (" " if spaced else "").join(token for token in shown if token != GAP))
            at += len(gram) or 1
