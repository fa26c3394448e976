"""`Output`: a translation on its way to a file or to standard output, a paragraph at a time where it can be."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from templora.errors import OptionError, TextError
from templora.runtime.files import told, written_whole
from templora.translation.documents import Document
from templora.translation.languages import Language


class Output:
    """Where a translation goes.

    Args:
        document: that is translated.
        to: the language.
        path: of the file; None: whatever `begin` and `add` return is for standard output.
        begun: whether the file may be there already, from the run that is gone on with.

    Attributes:
        moved: pieces of markup that the model lost and that were put where they had been in the source.
        note: what the user should know about the file; empty if nothing.

    Raises:
        OptionError: there is such a file, and it is not of this translation.
    """

    def __init__(self, document: Document, to: Language, path: Path | None, *, begun: bool) -> None:
        self.note = ""
        self._document, self._to, self._path = document, to, path
        self._writing = partial(told, TextError, f"{path}: the translation cannot be written")
        self.moved = 0
        self._opening = document.opening
        if path is not None and path.is_file() and path.stat().st_size and not begun:
            raise OptionError("out", f"{path} is there already; give another name, or delete it")

    def begin(self, targets: Sequence[str]) -> str:
        """Writes what is translated already; returns what is for standard output: all of it, once it is whole."""
        self.moved += sum(self._document.moved(i, target) for i, target in enumerate(targets))
        if not self._document.streams:
            return ""
        text = "".join(self._document.piece(i, t) for i, t in enumerate(targets))
        if targets:  # until there is a paragraph, nothing is written that another run would have to overwrite
            text, self._opening = self._opening + text, ""
        if self._path is None:
            return "" if 0 < len(targets) < len(self._document.segments) else text
        raw = text.encode()
        with self._writing():
            if self._path.is_file():
                there = self._path.read_bytes()
                if not raw.startswith(there):
                    spare = self._path.with_name(self._path.name + "~")
                    os.replace(self._path, spare)
                    self.note = f"{self._path} had been changed; what it was is in {spare.name}"
            with self._path.open("wb") as file:
                file.write(raw)
        return ""

    def add(self, index: int, target: str) -> str:
        """Writes one more paragraph; returns what is for standard output."""
        self.moved += self._document.moved(index, target)
        if not self._document.streams:
            return ""
        text, self._opening = self._opening + self._document.piece(index, target), ""
        if self._path is None:
            return text
        with self._writing(), self._path.open("ab") as file:
            file.write(text.encode())
            file.flush()
            if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                os.fsync(file.fileno())
        return ""

    def end(self, targets: Sequence[str]) -> None:
        """Writes a document that cannot be written in pieces; what is not translated stays as it was in it."""
        if self._document.streams or self._path is None:
            return
        raw = self._document.render(targets, self._to)
        with self._writing(), written_whole(self._path) as beside:
            beside.write_bytes(raw)
