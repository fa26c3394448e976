"""Does a chunk take longer, or memory grow, as a text becomes long? An old session beside a young one, in turn.

The old one has read and learnt `long` tokens, the young one `short`; then both go on, a chunk each in turn, so that
whatever else changes on the machine changes for both.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from templora import Session, TempLoraConfig
from templora.engine import Engine


def memory_now(device: torch.device) -> int:
    """Bytes held now: on the GPU, or resident (Linux)."""
    gc.collect()
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


def read_on(session: Session, ids: Sequence[int], count: int) -> float:
    """Scores and learns the next `count` tokens of `ids`; seconds."""
    at, began = len(session.tokens), time.perf_counter()
    for _ in session.score_ids(ids[at : at + count]):
        pass
    return time.perf_counter() - began


def flatness(
    engine: Engine, config: TempLoraConfig, ids: Sequence[int], short: int, long: int, pairs: int
) -> dict[str, list[float]]:
    """Seconds of each chunk, and bytes held by the long session when it was short and when it had become long.

    Returns:
        old_seconds, young_seconds [pairs]; short_bytes, long_bytes [1].
    """
    size, device = config.chunk_size, engine.model.device
    assert len(ids) >= long + (pairs + 2) * size, f"the text has {len(ids)} tokens, too few"
    with engine.session(config) as old:
        read_on(old, ids, size - len(old.tokens))
        read_on(old, ids, short // size * size - size)
        held = memory_now(device)
        read_on(old, ids, long // size * size - len(old.tokens))
        after = memory_now(device)
        with engine.session(config) as young:
            read_on(young, ids, size - len(young.tokens))
            read_on(young, ids, short // size * size - size)
            times: dict[str, list[float]] = {"old_seconds": [], "young_seconds": []}
            for run in range(-1, pairs):
                sides = [("old_seconds", old), ("young_seconds", young)]
                for name, session in sides if run % 2 else reversed(sides):
                    seconds = read_on(session, ids, size)
                    if run >= 0:
                        times[name].append(seconds)
    return times | {"short_bytes": [float(held)], "long_bytes": [float(after)]}
