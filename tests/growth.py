"""How the time of something grows with its input."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def assert_linear(make: Callable[[int], T], work: Callable[[T], object], size: int, *, times: int = 8) -> None:
    """That `times` as much input takes no more than three times as many times as long: with quadratic time it would be
    `times` times as many. CPU time, the best of three each, so that a busy machine does no harm.

    Args:
        make: an input of a size.
        size: of the small one; large enough to take a few milliseconds.
    """

    def seconds(held: T) -> float:
        start = time.process_time()
        work(held)
        return time.process_time() - start

    small, large = (min(seconds(held) for _ in range(3)) for held in (make(size), make(size * times)))
    assert large <= 3 * times * max(small, 1e-3), f"{large:.3f} s against {small:.3f} s for {times} times as much"
