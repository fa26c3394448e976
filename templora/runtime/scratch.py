"""Memory that is used again and again: fresh memory would have to be fetched from the system each time."""

from __future__ import annotations

import threading

import torch

_held = threading.local()


def scratch_memory(size: int, dtype: torch.dtype, name: str = "") -> torch.Tensor:
    """`size` numbers of memory that belong to this thread; each call with the same name hands out the same again."""
    held: dict[tuple[str, torch.dtype], torch.Tensor] = _held.__dict__.setdefault("held", {})
    key = name, dtype
    if key not in held or held[key].numel() < size:
        held[key] = torch.empty(size, dtype=dtype)
    return held[key][:size]
