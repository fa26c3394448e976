"""What callers give, made plain or refused before anything is done: what a log holds can then be asked again."""

from __future__ import annotations

import json
import math
import operator
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import partial
from numbers import Real
from typing import Any

from templora.errors import OptionError
from templora.runtime.files import told

# What a generator of random numbers can begin from.
SEEDS = (-(2**63), 2**64 - 1)
_MAX_TOKENS = 2**63 - 1
_MAX_NESTED, _MAX_CHARACTERS = 100, 1 << 24  # of a mark


@dataclass(frozen=True, kw_only=True)
class Writing:
    """How a text is to be gone on with; arguments as for `Session.stream`. Raises `OptionError`."""

    max_new_tokens: int = 256
    stop_at_end: bool = False
    chat: bool = False
    learn_prompt: bool = True
    score: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "max_new_tokens", whole("max_new_tokens", self.max_new_tokens, 1, _MAX_TOKENS))
        for f in fields(self)[1:]:
            object.__setattr__(self, f.name, yes(f.name, getattr(self, f.name)))


def whole(option: str, value: Any, low: int, high: int) -> int:
    """A whole number, as numpy's are too; True and 5.0 are none."""
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or isinstance(value, bool):
        raise OptionError(option, f"must be a whole number, not {shown(value)}")
    if not low <= number <= high:
        least = f"must be at least {low}" if number < low else f"must be at most {high}"
        raise OptionError(option, f"{least}, not {shown(number)}")
    return number


def number(option: str, value: Any) -> float:
    """A number that is finite."""
    try:
        if isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value):
            return float(value)
    except OverflowError:
        pass
    raise OptionError(option, f"must be a finite number, not {shown(value)}")


def yes(option: str, value: Any) -> bool:
    """True or False, also numpy's, 1 and 0."""
    if isinstance(value, int) and value in (0, 1):
        return bool(value)
    if type(value).__module__ == "numpy" and type(value).__name__ in ("bool", "bool_"):
        return bool(value)
    raise OptionError(option, f"must be true or false, not {shown(value)}")


def plain(option: str, data: Any) -> dict[str, Any]:
    """What JSON gives back of a mapping."""
    if not isinstance(data, Mapping):
        raise OptionError(option, f"must be a mapping, such as {{'name': 'value'}}, not {shown(data)}")
    with told(partial(OptionError, option), "must be what JSON can hold", TypeError, ValueError, RecursionError):
        text = json.dumps(dict(data))
        found: dict[str, Any] = json.loads(text)
    if len(text) > _MAX_CHARACTERS or _nested(found) > _MAX_NESTED:
        most = f"{_MAX_CHARACTERS:,} characters of JSON, nested {_MAX_NESTED} times"
        raise OptionError(option, f"is too large: at most {most}")
    return found


def shown(value: Any) -> str:
    """A value in an error, whatever it is."""
    try:
        text = repr(value)
    except Exception:  # a number of more digits than Python prints, or a class of the caller's that fails
        return f"a {type(value).__name__}"
    return text if len(text) <= 80 else f"{text[:77]}..."


def _nested(value: Any) -> int:
    """How deep lists and mappings lie in one another."""
    depth, level = 0, [value]
    while level:
        depth += 1
        lists = [held.values() if isinstance(held, dict) else held for held in level if isinstance(held, (dict, list))]
        level = [part for held in lists for part in held]
    return depth
