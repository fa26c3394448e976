"""`Notes`: a text that stands in every window and is no part of the text: a memory, an author's note.

    text    [opening] t1 t2 t3 · · ·             what is given, written, counted and learnt
    seen    [opening][ notes ] t1 t2 t3 · · ·    what the model reads: so tokens are counted from `Readers` on down

They are read and never a target. Facts belong here: an adapter is no memory for them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from templora.arguments import shown
from templora.chunks import Chunk
from templora.config import TempLoraConfig
from templora.errors import OptionError
from templora.methods.base import Method
from templora.text import parts_of

# Of the tokens before a chunk so many stay the text's own.
_TEXT_SHARE = 4  # one in ...
_LONGEST = 100  # characters of a token, about: what is longer is not even divided into tokens


@dataclass(frozen=True)
class Notes:
    """Those of one session.

    Args:
        text: as somebody wrote it; empty: there are none.
        ids: its tokens, and those of the line ends after it.
        opening: tokens before them.
    """

    text: str = ""
    ids: tuple[int, ...] = ()
    opening: int = 0

    def __len__(self) -> int:
        return len(self.ids)

    @classmethod
    def of(
        cls, text: object, encode: Callable[[str], list[int]], method: Method, config: TempLoraConfig, opening: int
    ) -> Notes:
        """The notes that `text` is. What has no line end at its end gets a blank line after it; blank is none.

        Raises:
            OptionError: it is no text, or too long, or the method has no place for it.
        """
        if not isinstance(text, str):
            raise OptionError("notes", f"must be a text, not {shown(text)}")
        if not text.strip():
            return cls(opening=opening)
        if not method.takes_notes:
            raise OptionError("notes", f"{method.name} keeps the context in a way that has no place for them")
        most = config.context - max(1, config.context // _TEXT_SHARE) - opening
        if len(text) > _LONGEST * config.window:
            raise _too_long(f"{len(text):,} characters", most, config)
        ids = encode(text if text.endswith("\n") else text + "\n\n")
        if len(ids) > most:
            raise _too_long(f"{len(ids):,} tokens", most, config)
        return cls(text, tuple(ids), opening)

    def state(self) -> dict[str, Any]:
        """What a snapshot has of them, if there are any."""
        parts = parts_of(self.text)
        return ({"notes": str(self.text)} if self.ids else {}) | ({"notes_parts": parts} if parts else {})

    def seen(self, tokens: Sequence[int]) -> Sequence[int]:
        """A text's tokens as the model sees them; without notes the very same."""
        return [*tokens[: self.opening], *self.ids, *tokens[self.opening :]] if self.ids else tokens

    def chunk(self, chunk: Chunk, context: int) -> Chunk:
        """A chunk as the model sees it, with `context` tokens before it, the notes among them.

        A text's first tokens are seen after the notes, so the last one of these is what the first of them is predicted
        from; the opening is nobody's target.
        """
        if not self.ids:
            return chunk
        by = len(self.ids)
        middle = max(chunk.middle, self.opening) + by
        masked = tuple((first + by, end + by) for first, end in chunk.masked)
        return Chunk(chunk.index, max(0, chunk.middle + by - context), middle, chunk.end + by, masked)


def _too_long(size: str, most: int, config: TempLoraConfig) -> OptionError:
    fit = f"{max(0, most):,} tokens fit: a quarter of the {config.context:,} before a chunk stays for the text"
    return OptionError("notes", f"are {size}, and {fit}; a larger --window, or a smaller --chunk-size, makes room")
