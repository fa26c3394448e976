"""Which tokens are context and which are targets: pure arithmetic, no model.

            start          middle              end
    tokens ───┼── context ────┼──── targets ────┼───
              └ never in the loss  └ each a target exactly once, since chunks lie back to back

The token at index 0 has nothing before it and is nobody's target. The model reads tokens [start, end − 1): it is fed
each target's predecessor, never the last target itself.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Chunk:
    """One step of the life of a text. Indices are token positions in the whole text.

    Args:
        index: number of the chunk, from 0.
        start: first context token.
        middle: first token of the chunk itself.
        end: one past its last token.
    """

    index: int
    start: int
    middle: int
    end: int

    @property
    def first_target(self) -> int:
        """First token predicted: `middle`, but never token 0."""
        return max(1, self.middle)

    @property
    def targets(self) -> int:
        """Tokens predicted; one fewer than the chunk has tokens where it opens the text."""
        return max(0, self.end - self.first_target)
