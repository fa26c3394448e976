"""Memory that is used again and again: fresh memory would have to be fetched from the system each time."""

from __future__ import annotations

import threading

import torch

_held = threading.local()


def scratch_memory(size: int, dtype: torch.dtype) -> torch.Tensor:
    """`size` numbers of memory that belong to this thread; each call hands out the same again."""
    held: dict[torch.dtype, torch.Tensor] = _held.__dict__.setdefault("held", {})
    if dtype not in held or held[dtype].numel() < size:
        held[dtype] = torch.empty(size, dtype=dtype)
    return held[dtype][:size]
