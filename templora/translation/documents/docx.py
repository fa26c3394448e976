"""Word documents: the paragraphs of the text, of notes, headers and footers, and of boxes in them."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from templora.errors import TextError
from templora.translation.documents.base import Document
from templora.translation.documents.docx_paragraphs import Edit, Paragraph, TextPart, prefix_of
from templora.translation.documents.docx_parts import Styles, WordParts, value
from templora.translation.documents.docx_runs import languages
from templora.translation.documents.xhtml import with_attributes
from templora.translation.inline.characters import one_line
from templora.translation.inline.markup import Marked, Restored
from templora.translation.languages import Language


class Docx(Document):
    """A Word document (.docx, .docm). An entry of a table of contents that reads like a heading gets that one's
    translation, and so does a text that is there again for older programs.

    Args:
        label: its name, for errors.
        raw: what it holds.

    Raises:
        TextError: it cannot be opened, or there is no text in it; names the file and the part.
    """

    def __init__(self, label: str, raw: bytes) -> None:
        self._raw = raw
        self._package = package = WordParts(label, raw)
        styles = Styles(package.styles[1] if package.styles else None)
        parts = [TextPart(path, page, styles) for path, page in package.texts]
        self._found: list[tuple[Marked, TextPart, Paragraph]] = []
        self._headings: list[str] = []
        self._parts = [(part, self._numbers(part)) for part in parts]
        self.segments = tuple(marked for marked, *_ in self._found)
        self.problems = tuple(package.problems)
        if not self.segments and self.problems:
            raise TextError(f"{label}: there is no text in it that can be translated{package.because}")

    def _numbers(self, part: TextPart) -> list[int]:
        """For each paragraph of a part the segment whose translation it gets: its own, or the one that it repeats."""
        titles = {paragraph.marked.text for paragraph in part.paragraphs if paragraph.heads and not paragraph.again}
        titled: dict[str, int] = {}
        versions: dict[tuple[int, str], deque[int]] = {}
        found, heading = list[int](), ""
        for paragraph in part.paragraphs:
            text, number = paragraph.marked.text, len(self._found)
            firsts = versions.setdefault((paragraph.versions, text), deque())
            if paragraph.again and firsts:
                found.append(firsts.popleft() if len(firsts) > 1 else firsts[0])
            elif paragraph.lists_contents and not paragraph.heads and text in titles:
                found.append(-1)
            else:
                if paragraph.heads:
                    heading = paragraph.marked.plain
                    titled.setdefault(text, number)
                firsts.append(number)
                self._found.append((paragraph.marked, part, paragraph))
                self._headings.append(heading)
                found.append(number)
        pairs = zip(part.paragraphs, found, strict=True)
        return [titled[paragraph.marked.text] if number < 0 else number for paragraph, number in pairs]

    def chapter(self, index: int) -> str:
        return self._headings[index]

    def restored(self, index: int, target: str) -> Restored:
        _, part, paragraph = self._found[index]
        return part.restored(paragraph, target)

    def render(self, targets: Sequence[str], to: Language) -> bytes:
        """The document; what is not translated yet is in the language of the source."""
        changed = {}
        for part, numbers in self._parts:
            edits: list[Edit] = []
            for paragraph, number in zip(reversed(part.paragraphs), reversed(numbers), strict=True):
                if number < len(targets) and one_line(targets[number]).strip() != self.segments[number].text:
                    edits += part.edits(paragraph, targets[number], to, edits)
            if edits:
                changed[part.path] = part.page.edited(edits)
        if not changed:
            return self._raw
        return self._package.archive.written(self._styles(to) | changed)

    def _styles(self, to: Language) -> dict[str, bytes]:
        """The styles, with the new language where they have the one that all text is in unless it says otherwise."""
        if self._package.styles is None:
            return {}
        path, page = self._package.styles
        prefix, defaults = prefix_of(page), page.root.first("docDefaults")
        default = defaults.first("lang") if defaults else None
        said = [held for held in page.root.all("lang") if default and value(held) == value(default)]
        tags = [(held.start, held.inner[0]) for held in said]
        return {path: page.edited([(*tag, with_attributes(page.text(*tag), languages(prefix, to))) for tag in tags])}
