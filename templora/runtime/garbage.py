"""Python's search for reference cycles, out of the way where there is much to look through and nothing to find.

Importing torch and transformers makes about a million objects that stay. The collector goes through all of them again
each time their number has grown by a quarter, which took a third of the time of importing; and three times as a program
ends, which took a second.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_lock = threading.Lock()
_inside = 0
_was_on = False


@contextmanager
def uncollected() -> Iterator[None]:
    """Inside, nobody looks for cycles, in any thread; for imports, which leave none. Blocks may overlap."""
    global _inside, _was_on
    with _lock:
        if _inside == 0:
            _was_on = gc.isenabled()
            gc.disable()
        _inside += 1
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if _inside == 0 and _was_on:
                _grow_old()
                gc.enable()


def _grow_old() -> None:
    """Puts all there is among the oldest objects, where it would come to lie after two searches."""
    if gc.get_freeze_count() == 0:  # else somebody keeps objects apart, and they would come back
        gc.freeze()
        gc.unfreeze()


def leave_to_the_system() -> None:
    """For a program's last line: what is there needs no search, the system takes it all back at once."""
    gc.freeze()
