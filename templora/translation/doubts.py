"""`Doubts`: what speaks against a translation that nobody has checked.

A model goes on with whatever it sees of its own, and with what it has learnt of it all the more: copies, for instance.
"""

from __future__ import annotations

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
    """About the translations of one document, as they are made."""

    def __init__(self) -> None:
        self._sources: dict[tuple[str, ...], str] = {}  # of each translation so far, the first

    def add(self, source: str, target: str) -> None:
        """Takes note of a translation that stays."""
        self._sources.setdefault(_words(target), source)

    def about(self, source: str, target: str, whole: bool) -> str:
        """What speaks against a translation, in a few words; empty if nothing does.

        Args:
            source: a paragraph, or a part of one.
            target: what it was translated to.
            whole: the model ended it itself.
        """
        words = _words(target)
        if not words:
            return "nothing was written"
        if not whole:
            return "it was cut off at its longest"
        if _is_copy(words, _words(source)):
            return "it is a copy of its source"
        if len(words) >= _FEWEST and self._sources.get(words, source) != source:
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
