"""Which letters a language is written with."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

from templora.translation.languages import Language

# Scripts (ISO 15924) that whole languages are written in, and what the Unicode names of their letters begin with.
_LETTERS = {
    "Latn": (),
    "Arab": ("ARABIC",),
    "Armn": ("ARMENIAN",),
    "Beng": ("BENGALI",),
    "Cyrl": ("CYRILLIC",),
    "Deva": ("DEVANAGARI",),
    "Ethi": ("ETHIOPIC",),
    "Geor": ("GEORGIAN",),
    "Grek": ("GREEK",),
    "Hans": ("CJK",),
    "Hant": ("CJK", "BOPOMOFO"),
    "Hebr": ("HEBREW",),
    "Jpan": ("CJK", "HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA"),
    "Khmr": ("KHMER",),
    "Kore": ("HANGUL", "CJK"),
    "Laoo": ("LAO",),
    "Mymr": ("MYANMAR",),
    "Taml": ("TAMIL",),
    "Telu": ("TELUGU",),
    "Thai": ("THAI",),
    "Tibt": ("TIBETAN",),
}
_KNOWN = {name for names in _LETTERS.values() for name in names}


def foreign(words: Sequence[str], language: Language) -> float:
    """The share of words that begin with a letter of a script which the language is not written in.

    Latin letters stand in texts of all languages and do not count; 0 for a script that is not known here.
    """
    own = _LETTERS.get(language.script)
    if own is None or not words:
        return 0.0
    names = [unicodedata.name(word[0], "").split(" ")[0] for word in words]
    return sum(name in _KNOWN and name not in own for name in names) / len(words)
