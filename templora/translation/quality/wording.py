"""A text as words: tokens, in one case, with the forms of a word as one; and joined again so that phrases are found."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from functools import cache

from templora.translation.inline.characters import UNSPACED

GAP = "\n"
Gram = tuple[str, ...]


@cache
def kind(char: str) -> str:
    """w: of a word; c: of a script without spaces; k: katakana; m: a mark on the one before; j: may join; s: space."""
    if "ァ" <= char <= "ヺ" or char == "ー":
        return "k"
    category = unicodedata.category(char)[0]
    if category == "M":
        return "m"
    if category in "LN":
        return "c" if UNSPACED.match(char) else "w"
    return "s" if char.isspace() else "j" if char in "'’-_" else "g"


_TOKEN = re.compile(r"w(?:[wm]|j(?=w))*|k[km]*|cm*|[gjm]|(?<=[ck])s+(?=[ck])")


def tokens(text: str) -> list[str]:
    """Words, characters of scripts without spaces, runs of katakana; a line feed for whatever stands between.

    In their written case. Compatibility forms are resolved (NFKC), so that full-width letters are letters.
    """
    text = unicodedata.normalize("NFKC", text)
    found = _TOKEN.finditer("".join(map(kind, text)))
    return [text[m.start() : m.end()] if m.group()[0] in "wkc" else GAP for m in found]


def unspaced(segments: Iterable[Sequence[str]]) -> bool:
    """Whether most of it is in a script without spaces."""
    kinds = Counter(kind(token[0]) for segment in segments for token in segment if token != GAP)
    return kinds["c"] + kinds["k"] > kinds["w"]


def folded(segments: Sequence[Sequence[str]]) -> list[list[str]]:
    """The same in one case, with a word and its forms in -s, -ed and -ing as one."""
    lower = [[token.casefold() for token in segment] for segment in segments]
    vocabulary = {token for segment in lower for token in segment}
    stems = {token: stem(token, vocabulary) for token in vocabulary}
    return [[stems[token] for token in segment] for segment in lower]


def stem(word: str, vocabulary: Collection[str]) -> str:
    """Without its ending, if what remains is a word of the same text: so names ending in -s or -ing stay."""
    for ending in ("'s", "’s", "ies", "s", "es", "ed", "d", "ing"):
        if word.endswith(ending):
            begin = word.removesuffix(ending)
            for shorter in (begin, begin + "y" if ending == "ies" else begin + "e" if ending == "ing" else begin):
                if len(shorter) > 2 and shorter in vocabulary:
                    return stem(shorter, vocabulary)
    return word


def joined(segment: Iterable[str]) -> str:
    """One string in which a term is found by `in`: words are fenced with spaces, characters are not."""
    return "".join(f" {token} " if kind(token[0]) == "w" else token for token in segment)


def spelled(joined: str) -> str:
    return " ".join(joined.split())
