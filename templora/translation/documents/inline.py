"""Inline markup of Markdown: as marks, as what a reader would read, and written down again."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from markdown_it.token import Token

from templora.translation.documents.commonmark import strong_span
from templora.translation.inline.characters import one_line
from templora.translation.inline.marking import Around, Inline, Thing
from templora.translation.inline.marks import Mark, Part, Place, joined, tidied

# What there is in a text, for comparison: ("text", ...), ("open", ...), ("close", ...), and things.
Event: TypeAlias = tuple[str, ...]

# Ways to write markup, the first as it was. A line cannot break at the end of a paragraph; `_` marks nothing within a
# word; neither mark does between a letter and punctuation, as it comes out in scripts without spaces. Tags always work.
Style: TypeAlias = Mapping[str, tuple[str, str]]
_TAGS = {"em": ("<em>", "</em>"), "strong": ("<strong>", "</strong>"), "s": ("<del>", "</del>"), "br": ("<br>", "")}
STYLES: tuple[Style, ...] = ({}, {"br": ("<br>", "")}, {"em": ("*", "*"), "strong": ("**", "**")}, _TAGS)
_SAME = {"<em>": ("open", "em"), "<strong>": ("open", "strong"), "<del>": ("open", "s"), "<br>": ("br",)}
_SAME |= {"</em>": ("close", "em"), "</strong>": ("close", "strong"), "</del>": ("close", "s")}
_SAME |= {"<br/>": ("br",), "<br />": ("br",)}

_HTML = re.compile(r"<(/?)([A-Za-z][A-Za-z0-9-]*)")
DEEPEST = 40  # of markup in markup; what is nested deeper is no text
_MAX_OPEN = 100  # tags that another one is looked for among, so that those without another half cost no more
_EMPTY = frozenset({"area", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"})

# Each backslash goes before what is matched.
_SPECIAL = re.compile(
    r"\\(?=[!-/:-@\[-`{-~]|$)|\*(?!\s)|(?<!\s)\*|[`\[\]${]|(?<!\w)_|_(?!\w)|<(?=[A-Za-z/!?%>])|&(?=#?\w{1,40};)|~(?=~)|(?<=~)~"
    r"|(?<=\s)#(?=#*\s*$)|(?<![\w:]):(?=\S)|(?<=\s)\^|%(?=%)"
)
_START = re.compile(
    r"#{1,6}(?=\s|$)|>|[-+*](?=\s|$)|-(?=[-\s]*$)|=(?==*\s*$|==)|(?P<number>\d{1,9})(?=[.)](?:\s|$))|[:~](?=[\s:]|$)|!(?=!!)"
    r"|\?(?=\?\?)|/(?=//)|\\(?=[A-Za-z])|(?P<word>[ie])(?=(?:mp|xp)ort\b)"
)
# Escapes that matter at the beginning of a line alone, where they are found out by themselves.
_ELSEWHERE_NONE = frozenset(".-+#=,;")


@dataclass(frozen=True)
class Layer:
    """One piece of markup of a mark.

    Args:
        raw: opening and closing as they are in the file.
        read: the same as the parser has them.
        name: of what `STYLES` can write in other ways.
        opening, closing: the events that they are.
        text: of a link without a label of its own (`[text]`), which is its label as long as it is that.
        short: its closing then.
    """

    raw: tuple[str, str]
    read: tuple[str, str]
    name: str
    opening: tuple[Event, ...]
    closing: tuple[Event, ...] = ()
    text: str | None = None
    short: str = ""

    def written(self, edge: int, style: Style, raw: bool) -> str:
        return style.get(self.name, self.raw if raw else self.read)[edge]


@dataclass(frozen=True)
class InlineMark(Mark):
    """A mark of Markdown.

    Args:
        layers: what it consists of, from the outside.
    """

    layers: tuple[Layer, ...] = ()

    def merged(self, inner: Mark) -> InlineMark:
        assert isinstance(inner, InlineMark)
        held = super().merged(inner)
        layers = self.layers + inner.layers
        return InlineMark(held.opening, held.closing, wraps=True, link=held.link, layers=layers)

    def opened(self, style: Style, raw: bool) -> str:
        """What is in front of the text; all of it where there is none."""
        return "".join(layer.written(0, style, raw) for layer in self.layers)

    def closed(self, text: str, style: Style, raw: bool) -> str:
        """What is behind the text.

        Args:
            text: what it is now, as Markdown.
        """
        found = ""
        for layer in reversed(self.layers):
            own = len(self.layers) == 1 and layer.text is not None and text == layer.text
            found += layer.short if own else layer.written(1, style, raw)
        return found


def events(content: Iterable[Part] | Iterable[Token]) -> list[Event]:
    """What a reader would read: of parts that are to be written, or of tokens that were read."""
    return merged(_events(content))


def merged(content: Iterable[Event]) -> list[Event]:
    """Events with neighbouring texts as one, and without white space that nobody sees."""
    found: list[Event] = []
    for event in content:
        if event[0] == "text" and found and found[-1][0] == "text":
            event = ("text", found.pop()[1] + event[1])
        found.append(event)
    # White space at the ends of lines is nobody's.
    for at, event in enumerate(found):
        if event[0] == "text":
            text = one_line(event[1])
            text = text.lstrip() if at == 0 or found[at - 1] == ("br",) else text
            found[at] = ("text", text.rstrip() if at + 1 == len(found) or found[at + 1] == ("br",) else text)
    return [event for event in found if event != ("text", "")]


def _events(content: Iterable[Part] | Iterable[Token]) -> Iterator[Event]:
    for item in content:
        if isinstance(item, str):
            yield "text", item
        elif isinstance(item, Place):
            assert isinstance(item.mark, InlineMark)
            if item.edge == "closing":
                yield from (event for layer in reversed(item.mark.layers) for event in layer.closing)
            else:
                yield from (event for layer in item.mark.layers for event in layer.opening)
        elif item.type in ("text", "text_special"):
            yield "text", item.content
        elif item.type == "softbreak":
            yield "text", "\n"
        elif item.type == "hardbreak":
            yield ("br",)
        elif item.type == "html_inline":
            yield _SAME.get(item.content.lower(), ("html", item.content))
        elif item.nesting:
            yield "open" if item.nesting > 0 else "close", item.tag, *map(str, item.attrs.values())
        else:
            yield item.type, item.content, *map(str, item.attrs.values())


def tidy(parts: Iterable[Part]) -> list[Part]:
    """Without white space just inside of markup, where it would keep emphasis from being any: it goes outside; and
    without any at the ends, where it would move the block.
    """
    found = joined(_moved_out(parts, "closing"))
    return tidied(joined(reversed(_moved_out(reversed(found), "opening"))))


def _moved_out(parts: Iterable[Part], edge: str) -> list[Part]:
    """With the spaces behind those edges that are in front of them; backwards for openings."""
    found: list[Part] = []
    for part in parts:
        last = found[-1] if found else None
        if isinstance(part, Place) and part.edge == edge and isinstance(last, str):
            bare = last.rstrip() if edge == "closing" else last.lstrip()
            space = last[len(bare) :] if edge == "closing" else last[: len(last) - len(bare)]
            found[-1:] = [bare, part, space]
        else:
            found.append(part)
    return found


def escapes(tokens: Iterable[Token]) -> dict[str, str]:
    """How the characters are written that a block escapes or has as entities: they may mean something to other readers
    than ours.
    """
    return {
        token.content: token.markup
        for token in reversed([*tokens])
        if token.type == "text_special" and len(token.content) == 1
        if not (token.content.isalnum() or token.content in _ELSEWHERE_NONE)
    }


def escaped(text: str, starts: bool, ends: bool, kept: Mapping[str, str], special: bool = True) -> str:
    """Text that creates no markup.

    Args:
        starts: whether it begins a line.
        ends: whether it ends the block.
        kept: what characters are written as in any case.
        special: whether whatever could be markup is escaped; else only what `kept` has.
    """
    written = [*text]
    if special:
        places = {match.start() for match in _SPECIAL.finditer(text)}
        if text.endswith("!") and not ends:  # or it makes an image of a link behind it
            places.add(len(text) - 1)
        match = _START.match(text) if starts else None
        if match and match["word"]:
            written[0] = f"&#{ord(text[0])};"
        elif match:
            places.add(match.end() if match["number"] else 0)
        for at in places:
            written[at] = f"\\{text[at]}"
    return "".join(kept.get(character, instead) for character, instead in zip(text, written, strict=True))


# From tokens to marks ------------------------------------------------------------------------------------------------


@dataclass
class _Opened:
    """Markup that was opened and not yet closed.

    Args:
        name: of a tag of HTML; empty if it is Markdown's.
        at: its token.
        depth: of markup in markup in it.
    """

    name: str
    at: int
    depth: int = 0


def _ends(tokens: Sequence[Token]) -> dict[int, int]:
    """The last token of each piece of markup that is around others, by its first. Tags of HTML that belong together are
    one, unless something in it ends behind it or begins in front of it, or it is around too much other markup.
    """
    found: dict[int, int] = {}
    stack: list[_Opened] = []
    for at, token in enumerate(tokens):
        name, nesting = _nesting(token)
        if nesting > 0:
            stack.append(_Opened(name, at))
        elif nesting < 0:
            most = min(len(stack), _MAX_OPEN) if name else len(stack)
            back = next((i for i in range(1, most + 1) if stack[-i].name in (name, "")), 0)
            if not back or stack[-back].name != name:
                continue
            inside = stack[-back:]
            del stack[-back:]
            depth = 1 + max(opened.depth for opened in inside)
            if depth <= DEEPEST or not name:
                found[inside[0].at] = at
            if stack:
                stack[-1].depth = max(stack[-1].depth, depth)
    return found


def _nesting(token: Token) -> tuple[str, int]:
    """The name of a tag of HTML, if it is one that may have another half; and 1 if a token opens something, -1 if it
    closes that, else 0.
    """
    match = _HTML.match(token.content) if token.type == "html_inline" else None
    if match is None:
        return "", token.nesting
    name = match[2].lower()
    if token.content.endswith("/>") or name in _EMPTY:
        return "", 0
    return name, -1 if match[1] else 1


class Reader:
    """Reads a block's text and markup.

    Args:
        tokens: of it.
        content: as the parser has it.
        where: its characters are in `text`.
        text: of the file.
        cell: whether it is a cell, which is read as it is in the file.
    """

    def __init__(self, tokens: Sequence[Token], content: str, where: Sequence[int], text: str, cell: bool) -> None:
        self._tokens, self._content, self._where, self._text, self._cell = tokens, content, where, text, cell
        self._ends = _ends(tokens)

    def read(self, at: int = 0, end: int | None = None) -> list[Inline]:
        """What tokens are, of all or [at, end)."""
        found: list[Inline] = []
        while at < (len(self._tokens) if end is None else end):
            last = self._ends.get(at, at)
            token, tokens = self._tokens[at], self._tokens[at : last + 1]
            if token.type in ("text", "text_special", "softbreak"):
                found.append("\n" if token.type == "softbreak" else token.content)
            elif token.info == "auto":
                found.append(self._thing(tokens, tokens[1].content, link=True))
            elif last > at:
                found.append(self._around(tokens, self.read(at + 1, last)))
            else:
                shown = token.meta.get("shown", token.content if token.type == "code_inline" else "")
                found.append(self._thing(tokens, one_line(shown), link=token.type == "footnote"))
            at = last + 1
        return found

    def _thing(self, tokens: Sequence[Token], shown: str, link: bool) -> Thing:
        raw, read = self._slices(*tokens[0].meta["span"])
        name = "br" if tokens[0].type == "hardbreak" else ""
        layer = Layer((raw, ""), (read, ""), name, tuple(events(tokens)))
        return Thing(InlineMark(raw, shown=shown, link=link, layers=(layer,)))

    def _around(self, tokens: Sequence[Token], inner: Sequence[Inline]) -> Around:
        (start, after), (before, end) = strong_span(tokens[0]), strong_span(tokens[-1])
        label = text = None
        short = ""
        if "label" in tokens[0].meta:
            before, after = tokens[0].meta["label"], start + 1
            short = self._content[before:end]
            if short in ("]", "][]"):
                text, label = self._slices(after, before)[0], f"][{one_line(self._content[after:before])}]"
        (raw_open, read_open), (raw_close, read_close) = self._slices(start, after), self._slices(before, end)
        edges = (raw_open, label or raw_close), (read_open, label or read_close)
        first, last = events(tokens[:1]), events(tokens[-1:])
        layer = Layer(*edges, first[0][1], tuple(first), tuple(last), text, short)
        raw, read = self._slices(start, end)
        whole = Layer((raw, ""), (read, ""), "", tuple(events(tokens)))
        link = tokens[0].type == "link_open" or _nesting(tokens[0])[0] == "a"
        mark = InlineMark(*edges[0], wraps=True, link=link, layers=(layer,))
        return Around(mark, inner, InlineMark(raw, link=link, layers=(whole,)))

    def _slices(self, start: int, end: int) -> tuple[str, str]:
        raw = self._text[self._where[start] : self._where[end]]
        return raw, raw if self._cell else self._content[start:end]
