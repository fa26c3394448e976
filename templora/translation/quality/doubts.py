"""`Doubts`: what speaks against a translation that nobody has checked.

A model goes on with whatever it sees of its own, and with what it has learnt of it all the more: copies, for instance.
"""

from __future__ import annotations

from templora.metrics import repeated
from templora.translation.languages import Language, foreign, surely_other
from templora.translation.quality import wording
from templora.translation.quality.wording import GAP

# From so many words on, of either, that a translation stands elsewhere too is no chance.
_MIN = 4
# Of sources of so many words, a translation has at least this share of their number, and at most this multiple. (Words;
# of scripts without spaces, characters: English has 0.6 words for one of Chinese, which has 1.7 for one of English.)
_MIN_TO_COMPARE, _SHORTEST, _MAX_LENGTH = 8, 0.25, 5
# Of its runs of so many words, at most this share may stand in the source; of its 4-grams, this share may repeat; and
# less than this share of its words may be in a script that the language is not written in.
_RUN, _COPIED, _REPEATED, _FOREIGN = 3, 0.5, 0.5, 0.5
# Fewer words say nothing about repetition.
_MIN_TO_REPEAT = 12


class Doubts:
    """About the translations of one document, as they are made.

    Numbers do not count: one that is counted up makes no other translation of the same words.

    Args:
        language: that is translated to.
    """

    def __init__(self, language: Language) -> None:
        self._language = language
        self._sources: dict[tuple[str, ...], tuple[str, ...]] = {}  # of each translation so far, the first

    def add(self, source: str, target: str) -> None:
        """Takes note of a translation that stays."""
        self._sources.setdefault(_words(target), _words(source))

    def about(self, source: str, target: str, whole: bool) -> str:
        """What speaks against a translation, in a few words; empty if nothing does.

        Args:
            source: a paragraph, or a part of one.
            target: what it was translated to.
            whole: the model ended it itself.
        """
        words, asked = _words(target), _words(source)
        if not words:
            return "nothing was written"
        if not whole:
            return "it was cut off at its longest"
        if _is_copy(words, asked):
            return "it is a copy of its source"
        if max(len(words), len(asked)) >= _MIN and self._sources.get(words, asked) != asked:
            return "another paragraph was translated to the same"
        if foreign(words, self._language) >= _FOREIGN:
            return f"it is not in the script of {self._language.name}"
        if other := surely_other(target, self._language):
            return f"it is in {other.name}, not in {self._language.name}"
        if len(asked) >= _MIN_TO_COMPARE and not _SHORTEST <= len(words) / len(asked) <= _MAX_LENGTH:
            return f"it is much {'shorter' if len(words) < len(asked) else 'longer'} than its source"
        ids = {word: i for i, word in enumerate(dict.fromkeys(words))}
        if len(words) >= _MIN_TO_REPEAT and repeated([ids[word] for word in words]) > _REPEATED:
            return "it repeats itself"
        return ""


def _words(text: str) -> tuple[str, ...]:
    """Its words, but numbers, unless there is nothing else."""
    found = tuple(token.casefold() for token in wording.tokens(text) if token != GAP)
    return tuple(word for word in found if not word.isdigit()) or found


def _is_copy(target: tuple[str, ...], source: tuple[str, ...]) -> bool:
    """Whether most of a translation stands in its source, word for word."""
    size = min(_RUN, len(target))
    held = {source[i : i + size] for i in range(len(source) - size + 1)}
    runs = [target[i : i + size] for i in range(len(target) - size + 1)]
    return sum(run in held for run in runs) > _COPIED * len(runs)
