"""Texts to evaluate on: a folder of them, or a dataset of the hub; found and checked before anything slow happens."""

from __future__ import annotations

import hashlib
import importlib
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from templora.errors import OptionError, TextError, nearest
from templora.runtime.files import said, told
from templora.text_files import read_text

ENDINGS = (".txt", ".txt.gz", ".txt.xz", ".txt.bz2")
HUB = "hub:"


@dataclass(frozen=True)
class Text:
    """One text.

    Args:
        name: for tables: its file's, without the ending.
        content: all of it.
    """

    name: str
    content: str

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.content.encode("utf-8", "surrogatepass")).hexdigest()


def find_texts(source: str, names: Sequence[str] = ()) -> list[Text]:
    """The texts of a folder, in the order of `names`, or all of them in that of their names.

    Args:
        source: a folder with .txt files, compressed or not; one such file; or `hub:NAME`, a dataset with a column
            `text`. Hidden files are nobody's texts.
        names: which; file names without their endings, or titles in a dataset. Without them, a file that is no text is
            left out with a warning.

    Raises:
        OptionError: no such folder, no text in it, or no such name.
        TextError: one cannot be read.
    """
    if source.startswith(HUB):
        return _from_hub(source[len(HUB) :], names)
    by_name: dict[str, Path] = {}
    for path in visible_files(source, ENDINGS):
        twin = by_name.setdefault(_stem(path), path)
        if twin is not path:
            raise OptionError("books", f"{source} holds {_stem(path)!r} twice: {twin.name} and {path.name}")
    if not by_name:
        raise OptionError("books", f"{source} holds no text ({', '.join(ENDINGS)})")
    found, problems = [], []
    for name in chosen("text", names, by_name):
        try:
            found.append(Text(name, read_text(str(by_name[name]))))
        except TextError as error:
            if names:
                raise
            problems.append(error)
    if not found:
        raise problems[0]
    for problem in problems:
        warnings.warn(f"left out: {problem}", stacklevel=2)
    return found


def visible_files(source: str, endings: tuple[str, ...]) -> list[Path]:
    """The files of a folder with one of these endings, in the order of their names; or the one file that this is.

    Hidden ones are left out: `.DS_Store`, `._book.txt`.

    Raises:
        OptionError: it cannot be read.
    """
    path = Path(source)
    with told(partial(OptionError, "books"), f"{source} cannot be read", ValueError):
        if path.is_file():
            return [path]
        files = [p for p in path.iterdir() if p.name.lower().endswith(endings) and not p.name.startswith(".")]
        return sorted(p for p in files if p.is_file())


def chosen(what: str, names: Sequence[str], known: Mapping[str, object]) -> list[str]:
    """The names of those that are wanted, in their order; of all that are known if none is named."""
    for name in names:
        if name not in known:
            raise OptionError("texts", f"there is no {what} {name!r}; {nearest(name, known)}")
    return list(dict.fromkeys(names or known))


def _stem(path: Path) -> str:
    ending = next((e for e in ENDINGS if path.name.lower().endswith(e)), path.suffix)
    return path.name[: len(path.name) - len(ending)]


def _from_hub(name: str, names: Sequence[str]) -> list[Text]:
    """The test split of a dataset such as emozilla/pg19-test."""
    try:
        datasets: Any = importlib.import_module("datasets")
    except ImportError as error:
        raise OptionError("books", "a dataset of the hub needs the datasets package: pip install datasets") from error
    try:
        rows: Iterable[dict[str, Any]] = datasets.load_dataset(name, split="test")
        found: dict[str, str] = {}
        for i, row in enumerate(rows):
            title = str(row.get("short_book_title") or i)
            found[f"{title} ({i})" if title in found else title] = str(row["text"])
    except Exception as error:  # whatever comes up between here and the hub
        raise TextError(f"{HUB}{name}: no texts could be had: {said(error)}") from error
    return [Text(title, found[title]) for title in chosen("text", names, found)]
