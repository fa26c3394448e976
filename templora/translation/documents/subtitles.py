"""Subtitles: SubRip (.srt), WebVTT (.vtt) and SubStation Alpha (.ass, .ssa). Each cue is translated for itself.

    12                                          12
    00:01:02,500 --> 00:01:05,000     ─►        00:01:02,500 --> 00:01:05,000
    The <i>keeper</i> climbed                   Der <i>Wärter</i> stieg
    the stairs of the tower.                    die Treppe des Turms hinauf.

A translation has as many lines as its cue had, of about the same length. Lines that all begin with a dash are of
several speakers, and stay lines. Counters, timings, settings, styles, comments and drawings are no text.
"""

from __future__ import annotations

import html
import itertools
import re
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from templora.errors import TextError
from templora.text_files import BOM
from templora.translation.documents.base import FlatDocument, Slot
from templora.translation.inline.characters import UNSPACED, breakable
from templora.translation.inline.marking import Around, Inline, Thing, mark_up
from templora.translation.inline.marks import Mark
from templora.translation.inline.markup import Marked, Restored, restore

_TIME = r"(?:\d{1,4}:)?\d{1,2}:\d{2}[,.:]\d{1,3}"
_TIMING = re.compile(rf"[ \t]*{_TIME}[ \t]*-->[ \t]*{_TIME}")
_COUNTER = re.compile(r"\s*\d+\s*")
_DASH = re.compile(r"(?:[<{][^<>{}]*[>}])*\s*([-–—‐]+)\s*(?=\S)")
# `<i>`, `</v>`, `<00:01.000>`, `{\an8}`: what is markup within a cue.
_TAG = re.compile(r"<(?P<close>/?)(?P<name>[A-Za-z][\w-]*)[^<>\n]{0,300}>|<[\d:.]+>|\{\\[^{}\n]{0,300}\}")
_OVERRIDE = re.compile(r"\{[^{}\n]*\}")
_DRAWS = re.compile(r"\{[^{}]*\\p[1-9]")
_NO_CUES = frozenset({"NOTE", "STYLE", "REGION"})


@dataclass(frozen=True)
class _Line:
    """A line of a cue: where its text is, without white space at its ends."""

    start: int
    end: int


class _Subtitles(FlatDocument):
    """A file of subtitles."""

    kind = ""
    line_end = "\n"

    def __init__(self, label: str, raw: bytes) -> None:
        self._breaks: list[list[str]] = []  # what stands between the lines of each segment
        super().__init__(label, raw)
        if not self._timed:
            raise TextError(f"{label}: no {self.kind} subtitles: there is no line with a time in it")

    def _slots(self, text: str) -> Iterator[Slot]:
        self._timed = False
        for lines in self._cues(text):
            self._timed = True
            for group in _speakers(text, lines):
                held = [text[line.start : line.end] for line in group]
                marked = mark_up(self._inline("\n".join(held)))
                if marked is not None:
                    gaps = [text[a.end : b.start] for a, b in itertools.pairwise(group)]
                    self._breaks.append(gaps)
                    yield Slot(group[0].start, group[-1].end, marked)

    def _cues(self, text: str) -> Iterator[list[_Line]]:
        """The lines of each cue that has some."""
        raise NotImplementedError

    def _inline(self, text: str) -> Iterator[Inline]:
        yield from _tags(text, self._plain)

    def _plain(self, text: str) -> str:
        """Text as it reads."""
        return text

    def _escaped(self, text: str) -> str:
        """Text as the file writes it, which reads as it stands here and ends no cue."""
        return text.replace("-->", "→")

    def restored(self, index: int, target: str) -> Restored:
        marked: Marked = self.segments[index]
        found = restore(marked, target, self._escaped)
        return Restored(_in_lines(found.text, self._breaks[index]), found.moved)


class SubRip(_Subtitles):
    """A .srt file."""

    kind = "SubRip"

    def _cues(self, text: str) -> Iterator[list[_Line]]:
        lines = list(_lines(text))
        timed = [number for number, line in enumerate(lines) if _TIMING.match(text, line.start, line.end)]
        for number, after in itertools.pairwise([*timed, len(lines)]):
            last = after
            if after < len(lines) and after - 1 > number and _COUNTER.fullmatch(text, *_span(lines[after - 1])):
                last = after - 1  # the next cue's counter
            found = list[_Line]()
            for line in lines[number + 1 : last]:
                if line.start == line.end and found:
                    break
                if line.start < line.end:
                    found.append(line)
            yield found


class WebVtt(SubRip):
    """A .vtt file."""

    kind = "WebVTT"

    def _cues(self, text: str) -> Iterator[list[_Line]]:
        lines = list(_lines(text))
        at = 0
        while at < len(lines):
            block = list[_Line]()
            while at < len(lines) and lines[at].start < lines[at].end:
                block.append(lines[at])
                at += 1
            at += 1
            first = text[block[0].start : block[0].end].split(None, 1)[:1] if block else []
            if not block or _NO_CUES.issuperset(first):
                continue
            number = next((n for n, line in enumerate(block) if _TIMING.match(text, *_span(line))), None)
            if number is not None:
                yield block[number + 1 :]

    def _plain(self, text: str) -> str:
        return html.unescape(text)

    def _escaped(self, text: str) -> str:
        return html.escape(super()._escaped(text), quote=False)


class SubStation(_Subtitles):
    """A .ass or .ssa file."""

    kind = "SubStation Alpha"

    def _cues(self, text: str) -> Iterator[list[_Line]]:
        fields, section = 10, ""
        for line in _lines(text):
            held = text[line.start : line.end]
            if held.startswith("["):
                section = held.strip("[] \t").lower()
            elif section == "events" and held.lower().startswith("format:"):
                fields = held.count(",") + 1
            elif section == "events" and held.lower().startswith("dialogue:"):
                comma = [match.start() for match in re.finditer(",", held)][: fields - 1]
                if len(comma) == fields - 1:
                    start = line.start + comma[-1] + 1
                    yield [] if _DRAWS.search(text, start, line.end) else list(_parted(text, start, line.end))

    def _inline(self, text: str) -> Iterator[Inline]:
        at = 0
        for match in _OVERRIDE.finditer(text):
            yield text[at : match.start()].replace("\\h", "\u00a0")
            yield Thing(Mark(match[0]))
            at = match.end()
        yield text[at:].replace("\\h", "\u00a0")

    def _escaped(self, text: str) -> str:
        return text.replace("{", "(").replace("}", ")").replace("\\", "/").replace("\u00a0", "\\h")


def _span(line: _Line) -> tuple[int, int]:
    return line.start, line.end


def _lines(text: str) -> Iterator[_Line]:
    """The lines of a file, without white space at their ends."""
    for match in re.finditer(r"[^\r\n]*(?:\r\n|\r|\n|\Z)", text.removeprefix(BOM)):
        offset = match.start() + len(text) - len(text.removeprefix(BOM))
        held = match[0]
        start = offset + len(held) - len(held.lstrip())
        yield _Line(start, max(start, offset + len(held.rstrip()))) if held.strip() else _Line(offset, offset)


def _parted(text: str, start: int, end: int) -> Iterator[_Line]:
    """A line of SubStation's, parted where it is on the screen."""
    at = start
    for match in re.finditer(r"\\[Nn]", text[start:end]):
        yield _trimmed(text, at, start + match.start())
        at = start + match.end()
    yield _trimmed(text, at, end)


def _trimmed(text: str, start: int, end: int) -> _Line:
    held = text[start:end]
    start += len(held) - len(held.lstrip())
    return _Line(start, max(start, end - (len(held) - len(held.rstrip()))))


def _speakers(text: str, lines: Sequence[_Line]) -> Iterator[list[_Line]]:
    """The lines that are one text: all of them, or each, behind its dash, where all begin with one."""
    lines = [line for line in lines if line.start < line.end]
    dashes = [_DASH.match(text, *_span(line)) for line in lines]
    if len(lines) > 1 and all(dashes):
        for line, dash in zip(lines, dashes, strict=True):
            yield [_Line(dash.end(), line.end) if dash and "<" not in dash[0] and "{" not in dash[0] else line]
    elif lines:
        yield list(lines)


def _tags(text: str, plain: Callable[[str], str]) -> Iterator[Inline]:
    """A text and its tags: those that are closed again around what they wrap, others as things."""
    root: list[Inline] = []
    opened: list[tuple[str, str, list[Inline]]] = []
    at = 0

    def here() -> list[Inline]:
        return opened[-1][2] if opened else root

    for match in _TAG.finditer(text):
        if match.start() > at:
            here().append(plain(text[at : match.start()]))
        at, name = match.end(), (match["name"] or "").lower()
        if match["close"] and any(name == other for other, *_ in opened):
            while opened[-1][0] != name:
                _fall(opened, root)
            _, opening, inner = opened.pop()
            here().append(Around(Mark(opening, match[0], wraps=True), inner))
        elif name and not match["close"] and len(opened) < 20:
            opened.append((name, match[0], []))
        else:
            here().append(Thing(Mark(match[0])))
    if at < len(text):
        here().append(plain(text[at:]))
    while opened:
        _fall(opened, root)
    yield from root


def _fall(opened: list[tuple[str, str, list[Inline]]], root: list[Inline]) -> None:
    """A tag that nobody closes is a thing."""
    _, opening, inner = opened.pop()
    outer = opened[-1][2] if opened else root
    outer += [Thing(Mark(opening)), *inner]


def _in_lines(text: str, breaks: Sequence[str]) -> str:
    """A translation in as many lines as there were, of about the same length, where there are places to break it."""
    if not breaks:
        return text
    hidden = [match.span() for match in re.finditer(r"<[^<>]*>|\{[^{}]*\}", text)]
    shown = list[int]()  # visible characters before each character
    at, count = 0, 0
    for start, end in [*hidden, (len(text), len(text))]:
        shown += range(count, count + start - at)
        count += start - at
        shown += [count] * (end - start)
        at = end
    inside = {index for start, end in hidden for index in range(start + 1, end)}
    places = [
        index
        for index in range(1, len(text))
        if index not in inside
        and (text[index - 1] == " " or (UNSPACED.match(text, index - 1) and breakable(text, index)))
    ]
    found, last = list[int](), 0
    for number in range(1, len(breaks) + 1):
        left = places[bisect_left(places, last + 1) :]
        if not left:
            break
        last = min(left, key=lambda place: abs(shown[place] - count * number / (len(breaks) + 1)))
        found.append(last)
    pieces = [text[a:b].strip(" ") for a, b in zip([0, *found], [*found, len(text)], strict=True)]
    return "".join(piece + gap for piece, gap in zip(pieces, [*breaks[: len(pieces) - 1], ""], strict=True))
