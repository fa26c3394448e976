"""`Glossary`: terms that are to be translated in one way."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from templora.errors import TextError
from templora.text_files import read_text
from templora.translation.characters import UNSPACED


@dataclass(frozen=True)
class Term:
    """A term and what it is to be called."""

    source: str
    target: str

    def in_source(self, text: str) -> Iterator[tuple[int, int]]:
        """Where it stands, as [start, end): whole words where words are written with spaces. Upper and lower case
        are the same, unless the term has a capital itself."""
        flags = re.RegexFlag(0) if self.source != self.source.lower() else re.IGNORECASE
        yield from (match.span() for match in re.finditer(_bounded(self.source, both=True), text, flags))

    def kept_in(self, target: str) -> bool:
        """Whether a translation has it so; an ending may follow it."""
        return re.search(_bounded(self.target.casefold(), both=False), target.casefold()) is not None


def _bounded(term: str, *, both: bool) -> str:
    """A pattern of the term at the start of a word, and the end of one, where it is of a script with spaces."""
    start = "" if UNSPACED.match(term[0]) or not term[0].isalnum() else r"(?<!\w)"
    end = "" if not both or UNSPACED.match(term[-1]) or not term[-1].isalnum() else r"(?!\w)"
    return start + re.escape(term) + end


class Glossary:
    """Args:
    terms: each source once.
    """

    def __init__(self, terms: Sequence[Term]) -> None:
        self.terms = tuple(terms)
        self._longest_first = sorted(terms, key=lambda term: -len(term.source))

    @classmethod
    def read(cls, name: str) -> Glossary:
        """The glossary in a file: one term a line, a tab before its translation, or CSV (.csv) with two columns. Blank
        lines and lines that begin with # are passed over.

        Raises:
            TextError: a line is none, a term is there twice, or its translation leads back to it.
        """
        separator = "," if Path(name).suffix.lower() == ".csv" else "\t"
        found: dict[str, tuple[str, int]] = {}
        lines = read_text(name).splitlines()
        for number, line in enumerate(lines, 1):
            if not line.strip() or line.lstrip().startswith("#"):
                continue
            columns = [column.strip() for column in next(csv.reader([line], delimiter=separator))]
            if len(columns) != 2:
                kind = "comma" if separator == "," else "tab"
                raise TextError(f"{name}, line {number}: a term, a {kind} and its translation; not {line[:60]!r}")
            source, target = columns
            if not source or not target:
                raise TextError(f"{name}, line {number}: {'the term' if not source else 'its translation'} is empty")
            before, there = found.setdefault(source, (target, number))
            if before != target:
                raise TextError(
                    f"{name}, line {number}: {source!r} is {target!r} here, and {before!r} in line {there}; keep one"
                )
        _check_cycles(name, found)
        return cls([Term(source, target) for source, (target, _) in found.items()])

    def found(self, text: str) -> list[Term]:
        """The terms that stand in a text, in order; of terms that overlap, the longest."""
        taken: list[tuple[int, int, Term]] = []
        for term in self._longest_first:
            for start, end in term.in_source(text):
                if all(end <= a or b <= start for a, b, _ in taken):
                    taken.append((start, end, term))
        return list(dict.fromkeys(term for _, _, term in sorted(taken, key=lambda place: place[0])))


def _check_cycles(name: str, found: dict[str, tuple[str, int]]) -> None:
    """A term may be its own translation; else no translation may lead back to its term."""
    for source, (target, number) in found.items():
        path = [source]
        while target in found and target not in path:
            path.append(target)
            target = found[target][0]
        if target == source and len(path) > 1:
            raise TextError(f"{name}, line {number}: a cycle: {' → '.join([*path, source])}")
