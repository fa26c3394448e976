"""What a text's characters say about it: letters, line breaks, words, and where it may be cut."""

from __future__ import annotations

import re
import unicodedata

# Inside of a [] of a regular expression. Chinese and Japanese, with their punctuation; no Hangul, no emoji.
_EAST_ASIAN = (
    "\u2e80-\u2fff\u3000-\u30ff\u3100-\u312f\u3190-\u31ff\u3200-\u32ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\ufe30-\ufe4f\uff01-\uff9f\uffe0-\uffe6\U0001b000-\U0001b16f\U00020000-\U0003ffff"
)
# Thai, Lao, Tibetan, Burmese, Khmer: no spaces between words, but some between clauses.
_SOUTH_EAST_ASIAN = "\u0e00-\u0e7f\u0e80-\u0eff\u0f00-\u0fff\u1000-\u109f\u1780-\u17ff\u19e0-\u19ff"

EAST_ASIAN = re.compile(f"[{_EAST_ASIAN}]")
UNSPACED = re.compile(f"[{_EAST_ASIAN}{_SOUTH_EAST_ASIAN}]")

# Not the no-break space, which is a character that somebody chose.
SPACES = re.compile("[\t\n\x0b\x0c\r\x85\u2028\u2029 ]+")
_LINE_ENDS = frozenset("\n\r\x85\u2028\u2029")
# What neither a text file nor XML can hold.
_NO_CHARACTER = re.compile("[\x00-\x08\x0e-\x1f\x7f\ud800-\udfff\ufffe\uffff]")

_JOINER = "\u200d"
# Vowels of Thai and Lao that stand in front of their consonant, and those behind it that are letters to Unicode.
_LEADING_VOWELS = frozenset("เแโใไເແໂໃໄ")
_TRAILING_VOWELS = frozenset("ะาำๅະາຳ")
# Letters that flags are made of, in pairs.
_REGIONAL = "".join(map(chr, range(0x1F1E6, 0x1F200)))


def has_letter(text: str) -> bool:
    """Whether there is anything that a translator could translate."""
    return any(c.isalpha() for c in text)


def readable(text: str) -> str:
    """Without the characters that neither a text file nor XML can hold."""
    return _NO_CHARACTER.sub("", text)


def collapsed(space: re.Match[str]) -> str:
    """What white space is on one line: a space, or nothing where the line broke between two characters of Chinese or
    Japanese.
    """
    text, (start, end) = space.string, space.span()
    broken = not _LINE_ENDS.isdisjoint(space[0]) and start and EAST_ASIAN.match(text, start - 1)
    return "" if broken and EAST_ASIAN.match(text, end) else " "


def one_line(text: str) -> str:
    """Readable, with white space collapsed."""
    return SPACES.sub(collapsed, readable(text))


def words(text: str) -> list[tuple[int, int]]:
    """Where words are, as [start, end), with the punctuation at them; single characters in scripts without spaces."""
    found = []
    for run in re.finditer(r"\S+", text):
        start = run.start()
        for at in range(start + 1, run.end()):
            if (UNSPACED.match(text, at - 1) or UNSPACED.match(text, at)) and breakable(text, at):
                found.append((start, at))
                start = at
        found.append((start, run.end()))
    return found


def breakable(text: str, at: int) -> bool:
    """Whether `text` may be cut in front of the character `at`: a reader sees two characters there, not one."""
    if not 0 < at < len(text):
        return False
    before, after = text[at - 1], text[at]
    if unicodedata.category(after)[0] == "M" or after == _JOINER or before == _JOINER:
        return False
    if unicodedata.combining(before) == 9:  # a virama: the next consonant belongs to it
        return False
    if before in _LEADING_VOWELS or after in _TRAILING_VOWELS:
        return False
    point = ord(after)
    if 0x1160 <= point <= 0x11FF or 0xD7B0 <= point <= 0xD7FF:  # the rest of a Korean syllable
        return False
    if 0x1F3FB <= point <= 0x1F3FF or 0xE0020 <= point <= 0xE007F:  # an emoji's skin; a flag's region
        return False
    if after not in _REGIONAL:
        return True
    return (at - len(text[:at].rstrip(_REGIONAL))) % 2 == 0
