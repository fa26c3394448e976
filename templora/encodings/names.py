"""What encodings are called, by people and by Python."""

from __future__ import annotations

import codecs
import re

# Those that texts are in, as people write them, and what everybody reads them as. Where two read a text alike, the
# first one has read it.
NAMES = {
    "UTF-8": "utf-8",
    "ISO-2022-JP": "iso2022_jp",
    "EUC-JP": "euc_jp",
    "EUC-KR": "cp949",
    "Shift_JIS": "cp932",
    "GB18030": "gb18030",
    "Big5": "big5hkscs",
    "windows-1252": "cp1252",
    "windows-1250": "cp1250",
    "windows-1251": "cp1251",
    "windows-1253": "cp1253",
    "windows-1254": "cp1254",
    "windows-1255": "cp1255",
    "windows-1256": "cp1256",
    "windows-1257": "cp1257",
    "windows-1258": "cp1258",
    "cp874": "cp874",
    "KOI8-R": "koi8-r",
    "KOI8-U": "koi8-u",
    "ISO-8859-2": "iso8859-2",
    "ISO-8859-5": "iso8859-5",
    "ISO-8859-6": "iso8859-6",
    "ISO-8859-7": "iso8859-7",
    "ISO-8859-13": "iso8859-13",
    "ISO-8859-15": "iso8859-15",
    "IBM850": "cp850",
    "IBM852": "cp852",
    "IBM866": "cp866",
    "macintosh": "mac-roman",
    "mac-cyrillic": "mac-cyrillic",
    "UTF-16": "utf-16",
    "UTF-32": "utf-32",
}
# What is said to be the first is read as the second by everybody, for its additional characters.
WIDER = {
    "shift_jis": "cp932",
    "gb2312": "gb18030",
    "gbk": "gb18030",
    "euc_kr": "cp949",
    "big5": "big5hkscs",
    "iso8859-1": "cp1252",
}
# Those that files are in. Python knows others that are slow, or no encodings of text.
_KNOWN = re.compile(
    r"utf-(8|16|32)|ascii|iso8859|cp\d|koi8|mac-|gb|big5|shift_jis|euc_|iso2022_|johab|hz|tis-620|ptcp154|kz1048"
)
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # which begins like the next but one
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


def known(name: str) -> str | None:
    """Python's name of an encoding of text, by any of its names: latin-1, Windows-1252. None if there is none."""
    try:
        found = codecs.lookup(name).name
    except (LookupError, ValueError):  # ValueError: a zero byte
        return None
    return found.removesuffix("-sig") if _KNOWN.match(found) else None


def shown(codec: str) -> str:
    """What people call it."""
    return next((name for name, own in NAMES.items() if own == codec), codec.upper())


def marked(raw: bytes) -> str | None:
    """What a byte order mark says that a text is in, if it has one."""
    return next((codec for mark, codec in _MARKS if raw.startswith(mark)), None)
