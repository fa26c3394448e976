"""Measures one cell, step by step, so that whoever is stopped goes on where it was.

book   ─► ids   ─► session of the cell's method, adapter and config ─► rows, one a chunk     ─► result
pairs  ─► units ─►                                                  ─► rows, one a paragraph ─►
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from templora.errors import TextError
from templora.evals.measuring.cell import Cell
from templora.evals.measuring.pairs import Parallel, translate
from templora.evals.measuring.run import Run, held, predicted, update
from templora.evals.measuring.spans import Spans
from templora.evals.measuring.texts import Text
from templora.evals.reporting import results
from templora.events import Absorbed, ChunkLearned, ChunkScored, Event
from templora.methods import method_code
from templora.text import opening_ids

if TYPE_CHECKING:
    import torch

    from templora.engine.engine import Engine
    from templora.session.session import Session

# Told how far it is: (what is being done, tokens or paragraphs done, of how many).
Progress = Callable[[str, int, int], None]

# More tokens a word than this, and the tokenizer was hardly made for the text.
_TOKENS_A_WORD = 2.5


def measure(
    cell: Cell,
    text: Text | Parallel,
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
        text: the cell's: a book, or pairs for a translation.
        folder: of results.
        other: the text that the adapter learns first, for sources that want one.
        engine: the cell's model, if it is loaded already.
        threads, device: as for `templora.load`.
        progress: told now and then.
        stop: asked after each chunk or paragraph; if it says so, the snapshot is written and `Stopped` raised.

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
    if cell.code != method_code(cell.method):
        raise TextError(f"{cell.method} has changed since this evaluation was begun; begin it again")
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
    config, weights, notes = cell.config, None, []
    identity = [engine.model.fingerprint(), engine.versions()["templora"]]
    if cell.source.other:
        assert other is not None
        weights, note = _learn_other(cell, other, folder, engine, identity, progress, stop)
        notes += [note] if note else []
        config = config if cell.source.learns else replace(config, learning="off")
    lesson = cell.source.lesson(engine.tokenizer, config.seed) if cell.source.lesson else None
    with engine.session(config, method=method, lesson=lesson) as session:
        if weights is not None:
            session.use_adapter(weights)
        run = Run(session, folder / f"{cell.key}.part", identity, stop)
        if isinstance(text, Parallel):
            text_tokens = _translate(run, cell, text, engine, session, progress)
        else:
            text_tokens = _read(run, cell, text, engine, session, progress)
            notes += _foreign(run.rows)
        kv_bytes = sum(reader.cache.bytes for reader in session.readers)
        adapter_weights = session.slot.layout.weights if cell.source.reads else 0
    result = results.of_run(
        cell, run, session, text_tokens=text_tokens, kv_bytes=kv_bytes, adapter_weights=adapter_weights, notes=notes
    )
    written = results.write(folder, cell, result)
    run.path.unlink(missing_ok=True)
    return written


def _read(run: Run, cell: Cell, text: Text, engine: Engine, session: Session, progress: Progress) -> int:
    """Reads a book; how many tokens it has."""
    spans, opening, reads = Spans(engine.tokenizer, text.content), len(session.tokens), cell.source.reads
    ids = spans.ids if cell.tokens is None else spans.ids[: cell.tokens - len(opening_ids(engine.tokenizer))]
    for _ in _follow(run, session, ids, base=cell.config.mixture or not reads, adapted=reads):
        progress("reading", len(session.tokens), len(ids) + opening)
    for row in run.rows:
        row |= spans.of(row["start"] - opening, row["start"] + row["tokens"] - opening, row["targets"])
    return len(spans.ids)


def _translate(run: Run, cell: Cell, text: Parallel, engine: Engine, session: Session, progress: Progress) -> int:
    """Translates a document; how many tokens went through the session."""
    assert cell.translation is not None
    pairs = text.pairs(cell.translation.pairs)
    for done in translate(run, session, text, cell.translation, engine.tokenizer, cell.source.reads):
        progress("reading", done, len(pairs))
    return len(session.tokens)


def _foreign(rows: Sequence[dict[str, Any]]) -> list[str]:
    words, many = sum(row["words"] for row in rows), sum(row["targets"] for row in rows)
    if not words or many / words <= _TOKENS_A_WORD:
        return []
    return [f"{many / words:.1f} tokens a word: this model's tokenizer was hardly made for the language of this text"]


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
    from templora.session.snapshot import Snapshot

    teacher = replace(cell, text=text.name, text_sha256=text.sha256, tokens=cell.other_tokens, adapter="own")
    path = folder / f"{teacher.key}.adapter"
    ids = Spans(engine.tokenizer, text.content).ids[: cell.other_tokens]
    short = f"{text.name}, which was to be learnt before, has only {len(ids):,} tokens"
    if len(ids) < cell.config.chunk_size:
        raise TextError(f"{short}, less than a chunk: it teaches nothing")
    note = short if len(ids) < (cell.other_tokens or 0) else ""
    learnt = held(path, identity)
    if learnt is not None:
        return learnt.tensors["weights"], note
    with engine.session(teacher.config, method=teacher.made) as session:
        run = Run(session, folder / f"{teacher.key}.{cell.text}.part", identity, stop)
        for _ in _follow(run, session, ids, base=False, adapted=False):
            progress(f"learning {text.name}", len(session.tokens), len(ids))
        weights = session.adapter_weights()
    Snapshot({"weights": weights}, {"cell": teacher.to_dict(), "of": identity}).save(path)
    run.path.unlink(missing_ok=True)
    return weights, note


def _follow(run: Run, session: Session, ids: Sequence[int], *, base: bool, adapted: bool) -> Iterator[None]:
    """Reads `ids`, a row a chunk; yields after each."""
    opening = list(session.tokens)
    done = run.go_on(lambda meta: [*opening, *ids[: meta["done"]]])["done"]
    events = session.score_ids(ids[done:], base=base, adapted=adapted)
    while done < len(ids):
        with run.timed():
            for event in events:
                _take(run.rows, event)
                if isinstance(event, Absorbed):
                    break
        done = len(session.tokens) - len(opening)
        if done < len(ids):
            run.keep(done)
        yield


def _take(rows: list[dict[str, Any]], event: Event) -> None:
    if isinstance(event, ChunkScored):
        row = {"start": event.start, "tokens": event.end - event.start, **predicted(event), "seconds": event.seconds}
        rows.append(row)
    elif isinstance(event, ChunkLearned):
        # With parallel learning it is of the chunk before.
        row = next(r for r in reversed(rows) if r["start"] + r["tokens"] == event.end)
        row |= update(event)
        row["seconds"] += event.seconds
