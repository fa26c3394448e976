"""`PendingUpdate`: a chunk that is learnt when the next one ends (`learning = "parallel"`).

    session    ── chunk k ──┬────────── chunk k + 1 ──────────┬── chunk k + 2 ──
                            │ start                    settle │ start

Chunk k + 1 is read with what was learnt up to chunk k − 1, whenever the training is done: at any moment between `start`
and `settle`. It reads what nobody else writes: a copy of the context's keys and values, a state of the adapter that
nobody edits before it is settled, tokens that are only appended to. So whoever drives several sessions may train when
it suits them, and the text is the same.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from templora.chunks import Chunk
from templora.errors import ModelError
from templora.kvcache.window import WindowCache
from templora.learning.learner import Learner, Update
from templora.learning.optimizer import Staged
from templora.lora.slot import AdapterState, Slot


@dataclass
class _Job:
    """All that the training reads, and what came of it."""

    tokens: Sequence[int]
    chunk: Chunk
    seen: Chunk
    context: WindowCache
    before: AdapterState
    result: tuple[Staged | None, Update] | None = None
    seconds: float = 0.0


class PendingUpdate:
    """At most one update of a session that is still to be committed.

    Args:
        learner: the session's.
        slot: where it is committed.
    """

    def __init__(self, learner: Learner, slot: Slot) -> None:
        self._learner = learner
        self._slot = slot
        self._job: _Job | None = None

    @property
    def chunk(self) -> Chunk | None:
        """The chunk that is to be learnt."""
        return self._job.chunk if self._job else None

    @property
    def is_staged(self) -> bool:
        """Whether the training is done."""
        return self._job is not None and self._job.result is not None

    @property
    def context(self) -> WindowCache:
        """The keys and values that the training reads. There must be one."""
        if self._job is None:
            raise ModelError("no update is under way")
        return self._job.context

    def start(self, tokens: Sequence[int], chunk: Chunk, seen: Chunk, context: WindowCache) -> None:
        """`chunk` of `tokens` is to be learnt, from the adapter that serves now.

        Args:
            tokens: ids of the text as the model sees it; may grow meanwhile.
            chunk: what to learn.
            seen: the same among `tokens`.
            context: keys and values before the chunk, which nobody may write to any more.
        """
        if self._job is not None:
            raise ModelError("an update is under way already; it must be settled first")
        self._job = _Job(tokens, chunk, seen, context, self._slot.state)

    def stage(self) -> Staged | None:
        """Trains, unless that is done; what it makes of the adapter, None where that is nothing sound.

        After an error, or an interrupt, the next call trains again.
        """
        job = self._job
        if job is None:
            return None
        if job.result is None:
            began = time.perf_counter()
            with self._learner.meter.phase("learn"):
                job.result = self._learner.stage(job.before, job.tokens, job.seen, job.context)
            job.seconds = time.perf_counter() - began
        return job.result[0]

    def settle(self) -> tuple[Chunk, Update, float] | None:
        """Commits what `stage` made, if it is sound: (chunk, update, seconds of training)."""
        job = self._job
        if job is None or job.result is None:
            return None
        staged, update = job.result
        if staged is not None:
            self._learner.commit(staged)  # interrupted after this, it is done again, which changes nothing
        self._job = None
        return job.chunk, update, job.seconds

    def drop(self) -> None:
        """Forgets the update."""
        self._job = None
