"""`Translating`: what a cell of the translation task has besides what every cell has."""

from __future__ import annotations

from dataclasses import dataclass

from templora.errors import OptionError, nearest
from templora.sampling import SamplingParams

TARGETS = ("reference", "own")


@dataclass(frozen=True)
class Translating:
    """Between which languages a cell translates, and how.

    Args:
        source, target: codes of the languages.
        targets: what is learnt: `reference`, the true translation, revealed after the model's own; or `own`.
        pairs: how many of a document's first pairs; None: all.
        template: as for `read_template`.
        repetition_penalty: of its sampling, which is greedy.
    """

    source: str
    target: str
    targets: str = "reference"
    pairs: int | None = None
    template: str | None = None
    repetition_penalty: float = 1.0

    def __post_init__(self) -> None:
        if self.targets not in TARGETS:
            raise OptionError("targets", f"unknown {self.targets!r}; {nearest(self.targets, TARGETS)}")
        if self.pairs is not None and self.pairs < 1:
            raise OptionError("pairs", f"must be at least 1, not {self.pairs}")
        SamplingParams(temperature=0.0, repetition_penalty=self.repetition_penalty)  # says what is wrong
