"""`Updates`: the update of a session that is trained while its next chunk is read or written.

    session    ── chunk k ──┬────────── chunk k + 1 ──────────┬── chunk k + 2 ──
                            │ start                    settle │ start
    worker                  └── trains on chunk k ──┄┄┄┄┄┄┄┄┄┄┘── trains on k + 1 ──

Chunk k + 1 is read with what was learnt up to chunk k − 1, whenever the training ends: a delay of one chunk, by which
the run is as determined as a sequential one. Training reads what nobody else writes: a copy of the context's keys and
values, a state of the adapter that nobody edits before the training is settled, tokens that are only appended to.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from templora.chunks import Chunk
from templora.config import TempLoraConfig
from templora.errors import ModelError
from templora.kvcache.window import WindowCache
from templora.learning.learner import Learner, Update
from templora.learning.optimizer import Staged
from templora.learning.probe import Probe
from templora.lora.bank import AdapterBank, AdapterState
from templora.models.causal import CausalModel
from templora.runtime.metering import Meter
from templora.runtime.threads import governor

Result = tuple[Staged | None, Update]


def worker() -> Executor:
    """One thread, in which an engine's sessions train in turn."""
    return ThreadPoolExecutor(1, thread_name_prefix="templora-learn")


class Inline(Executor):
    """Does the job at once, in the caller's thread: the sequential run that the parallel one must equal."""

    def submit(self, job: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(job(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


@dataclass
class _Job:
    """All that a training reads, and what became of it."""

    tokens: Sequence[int]
    chunk: Chunk
    context: WindowCache
    before: AdapterState
    threads: tuple[int, bool]
    ready: Any  # CUDA event after which all this is there
    stop: threading.Event = field(default_factory=threading.Event)
    future: Future[Result] | None = None
    blocked: float = 0.0  # seconds for which the session could do nothing but wait for it


class Updates:
    """At most one update of a session under way.

    All methods are for the session's thread. `start` and `settle` want the engine's lock; `wait` is better called
    without it, so that other sessions can go on.

    Args:
        model, bank, slot, config: as for `Learner`.
        meter: the session's, which takes over what a training has spent when it is settled.
        executor: where to train.
        probe: as for `Learner`.
    """

    def __init__(
        self,
        model: CausalModel,
        bank: AdapterBank,
        slot: int,
        config: TempLoraConfig,
        meter: Meter,
        executor: Executor,
        probe: Probe | None = None,
    ) -> None:
        self._bank = bank
        self._slot = slot
        self._session_meter = meter
        self._meter = Meter(model.device)
        self._learner = Learner(model, bank, slot, config, self._meter, probe)
        self._executor = executor
        self._device = model.device
        cuda = model.device.type == "cuda"
        self._stream = torch.cuda.Stream(model.device) if cuda else None  # type: ignore[no-untyped-call]
        self._job: _Job | None = None

    @property
    def chunk(self) -> Chunk | None:
        """The chunk in training."""
        return self._job.chunk if self._job else None

    @property
    def context(self) -> WindowCache:
        """The keys and values that the training reads. There must be one."""
        if self._job is None:
            raise ModelError("no update is under way")
        return self._job.context

    def start(self, tokens: Sequence[int], chunk: Chunk, context: WindowCache) -> None:
        """Begins to train on `chunk` of `tokens`, from the adapter that serves now.

        Args:
            tokens: ids of the text; may grow meanwhile.
            chunk: what to learn.
            context: keys and values before the chunk, which nobody may write to any more.
        """
        if self._job is not None:
            raise ModelError("an update is under way already; it must be settled first")
        ready = torch.cuda.current_stream(self._device).record_event() if self._stream else None
        self._job = _Job(tokens, chunk, context, self._bank.state(self._slot), governor.wanted, ready)
        self._submit(self._job)

    def wait(self) -> None:
        """Waits for the training; whatever it raised is raised here.

        After an error, or when the waiting is interrupted, the update is still to be made: the next call tries again.
        """
        self._result()

    def staged(self) -> Staged | None:
        """What the update will make of the adapter, without committing it; None: nothing, or nothing sound."""
        result = self._result()
        return result[0] if result else None

    def settle(self) -> tuple[Chunk, Update, float] | None:
        """Waits for the training and commits what it made, if it is sound: (chunk, update, seconds of training)."""
        job, result = self._job, self._result()
        if job is None or result is None:
            return None
        staged, update = result
        if staged is not None:
            if self._stream:
                for step in staged.steps:
                    step.gradient.record_stream(torch.cuda.current_stream(self._device))
            staged.commit(self._bank, self._slot)  # interrupted after this, it is done again, which changes nothing
        self._job = None
        return job.chunk, update, self._take_meter(job)

    def stop(self) -> Future[Result] | None:
        """Has the training stop without waiting for it; the training, if it is still to end."""
        job = self._job
        if job is None or job.future is None:
            return None
        job.stop.set()
        return None if job.future.cancel() or job.future.done() else job.future

    def drop(self) -> None:
        """Forgets the update. Ends when the training has stopped, which takes it a layer's time; not to be interrupted
        before, since a training left alone would go on through hooks that are no longer there."""
        job = self._job
        if job is None:
            return
        job.stop.set()
        interrupted: BaseException | None = None
        while job.future is not None and not (job.future.cancel() or job.future.done()):
            try:
                wait([job.future])
            except BaseException as error:
                interrupted = error
        self._job = None
        self._take_meter(job)
        if interrupted:
            raise interrupted

    def _submit(self, job: _Job) -> Future[Result]:
        began = time.perf_counter()
        job.future = future = self._executor.submit(self._train, job)
        job.blocked += time.perf_counter() - began
        return future

    def _train(self, job: _Job) -> Result:
        """The job itself, in the worker's thread."""
        with governor.job(*job.threads), self._beside(job), self._meter.phase("learn"):
            return self._learner.stage(job.before, job.tokens, job.chunk, job.context, job.stop)

    @contextmanager
    def _beside(self, job: _Job) -> Iterator[None]:
        """On a GPU: in a stream of its own, from when the inputs are there until the results are."""
        if self._stream is None:
            yield
            return
        self._stream.wait_event(job.ready)
        with torch.cuda.stream(self._stream):
            try:
                yield
            finally:
                self._stream.synchronize()

    def _result(self) -> Result | None:
        job = self._job
        if job is None:
            return None
        future = job.future or self._submit(job)
        began = time.perf_counter()
        try:
            with governor.waiting():
                return future.result()
        except BaseException:
            if future.done() and future.exception() is not None:
                job.future = None
            raise
        finally:
            job.blocked += time.perf_counter() - began

    def _take_meter(self, job: _Job) -> float:
        seconds = self._meter.seconds["learn"]
        self._session_meter.overlapped += max(0.0, seconds - job.blocked)
        self._session_meter.take(self._meter)
        return seconds
