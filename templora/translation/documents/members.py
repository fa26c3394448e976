"""Members of an archive that are XML: those that can be read are, the others are left as they are and listed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from templora.errors import TextError
from templora.translation.documents.archive import Archive
from templora.translation.documents.xhtml import MAX_ELEMENTS, Page, parse


class Members:
    """A document that is an archive.

    Args:
        label: its name, for errors.
        archive: that it is.
        elements: that all members may have together: each takes memory.

    Attributes:
        archive: the same.
        problems: what is wrong with it, and left as it is.
    """

    def __init__(self, label: str, archive: Archive, elements: int = MAX_ELEMENTS) -> None:
        self._label, self.archive, self._elements = label, archive, elements
        self.problems = archive.problems

    @property
    def because(self) -> str:
        """The last of the problems, for an error."""
        return "".join(f"; {problem}" for problem in self.problems[-3:])

    def parsed(self, path: str) -> Page:
        """A member that is XML.

        Raises:
            TextError: it cannot be read; names it.
        """
        page = parse(f"{self._label}: {path}", self.archive.read(path), most=self._elements)
        self._elements -= page.elements
        return page

    def readable(self, paths: Iterable[str]) -> Iterator[tuple[str, Page]]:
        """Those of some members that can be read; the others are left as they are, and listed."""
        for path in paths:
            try:
                yield path, self.parsed(path)
            except TextError as error:
                self.leave(error)

    def leave(self, error: TextError) -> None:
        """Lists what an error says about a member."""
        self.problems.append(f"{str(error).removeprefix(f'{self._label}: ')}; left as it is")
