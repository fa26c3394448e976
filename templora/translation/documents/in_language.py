"""The tags of a page that say which language it is in, and from which side it is read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from templora.translation.documents.xhtml import Element, Page, with_attributes
from templora.translation.languages import Language


def in_language(page: Page, root: Element, names: Sequence[str], to: Language) -> Iterator[tuple[int, int, str]]:
    """Edits of a page: the root, and the body where it says something else, in the language of the translation.

    Args:
        page: that is translated.
        root: its `html`, or what is in its place.
        names: attributes that say the language.
        to: the language.
    """
    body = root.first("body")
    for element in (root, *([body] if body else [])):
        there = element.attributes
        wanted: dict[str, str | None] = {n: to.code for n in names if element is root or n in there}
        if root.name == "html":
            if to.right_to_left and (element is root or "dir" in there):
                wanted["dir"] = "rtl"
            elif not to.right_to_left and there.get("dir", "").lower() == "rtl":
                wanted["dir"] = None
        if wanted:
            tag = page.text(element.start, element.inner[0])
            yield element.start, element.inner[0], with_attributes(tag, wanted)
