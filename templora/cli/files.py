"""Texts in, text and reports out. What cannot be read or written is found before a model is loaded."""

from __future__ import annotations

import contextlib
import os
import stat
from functools import partial
from pathlib import Path
from typing import IO

from templora.errors import OptionError, TextError
from templora.runtime.files import told


def check_outputs(outputs: dict[str, str | None], inputs: list[str]) -> dict[str, Path]:
    """The paths that were given, after making sure that each can be written and none is another's, or an input.

    Nothing that exists is touched.

    Args:
        outputs: file name by option.
        inputs: files that will be read.

    Raises:
        OptionError: one cannot be written; names the option.
    """
    taken = {os.path.realpath(name): f"{name} is read as a text" for name in inputs}
    found = {}
    for option, name in outputs.items():
        if name is None:
            continue
        path = Path(name)
        real = os.path.realpath(name)
        if real in taken and not _is_device(path):
            raise OptionError(option, f"would overwrite a file of this run: {taken[real]}")
        taken[real] = f"{name} is what --{option} writes"
        _check_writable(option, path)
        found[option] = path
    return found


def _check_writable(option: str, path: Path) -> None:
    with told(partial(OptionError, option), f"{path} cannot be written", ValueError):
        if _is_device(path):  # opening a pipe just to look would end it for its reader
            return
        existed = path.exists()
        with path.open("ab"):
            pass
        if not existed:
            path.resolve().unlink()  # what a link leads to, not the link
        if option != "out" and not os.access(path.resolve().parent, os.W_OK):
            raise PermissionError(0, "its folder takes no new files, and reports are put in place by renaming")


def _is_device(path: Path) -> bool:
    return path.exists() and not path.is_file() and not path.is_dir()


class TextFile:
    """`--out`: a file that text is appended to, handed to the system at once and forced to disk by `sync`."""

    def __init__(self, path: Path) -> None:
        self._writing = partial(told, TextError, f"{path}: the text cannot be written")
        with self._writing():
            self._file: IO[str] = path.open("a", encoding="utf-8", newline="")

    def write(self, text: str) -> None:
        with self._writing():
            self._file.write(text)
            self._file.flush()

    def sync(self) -> None:
        with self._writing():
            if stat.S_ISREG(os.fstat(self._file.fileno()).st_mode):  # devices have no disk to reach
                os.fsync(self._file.fileno())

    def close(self) -> None:
        with contextlib.suppress(OSError, TextError):  # what could not be written was reported when it happened
            self.sync()
        with contextlib.suppress(OSError):
            self._file.close()
