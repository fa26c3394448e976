"""How far a text is from an author's voice: Burrows' Delta over the commonest words, and the same over how sentences
are made (Burrows, "Delta: a measure of stylistic difference", Literary and Linguistic Computing 17, 2002)."""

from __future__ import annotations

import re
import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from templora.reports.names import words

_COMMONEST = 100
_SENTENCE = re.compile(r"[.!?…。！？]+[”\"’']?\s")
_MARKS = {"commas": ",，、", "semicolons": ";；:：", "dashes": "—–", "exclamations": "!！", "questions": "?？"}
# In double quotation marks of any kind; a paragraph ends what was not closed.
_SPOKEN = re.compile(r"[“«„「『][^”»“」』\n]*|\"[^\"\n]*")
_DASHES = re.compile(r"-{2,}")


def style(text: str) -> list[float]:
    """How sentences are made: words a sentence, share of characters that are spoken, and marks per 1,000 words."""
    text = _DASHES.sub("—", text)
    many = sum(1 for _ in words(text))
    sentences = len(_SENTENCE.findall(text + " "))
    spoken = sum(len(part) for part in _SPOKEN.findall(text)) / max(1, len(text))
    marks = [1000 * sum(text.count(mark) for mark in kinds) / max(1, many) for kinds in _MARKS.values()]
    return [many / max(1, sentences), spoken, *marks]


def commonest(texts: Sequence[str]) -> list[str]:
    """The commonest words of some texts, each text counting alike."""
    shares = Counter[str]()
    for text in texts:
        seen = Counter(word.text.lower() for word in words(text))
        total = seen.total() or 1
        for word, many in seen.items():
            shares[word] += many / total  # type: ignore[assignment]
    return [word for word, _ in sorted(shares.items(), key=lambda item: (-item[1], item[0]))[:_COMMONEST]]


def frequencies(text: str, common: Sequence[str]) -> list[float]:
    """How often each of some words occurs, per 1,000 words."""
    seen = Counter(word.text.lower() for word in words(text))
    return [1000 * seen[word] / (seen.total() or 1) for word in common]


@dataclass(frozen=True)
class _Scale:
    """What is measured of a text, and how far pieces of books are apart in it."""

    features: Callable[[str], list[float]]
    spread: Sequence[float]

    def distance(self, text: str, centre: Sequence[float]) -> float:
        parts = [abs(a - b) / s for a, b, s in zip(self.features(text), centre, self.spread, strict=True) if s > 0]
        return statistics.fmean(parts) if parts else 0.0


class Voices:
    """The voices of some books.

    Args:
        later: of each book by its name, the text that nobody was given to read.
        size: words of a text whose distance is asked for: books are cut into pieces as long, so that chance weighs as
            much in them.
    """

    def __init__(self, later: dict[str, str], size: int) -> None:
        pieces = {name: _pieces(text, size) for name, text in later.items()}
        self.common = commonest(list(later.values()))
        made: tuple[Callable[[str], list[float]], ...] = (lambda text: frequencies(text, self.common), style)
        self._scales, self._centres = [], []
        for features in made:
            by_book = {name: [features(piece) for piece in of] for name, of in pieces.items()}
            columns = list(zip(*[row for rows in by_book.values() for row in rows], strict=True))
            self._scales.append(_Scale(features, [statistics.pstdev(column) for column in columns]))
            means = {name: [statistics.fmean(c) for c in zip(*rows, strict=True)] for name, rows in by_book.items()}
            self._centres.append(means)

    def distance(self, text: str, book: str) -> tuple[float, float]:
        """(Delta over the commonest words, the same over how sentences are made) of a text from a book's voice."""
        word, make = (s.distance(text, c[book]) for s, c in zip(self._scales, self._centres, strict=True))
        return word, make


def _pieces(text: str, size: int) -> list[str]:
    """A text in pieces of about `size` words, cut at white space; the rest is left out unless it is all there is."""
    blanks = text.split(" ")
    parts = [" ".join(blanks[i : i + size]) for i in range(0, len(blanks), size)]
    return parts[:-1] or parts
