"""`StudyPlan`: which books are gone on with, how far and in which settings. Known without a model."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from templora.config import TempLoraConfig
from templora.errors import OptionError, nearest
from templora.sampling import SamplingParams

if TYPE_CHECKING:
    from templora.evals.measuring.texts import Text


@dataclass(frozen=True)
class Setting:
    """How a book is gone on with.

    Args:
        help: what it is, in words.
        windows: how many windows long the window is.
        adapter: what the adapter has learnt: `own`, this book; `other`, the next one; nothing if empty.
    """

    help: str
    windows: int = 1
    adapter: str = ""


SETTINGS = {
    "author": Setting("how the book really goes on"),
    "base": Setting("the model alone, with the same window"),
    "base-2x": Setting("the model alone, with a window twice as long", windows=2),
    "base-4x": Setting("the model alone, with a window four times as long", windows=4),
    "own": Setting("the adapter of this book", adapter="own"),
    "other": Setting("the adapter of another book", adapter="other"),
}


@dataclass(frozen=True)
class StudyPlan:
    """What is to be measured.

    Args:
        books: which.
        config: of every session with an adapter; others have its window.
        absorbed: tokens of each book that are read, for each of these lengths.
        written: tokens that are written.
        seeds: how many texts are written in each setting, by the seeds from 1 on.
        settings: names of them, in `SETTINGS`.
        sampling: how tokens are chosen.
        adapter: what those that learn begin with, in PEFT's format or a .gguf; None: a fresh one.
    """

    books: Sequence[Text]
    config: TempLoraConfig
    absorbed: Sequence[int] = (20_000,)
    written: int = 1000
    seeds: int = 5
    settings: Sequence[str] = ("author", "base", "base-2x", "base-4x", "own", "other")
    sampling: SamplingParams = field(default_factory=SamplingParams)
    adapter: Path | None = None

    def __post_init__(self) -> None:
        for name in self.settings:
            if name not in SETTINGS:
                raise OptionError("settings", f"unknown setting {name!r}; {nearest(name, SETTINGS)}")
        for option, values in (("absorb", self.absorbed), ("write", [self.written]), ("seeds", [self.seeds])):
            if not values or min(values) < 1:
                raise OptionError(option, f"must be at least 1, not {min(values, default=None)}")
        if min(self.absorbed) < self.config.window:
            least = f"must be at least the window, {self.config.window} tokens, not {min(self.absorbed)}"
            raise OptionError("absorb", f"{least}: of less than that nothing has left it")
        if "other" in self.settings and len({book.sha256 for book in self.books}) < 2:
            raise OptionError("settings", "other is the adapter of another book, and there is only one")

    @property
    def samples(self) -> list[Sample]:
        """All that are to be written, those of one seed together."""
        return [
            Sample(book.name, absorbed, setting, seed)
            for seed in range(1, self.seeds + 1)
            for absorbed in sorted(self.absorbed)
            for book in self.books
            for setting in self.settings
            if setting != "author" or seed == 1
        ]


@dataclass(frozen=True)
class Sample:
    """One text that is written."""

    book: str
    absorbed: int
    setting: str
    seed: int

    @property
    def key(self) -> str:
        """What its file is called, and its session."""
        return f"{slug(self.book)}--{self.absorbed}--{self.setting}--{self.seed}"


def slug(name: str) -> str:
    """A name as files and sessions may have it, different for different names."""
    plain = re.sub(r"[^A-Za-z0-9_]+", "-", name)[:40].strip("-")
    return plain if plain == name else f"{plain}-{hashlib.sha256(name.encode()).hexdigest()[:6]}".strip("-")
