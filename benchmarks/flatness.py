"""Does a chunk take longer, or memory grow, as a text becomes long? An old session beside a young one, in turn.

The old one has read and learnt `long` tokens, the young one `short`; then both go on, a chunk each in turn, so that
whatever else changes on the machine changes for both.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Sequence
from typing import Any

import torch

from templora import Session, TempLoraConfig
from templora.engine.engine import Engine
from templora.runtime.metering import peak_memory_bytes
from templora.runtime.rss import rss_bytes


def memory_now(device: torch.device) -> int:
    """Bytes held now: on the GPU, or resident (Linux)."""
    gc.collect()
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    return rss_bytes()


def read_on(session: Session, ids: Sequence[int], count: int) -> float:
    """Scores and learns the next `count` tokens of `ids`; seconds."""
    at, began = len(session.tokens), time.perf_counter()
    for _ in session.score_ids(ids[at : at + count]):
        pass
    return time.perf_counter() - began


def flatness(
    engine: Engine, config: TempLoraConfig, ids: Sequence[int], short: int, long: int, pairs: int
) -> dict[str, Any]:
    """Seconds of each chunk, and the process's bytes when the long session was short and when it had become long.

    Returns:
        old_seconds, young_seconds [pairs]; short_bytes, long_bytes: held at that moment; short_peak_bytes,
        long_peak_bytes: the most until then. A peak may be that of loading, and what is held depends on when the
        allocator gives memory back; neither alone shows that nothing grows.
    """
    size, device = config.chunk_size, engine.model.device
    assert len(ids) >= long + (pairs + 2) * size, f"the text has {len(ids)} tokens, too few"
    with engine.session(config) as old:
        read_on(old, ids, size - len(old.tokens))
        read_on(old, ids, short // size * size - size)
        memory = {"short_bytes": memory_now(device), "short_peak_bytes": peak_memory_bytes(device)}
        read_on(old, ids, long // size * size - len(old.tokens))
        memory |= {"long_bytes": memory_now(device), "long_peak_bytes": peak_memory_bytes(device)}
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
    return {**times, **memory}
