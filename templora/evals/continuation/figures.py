"""What is measured of a written text. Counts, so that texts can be pooled before anything is divided."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from templora.evals.continuation.voice import Voices
from templora.metrics import repetition
from templora.reports.names import Book, words


def figures(written: str, ids: Sequence[int], window: str, book: Book, name: str, voices: Voices) -> dict[str, Any]:
    """The figures of one text.

    Args:
        written: the text.
        ids: its tokens.
        window: what was read last, as much as every setting sees: what stands there is not carried.
        book: that it goes on with.
        name: of the book, among the voices.
        voices: of all books.
    """
    names, rare = book.carried(written, window)
    invented = book.invented(written)
    voice, sentences = voices.distance(written, name)
    return {
        "words": sum(1 for _ in words(written)),
        "tokens": len(ids),
        "carried_names": dict(names.most_common()),
        "carried_rare": dict(rare.most_common()),
        "invented": dict(invented.most_common()),
        "voice": voice,
        "sentences": sentences,
        **repetition(ids, written),
    }
