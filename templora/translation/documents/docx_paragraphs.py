"""The paragraphs of a part of a Word document, and their runs."""

from __future__ import annotations

import bisect
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from templora.translation.documents.base import Slot
from templora.translation.documents.docx_parts import Styles, child, value
from templora.translation.documents.docx_runs import (
    ELEMENTS,
    Box,
    Item,
    Object,
    Piece,
    Run,
    Words,
    arranged,
    inline,
    joined,
    main_run,
    said,
    text_field,
    with_fields,
    written,
)
from templora.translation.documents.xhtml import Element, Page, Text
from templora.translation.inline.characters import breakable
from templora.translation.inline.marking import mark_up
from templora.translation.inline.marks import Part
from templora.translation.inline.markup import Restored
from templora.translation.languages import Language

Edit = tuple[int, int, str]

_INSERTED, _DELETED = frozenset({"ins", "moveTo"}), frozenset({"del", "moveFrom"})
_AROUND = frozenset({"hyperlink", "smartTag", "customXml", "dir", "bdo", "fldSimple", "sdt"})
# What was known of the old text alone: its spelling, and where its pages ended.
_FORGOTTEN = frozenset({"proofErr", "lastRenderedPageBreak"})
_EDGES = ("bookmark", "commentRange", "perm", "moveFromRange", "moveToRange", "customXml")
# Controls whose text is a choice, or comes from elsewhere.
_KEPT_CONTROLS = frozenset({"checkbox", "comboBox", "dataBinding", "date", "dropDownList", "picture"})
# What of a run's properties cannot be seen, and what differs from run to run for no reason.
_UNSEEN = frozenset({"lang", "noProof", "kern", "w"})
_MAX_UNSEEN_SPACING = 10  # twentieths of a point
# What comes behind the direction among a paragraph's properties.
_BEHIND_DIRECTION = frozenset({
    "adjustRightInd", "snapToGrid", "spacing", "ind", "contextualSpacing", "mirrorIndents", "suppressOverlap", "jc",
    "textDirection", "textAlignment", "textboxTightWrap", "outlineLvl", "divId", "cnfStyle", "rPr", "sectPr",
    "pPrChange",
})  # fmt: skip
_AUTHOR = re.compile(r"author\s*=\s*(\"[^\"]*\"|'[^']*')")
_MAX_INITIAL = 3  # characters, a quote or so included
_OFF = frozenset({"0", "false", "off"})


@dataclass(frozen=True)
class Paragraph(Slot):
    """A paragraph, as bytes of the part.

    Args:
        main: how most of its text is set.
        right_to_left: whether it says that it runs so.
        turned: the edit that has it run the other way.
        heads: whether it is a heading.
        lists_contents: whether it is in a table of contents.
        versions: where the alternatives begin of which it is in one; 0 if there are none.
        again: whether it is not in the first of them.
        initial: the large one in front of it, which is a paragraph for Word.
        drops: whether it is such a one itself.
    """

    main: Run
    right_to_left: bool
    turned: Edit
    heads: bool
    lists_contents: bool
    versions: int
    again: bool
    initial: Paragraph | None
    drops: bool


class _Found(NamedTuple):
    element: Element
    versions: int
    again: bool


class TextPart:
    """A part with text.

    Args:
        path: in the archive.
        page: that it is; its elements are dropped.
        styles: of the document.

    Attributes:
        path: the same.
        page: the same.
        prefix: of Word's elements in it, with its colon.
        paragraphs: those with a letter, in the order in which they begin: one in a box is behind the one that has the
            box.
    """

    def __init__(self, path: str, page: Page, styles: Styles) -> None:
        self.path, self.page = path, page
        self.prefix, self._styles = prefix_of(page), styles
        self.paragraphs: list[Paragraph] = []
        initial: Paragraph | None = None
        for found in self._elements():
            paragraph = self._paragraph(found, initial)
            if paragraph is None and initial is not None:
                self.paragraphs.append(initial)
            elif paragraph is not None and not paragraph.drops:
                self.paragraphs.append(paragraph)
            initial = paragraph if paragraph is not None and paragraph.drops else None
        self.paragraphs += [initial] if initial else []
        page.root.children.clear()

    # Reading ---------------------------------------------------------------------------------------------------------

    def _name(self, element: Element) -> str:
        """The name of an element of Word; empty for others."""
        own = self.page.source.startswith(f"<{self.prefix}{element.name}".encode(), element.start)
        return element.name if own else ""

    def _elements(self) -> Iterator[_Found]:
        """All paragraphs but those in controls that are kept and in what is deleted."""
        left = [_Found(self.page.root, 0, False)]
        while left:
            element, versions, again = left.pop()
            name = self._name(element)
            if name == "p":
                yield _Found(element, versions, again)
            if name in _DELETED or (name == "sdt" and _kept(element)):
                continue
            held = [node for node in element.children if isinstance(node, Element)]
            if element.name == "AlternateContent":
                versions = versions or element.start
                left += [_Found(node, versions, again or node is not held[0]) for node in reversed(held)]
            else:
                left += [_Found(node, versions, again) for node in reversed(held)]

    def _paragraph(self, found: _Found, initial: Paragraph | None) -> Paragraph | None:
        """A paragraph, if there is a letter in it, with the initial that is in the one in front of it."""
        element, styles = found.element, self._styles
        first = next((node for node in element.children if isinstance(node, Element)), None)
        properties = first if first is not None and first.name == "pPr" else None
        nodes = [node for node in element.children if node is not properties]
        items = with_fields(list(self._items(nodes)), self._source)
        main = main_run(items)
        if main is None or styles.code(properties):
            return None
        content = inline(items, main, partial(written, escaped=self.page.escaped))
        marked = mark_up([initial.marked.text, *content] if initial else content)
        if marked is None:
            return None
        dropped = value(child(properties, "framePr"), "dropCap") not in ("", "none") and initial is None
        start = properties.end if properties else element.inner[0]
        direction = child(properties, "bidi")
        right_to_left = direction is not None and value(direction) not in _OFF
        return Paragraph(
            start,
            element.inner[1],
            marked,
            main,
            right_to_left,
            self._turned(element, properties, right_to_left),
            styles.heads(properties),
            styles.lists_contents(properties),
            found.versions,
            found.again,
            initial,
            dropped and len(marked.text) <= _MAX_INITIAL,
        )

    def _turned(self, element: Element, properties: Element | None, right_to_left: bool) -> Edit:
        prefix = self.prefix
        tag = f'<{prefix}bidi {prefix}val="0"/>' if right_to_left else f"<{prefix}bidi/>"
        if properties is None or properties.end == properties.inner[0]:
            at = (properties.start, properties.end) if properties else (element.inner[0], element.inner[0])
            return (*at, f"<{prefix}pPr>{tag}</{prefix}pPr>")
        if direction := child(properties, "bidi"):
            return direction.start, direction.end, tag
        behind = (node for node in properties.children if isinstance(node, Element) and node.name in _BEHIND_DIRECTION)
        first = next(behind, None)
        at_ = first.start if first else properties.inner[1]
        return at_, at_, tag

    def _items(self, nodes: Sequence[Text | Element], opening: str = "", closing: str = "") -> Iterator[Item]:
        """What is in a paragraph.

        Args:
            opening, closing: tags of the insertion around it.
        """
        for node in nodes:
            if isinstance(node, Text):
                continue
            name = self._name(node)
            piece = Piece(opening, node.start, node.end, closing)
            if name == "r":
                yield from self._run(node, opening, closing)
            elif name in _INSERTED and node.children:
                before, after = self._edges(node)
                yield from self._items(node.children, opening + before, after + closing)
            elif name in _AROUND and node.children:
                yield self._box(node, piece)
            elif name not in _FORGOTTEN:
                edge = name.startswith(_EDGES) and name.endswith(("Start", "End"))
                yield Object((piece,), ordered=edge)

    def _box(self, node: Element, piece: Piece) -> Item:
        """What is around runs: its tags, and the properties that stand before its content."""
        name, content = node.name, node
        opening, closing = self._edges(node)
        if name == "sdt":
            held = child(node, "sdtContent")
            content = held if held is not None else Element("", {}, node.start)
            start, end = content.inner
            opening, closing = self.page.text(node.start, start), self.page.text(end, node.end)
        nodes = content.children
        if properties := child(node, f"{name}Pr") if name != "sdt" else None:
            opening = self.page.text(node.start, properties.end)
            nodes = nodes[nodes.index(properties) + 1 :]
        inner = with_fields(list(self._items(nodes, piece.opening, piece.closing)), self._source)
        kind = text_field(value(node, "instr")) if name == "fldSimple" else ""
        if not nodes or (name == "fldSimple" and not kind) or (name == "sdt" and _kept(node)):
            return Object((piece,), said(inner))
        return Box(opening, closing, "HYPERLINK" in (name.upper(), kind), inner, (piece,))

    def _run(self, node: Element, opening: str, closing: str) -> Iterator[Item]:
        properties = child(node, "rPr")
        held = self.page.text(*properties.inner) if properties else ""
        before, after = self._edges(node)
        inserted = _AUTHOR.findall(opening) or [opening[:1]]
        look = (*inserted, *self._look(properties))
        run = Run(self.prefix, opening + before, held, after + closing, look, self._styles.code(properties))
        before = run.opened()
        for inner in node.children:
            if isinstance(inner, Text) or inner is properties or (name := self._name(inner)) in _FORGOTTEN:
                continue
            pieces = (Piece(before, inner.start, inner.end, run.closing),)
            if name in ("t", "ruby"):
                yield _words(inner, run, pieces)
            elif name in ELEMENTS.values():
                yield Words(next(c for c, held in ELEMENTS.items() if held == name), run, pieces)
            elif name == "fldChar":
                yield Object(pieces, ordered=True, field=value(inner, "fldCharType"))
            elif name == "instrText":
                yield Object(pieces, ordered=True, field="instruction", instruction=inner.text)
            else:
                yield Object(pieces)

    def _look(self, properties: Element | None) -> Iterator[str]:
        """What of a run's properties a reader sees."""
        for node in properties.children if properties else ():
            if isinstance(node, Element) and node.name not in _UNSEEN:
                spacing = value(node).lstrip("-") if node.name == "spacing" else ""
                hint = node.name == "rFonts" and all(key.endswith("hint") for key in node.attributes)
                if not hint and not (spacing.isdecimal() and int(spacing[:9]) <= _MAX_UNSEEN_SPACING):
                    yield self.page.text(node.start, node.end)

    def _edges(self, element: Element) -> tuple[str, str]:
        """Its tags."""
        (start, end), text = element.inner, self.page.text
        return text(element.start, start), text(end, element.end)

    # Writing ---------------------------------------------------------------------------------------------------------

    def restored(
        self, paragraph: Paragraph, target: str, to: Language | None = None, edits: Sequence[Edit] = ()
    ) -> Restored:
        """The content of a paragraph for a translation of it.

        Args:
            to: the language that it is in; None: nothing says so in it.
            edits: of the paragraphs behind it, from the last on; some may be in boxes that it has.
        """
        parts, moved = arranged(paragraph.marked, target)
        if paragraph.initial and (at := _first_text(parts)) is not None:
            parts[at] = str(parts[at]).removeprefix(_initial(str(parts[at])))
        text = partial(written, escaped=self.page.escaped, to=to)
        return Restored(joined(parts, paragraph.main, text, partial(self._source, edits=edits)), moved)

    def edits(self, paragraph: Paragraph, target: str, to: Language, edits: Sequence[Edit]) -> list[Edit]:
        """What is to change for a translation of a paragraph; the arguments are those of `restored`."""
        found = [(paragraph.start, paragraph.end, self.restored(paragraph, target, to, edits).text)]
        found += [paragraph.turned] * (paragraph.right_to_left != to.right_to_left)
        if paragraph.initial is None:
            return found
        parts, _ = arranged(paragraph.marked, target)
        at = _first_text(parts)
        return found + self.edits(paragraph.initial, "" if at is None else _initial(str(parts[at])), to, ())

    def _source(self, piece: Piece, edits: Sequence[Edit] = ()) -> str:
        """What a piece is, with edits that are within it."""
        first, last = (bisect.bisect_left(edits, -at, key=lambda edit: -edit[0]) for at in (piece.end, piece.start))
        held, at = "", piece.start
        for start, end, text in sorted(edits[first:last]):
            if at <= start and end <= piece.end:
                held += self.page.text(at, start) + text
                at = end
        return f"{piece.opening}{held}{self.page.text(at, piece.end)}{piece.closing}"


def prefix_of(page: Page) -> str:
    """What the names of Word's elements begin with."""
    root = page.root
    return page.text(root.start + 1, root.inner[0]).partition(root.name)[0] if page.root else ""


def _kept(control: Element) -> bool:
    """Whether the text of a control stays as it is."""
    properties = child(control, "sdtPr")
    nodes = properties.children if properties else ()
    return any(isinstance(node, Element) and node.name in _KEPT_CONTROLS for node in nodes)


def _first_text(parts: Sequence[Part]) -> int | None:
    return next((at for at, part in enumerate(parts) if isinstance(part, str) and part.strip()), None)


def _initial(text: str) -> str:
    """The first letter of a text, with what stands in front of it."""
    start = next((at for at, character in enumerate(text) if character.isalnum()), 0)
    return text[: next((at for at in range(start + 1, len(text)) if breakable(text, at)), len(text))]


def _words(element: Element, run: Run, pieces: tuple[Piece, ...]) -> Item:
    """Text of a run; without its readings, where it has some."""
    if element.name == "ruby":
        base = child(element, "rubyBase")
        return Words("".join(held.text for held in base.all("t")) if base else "", run, pieces)
    text = element.text
    if not all(isinstance(node, Text) for node in element.children):  # what an entity stands for is not known
        return Object(pieces, text)
    return Words(text if value(element, "space") == "preserve" else text.strip(" \t\r\n"), run, pieces)
