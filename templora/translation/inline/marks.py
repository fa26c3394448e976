"""`Mark`: a piece of markup in a paragraph, its tags, and its place among the text."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

from templora.translation.inline.characters import one_line

# Forgiving: models write spaces into tags, brackets of East Asian width, and the digits of other scripts.
TAG = re.compile(r"[<＜]\s?(?P<close>/?)\s?(?P<number>\d{1,7})\s?(?P<void>/?)\s?[>＞]")
_RAISED = re.compile(r"<(?:[\w.-]+:)?su[bp](?=[\s/>])", re.IGNORECASE)
_ANCHOR = re.compile(r"\s(?:xml:)?(?:id|name)\s*=", re.IGNORECASE)


@dataclass(frozen=True)
class Mark:
    """A piece of markup. It wraps text (emphasis, a link), or is a thing without any (an image), or is kept: the model
    sees its text, but in the end that is the source's again (code).

    Args:
        opening: its source before the text that it wraps; the whole of it where it wraps none.
        closing: its source after that text.
        number: in its tags.
        wraps: whether it wraps text.
        shown: of one that is kept, what the model sees.
        link: it must not be inside another link.
    """

    opening: str
    closing: str = ""
    number: int = 0
    wraps: bool = False
    shown: str = ""
    link: bool = False

    @property
    def raised(self) -> bool:
        """Whether it raises or lowers its text."""
        return bool(_RAISED.search(self.opening))

    @property
    def needed(self) -> bool:
        """Whether something would be missing without it that is not its text: a link, or what one leads to."""
        return not self.wraps or self.link or bool(_ANCHOR.search(self.opening))

    def merged(self, inner: Mark) -> Mark:
        """One mark for two, where `inner` wraps all that this one wraps."""
        opening, closing = self.opening + inner.opening, inner.closing + self.closing
        return Mark(opening, closing, wraps=True, link=self.link or inner.link)

    def tagged(self, edge: str) -> str:
        """What the model sees of it."""
        if edge == "whole":
            return f"<{self.number}>{self.shown}</{self.number}>" if self.shown else f"<{self.number}/>"
        return f"<{self.number}>" if edge == "opening" else f"</{self.number}>"


class Place(NamedTuple):
    """Where a mark is among the text: one place if it wraps nothing, else two."""

    mark: Mark
    edge: Literal["opening", "closing", "whole"]

    @property
    def source(self) -> str:
        return self.mark.closing if self.edge == "closing" else self.mark.opening

    @property
    def nesting(self) -> int:
        """How much deeper in marks a text behind it is than one in front of it."""
        return {"opening": 1, "closing": -1, "whole": 0}[self.edge]


Part: TypeAlias = str | Place


def visible(part: Part) -> str:
    """What a reader reads of a part, as far as it is known."""
    if isinstance(part, str):
        return part
    return part.mark.shown if part.edge == "whole" else ""


def joined(parts: Iterable[Part | None]) -> list[Part]:
    """With neighbouring texts as one, and without what is empty."""
    found: list[Part] = []
    for texts, group in itertools.groupby((part for part in parts if part), lambda part: isinstance(part, str)):
        held = list(group)
        found += ["".join(map(str, held))] if texts else held
    return found


def tidied(parts: Iterable[Part]) -> list[Part]:
    """With white space collapsed, and without any at the ends."""
    found = [one_line(part) if isinstance(part, str) else part for part in parts]
    if found and isinstance(found[0], str):
        found[0] = found[0].lstrip()
    if found and isinstance(found[-1], str):
        found[-1] = found[-1].rstrip()
    return [part for part in found if part]
