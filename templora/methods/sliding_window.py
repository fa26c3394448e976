"""The plain way: the last `window` tokens are all there is, computed anew for each chunk."""

from __future__ import annotations

from dataclasses import dataclass

from templora.methods.base import Method


@dataclass(frozen=True)
class SlidingWindow(Method):
    """What `Method` does by itself. Larger windows are this with another `window`."""
