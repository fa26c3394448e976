"""Glossaries in files: CSV, tab-separated values and JSON, read and written."""

from __future__ import annotations

import csv
import graphlib
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from templora.errors import TextError
from templora.runtime.files import told, written_whole
from templora.text_files import read_text
from templora.translation.glossary import Glossary, Term
from templora.translation.proposals import Proposal

_MAX_SHOWN = 10  # of a cycle
# What the columns of a term and of its translation may be called; the first is what they are called here.
_SOURCE, _TARGET = ("term", "source"), ("translation", "target", "rendering")
_COLUMNS = (_SOURCE[0], _TARGET[0], "paragraphs", "others", "context")
ENDINGS = (".csv", ".tsv", ".json")


class _Entry(NamedTuple):
    where: str
    source: str
    target: str


def read_glossary(path: str, remarks: list[str] | None = None) -> Glossary:
    """The glossary in a file.

    One term a line, a tab before its translation; or CSV (.csv). A first line that names columns, `term` and
    `translation` among them, allows others beside them, and terms without a translation, which are passed over. So are
    blank lines, and lines that begin with #. Or JSON (.json): {"term": "translation"}, or a list of objects with `term`
    and `translation`.

    Args:
        path: of the file.
        remarks: as for `read_text`.

    Raises:
        TextError: a line is none, a term is there twice, or its translation leads back to it; names the file and the
            line.
    """
    text, suffix = read_text(path, remarks=remarks), Path(path).suffix.lower()
    entries = _of_json(path, text) if suffix == ".json" else _of_lines(path, text, commas=suffix == ".csv")
    found: dict[str, tuple[str, str]] = {}
    for where, source, target in entries:
        if not source or not target:
            raise TextError(f"{where}: {'its translation' if source else 'the term'} is empty")
        before, there = found.setdefault(source, (target, where))
        if before != target:
            there = there.removeprefix(f"{path}, ")
            raise TextError(f"{where}: {source!r} is {target!r} here, and {before!r} in {there}; keep one")
    _check_cycles(found)
    return Glossary([Term(source, target) for source, (target, _) in found.items()])


def _of_lines(path: str, text: str, *, commas: bool) -> Iterator[_Entry]:
    columns: dict[str, int] = {}
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        where = f"{path}, line {number}"
        cells = _cells(where, line, commas)
        if not columns:
            columns = _named(cells)
            if columns:
                continue
            columns = {"": 0}
        if "" not in columns:
            source, target = (cells[columns[key]] if columns[key] < len(cells) else "" for key in ("source", "target"))
            if target or not source:
                yield _Entry(where, source, target)
            continue
        if len(cells) != 2:
            kind = "comma" if commas else "tab"
            raise TextError(f"{where}: a term, a {kind} and its translation; not {line.strip()[:60]!r}")
        yield _Entry(where, *cells)


def _named(cells: Sequence[str]) -> dict[str, int]:
    """Which columns are the term's and its translation's, if these cells are names."""
    names = [cell.lower() for cell in cells]
    found = [next((names.index(name) for name in known if name in names), -1) for known in (_SOURCE, _TARGET)]
    return {} if -1 in found else dict(zip(("source", "target"), found, strict=True))


def _cells(where: str, line: str, commas: bool) -> list[str]:
    with told(TextError, f"{where}: no CSV", csv.Error):
        cells = next(csv.reader([line], strict=True)) if commas else line.split("\t")
    return [_on_a_line(cell) for cell in cells]


def _of_json(path: str, text: str) -> Iterator[_Entry]:
    with told(TextError, f"{path}: not JSON", ValueError, RecursionError):
        held = json.loads(text)
    if isinstance(held, dict):
        held = [{_SOURCE[0]: source, _TARGET[0]: target} for source, target in held.items()]
    if not isinstance(held, list):
        raise TextError(f"{path}: must be an object of terms and their translations, or a list of such objects")
    for number, values in enumerate(held, 1):
        where = f"{path}, entry {number}"
        if not isinstance(values, dict):
            raise TextError(f"{where}: must be an object with {_SOURCE[0]!r} and {_TARGET[0]!r}")
        source, target = (_text_of(where, values, known) for known in (_SOURCE, _TARGET))
        if target or not source:
            yield _Entry(where, source, target)


def _text_of(where: str, values: Mapping[str, Any], names: Sequence[str]) -> str:
    value = next((values[name] for name in names if name in values), None)
    if not isinstance(value, str):
        raise TextError(f"{where}: {names[0]!r} must be text, not {repr(value)[:60]}")
    return _on_a_line(value)


def _check_cycles(found: Mapping[str, tuple[str, str]]) -> None:
    """A term may be its own translation; else no translation may lead back to its term."""
    try:
        graphlib.TopologicalSorter({source: [to] for source, (to, _) in found.items() if source != to}).prepare()
    except graphlib.CycleError as error:
        way = error.args[1][:0:-1]  # it says each term after its translation, and the first one once more
        order = list(found)
        first = min(range(len(way)), key=lambda i: order.index(way[i]))
        way = [*way[first:], *way[:first]]
        shown = [*way[:_MAX_SHOWN], *(["…"] if len(way) > _MAX_SHOWN else []), way[0]]
        raise TextError(f"{found[way[0]][1]}: a cycle: {' → '.join(shown)}") from error


def _on_a_line(text: str) -> str:
    return " ".join(text.split())


def glossary_text(proposals: Iterable[Proposal], suffix: str) -> str:
    """Proposals as a file of this kind (`ENDINGS`) holds them, for `read_glossary`."""
    rows = [
        dict(
            zip(_COLUMNS, (p.term, p.rendering, p.paragraphs, "; ".join(p.others), _on_a_line(p.context)), strict=True)
        )
        for p in proposals
    ]
    if suffix == ".json":
        return json.dumps(rows, ensure_ascii=False, indent=1) + "\n"
    made = io.StringIO(newline="")
    if suffix == ".csv":
        writer = csv.DictWriter(made, _COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    else:
        made.write("\t".join(_COLUMNS) + "\n")
        made.writelines("\t".join(_on_a_line(str(cell)) for cell in row.values()) + "\n" for row in rows)
    return made.getvalue()


def write_glossary(proposals: Iterable[Proposal], path: Path) -> None:
    """Writes proposals to a file, whose name says of what kind it is.

    Raises:
        TextError: it cannot be written.
    """
    text = glossary_text(proposals, path.suffix.lower())
    with partial(told, TextError, f"{path}: the glossary cannot be written")(), written_whole(path) as beside:
        beside.write_text(text, encoding="utf-8", newline="\n")
