"""Corrections: paragraphs as their reader wants them, in the lines that `write_pairs` writes."""

from __future__ import annotations

from collections.abc import Sequence

from templora.errors import TextError
from templora.text_files import read_text
from templora.translation.inline.characters import one_line
from templora.translation.pairs import numbered_lines, parsed


def read_corrections(path: str, sources: Sequence[str]) -> dict[int, str]:
    """Translations by paragraph, from 0.

    Args:
        path: of the file.
        sources: the document's paragraphs, which the file must match.

    Raises:
        TextError: a line is none, or is of another document; names the file and the line.
    """
    found: dict[int, str] = {}
    for number, line in numbered_lines(read_text(path)):
        where = f"{path}, line {number}"
        values = parsed(where, line)
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
    return repr(text if len(text) <= 40 else f"{text[:39]}…")
