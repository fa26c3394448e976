"""EPUB: the texts in reading order, and the tables of contents."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

from templora.errors import OptionError, TextError
from templora.translation.documents.base import Document, Slot
from templora.translation.documents.bilingual import Pair
from templora.translation.documents.in_language import in_language
from templora.translation.documents.package import Package
from templora.translation.documents.paragraphs import NO_TEXT, paragraphs
from templora.translation.documents.xhtml import Element, Page, Text, with_attributes
from templora.translation.inline.characters import has_letter, one_line
from templora.translation.inline.marking import mark_up
from templora.translation.inline.marks import TAG
from templora.translation.inline.markup import Marked, Restored, plain, restore
from templora.translation.languages import Language, language


@dataclass
class _Member:
    """A page of the archive.

    Args:
        path: in the archive.
        page: of whose elements the root and the body are left, without what is in them.
        slots: what is translated in it, each with the number of the segment whose translation it gets: its own, or the
            one that reads the same.
        title: of it, if it has one.
    """

    path: str
    page: Page
    slots: list[tuple[Slot, int]] = field(default_factory=list)
    title: Slot | None = None


class Epub(Document):
    """An EPUB. Its segments are the paragraphs of its texts, and those labels of its tables of contents that read like
    none of them; a label that does is given that one's translation.

    Args:
        label: its name, for errors.
        raw: what it holds.

    Raises:
        TextError: it cannot be opened, or none of its texts can be read; names the file and the member.
    """

    layouts = ("target", "both", "below", "side")

    def __init__(self, label: str, raw: bytes) -> None:
        self._package = package = Package(label, raw)
        self._found: list[Marked] = []
        self._headings: list[str] = []
        self._reads: dict[str, int] = {}  # segments by what they read, headings before others
        self._members: list[_Member] = []
        for member, label_ in self._take_paragraphs():
            self._take_label(member, label_)
        for path, page in package.readable(package.contents):
            self._take_contents(self._member(path, page))
        for member in self._members:
            if member.title and (reads := _reading(member.title.marked, member.title.marked.text)) in self._reads:
                member.slots.append((member.title, self._reads[reads]))
        self.segments = tuple(self._found)
        self.problems = tuple(package.problems)
        if not self.segments and self.problems:
            raise TextError(f"{label}: there is no text in it that can be translated{package.because}")

    def chapter(self, index: int) -> str:
        return self._headings[index]

    def restored(self, index: int, target: str) -> Restored:
        return restore(self.segments[index], target, partial(html.escape, quote=False))

    def render(self, targets: Sequence[str], to: Language) -> bytes:
        """The book; what is not translated yet is in the language of the source."""
        package = self._package
        edits = [(member.path, member.page, self._edits(member, targets, to)) for member in self._members]
        edits.append((package.path, package.page, self._package_edits(to)))
        return package.archive.written({path: page.edited(new) for path, page, new in edits if new})

    # Reading ---------------------------------------------------------------------------------------------------------

    def _take_paragraphs(self) -> list[tuple[_Member, Slot]]:
        """Takes the paragraphs of the texts; returns the labels."""
        labels: list[tuple[_Member, Slot]] = []
        heading, headings, others = "", dict[str, int](), dict[str, int]()
        package = self._package
        apart = [path for path in package.navigation if path not in package.texts]
        for path, page in package.readable([*package.texts, *apart]):
            if page.root.name in NO_TEXT:
                package.problems.append(f"{path}: a picture, no text; left as it is")
                continue
            member, navigates = self._member(path, page), path in package.navigation
            head = page.root.first("head")
            title = head.first("title") if head else None
            member.title = _line(title) if title and path in package.texts else None
            found = list(paragraphs(page, page.root))
            _forget(page.root)
            for paragraph in found:
                if navigates and "nav" in paragraph.inside:
                    labels.append((member, paragraph))
                    continue
                reads = _reading(paragraph.marked, paragraph.marked.text)
                heading = reads if paragraph.heading else heading
                (headings if paragraph.heading else others).setdefault(reads, len(self._found))
                self._add(member, paragraph, heading)
        self._reads = others | headings
        return labels

    def _add(self, member: _Member, slot: Slot, heading: str = "") -> None:
        member.slots.append((slot, len(self._found)))
        self._found.append(slot.marked)
        self._headings.append(heading)

    def _take_label(self, member: _Member, slot: Slot) -> None:
        reads = _reading(slot.marked, slot.marked.text)
        if reads in self._reads:
            member.slots.append((slot, self._reads[reads]))
        else:
            self._reads[reads] = len(self._found)
            self._add(member, slot)

    def _take_contents(self, member: _Member) -> None:
        """Labels of EPUB 2, but for the numbers of pages and names of authors."""
        root = member.page.root
        lists = [*root.all("navMap"), *root.all("navList")]
        labels = {label.start: label for held in lists for label in held.all("navLabel")}  # a list may be in another
        for label in labels.values():
            for text in label.all("text"):
                if (slot := _line(text)) is not None:
                    self._take_label(member, slot)
        _forget(root)

    def _member(self, path: str, page: Page) -> _Member:
        self._members.append(_Member(path, page))
        return self._members[-1]

    # Writing ---------------------------------------------------------------------------------------------------------

    def _edits(self, member: _Member, targets: Sequence[str], to: Language) -> list[tuple[int, int, str]]:
        """What is to change in a page: nothing where a translation is what was there."""
        page, edits = member.page, list[tuple[int, int, str]]()
        pair = Pair(self.layout, self.source, to) if self.source and self.layout != "target" else None
        for slot, segment in member.slots:
            if segment < len(targets):
                source, target = self.segments[segment], one_line(targets[segment]).strip()
                if target == source.text:
                    continue
                if slot.marked is not source:
                    target = _reading(source, target)
                text = restore(slot.marked, target, page.escaped).text
                edits += pair.edits(page, slot, text) if pair else [(slot.start, slot.end, text)]
        if edits:
            names = {"html": ("lang", "xml:lang"), "ncx": ("xml:lang",)}.get(page.root.name, ())
            edits += in_language(page, page.root, names, to)
        return edits

    def _package_edits(self, to: Language) -> list[tuple[int, int, str]]:
        """The package with the language, and the direction in which pages are turned."""
        page = self._package.page
        edits = []
        metadata = page.root.first("metadata")
        said = metadata.first("language") if metadata else None
        if said is not None and said.end != said.inner[0]:
            edits.append((*said.inner, to.code))
        elif metadata is not None and said is None and metadata.end != metadata.inner[0]:
            tag = f'<dc:language xmlns:dc="http://purl.org/dc/elements/1.1/">{to.code}</dc:language>'
            edits.append((metadata.inner[1], metadata.inner[1], tag))
        spine = page.root.first("spine")
        if spine is not None and page.root.attributes.get("version", "").startswith("3"):
            turned = spine.attributes.get("page-progression-direction")
            # A Japanese book in columns is turned so too, and keeps its columns.
            was_right_to_left = said is not None and _right_to_left(said.text)
            wanted = "rtl" if to.right_to_left else None if was_right_to_left else turned
            if wanted != turned:
                tag = page.text(spine.start, spine.inner[0])
                changed = with_attributes(tag, {"page-progression-direction": wanted})
                edits.append((spine.start, spine.inner[0], changed))
        return edits


def _forget(root: Element) -> None:
    """Drops all elements of a page but the root and the body, which are needed when it is written."""
    body = root.first("body")
    if body is not None:
        body.children = []
    root.children = [] if body is None else [body]


def _line(element: Element) -> Slot | None:
    """The text of an element that can hold no markup."""
    marked = mark_up([element.text])
    if marked is None or not all(isinstance(child, Text) for child in element.children):
        return None
    return Slot(*element.inner, marked)


def _reading(marked: Marked, text: str) -> str:
    """What a paragraph reads in a line without markup, a line break in it being a space."""
    things = {mark.number for mark in marked.marks if not (mark.wraps or mark.shown)}
    return plain(marked, TAG.sub(lambda tag: " " if int(tag["number"]) in things else tag[0], text))


def _right_to_left(code: str) -> bool:
    try:
        return has_letter(code) and language("from", code).right_to_left
    except OptionError:
        return False
