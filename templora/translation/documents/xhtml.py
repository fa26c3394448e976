"""XHTML with the place of everything in it, so that text can be replaced and all else stay as it is to the byte."""

from __future__ import annotations

import html
import html.entities
import io
import re
import xml.parsers.expat as expat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, TypeAlias

from templora.encodings.names import WIDER, known
from templora.errors import TextError

# Bytes of a file of text; elements in it, and in one another; attributes that it declares; characters that an entity of
# its own stands for. What is beyond was made to harm.
MAX_LENGTH = 1 << 25
MAX_ELEMENTS = 1 << 20
DEEPEST, _MAX_DECLARED, _MAX_ENTITY = 200, 100, 100
NO_ATTRIBUTES: Mapping[str, str] = MappingProxyType({})

_BLANK = " \t\r\n"
_ATTRIBUTE = re.compile(rf"(?<![{_BLANK}])[{_BLANK}]+([^\s=/>]+)[{_BLANK}]*=[{_BLANK}]*(\"[^\"]*\"|'[^']*'|[^\"'\s>]+)")


@dataclass(frozen=True, slots=True)
class Text:
    """Characters.

    Args:
        start, end: bytes of the source that they are.
        data: what they are.
        whole: they cannot be taken apart, as in a CDATA section.
    """

    start: int
    end: int
    data: str
    whole: bool = False


@dataclass(slots=True)
class Element:
    """An element.

    Args:
        name: without a prefix.
        attributes: with theirs.
        start, end: bytes of the source, tags included.
        inner: bytes between the tags.
        children: in it, in order. Comments, instructions and references to entities that are no characters are elements
            without a name.
        block: whether it stands between paragraphs, once that has been found out.
    """

    name: str
    attributes: Mapping[str, str]
    start: int
    end: int = 0
    inner: tuple[int, int] = (0, 0)
    children: list[Node] = field(default_factory=list)
    block: bool | None = None

    def nodes(self) -> Iterator[Node]:
        """All in it, in order."""
        left = [*reversed(self.children)]
        while left:
            node = left.pop()
            yield node
            left += reversed(node.children) if isinstance(node, Element) else ()

    def all(self, name: str) -> Iterator[Element]:
        """The elements of a name in it, in order."""
        return (node for node in self.nodes() if isinstance(node, Element) and node.name == name)

    def first(self, name: str) -> Element | None:
        """The first of them."""
        return next(self.all(name), None)

    @property
    def text(self) -> str:
        """All characters in it."""
        return "".join(node.data for node in self.nodes() if isinstance(node, Text))


Node: TypeAlias = "Text | Element"


@dataclass(frozen=True)
class Page:
    """A file.

    Args:
        source: what it holds, in UTF-8.
        codec: of the file itself.
        spelling: a codec; text is written in the characters that it has, and others as references.
        root: its element.
        elements: how many there are.
    """

    source: bytes
    codec: str
    spelling: str
    root: Element
    elements: int = 0

    def text(self, start: int, end: int) -> str:
        return self.source[start:end].decode()

    def escaped(self, text: str) -> str:
        """Text for between tags, in characters that may be written."""
        return html.escape(text, quote=False).encode(self.spelling, "xmlcharrefreplace").decode(self.spelling)

    def edited(self, edits: Sequence[tuple[int, int, str]]) -> bytes:
        """The file with other markup and text at some bytes of the source; all else is as it was."""
        found, at = [], 0
        for start, end, text in sorted(edits):
            if start < at:
                continue
            found += [self.source[at:start], text.encode()]
            at = end
        found.append(self.source[at:])
        raw = b"".join(found)
        return raw if self.codec == "utf-8" else raw.decode().encode(self.codec, "xmlcharrefreplace")


def parse(label: str, raw: bytes, *, most: int = MAX_ELEMENTS) -> Page:
    """A file of XML, in which the characters that HTML has names for may have them.

    What readers put up with is no error: a declaration that names another encoding, one behind white space, an `&` that
    begins no reference, control characters.

    Args:
        label: its name, for errors.
        raw: what it holds.
        most: elements that it may have.

    Raises:
        TextError: it is empty, not well-formed, or made to do harm; names `label`.
    """
    source, codec, spelling = in_utf8(label, raw)
    flaw: Exception | None = None
    for mended in (False, True):
        try:
            builder = _Builder(label, _mended(source) if mended else source, most, mended=mended)
        except (expat.ExpatError, ValueError) as error:
            flaw = flaw or error  # of the file itself
        else:
            root = next(node for node in builder.top.children if isinstance(node, Element) and node.name)
            return Page(source, codec, spelling, root, builder.elements)
    raise TextError(f"{label}: not well-formed XML: {flaw}") from flaw


def in_utf8(label: str, raw: bytes) -> tuple[bytes, str, str]:
    """The first three of a `Page`: what a file holds, in UTF-8; the codec of the file itself; the one to spell in.

    Raises:
        TextError: it is empty, too large, or of no encoding.
    """
    if len(raw) > MAX_LENGTH:
        raise TextError(f"{label}: larger than {MAX_LENGTH >> 20} MiB; no text is")
    if not raw.strip(b"\0 \t\r\n"):
        raise TextError(f"{label}: empty")
    text, codec, spelling = _decoded(raw)
    if codec != "utf-8" and text.encode(codec) != raw:
        raise TextError(f"{label}: not sound {codec}; it could not be written as it is")
    source = raw if codec == "utf-8" else text.encode()
    if b"\0" in source.rstrip(b"\0"):  # a parser would take it for another encoding
        raise TextError(f"{label}: not sound {codec}: it holds zero bytes")
    return source, codec, spelling


# Encodings -----------------------------------------------------------------------------------------------------------

_MARKED = (
    (b"\xef\xbb\xbf", "utf-8"),
    (b"\xff\xfe\0\0", "utf-32-le"),
    (b"\0\0\xfe\xff", "utf-32-be"),
    (b"\xff\xfe", "utf-16-le"),
    (b"\xfe\xff", "utf-16-be"),
    *((mark + b"\0", "utf-16-le") for mark in (b"<", b"\n", b"\r", b"\t", b" ")),
    *((b"\0" + mark, "utf-16-be") for mark in (b"<", b"\n", b"\r", b"\t", b" ")),
)
_DECLARED = re.compile(rb"\s*<\?xml\s[^>]{0,200}?encoding\s{0,9}=\s{0,9}[\"']([\w.:-]{1,40})")
_META = re.compile(rb"<meta\s[^>]{0,200}?charset\s{0,9}=\s{0,9}[\"']?([\w.:-]{1,40})", re.IGNORECASE)
_LATIN = frozenset({"ascii", "iso8859-1", "cp1252"})
_HIGH_CONTROLS = re.compile(rb"[\x80-\x9f]")


def _decoded(raw: bytes) -> tuple[str, str, str]:
    """A file's text, its encoding, and the one whose characters may be written into it: ASCII, which is read alike
    by everybody, where the file says that it is in another encoding than it is.
    """
    for mark, codec in _MARKED:
        if raw.startswith(mark):
            try:
                return raw.decode(codec), codec, codec
            except UnicodeDecodeError:
                break
    declared = _DECLARED.match(raw)
    said = declared or _META.search(raw, 0, 1024)
    own = ascii_codec(said[1]) if said else "utf-8"
    unsure = ("utf-8", "utf-8" if own == "utf-8" else "ascii")
    tries = [unsure]
    if own == "iso8859-1" and _HIGH_CONTROLS.search(raw):
        tries.append(("cp1252", "ascii"))
    elif own not in (None, "utf-8"):
        own_way = [(own, own), (WIDER.get(own, own), own)]
        # Hardly any text of Latin letters is UTF-8 by chance.
        likely = declared is None or (own in _LATIN and not raw.isascii())
        tries = [unsure, *own_way] if likely else [*own_way, unsure]
    for codec, spelling in (*tries, ("cp1252", "ascii")):
        try:
            return raw.decode(codec), codec, spelling
        except UnicodeDecodeError:
            continue
    return raw.decode("latin-1"), "latin-1", "ascii"


def ascii_codec(name: bytes) -> str | None:
    """Python's name of an encoding in which ASCII is itself; None if there is no such."""
    found = known(name.decode("latin-1"))
    return None if found and found.startswith(("utf-16", "utf-32")) else found


_CONTROLS = re.compile(b"[\x01-\x08\x0b\x0c\x0e-\x1f\x7f]|\xef\xbf[\xbe\xbf]|\x00+\\Z")
_EARLY = re.compile(rb"\A(\xef\xbb\xbf)?\s+<\?xml\s[^>]*>")
_VERSION = re.compile(rb"\A((?:\xef\xbb\xbf)?<\?xml\s+version\s*=\s*[\"']1\.)\d")
_AMPERSAND = re.compile(rb"&(?!#\d{1,7};|#x[\dA-Fa-f]{1,6};|[A-Za-z][\w.-]{0,40};)")
_NAMED = re.compile(r"&[^#]")
_BARE = "\x7f"  # what an `&` that begins no reference is, for the parser


def _mended(source: bytes) -> bytes:
    """A file without what keeps a strict parser from reading it and a reader of books not; no byte moves."""
    source = _CONTROLS.sub(lambda match: b" " * len(match[0]), source)
    source = _EARLY.sub(lambda match: b" " * len(match[0]), source)
    return _AMPERSAND.sub(_BARE.encode(), _VERSION.sub(rb"\g<1>0", source))


# Elements ------------------------------------------------------------------------------------------------------------


class _Builder:
    """Builds the elements as they are read. Where one thing ends is known when the next one begins.

    Between tags no entity is ever expanded: a reference is the character that it is known to be, or it stays.
    """

    def __init__(self, label: str, source: bytes, most: int, *, mended: bool) -> None:
        self.elements, self._most = 0, min(most, MAX_ELEMENTS)
        self.top = Element("", NO_ATTRIBUTES, 0)  # around the root, and comments beside that
        self._label, self._source, self._mended = label, source, mended
        self._entities: dict[str, str | None] = {}
        self._declared = 0
        self._stack = [self.top]
        self._tag: Element | None = None  # the one whose start tag is being read, or the thing
        self._closing: tuple[Element, int] | None = None  # the one whose end tag is, and where that begins
        self._data: io.StringIO | None = None  # characters that are being read
        self._began, self._cdata = 0, ""  # where they begin; "open" within a CDATA section, "closed" at its end
        parser = self._expat = expat.ParserCreate("utf-8")
        parser.UseForeignDTD(True)  # else names of characters would be errors
        parser.specified_attributes = True
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._characters
        parser.SkippedEntityHandler = self._reference
        parser.StartCdataSectionHandler = self._begin_cdata
        parser.EndCdataSectionHandler = self._end_cdata
        parser.CommentHandler = self._thing
        parser.ProcessingInstructionHandler = self._thing
        parser.EntityDeclHandler = self._declare
        parser.AttlistDeclHandler = self._count_declared
        parser.DefaultHandler = self._default  # with it, entities of the file's own are not expanded but skipped
        parser.Parse(source, True)
        self._settle(len(source))

    def _here(self) -> int:
        at: int = self._expat.CurrentByteIndex
        self._settle(at)
        return at

    def _settle(self, at: int) -> None:
        """What came before ends here."""
        if self._data is not None:
            text = Text(self._began, at, self._data.getvalue(), whole=bool(self._cdata))
            self._stack[-1].children.append(text)
            self._data, self._cdata = None, ""
        if self._tag is not None and at > self._tag.start:
            self._tag.inner, self._tag.end = (at, at), at
            self._tag = None
        if self._closing is not None and at > self._closing[1]:
            self._closing[0].end = at
            self._closing = None

    def _element(self, name: str, attributes: Mapping[str, str]) -> Element:
        at = self._here()
        self.elements += 1
        if self.elements > self._most:
            raise TextError(f"{self._label}: more than {self._most:,} elements; no text has so many")
        if self._mended:
            attributes = {key: value.replace(_BARE, "&") for key, value in attributes.items()}
        element = self._tag = Element(name.rpartition(":")[2], attributes or NO_ATTRIBUTES, at)
        self._stack[-1].children.append(element)
        return element

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        self._stack.append(self._element(name, attributes))
        if len(self._stack) > DEEPEST + 1:
            raise TextError(f"{self._label}: elements in elements more than {DEEPEST} deep")

    def _end(self, _name: str) -> None:
        at, element = self._here(), self._stack.pop()
        if at != element.inner[0] or not self._source.endswith(b"/>", 0, at):  # else it is one tag, which ends here
            element.inner = element.inner[0], at
            self._closing = element, at

    def _characters(self, data: str) -> None:
        if self._data is None or self._cdata == "closed":
            self._began = self._here()
            self._data = io.StringIO()
        self._data.write(data.replace(_BARE, "&") if self._mended else data)

    def _begin_cdata(self) -> None:
        self._began = self._here()
        self._data, self._cdata = io.StringIO(), "open"

    def _end_cdata(self) -> None:
        self._cdata = "closed"

    def _thing(self, *_: str) -> None:
        self._element("", NO_ATTRIBUTES)

    def _default(self, data: str) -> None:
        if data.startswith("&"):
            self._thing()
        else:
            self._here()

    def _reference(self, name: str, parameter: bool) -> None:
        known = self._entities[name] if name in self._entities else html.entities.html5.get(f"{name};")
        if known is None or parameter:
            self._thing()
        else:
            self._characters(known)

    def _declare(self, name: str, parameter: bool, value: str | None, *_: Any) -> None:
        """Keeps what an entity of the file's own stands for, if that is characters; nothing is ever fetched."""
        self._here()
        if parameter or value is None:
            self._entities.setdefault(name, None)
        elif len(value) > _MAX_ENTITY or _NAMED.search(value):  # in attributes the parser does expand them
            raise TextError(f"{self._label}: declares the entity {name!r}, which could be made to fill the memory")
        else:
            self._entities.setdefault(name, None if "<" in value else html.unescape(value))

    def _count_declared(self, *_: Any) -> None:
        self._here()
        self._declared += 1
        if self._declared > _MAX_DECLARED:  # each is looked at in each element
            raise TextError(f"{self._label}: declares more than {_MAX_DECLARED} attributes")


def with_attributes(tag: str, wanted: Mapping[str, str | None]) -> str:
    """A start tag with other attributes: a value, or None for one that is to go. The others stay as they are."""
    left = dict(wanted)

    def changed(attribute: re.Match[str]) -> str:
        name = attribute[1] if attribute[1] in left else attribute[1].lower()  # in HTML any case will do
        if name not in left:
            return attribute[0]
        value = left.pop(name)
        return "" if value is None else f'{attribute[0].removesuffix(attribute[2])}"{value}"'

    tag = _ATTRIBUTE.sub(changed, _CONTROLS.sub(b" ", tag.encode()).decode())  # as it was read
    end = "/>" if tag.endswith("/>") else ">"
    added = "".join(f' {name}="{value}"' for name, value in left.items() if value is not None)
    return f"{tag.removesuffix(end).rstrip(_BLANK)}{added}{end}" if added else tag
