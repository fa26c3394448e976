"""The files of an EPUB: what is in it, and in which order it is read."""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from templora.errors import TextError
from templora.translation.documents.archive import KIND, MIMETYPE, Archive
from templora.translation.documents.members import Members
from templora.translation.documents.xhtml import MAX_ELEMENTS, Page

_CONTAINER, _ENCRYPTION = "META-INF/container.xml", "META-INF/encryption.xml"
_PACKAGE_TYPE, _NCX_TYPE = "application/oebps-package+xml", "application/x-dtbncx+xml"
_TEXT_TYPES = frozenset({"application/xhtml+xml", "text/html", "text/x-oeb1-document", "application/x-dtbook+xml"})
_OTHER_TYPES = ("image/", "font/", "audio/", "video/", "text/css", "text/javascript", "application/javascript")
_TEXT_ENDINGS = (".xhtml", ".html", ".htm", ".xht")
# Elements of all texts: each takes memory.
_MAX_ELEMENTS_IN_ALL = MAX_ELEMENTS


@dataclass(frozen=True)
class Item:
    """A file of the manifest.

    Args:
        name: that the spine has for it.
        path: in the archive; None if it is not there.
        reference: as the manifest has it.
        kind: its media type.
        navigates: whether it is for navigation (EPUB 3).
    """

    name: str
    path: str | None
    reference: str
    kind: str
    navigates: bool

    @property
    def is_text(self) -> bool:
        named = (self.path or self.reference).lower().endswith(_TEXT_ENDINGS)
        return self.kind in _TEXT_TYPES or (named and not self.kind.startswith(_OTHER_TYPES))


class Package(Members):
    """An EPUB that is read. What a reader of books puts up with is put up with here, and listed.

    Args:
        label: its name, for errors.
        raw: the archive.

    Attributes:
        archive: of which it is.
        path: of the package document.
        page: the package document.
        texts: paths of the texts: in reading order, and then those that the spine leaves out.
        navigation: paths of the documents of navigation (EPUB 3).
        contents: path of the table of contents (EPUB 2), if there is one; else it is empty.
        problems: what is wrong with it, and left as it is.

    Raises:
        TextError: there is no package that could be read, or no text in it; names the file and the member.
    """

    def __init__(self, label: str, raw: bytes) -> None:
        super().__init__(label, Archive(label, raw), _MAX_ELEMENTS_IN_ALL)
        self._encrypted: Mapping[str, str] = {}
        self._encrypted = self._references(_ENCRYPTION, "CipherReference", "URI")
        self._check_kind()
        self.path, self.page = self._package()
        items = list(self._items())
        self.navigation = list(self._named(item for item in items if item.navigates))
        self.texts = self._texts(items)
        if not self.texts:
            raise TextError(f"{label}: {self.path}: there is no text in the spine{self.because}")
        self.contents = self._contents(items)
        self._list_forgotten({item.path for item in items})

    def parsed(self, path: str) -> Page:
        if path in self._encrypted:
            raise TextError(f"{self._label}: {path}: encrypted (DRM); it cannot be read")
        return super().parsed(path)

    def _references(self, path: str, name: str, attribute: str) -> dict[str, str]:
        """Members that a file of META-INF names, with the media types that it says they have."""
        found: dict[str, str] = {}
        member = self.archive.find(path)
        for _, page in self.readable([member] if member else []):
            for element in page.root.all(name):
                reference = element.attributes.get(attribute, "").strip()
                named = self.archive.find(reference)
                if named is not None:
                    found.setdefault(named, _kind(element.attributes))
                elif path == _CONTAINER:
                    self.problems.append(f"{reference}: missing, though {path} names it")
        return found

    def _check_kind(self) -> None:
        if MIMETYPE not in self.archive.members:
            self.problems.append(f"{MIMETYPE}: missing; it is added")
        else:
            try:
                if self.archive.read(MIMETYPE).strip() != KIND:
                    self.problems.append(f"{MIMETYPE}: not {KIND.decode()}; left as it is")
            except TextError as error:
                self.leave(error)

    def _package(self) -> tuple[str, Page]:
        """The first package that can be read; one that the container does not name if there is no other."""
        named = self._references(_CONTAINER, "rootfile", "full-path")
        order = sorted(named, key=lambda path: named[path] not in ("", _PACKAGE_TYPE))
        others = [path for path in self.archive.members if path.lower().endswith(".opf") and path not in named]
        others = [path for path in others if not _stray(path)]
        if not named and not others:
            what = "names no package" if self.archive.find(_CONTAINER) else "missing"
            raise TextError(f"{self._label}: {_CONTAINER}: {what}{self.because}")
        reasons = []
        for path in (*order, *others):
            try:
                page = self.parsed(path)
                if page.root.name != "package":
                    raise TextError(f"{self._label}: {path}: no package, but {page.root.name!r}")
            except TextError as error:
                reasons.append(error)
                continue
            if path not in named:
                self.problems.append(f"{_CONTAINER}: names no package that can be read; {path} was taken")
            left = [other for other in order if other != path]
            self.problems += [f"{other}: another version of the book; left as it is" for other in left]
            return path, page
        raise reasons[0]

    def _items(self) -> Iterator[Item]:
        folder = posixpath.dirname(self.path.replace("\\", "/"))
        for element in self.page.root.all("item"):
            given = element.attributes
            name, reference = given.get("id", "").strip(), given.get("href", "").strip()
            navigates = "nav" in given.get("properties", "").split()
            yield Item(name, self.archive.find(reference, folder), reference, _kind(given), navigates)

    def _named(self, items: Iterable[Item]) -> Iterator[str]:
        """The paths of those that are there, each once; the others are listed."""
        seen = set()
        for item in items:
            if item.path is None:
                self.problems.append(f"{item.reference}: missing, though the package names it")
            elif item.path not in seen:
                seen.add(item.path)
                yield item.path

    def _texts(self, items: Sequence[Item]) -> list[str]:
        by_name: dict[str, list[Item]] = {}
        for item in items:
            by_name.setdefault(item.name, []).append(item)
        found: dict[str, None] = {}  # in order, each once
        for element in self.page.root.all("itemref"):
            name = element.attributes.get("idref", "").strip()
            if name not in by_name:
                self.problems.append(f"{self.path}: the spine names {name!r}, which the manifest has not")
            for item in by_name.get(name, []):
                if item.path is None:
                    self.problems.append(f"{item.reference}: missing, though the spine names it")
                elif item.is_text or item.kind.endswith("/xml"):
                    found[item.path] = None
                elif not item.navigates:
                    self.problems.append(f"{item.path}: {item.kind or 'of no kind'}, no text; left as it is")
        for item in items:
            if item.is_text and item.path and item.path not in found and item.path not in self.navigation:
                self.problems.append(f"{item.path}: not in the spine; translated after the others")
                found[item.path] = None
        return list(found)

    def _contents(self, items: Sequence[Item]) -> list[str]:
        spine = self.page.root.first("spine")
        said = spine.attributes.get("toc", "").strip() if spine else ""
        found = [item for item in items if item.name == said]
        found += [item for item in items if item.kind == _NCX_TYPE or item.reference.lower().endswith(".ncx")]
        return list(self._named(dict.fromkeys(found)))[:1]

    def _list_forgotten(self, paths: set[str | None]) -> None:
        for name in self.archive.members:
            if name.lower().endswith(_TEXT_ENDINGS) and name not in paths and not _stray(name):
                self.problems.append(f"{name}: the package does not name it; left as it is")


def _kind(attributes: Mapping[str, str]) -> str:
    return attributes.get("media-type", "").partition(";")[0].strip().lower()


def _stray(path: str) -> bool:
    """Whether it is what a Mac leaves beside a file."""
    return any(part.startswith("._") or part == "__MACOSX" for part in path.replace("\\", "/").split("/"))
