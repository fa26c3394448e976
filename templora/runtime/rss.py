"""The memory that this process holds, and the most that it has held."""

from __future__ import annotations

import resource
import sys
from pathlib import Path


def peak_rss_bytes() -> int:
    """Peak resident memory since this program began, in bytes.

    Linux's `getrusage` would not do: its figure outlives `exec`, so a small program started by a large one would be
    given the large one's peak.
    """
    try:
        status = Path("/proc/self/status").read_text()
        return 1024 * int(status.partition("VmHWM:")[2].split()[0])
    except (OSError, IndexError):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


def rss_bytes() -> int:
    """Resident memory now, in bytes; 0 where the system does not say (it is not Linux)."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    except (OSError, IndexError):
        return 0
