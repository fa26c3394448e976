"""Which encoding bytes are in, where they do not say: an answer only if it is sure, for a wrong one is worse than none.

charset-normalizer says of each encoding whether the bytes make a text in it. Among alphabets it is often wrong about
single letters (Polish in ISO-8859-2 is ISO-8859-10 to it, much French windows-1250), so its word is not enough: the
letters must also be those of a language (`alphabets`), and all encodings in which they are must agree about the text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from templora.encodings.alphabets import test
from templora.encodings.names import NAMES

# Bytes that are looked at, and how many passages they are.
_SAMPLE, _PASSAGES = 1 << 16, 16
_HIGH = re.compile(rb"[\x80-\xff]")
_BREAK = re.compile(rb"[\0-/]")  # in none of these encodings part of another character
_UTF8 = re.compile(rb"[\xc2-\xdf][\x80-\xbf]|[\xe0-\xef][\x80-\xbf]{2}|[\xf0-\xf4][\x80-\xbf]{3}")
_MOST_UTF8 = 0.75  # of the bytes that are not ASCII
_FEWEST = 6  # characters that are not ASCII
_COHERENT = 0.3  # for charset-normalizer: letters are as frequent as in a language, from 0 to 1
# Bytes that are a text in one of these may look like one in others that are East Asian, and hardly the other way round.
_STRICT = ("EUC-JP", "EUC-KR")
_EAST_ASIAN = (*_STRICT, "Shift_JIS", "GB18030", "Big5")


@dataclass(frozen=True)
class Found:
    """What was found.

    Args:
        name: of the encoding, a key of `NAMES`; None if it is not sure.
        likely: encodings that it may be, if it is not sure.
        damaged: it is none of these but UTF-8 in which something is wrong.
    """

    name: str | None = None
    likely: tuple[str, ...] = ()
    damaged: bool = False


def find(raw: bytes) -> Found:
    """Looks for the encoding of bytes that are no UTF-8, in passages from all over them."""
    sample = _sample(raw)
    if sum(map(len, _UTF8.findall(sample))) > _MOST_UTF8 * len(_HIGH.findall(sample)):
        return Found(damaged=True)
    fits: dict[str, str] = {}
    for name, codec in NAMES.items():
        if codec.startswith("utf"):
            continue
        try:
            text = sample.decode(codec)
        except UnicodeDecodeError:
            continue
        if test(codec)(text) and (name in _EAST_ASIAN or _coherent(sample, codec)):
            fits[name] = text
    strict = next((name for name in _STRICT if name in fits), None)
    fits = {name: text for name, text in fits.items() if not strict or name == strict or name not in _EAST_ASIAN}
    different: dict[str, str] = {}
    for name, text in fits.items():
        different.setdefault(text, name)  # of those that read alike, the first one
    likely = tuple(different.values())
    if len(likely) == 1 and sum(not c.isascii() for c in next(iter(different))) >= _FEWEST:
        return Found(likely[0])
    return Found(likely=likely)


def _coherent(sample: bytes, codec: str) -> bool:
    from charset_normalizer import from_bytes  # takes a while

    best = from_bytes(sample, cp_isolation=[codec], enable_fallback=False).best()
    return best is not None and best.coherence >= _COHERENT


def _sample(raw: bytes) -> bytes:
    """All, or passages with something that is not ASCII, which begin and end between two characters."""
    if len(raw) <= _SAMPLE:
        return raw
    found, step, most = [], len(raw) // _PASSAGES, _SAMPLE // _PASSAGES
    for at in range(0, len(raw), step):
        if high := _HIGH.search(raw, at, at + step):
            breaks = [match.end() for match in _BREAK.finditer(raw, max(at, high.start() - most // 2), high.start())]
            later = None if breaks else _BREAK.search(raw, high.end(), at + step)
            start = breaks[-1] if breaks else later.end() if later else 0
            ends = [match.start() for match in _BREAK.finditer(raw, start, start + most)]
            found.append(raw[start : ends[-1] if ends else start])
    return b"\n".join(found)
