"""Which tokens are context and which are targets: pure arithmetic, no model.

            start          middle              end
    tokens ───┼── context ────┼──── targets ────┼───
              └ never in the loss  └ each a target exactly once, since chunks lie back to back

Parts of a chunk may be masked: they are read, and not learnt. A source text before its translation is.

The token at index 0 has nothing before it and is nobody's target. The model reads tokens [start, end − 1): it is fed
each target's predecessor, never the last target itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass
from typing import Any


@dataclass(frozen=True)
class Chunk:
    """One step of the life of a text. Indices are token positions in the whole text.

    Args:
        index: number of the chunk, from 0.
        start: first context token.
        middle: first token of the chunk itself.
        end: one past its last token.
        masked: spans [first, end) of it that are not in the loss, in order.
    """

    index: int
    start: int
    middle: int
    end: int
    masked: tuple[tuple[int, int], ...] = ()

    @property
    def first_target(self) -> int:
        """First token predicted: `middle`, but never token 0."""
        return max(1, self.middle)

    @property
    def learnt(self) -> list[int]:
        """The tokens in the loss: all that are predicted and not masked."""
        return [i for i in range(self.first_target, self.end) if self.learns(i)]

    def learns(self, token: int) -> bool:
        """Whether a token of the chunk is not masked."""
        return not any(first <= token < end for first, end in self.masked)

    @property
    def targets(self) -> int:
        """How many those are; without masks one fewer than the chunk has tokens where it opens the text."""
        return len(self.learnt) if self.masked else max(0, self.end - self.first_target)

    def to_json(self) -> list[Any]:
        """Plain values; `from_json` reads them back."""
        return list(astuple(self))

    @classmethod
    def from_json(cls, values: Sequence[Any]) -> Chunk:
        index, start, middle, end, masked = values
        return cls(index, start, middle, end, spans(masked))


def spans(pairs: Iterable[Sequence[int]]) -> tuple[tuple[int, int], ...]:
    """Pairs of numbers as `Chunk.masked` holds them."""
    return tuple((first, end) for first, end in pairs)
