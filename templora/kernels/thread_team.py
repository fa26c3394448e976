"""Threads that run one kernel together.

Every worker walks through the same phases; the work of a phase is cut into pieces, which workers claim one by one.
Nobody waits for a worker that is not there: the caller claims what is left and waits only for pieces that someone has
begun. So when another process takes a core, the step goes on at the speed of the cores that are left, where a static
share of the work would wait for its turn at every barrier.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, TypeAlias

import numpy as np
from numba import njit

from templora.kernels.bf16 import FAST, PART
from templora.kernels.pointers import fetch_add, load_acquire

# Counters of one phase: claimed and done, a cache line each.
STRIDE = 16
_DONE = 8
_LINGER = 500_000  # looks at the counter: about a millisecond


@njit(**PART)
def claim(sync, phase, pieces):
    """The next piece of a phase; `pieces` or more when there is none left."""
    if load_acquire(sync, phase * STRIDE) >= pieces:
        return pieces
    return fetch_add(sync, phase * STRIDE, 1)


@njit(**PART)
def finish(sync, phase):
    """Counts a claimed piece as done."""
    fetch_add(sync, phase * STRIDE + _DONE, 1)


@njit(**PART)
def wait(sync, phase, pieces):
    """Returns when every piece of a phase is done."""
    while load_acquire(sync, phase * STRIDE + _DONE) < pieces:
        pass


# A kernel, what it is called with, and what must not go meanwhile.
_Queue: TypeAlias = "SimpleQueue[tuple[Callable[..., None], tuple[Any, ...], Any] | None]"


@njit(**FAST)
def _linger(runs, seen):
    """Waits for the next run to be announced, but not long: about as long as it takes to choose a token."""
    for _ in range(_LINGER):
        if load_acquire(runs, 0) != seen:
            return


class Team:
    """The caller and `size` − 1 helper threads, which end with the team.

    Between runs that follow each other closely a helper stays awake: waking it would cost more than it does.

    Attributes:
        held: what the next run's arguments have addresses of. Kept until every worker is done with it, which is later
            than the end of the run, if that is by an exception.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._queues: list[_Queue] = []
        threads = []
        self._runs = np.zeros(1, np.int64)
        self._whole = True  # the last run came to its end here
        self.held: Any = None
        for worker in range(1, size):
            queue: _Queue = SimpleQueue()
            thread = threading.Thread(
                target=_serve, args=(queue, self._runs, worker), name=f"templora-{worker}", daemon=True
            )
            thread.start()
            self._queues.append(queue)
            threads.append(thread)
        weakref.finalize(self, _stop, self._queues, threads)

    def run(self, kernel: Callable[..., None], *args: Any, workers: int | None = None) -> None:
        """Runs kernel(worker, *args) on `workers` threads, the caller being worker 0; returns when worker 0 does.

        Args:
            kernel, args: what is run.
            workers: how many threads; None: all.
        """
        if not self._whole:  # helpers may still be at what the caller was interrupted in
            self.rest()
        self._whole = False
        held, self.held = self.held, None
        for queue in self._queues[: None if workers is None else workers - 1]:
            queue.put((kernel, args, held))
        self._runs[0] += 1
        kernel(0, *args)
        self._whole = True

    def rest(self) -> None:
        """Returns when the helpers have done all that they were told to."""
        done: SimpleQueue[None] = SimpleQueue()
        for queue in self._queues:
            queue.put((lambda _: done.put(None), (), None))
        for _ in self._queues:
            done.get()


def _stop(queues: list[_Queue], threads: list[threading.Thread]) -> None:
    """Ends the helpers and waits for them: one that came back from a kernel to an interpreter that is going away
    would be killed by Python half-way, and the process aborted by the C++ runtime."""
    for queue in queues:
        queue.put(None)
    for thread in threads:
        if thread is not threading.current_thread():  # which may be the one that collects garbage
            thread.join()


def _serve(queue: _Queue, runs: np.ndarray, worker: int) -> None:
    while (job := queue.get()) is not None:
        seen = int(runs[0])
        kernel, args, _ = job
        kernel(worker, *args)
        del job, kernel, args, _  # nothing is kept longer than it is needed
        _linger(runs, seen)
