"""Measures one cell, chunk by chunk, so that whoever is stopped goes on where it was.

    text ─► ids ─► session of the cell's method, adapter and config ─► rows, one a chunk ─► result
                       └─ snapshot, beside the result-to-be ─┘

A snapshot holds the session and the rows so far. It is made after a chunk, but takes no more than a small share of the
time: so what a kill may cost is a few seconds, and Ctrl-C nothing.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from templora.errors import ModelError, TextError
from templora.evals import results
from templora.evals.cell import Cell
from templora.evals.spans import Spans
from templora.evals.texts import Text
from templora.events import Absorbed, ChunkLearned, ChunkScored, Event
from templora.text import opening_ids
from templora.threads import idle_here

if TYPE_CHECKING:
    import torch

    from templora.engine import Engine
    from templora.session import Session
    from templora.snapshot import Snapshot

# Told how far it is: (what is being done, tokens done, of how many).
Progress = Callable[[str, int, int], None]

# Most of the time that snapshots may take.
_SNAPSHOTS = 0.05
# More tokens a word than this, and the tokenizer was hardly made for the text.
_TOKENS_A_WORD = 2.5


class Stopped(Exception):
    """The measurement was asked to stop, and what it had is kept."""


def measure(
    cell: Cell,
    text: Text,
    folder: Path,
    *,
    other: Text | None = None,
    engine: Engine | None = None,
    threads: int | str = "auto",
    device: str = "auto",
    progress: Progress = lambda *_: None,
    stop: Callable[[], bool] = lambda: False,
) -> dict[str, Any]:
    """The result of a cell, which is also written into `folder`; one that is there already is not measured again.

    Args:
        cell: what to measure.
        text: the cell's.
        folder: of results.
        other: the text that the adapter learns first, for sources that want one.
        engine: the cell's model, if it is loaded already.
        threads, device: as for `templora.load`.
        progress: told now and then.
        stop: asked after each chunk; if it says so, the snapshot is written and `Stopped` raised.

    Raises:
        TemploraError: the model or the text cannot be read, or the result cannot be written.
        Stopped: `stop` said so.
    """
    done = results.find(folder, cell)
    if done is not None:
        return done
    for read, wanted in ((text, cell.text_sha256), (other, cell.other_sha256)):
        if read and wanted and read.sha256 != wanted:
            raise TextError(f"{read.name} has changed since this evaluation was begun; begin it again")
    method = cell.made
    missing = method.missing()
    if missing:  # not written down: it may be installed next time
        return results.not_applicable(cell, missing)
    progress("loading", 0, 1)
    if engine is None:
        from templora.loading import load

        engine = load(
            cell.model, weights=cell.weights, dtype=cell.dtype, threads=threads, device=device, plan=cell.config
        )
    problem = method.problem(engine.model, cell.config)
    if problem:
        return results.write(folder, cell, results.not_applicable(cell, problem))
    spans = Spans(engine.tokenizer, text.content)
    ids = spans.ids if cell.tokens is None else spans.ids[: cell.tokens - len(opening_ids(engine.tokenizer))]
    config, weights, notes, identity = cell.config, None, [], _identity(engine)
    if cell.source.other:
        assert other is not None
        weights, note = _learn_other(cell, other, folder, engine, identity, progress, stop)
        notes += [note] if note else []
        config = config if cell.source.learns else replace(config, learning="off")
    lesson = cell.source.lesson(engine.tokenizer, config.seed) if cell.source.lesson else None
    with engine.session(config, method=method, lesson=lesson) as session:
        if weights is not None:
            session.use_adapter(weights)
        run = _Run(session, folder / f"{cell.key}.part", identity, stop)
        opening = len(session.tokens)
        for _ in run.follow(ids, base=config.mixture or not cell.source.reads, adapted=cell.source.reads):
            progress("reading", len(session.tokens), len(ids) + opening)
        kv_bytes = sum(reader.cache.bytes for reader in session.readers)
        adapter_weights = session.readers[0 if cell.source.reads else 1].adapter.weights
        seconds, flops = dict(session.meter.seconds), dict(session.meter.flops)
    for row in run.rows:
        row |= spans.of(row["start"] - opening, row["start"] + row["tokens"] - opening, row["targets"])
    words, many = sum(row["words"] for row in run.rows), sum(row["targets"] for row in run.rows)
    if words and many / words > _TOKENS_A_WORD:
        notes.append(
            f"{many / words:.1f} tokens a word: this model's tokenizer was hardly made for the language of this text"
        )
    assert session.receipt is not None
    clean = session.receipt.base_unchanged and session.receipt.discarded
    if not clean:
        notes.append(
            "the model was not left as it was found: what was measured after this in the same process is wrong"
        )
    result = results.of_run(
        cell,
        engine,
        rows=run.rows,
        text_tokens=len(spans.ids),
        seconds={**seconds, "all": run.seconds},
        flops=flops,
        kv_bytes=kv_bytes,
        adapter_weights=adapter_weights,
        learning_rate=session.config.learning_rate if cell.source.reads else None,
        resumed=run.resumed,
        others=run.others,
        clean=clean,
        fingerprint=session.receipt.fingerprint,
        notes=notes,
    )
    written = results.write(folder, cell, result)
    run.path.unlink(missing_ok=True)
    return written


def _identity(engine: Engine) -> list[str]:
    """What must be the same for a snapshot to be gone on from."""
    return [engine.model.fingerprint(), engine.versions()["templora"]]


def _held(path: Path, identity: list[str]) -> Snapshot | None:
    """A snapshot of this identity, if there is one; another, or a damaged one, is deleted."""
    from templora.snapshot import Snapshot

    if not path.exists():
        return None
    try:
        held = Snapshot.load(path)
        if held.meta.get("of") == identity:
            return held
    except TextError:
        pass
    path.unlink(missing_ok=True)
    return None


def _learn_other(
    cell: Cell,
    text: Text,
    folder: Path,
    engine: Engine,
    identity: list[str],
    progress: Progress,
    stop: Callable[[], bool],
) -> tuple[torch.Tensor, str]:
    """An adapter that has learnt the first tokens of another text, kept in the folder for the cells that share it; and
    what is to be noted about it."""
    from templora.snapshot import Snapshot

    teacher = replace(cell, text=text.name, text_sha256=text.sha256, tokens=cell.other_tokens, adapter="own")
    path = folder / f"{teacher.key}.adapter"
    ids = Spans(engine.tokenizer, text.content).ids[: cell.other_tokens]
    short = f"{text.name}, which was to be learnt before, has only {len(ids):,} tokens"
    if len(ids) < cell.config.chunk_size:
        raise TextError(f"{short}, less than a chunk: it teaches nothing")
    note = short if len(ids) < (cell.other_tokens or 0) else ""
    held = _held(path, identity)
    if held is not None:
        return held.tensors["weights"], note
    with engine.session(teacher.config, method=teacher.made) as session:
        run = _Run(session, folder / f"{teacher.key}.{cell.text}.part", identity, stop)
        for _ in run.follow(ids, base=False, adapted=False):
            progress(f"learning {text.name}", len(session.tokens), len(ids))
        weights = session.adapter_weights()
    Snapshot({"weights": weights}, {"cell": teacher.to_dict(), "of": identity}).save(path)
    run.path.unlink(missing_ok=True)
    return weights, note


class _Run:
    """Reads a text through a session, from where its last snapshot was made.

    Attributes:
        path: of the snapshot.
        rows: a chunk each.
        seconds: spent on chunks, all processes together.
        others: cores that other programs used meanwhile, on average; None where the system does not say.
        resumed: how often it was gone on with.
    """

    def __init__(self, session: Session, path: Path, identity: list[str], stop: Callable[[], bool]) -> None:
        self.path = path
        self._identity = identity
        self.rows: list[dict[str, Any]] = []
        self.seconds = 0.0
        self.resumed = 0
        self._others: float | None = 0.0  # core-seconds
        self._session, self._stop = session, stop
        self._held = _held(path, identity)
        self._cost, self._saved = 0.0, time.perf_counter()

    def follow(self, ids: Sequence[int], *, base: bool, adapted: bool) -> Iterator[None]:
        """Reads `ids`; yields after each chunk."""
        session = self._session
        opening = len(session.tokens)
        if self._held is not None:
            meta = self._held.meta["run"]
            self.rows, self.seconds, self.resumed = meta["rows"], meta["seconds"], meta["resumed"] + 1
            self._others = meta["others"]
            session.restore([*session.tokens, *ids[: meta["done"]]], self._held)
            self._held = None
        began, busy = time.perf_counter(), _busy_elsewhere()
        rest = ids[len(session.tokens) - opening :]
        for event in session.score_ids(rest, base=base, adapted=adapted):
            self._take(event)
            if isinstance(event, Absorbed):
                self.seconds += time.perf_counter() - began
                now = _busy_elsewhere()
                known = None not in (self._others, busy, now)
                self._others = self._others + now - busy if known else None  # type: ignore[operator]
                last = event.done == event.total
                if not last:
                    self._keep(len(session.tokens) - opening)
                yield
                began, busy = time.perf_counter(), _busy_elsewhere()

    @property
    def others(self) -> float | None:
        return None if self._others is None else max(0.0, self._others) / max(1e-9, self.seconds)

    def _take(self, event: Event) -> None:
        if isinstance(event, ChunkScored):
            nll = next(x for x in (event.mixed_nll, event.adapted_nll, event.base_nll, 0.0) if x is not None)
            if not math.isfinite(nll):
                raise ModelError(
                    f"the predictions of tokens {event.start:,} to {event.end:,} are no numbers any more (NLL {nll}): "
                    "a lower rate, or another dtype, may help"
                )
            row: dict[str, Any] = {
                "start": event.start,
                "tokens": event.end - event.start,
                "targets": event.targets,
                "nll": nll,
            }
            if event.mixed_nll is not None:
                row |= {"base_nll": event.base_nll, "adapter_nll": event.adapted_nll}
            self.rows.append(row | {"seconds": event.seconds})
        elif isinstance(event, ChunkLearned):
            # With parallel learning it is of the chunk before.
            row = next(r for r in reversed(self.rows) if r["start"] + r["tokens"] == event.end)
            row |= {"committed": event.committed, "reason": event.reason, "loss": event.loss}
            row |= {"grad_norm": event.grad_norm, "update": event.update}
            row |= {"drift": event.drift, "forgetting": event.forgetting}
            row["seconds"] += event.seconds

    def _keep(self, done: int) -> None:
        """Makes a snapshot if one is due, and stops if that is wanted."""
        stopping = self._stop()
        now = time.perf_counter()
        due = self._cost <= _SNAPSHOTS * (now - self._saved)
        if stopping or due:
            taken = self._session.snapshot(copy=False)
            rows = {"rows": self.rows, "seconds": self.seconds, "resumed": self.resumed}
            rows |= {"others": self._others, "done": done}
            try:
                replace(taken, meta={**taken.meta, "run": rows, "of": self._identity}).save(self.path)
            except TextError:
                if stopping:
                    raise
                # No room for it, say. The result may still find some; until then a kill costs more.
            self._saved = time.perf_counter()
            self._cost = self._saved - now
        if stopping:
            raise Stopped


def _busy_elsewhere() -> float | None:
    """Core-seconds so far, up to a constant, that other programs used on the cores we may use."""
    idle = idle_here()
    return None if idle is None else len(os.sched_getaffinity(0)) * time.monotonic() - idle - time.process_time()
