"""Ways to keep the text before a chunk, and what an adapter may be taught: one short file each.

Here are their names; nothing is imported before it is asked for.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
from typing import TYPE_CHECKING, Any

from templora.errors import OptionError, TemploraError, nearest

if TYPE_CHECKING:
    from templora.methods.base import Method

# Name: class, and what it does.
METHODS = {
    "sliding_window": ("SlidingWindow", "the last window of tokens, computed anew for each chunk"),
    "attention_sinks": ("AttentionSinks", "the first four tokens and the last ones, computed once (StreamingLLM)"),
    "extended_positions": ("ExtendedPositions", "windows beyond the model's own positions, by rope scaling"),
    "kv_compression": ("KvCompression", "a longer context, compressed into the window's cache by KVPress"),
    "dynamic_evaluation": ("DynamicEvaluation", "a sliding window; all weights learn each chunk once it is scored"),
}


def make_method(name: str, **options: Any) -> Method:
    """The method of this name, or of `module:Class` (`templora.methods.own`).

    Raises:
        OptionError: unknown name, option or value; says which is nearest.
    """
    kind = method_class(name)
    known = method_options(name)
    for option, value in options.items():
        if option not in known:
            raise OptionError("method", f"{name} has no option {option!r}; {nearest(option, known) if known else ''}")
        wanted = type(known[option].default)
        if known[option].default in (None, dataclasses.MISSING):  # anything, then
            continue
        if wanted is tuple and isinstance(value, list):  # as a file has it
            options = {**options, option: tuple(value)}
        elif not isinstance(value, (int, float) if wanted is float else wanted) or (
            isinstance(value, bool) and wanted is not bool
        ):
            raise OptionError(option, f"must be of type {wanted.__name__}, not {value!r}")
    try:
        made: Method = kind(**options)
        json.dumps(made.options())  # what a result can say of it
    except TemploraError:
        raise
    except Exception as error:  # whatever somebody's code raises
        raise OptionError("method", f"{name} cannot be made: {type(error).__name__}: {error}") from error
    return made


def method_class(name: str) -> type[Method]:
    """The class of this name. Raises as `make_method`."""
    from templora.methods import own

    if name in METHODS:
        kind: type[Method] = getattr(importlib.import_module(f"templora.methods.{name}"), METHODS[name][0])
        return kind
    found = own.find_class(name)
    if found is None:
        choices = nearest(name, [*METHODS, *own.offered()])
        raise OptionError("method", f"unknown method {name!r}; {choices}, or module:Class for one of your own")
    return found


def method_options(name: str) -> dict[str, dataclasses.Field[Any]]:
    """What may be given to a method, by name. Raises as `make_method`."""
    return {f.name: f for f in dataclasses.fields(method_class(name)) if f.init}


def method_code(name: str) -> str | None:
    """What tells one state of a method's code from another; None for ours, which a version of this package has."""
    from templora.methods import own

    return None if name in METHODS else own.code_of(method_class(name))
