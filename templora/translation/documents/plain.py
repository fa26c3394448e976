"""Plain text: paragraphs, whose lines were broken to fit a page, and lines that stand for themselves.

A line of prose ends where the next word would not have fit. So the width that the most breaks agree with is the page's,
and a line that has room for the next word was ended on purpose: by a poem, a list, a dialogue, an address, a heading.
Where no width explains the breaks, or lines end with punctuation or begin with capitals throughout, all lines stand
for themselves.
"""

from __future__ import annotations

import csv
import io
import itertools
import re
import unicodedata
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from templora.text_files import BOM
from templora.translation.documents.base import FlatDocument, Slot
from templora.translation.inline.characters import EAST_ASIAN, has_letter, one_line
from templora.translation.inline.marking import mark_up
from templora.translation.languages import Language

_ENDS = "\n\r\x0b\x0c\x85\u2028\u2029"
_END = re.compile(f"\r\n|[{_ENDS}]")
_LINE = re.compile(f"[^{_ENDS}]*(?:\r\n|[{_ENDS}]|\\Z)")
_QUOTED = re.compile(r"(?:>[ \t]?)+(?=[ \t]*\S)")  # as in mail
_SPACE = re.compile(r"\s*")
_BULLET = re.compile(r"(?:[-*+•‣▪◦·–—]|\(?\d{1,3}[.)]|\(?[A-Za-z]\))\s+(?=\S)")
_SPEAKER = re.compile(r"[^\W\d_a-z][^\W\d_a-z .'’-]+[.:](?:\s|$)")  # HAMLET. To be, or not to be
_TIME = re.compile(r"\d:\d\d[:.,\d]*\s*-->")  # of subtitles
# Between the columns of a table of contents.
_LEADERS = re.compile(r"(?:[ \t]*[.…·_]){5,}[ \t]*|[ ]{4,}|[ ]*\t\s*")
# Where a line was broken within a word, or beside a dash without spaces.
_HYPHEN = re.compile(r"\u00ad\n|[^\W\d_]-\n[a-zß-ÿ]|\S(?:--|—)\n\w|\w\n(?:--|—)\S")
_CLOSERS = "\"'”’»›)]」』）_*"
_STOPS = ".!?…:。！？：؟۔।"
_PAUSES = ",;-–—、，；،؛"
_OPENERS = "\"'“‘„«‹「『("
_INDENT = "\u3000"  # with which a paragraph in Chinese or Japanese begins

_NARROWEST = 25  # page, in columns
_MIN = 3  # breaks that tell something by how they look
_ROOM = 0.85  # of the width that a ragged line fills
_MAX = 0.75  # of the width that a line has which ends early in a sentence
_OVER = 0.03  # of the lines may be longer than the page


@dataclass(frozen=True)
class _Line:
    """A line.

    Args:
        start, end: of its text, in the file, without the white space at its ends, and without a bullet or number.
        text: the same, with that.
        indent: columns in front of the text.
        width: columns up to its end.
        first: columns of its first word.
        quoted: how often it is quoted, as in mail.
        bullet: whether it begins with one.
        begins: whether it begins a paragraph, as Chinese and Japanese ones do.
        columns: whether it is of a table.
    """

    start: int
    end: int
    text: str
    indent: int
    width: int
    first: int
    quoted: int = 0
    bullet: bool = False
    begins: bool = False
    columns: bool = False

    @property
    def ended(self) -> bool:
        """Whether it ends with a stop."""
        return self._last in _STOPS or self.text[-1] in '"”»」』'

    @property
    def pauses(self) -> bool:
        """Whether it ends with punctuation of any kind."""
        return self.ended or self._last in _PAUSES

    @property
    def _last(self) -> str:
        return self.text[-20:].rstrip(_CLOSERS)[-1:] or self.text[-1]

    @property
    def capital(self) -> bool:
        return self.text.lstrip(_OPENERS)[:1].isupper()


class PlainText(FlatDocument):
    """A text file. The lines of a paragraph become one; bullets, numbers, indents and leaders are no text.

    With its source, a paragraph between blank lines is two such paragraphs, a line two lines, and what shares its line
    with others stands beside its translation. Side by side they are a table, with a row for each paragraph and each
    line that is no text, and a tab between.
    """

    layouts = ("target", "both", "below", "side")

    def _slots(self, text: str) -> Iterator[Slot]:
        for start, end, source in pieces(text):
            marked = mark_up([source])
            if marked is not None:
                yield Slot(start, end, marked)

    def lay_out(self, layout: str, source: Language) -> None:
        super().lay_out(layout, source)
        self.opening = front = self._gaps[0]
        if layout == "side":
            self.opening = BOM * front.startswith(BOM) + self._rows(_END.split(front.removeprefix(BOM))[:-1])

    def laid_out(self, index: int, source: str, target: str) -> str:
        before, after = _END.split(self._gaps[index].removeprefix(BOM)), _END.split(self._gaps[index + 1])
        shared = (index and len(before) == 1) or after[0].strip() or (len(after) == 1 and index + 1 < len(self._held))
        if shared:
            return self._pair(source, " / ", target)
        first = not before[-2].strip() if len(before) > 1 + bool(index) else not index
        last = not after[1].strip() if len(after) > 2 else index + 1 == len(self._held)
        indent = re.sub(r"[^\s>]", " ", before[-1])  # without its bullet
        return self._pair(source, self._line_end * (1 + (first and last)) + indent, target)

    def piece(self, index: int, target: str) -> str:
        if self.layout != "side":
            return super().piece(index, target)
        before, after = _END.split(self._gaps[index].removeprefix(BOM)), _END.split(self._gaps[index + 1])
        last = index + 1 == len(self._held)
        front = before[-1] if len(before) > 1 or not index else ""
        rest = after[0] if len(after) > 1 or last else ""
        texts = self.segments[index].text, one_line(self._translated(index, target))
        cells = (f"{front}{text}{rest}" for text in texts)
        return self._rows(after[1:] if last else after[1:-1], *cells)

    def _rows(self, lines: Sequence[str], *cells: str) -> str:
        """Rows of a table: of two cells, if they are given, and of lines in which nothing is translated."""
        table = io.StringIO()
        rows = [cells] * bool(cells) + [(line, line) for line in lines if line.strip()]
        writer = csv.writer(table, "excel-tab", lineterminator=self._line_end)  # quotes what begins with a quote
        writer.writerows([one_line(cell).strip() for cell in row] for row in rows)
        return table.getvalue()


def pieces(text: str) -> Iterator[tuple[int, int, str]]:
    """What is to be translated: where it is, and what it says."""
    blocks = list(_blocks(text))
    page = _page([block for block in blocks if not _timed(block)])
    for block in blocks:
        for lines in _paragraphs(block, page):
            if len(lines) > 1:
                yield lines[0].start, lines[-1].end, _joined(text, lines)
            else:
                yield from _columns(text, lines[0].start, lines[0].end)


def _columns(text: str, start: int, end: int) -> Iterator[tuple[int, int, str]]:
    edges = [start, *itertools.chain(*(match.span() for match in _LEADERS.finditer(text, start, end))), end]
    for at, to in zip(edges[::2], edges[1::2], strict=True):
        yield at, to, text[at:to]


def _joined(text: str, lines: Sequence[_Line]) -> str:
    found = [text[lines[0].start : lines[0].end]]
    for before, line in itertools.pairwise(lines):
        found.append(line.text if _HYPHEN.search(f"{before.text[-4:]}\n{line.text[:4]}") else f"\n{line.text}")
    return "".join(found)


# Lines ---------------------------------------------------------------------------------------------------------------


def _blocks(text: str) -> Iterator[list[_Line]]:
    """Lines in a row of which none is blank."""
    block: list[_Line] = []
    for match in _LINE.finditer(text, text.startswith(BOM)):
        line = _line(text, *match.span())
        if block and (line is None or line.quoted != block[-1].quoted or match[0][:1] == "\x0c"):
            yield block
            block = []
        if line:
            block.append(line)
    if block:
        yield block


def _line(text: str, start: int, end: int) -> _Line | None:
    quote = _QUOTED.match(text, start, end)
    begin = quote.end() if quote else start
    held = text[begin:end]
    bare = held.strip()
    if not bare:
        return None
    begin += len(held) - len(held.lstrip())
    bullet = _BULLET.match(bare)
    indent = _width(text[start:begin].expandtabs())
    return _Line(
        begin + (bullet.end() if bullet else 0), begin + len(bare), bare, indent, indent + _width(bare),
        _width(bare[:2] if EAST_ASIAN.match(bare) else bare.split(None, 1)[0]), quote[0].count(">") if quote else 0,
        bullet is not None, text[begin - 1 : begin] == _INDENT, _LEADERS.search(bare) is not None,
    )  # fmt: skip


def _width(text: str) -> int:
    """Columns on a screen."""
    if text.isascii():
        return len(text)
    return sum(0 if unicodedata.combining(character) else 1 + bool(EAST_ASIAN.match(character)) for character in text)


# Paragraphs ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Page:
    """The width that lines were broken at.

    Args:
        width: in columns.
        least: columns that a line with the next word must have more than.
    """

    width: int
    least: float

    def full(self, line: _Line, after: _Line) -> bool:
        """Whether the next word did not fit on a line."""
        space = not (EAST_ASIAN.match(after.text) and EAST_ASIAN.match(line.text[-1]))
        return line.width <= 1.25 * self.width and line.width + space + after.first > self.least


def _page(blocks: Sequence[Sequence[_Line]], narrowest: int = _NARROWEST) -> _Page | None:
    """The page that lines were broken to fit; None if there is none.

    Args:
        narrowest: columns that it has at least.
    """
    breaks = [pair for block in blocks for pair in itertools.pairwise(block)]
    breaks = [
        (a, b) for a, b in breaks if not b.bullet and a.width >= narrowest and has_letter(a.text) and has_letter(b.text)
    ]
    if not breaks:
        return None
    widths = sorted(line.width for block in blocks for line in block)
    starts = sorted(a.width for a, _ in breaks)
    ends = sorted(a.width + 1 + b.first for a, b in breaks)
    # Of the breaks that each width explains, less the lines that do not fit it; of equals the widest.
    _, width = max(
        (bisect_right(starts, at) - bisect_right(ends, at) - (len(widths) - bisect_right(widths, at)), at)
        for at in set(starts)
    )
    over = sum(line.width > width for block in blocks if len(block) > 1 for line in block)
    long = [(a, b) for a, b in breaks if width / 2 <= a.width <= width]
    exact = [(a, b) for a, b in long if _Page(width, width).full(a, b)]
    if len(exact) >= 0.6 * len(long) and over <= _OVER * len(widths):
        # What ends early in the middle of a sentence was broken by hand, or by a program that looks ahead.
        early = sum(not a.pauses for a, _ in long) - sum(not a.pauses for a, _ in exact)
        return None if _verse(exact) else _Page(width, width if early <= 0.05 * len(exact) else _ROOM * width)
    width = widths[bisect_left(widths, widths[int(0.97 * (len(widths) - 1))])]
    ragged = [(a, b) for a, b in breaks if _Page(width, _ROOM * width).full(a, b)]
    if len(ragged) >= max(_MIN + 1, 0.75 * len(breaks)) and not _verse(ragged, 0.4, 0.6):
        return _Page(width, _ROOM * width)
    return None


def _verse(breaks: Sequence[tuple[_Line, _Line]], most: float = 0.6, capitals: float = 0.8) -> bool:
    """Whether lines end, or begin, as no wrapped ones do."""
    if len(breaks) == 1:  # a comma alone tells nothing
        return any(a.ended or (a.pauses and b.capital) for a, b in breaks)
    pauses = sum(a.pauses for a, _ in breaks) >= most * len(breaks)
    return pauses or (len(breaks) > _MIN and sum(b.capital for _, b in breaks) >= capitals * len(breaks))


def _timed(block: Sequence[_Line]) -> bool:
    return any(_TIME.search(line.text) for line in block[:3])


def _paragraphs(block: Sequence[_Line], page: _Page | None) -> Iterator[list[_Line]]:
    """The lines of a block, those together that are one paragraph."""
    breaks = list(itertools.pairwise(block))
    if _timed(block) or (len(breaks) >= _MIN and _verse(breaks, 0.75, 1.1)):
        page = None
    elif len(breaks) >= _MIN:
        # A quotation may be narrower than the page; a licence wrapped, in a book that is not.
        own = _page([block], 30 if page else 45)
        page = own if own and (page is None or own.width < page.width) else page
    indented = any(line.begins for line in block)
    lowest = min(line.indent for line in block)
    at = 0
    for index in range(1, len(block) + 1):
        if index == len(block) or (
            block[index].begins if indented else page is None or _parted(block, at, index, page, lowest)
        ):
            yield list(block[at:index])
            at = index


def _parted(block: Sequence[_Line], at: int, index: int, page: _Page, lowest: int) -> bool:
    """Whether a line stands for itself, or begins a paragraph.

    Args:
        at: where the paragraph in front of it begins.
        index: of the line.
        lowest: columns that no line of the block is indented less than.
    """
    before, line = block[index - 1], block[index]
    if before.columns or line.columns or not (has_letter(before.text) and has_letter(line.text)):
        return True
    if not page.full(before, line):
        runs_on = before.text[-1].isalpha() and line.text[0].islower()  # as where a word was taken out later
        return not (runs_on and before.width >= _MAX * page.width)
    begun = block[at], block[0]
    if line.bullet or _SPEAKER.match(line.text):
        return before.ended or any(other.bullet if line.bullet else _SPEAKER.match(other.text) for other in begun)
    if before.ended and line.text[0] in _OPENERS and any(other.text[0] in _OPENERS for other in begun):
        return True
    after = block[index + 1] if index + 1 < len(block) else None
    if line.indent >= before.indent + 2:  # a paragraph's first line is indented, or all of them but its first are
        return before.ended and not (after and after.indent == line.indent)
    if line.indent <= before.indent - 2:
        return index - at > 1
    return before.ended and index - at == 1 and line.indent == before.indent >= lowest + 2
