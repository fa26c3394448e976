"""`Drafter`: what a text would go on with, of which nothing stays.

A draft depends on the text, the adapter and the arguments alone, not on what was read before, and in how many passes:
its window is read anew each time, into a cache of its own. So a draft need not be kept in order to be made again.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from templora.decoding import Decoder
from templora.sampling import Sampler
from templora.text import TextStream
from templora.wanted import Wanted


@dataclass(frozen=True)
class Draft:
    """What would be written.

    Args:
        text: of it.
        ended: the model ended it itself; else it was cut off at its longest.
    """

    text: str
    ended: bool


class Drafter:
    """Drafts through one reader.

    Args:
        reader: which nobody else reads with.
        tokenizer: of the model.
        step: inside it, the model is the caller's alone.
    """

    def __init__(self, reader: Decoder, tokenizer: Any, step: Callable[[], AbstractContextManager[None]]) -> None:
        self._reader, self._tokenizer, self._step = reader, tokenizer, step

    def draft(
        self,
        tokens: Sequence[int],
        chunk_start: int,
        most: int,
        sampler: Sampler,
        ends: Collection[int],
        wanted: Sequence[str] = (),
        each: Callable[[str], None] = lambda _: None,
    ) -> Draft:
        """What comes after `tokens`.

        Args:
            tokens: of the text, prompt included.
            chunk_start: where its open chunk begins; the window begins with the context before it, and moves on when it
                is full.
            most: tokens to draft.
            sampler: how they are chosen.
            ends: tokens at which it ends.
            wanted: words that should occur in it (`templora.wanted`).
            each: told the text of each token; it may raise.
        """
        reader, meter, begun = self._reader, self._reader.meter, list(tokens)
        cache, text, said = reader.cache, TextStream(self._tokenizer, begun[-4:]), ""
        hoped = Wanted(wanted, self._tokenizer, len(begun)) if wanted else None
        first = reader.window_start(chunk_start)
        cache.clear(first)
        for _ in range(most):
            with self._step():
                if len(begun) - first >= cache.capacity:  # as it does at the end of a chunk
                    first = reader.window_start(len(begun))
                    cache.clear(first)
                reader.fill(begun, 0)
                with meter.phase("decode"):
                    logits = reader.next_logits(begun)
                    logits = hoped.lift(logits, begun) if hoped else logits
                    token = sampler(logits, begun[-reader.config.window :])
            if token in ends:
                return Draft(said + text.flush(), True)
            begun.append(token)
            piece = text.push(token)
            each(piece)
            said += piece
        return Draft(said + text.flush(), False)
