"""`Document`: what is read once, and written with its text in another language."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from templora.text_files import decoded
from templora.translation.inline.characters import one_line
from templora.translation.inline.markup import Marked, Restored, restore
from templora.translation.languages import Language

_LINE_END = re.compile("\r\n|[\r\n]")


class Document:
    """A document.

    Attributes:
        layouts: how it can be written: its translation alone, or with the source, which stands above or below each
            paragraph of it (both, below) or beside it (side).
        layout: how it is written.
        source: the language of the source, which is needed where that is written too.
        segments: its paragraphs, headings, cells and labels that hold a letter, in reading order.
        problems: what is wrong with it, and was left as it is.
        references: true translations of all segments; none where there are none.
        streams: whether it can be written a segment at a time: `opening`, then each `piece`.
        opening: what stands before the first segment. Only of a document that streams.
    """

    layouts: ClassVar[tuple[str, ...]] = ("target",)
    streams: ClassVar[bool] = False
    layout: str = "target"
    source: Language | None = None
    segments: tuple[Marked, ...]
    problems: Sequence[str] = ()
    references: Sequence[str] = ()
    opening: str = ""

    def lay_out(self, layout: str, source: Language) -> None:
        """Has it written in one of its `layouts` from now on."""
        self.layout, self.source = layout, source

    def piece(self, index: int, target: str) -> str:
        """A segment's translation, and what stands between it and the next one. Only of a document that streams."""
        raise NotImplementedError

    def render(self, targets: Sequence[str], to: Language) -> bytes:
        """The document with its first segments translated; all else is the source's, byte for byte. One that streams
        ends in front of the first segment that is not translated.

        Args:
            targets: translations as the model writes them, with tags.
            to: the language that they are in.
        """
        return "".join((self.opening, *(self.piece(i, target) for i, target in enumerate(targets)))).encode()

    def restored(self, index: int, target: str) -> Restored:
        """A translation as the document holds it."""
        return restore(self.segments[index], target, str)

    def moved(self, index: int, target: str) -> int:
        """How many pieces of a segment's markup are not where the model put them, because it lost them."""
        return self.restored(index, target).moved

    def chapter(self, index: int) -> str:
        """The heading that a segment stands under, or is; empty if there is none."""
        return ""


@dataclass(frozen=True)
class Slot:
    """A segment and where it is, as [start, end) of the text that it is in."""

    start: int
    end: int
    marked: Marked


class FlatDocument(Document):
    """A document that is one text. Where it can be written with its source, that is a line above or below each segment
    of its own, unless `laid_out` says otherwise.

    Args:
        label: its name, for errors.
        raw: what it holds.

    Raises:
        TextError: it is empty, or no UTF-8 text.
    """

    streams = True

    def __init__(self, label: str, raw: bytes) -> None:
        text = decoded(label, raw)
        slots = list(self._slots(text))
        starts = [*(slot.start for slot in slots), len(text)]
        self.segments = tuple(slot.marked for slot in slots)
        self._held = [text[slot.start : slot.end] for slot in slots]
        self.opening = text[: starts[0]]
        # What stands in front of each segment, and at the end.
        self._gaps = [self.opening, *(text[slot.end : start] for slot, start in zip(slots, starts[1:], strict=True))]
        found = _LINE_END.search(text)
        self._line_end = found[0] if found else "\n"

    def _slots(self, text: str) -> Iterator[Slot]:
        """Its segments, in order."""
        raise NotImplementedError

    def piece(self, index: int, target: str) -> str:
        """The same; a translation that is the source's own text stands as that does, to the byte."""
        return self.laid_out(index, self._held[index], self._translated(index, target)) + self._gaps[index + 1]

    def laid_out(self, index: int, source: str, target: str) -> str:
        """What stands where a segment was: its translation, and the source too if the layout says so; once if it is
        that.
        """
        return self._pair(source, self._line_end, target)

    def _pair(self, source: str, between: str, target: str) -> str:
        if self.layout == "target" or source == target:
            return target
        return f"{target}{between}{source}" if self.layout == "below" else f"{source}{between}{target}"

    def _translated(self, index: int, target: str) -> str:
        same = one_line(target).strip() == self.segments[index].text
        return self._held[index] if same else self.restored(index, target).text
