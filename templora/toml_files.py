"""TOML files: templates and plans."""

from __future__ import annotations

import re
import sys
from functools import partial
from pathlib import Path
from typing import Any

from templora.errors import OptionError, nearest
from templora.runtime.files import told

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_MAX_BYTES = 1 << 16  # templates and plans have a few thousand
# A key of so many parts takes the square of their number to read.
_LONG_KEY = re.compile(
    r"(?:^|[\[{,])[ \t]*(?:(?:[\w-]{1,80}|\"[^\"\n]{0,80}\"|'[^'\n]{0,80}')[ \t]{0,9}\.[ \t]{0,9}){40}", re.M
)
# Deeper than any of ours. What is made of a file is put into messages, which would not end otherwise.
_DEEPEST = 8
_MAX = 1 << 63  # as TOML says


def read_toml(option: str, name: str, builtin: dict[str, str]) -> dict[str, Any]:
    """What a file says.

    Args:
        option: that it was given to, for errors.
        name: of the file, or of one that comes with the package.
        builtin: the texts of those.

    Raises:
        OptionError: there is none, it cannot be read, or is no TOML.
    """
    if name not in builtin and not name.endswith(".toml"):
        raise OptionError(option, f"there is no {option} {name!r}; {nearest(name, builtin)} (or give a .toml)")
    with told(partial(OptionError, option), f"{name} cannot be read", ValueError):  # of a zero byte, or no UTF-8
        text = builtin[name] if name in builtin else _text(name)
    # Of numbers of thousands of digits; lists in lists.
    with told(partial(OptionError, option), f"{name}: not TOML", ValueError, RecursionError):
        if _LONG_KEY.search(text):
            raise ValueError("a key of more than 40 parts")
        values: dict[str, Any] = tomllib.loads(text)
        _check(values)
    return values


def _text(name: str) -> str:
    with Path(name).open("rb") as file:
        raw = file.read(_MAX_BYTES + 1)
    if len(raw) > _MAX_BYTES:
        raise ValueError("larger than 64 KiB")
    return raw.decode("utf-8-sig")


def _check(values: Any) -> None:
    left = [(values, 0)]
    while left:
        value, depth = left.pop()
        if depth > _DEEPEST:
            raise ValueError(f"tables or lists more than {_DEEPEST} deep")
        if isinstance(value, int) and not -_MAX <= value < _MAX:
            raise ValueError("a whole number of more than 64 bits")
        held = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        left += [(each, depth + 1) for each in held]
