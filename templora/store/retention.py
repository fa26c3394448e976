"""Which snapshots are kept: few, close together where the text is new and far apart where it is old."""

from __future__ import annotations

from collections.abc import Sequence


def to_drop(held: Sequence[tuple[str, int]], keep: int) -> list[str]:
    """Which to delete, so that at most `keep` are left.

    Each time the one goes whose two neighbours, left without it, are nearest to one another for their age: what is kept
    then lies about evenly on a logarithmic scale, and any chunk can be rebuilt from one that is not much farther back
    than it is from the end. The newest stays.

    Args:
        held: of each, a name and the tokens it holds, in order.
        keep: at least 1.
    """
    left, dropped = list(held), []
    while len(left) > keep:
        newest = left[-1][1]
        before = [0, *(tokens for _, tokens in left)]
        # gap that dropping snapshot i would leave, over its distance from the newest
        cost = [(before[i + 2] - before[i]) / max(1, newest - before[i]) for i in range(len(left) - 1)]
        dropped.append(left.pop(cost.index(min(cost)))[0])
    return dropped
