"""Names and rare words of a book: which of them come back in what is written, and which names are made up.

No list of names and no tagger: a name is a word that begins with a capital where nothing but a name would, within a
sentence. In scripts without capitals there are none, and the rare words alone are counted. In German, whose nouns all
begin with one, the names include them.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import cached_property

_WORD = re.compile(r"[^\W\d_]+(?:[’'][^\W\d_]+)*")
_POSSESSIVE = re.compile(r"[’']s$", re.IGNORECASE)
# What a word within a sentence may come after; after anything else a sentence may begin.
_INSIDE = re.compile(r"[\w,;]$")
_TITLE = 3  # letters of a word that ends with a point and begins with a capital, at most: Mr., Dr., an initial
_SHORTENED = re.compile(r"^\w{1,2}[’'][^\W\d_A-Z]")  # I'm, I'll, We've, but not O'Brien
_MIN_LETTERS = 3  # of a name: initials, and English "I", are none
_MIN_SEEN = 2  # times that a name stands within a sentence
_MAX_LOWERED = 0.25  # of those times, that it may stand without a capital
_RARE_LETTERS, _RARE_SEEN = 5, 3  # letters and occurrences of a rare word, at least


@dataclass(frozen=True)
class Word:
    """A word where it stands.

    Args:
        text: as it is written, without a possessive ending.
        inside: whether it stands within a sentence for certain.
        start: index of its first character.
    """

    text: str
    inside: bool
    start: int

    @property
    def capital(self) -> bool:
        """Whether it begins with a capital as names do: not all in capitals, as headings are, nor "I'm"."""
        return self.text[:1].isupper() and not self.text[1:].isupper() and not _SHORTENED.match(self.text)


def words(text: str) -> Iterator[Word]:
    """The words of a text, in order."""
    end, title = 0, False
    for match in _WORD.finditer(text):
        between = text[end : match.start()]
        before = text[max(0, end - 1) : end] + between.rstrip()
        follows = bool(_INSIDE.search(before)) or (title and before[1:] == ".")
        word = Word(_POSSESSIVE.sub("", match[0]), bool(end and follows and between.count("\n") < 2), match.start())
        yield word
        end, title = match.end(), len(word.text) <= _TITLE and word.text[0].isupper()


def names(text: str) -> set[str]:
    """The names in a text."""
    inside, lowered = Counter[str](), Counter[str]()
    for word in words(text):
        if word.capital:
            inside[word.text] += word.inside
        else:
            lowered[word.text] += 1
    return {
        name
        for name, seen in inside.items()
        if seen >= _MIN_SEEN and len(name) >= _MIN_LETTERS and lowered[name.lower()] <= _MAX_LOWERED * seen
    }


@dataclass(frozen=True)
class Book:
    """What may come back from a book.

    Args:
        read: the text that was read.
        whole: the whole book, `read` in it.
        others: words of other books in lower case. What stands there too may come from anywhere: it is not carried, nor
            rare. Without other books no word is rare, and all names count.
    """

    read: str
    whole: str
    others: Collection[str] | None = None

    @cached_property
    def names(self) -> set[str]:
        """Names in what was read."""
        return names(self.read)

    @cached_property
    def rare(self) -> set[str]:
        """Words in what was read, in lower case, that occur there several times and in no other book."""
        if self.others is None:
            return set()
        seen = Counter(word.text.lower() for word in words(self.read))
        lowered = {name.lower() for name in self.names}
        return {
            word
            for word, many in seen.items()
            if many >= _RARE_SEEN and len(word) >= _RARE_LETTERS and word not in lowered and word not in self.others
        }

    @cached_property
    def vocabulary(self) -> set[str]:
        """All words of the whole book, in lower case."""
        return {word.text.lower() for word in words(self.whole)}

    def carried(self, written: str, window: str) -> tuple[Counter[str], Counter[str]]:
        """(names, rare words) of what was read that are nowhere in the window, by how often they are written; only
        those that no other book has.

        Args:
            written: what the model wrote.
            window: the text that it still saw when it began.
        """
        near = {word.text.lower() for word in words(window)}
        found = Counter(word.text for word in words(written) if word.text.lower() not in near)
        lowered = Counter[str]()
        for word, many in found.items():
            lowered[word.lower()] += many
        others = self.others or ()
        names = {word: many for word, many in found.items() if word in self.names and word.lower() not in others}
        return Counter(names), Counter({word: many for word, many in lowered.items() if word in self.rare})

    def invented(self, written: str) -> Counter[str]:
        """Names in what the model wrote that are nowhere in the book, by how often they stand within a sentence."""
        found = Counter(word.text for word in words(written) if word.capital and word.inside)
        lowered = {word.text for word in words(written) if not word.capital}
        return Counter(
            {
                name: many
                for name, many in found.items()
                if len(name) >= _MIN_LETTERS and name.lower() not in self.vocabulary and name.lower() not in lowered
            }
        )
