"""`Doubts`: what speaks against a translation that nobody has checked. A model that learns its own translations makes
more of whatever they are: copies, and one sentence for everything, first of all.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from templora.metrics import repeated
from templora.translation import wording
from templora.translation.wording import GAP

# From so many words on, that a translation stands elsewhere too is no chance.
_FEWEST = 4
# Of its runs of so many words, at most this share may stand in the source; of its 4-grams, this share may repeat.
_RUN, _COPIED, _REPEATED = 3, 0.5, 0.5
# Fewer words say nothing about repetition.
_FEWEST_TO_REPEAT = 12


class Doubts:
    """About the translations of one document, as they are made.

    Args:
        known: sources and translations so far.
    """

    def __init__(self, known: Iterable[Sequence[str]] = ()) -> None:
        self.known: list[Sequence[str]] = []
        self._sources: dict[tuple[str, ...], str] = {}  # of each translation so far, the first
        for source, target in known:
            self._first(source, target)

    def _first(self, source: str, target: str) -> str:
        """The source that this was a translation of first."""
        self.known.append((source, target))
        return self._sources.setdefault(_words(target), source)

    def about(self, source: str, target: str, whole: bool) -> str:
        """What speaks against a translation, in a few words; empty if nothing does.

        Args:
            source: a paragraph, or a part of one.
            target: what it was translated to.
            whole: the model ended it itself.
        """
        words, first = _words(target), self._first(source, target)
        if not words:
            return "nothing was written"
        if not whole:
            return "it was cut off at its longest"
        if _is_copy(words, _words(source)):
            return "it is a copy of its source"
        if first != source and len(words) >= _FEWEST:
            return "another paragraph was translated to the same"
        ids = {word: i for i, word in enumerate(dict.fromkeys(words))}
        if len(words) >= _FEWEST_TO_REPEAT and repeated([ids[word] for word in words]) > _REPEATED:
            return "it repeats itself"
        return ""


def _words(text: str) -> tuple[str, ...]:
    return tuple(token.casefold() for token in wording.tokens(text) if token != GAP)


def _is_copy(target: tuple[str, ...], source: tuple[str, ...]) -> bool:
    """Whether most of a translation stands in its source, word for word."""
    size = min(_RUN, len(target))
    held = {source[i : i + size] for i in range(len(source) - size + 1)}
    runs = [target[i : i + size] for i in range(len(target) - size + 1)]
    return sum(run in held for run in runs) > _COPIED * len(runs)
