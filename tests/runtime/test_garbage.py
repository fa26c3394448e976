from __future__ import annotations

import gc
import subprocess
import sys
import weakref
from collections.abc import Iterator

import pytest

from templora.runtime.garbage import uncollected


class Node:
    """Something that may be part of a cycle."""


@pytest.fixture(autouse=True)
def _on() -> Iterator[None]:
    gc.enable()
    yield
    gc.unfreeze()
    gc.enable()


def test_inside_nobody_looks_and_afterwards_as_before() -> None:
    with uncollected():
        assert not gc.isenabled()
        with uncollected():
            assert not gc.isenabled()
        assert not gc.isenabled()
    assert gc.isenabled()


def test_whoever_had_it_off_has_it_off() -> None:
    gc.disable()
    with uncollected():
        pass
    assert not gc.isenabled()


def test_an_error_leaves_it_on() -> None:
    with pytest.raises(ZeroDivisionError), uncollected():
        raise ZeroDivisionError
    assert gc.isenabled()


def test_blocks_that_overlap() -> None:
    """As those of two threads do: the last one out puts it back, whichever came first."""
    one, two = uncollected(), uncollected()
    one.__enter__()
    two.__enter__()
    one.__exit__(None, None, None)
    assert not gc.isenabled()
    two.__exit__(None, None, None)
    assert gc.isenabled()


def test_a_cycle_made_inside_is_found_later() -> None:
    with uncollected():
        node = Node()
        node.self = node  # type: ignore[attr-defined]
        gone = weakref.ref(node)
        del node
    assert gone() is not None
    assert gc.get_freeze_count() == 0
    gc.collect()
    assert gone() is None


def test_what_somebody_keeps_apart_stays_apart() -> None:
    gc.freeze()
    apart = gc.get_freeze_count()
    with uncollected():
        pass
    assert gc.get_freeze_count() >= apart - 10


def test_a_program_still_does_what_is_to_be_done_at_its_end() -> None:
    """Handlers run and streams are flushed, though nobody looks for cycles any more."""
    program = "import atexit, sys; from templora.runtime.garbage import leave_to_the_system as leave\n"
    program += "atexit.register(lambda: print('end'))\nsys.stdout.write('text ')\nleave()\nsys.exit(3)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (3, "text end\n", "")
