"""Plain text: paragraphs with blank lines between them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import TypeAlias

from templora.translation.documents.base import BOM, FlatDocument, Slot, decoded
from templora.translation.marking import mark_up

Span: TypeAlias = tuple[int, int]

_LINE = re.compile(r"[^\r\n]+(?:\r\n|\r|\n)?|\r\n|\r|\n")
# Lines that were broken to fit a page end anywhere; where nearly all end with a stop, and enough are there to tell,
# each line is a paragraph: so are many novels. The last line before a blank one tells nothing.
_STOP = re.compile(r"[.!?…:。！？：؟۔।][\"'”’»›)\]」』）]*\s*$")
_FEWEST, _SHARE = 8, 0.8
_INDENT = "\u3000"  # with which a paragraph in Chinese or Japanese begins


class PlainText(FlatDocument):
    """A text file. The lines of a paragraph become one.

    Args:
        label: its name, for errors.
        raw: what it holds.

    Raises:
        TextError: it is empty, or no UTF-8 text.
    """

    def __init__(self, label: str, raw: bytes) -> None:
        text = decoded(label, raw)
        spans = ((start, end, mark_up([text[start:end]])) for start, end in _paragraphs(text))
        super().__init__(text, [Slot(start, end, marked) for start, end, marked in spans if marked])


def _paragraphs(text: str) -> Iterator[Span]:
    """Where paragraphs are, without the white space at their ends."""
    blocks = list(_blocks(text))
    alone = _are_paragraphs(text, [line for block in blocks for line in block[:-1]])
    for block in blocks:
        first = 0
        for at in range(1, len(block) + 1):
            if at == len(block) or alone or text.startswith(_INDENT, block[at][0]):
                yield _stripped(text, block[first][0], block[at - 1][1])
                first = at


def _blocks(text: str) -> Iterator[list[Span]]:
    """Lines in a row of which none is blank."""
    block: list[Span] = []
    for match in _LINE.finditer(text, text.startswith(BOM)):
        if match[0].strip():
            block.append(match.span())
        elif block:
            yield block
            block = []
    if block:
        yield block


def _are_paragraphs(text: str, lines: Sequence[Span]) -> bool:
    ended = sum(bool(_STOP.search(text[start:end])) for start, end in lines)
    return len(lines) >= _FEWEST and ended >= _SHARE * len(lines)


def _stripped(text: str, start: int, end: int) -> Span:
    held = text[start:end]
    return start + len(held) - len(held.lstrip()), start + len(held.rstrip())
