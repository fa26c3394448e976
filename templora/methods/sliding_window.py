"""The plain way: the last `window` tokens are all there is, computed anew for each chunk."""

from __future__ import annotations

from templora.methods.base import Method as SlidingWindow  # it is what a method does by itself

__all__ = ["SlidingWindow"]
