"""The parts of a Word document: which hold its text, in the order that it is read in, and what its styles are for."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from typing import NamedTuple

from templora.errors import TextError
from templora.translation.documents.archive import Archive
from templora.translation.documents.members import Members
from templora.translation.documents.xhtml import Element, Page

# By the last word of a relationship's type, which two standards have in two places.
_TEXTS = ("footnotes", "endnotes", "header", "footer")
_OTHERS = {"chart": "a chart", "chartEx": "a chart", "diagramData": "a diagram", "aFChunk": "another document"}
_MAIN = re.compile(r"application/vnd\.(openxmlformats-officedocument|ms-)[\w.]*word[\w.]*\.main\+xml", re.IGNORECASE)
_NAMESPACE = re.compile(r"http://(schemas\.openxmlformats|purl\.oclc)\.org/(ooxml/)?wordprocessingml/(2006/)?main")
_HEADING, _CONTENTS = re.compile(r"heading ?\d|title", re.IGNORECASE), re.compile(r"toc ?\d", re.IGNORECASE)
_CODE = re.compile(r"\b(code|preformatted|verbatim|source text|html (keyboard|sample|typewriter))\b", re.IGNORECASE)
_MAX_BASED_ON = 11  # styles that are based on one another
_OTHER_KINDS = (
    (b"\xd0\xcf\x11\xe0", "it has a password, or is a .doc of old: save it as .docx, without a password"),
    (b"{\\rtf", "it is RTF: save it as .docx"),
)


class WordParts(Members):
    """A Word document that is read.

    Args:
        label: its name, for errors.
        raw: the archive.

    Attributes:
        texts: the parts with text: the main one, notes, headers and footers.
        styles: the part with styles, if there is one that can be read.

    Raises:
        TextError: it is none, or its main part cannot be read; names the file and the part.
    """

    def __init__(self, label: str, raw: bytes) -> None:
        if not raw:
            raise TextError(f"{label}: empty")
        for beginning, why in _OTHER_KINDS:
            if raw.startswith(beginning):
                raise TextError(f"{label}: no .docx, whatever its name says; {why}")
        super().__init__(label, Archive(label, raw, "Word document"))
        main = self._main()
        page = self.parsed(main)
        if page.root.name != "document" or not any(map(_NAMESPACE.fullmatch, page.root.attributes.values())):
            raise TextError(f"{label}: {main}: no text of Word, but {page.root.name!r}")
        self.texts = [(main, page)]
        related = list(self._related(main))
        for kind, path in related:
            if kind in _OTHERS:
                self.problems.append(f"{path}: {_OTHERS[kind]}; left as it is")
        texts = dict.fromkeys(path for name in _TEXTS for kind, path in related if kind == name and path != main)
        self.texts += self.readable(texts)
        self.styles = next(self.readable(path for kind, path in related if kind == "styles"), None)

    def _main(self) -> str:
        for kind, path in self._related(""):
            if kind == "officeDocument":
                return path
        types = self.archive.find("[Content_Types].xml")
        for _, page in self.readable([types] if types else []):
            for override in page.root.all("Override"):
                part = self.archive.find(override.attributes.get("PartName", ""))
                if part and _MAIN.fullmatch(override.attributes.get("ContentType", "")):
                    return part
        raise TextError(
            f"{self._label}: no Word document: nothing in the archive says which text is in it{self.because}"
        )

    def _related(self, path: str) -> Iterator[tuple[str, str]]:
        """What a part, or the archive, refers to: the kind and the path; what is missing is listed."""
        folder, name = posixpath.split(path)
        there = self.archive.find(f"{folder}/_rels/{name}.rels".lstrip("/"))
        for _, page in self.readable([there] if there else []):
            for relationship in page.root.all("Relationship"):
                given = relationship.attributes
                kind, target = given.get("Type", "").rpartition("/")[2], given.get("Target", "")
                found = self.archive.find(target, folder)
                if given.get("TargetMode") == "External":
                    continue
                if found is not None:
                    yield kind, found
                elif kind in ("officeDocument", "styles", *_TEXTS):
                    self.problems.append(f"{target}: missing, though {there} names it")


class _Style(NamedTuple):
    """A style: its name, the one that it is based on, and its level in the outline."""

    name: str
    base: str
    level: str


class Styles:
    """What the styles of paragraphs and of runs are for.

    Args:
        page: the part with them, if it could be read.
    """

    def __init__(self, page: Page | None) -> None:
        self._known: dict[str, _Style] = {}
        for style in page.root.all("style") if page else ():
            level = value(child(child(style, "pPr"), "outlineLvl"))
            self._known[value(style, "styleId")] = _Style(
                value(child(style, "name")), value(child(style, "basedOn")), level
            )

    def heads(self, properties: Element | None) -> bool:
        """Whether a paragraph of these properties is a heading."""
        level = value(child(properties, "outlineLvl"))
        for style in self._of(properties):
            level = level or style.level or ("0" if _HEADING.fullmatch(style.name) else "")
        return level.isdigit() and int(level) < 9

    def lists_contents(self, properties: Element | None) -> bool:
        """Whether a paragraph of these properties is in a table of contents."""
        return any(_CONTENTS.fullmatch(style.name) for style in self._of(properties))

    def code(self, properties: Element | None) -> bool:
        """Whether a paragraph, or a run, of these properties is code."""
        return any(_CODE.search(style.name) for style in self._of(properties))

    def _of(self, properties: Element | None) -> Iterator[_Style]:
        name = value(child(properties, "pStyle")) or value(child(properties, "rStyle"))
        for _ in range(_MAX_BASED_ON):
            if not name:
                return
            style = self._known.get(name, _Style(name, "", ""))
            yield style
            name = style.base


def value(element: Element | None, name: str = "val") -> str:
    """An attribute, whatever its prefix; empty if there is none."""
    held = element.attributes.items() if element else ()
    return next((said for key, said in held if key.rpartition(":")[2] == name), "")


def child(element: Element | None, name: str) -> Element | None:
    """The first element of a name that is right in another."""
    held = element.children if element else ()
    return next((node for node in held if isinstance(node, Element) and node.name == name), None)
