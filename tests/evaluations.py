"""What tests of evaluations share: a tiny model on disk, books, plans over them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from forked import PYTHON

from templora.evals.measuring.cell import Cell
from templora.evals.measuring.plan import Plan
from templora.evals.measuring.runner import Runner
from templora.evals.measuring.texts import Text
from templora.testing import byte_tokenizer, tiny_model

BOOK = "It was the best of times, it was the worst of times. Nobody knew, and who would have asked? "
WORKER = (*PYTHON, *Runner.worker[1:])  # as evaluations start it, but forked
CONFIG = {"window": 64, "chunk_size": 32, "rank": 4, "alpha": 4.0, "learning_rate": 0.01}


def tiny_folder(folder: Path) -> Path:
    """A directory that `templora.load` reads."""
    tiny_model().save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


def books(folder: Path, count: int = 2) -> Path:
    folder.mkdir()
    for i in range(count):
        (folder / f"book{i}.txt").write_text((BOOK[i:] + f"Chapter {i}. ") * (5 + i))
    return folder


def plan(model: Path, folder: Path, **options: Any) -> Plan:
    values: dict[str, Any] = {"books": str(folder), "tokens": 300, "models": [str(model)], "config": CONFIG}
    return Plan(**{"other_tokens": 100, **values, **options})


def cells(made: Plan) -> tuple[list[Cell], dict[str, Text]]:
    texts = made.find_texts()
    return made.cells(texts), {t.name: t for t in texts}
