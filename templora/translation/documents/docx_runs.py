"""Runs of a Word document: as text with few marks for the model, and written again around its translation."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, TypeAlias

from templora.translation.documents.xhtml import with_attributes
from templora.translation.inline.characters import has_letter, one_line
from templora.translation.inline.marking import Around, Inline, Thing
from templora.translation.inline.marks import Mark, Part, Place
from templora.translation.inline.markup import Marked, arrange, plain
from templora.translation.languages import Language

_RAISED = re.compile(r"vertAlign\b[^>]*[\"']su[bp]")
_BLANKS = re.compile(r"(\s{3,}|_{3,}|\.{5,}|…{2,})")
# Characters that Word has elements for.
ELEMENTS = {"\u2011": "noBreakHyphen", "\u00ad": "softHyphen"}
_APART = re.compile(f"([{''.join(ELEMENTS)}])")
# What is shown of these fields is text; of others it is a number, a date, a name, or a copy of what is elsewhere.
_TEXT_FIELDS = frozenset({"HYPERLINK", "TOC", "INDEX", "TOA", "QUOTE"})
_GOOD_PART = 8  # of the letters of a paragraph, one in so many
_DEEPEST = 20  # fields in fields; what is deeper is no field, but stays in its order
# Properties with a twin for scripts that run from right to left.
_TWINS = ("b", "i", "sz")


@dataclass(frozen=True)
class Run:
    """How text is set.

    Args:
        prefix: of Word's elements, with its colon.
        opening: what stands in front of its properties: the run's tag, and that of the insertion that it is in.
        properties: as they are in the source; empty where it has none.
        closing: what stands behind its content.
        look: those properties that a reader sees. Runs that look alike are one to the model.
        code: whether it is code.
    """

    prefix: str
    opening: str
    properties: str
    closing: str
    look: tuple[str, ...]
    code: bool = False

    @property
    def raised(self) -> bool:
        """Whether it is set higher or lower."""
        return bool(_RAISED.search(self.properties))

    def opened(self, to: Language | None = None) -> str:
        """What stands in front of its content; with a language it says that it is in that."""
        held = self.properties if to is None else self._in_language(to)
        return f"{self.opening}<{self.prefix}rPr>{held}</{self.prefix}rPr>" if held else self.opening

    def _in_language(self, to: Language) -> str:
        prefix, wanted = self.prefix, languages(self.prefix, to)
        held, change, changes = self.properties.partition(f"<{prefix}rPrChange")  # which comes last
        held = re.sub(rf"<{prefix}lang\b[^>]*>", lambda tag: with_attributes(tag[0], wanted), held)
        if not to.right_to_left:
            return re.sub(rf"<{prefix}rtl\b[^>]*>", f'<{prefix}rtl {prefix}val="0"/>', held) + change + changes
        held = re.sub(rf"<{prefix}rtl\b[^>]*>", "", held)
        for name in _TWINS:
            if not re.search(rf"<{prefix}{name}Cs\b", held):
                held = re.sub(rf"<{prefix}{name}\b([^>]*>)", rf"\g<0><{prefix}{name}Cs\1", held, count=1)
        return f"{held}<{prefix}rtl/>{change}{changes}"


def languages(prefix: str, to: Language) -> Mapping[str, str]:
    """The attributes that say which language a text is in."""
    wanted = {"val": to.code}
    if to.script in ("Hans", "Hant", "Jpan", "Kore"):
        wanted["eastAsia"] = to.code
    if to.right_to_left:
        wanted["bidi"] = to.code
    return {f"{prefix}{name}": code for name, code in wanted.items()}


class Piece(NamedTuple):
    """Bytes [start, end) of the source, and what is written around them."""

    opening: str
    start: int
    end: int
    closing: str = ""


@dataclass(frozen=True)
class RunMark(Mark):
    """A mark of a Word document. One that wraps text has its opening and closing around runs, or how the runs in it are
    set, or both.

    Args:
        run: how text in it is set; None: as outside of it.
        pieces: of one that wraps none, what it is.
        ordered: it keeps its place among others that are: where a field, a bookmark or the like begins or ends.
    """

    run: Run | None = None
    pieces: tuple[Piece, ...] = ()
    ordered: bool = False

    @property
    def raised(self) -> bool:
        return self.run is not None and self.run.raised

    @property
    def needed(self) -> bool:
        return super().needed or bool(self.opening)

    def merged(self, inner: Mark) -> RunMark:
        assert isinstance(inner, RunMark)
        held = super().merged(inner)
        return RunMark(held.opening, held.closing, wraps=True, link=held.link, run=inner.run or self.run)


# Reading -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Words:
    """Text of a run."""

    text: str
    run: Run
    pieces: tuple[Piece, ...]


@dataclass(frozen=True)
class Object:
    """What is no text.

    Args:
        pieces: of the source.
        shown: of one that is kept, what the model sees.
        ordered: as in `RunMark`.
        field: of a part of a field, which: "begin", "instruction", "separate" or "end".
        instruction: of a field, in that part.
    """

    pieces: tuple[Piece, ...]
    shown: str = ""
    ordered: bool = False
    field: str = ""
    instruction: str = ""


@dataclass(frozen=True)
class Box:
    """What stands around runs, such as a link.

    Args:
        opening, closing: of the source.
        link: whether it is one.
        inner: what is in it.
        pieces: all of it.
    """

    opening: str
    closing: str
    link: bool
    inner: Sequence[Item]
    pieces: tuple[Piece, ...]


Item: TypeAlias = "Words | Object | Box"


def text_field(instruction: str) -> str:
    """The kind of a field, if what it shows is text; else empty."""
    kind = (instruction.split(maxsplit=1) or [""])[0].upper()
    return kind if kind in _TEXT_FIELDS else ""


def with_fields(items: Sequence[Item], source: Callable[[Piece], str]) -> list[Item]:
    """Items with each field that begins and ends among them as one.

    Args:
        source: what a piece is in the source.
    """
    found: list[Item] = []
    begun: list[int] = []
    deeper = 0
    for item in items:
        found.append(item)
        edge = item.field if isinstance(item, Object) else ""
        if edge == "begin" and (deeper or len(begun) == _DEEPEST):
            deeper += 1
        elif edge == "begin":
            begun.append(len(found) - 1)
        elif edge == "end" and deeper:
            deeper -= 1
        elif edge == "end" and begun:
            start = begun.pop()
            found[start:] = [_field(found[start:], source)]
    return found


def _field(items: Sequence[Item], source: Callable[[Piece], str]) -> Item:
    edges = [item.field if isinstance(item, Object) else "" for item in items]
    at = edges.index("separate") if "separate" in edges else len(items) - 1
    kind = text_field("".join(item.instruction for item in items[:at] if isinstance(item, Object)))
    pieces, result = _pieces(items), items[at + 1 : -1]
    if kind and result:
        opening = "".join(map(source, _pieces(items[: at + 1])))
        return Box(opening, "".join(map(source, items[-1].pieces)), kind == "HYPERLINK", result, pieces)
    return Object(pieces, said(result))


def said(items: Sequence[Item]) -> str:
    """What is kept of some items, if there is a letter in it."""
    left, text = [*reversed(items)], ""
    while left:
        item = left.pop()
        if isinstance(item, Box):
            left += reversed(item.inner)
        else:
            text += item.text if isinstance(item, Words) else item.shown
    return one_line(text).strip() if has_letter(text) else ""


def _pieces(items: Sequence[Item]) -> tuple[Piece, ...]:
    """The pieces of some items; those that follow each other in one run are one."""
    found: list[Piece] = []
    for piece in (piece for item in items for piece in item.pieces):
        last = found[-1] if found else None
        if last and last.end == piece.start > 0 and (last.opening, last.closing) == (piece.opening, piece.closing):
            found[-1] = last._replace(end=piece.end)
        else:
            found.append(piece)
    return tuple(found)


def main_run(items: Sequence[Item]) -> Run | None:
    """The plainest way in which a good part of a text is set; links count only where there is nothing else."""
    letters: Counter[tuple[bool, tuple[str, ...]]] = Counter()
    runs: dict[tuple[bool, tuple[str, ...]], Run] = {}
    left = [(item, False) for item in reversed(items)]
    while left:
        item, linked = left.pop()
        if isinstance(item, Box):
            left += [(inner, linked or item.link) for inner in reversed(item.inner)]
        elif isinstance(item, Words) and not item.run.code and (count := sum(map(str.isalpha, item.text))):
            key = linked, item.run.look
            letters[key] += count
            runs.setdefault(key, item.run)
    counts = {key: count for key, count in letters.items() if not key[0]} or letters
    if not counts:
        return None
    least = min(sum(counts.values()) / _GOOD_PART, max(counts.values()))
    keys = [key for key, count in counts.items() if count >= least]
    return runs[min(keys, key=lambda key: (len(key[1]), -counts[key]))]


def inline(items: Sequence[Item], main: Run, written: Callable[[Run, str], str]) -> list[Inline]:
    """Items as content of a paragraph: what is set as the main text is bare, the rest is in marks.

    Args:
        written: a text in a run, as the source would have it.
    """
    found: list[Inline] = []
    group: list[Inline] = []
    run = main
    for item in _joined(_parted(items, written)):
        if isinstance(item, Object):
            group.append(Thing(RunMark("", shown=item.shown, pieces=item.pieces, ordered=item.ordered)))
        elif isinstance(item, Box):
            mark = RunMark(item.opening, item.closing, wraps=True, link=item.link)
            whole = RunMark("", link=item.link, pieces=item.pieces)
            found += [*_set(group, run, main), Around(mark, inline(item.inner, main, written), whole)]
            group, run = [], main
        else:
            if item.run.look != run.look and item.text.strip():
                found += _set(group, run, main)
                group, run = [], item.run
            group.append(item.text)
    return found + _set(group, run, main)


def _parted(items: Sequence[Item], written: Callable[[Run, str], str]) -> Iterator[Item]:
    """With code as objects, and blanks that somebody has set columns with, or left a gap with to write in."""
    for code, group in itertools.groupby(items, lambda item: isinstance(item, Words) and item.run.code):
        held = list(group)
        if code:
            yield from _code(held, written)
            continue
        for item in held:
            if not isinstance(item, Words):
                yield item
                continue
            for at, text in enumerate(_BLANKS.split(item.text)):
                if text:
                    yield Object((Piece(written(item.run, text), 0, 0),)) if at % 2 else replace(item, text=text)


def _code(items: Sequence[Item], written: Callable[[Run, str], str]) -> Iterator[Item]:
    """Runs of code as an object that the model sees, between the white space at their ends."""
    words = [item for item in items if isinstance(item, Words)]
    text, first = "".join(item.text for item in words), words[0]
    bare = text.strip()
    pieces = _pieces(items) if bare == text else (Piece(written(first.run, bare), 0, 0),)
    if text[:1].isspace():
        yield replace(first, text=" ")
    if bare:
        yield Object(pieces, one_line(bare))
        if text[-1:].isspace():
            yield replace(first, text=" ")


def _joined(items: Iterable[Item]) -> Iterator[Item]:
    """Neighbours of which the model sees nothing as one: the fewer tags, the fewer mistakes."""
    for unseen, group in itertools.groupby(items, lambda item: isinstance(item, Object) and not item.shown):
        held = list(group)
        if unseen:
            yield Object(_pieces(held), ordered=any(isinstance(item, Object) and item.ordered for item in held))
        else:
            yield from held


def _set(group: list[Inline], run: Run, main: Run) -> list[Inline]:
    """What is set alike, in a mark unless it is set as the main text; without what is at its ends and no word."""
    held = [at for at, item in enumerate(group) if isinstance(item, str) and item.strip()]
    if run.look == main.look or not held:
        return group
    first, last = held[0], held[-1]
    inner, before, after = group[first : last + 1], group[:first], group[last + 1 :]
    text = str(inner[0])
    before, inner[0] = [*before, text[: len(text) - len(text.lstrip())]], text.lstrip()
    text = str(inner[-1])
    after, inner[-1] = [text[len(text.rstrip()) :], *after], text.rstrip()
    return [*before, Around(RunMark("", wraps=True, run=run), inner), *after]


# Writing -------------------------------------------------------------------------------------------------------------


def arranged(marked: Marked, target: str) -> tuple[list[Part], int]:
    """As `markup.arrange`, with those marks in order that must be."""
    parts, moved = arrange(marked, target)
    wanted = [mark.number for mark in marked.marks if _ordered(mark)]
    if wanted != [
        part.mark.number for part in parts if isinstance(part, Place) and part.mark.number and _ordered(part.mark)
    ]:
        return arrange(marked, plain(marked, target))[0], len(marked.marks)
    return parts, moved


def _ordered(mark: Mark) -> bool:
    return isinstance(mark, RunMark) and mark.ordered


def written(run: Run, text: str, escaped: Callable[[str], str], to: Language | None = None) -> str:
    """A text in a run.

    Args:
        escaped: the text of a document as it stands between tags.
        to: the language that it is in, if it is in another one.
    """
    prefix, found = run.prefix, ""
    for part in filter(None, _APART.split(text)):
        name = ELEMENTS.get(part)
        found += f"<{prefix}{name}/>" if name else f'<{prefix}t xml:space="preserve">{escaped(part)}</{prefix}t>'
    return f"{run.opened(to)}{found}{run.closing}" if found else ""


def joined(parts: Sequence[Part], main: Run, text: Callable[[Run, str], str], source: Callable[[Piece], str]) -> str:
    """The content of a paragraph.

    Args:
        parts: of it.
        main: how text outside of all marks is set.
        text: writes text in a run.
        source: what a piece is now.
    """
    found, runs = "", [main]
    for part in parts:
        if isinstance(part, str):
            found += text(runs[-1], part)
            continue
        mark = part.mark
        assert isinstance(mark, RunMark)
        if part.edge == "whole":
            found += "".join(map(source, mark.pieces))
        elif part.edge == "opening":
            found += mark.opening
            runs.append(mark.run or runs[-1])
        else:
            found += mark.closing
            runs.pop()
    return found
