"""`Transcript`: the tokens of a text and where its open chunk is. Pure: no model, no adapter.

tokens   [opening] · · · closed chunks · · ·│ open chunk ─ ─ room ─ ─│
                                        chunk_start                  chunk_start + chunk_size
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from templora.chunks import Chunk, spans
from templora.session.notes import Notes


class Transcript:
    """One text.

    Args:
        opening: tokens before every text: BOS, where the tokenizer has one.
        chunk_size, context: tokens of a chunk, and of the text before it that is seen with it.

    Attributes:
        tokens: every id so far, the opening included.
        chunk_index, chunk_start: of the open chunk.
        masked: spans of it that are not to be learnt.
        scored_to: where the written text that is scored ends.
        notes: what stands in every window besides.
    """

    def __init__(self, opening: Sequence[int], chunk_size: int, context: int) -> None:
        self.tokens = list(opening)
        self.opening = len(self.tokens)
        self.chunk_index = self.chunk_start = 0
        self.masked: tuple[tuple[int, int], ...] = ()
        self.scored_to = 0
        self.notes = Notes(opening=self.opening)
        self._chunk_size, self._context = chunk_size, context
        self._ends = 0, 0  # where ends of the text were chosen last, and how many

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def open_tokens(self) -> int:
        """Tokens of the open chunk."""
        return len(self.tokens) - self.chunk_start

    @property
    def room(self) -> int:
        """Tokens that still fit the open chunk."""
        return self._chunk_size - self.open_tokens

    @property
    def ends(self) -> int:
        """How many ends of the text were chosen where it ends now."""
        at, count = self._ends
        return count if at == len(self.tokens) else 0

    def give(self, piece: Sequence[int], *, learn: bool = True) -> None:
        """Appends tokens, at most as many as there is room for; without `learn` they are masked."""
        if not learn:
            begin, end = len(self.tokens), len(self.tokens) + len(piece)
            joined = self.masked and self.masked[-1][1] == begin
            self.masked = (*self.masked[:-1], (self.masked[-1][0], end)) if joined else (*self.masked, (begin, end))
        self.tokens.extend(piece)

    def end(self) -> None:
        """Counts an end of the text that was chosen here, though the text goes on."""
        self._ends = len(self.tokens), self.ends + 1

    def open_chunk(self, end: int | None = None) -> Chunk:
        """The open chunk as it is, or as it would be if the text ended at `end`."""
        start, end = self.chunk_start, len(self.tokens) if end is None else end
        return Chunk(self.chunk_index, max(0, start - self._context), start, end, self.masked)

    def seen(self, tokens: Sequence[int] | None = None) -> Sequence[int]:
        """Tokens of the text, or another's like it, as the model sees them: with the notes."""
        return self.notes.seen(self.tokens if tokens is None else tokens)

    def seen_chunk(self, chunk: Chunk) -> Chunk:
        """A chunk among `seen` tokens."""
        return self.notes.chunk(chunk, self._context)

    @property
    def newest(self) -> Sequence[int]:
        """Tokens the last of which the model reads next; no copy, unless the text has nothing after the notes yet."""
        return self.tokens if len(self.tokens) > self.opening else self.seen()

    def chunk_start_at(self, end: int) -> int:
        """Where the open chunk of a text that goes on, or back, to `end` would begin."""
        return max(0, self.chunk_start + (end - self.chunk_start) // self._chunk_size * self._chunk_size)

    def close(self, chunk: Chunk) -> None:
        """Begins the chunk after `chunk`, which is the open one."""
        self.chunk_index, self.chunk_start, self.masked = chunk.index + 1, chunk.end, ()

    def tidy(self) -> None:
        """Takes out of the counts what is beyond the text, after tokens were taken back or never came."""
        end = len(self.tokens)
        self.masked = tuple((a, min(b, end)) for a, b in self.masked if a < end)
        if self._ends[0] > end:
            self._ends = 0, 0

    def state(self) -> dict[str, Any]:
        """All of it but the tokens, as JSON can hold it."""
        return {
            "tokens": len(self.tokens),
            "chunk": [self.chunk_index, self.chunk_start],
            "masked": self.masked,
            "scored_to": self.scored_to,
            "ends": self._ends,
        }

    def load_state(self, tokens: Sequence[int], state: Mapping[str, Any]) -> None:
        """Becomes what `state` was given of a text of these tokens; older versions say less."""
        self.tokens[:] = list(tokens)
        self.chunk_index, self.chunk_start = state["chunk"]
        self.masked = spans(state.get("masked", ()))
        self.scored_to = state["scored_to"]
        at, count = state.get("ends", (0, 0))
        self._ends = at, count
