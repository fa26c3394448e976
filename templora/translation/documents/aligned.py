"""Aligned pairs as a document: its paragraphs have a translation already, to learn from or to compare with."""

from __future__ import annotations

import json
from collections.abc import Sequence

from templora.translation.documents.base import Document
from templora.translation.inline.characters import one_line
from templora.translation.inline.marking import mark_up
from templora.translation.pairs import Aligned


class AlignedPairs(Document):
    """Pairs, one JSON object a line in the translation: `document`, `chapter`, `source`, `reference`, `translation`.

    Args:
        documents: as `read_pairs` reads them. What comes before a document is left out, and pairs without a letter in
            the source are, in which nothing can be translated.
    """

    streams = True

    def __init__(self, documents: Sequence[Aligned]) -> None:
        marked = [(pair, mark_up([pair.source])) for document in documents for pair in document.pairs]
        self._pairs = [pair for pair, segment in marked if segment]
        self.segments = tuple(segment for _, segment in marked if segment)
        self.references = [one_line(pair.target).strip() for pair in self._pairs]

    def piece(self, index: int, target: str) -> str:
        pair = self._pairs[index]
        where = {key: value for key, value in (("document", pair.document), ("chapter", pair.chapter)) if value}
        both = {"source": pair.source, "reference": pair.target, "translation": self.restored(index, target).text}
        return json.dumps(where | both, ensure_ascii=False) + "\n"
