"""The standard streams: UTF-8 wherever they are no terminal; what a terminal cannot show is counted."""

from __future__ import annotations

import codecs
import contextlib
import os
import sys
from collections.abc import Callable
from typing import TextIO

from templora.errors import OptionError, TextError

# What stands for our own signs on a terminal that lacks them.
_PLAIN = str.maketrans({"█": "#", "░": ".", "─": "-", "·": "-", "…": "...", "−": "-", "≤": "<=", "×": "x"})


_lost = 0  # characters that a terminal has no code for


def _marked(error: UnicodeError) -> tuple[str, int]:
    """A question mark stands for each on standard output, and they are counted."""
    global _lost
    if not isinstance(error, UnicodeEncodeError):
        raise error
    _lost += error.end - error.start
    return "?" * (error.end - error.start), error.end


def _plain(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    part = error.object[error.start : error.end].translate(_PLAIN)
    return "".join(c if c.isascii() else "?" for c in part), error.end


codecs.register_error("templora.lost", _marked)
codecs.register_error("templora.plain", _plain)


# Told each text before a terminal shows it.
watching: list[Callable[[str], None]] = []


def _tell(stream: TextIO, text: str) -> None:
    if watching and text and stream.isatty():
        for watcher in watching:
            watcher(text)


def prepare() -> None:
    """Has both streams take any text.

    A file or a pipe gets UTF-8, whatever the locale says: a reader can be told that, and lost letters come back for
    nobody. A terminal gets what it says that it shows.
    """
    global _lost
    _lost = 0
    for stream, on_a_terminal in ((sys.stdout, "templora.lost"), (sys.stderr, "templora.plain")):
        if stream is None or not hasattr(stream, "reconfigure"):
            continue
        if stream.isatty():
            stream.reconfigure(errors=on_a_terminal)
        else:  # only names of files hold what UTF-8 cannot; in JSON, an escape is right
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")


def lost() -> str:
    """What could not be shown so far, in words; empty if nothing."""
    if not _lost:
        return ""
    many = "1 character" if _lost == 1 else f"{_lost:,} characters"
    return f"{many} could not be shown: this terminal's encoding is {sys.stdout.encoding}"


def check_stdout() -> None:
    """Finds out early whether there is one, for a text that goes nowhere else.

    Raises:
        OptionError: it is closed.
    """
    if sys.stdout is None:
        raise OptionError("out", "standard output is closed, so the text would be nowhere: give --out FILE")


def print_out(text: str) -> None:
    """Puts text on standard output at once; does nothing if that was closed from the start.

    Raises:
        TextError: its reader has gone, or it takes no more.
    """
    if sys.stdout is None:
        return
    try:
        _tell(sys.stdout, text)
        sys.stdout.write(text)
        sys.stdout.flush()
    except OSError as error:
        raise broken(error) from error


def broken(error: OSError) -> TextError:
    """After standard output took no more: it is dropped, and this is to be raised."""
    drop(sys.stdout)
    closed = isinstance(error, BrokenPipeError)
    problem = "was closed; the run stopped there" if closed else f"cannot be written: {error.strerror}"
    return TextError(f"standard output {problem}")


def say(text: str) -> None:
    """Puts text on standard error at once. Whoever watched may have gone; the run goes on."""
    if sys.stderr is not None:
        _tell(sys.stderr, text)
        draw(text)


def draw(text: str) -> None:
    """Puts on standard error what is no text: what moves the cursor, and what is drawn where it then is."""
    if sys.stderr is None:  # print(file=None) would go to standard output
        return
    try:
        sys.stderr.write(text)
        sys.stderr.flush()
    except OSError:
        drop(sys.stderr)


def drop(stream: TextIO) -> None:
    """Once it takes no more: keeps Python from complaining at exit about what the stream still holds."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
