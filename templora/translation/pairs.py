"""Paragraphs with their translations, as JSON lines: what a translation leaves for its corrector."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

from templora.errors import TextError


def write_pairs(name: str, sources: Sequence[str], targets: Sequence[str]) -> None:
    """One object a line: `segment`, from 1, `source` and `target`.

    Raises:
        TextError: the file cannot be written.
    """
    lines = [
        json.dumps({"segment": i, "source": source, "target": target}, ensure_ascii=False) + "\n"
        for i, (source, target) in enumerate(zip(sources, targets, strict=True), 1)
    ]
    path = Path(name)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        beside.write_text("".join(lines), encoding="utf-8")
        os.replace(beside, path)
    except OSError as error:
        raise TextError(f"{name}: cannot be written: {error.strerror}") from error
