"""`ChunkCycle`: what becomes of a chunk when it is full.

    guard ─► stage ─► judge ─► commit, or roll back ─► the next chunk is open ─► event

Nothing of the session changes before the outcome is known, and then all of it at once: whoever is interrupted finds the
chunk still open, and learns it the next time.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import torch

from templora.chunks import Chunk
from templora.config import TempLoraConfig
from templora.events import ChunkLearned, ChunkScored
from templora.kvcache.window import WindowCache
from templora.learning import guards
from templora.learning.guards import Brake, Patience, Written
from templora.learning.learner import Learner, Update
from templora.learning.optimizer import Staged
from templora.learning.pending import PendingUpdate
from templora.lora.slot import Slot
from templora.runtime.metering import Meter
from templora.runtime.signals import deferred
from templora.session.readers import Readers
from templora.session.scoring import Scorer
from templora.session.snapshot import Snapshot, of_cache, to_cache
from templora.session.transcript import Transcript

# What is learnt of a chunk: (tokens of the text so far, chunk) -> tokens, which differ within the chunk alone.
Lesson: TypeAlias = Callable[[Sequence[int], Chunk], Sequence[int]]

# Of a chunk that is masked in part at least one token in so many must be left: a step is as long for a few as for all.
_PART = 16


class ChunkCycle:
    """Closes the chunks of one text.

    Args:
        config: how they are learnt.
        transcript, readers, scorer, learner, slot: of the session.
        meter: where time is counted.
        lesson: what is learnt of a chunk; None: the chunk.

    Attributes:
        events: of chunks, that nobody was told yet.
        written: what of the open chunk the model wrote.
        brake: holds back chunks that are degenerate.
    """

    def __init__(
        self,
        config: TempLoraConfig,
        transcript: Transcript,
        readers: Readers,
        scorer: Scorer,
        learner: Learner,
        slot: Slot,
        meter: Meter,
        lesson: Lesson | None,
    ) -> None:
        self._config, self._text, self._readers, self._scorer = config, transcript, readers, scorer
        self._learner, self._slot, self._meter, self._lesson = learner, slot, meter, lesson
        self.events: deque[ChunkLearned | ChunkScored] = deque()
        self.written, self.brake, self._patience = Written(), Brake(), Patience()
        self._finished: Chunk | None = None  # a chunk that is closed, which the method has still to take in
        self._pending = PendingUpdate(learner, slot) if config.learning == "parallel" else None

    def close(self) -> None:
        """Ends the open chunk, if there is anything in it."""
        self.remember()
        chunk = self._text.open_chunk()
        if chunk.middle == chunk.end:
            return
        if self._pending:
            self._close_later(chunk, self._pending)
        else:
            self._close_now(chunk)
        self.remember()

    def _close_now(self, chunk: Chunk) -> None:
        reading = self._scorer.take(chunk, self._slot.version)
        lesson, reason = self._guard(chunk)
        if lesson is None:
            self._open_next(chunk, reason)
            return
        began = time.perf_counter()
        cache = self._readers.context(chunk)

        def report(update: Update) -> None:
            self._report(chunk, update, time.perf_counter() - began)
            self._open_next(chunk, tried=True)

        with self._meter.phase("learn"):
            self._learner.learn(self._text.seen(lesson), self._text.seen_chunk(chunk), cache, reading, report)

    def _close_later(self, chunk: Chunk, pending: PendingUpdate) -> None:
        """Commits what is learnt of the chunk before, and has this one learnt by the end of the next."""
        cache = self._readers.context(chunk)  # under the adapter that read it, so before another one is committed
        pending.stage()
        with deferred():  # from here on the context is needed as it is
            self.settle()
            lesson, reason = self._guard(chunk)
            if lesson is not None:
                seen = self._text.seen_chunk(chunk)
                if not self._config.context_gradients:
                    # The token before the chunk is an input of the training, as in `Learner`.
                    cache = cache.snapshot(seen.first_target - 1, self._config.learn_context - 1)
                pending.start(self._text.seen(lesson), chunk, seen, cache)
            self._open_next(chunk, reason, tried=lesson is not None)

    def _guard(self, chunk: Chunk) -> tuple[Sequence[int] | None, str]:
        """What is to be learnt of a chunk; None if nothing is, and why, if somebody should be told."""
        few = self._config.chunk_size // _PART if chunk.masked else 0
        if self._config.learning == "off" or not chunk.targets or chunk.targets < few:
            return None, ""
        tokens = self._text.tokens
        lesson = self._lesson(tokens, chunk) if self._lesson else tokens
        learnt = [lesson[i] for i in range(chunk.middle, chunk.end) if chunk.learns(i)]
        reason = self._patience.problem or self.brake.problem(self._config, tokens, self.written, learnt)
        return (None, reason) if reason else (lesson, "")

    def _open_next(self, chunk: Chunk, reason: str = "", tried: bool = False) -> None:
        """Begins the chunk after this one, which was `tried`, or not learnt for this reason."""
        with deferred():
            if reason:
                self._patience = self._patience.skipped()
                skipped = ChunkLearned(chunk.index, chunk.middle, chunk.end, False, self._slot.version, reason)
                self.events.append(skipped)
            if tried:
                self.brake = self.brake.passed(self.written)
            self.written, self._finished = Written(), chunk
            self._text.close(chunk)

    def settle(self) -> None:
        """Commits what is learnt of the chunk before the open one, or rolls it back, if that is still to be done."""
        if self._pending:
            self._pending.stage()
            with deferred():  # what is committed is reported
                if done := self._pending.settle():
                    self._report(*done)

    def stage(self) -> Staged | None:
        """Trains what is still to be committed, if anything is: whenever there is time. None if nothing sound is."""
        return self._pending.stage() if self._pending else None

    @property
    def learns_later(self) -> bool:
        """Whether something waits to be trained."""
        return self._pending is not None and self._pending.chunk is not None

    @property
    def is_staged(self) -> bool:
        """Whether what waits is trained already."""
        return self._pending is not None and self._pending.is_staged

    def remember(self) -> None:
        """Has the method take in the chunk that is closed, unless it has."""
        if self._finished:
            self._readers.remember(self._finished, self._meter)
            self._finished = None

    def _report(self, chunk: Chunk, update: Update, seconds: float) -> None:
        self._patience = self._patience.after(update.committed, self._config)
        reason = update.reason
        if self._patience.paused:
            reason += f". {self._patience.rolled_back} in a row were: learning pauses for {self._config.pause} chunks"
        self.events.append(
            ChunkLearned(
                index=chunk.index,
                start=chunk.middle,
                end=chunk.end,
                committed=update.committed,
                version=self._slot.version,
                reason=reason,
                loss=update.loss,
                grad_norm=update.grad_norm,
                update=update.change,
                drift=update.drift,
                forgetting=update.forgetting,
                seconds=seconds,
            )
        )

    def begin_anew(self) -> None:
        """Forgets what updates before did: the adapter is another."""
        self._patience = Patience()

    def drop(self) -> None:
        """Forgets what is still to be committed."""
        if self._pending:
            self._pending.drop()

    def state(self) -> Snapshot:
        """The guards, and what an update that is still to be made will read; views."""
        chunk = self._pending.chunk if self._pending else None
        meta: dict[str, Any] = {
            "guards": guards.to_json(self.written, self.brake, self._patience),
            "under_way": chunk.to_json() if chunk else None,
            "caches": {},
        }
        if not self._pending or chunk is None or self._config.context_gradients:
            return Snapshot({}, meta)
        part = of_cache(self._pending.context, "context")
        return Snapshot(part.tensors, {**meta, "caches": {"context": part.meta}})

    def load_state(self, tensors: Mapping[str, torch.Tensor], meta: Mapping[str, Any]) -> None:
        """Becomes what `state` was given, of a text that is there already."""
        self._finished = None
        self.written, self.brake, self._patience = guards.from_json(meta["guards"])
        if self._pending and meta["under_way"]:
            chunk, cache = Chunk.from_json(meta["under_way"]), self._readers.adapted.cache
            if held := meta["caches"].get("context"):
                cache = WindowCache(len(cache), len(held["versions"]), cache.opening, cache.sinks)
                cache.notes = len(self._text.notes)
                to_cache(cache, "context", Snapshot(tensors, held))
            tokens = self._text.tokens
            lesson = self._lesson(tokens, chunk) if self._lesson else tokens
            self._pending.start(self._text.seen(lesson), chunk, self._text.seen_chunk(chunk), cache)
