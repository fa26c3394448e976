"""Texts with their translations, paragraph by paragraph: read to learn or to compare, written for a corrector, and
read again as that one wants them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import langcodes

from templora.errors import OptionError, TextError
from templora.runtime.files import told, written_whole
from templora.text_files import read_text
from templora.translation.inline.characters import one_line
from templora.translation.languages import Language

# That of the sources and that of the targets, where they are known: they may be the keys in an object.
_Languages: TypeAlias = tuple[Language | None, Language | None]


@dataclass(frozen=True)
class Pair:
    """A paragraph and its translation.

    Args:
        source, target: the two.
        document, chapter: where they are from, if that is known.
    """

    source: str
    target: str
    document: str = ""
    chapter: str = ""


@dataclass(frozen=True)
class Aligned:
    """A document and its translation.

    Args:
        name: of the document.
        pairs: of it, in order.
        cuts: numbers of the pairs with which a chapter, or a segment of GuoFeng's, begins.
        before: what comes before them and is known.
    """

    name: str
    pairs: tuple[Pair, ...]
    cuts: tuple[int, ...]
    before: tuple[Pair, ...] = ()


def read_pairs(path: str, source: Language | None = None, target: Language | None = None, **how: Any) -> list[Aligned]:
    """The documents in a file, which is one of two kinds:

        {"source": "他来了。", "target": "He came.", "document": "A", "chapter": "1"}
        {"zh": "她走了。", "en": "She left."}

    is JSON lines, with `document` and `chapter` or without; and a list of
    {"contexts": {"k1": [pairs], ...}, "inference": [pairs]} is GuoFeng's layout of one document, whose contexts are the
    pairs in front.

    Args:
        path: of the file.
        source, target: the languages, where they are the keys.
        how: as for `read_text`.

    Raises:
        TextError: it cannot be read, or is not of such a kind; names the line or segment.
        OptionError: which language is the source cannot be told.
    """
    text, name = read_text(path, **how), Path(path).name
    read = _guofeng if text.lstrip().startswith("[") else _lines
    return read(name, text, (source, target))


def write_pairs(name: str, sources: Sequence[str], targets: Sequence[str]) -> None:
    """One object a line: `segment`, from 1, `source` and `target`.

    Raises:
        TextError: the file cannot be written.
    """
    lines = [
        json.dumps({"segment": i, "source": source, "target": target}, ensure_ascii=False) + "\n"
        for i, (source, target) in enumerate(zip(sources, targets, strict=True), 1)
    ]
    with told(TextError, f"{name}: cannot be written"), written_whole(Path(name)) as beside:
        beside.write_text("".join(lines), encoding="utf-8", newline="\n")


def read_corrections(path: str, sources: Sequence[str], remarks: list[str] | None = None) -> dict[int, str]:
    """Translations by paragraph, from 0, in the lines of `write_pairs`, edited.

    Args:
        path: of the file.
        sources: the document's paragraphs, which the file must match.
        remarks: as for `read_text`.

    Raises:
        TextError: a line is none, or is of another document; names the file and the line.
    """
    found: dict[int, str] = {}
    for where, values in _json_lines(path, read_text(path, remarks=remarks)):
        if not isinstance(values, dict):
            raise TextError(f"{where}: must be an object with segment, source and target")
        for key, kind in (("segment", int), ("source", str), ("target", str)):
            if type(values.get(key)) is not kind:
                raise TextError(f"{where}: {key} is missing, or no {'number' if kind is int else 'text'}")
        index, source, target = values["segment"] - 1, values["source"], one_line(values["target"]).strip()
        if not 0 <= index < len(sources):
            raise TextError(f"{where}: there is no paragraph {index + 1}; the document has {len(sources)}")
        if source != sources[index]:
            now = [i + 1 for i, other in enumerate(sources) if other == source]
            moved = f"; it is paragraph {now[0]} now" if now else ""
            raise TextError(
                f"{where}: the document has changed: its paragraph {index + 1} is {_quoted(sources[index])}, "
                f"not {_quoted(source)}{moved}"
            )
        if not target:
            raise TextError(f"{where}: the translation is empty; leave the line out instead")
        if found.setdefault(index, target) != target:
            raise TextError(f"{where}: paragraph {index + 1} is there twice, with different translations")
    return found


def _json_lines(name: str, text: str) -> Iterator[tuple[str, Any]]:
    """Where each line is, by a file's name, and what it says; blank ones are passed over. Only a line feed ends one:
    other separators may stand in a string of JSON.
    """
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            where = f"{name}, line {number}"
            yield where, _parsed(where, line)


def _parsed(where: str, text: str) -> Any:
    with told(TextError, f"{where}: not JSON", ValueError, RecursionError):
        return json.loads(text)


def _pair(where: str, values: Any, languages: _Languages, document: str) -> Pair:
    """The pair that an object says; of this document if it names none."""
    if not isinstance(values, dict):
        raise TextError(f"{where}: must be an object with a source and a target, not {_short(values)}")
    texts = []
    for key in _keys(where, values, languages):
        text = values[key]
        if not isinstance(text, str) or not text.strip():
            raise TextError(f"{where}: {key!r} must be text that is not empty, not {_short(text)}")
        if any("\ud800" <= c <= "\udfff" for c in text):
            raise TextError(f"{where}: {key!r} holds half a character (a lone surrogate)")
        texts.append(text)
    also = {key: values.get(key) for key in ("document", "chapter")}
    for key, value in also.items():
        if value is not None and not isinstance(value, str | int):
            raise TextError(f"{where}: {key!r} must be text or a number, not {_short(value)}")
    said, chapter = ("" if value is None else str(value) for value in also.values())
    return Pair(texts[0], texts[1], said or document, chapter)


def _keys(where: str, values: Mapping[str, Any], languages: _Languages) -> Sequence[str]:
    """The keys of the two texts in an object."""
    if "source" in values and "target" in values:
        return "source", "target"
    there = [key for key, value in values.items() if isinstance(value, str) and langcodes.tag_is_valid(key)]
    wanted = [_key(there, language) for language in languages]
    known = [key for key in wanted if key]
    if len(known) == 2:
        return known
    missing = [repr(lang.code) for lang, key in zip(languages, wanted, strict=True) if lang and not key]
    if missing or len(there) != 2:
        held = ", ".join(repr(key) for key in values) or "nothing"
        asked = " and ".join(missing) or "'source' and 'target', or two languages"
        raise TextError(f"{where}: has no {asked}; it has {held}")
    if not known:
        raise OptionError("from", f"{where} has {there[0]!r} and {there[1]!r}: say which of them is the source")
    one, other = known[0], there[1 - there.index(known[0])]
    return (one, other) if wanted[0] else (other, one)


def _key(there: Sequence[str], language: Language | None) -> str | None:
    """The key of a language: its code, or one that is the same but for script and region."""
    if language is None:
        return None
    same = [key for key in there if langcodes.standardize_tag(key) == language.code]
    near = [key for key in there if key.replace("_", "-").split("-")[0] == language.code.split("-")[0]]
    return same[0] if same else near[0] if len(near) == 1 else None


def _lines(name: str, text: str, languages: _Languages) -> list[Aligned]:
    """The documents of JSON lines, in the order in which they begin."""
    documents: dict[str, list[Pair]] = {}
    for where, values in _json_lines(name, text):
        pair = _pair(where, values, languages, name)
        documents.setdefault(pair.document, []).append(pair)
    found = []
    for document, pairs in documents.items():
        cuts = (i for i, pair in enumerate(pairs) if i == 0 or pair.chapter != pairs[i - 1].chapter)
        found.append(Aligned(document, tuple(pairs), tuple(cuts)))
    return found


def _guofeng(name: str, text: str, languages: _Languages) -> list[Aligned]:
    pairs: list[Pair] = []
    before: tuple[Pair, ...] = ()
    cuts = []
    for number, segment in enumerate(_parsed(name, text), 1):
        where = f"{name}, segment {number}"
        if not isinstance(segment, dict) or not isinstance(segment.get("inference"), list):
            raise TextError(f"{where}: has no list 'inference'")
        contexts = segment.get("contexts", {})
        if not isinstance(contexts, dict) or not all(isinstance(held, list) for held in contexts.values()):
            raise TextError(f"{where}: 'contexts' must be an object of lists")
        read = {
            key: [_pair(f"{where}, {key}, pair {i}", pair, languages, name) for i, pair in enumerate(held, 1)]
            for key, held in contexts.items()
        }
        if number == 1:
            before = max(map(tuple, read.values()), key=len, default=())
        known = [*before, *pairs]
        for key, held in read.items():
            if held != known[len(known) - len(held) :]:
                raise TextError(f"{where}: its context {key!r} is not what comes before it")
        cuts.append(len(pairs))
        pairs += [_pair(f"{where}, pair {i}", pair, languages, name) for i, pair in enumerate(segment["inference"], 1)]
    if not pairs:
        raise TextError(f"{name}: holds no pairs")
    return [Aligned(name, tuple(pairs), tuple(cuts), before)]


def _short(value: Any) -> str:
    said = repr(value)
    return said if len(said) <= 60 else f"{said[:59]}…"


def _quoted(text: str) -> str:
    return repr(text if len(text) <= 40 else f"{text[:39]}…")
