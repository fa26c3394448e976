"""A paragraph of XHTML with its source: an element above or below its own, or beside it; or, where another element may
not be, in the same one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from templora.translation.documents.base import Slot
from templora.translation.documents.paragraphs import HEADINGS, Paragraph
from templora.translation.documents.xhtml import Page, with_attributes
from templora.translation.inline.marks import Place
from templora.translation.inline.markup import Marked
from templora.translation.languages import Language

# Elements that may stand twice, in any but these.
_TWICE = HEADINGS | {"p", "div"}
_ONCE = frozenset({"hgroup", "summary"})
_NO_TABLE = HEADINGS | {"caption"}

_NO_ID: Mapping[str, str | None] = {"id": None, "xml:id": None}
_TAG = re.compile(r"<[^\s<>/!?\"'=]+(?:\s+[^\s<>/\"'=]+\s*=\s*(?:\"[^\"]*\"|'[^']*'))+\s*/?>")
_PREFIX = re.compile(r"<([^\s<>/:]+:)?")


@dataclass(frozen=True)
class Pair:
    """How two languages stand in a page.

    Args:
        layout: both, below or side.
        source, target: the languages.
    """

    layout: str
    source: Language
    target: Language

    def edits(self, page: Page, slot: Slot, text: str) -> list[tuple[int, int, str]]:
        """What is to change in a page whose root is in the language of the translation.

        Args:
            page: with its root.
            slot: where the source is.
            text: its translation, as XHTML.
        """
        source = page.text(slot.start, slot.end)
        if not isinstance(slot, Paragraph) or "nav" in slot.inside:  # a label, which can be but one line
            front, label, back = _apart(source, slot.marked)
            other = _without_ids(_apart(text, slot.marked)[1])
            return [(slot.start, slot.end, f"{front}{self._ordered(label, ' / ', other)}{back}")]
        prefix = (_PREFIX.match(page.text(page.root.start, page.root.inner[0])) or [""])[1] or ""
        element = slot.element
        if element is None or element.name not in _TWICE or not _ONCE.isdisjoint(slot.inside):
            there = with_attributes(f"<{prefix}span>", self._attributes(self.source))
            held = f"{there}{source}</{prefix}span>"
            return [(slot.start, slot.end, self._ordered(held, f"<{prefix}br/>", _without_ids(text)))]
        start, (inner, behind), end = element.start, element.inner, element.end
        opening, closing = page.text(start, inner), page.text(behind, end)
        before, after = page.text(inner, slot.start), page.text(slot.end, behind)
        own = element.attributes
        mine = opening
        if not {"lang", "xml:lang"} & own.keys():
            mine = with_attributes(opening, {n: v for n, v in self._attributes(self.source).items() if n not in own})
        other = with_attributes(opening, {**_NO_ID, **self._attributes(self.target, "dir" in own)})
        added = f"{other}{before}{_without_ids(text)}{after}{closing}"
        if self.layout == "side" and _NO_TABLE.isdisjoint(slot.inside):
            cell = f'<{prefix}td style="width: 50%; vertical-align: top">'
            front = f'<{prefix}table class="side" style="width: 100%"><{prefix}tr>{cell}{mine}'
            back = f"{closing}</{prefix}td>{cell}{added}</{prefix}td></{prefix}tr></{prefix}table>"
            return [(start, inner, front), (behind, end, back)]
        if self.layout == "below":
            return [(start, inner, f"{added}\n{mine}")]
        return [(start, inner, mine), (behind, end, f"{closing}\n{added}")]

    def _ordered(self, source: str, between: str, target: str) -> str:
        return f"{target}{between}{source}" if self.layout == "below" else f"{source}{between}{target}"

    def _attributes(self, language: Language, direction: bool = False) -> dict[str, str | None]:
        """What an element in one of the languages has: what it is, and where lines begin, if that must be said."""
        wanted: dict[str, str | None] = {"lang": language.code, "xml:lang": language.code}
        if direction or self.source.right_to_left != self.target.right_to_left:
            wanted["dir"] = "rtl" if language.right_to_left else "ltr"
        return wanted


def _apart(text: str, marked: Marked) -> tuple[str, str, str]:
    """A label, which may be a link as a whole: the markup in front, the rest, and the markup behind."""
    start, end = 0, len(text)
    for source in (part.source for part in marked.before if isinstance(part, Place)):
        start = len(text) - len(text[start:].lstrip())
        if not text.startswith(source, start):
            return "", text, ""
        start += len(source)
    for source in (part.source for part in reversed(marked.after) if isinstance(part, Place)):
        end = len(text[:end].rstrip())
        if not text.endswith(source, start, end):
            return "", text, ""
        end -= len(source)
    return text[:start], text[start:end], text[end:]


def _without_ids(text: str) -> str:
    """Markup without what may be there but once."""
    return _TAG.sub(lambda tag: with_attributes(tag[0], _NO_ID), text)
