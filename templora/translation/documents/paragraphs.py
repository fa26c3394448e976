"""The paragraphs of a page of HTML or XHTML, and their inline markup."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from templora.translation.documents.base import Slot
from templora.translation.documents.xhtml import Element, Node, Page, Text
from templora.translation.inline.characters import has_letter, one_line
from templora.translation.inline.marking import Around, Inline, Thing, mark_up
from templora.translation.inline.marks import Mark

HEADINGS = frozenset({"h1", "h2", "h3", "h4", "h5", "h6"})
BLOCKS = HEADINGS | frozenset(
    re.findall(
        r"\w+",
        "address article aside blockquote body caption center datalist dd details dialog div dl dt fieldset figcaption "
        "figure footer form head header hgroup hr html legend li main menu nav noscript ol optgroup option p pre "
        "search section select summary table tbody td tfoot th thead title tr ul",
    )
)
# Roots of what has been taken for a text and is none.
NO_TEXT = frozenset({"svg", "math"})
# Nothing in them is translated: the first kind stands between paragraphs, the second may stand in one.
_UNTOUCHED = frozenset({"head", "hr", "pre"})
_OPAQUE = frozenset({
    "audio", "br", "canvas", "iframe", "img", "math", "object", "script", "style", "svg", "template", "textarea",
    "video",
})  # fmt: skip
_CODE = frozenset({"code", "kbd", "samp", "tt", "var"})
_KEPT = _UNTOUCHED | _OPAQUE | _CODE
_READINGS = frozenset({"rp", "rt", "rtc"})
# What refers to a note: a number or a sign, raised or in brackets.
_REFERENCE = re.compile(r"\s*[(\[]?\s*[\d*†‡§¶#]{1,4}\s*[)\]]?\s*")
_MAX_REFERENCE = 2000  # bytes, tags included


@dataclass(frozen=True)
class Paragraph(Slot):
    """A paragraph, as bytes of the page.

    Args:
        inside: names of the elements that it is in, the innermost last.
        element: the innermost one, if nothing else is in it.
    """

    inside: tuple[str, ...]
    element: Element | None = None

    @property
    def heading(self) -> bool:
        return not HEADINGS.isdisjoint(self.inside)


def paragraphs(page: Page, within: Element, inside: tuple[str, ...] = ()) -> Iterator[Paragraph]:
    """The paragraphs in an element, in order: text and inline markup between the edges of blocks."""
    inside = (*inside, within.name)
    alone = None if any(isinstance(child, Element) and _is_block(child) for child in within.children) else within
    run: list[Node] = []
    for child in [*within.children, None]:
        if child is not None and (isinstance(child, Text) or not _is_block(child)):
            run.append(child)
            continue
        yield from _paragraph(page, run, inside, alone)
        run = []
        if child is not None and child.name not in _UNTOUCHED and translated(child):
            yield from paragraphs(page, child, inside)


def _is_block(element: Element) -> bool:
    if element.block is None:
        element.block = element.name not in _OPAQUE and (
            element.name in BLOCKS or any(isinstance(c, Element) and _is_block(c) for c in element.children)
        )
    return element.block


def translated(element: Element) -> bool:
    """Whether an element does not ask to be left as it is."""
    there = element.attributes
    kinds = [*there.get("epub:type", "").split(), *there.get("class", "").split()]
    return there.get("translate", "").lower() != "no" and "page-list" not in kinds and "notranslate" not in kinds


def kept(element: Element) -> bool:
    """Whether nothing in an element is translated."""
    return element.name in _KEPT or not translated(element)


def _paragraph(page: Page, run: Sequence[Node], inside: tuple[str, ...], alone: Element | None) -> Iterator[Paragraph]:
    held = [index for index, node in enumerate(run) if not _silent(node)]
    if not held:
        return
    run = run[held[0] : held[-1] + 1]
    marked = mark_up(item for node in run for item in _inline(page, node))
    if marked is None:
        return
    (start, _), (_, end) = _bare(page, run[0]), _bare(page, run[-1])
    yield Paragraph(start, end, marked, inside, alone and replace(alone, children=[]))


def _silent(node: Node) -> bool:
    """Whether nothing would be read of a node at an end of a paragraph."""
    if isinstance(node, Text):
        return not node.data.strip()
    return not node.name or node.name in _OPAQUE or not node.children


def _bare(page: Page, node: Node) -> tuple[int, int]:
    """Where a node is, without white space at its ends."""
    if isinstance(node, Element) or node.whole:
        return node.start, node.end
    source = page.text(node.start, node.end)
    return node.end - len(source.lstrip().encode()), node.start + len(source.rstrip().encode())


def _inline(page: Page, node: Node) -> Iterator[Inline]:
    if isinstance(node, Text):
        yield node.data
        return
    name = node.name
    if name == "ruby":  # how the source's characters are read: nothing for another language
        for child in node.children:
            if isinstance(child, Text) or child.name == "rb":
                yield from [child.data] if isinstance(child, Text) else _inside(page, child)
            elif child.name not in _READINGS:
                yield from _inline(page, child)
    elif name in _CODE or not translated(node):
        yield Thing(Mark(_whole(page, node), shown=one_line(node.text).strip()))
    elif _silent(node) or _refers(node):
        yield Thing(Mark(_whole(page, node), link=name == "a"))
    else:
        opening, closing = page.text(node.start, node.inner[0]), page.text(node.inner[1], node.end)
        link = name == "a" and "href" in node.attributes
        yield Around(Mark(opening, closing, wraps=True, link=link), list(_inside(page, node)))


def _whole(page: Page, node: Element) -> str:
    """An element as it is written; with an end tag, without which more would be in it where a translation has it."""
    unclosed = bool(node.children) and node.inner[1] == node.end
    return page.text(node.start, node.end) + f"</{node.name}>" * unclosed


def _inside(page: Page, node: Element) -> Iterator[Inline]:
    for child in node.children:
        yield from _inline(page, child)


def _refers(node: Element) -> bool:
    """Whether it is a reference to a note."""
    if node.end - node.start > _MAX_REFERENCE:
        return False
    if "noteref" in node.attributes.get("epub:type", "").split() or node.attributes.get("role") == "doc-noteref":
        return not has_letter(node.text)
    if node.name not in ("a", "sup") or not _REFERENCE.fullmatch(text := node.text):
        return False
    return node.name == "sup" or text.strip()[:1] in ("(", "[", "*", "†", "‡") or any(True for _ in node.all("sup"))
