"""Which tokens are context and which are targets: pure arithmetic, no model.

            start          middle              end
    tokens ───┼── context ────┼──── targets ────┼───
              └ never in the loss  └ each a target exactly once, over the whole text

The token at index 0 has nothing before it and is nobody's target. The model reads tokens [start, end − 1): it is fed
each target's predecessor, never the last target itself.
"""

from __future__ import annotations

from collections.abc import Iterator
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
    def tokens(self) -> int:
        """Tokens of the chunk itself, context not counted."""
        return self.end - self.middle

    @property
    def first_target(self) -> int:
        """First token predicted: `middle`, but never token 0."""
        return max(1, self.middle)

    @property
    def targets(self) -> int:
        """Tokens predicted; one fewer than `tokens` in a chunk that opens the text."""
        return max(0, self.end - self.first_target)


def chunk_spans(tokens: int, chunk_size: int, context: int) -> Iterator[Chunk]:
    """The chunks of a text of `tokens` tokens, ragged last one included, each with up to `context` tokens before it."""
    for index, middle in enumerate(range(0, tokens, chunk_size)):
        yield Chunk(index, max(0, middle - context), middle, min(middle + chunk_size, tokens))
