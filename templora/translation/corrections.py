"""Corrections: paragraphs as their reader wants them, in the lines that `write_pairs` writes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from templora.errors import TextError
from templora.text_files import read_text
from templora.translation.characters import one_line


def read_corrections(name: str, sources: Sequence[str]) -> dict[int, str]:
    """Translations by paragraph, from 0.

    Args:
        name: of the file.
        sources: the document's paragraphs, which the file must match.

    Raises:
        TextError: a line is none, or is of another document.
    """
    found: dict[int, str] = {}
    for number, line in enumerate(read_text(name).splitlines(), 1):
        if not line.strip():
            continue
        where = f"{name}, line {number}"
        try:
            values: Any = json.loads(line)
        except ValueError as error:
            raise TextError(f"{where}: not JSON: {error}") from error
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
                f"{where}: the document has changed: its paragraph {index + 1} is {_short(sources[index])}, "
                f"not {_short(source)}{moved}"
            )
        if not target:
            raise TextError(f"{where}: the translation is empty; leave the line out instead")
        if found.setdefault(index, target) != target:
            raise TextError(f"{where}: paragraph {index + 1} is there twice, with different translations")
    return found


def _short(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:39] + "…")
