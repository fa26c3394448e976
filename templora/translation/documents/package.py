"""The files of an EPUB: the archive, what is in it, and in which order it is read."""

from __future__ import annotations

import contextlib
import io
import lzma
import posixpath
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from templora.errors import TextError
from templora.translation.documents.xhtml import Element, Page, parse

_CONTAINER, _ENCRYPTION, _MIMETYPE = "META-INF/container.xml", "META-INF/encryption.xml", "mimetype"
_KIND = b"application/epub+zip"
_TEXT_TYPES = frozenset({"application/xhtml+xml", "text/html", "text/x-oeb1-document"})
_NCX_TYPE = "application/x-dtbncx+xml"
# Members, and bytes of all of them unpacked, and of one that is read.
_MOST_MEMBERS, _MOST_BYTES, _LONGEST = 20_000, 1 << 30, 1 << 25
_DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    EOFError,
    IndexError,
    KeyError,
    NotImplementedError,
    OSError,
    OverflowError,
    RuntimeError,
    ValueError,
)


@dataclass(frozen=True)
class Item:
    """A file of the manifest.

    Args:
        path: in the archive.
        kind: its media type.
        properties: such as `nav`.
    """

    path: str
    kind: str
    properties: frozenset[str]


class Package:
    """An EPUB that is read.

    Args:
        label: its name, for errors.
        raw: the archive.

    Attributes:
        path: of the package document.
        page: the package document.
        texts: paths of the texts, in reading order.
        navigation: paths of the documents of navigation (EPUB 3).
        contents: path of the table of contents (EPUB 2), if there is one.

    Raises:
        TextError: it is damaged, encrypted, or was made to do harm; names the file and the member.
    """

    def __init__(self, label: str, raw: bytes) -> None:
        self._label = label
        with self._readable("the archive"):
            self._archive = zipfile.ZipFile(io.BytesIO(raw))
        self._members: dict[str, zipfile.ZipInfo] = {}
        self._check_members()
        self.path = self._package_path()
        self.page = self.parsed(self.path)
        items = self._items()
        self.texts = self._spine(items)
        self.navigation = [item.path for item in items.values() if "nav" in item.properties]
        self.contents = next((item.path for item in items.values() if item.kind == _NCX_TYPE), None)
        for path in (*self.navigation, *([self.contents] if self.contents else [])):
            if path not in self._members:
                raise TextError(f"{label}: {path}: missing, though the package names it")
        self._check_encryption()

    # Reading ---------------------------------------------------------------------------------------------------------

    def parsed(self, path: str) -> Page:
        """A member that is XML."""
        info = self._members.get(path)
        if info is None:
            raise TextError(f"{self._label}: {path}: missing")
        if info.file_size > _LONGEST:
            raise TextError(f"{self._label}: {path}: larger than {_LONGEST >> 20} MiB; no text is")
        with self._readable(path):
            raw = self._archive.read(info)
        return parse(f"{self._label}: {path}", raw)

    @contextlib.contextmanager
    def _readable(self, member: str) -> Iterator[None]:
        try:
            yield
        except _DAMAGE as error:
            reason = "no zip archive, so no EPUB" if member == "the archive" else f"damaged: {error}"
            raise TextError(f"{self._label}: {member}: {reason}") from error

    def _check_members(self) -> None:
        infos = self._archive.infolist()
        if len(infos) > _MOST_MEMBERS or sum(info.file_size for info in infos) > _MOST_BYTES:
            raise TextError(f"{self._label}: the archive: more than {_MOST_BYTES >> 20} MiB unpacked; no book is")
        for info in infos:
            name = _name(info)
            if name.startswith("/") or ".." in name.split("/"):
                raise TextError(f"{self._label}: {name}: leads out of the archive")
            if name in self._members:
                raise TextError(f"{self._label}: {name}: in the archive twice")
            if info.flag_bits & 1:
                raise TextError(f"{self._label}: {name}: encrypted; it cannot be read")
            self._members[name] = info
        if _MIMETYPE in self._members:
            with self._readable(_MIMETYPE):
                if self._archive.open(self._members[_MIMETYPE]).read(99).strip() != _KIND:
                    raise TextError(f"{self._label}: {_MIMETYPE}: not {_KIND.decode()}, so no EPUB")

    def _package_path(self) -> str:
        for element in self.parsed(_CONTAINER).root.all("rootfile"):
            return self._resolved("", element.attributes.get("full-path", ""), _CONTAINER)
        raise TextError(f"{self._label}: {_CONTAINER}: names no package")

    def _items(self) -> dict[str, Item]:
        found = {}
        for element in self.page.root.all("item"):
            given = element.attributes
            path = self._resolved(posixpath.dirname(self.path), given.get("href", ""), self.path)
            properties = frozenset(given.get("properties", "").split())
            found[given.get("id", "")] = Item(path, given.get("media-type", ""), properties)
        return found

    def _spine(self, items: Mapping[str, Item]) -> list[str]:
        found: dict[str, None] = {}  # in order, each once
        for element in self.page.root.all("itemref"):
            name = element.attributes.get("idref", "")
            if name not in items:
                raise TextError(f"{self._label}: {self.path}: the spine names {name!r}, which the manifest has not")
            item = items[name]
            if item.path not in self._members:
                raise TextError(f"{self._label}: {item.path}: missing, though the spine names it")
            if item.kind in _TEXT_TYPES:
                found[item.path] = None
        if not found:
            raise TextError(f"{self._label}: {self.path}: there is no text in the spine")
        return list(found)

    def _resolved(self, folder: str, href: str, by: str) -> str:
        """The path of a member that another one refers to."""
        with self._readable(by):
            parts = urlsplit(href)
            path = posixpath.normpath(posixpath.join(folder, unquote(parts.path)))
        if parts.scheme or parts.netloc:
            return href  # elsewhere on the network; never in the spine of a book that can be read
        if path.startswith(("/", "../")) or path == ".." or "\\" in path or "\0" in path:
            raise TextError(f"{self._label}: {by}: {href!r} leads out of the archive")
        return path

    def _check_encryption(self) -> None:
        """Fonts may be obscured; texts must not be encrypted."""
        if _ENCRYPTION not in self._members:
            return
        ours = {*self.texts, *self.navigation, self.path, self.contents}
        for element in self.parsed(_ENCRYPTION).root.all("CipherReference"):
            path = self._resolved("", element.attributes.get("URI", ""), _ENCRYPTION)
            if path in ours:
                raise TextError(f"{self._label}: {path}: encrypted (DRM); it cannot be read")

    # Writing ---------------------------------------------------------------------------------------------------------

    def written(self, changed: Mapping[str, bytes]) -> bytes:
        """The archive with other contents of some members. The others are copied, in their order, with their dates."""
        target = io.BytesIO()
        with zipfile.ZipFile(target, "w") as archive:
            kind = self._members.get(_MIMETYPE)
            first = zipfile.ZipInfo(_MIMETYPE, kind.date_time if kind else (1980, 1, 1, 0, 0, 0))
            archive.writestr(first, _KIND, zipfile.ZIP_STORED)
            for name, info in self._members.items():
                if name == _MIMETYPE:
                    continue
                copy = zipfile.ZipInfo(name, info.date_time)
                copy.compress_type, copy.external_attr, copy.comment = (
                    info.compress_type,
                    info.external_attr,
                    info.comment,
                )
                copy.create_system = info.create_system
                with self._readable(name):
                    archive.writestr(copy, changed[name] if name in changed else self._archive.read(info))
        return target.getvalue()


def first(within: Element, name: str) -> Element | None:
    """The first element of a name."""
    return next(within.all(name), None)


def _name(info: zipfile.ZipInfo) -> str:
    """A member's name. Many archives have UTF-8 without saying so, and zipfile reads that as the code page of old."""
    if not info.flag_bits & 0x800:
        with contextlib.suppress(UnicodeError):
            return info.filename.encode("cp437").decode()
    return info.filename
