"""Measures one cell, step by step, so that whoever is stopped goes on where it was.

book   ─► ids   ─► session of the cell's method, adapter and config ─► rows, one a chunk     ─► result
pairs  ─► units ─►                                                  ─► rows, one a paragraph ─►
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from templora.errors import TextError
from templora.evals.measuring.cell import Cell
from templora.evals.measuring.pairs import Parallel, translate
from templora.evals.measuring.run import Run, predicted, update
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
    read = ((text, cell.text_sha256), (other, cell.other_sha256))
    changed = [one.name for one, wanted in read if one and wanted and one.sha256 != wanted]
    changed += [cell.method] if cell.code != method_code(cell.method) else []
    if changed:
        raise TextError(f"{changed[0]} has changed since this evaluation was begun; begin it again")
    method = cell.made
    missing = method.missing()
    if missing:  # not written down: it may be installed next time
        return results.not_applicable(cell, missing)
    progress("loading", 0, 1)
    if engine is None:
        from templora.loading import load

        engine = load(
            cell.model,
            weights="unpacked" if cell.weights == "auto" else cell.weights,
            dtype=cell.dtype,
            threads=threads,
            device=device,
            plan=cell.config,
        )
    problem = method.problem(engine.model, cell.config)
    if problem:
        return results.write(folder, cell, results.not_applicable(cell, problem))
    config, notes = cell.config, []
    identity = [engine.model.fingerprint(), engine.versions()["templora"]]

    def begin(session: Session, file: str, at: str = "reading") -> Run:
        return Run(session, folder / file, identity, partial(progress, at), stop)

    weights = None
    if cell.source.other:
        assert other is not None
        weights, note = _learn_other(cell, other, engine, begin)
        notes += [note] if note else []
        config = config if cell.source.learns else replace(config, learning="off")
    lesson = cell.source.lesson(engine.tokenizer, config.seed) if cell.source.lesson else None
    with engine.session(config, method=method, lesson=lesson) as session:
        if weights is not None:
            session.use_adapter(weights)
        run = begin(session, f"{cell.key}.part")
        text_tokens, said = READINGS[cell.task](run, cell, text)
        kv_bytes = sum(reader.cache.bytes for reader in session.readers)
        adapter_weights = session.slot.layout.weights if cell.source.reads else 0
    result = results.of_run(
        cell, run, text_tokens=text_tokens, kv_bytes=kv_bytes, adapter_weights=adapter_weights, notes=[*notes, *said]
    )
    written = results.write(folder, cell, result)
    run.path.unlink(missing_ok=True)
    return written


def _read(run: Run, cell: Cell, text: Text) -> tuple[int, list[str]]:
    """Reads a book; how many tokens it has, and what is to be noted about it."""
    tokenizer, opening, reads = run.session.engine.tokenizer, len(run.session.tokens), cell.source.reads
    spans = Spans(tokenizer, text.content)
    ids = spans.ids if cell.tokens is None else spans.ids[: cell.tokens - len(opening_ids(tokenizer))]
    _follow(run, ids, base=cell.config.mixture or not reads, adapted=reads)
    for row in run.rows:
        row |= spans.of(row["start"] - opening, row["start"] + row["tokens"] - opening, row["targets"])
    words, many = sum(row["words"] for row in run.rows), sum(row["targets"] for row in run.rows)
    if not words or many / words <= _TOKENS_A_WORD:
        return len(spans.ids), []
    foreign = "this model's tokenizer was hardly made for the language of this text"
    return len(spans.ids), [f"{many / words:.1f} tokens a word: {foreign}"]


def _learn_other(cell: Cell, text: Text, engine: Engine, begin: Callable[..., Run]) -> tuple[torch.Tensor, str]:
    """An adapter that has learnt the first tokens of another text, and what is to be noted about it. The session that
    learnt it stays in the folder, for the cells that share it."""
    teacher = replace(cell, text=text.name, text_sha256=text.sha256, tokens=cell.other_tokens, adapter="own")
    ids = Spans(engine.tokenizer, text.content).ids[: cell.other_tokens]
    short = f"{text.name}, which was to be learnt before, has only {len(ids):,} tokens"
    if len(ids) < cell.config.chunk_size:
        raise TextError(f"{short}, less than a chunk: it teaches nothing")
    with engine.session(teacher.config, method=teacher.made) as session:
        run = begin(session, f"{teacher.key}.adapter", f"learning {text.name}")
        _follow(run, ids, base=False, adapted=False, whole=True)
        return session.adapter_weights(), short if len(ids) < (cell.other_tokens or 0) else ""


def _follow(run: Run, ids: Sequence[int], *, base: bool, adapted: bool, whole: bool = False) -> None:
    """Reads `ids`, a row a chunk."""
    session, opening = run.session, list(run.session.tokens)
    done = run.go_on(lambda meta: [*opening, *ids[: meta["done"]]])["done"]
    events = session.score_ids(ids[done:], base=base, adapted=adapted)
    while done < len(ids):
        with run.timed():
            for event in events:
                _take(run.rows, event)
                if isinstance(event, Absorbed):
                    break
        done = len(session.tokens) - len(opening)
        run.keep(done, len(ids), whole=whole)


def _take(rows: list[dict[str, Any]], event: Event) -> None:
    if isinstance(event, ChunkScored):
        row = {"start": event.start, "tokens": event.end - event.start, **predicted(event), "seconds": event.seconds}
        rows.append(row)
    elif isinstance(event, ChunkLearned):
        # With parallel learning it is of the chunk before.
        row = next(r for r in reversed(rows) if r["start"] + r["tokens"] == event.end)
        row |= update(event)
        row["seconds"] += event.seconds


# By task: what takes a text through a session, row by row; says how many tokens it has, and what is to be noted.
READINGS: Mapping[str, Callable[[Run, Cell, Any], tuple[int, list[str]]]] = {"pg19": _read, "translation": translate}
