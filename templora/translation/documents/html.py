"""HTML: the text of a page, its title, and the labels that its tags carry."""

from __future__ import annotations

import html
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from templora.errors import TextError
from templora.translation.documents import tag_soup, xhtml
from templora.translation.documents.base import Document, Slot
from templora.translation.documents.in_language import in_language
from templora.translation.documents.paragraphs import Paragraph, kept, paragraphs, translated
from templora.translation.documents.xhtml import Element, Page
from templora.translation.inline.characters import one_line
from templora.translation.inline.marking import mark_up
from templora.translation.inline.markup import Restored, restore
from templora.translation.languages import Language

# Attributes that a reader sees or hears, and the elements where they are names for a program.
_LABELS = frozenset(["alt", "aria-description", "aria-label", "aria-placeholder", "label", "placeholder", "title"])
_UNSEEN = frozenset(["link", "meta", "script", "style"])
_BUTTONS = frozenset(["button", "reset", "submit"])
_META = {"description"} | {f"{of}:{what}" for of in ("og", "twitter") for what in ("title", "description", "image:alt")}


@dataclass(frozen=True)
class _Relabelled(Page):
    """A page that is read as if some edits had been made in its tags.

    Args:
        edits: in order.
    """

    edits: Sequence[tuple[int, int, str]] = ()

    def text(self, start: int, end: int) -> str:
        found, at = [], start
        for first, behind, new in self.edits[bisect_left(self.edits, (start,)) : bisect_left(self.edits, (end,))]:
            found += [super().text(at, first), new]
            at = behind
        return "".join((*found, super().text(at, end)))


class Html(Document):
    """A page of HTML, or a part of one. Its segments are its paragraphs, its title, and the attributes that are read.

    Args:
        label: its name, for errors.
        raw: what it holds.

    Raises:
        TextError: it cannot be read; names the file.
    """

    def __init__(self, label: str, raw: bytes) -> None:
        self._page = page = self._parsed(label, raw)
        self._slots = sorted([*_labels(page, page.root), *_texts(page)], key=lambda slot: slot.start)
        self.segments = tuple(slot.marked for slot in self._slots)
        self._headings, heading = list[str](), ""
        for slot in self._slots:
            if isinstance(slot, Paragraph) and slot.heading:
                heading = slot.marked.plain
            self._headings.append(heading)

    def _parsed(self, label: str, raw: bytes) -> Page:
        return tag_soup.parse(label, raw)

    def chapter(self, index: int) -> str:
        return self._headings[index]

    def restored(self, index: int, target: str) -> Restored:
        return restore(self.segments[index], target, partial(html.escape, quote=False))

    def render(self, targets: Sequence[str], to: Language) -> bytes:
        """The page; what is not translated yet is in the language of the source."""
        new = {
            slot.start: target
            for slot, target in zip(self._slots, targets, strict=False)
            if one_line(target).strip() != slot.marked.text  # else it stays as it is written
        }
        if not new:
            return self._page.edited([])
        page, edits = self._page, list[tuple[int, int, str]]()
        for slot in self._slots:
            if slot.start in new and not isinstance(slot, Paragraph):
                text = restore(slot.marked, new[slot.start], page.escaped).text.replace('"', "&quot;")
                edits.append((slot.start, slot.end, f'"{text}"'))
        page = _Relabelled(**vars(page), edits=edits)
        # Within paragraphs there are tags with labels.
        texts = [slot for slot in _texts(page) if slot.start in new]
        edits = [*edits, *((p.start, p.end, restore(p.marked, new[p.start], page.escaped).text) for p in texts)]
        return page.edited([*edits, *_said(page, to)])


class Xhtml(Html):
    """The same, written as XML; where it is none it is read as a browser reads what it is given as HTML."""

    def _parsed(self, label: str, raw: bytes) -> Page:
        try:
            return xhtml.parse(label, raw)
        except TextError:
            return super()._parsed(label, raw)


def _texts(page: Page) -> Iterator[Paragraph]:
    """Its paragraphs and its title."""
    for head in page.root.all("head"):
        for title in head.all("title"):
            yield from paragraphs(page, title)
    yield from paragraphs(page, page.root)


def _labels(page: Page, element: Element) -> Iterator[Slot]:
    """The attributes that are read, in an element and those in it."""
    if not translated(element):
        return
    there = element.attributes
    wanted = _LABELS & there.keys() if there and element.name not in _UNSEEN else frozenset[str]()
    if element.name == "input" and there.get("type", "").lower() in _BUTTONS:
        wanted |= {"value"} & there.keys()
    elif element.name == "meta" and (there.get("name") or there.get("property", "")).lower() in _META:
        wanted = frozenset(["content"])
    if wanted:
        spans, _ = tag_soup.attributes(page.source, element.start) or ({}, 0)
        for name in wanted & spans.keys():
            if marked := mark_up([there[name]]):
                yield Slot(*spans[name], marked)
    if element.name == "head" or not kept(element):
        for child in element.children:
            if isinstance(child, Element):
                yield from _labels(page, child)


def _said(page: Page, to: Language) -> Iterator[tuple[int, int, str]]:
    """Edits for what the page says of itself: its language, and its encoding where all of them were alike so far."""
    root = page.root if page.root.name == "html" else page.root.first("html")
    if root is not None:
        names = ("lang", "xml:lang") if "xml:lang" in root.attributes else ("lang",)
        yield from in_language(page, root, names, to)
    head = page.root.first("head")
    if head is not None and page.root.name != "html" and page.codec == "utf-8" and page.source.isascii():
        metas = [meta.attributes for meta in head.all("meta")]
        if not any("charset" in there or "charset" in there.get("content", "").lower() for there in metas):
            yield head.inner[0], head.inner[0], '<meta charset="utf-8">'
