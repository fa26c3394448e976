"""Inline markup of Markdown: as marks, as what a reader would read, and written down again."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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
STYLES = ("written", "breaks", "stars", "tags")
_BREAKS = {"br": ("<br>", "")}
_STARS = {"em": ("*", "*"), "strong": ("**", "**")}
_TAGS = {"em": ("<em>", "</em>"), "strong": ("<strong>", "</strong>"), "s": ("<del>", "</del>"), **_BREAKS}
_SAME = {"<em>": ("open", "em"), "<strong>": ("open", "strong"), "<del>": ("open", "s"), "<br>": ("br",)}
_SAME |= {"</em>": ("close", "em"), "</strong>": ("close", "strong"), "</del>": ("close", "s")}
_SAME |= {"<br/>": ("br",), "<br />": ("br",)}

_HTML = re.compile(r"<(/?)([A-Za-z][A-Za-z0-9-]*)")
DEEPEST = 40  # of markup in markup; what is nested deeper is no text
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

    def written(self, edge: int, style: str, raw: bool) -> str:
        other = {"written": {}, "breaks": _BREAKS, "stars": _STARS, "tags": _TAGS}[style].get(self.name)
        return (other or (self.raw if raw else self.read))[edge]


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

    def opened(self, style: str, raw: bool) -> str:
        """What is in front of the text; all of it where there is none."""
        return "".join(layer.written(0, style, raw) for layer in self.layers)

    def closed(self, text: str, style: str, raw: bool) -> str:
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
    found: list[Event] = []
    for event in _events(content):
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
    before: dict[int, str] = {}
    if special:
        before = dict.fromkeys((match.start() for match in _SPECIAL.finditer(text)), "\\")
        if text.endswith("!") and not ends:  # or it makes an image of a link behind it
            before[len(text) - 1] = "\\"
        match = _START.match(text) if starts else None
        if match:
            before[match.end() if match["number"] else 0] = f"&#{ord(match[0])};" if match["word"] else "\\"
    if not before and not any(character in text for character in kept):
        return text
    found = []
    for at, character in enumerate(text):
        if character in kept:
            found.append(kept[character])
        elif before.get(at, "")[:1] == "&":
            found.append(before[at])
        else:
            found.append(before.get(at, "") + character)
    return "".join(found)


# From tokens to marks ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Tag:
    """A tag of HTML, which may find its other half."""

    token: Token
    at: int
    name: str
    closes: bool


def inlines(tokens: Sequence[Token], content: str, where: Sequence[int], text: str, cell: bool) -> list[Inline]:
    """A block's text and markup.

    Args:
        tokens: of it.
        content: as the parser has it.
        where: its characters are in `text`.
        text: of the file.
        cell: whether it is a cell, which is read as it is in the file.
    """

    def slices(start: int, end: int) -> tuple[str, str]:
        raw = text[where[start] : where[end]]
        return raw, raw if cell else content[start:end]

    return _Reader(tokens, slices, content).read()


class _Reader:
    def __init__(self, tokens: Sequence[Token], slices: Callable[[int, int], tuple[str, str]], content: str) -> None:
        self._tokens, self._slices, self._content = tokens, slices, content
        self._at = 0
        self._depths: dict[int, int] = {}  # of what is around other markup

    def read(self) -> list[Inline]:
        """All up to the end of what was opened last."""
        found: list[Inline | _Tag] = []
        while self._at < len(self._tokens):
            token = self._tokens[self._at]
            self._at += 1
            if token.type in ("text", "text_special", "softbreak"):
                found.append("\n" if token.type == "softbreak" else token.content)
            elif token.nesting < 0:
                self._at -= 1
                break
            elif token.info == "auto":
                shown = self._tokens[self._at].content
                self._at += 2
                found.append(self._thing(token, self._tokens[self._at - 3 : self._at], shown, link=True))
            elif token.nesting:
                found.append(self._around(token))
            elif token.type == "html_inline":
                found.append(self._html(token))
            else:
                shown = one_line(token.meta.get("shown", token.content if token.type == "code_inline" else ""))
                found.append(self._thing(token, [token], shown, link=token.type == "footnote"))
        return self._paired(found)

    def _thing(self, token: Token, tokens: Sequence[Token], shown: str = "", link: bool = False) -> Thing:
        raw, read = self._slices(*token.meta["span"])
        name = "br" if token.type == "hardbreak" else ""
        layer = Layer((raw, ""), (read, ""), name, tuple(events(tokens)))
        return Thing(InlineMark(raw, shown=shown, link=link, layers=(layer,)))

    def _around(self, opening: Token) -> Around:
        first = self._at - 1
        inner = self.read()
        closing = self._tokens[self._at]
        self._at += 1
        (start, after), (before, end) = strong_span(opening), strong_span(closing)
        text, short = None, ""
        if "label" in opening.meta:
            before, after = opening.meta["label"], start + 1
            short = self._content[before:end]
            text = self._slices(after, before)[0] if short in ("]", "][]") else None
        name = opening.tag if opening.tag in ("em", "strong", "s") else ""
        tokens = self._tokens[first : self._at]
        return self._wrapped((start, after), (before, end), tokens, inner, name, text, short)

    def _wrapped(
        self,
        opening: tuple[int, int],
        closing: tuple[int, int],
        tokens: Sequence[Token],
        inner: Sequence[Inline],
        name: str,
        text: str | None = None,
        short: str = "",
    ) -> Around:
        (raw_open, read_open), (raw_close, read_close) = self._slices(*opening), self._slices(*closing)
        if text is not None:
            label = one_line(self._content[opening[1] : closing[0]])
            raw_close = read_close = f"][{label}]"
        first, last = tuple(events(tokens[:1])), tuple(events(tokens[-1:]))
        layer = Layer((raw_open, raw_close), (read_open, read_close), name, first, last, text, short)
        raw, read = self._slices(opening[0], closing[1])
        whole = Layer((raw, ""), (read, ""), "", tuple(events(tokens)))
        link = tokens[0].type == "link_open" or read_open[:2].lower() == "<a"
        mark = InlineMark(raw_open, raw_close, wraps=True, link=link, layers=(layer,))
        found = Around(mark, inner, InlineMark(raw, link=link, layers=(whole,)))
        self._depths[id(found)] = 1 + self._depth(inner)
        return found

    def _html(self, token: Token) -> _Tag | Thing:
        match = _HTML.match(token.content)
        if match is None or token.content.endswith("/>") or match[2].lower() in _EMPTY:
            return self._thing(token, [token])
        return _Tag(token, self._at - 1, match[2].lower(), bool(match[1]))

    def _paired(self, found: Sequence[Inline | _Tag]) -> list[Inline]:
        """With tags that belong together around what is between them; the others are things, and so are those around
        too much other markup.
        """
        done: list[Inline | _Tag] = []
        opened: dict[str, list[int]] = {}
        for item in found:
            done.append(item)
            if not isinstance(item, _Tag):
                continue
            places = opened.setdefault(item.name, [])
            if not item.closes:
                places.append(len(done) - 1)
                continue
            while places and (places[-1] >= len(done) - 1 or not _opens(done[places[-1]], item.name)):
                places.pop()  # it is within another pair
            if places:
                at = places.pop()
                pair = self._pair(done[at:], item)
                if pair:
                    done[at:] = [pair]
                else:
                    opened.clear()  # what is around too much is, too
        return [self._thing(item.token, [item.token]) if isinstance(item, _Tag) else item for item in done]

    def _pair(self, held: Sequence[Inline | _Tag], closing: _Tag) -> Around | None:
        """What is around all between the first and the last one; None if that is too much."""
        opening = held[0]
        assert isinstance(opening, _Tag)
        inner = [self._thing(i.token, [i.token]) if isinstance(i, _Tag) else i for i in held[1:-1]]
        if self._depth(inner) >= DEEPEST:
            return None
        tokens = self._tokens[opening.at : closing.at + 1]
        name = {"em": "em", "strong": "strong", "del": "s"}.get(closing.name, "")
        name = name if opening.token.content.lower() in _SAME else ""
        return self._wrapped(opening.token.meta["span"], closing.token.meta["span"], tokens, inner, name)

    def _depth(self, inner: Sequence[Inline]) -> int:
        return max((self._depths[id(item)] for item in inner if isinstance(item, Around)), default=0)


def _opens(item: Inline | _Tag, name: str) -> bool:
    return isinstance(item, _Tag) and not item.closes and item.name == name
