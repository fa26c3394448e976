"""XHTML with the place of everything in it, so that text can be replaced and all else stay as it is to the byte."""

from __future__ import annotations

import html.entities
import re
import xml.parsers.expat as expat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from templora.errors import TextError

# Bytes of a file of text; elements in elements. What is beyond was made to harm.
_LONGEST, _DEEPEST = 1 << 25, 100
_ATTRIBUTE = re.compile(r"\s+([^\s=/>]+)\s*=\s*(\"[^\"]*\"|'[^']*')")


@dataclass(frozen=True)
class Text:
    """Characters.

    Args:
        start, end: bytes that they are.
        data: what they are.
        whole: they cannot be taken apart, as in a CDATA section.
    """

    start: int
    end: int
    data: str
    whole: bool = False


@dataclass
class Element:
    """An element.

    Args:
        name: without a prefix.
        attributes: with theirs.
        start, end: bytes, tags included.
        inner: bytes between the tags.
        children: in it, in order. Comments and instructions are elements without a name.
    """

    name: str
    attributes: Mapping[str, str]
    start: int
    end: int = 0
    inner: tuple[int, int] = (0, 0)
    children: list[Node] = field(default_factory=list)

    def all(self, name: str) -> Iterator[Element]:
        """The elements of a name in it, in order."""
        for child in self.children:
            if isinstance(child, Element):
                if child.name == name:
                    yield child
                yield from child.all(name)

    @property
    def text(self) -> str:
        """All characters in it."""
        return "".join(child.data if isinstance(child, Text) else child.text for child in self.children)


Node: TypeAlias = "Text | Element"


@dataclass(frozen=True)
class Page:
    """A file.

    Args:
        raw: what it holds.
        codec: of it.
        root: its element.
    """

    raw: bytes
    codec: str
    root: Element

    def source(self, start: int, end: int) -> str:
        return self.raw[start:end].decode(self.codec, "replace")

    def encoded(self, text: str) -> bytes:
        """What is to be written for `text`, which may hold characters that the file's encoding has not."""
        return text.encode(self.codec, "xmlcharrefreplace")


def parse(label: str, raw: bytes) -> Page:
    """A file of XML, in which the characters that HTML has names for may have them.

    Raises:
        TextError: it is not well-formed, or declares entities, or is absurdly large; names `label`.
    """
    if len(raw) > _LONGEST:
        raise TextError(f"{label}: larger than {_LONGEST >> 20} MiB; no text is")
    try:
        return _Parser(label, raw).page()
    except (expat.ExpatError, LookupError, ValueError) as error:
        raise TextError(f"{label}: not well-formed XML: {error}") from error


class _Parser:
    """Collects events; where one ends is known when the next begins."""

    def __init__(self, label: str, raw: bytes) -> None:
        self._label, self._raw = label, raw
        self._events: list[tuple[int, str, Any]] = []
        self._codec = {b"\xff\xfe": "utf-16-le", b"\xfe\xff": "utf-16-be"}.get(raw[:2], "utf-8")
        self._depth = 0
        parser = self._expat = expat.ParserCreate()
        parser.UseForeignDTD(True)  # else names of characters would be errors
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = lambda data: self._note("text", data)
        parser.SkippedEntityHandler = self._entity
        parser.StartCdataSectionHandler = lambda: self._note("cdata", "")
        parser.EndCdataSectionHandler = lambda: self._note("cdata end", "")
        parser.CommentHandler = lambda data: self._note("other", data)
        parser.ProcessingInstructionHandler = lambda *data: self._note("other", data)
        parser.XmlDeclHandler = self._declared
        parser.EntityDeclHandler = self._refuse
        parser.DefaultHandlerExpand = lambda data: self._note("", data)

    def _note(self, kind: str, data: Any) -> None:
        self._events.append((self._expat.CurrentByteIndex, kind, data))

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        self._depth += 1
        if self._depth > _DEEPEST:
            raise TextError(f"{self._label}: elements in elements more than {_DEEPEST} deep")
        self._note("start", (name, attributes))

    def _end(self, name: str) -> None:
        self._depth -= 1
        self._note("end", name)

    def _entity(self, name: str, parameter: bool) -> None:
        if parameter:
            return
        if f"{name};" not in html.entities.html5:
            line = self._expat.CurrentLineNumber
            raise TextError(f"{self._label}: not well-formed XML: unknown entity &{name}; in line {line}")
        self._note("text", html.entities.html5[f"{name};"])

    def _declared(self, _version: str, encoding: str | None, _standalone: int) -> None:
        self._note("", "")
        if encoding and not self._codec.startswith("utf-16"):
            self._codec = encoding

    def _refuse(self, name: str, *_: Any) -> None:
        raise TextError(f"{self._label}: declares the entity {name!r}; entities can be made to fill the memory")

    def page(self) -> Page:
        self._expat.Parse(self._raw, True)
        ends = [len(self._raw)] * len(self._events)
        for at in range(len(self._events) - 2, -1, -1):
            here, after = self._events[at][0], self._events[at + 1][0]
            ends[at] = after if after > here else ends[at + 1]
        root = Element("", {}, 0, len(self._raw))
        stack, cdata = [root], 0
        for (at, kind, data), end in zip(self._events, ends, strict=True):
            inside = stack[-1]
            if kind == "start":
                element = Element(data[0].rpartition(":")[2], data[1], at, end, (end, end))
                inside.children.append(element)
                stack.append(element)
            elif kind == "end":
                stack.pop()
                if not self._raw[: inside.inner[0]].endswith("/>".encode(self._codec)):
                    inside.inner, inside.end = (inside.inner[0], at), end
            elif kind == "cdata":
                cdata = len(inside.children)
                inside.children.append(Text(at, end, "", whole=True))
            elif kind == "cdata end":
                held = inside.children[cdata:]
                text = "".join(child.data for child in held if isinstance(child, Text))
                inside.children[cdata:] = [Text(held[0].start, end, text, whole=True)]
            elif kind == "text":
                inside.children.append(Text(at, end, data))
            elif kind == "other":
                inside.children.append(Element("", {}, at, end, (end, end)))
        top = next(child for child in root.children if isinstance(child, Element) and child.name)
        return Page(self._raw, self._codec, top)


def escape(text: str) -> str:
    """Text for between tags."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def with_attributes(tag: str, wanted: Mapping[str, str | None]) -> str:
    """A start tag with other attributes: a value, or None for one that is to go. The others stay as they are."""
    left = dict(wanted)

    def changed(match: re.Match[str]) -> str:
        name = match[1]
        if name not in left:
            return match[0]
        value = left.pop(name)
        return "" if value is None else match[0].replace(match[2], f'"{value}"')

    tag = _ATTRIBUTE.sub(changed, tag)
    added = "".join(f' {name}="{value}"' for name, value in left.items() if value is not None)
    end = len(tag) - (2 if tag.endswith("/>") else 1)
    return tag[:end].rstrip() + added + tag[end:] if added else tag
