"""`Language`: what a language is called, and how it is written."""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import langcodes

from templora.errors import OptionError, nearest
from templora.translation.inline.characters import has_letter

# ISO 15924. Khmer, Lao, Burmese, Thai, Tibetan; Chinese and Japanese in all their scripts.
_NO_SPACES = frozenset(
    {"Bopo", "Hani", "Hanb", "Hans", "Hant", "Hira", "Hrkt", "Jpan", "Kana", "Khmr", "Laoo", "Mymr", "Thai", "Tibt"}
)
_RIGHT_TO_LEFT = frozenset({"Adlm", "Arab", "Aran", "Hebr", "Mand", "Nkoo", "Rohg", "Samr", "Syrc", "Thaa", "Yezi"})
# Scripts (ISO 15924) that whole languages are written in, and what the Unicode names of their letters begin with.
_OF_SCRIPTS = {
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
_KNOWN_LETTERS = {name for names in _OF_SCRIPTS.values() for name in names}
# Assigned, but no languages: undetermined, several, without a code, not linguistic.
_NONE = frozenset({"und", "mul", "mis", "zxx"})
_WORD = re.compile(r"[^\W\d_]+")
_CODE = re.compile(r"[A-Za-z]{2,8}([-_][A-Za-z0-9]{1,8})*")
# Languages that are taken for each other: one of the same group as the wanted one is no other language.
_NEAR = """
en pcm sco jam | de lb gsw bar nds ksh | nl af fy li nds vls zea | da no nb nn sv fo is | fr wa oc gcr gcf ht pcd nrm
es gl pt ca an ext oc ast lad mwl | it vec lij scn nap co lmo pms fur sc rm | la it es pt ro | ro mo rup
hr sr bs sh sl mk bg hsb dsb | cs sk hsb dsb | pl csb szl hsb dsb | ru uk be rue | lv ltg | lt sgs | et fi vro olo krl
ga gd gv | cy br kw | el grc | he hbo yi | ar ary arz apc ajp acm aeb arq | fa prs tg ps ku ckb sdh glk mzn ug ur
tr az crh gag tk | kk ky tt ba nog kaa | uz uzs ug | ur pnb pa ps fa sd | bn as
hi bho mai mr ne sa awa mag gom kok hne raj | zh cmn yue wuu gan hak lzh nan | id ms zsm min jv su ace bjn
tl fil ceb bcl ilo war hil pag pam | xh zu ss nr nd | st tn nso | rw rn | sn ny | lg nyn | gug gn | so om
"""
_GROUPS = [frozenset(group.split()) for line in _NEAR.splitlines() for group in line.split("|")]
# A text is surely in another language from so many words on that are no names, of so many letters together; by this
# share of the probability, if the wanted one and those near it have less than that.
_MIN_WORDS, _MIN_LETTERS, _MIN_SIGNS, _OTHER, _WANTED = 3, 15, 10, 0.8, 0.05
# A text's language is told from so many passages of it, of so many characters; and by what share of their votes.
_PASSAGES, _PASSAGE, _SURE = 16, 400, 0.4


@dataclass(frozen=True)
class Language:
    """A language.

    Args:
        code: as BCP 47 writes it: zh, pt-BR.
        name: in English.
        script: that it is written in, by ISO 15924; empty where that is not known.
        spaces: whether words are written with spaces between them.
        right_to_left: whether lines begin at the right.
    """

    code: str
    name: str
    script: str = ""
    spaces: bool = True
    right_to_left: bool = False


def language(option: str, value: str) -> Language:
    """The language with this code or name: `de`, `German`, `pt-br`, `Brazilian Portuguese`; upper or lower case.

    Args:
        option: that the value was given for, for errors.
        value: the code or name.

    Raises:
        OptionError: there is no such language.
    """
    wanted = " ".join(value.split())
    found = _by_code(wanted) or _by_name(wanted)
    if found is None:
        raise OptionError(option, f"unknown language {value[:40]!r}; {_hint(wanted)}")
    return found


def detect(text: str) -> Language | None:
    """The language that most of a text is in; None where that cannot be told."""
    votes: dict[str, float] = {}
    step = max(_PASSAGE, len(text) // _PASSAGES)  # from all over a text: what comes first is often in another language
    passages = list(filter(has_letter, (text[at : at + _PASSAGE] for at in range(0, len(text), step))))
    for passage in passages:
        for code, share in _ranking()(passage):
            votes[code] = votes.get(code, 0.0) + share
    if not votes:
        return None
    code = max(votes, key=votes.__getitem__)
    return _by_code(code) if votes[code] >= _SURE * len(passages) else None


def surely_other(text: str, wanted: Language) -> Language | None:
    """The language that a text is in, where that is surely another than the one that was wanted, and none near it.

    Short texts are in none, nor are names: words with a capital do not count.
    """
    common = [word for word in _WORD.findall(text) if not word[0].isupper()]
    fewest = (_MIN_WORDS, _MIN_LETTERS) if wanted.spaces else (1, _MIN_SIGNS)
    if len(common) < fewest[0] or sum(map(len, common)) < fewest[1]:
        return None
    near = _near(langcodes.Language.get(wanted.code).language or "")
    ranked = dict(_ranking()(text))
    best = max(ranked, key=ranked.__getitem__)
    known = near & ranked.keys()  # else nobody would know the wanted one
    if not known or best in near or sum(ranked[code] for code in known) > _WANTED:
        return None
    if sum(ranked[code] for code in (_near(best) - near) & ranked.keys()) < _OTHER:
        return None
    return _by_code(best)


def foreign(words: Sequence[str], language: Language) -> float:
    """The share of words that begin with a letter of a script which the language is not written in.

    Latin letters stand in texts of all languages and do not count; 0 for a script that is not known here.
    """
    own = _OF_SCRIPTS.get(language.script)
    if own is None or not words:
        return 0.0
    names = [unicodedata.name(word[0], "").split(" ")[0] for word in words]
    return sum(name in _KNOWN_LETTERS and name not in own for name in names) / len(words)


def _near(code: str) -> frozenset[str]:
    """A language, and those near it."""
    return frozenset({code}).union(*(group for group in _GROUPS if code in group))


@functools.cache
def _ranking() -> Callable[[str], list[tuple[str, float]]]:
    """Languages and their probabilities for a text. Imported here, because reading its model takes most of a second."""
    from py3langid.langid import MODEL_FILE, LanguageIdentifier  # type: ignore[import-untyped]

    rank: Callable[[str], list[tuple[str, float]]] = LanguageIdentifier.from_model_file(
        MODEL_FILE, norm_probs=True
    ).rank
    return rank


def _by_code(code: str) -> Language | None:
    if not _CODE.fullmatch(code):
        return None
    try:
        tag = langcodes.Language.get(code)
        if not tag.is_valid() or not _assigned(tag):
            return None
        script = tag.maximize().script or ""
        return Language(tag.to_tag(), tag.display_name(), script, script not in _NO_SPACES, script in _RIGHT_TO_LEFT)
    except ValueError:  # not well formed
        return None


def _assigned(tag: langcodes.Language) -> bool:
    """Whether every part of the tag stands for something: valid ones may be for private use."""
    return (tag.language or "und") not in _NONE and not any("Unknown" in name for name in tag.describe().values())


def _by_name(name: str) -> Language | None:
    if not name.isprintable() or len(name) < (3 if name.isascii() else 2):  # shorter ones are taken for others
        return None
    for of in ("en", None):  # English names first: some are another language's name in another language
        try:
            return _by_code(langcodes.find(name, of).to_tag())
        except (LookupError, UnicodeError):
            continue
    return None


def _hint(wanted: str) -> str:
    """What may have been meant."""
    first, *rest = re.split("[-_]", wanted)
    whole = _by_code(first) if rest else None
    if whole:
        return f"did you mean {whole.code!r}, {whole.name}?"
    found = nearest(wanted[:40].title(), _names()) if len(wanted) > 3 else ""
    return found if found.startswith("did you") else "give a code such as 'de', or an English name such as 'German'"


@functools.cache
def _names() -> tuple[str, ...]:
    """English names of the languages that have two letters; all of them would have every typing error near some."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    known = (_by_code(first + second) for first in letters for second in letters)
    return tuple(sorted({language.name for language in known if language}))
