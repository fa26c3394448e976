"""Keeping freed memory: glibc's `malloc`, told not to hand large blocks back to the system.

A learn step frees and asks again for hundreds of megabytes of activations. By default glibc gives every large block
back at once, and the system clears each of its pages anew when it is next touched; that took a large part of the time
of learning. What is kept instead is bounded by what was in use at one time (see malloc(3) and mallopt(3)).
"""

from __future__ import annotations

import ctypes
import sys

# From glibc's malloc.h.
_M_TRIM_THRESHOLD = -1
_M_MMAP_MAX = -4
_MAX_INT = 2**31 - 1


def _libc() -> ctypes.CDLL | None:
    """glibc, where that is the C library."""
    if not sys.platform.startswith("linux"):
        return None
    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "gnu_get_libc_version") else None


def keep_freed_memory() -> bool:
    """Makes `malloc` keep what is freed, in this process from now on; whether it could. Elsewhere than glibc: False.

    No block gets pages of its own, however large (a threshold for that can only be set up to 32 MB, less than an
    adapter's vector), and the heap's free end stays.
    """
    libc = _libc()
    return bool(libc and libc.mallopt(_M_MMAP_MAX, 0) and libc.mallopt(_M_TRIM_THRESHOLD, _MAX_INT))


def give_freed_memory_back() -> None:
    """Hands what is kept, and used by nobody, to the system: once, when much of it will not be needed again."""
    libc = _libc()
    if libc:
        libc.malloc_trim(0)
