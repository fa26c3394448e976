"""How many threads to compute with: as many as there are cores for us now, never more than the user set.

torch's OpenMP threads wait for each other at the end of every parallel region. When another program takes a core, the
thread on it is late at each of these barriers and everything is several times slower, while with a thread less it
would only be as much slower as there are cores missing. So we look, a few times a second, at how many cores we had:

    available = (idle core-seconds of the machine + CPU seconds of this process) / seconds that passed

and use that many threads. What we leave idle counts as available, so the number rises again when the other program
ends. On Linux, from /proc/stat; elsewhere the user's number is used as it is.

On a CPU with AMX the bits of torch's bf16 matrix products depend on the number of threads (docs/log.md), and what a
session writes must not depend on the moment. There torch's own threads keep their number, whatever else is going on;
only the compiled kernels, with the same bits for any number, follow.

How many threads torch uses is a setting of each calling thread. A thread has ours while it is inside `Governor.step`
and its own again outside, so the user's code between two steps sees what the user set.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

# Seconds between two looks: long enough for /proc/stat, which counts in ticks of 10 ms.
INTERVAL = 0.25
# A core of which this share is taken by others still counts as ours: there is always some small thing running.
MARGIN = 0.3

_STAT = Path("/proc/stat")


def bits_depend_on_threads() -> bool:
    """Whether torch computes other bits with another number of threads: with AMX, if oneDNN may use it."""
    allowed = os.environ.get("ONEDNN_MAX_CPU_ISA", "DEFAULT").upper()
    has_amx = torch.cpu.get_capabilities().get("amx_bf16", False)
    return has_amx and (allowed in ("DEFAULT", "ALL") or "AMX" in allowed)


def cores_here() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def idle_here() -> float | None:
    """Idle core-seconds since boot of the CPUs we may run on, waiting for disks included; None where nobody says."""
    try:
        cpus = {f"cpu{number}" for number in os.sched_getaffinity(0)}
        fields = [line.split(maxsplit=6) for line in _STAT.read_text().splitlines()]
        return sum(int(f[4]) + int(f[5]) for f in fields if f[0] in cpus) / os.sysconf("SC_CLK_TCK")
    except (AttributeError, OSError, ValueError, IndexError):
        return None


class Cores:
    """How many cores there were for us lately.

    Args:
        idle: idle core-seconds of the machine so far; None if that is not known.
        own: CPU seconds of this process so far.
        clock: seconds.

    Attributes:
        available: cores, in the last interval; infinite while nothing is known.
    """

    def __init__(
        self,
        idle: Callable[[], float | None] = idle_here,
        own: Callable[[], float] = time.process_time,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.available = math.inf
        self._idle, self._own, self._clock = idle, own, clock
        self._next = -math.inf
        self._before: tuple[float, float] | None = None
        self._lock = threading.Lock()

    def look(self) -> None:
        """Measures anew once an interval has passed; costs less than a microsecond until then."""
        if self._clock() < self._next or not self._lock.acquire(blocking=False):
            return
        try:
            now, idle = self._clock(), self._idle()
            if idle is None:
                self._next = math.inf
                return
            free = idle + self._own()
            if self._before is not None:
                began, free_then = self._before
                # Idle times of single CPUs may step back a little.
                self.available = max(0.0, free - free_then) / (now - began)
            self._before, self._next = (now, free), now + INTERVAL
        finally:
            self._lock.release()


class _Here(threading.local):
    """What holds for the calling thread while it is inside a step."""

    wanted = 0  # 0 outside
    fixed = False
    applied = 0


class Governor:
    """Gives the cores there are to the thread that computes.

    Args:
        cores: what there is.
        steady: keep the number of torch's threads; without it, where bits depend on it.
    """

    def __init__(self, cores: Cores | None = None, steady: bool | None = None) -> None:
        self._cores = cores or Cores()
        self._steady = bits_depend_on_threads() if steady is None else steady
        self._here = _Here()

    @contextmanager
    def step(self, fixed: int | None = None) -> Iterator[None]:
        """Inside, the calling thread computes with `fixed` threads, or with as many as there are cores for."""
        here = self._here
        if here.wanted:  # a step within a step
            yield
            return
        before = torch.get_num_threads()
        here.wanted, here.fixed, here.applied = fixed or before, fixed is not None, 0
        try:
            self.tick()
            yield
        finally:
            here.wanted, here.fixed = 0, False
            if torch.get_num_threads() != before:
                torch.set_num_threads(before)

    @property
    def wanted(self) -> int:
        """The most threads that the calling thread's step may use."""
        return self._here.wanted or torch.get_num_threads()

    def tick(self) -> int:
        """Applies what holds now to the calling thread, and says how many threads there are for it.

        For every place that computes for more than a few milliseconds; takes about a microsecond.
        """
        here = self._here
        if not here.wanted:
            return torch.get_num_threads()
        threads = here.wanted
        if not here.fixed and threads > 1:
            self._cores.look()
            if self._cores.available + MARGIN < threads:
                threads = max(1, int(self._cores.available + MARGIN))
        torchs = here.wanted if self._steady else threads
        if torchs != here.applied:
            torch.set_num_threads(torchs)
            here.applied = torchs
        return threads


# Cores are the process's, whatever engines it has.
governor = Governor()
# How many threads the calling thread's step should compute with now. For kernels with threads of their own.
threads = governor.tick
