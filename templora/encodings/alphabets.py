"""Whether a text reads like one: by its letters that are not ASCII, which a wrong encoding makes others of."""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections import Counter
from collections.abc import Callable

# Of each language first the letters that most of its texts have, then the others.
_ALPHABETS = """
German      äöü       ß            French     éèàê   çâîôûùëïœæÿü   Spanish    áéíóñ  úü¡¿ªº
Italian     àèéò      ìùíóú        Portuguese ãáçéí  óàâêõôúüªº     Catalan    àéèóç  íòúïü·
Swedish     åäö       é            Danish     åæø    éóòôêä         Finnish    äö     åéšž
Dutch       éëï       öüóèáê       Afrikaans  ëê     éïôûóáöè       English    é      èêàâçïöüñæœ
Icelandic   áéíóúð    þæýö         Irish      áéí    óú
Polish      ąęłó      żśćźń        Czech      áéíěřžšč  ýůúťďňó     Slovak     áéíčýšž  úľťňďäôŕĺó
Hungarian   áéöóő     üíúű         Romanian   ăîâșț  -              Romanian   ăîâşţ  -
Croatian    čšž       ćđ           Albanian   ëç     -              Esperanto  ĉĝŝ    ĥĵŭ
Lithuanian  ąėįšųž    čęū          Latvian    āēīšņļ čģķūž          Estonian   äõöü   šž
Turkish     ıüşğç     öîâû         Azeri      əışğ   çöü
Russian     оеаинтсрвл  бгдёжзйкмпуфхцчшщъыьэюя
Ukrainian   оаинітевср  бгґдєжзїйклмпуфхцчшщьюя
Belarusian  аоеінтсрыл  бвгґдёжзйкмпуўфхцчшьэюя
Bulgarian   аоеинтсрвл  бгдежзйкмпуфхцчшщъьюя
Serbian     аоеитнрсвл  бгдђѓжзѕјијкќљмњпћуфхцчџш
Greek       αοτειησνρκπ βγδζθλμξςυφχψωάέήίόύώϊϋΐΰ
Hebrew      יוהלאתרמשב  גדזחטךכםןנסעףפץצק
Arabic      ايلمنورتبدهع ءآأؤإئةثجحخذزسشصضطظغفقكىيپچژکگی،؛؟
"""
_THAI = frozenset(map(chr, range(0x0E01, 0x0E5C)))
_LANGUAGES = [
    (frozenset(common), frozenset(common + others))
    for common, others in re.findall(r"[A-Z][a-z]+ +(\S+) +(\S+)", _ALPHABETS)
] + [(frozenset("านรอกเงมยลวทดตส่้ัีิ"), _THAI)]
_SIGNS = frozenset("“”„‘’‚«»‹›–—…·•§°№\xa0\xad")
# Signs where none stand: between two letters, or opening ones behind one.
_WITHIN = re.compile(r"[^\W\d_](?:[“”‘«»‹›…•§°№](?=[^\W\d_])|[„‚])")
_SPACED = re.compile(r"[^\0-\x7f][,.:;!?]? (?=[^\0-\x7f])")
_WORD = re.compile(r"[^\W\d_]+")
# Characters that may be strange: names, borrowed words. Letters within words that may be capitals: headings.
_STRANGE, _CAPITALS = 0.03, 0.3

# By encoding: one whose rows are sorted by how common characters are, the first byte of its common ones, and of those
# among them that a text has in any case, with the least share of these.
_ROWS: dict[str, tuple[str, frozenset[int], range, float]] = {
    **dict.fromkeys(
        ("euc_jp", "cp932"),
        ("euc_jp", frozenset({0xA1, 0xA3, 0xA4, 0xA5, *range(0xB0, 0xD0)}), range(0xA4, 0xA5), 0.15),
    ),
    "cp949": ("euc_kr", frozenset({0xA1, 0xA3, *range(0xB0, 0xC9)}), range(0xB0, 0xC9), 0.5),
    "gb18030": ("gb2312", frozenset({0xA1, 0xA3, *range(0xB0, 0xD8)}), range(0xC9, 0xD8), 0.15),
    "big5hkscs": ("big5", frozenset(range(0xA1, 0xC7)), range(0xA4, 0xB0), 0.15),
}
_COMMON = 0.92


def test(codec: str) -> Callable[[str], bool]:
    """How to tell whether a text, read as being in an encoding, reads like one."""
    return (lambda text: _east_asian(text, *_ROWS[codec])) if codec in _ROWS else _alphabetic


def _alphabetic(text: str) -> bool:
    """Whether letters are those of a language, its common ones among them; capitals begin words, and signs are not in
    them.
    """
    high = Counter(character.lower()[0] for character in text if not character.isascii())
    if any(unicodedata.category(character) == "Cc" for character in high):
        return False
    words = _WORD.findall(text)
    if sum(sum(map(str.isupper, word[1:])) for word in words) > _CAPITALS * sum(map(len, words)):
        return False
    bad = sum(not b.isascii() and b.isupper() and a.islower() for a, b in itertools.pairwise(text))
    bad += len(_WITHIN.findall(text))
    return any(_is_of(high, bad, common, letters) for common, letters in _LANGUAGES)


def _is_of(high: Counter[str], bad: int, common: frozenset[str], letters: frozenset[str]) -> bool:
    bad += sum(many for character, many in high.items() if character not in letters and character not in _SIGNS)
    if bad > _STRANGE * high.total():
        return False
    own = sum(many for character, many in high.items() if character in letters)
    seen = [many for character, many in high.items() if character in common]
    # Few letters cannot be all of the common ones.
    return sum(seen) >= own / 2 and len(seen) >= min(len(common) / 2, own / 6)


def _east_asian(text: str, codec: str, common: frozenset[int], sure: range, share: float) -> bool:
    """Whether characters are common ones, those among them without which there is no text, and not spaced."""
    rows = [_row(character, codec) for character in text if not character.isascii()]
    usual, own = (sum(row in wanted for row in rows) for wanted in (common, sure))
    if codec != "euc_kr" and len(_SPACED.findall(text)) > _STRANGE * len(rows):
        return False
    return bool(rows) and usual >= _COMMON * len(rows) and own >= share * len(rows)


def _row(character: str, codec: str) -> int:
    try:
        return character.encode(codec)[0]
    except UnicodeEncodeError:
        return 0
