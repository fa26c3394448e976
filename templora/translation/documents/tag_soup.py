"""HTML as it is found, with the place of everything in it, read as browsers read it.

Nothing is an error: what is not closed ends where a browser ends it, what is cut off is no text. A browser also moves
and doubles elements, so that bold text stays bold in the next paragraph; here a start tag of inline markup that has no
end tag of its own, and the other way round, is a thing that stands among the text.

The parser of the standard library needs time that grows with the square of some files.
"""

from __future__ import annotations

import html
import re

from templora.errors import TextError
from templora.translation.documents.paragraphs import BLOCKS, HEADINGS, kept
from templora.translation.documents.xhtml import DEEPEST, MAX_ELEMENTS, NO_ATTRIBUTES, Element, Page, Text, in_utf8

_MARKUP = re.compile(
    rb"""
    <!--(?: -?> | .*?--!?> )                                      # a comment
    | <(?: !(?!--) | \? | /(?=[^a-zA-Z]) )[^>]*>                  # a declaration, or what is taken for a comment
    | <(?P<end>/?) (?P<name>[a-zA-Z][^\t\n\f\r />]*)              # a tag begins
    | <[!?/].*                                                    # cut off
    """,
    re.DOTALL | re.VERBOSE,
)
_ATTRIBUTE = re.compile(
    rb"""
    [\t\n\f\r /]*
    (?: (?P<done>>)                                               # the tag ends
    | (?P<name>[^\t\n\f\r />][^\t\n\f\r />=]*)
      (?: [\t\n\f\r ]*=[\t\n\f\r ]* (?P<value> "[^"]*" | '[^']*' | [^\t\n\f\r >"'][^\t\n\f\r >]* | (?=>) )
      | (?![\t\n\f\r ]*=)
      )
    )
    """,
    re.VERBOSE,
)
_TAG = re.compile(rb"</?[^\t\n\f\r />]+")
_RAW_END = r"</%s(?=[\t\n\f\r />])"
_SCRIPT = re.compile(rb"<!--|-->|<(/?)script(?=[\t\n\f\r />])", re.IGNORECASE)
_QUERY = re.compile(r"&(?=\w+=)")  # in an attribute it begins no reference
_ENDLESS = re.compile(r"&#(?:\d{9,}|[xX][\da-fA-F]{9,});?")  # Python refuses to read such numbers


def _names(names: str) -> frozenset[str]:
    return frozenset(names.split())


_VOID = _names("area base br col embed hr img input link meta param source track wbr")
_IN_HEAD = _names("base basefont bgsound head link meta noframes noscript script style template title")
_RAW = _names("iframe noembed noframes script style textarea title xmp")  # in which there is no markup
_RUBY = _names("rb rp rt rtc")
_CELLS, _ROWS = _names("caption colgroup td th"), _names("tbody tfoot thead tr")
_OF_TABLES = _CELLS | _ROWS | {"table"}
# What the start of something else ends, if nothing is between them that keeps it from that.
_ENDED = {
    **dict.fromkeys(BLOCKS - {"caption", "legend", "noscript", "title"}, _names("p")),
    **dict.fromkeys(HEADINGS, HEADINGS | {"p"}),
    **dict.fromkeys(_RUBY, _RUBY),
    **dict.fromkeys(_CELLS, _CELLS),
    **dict.fromkeys(_ROWS, _CELLS | _ROWS),
    "tr": _CELLS | {"tr"},
    "li": _names("li p"),
    "dt": _names("dt dd p"),
    "dd": _names("dt dd p"),
    "option": _names("option"),
    "optgroup": _names("optgroup option"),
}
_KEEPS = _CELLS | _names("applet button datalist dl math menu object ol ruby select svg table template ul")
# What the end tag of something else does not end.
_HOLDS = _CELLS | _names("button object table template")
_ENDS_BLOCKS = BLOCKS | _names("applet button marquee object template")


def parse(label: str, raw: bytes) -> Page:
    """A file of HTML, or a part of one. Its root is around everything in it, and has no name.

    Args:
        label: its name, for errors.
        raw: what it holds.

    Raises:
        TextError: it is empty, too large, of no encoding, or made to do harm; names `label`.
    """
    source, codec, spelling = in_utf8(label, raw)
    builder = _Builder(label, source)
    return Page(source, codec, spelling, builder.root, builder.elements)


def attributes(source: bytes, start: int) -> tuple[dict[str, tuple[int, int]], int] | None:
    """The attributes of a start tag, with the bytes that their values are, quotes included; and where the tag ends.

    Args:
        source: the page.
        start: of the tag.

    Returns:
        None if the tag is cut off.
    """
    found: dict[str, tuple[int, int]] = {}
    at = name.end() if (name := _TAG.match(source, start)) else start
    while match := _ATTRIBUTE.match(source, at):
        at = match.end()
        if match["done"]:
            return found, at
        found.setdefault(match["name"].decode().lower(), match.span("value"))
    return None


def value(source: bytes, span: tuple[int, int]) -> str:
    """What an attribute's value reads."""
    written = source[slice(*span)].decode() if span[0] >= 0 else ""
    bare = written[1:-1] if written[:1] in ("'", '"') else written
    return _unescaped(_QUERY.sub("&amp;", bare))


def _stays(element: Element) -> bool:
    """Whether it matters what is in an element."""
    return element.name in _RUBY or element.name == "ruby" or kept(element)


def _unescaped(text: str) -> str:
    return html.unescape(_ENDLESS.sub("\ufffd", text)) if "&" in text else text


class _Builder:
    """Builds the elements in one go through the file."""

    def __init__(self, label: str, source: bytes) -> None:
        self.elements = 0
        self.root = Element("", NO_ATTRIBUTES, 0, len(source), (0, len(source)))
        self._label, self._source = label, source
        self._open = [self.root]
        at = 0
        while match := _MARKUP.search(source, at):
            self._text(at, match.start())
            tag = attributes(source, match.start()) if match["name"] else None
            name = match["name"].decode().lower() if tag else ""
            if tag is None:
                at = len(source) if match["name"] else match.end()
                self._add("", match.start(), at)
            elif match["end"]:
                at = tag[1]
                self._end(name, match.start(), at)
            else:
                at = self._start(name, match.start(), *tag)
        self._text(at, len(source))
        self._close(0, len(source))

    def _add(self, name: str, start: int, end: int) -> Element:
        self.elements += 1
        if self.elements > MAX_ELEMENTS:
            raise TextError(f"{self._label}: more than {MAX_ELEMENTS:,} elements; no text has so many")
        element = Element(name, NO_ATTRIBUTES, start, end, (end, end))
        self._open[-1].children.append(element)
        return element

    def _text(self, start: int, end: int) -> None:
        if start < end:
            data = _unescaped(self._source[start:end].decode())
            if self._open[-1].name == "head" and data.strip():
                self._close(len(self._open) - 1, start)
            self._open[-1].children.append(Text(start, end, data))

    def _start(self, name: str, start: int, spans: dict[str, tuple[int, int]], end: int) -> int:
        """Returns where to go on."""
        if self._open[-1].name == "head" and name not in _IN_HEAD:
            self._close(len(self._open) - 1, start)
        ended, first = _ENDED.get(name, frozenset()), 0
        for at in range(len(self._open) - 1, 0, -1) if ended else ():
            if self._open[at].name in ended:
                first = at
            elif self._open[at].name in _KEEPS:
                break
        if first:
            self._close(first, start)
        element = self._add(name, start, end)
        if spans:
            element.attributes = {key: value(self._source, span) for key, span in spans.items()}
        self._open.append(element)
        drawn = self._source.endswith(b"/>", start, end) and any(e.name in ("svg", "math") for e in self._open)
        if name in _VOID or drawn:
            self._open.pop()
            return end
        if name == "plaintext":
            return len(self._source)
        if name not in _RAW:
            if len(self._open) > DEEPEST:
                self._flatten()
            return end
        behind = self._raw_end(name, end)
        if name == "title":
            self._text(end, behind)
        return behind

    def _raw_end(self, name: str, start: int) -> int:
        """Where the end tag of an element begins in which there is no markup."""
        if name != "script":
            match = re.compile((_RAW_END % name).encode(), re.IGNORECASE).search(self._source, start)
            return match.start() if match else len(self._source)
        comment = inner = False  # a script that writes another one, within a comment
        for match in _SCRIPT.finditer(self._source, start):
            if match[1] is None:
                comment, inner = match[0] == b"<!--", False
            elif not match[1]:
                inner = comment
            elif not inner:
                return match.start()
            else:
                inner = False
        return len(self._source)

    def _end(self, name: str, start: int, end: int) -> None:
        names = HEADINGS if name in HEADINGS else {name}
        holds = {"table", "template"} if name in _OF_TABLES else _HOLDS
        for at in range(len(self._open) - 1, 0, -1):
            there = self._open[at].name
            if there in names:
                element = self._open[at]
                self._close(at, start)
                element.end = end
                return
            if there in holds or (there in BLOCKS and name not in _ENDS_BLOCKS):
                break
        self._add(name if name in BLOCKS else "", start, end)  # the end of nothing

    def _close(self, first: int, end: int) -> None:
        """Ends an open element, and those in it that have no end tag."""
        while len(self._open) > max(first, 1):
            element = self._open[-1]
            if len(self._open) - 1 == first or element.name in BLOCKS or _stays(element):
                self._open.pop()
                element.inner, element.end = (element.inner[0], end), end
            else:
                self._dissolve(len(self._open) - 1)

    def _dissolve(self, at: int) -> None:
        """Makes a start tag of an open element; what is in it comes behind it."""
        element = self._open.pop(at)
        self._open[at - 1].children += element.children
        element.children = []

    def _flatten(self) -> None:
        """Makes what is open less deep. Where a block begins and ends is seen nevertheless."""
        at = next((at for at in range(1, len(self._open)) if not _stays(self._open[at])), 0)
        if not at:
            raise TextError(f"{self._label}: elements in elements more than {DEEPEST} deep")
        self._dissolve(at)
