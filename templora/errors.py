"""Everything templora raises on purpose.

    TemploraError
    ├── OptionError      a value that cannot be used; names the option
    │   └── ConfigError  ... of a TempLoraConfig
    ├── ModelError       a model that cannot be found, read or run
    ├── TextError        a text that cannot be read or written, or holds nothing
    ├── StoreError       a session on disk that cannot be read, written or had; names it, or its file
    └── SessionClosed    a verb called on a discarded session

Library code knows nothing of exit codes; the command line turns every one of these into one line and exit code 2.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class TemploraError(Exception):
    """Base of all errors raised on purpose."""


class OptionError(TemploraError, ValueError):
    """An option has a value that cannot be used.

    Args:
        option: the option's name as in `TempLoraConfig`, with underscores.
        problem: what is wrong with it, as the rest of the sentence.
    """

    def __init__(self, option: str, problem: str) -> None:
        super().__init__(f"{option}: {problem}")
        self.option = option
        self.problem = problem


class ConfigError(OptionError):
    """A `TempLoraConfig` field has a value that cannot be used."""


class ModelError(TemploraError):
    """A model could not be found, read or run."""


class TextError(TemploraError):
    """A text could not be read or written, or holds nothing."""


class StoreError(TemploraError):
    """A session on disk could not be read or written, or is somebody else's just now."""


class SessionClosed(TemploraError):
    """A verb was called on a session that has been discarded."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether there was not enough memory, on the CPU or on CUDA: torch says it in words."""
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and "memory" in str(error))


def nearest(word: str, choices: Iterable[str]) -> str:
    """A sentence naming what `word` may have meant: the nearest choice, else all of them."""
    known = sorted(choices)
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}"
