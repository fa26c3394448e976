"""Ways to keep the text before a chunk, and what an adapter may be taught: one short file each.

Here are their names; nothing is imported before it is asked for.
"""

from __future__ import annotations

import dataclasses
import importlib
from typing import TYPE_CHECKING, Any

from templora.errors import OptionError, nearest

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
    """The method of this name.

    Raises:
        OptionError: unknown name, option or value; says which is nearest.
    """
    if name not in METHODS:
        raise OptionError("method", f"unknown method {name!r}; {nearest(name, METHODS)}")
    kind = getattr(importlib.import_module(f"templora.methods.{name}"), METHODS[name][0])
    known = {f.name: f for f in dataclasses.fields(kind)}
    for option, value in options.items():
        if option not in known:
            raise OptionError("method", f"{name} has no option {option!r}; {nearest(option, known) if known else ''}")
        wanted = type(known[option].default)
        if not isinstance(value, (int, float) if wanted is float else wanted) or isinstance(value, bool):
            raise OptionError(option, f"must be of type {wanted.__name__}, not {value!r}")
    made: Method = kind(**options)
    return made
