"""`Run`: what of a cell is measured so far, kept so that whoever is stopped goes on where it was.

A snapshot holds the session and the rows so far. It is made after a chunk, but takes no more than a small share of the
time: so what a kill may cost is a few seconds, and Ctrl-C nothing.
"""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from templora.errors import ModelError, TemploraError, TextError
from templora.events import ChunkLearned, ChunkScored

if TYPE_CHECKING:
    from templora.session.session import Session

# Most of the time that snapshots may take.
_SNAPSHOTS = 0.05


class Stopped(Exception):
    """The measurement was asked to stop, and what it had is kept."""


@dataclass
class Run:
    """One session on its way through a text.

    Args:
        session: of the cell.
        path: of the snapshot.
        identity: what must be the same for a snapshot to be gone on from.
        progress: told how much is done, and of how much.
        stop: asked after each chunk or paragraph.

    Attributes:
        rows: what is measured, in order.
        seconds: spent on it, all processes together.
        resumed: how often it was gone on with.
    """

    session: Session
    path: Path
    identity: list[str]
    progress: Callable[[int, int], None]
    stop: Callable[[], bool]
    rows: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0
    resumed: int = 0
    _others: float | None = 0.0  # core-seconds
    _cost: float = 0.0  # of a snapshot
    _saved: float = field(default_factory=time.perf_counter)

    def go_on(self, tokens: Callable[[Mapping[str, Any]], Sequence[int]]) -> Mapping[str, Any]:
        """Becomes what was kept, if anything of this identity was; what is there instead is deleted.

        Args:
            tokens: of the session, from what `keep` was told.

        Returns:
            What `keep` was told: `done` is 0 if nothing was kept.
        """
        from templora.session.snapshot import Snapshot

        try:
            found = Snapshot.load(self.path)
            if found.meta["of"] != self.identity:
                raise ValueError("another model's, or another version's")
            meta: Mapping[str, Any] = found.meta["run"]
            kept = meta["rows"], meta["seconds"], meta["resumed"] + 1, meta["others"]
            self.session.restore(tokens(meta), found)
        except (TemploraError, LookupError, TypeError, ValueError, AttributeError):  # none, of another, or edited
            self.path.unlink(missing_ok=True)
            return {"done": 0}
        self.rows, self.seconds, self.resumed, self._others = kept
        return meta

    @contextlib.contextmanager
    def timed(self) -> Iterator[None]:
        """What happens inside is counted: its seconds, and what other programs used meanwhile."""
        began, busy = time.perf_counter(), _busy_elsewhere()
        yield
        self.seconds += time.perf_counter() - began
        now = _busy_elsewhere()
        known = None not in (self._others, busy, now)
        self._others = self._others + now - busy if known else None  # type: ignore[operator]

    @property
    def others(self) -> float | None:
        """Cores that other programs used meanwhile, on average; None where the system does not say."""
        return None if self._others is None else max(0.0, self._others) / max(1e-9, self.seconds)

    def keep(self, done: int, total: int, *, whole: bool = False, **more: Any) -> None:
        """Says how far it is, makes a snapshot if one is due, and stops if that is wanted.

        Args:
            done: how much is done; with `more`, told to `go_on`.
            total: of how much. When all is done there is only a result to be kept.
            whole: then too a snapshot is wanted: others go on from it.

        Raises:
            Stopped: `stop` said so.
            TextError: it did, and the snapshot cannot be written.
        """
        self.progress(done, total)
        if done == total and not whole:
            return
        stopping = self.stop()
        now = time.perf_counter()
        due = done == total or self._cost <= _SNAPSHOTS * (now - self._saved)
        if stopping or due:
            taken = self.session.snapshot(copy=False)
            rows = {"rows": self.rows, "seconds": self.seconds, "resumed": self.resumed}
            rows |= {"others": self._others, "done": done, **more}
            try:
                replace(taken, meta={**taken.meta, "run": rows, "of": self.identity}).save(self.path)
            except TextError:
                if stopping:
                    raise
                # No room for it, say. The result may still find some; until then a kill costs more.
            self._saved = time.perf_counter()
            self._cost = self._saved - now
        if stopping:
            raise Stopped


def predicted(event: ChunkScored) -> dict[str, Any]:
    """NLLs of a chunk: of what is predicted with, and, where that is the mixture, of its two halves.

    Raises:
        ModelError: they are no numbers.
    """
    nll = next(x for x in (event.mixed_nll, event.adapted_nll, event.base_nll, 0.0) if x is not None)
    if not math.isfinite(nll):
        raise ModelError(
            f"the predictions of tokens {event.start:,} to {event.end:,} are no numbers any more (NLL {nll}): "
            "a lower rate, or another dtype, may help"
        )
    halves = {} if event.mixed_nll is None else {"base_nll": event.base_nll, "adapter_nll": event.adapted_nll}
    return {"targets": event.targets, "nll": nll, **halves}


def update(event: ChunkLearned) -> dict[str, Any]:
    """What became of a chunk's update."""
    fields = ("committed", "reason", "loss", "grad_norm", "update", "drift", "forgetting")
    return {name: getattr(event, name) for name in fields}


def _busy_elsewhere() -> float | None:
    """Core-seconds so far, up to a constant, that other programs used on the cores we may use."""
    from templora.runtime.threads import idle_here

    idle = idle_here()
    return None if idle is None else len(os.sched_getaffinity(0)) * time.monotonic() - idle - time.process_time()
