"""Markdown: the text of its blocks is translated; markers, destinations and code stay as they were written."""

from __future__ import annotations

import itertools
import re
from bisect import bisect_left
from collections import ChainMap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markdown_it.token import Token

from templora.text_files import BOM
from templora.translation.documents.base import FlatDocument, Slot
from templora.translation.documents.commonmark import parser
from templora.translation.documents.inline import (
    DEEPEST,
    STYLES,
    Event,
    InlineMark,
    Reader,
    Style,
    escaped,
    escapes,
    events,
    merged,
    tidy,
)
from templora.translation.inline.marking import mark_up
from templora.translation.inline.marks import Part
from templora.translation.inline.markup import Restored, arrange, plain
from templora.translation.languages import Language

_FRONT = re.compile(
    r"(---|\+\+\+)[ \t]*\n(?=[^\n]*[:=#])(?:.*\n)*?(?:\1|\.\.\.)[ \t]*(?:\n|\Z)"  # YAML, TOML
    r"|\{[ \t]*\"[^\n]*\}[ \t]*(?:\n|\Z)|\{[ \t]*\n\s*\"[^\"\n]*\"[ \t]*:(?:.*\n)+?\}[ \t]*(?:\n|\Z)"  # JSON
    r"|(?:%(?!%)[^\n]*\n(?:[ \t]+[^\n]*\n)*){1,3}(?=\n|\Z)"  # Pandoc's title, authors and date
)
_TASK = re.compile(r"\[[ xX]\](?:[ \t]*\n|[ \t]+)")
# What a block is read in when its translation is tried, by its kind: before and after it; and the token to begin with.
_AROUND = {
    "text": ("", "", "paragraph_open"),
    "task": ("[ ] ", "", "paragraph_open"),
    "heading": ("# ", "", "heading_open"),
    "cell": ("|", " |\n|-|", "table_open"),
}
# What stands between a source and its translation in one block, and what is read there.
_BREAK, _SLASH = "<br/>", " / "
_BETWEEN: dict[str, Event] = {_BREAK: ("br",), _SLASH: ("text", _SLASH)}
_BLANK, _BLANK_FIRST = (
    re.compile(r"\n[ \t]*\r?\n[ \t]*\Z|\r[ \t]*\r[ \t]*\Z"),
    re.compile(r"[ \t]*(?:\r\n?|\n)[ \t]*[\r\n]"),
)
_BAR = re.compile(r"(?<!\\)\|")
_ATTRIBUTES = re.compile(r"[ \t]+\{[^{}]*\}\Z")
# Where two texts in one block would make markup of each other.
_ENTITIES = {character: f"&#{ord(character)};" for character in "\\`*_{}[]<>()#+-.!|~$^:&"}


@dataclass(frozen=True)
class _Block:
    """A block with text.

    Args:
        kind: a key of `_AROUND`.
        heading: whether it is a heading, of either sort.
        content: as the parser has it.
        where: for each character of it and its end, where it is in the file.
        tokens: of its inline markup.
        start: of its text, in the content; not 0 behind the box of a task, or another term of a list of definitions.
        end: of it.
        alone: whether it is a paragraph, in no list, quotation or the like.
    """

    kind: str
    heading: bool
    content: str
    where: Sequence[int]
    tokens: Sequence[Token]
    start: int = 0
    end: int = -1
    alone: bool = False


class Markdown(FlatDocument):
    """A Markdown file. Paragraphs, headings, items, cells and footnotes are segments, each on one line; reference
    definitions, code, HTML blocks and front matter are not.

    With its source, a paragraph becomes two, or a row of a table; headings, and whatever is in a list, a quotation or a
    table, hold both, so that nothing around them changes.
    """

    layouts = ("target", "both", "below", "side")

    def __init__(self, label: str, raw: bytes) -> None:
        self._env: dict[str, Any] = {}
        self._kinds, self._headings, self._escapes = list[str](), list[str](), list[dict[str, str]]()
        self._between, self._contents = list[str](), list[str]()
        self._cells: dict[int, str] = {}  # of the table: sources of the paragraphs that are in it
        self._last: tuple[int, str, Restored] | None = None
        super().__init__(label, raw)

    def _slots(self, text: str) -> Iterator[Slot]:
        heading = ""
        for block in _blocks(text, self._env):
            reader = Reader(block.tokens, block.content, block.where, text, block.kind == "cell")
            marked = mark_up(reader.read())
            if marked is not None:
                heading = marked.plain if block.heading else heading
                self._kinds.append(block.kind)
                self._escapes.append(escapes(block.tokens))
                self._headings.append(heading)
                self._between.append("" if block.alone else _SLASH if block.heading else _BREAK)
                self._contents.append(block.content[block.start : block.end if block.end >= 0 else None])
                yield Slot(block.where[block.start], block.where[block.end], marked)

    def chapter(self, index: int) -> str:
        return self._headings[index]

    def restored(self, index: int, target: str) -> Restored:
        """A translation as the document holds it: as it is where that reads as meant, with more escapes or other
        markers of emphasis where it does not.
        """
        if self._last is None or self._last[:2] != (index, target):
            self._last = (index, target, self._restored(index, target))
        return self._last[2]

    def _restored(self, index: int, target: str) -> Restored:
        kind, marked = self._kinds[index], self.segments[index]
        parts, moved = arrange(marked, target)
        text = self._written(index, kind, tidy(parts))
        if text is None:  # such as a link in an image's place, where the markup cannot stand as the model has it
            again, _ = arrange(marked, plain(marked, target))
            text, moved = self._written(index, kind, tidy(again)), len(marked.marks)
        if text is None:
            kept = {} if self.layout == "target" else _ENTITIES
            text = _joined(tidy(parts), kind, STYLES[-1], escape=True, raw=True, kept=kept)
        return Restored(text, moved)

    def _written(self, index: int, kind: str, parts: Sequence[Part]) -> str | None:
        """The first way to write the parts down that reads as they are, in a block of this kind, and beside the source
        if that is in the same block; None if none does.
        """
        wanted, kept = events(parts), self._escapes[index]
        apart = kind != self._kinds[index]  # a paragraph in a cell of a table, which has the bars in its markup escaped
        beside = self.layout != "target" and not apart and self._between[index]
        tries = [*itertools.product(STYLES, (False, True), (kept, {}) if kept else ({},))]
        for style, escape, held in [*tries, ({}, True, _ENTITIES), (STYLES[-1], True, _ENTITIES)] if beside else tries:
            text = _joined(parts, kind, style, escape, raw=False, kept=held)
            text = _BAR.sub(r"\\|", text) if apart else text
            if self._read(kind, text) == wanted and (not beside or self._stands_beside(index, text, wanted)):
                return text if apart else _joined(parts, kind, style, escape, raw=True, kept=held)
        return None

    def _stands_beside(self, index: int, text: str, wanted: list[Event]) -> bool:
        """Whether a translation and its source read as they are in one block."""
        kind, content, between = self._kinds[index], self._contents[index], self._between[index]
        read = self._read(kind, content)
        if read is None:  # as no block of this kind, without what is around it
            return True
        pair = (wanted, read) if self.layout == "below" else (read, wanted)
        return self._read(kind, self._pair(content, between, text)) == merged([*pair[0], _BETWEEN[between], *pair[1]])

    def laid_out(self, index: int, source: str, target: str) -> str:
        between = self._between[index]
        if between == _SLASH and source != target:  # attributes of a heading belong at its end, and once
            source, target = (
                (source, _ATTRIBUTES.sub("", target))
                if self.layout == "below"
                else (_ATTRIBUTES.sub("", source), target)
            )
        return self._pair(source, between or 2 * self._line_end, target)

    def _pair(self, source: str, between: str, target: str) -> str:
        first = target if self.layout == "below" else source
        space = " " if between == _BREAK and first.endswith("\\") else ""  # or it would escape that
        return super()._pair(source, space + between, target)

    # Side by side -----------------------------------------------------------------------------------------------------

    def lay_out(self, layout: str, source: Language) -> None:
        super().lay_out(layout, source)
        self._last = None
        self._cells = {}
        for index, marked in enumerate(self.segments if layout == "side" else ()):
            if not self._between[index]:
                cell = self._written(index, "cell", tidy(arrange(marked, marked.text)[0]))
                if cell is not None:
                    self._cells[index] = cell

    def piece(self, index: int, target: str) -> str:
        if index not in self._cells:
            return super().piece(index, target)
        end, before, behind = self._line_end, self._gaps[index], self._gaps[index + 1]
        cell = self._written(index, "cell", tidy(arrange(self.segments[index], target)[0]))
        if cell is None:
            cell = _joined([plain(self.segments[index], target)], "cell", {}, escape=True, raw=True, kept=_ENTITIES)
        row = f"| {self._cells[index]} | {cell} |"
        if index - 1 not in self._cells or before.strip():
            apart = not before.strip(BOM) or _BLANK.search(before)
            row = f"{'' if apart else end}|  |  |{end}|---|---|{end}{row}"
        if index + 1 in self._cells and not behind.strip():
            return row + end
        return row + ("" if not behind.strip() or _BLANK_FIRST.match(behind) else end) + behind

    def _read(self, kind: str, text: str) -> list[Event] | None:
        """What a reader would read where a block of this kind is; None if not such a block."""
        before, after, first = _AROUND[kind]
        tokens = parser().parse(f"{before}{text}{after}", {"references": ChainMap({}, self._env.get("references", {}))})
        types = [token.type for token in tokens]
        held = [token for token in tokens if token.type == "inline"]
        if len(held) != 1 or types[0] != first or (kind != "cell" and len(types) != 3):
            return None
        found = events(held[0].children or [])
        if kind == "task":
            if not (found and found[0][0] == "text" and found[0][1].startswith("[ ] ")):
                return None
            found[0] = ("text", found[0][1].removeprefix("[ ] "))
        return [event for event in found if event != ("text", "")]


def _joined(parts: Sequence[Part], kind: str, style: Style, escape: bool, raw: bool, kept: Mapping[str, str]) -> str:
    """The parts as Markdown.

    Args:
        style: of markers of emphasis.
        escape: whether text that could be markup is escaped.
        raw: as in the file, with the beginnings of its lines; else as the parser has it.
        kept: what characters are written as wherever they stand, as the source has them.
    """
    found, inner = "", list[int]()
    for at, part in enumerate(parts):
        if isinstance(part, str):
            starts, ends = not found or found.endswith("\n"), at + 1 == len(parts)
            text = escaped(part, starts, ends, kept, escape)
            found += text.replace("|", "\\|") if kind == "cell" else text
            continue
        mark = part.mark
        assert isinstance(mark, InlineMark)
        if part.edge == "closing":
            found += mark.closed(found[inner.pop() :], style, raw)
        else:
            found += mark.opened(style, raw)
            if part.edge == "opening":
                inner.append(len(found))
    # Or the bar behind a cell would be escaped.
    return f"{found} " if kind == "cell" and found.endswith("\\") else found


# Blocks --------------------------------------------------------------------------------------------------------------


def _blocks(text: str, env: dict[str, Any]) -> Iterator[_Block]:
    """The blocks of a file that hold text, in order."""
    body = text.removeprefix(BOM)
    offset = len(text) - len(body)
    # Where lines end with two characters, places in the file are further on than in what the parser reads.
    ends = [match.start() - count for count, match in enumerate(re.finditer("\r\n", body))]
    body = body.replace("\r\n", "\n").replace("\r", "\n")
    front = _FRONT.match(body)
    skipped = front.end() if front else 0

    def placed(at: int) -> int:
        at += skipped
        return at + offset + bisect_left(ends, at)

    source = body[skipped:]
    kinds, cells = list[str](), iter(list[list[int]]())
    found = parser().parse(source, env)
    for at, token in enumerate(found):
        if token.nesting > 0:
            kinds.append(token.type.removesuffix("_open"))
        elif token.nesting < 0:
            kinds.pop()
        if token.type == "tr_open":
            cells = iter(_cells(source, *token.meta["lines"][0]))
        if token.type != "inline":
            continue
        cell, heading = kinds[-1] in ("th", "td"), kinds[-1] == "heading"
        where = _cell(source, next(cells, []), token.content) if cell else _lines(source, token)
        if where is None or _depth(token.children or []) > DEEPEST:
            continue
        hashes = heading and source.startswith("#", token.meta["lines"][0][0])
        kind = "cell" if cell else "heading" if hashes else "text"
        tokens, places = token.children or [], [placed(place) for place in where]
        if kind == "text" and [(t.type, (t.map or [0])[0]) for t in found[at + 2 : at + 3]] == [
            ("definition_open", (token.map or [0, 0])[1])
        ]:
            yield from _terms(token, places)
            continue
        task = _TASK.match(token.content) if kinds[-2:] == ["list_item", "paragraph"] else None
        if task and task[0].endswith("\n") and [t.type for t in tokens[:2]] == ["text", "softbreak"]:
            yield _Block(kind, heading, token.content, places, tokens[2:], tokens[1].meta["span"][1])
        elif task and tokens[0].type == "text" and tokens[0].content.startswith(task[0]):
            tokens[0].content = tokens[0].content.removeprefix(task[0])
            yield _Block("task", heading, token.content, places, tokens, task.end())
        else:
            yield _Block(kind, heading, token.content, places, tokens, alone=kinds == ["paragraph"])


def _terms(token: Token, places: Sequence[int]) -> Iterator[_Block]:
    """The terms that are defined below them, one a line."""
    tokens = token.children or []
    depths = itertools.accumulate(child.nesting for child in tokens)
    breaks = [at for at, depth in enumerate(depths) if tokens[at].type == "softbreak" and not depth]
    for before, behind in itertools.pairwise([-1, *breaks, len(tokens)]):
        start = 0 if before < 0 else tokens[before].meta["span"][1]
        end = -1 if behind == len(tokens) else tokens[behind].meta["span"][0]
        yield _Block("text", False, token.content, places, tokens[before + 1 : behind], start, end)


def _depth(tokens: Sequence[Token]) -> int:
    return max(itertools.accumulate(token.nesting for token in tokens), default=0)


def _lines(source: str, token: Token) -> list[int] | None:
    """Where each character of a block's content is in the source; None if that cannot be told."""
    held = token.content.split("\n")
    lines = token.meta["lines"]
    # Lines of odd white space may be trimmed away.
    tries = (_aligned(source, held, lines[first:]) for first in range(len(lines) - len(held) + 1))
    return next((found for found in tries if found is not None), None)


def _aligned(source: str, held: Sequence[str], lines: Sequence[tuple[int, int]]) -> list[int] | None:
    where: list[int] = []
    for text, (start, end) in zip(held, lines, strict=False):
        bare, line = text.lstrip(" \t"), source[start:end]
        hashes = len(line) - len(line.lstrip("#")) if len(held) == 1 else 0  # of a heading, which may hold some too
        at = source.find(bare, start + hashes, end)
        if at < 0:
            return None
        where += [at] * (len(text) - len(bare)) + list(range(at, at + len(bare) + 1))
    return where


def _cells(source: str, start: int, end: int) -> list[list[int]]:
    """Where the characters of each cell of a row are; the parser has no backslashes in front of bars."""
    cells: list[list[int]] = [[]]
    for at in range(start, end):
        if source[at] != "|":
            cells[-1].append(at)
        elif source[at - 1] != "\\" or at == start:
            cells.append([])
    return cells[source[start:end].strip()[:1] == "|" :]


def _cell(source: str, where: Sequence[int], content: str) -> list[int] | None:
    """Where each character of a cell's content is, and its end, as `_lines` has it."""
    held = [index for index, at in enumerate(where) if not source[at].isspace()]
    where = where[held[0] : held[-1] + 1] if held else []
    there = "".join("|" if source[at : at + 2] == "\\|" else source[at] for at in where)
    return [*where, where[-1] + 1 + (there[-1] == "|")] if where and there == content else None
