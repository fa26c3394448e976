"""Results: one JSON file a cell, checked when written and when read."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Sequence
from dataclasses import fields
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from templora.config import TempLoraConfig
from templora.errors import TemploraError, TextError
from templora.evals.measuring.cell import Cell
from templora.reports.run_report import describe_device, source_commit, write_json
from templora.runtime.files import told

if TYPE_CHECKING:
    from templora.evals.measuring.run import Run

# Of the documents' shape and meaning; whatever changes either makes it grow. Others are refused, never guessed at.
SCHEMA = 1
DONE, NOT_APPLICABLE = "done", "not applicable"


class ResultError(TemploraError):
    """A result file that cannot be used."""


def of_run(
    cell: Cell, run: Run, *, text_tokens: int, kv_bytes: int, adapter_weights: int, notes: Sequence[str]
) -> dict[str, Any]:
    """The document of a cell that was measured, once its session is discarded.

    NLLs are in nats, seconds in seconds by phase (`all`: with everything between them), memory in bytes; FLOPs are
    counted as `runtime.metering` says. `nll` of a chunk is what the cell predicts with: the mixture where its config
    asks for one, beside which `base_nll` and `adapter_nll` are given; else adapter or base. `learning_rate`: what the
    rule made of it, where the config leaves it open. `others`: cores that other programs used meanwhile; the more, the
    less seconds mean.
    """
    from templora.runtime.metering import peak_memory_bytes

    rows, session = run.rows, run.session
    flops, engine, receipt = session.meter.flops, session.engine, session.receipt
    assert receipt is not None
    clean = receipt.base_unchanged and receipt.discarded
    unclean = "the model was not left as it was found: what was measured after this in the same process is wrong"
    return {
        "schema": SCHEMA,
        "status": DONE,
        "cell": cell.to_dict(),
        "text_tokens": text_tokens,
        "tokens": sum(row["targets"] for row in rows),
        "words": sum(row["words"] for row in rows),
        "bytes": sum(row["bytes"] for row in rows),
        "nll": math.fsum(row["nll"] for row in rows),
        "chunks": rows,
        "seconds": {**session.meter.seconds, "all": run.seconds},
        "flops": {**flops, "all": sum(flops.values())},
        "peak_memory_bytes": peak_memory_bytes(engine.model.device),
        "kv_bytes": kv_bytes,
        "adapter_weights": adapter_weights,
        "learning_rate": session.config.learning_rate if cell.source.reads else None,
        "resumed": run.resumed,
        "others": run.others,
        "clean": clean,
        "notes": [*notes, *([] if clean else [unclean])],
        "model": {
            "architecture": type(engine.model.module).__name__,
            "dtype": str(engine.model.dtype).removeprefix("torch."),
            "positions": engine.model.max_positions,
            "sha256": receipt.fingerprint,
        },
        "device": describe_device(engine.model.device, engine.threads),
        "versions": engine.versions() | {"commit": source_commit()},
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def not_applicable(cell: Cell, reason: str) -> dict[str, Any]:
    """The document of a cell that this model cannot do."""
    return {"schema": SCHEMA, "status": NOT_APPLICABLE, "cell": cell.to_dict(), "reason": reason}


def write(folder: Path, cell: Cell, result: dict[str, Any]) -> dict[str, Any]:
    """Writes a result so that a reader sees all of it or nothing, and returns it.

    Raises:
        TextError: it cannot be written.
    """
    write_json(folder / f"{cell.key}.json", result)
    return result


def find(folder: Path, cell: Cell) -> dict[str, Any] | None:
    """The result of a cell, if it is there.

    Raises:
        ResultError: there is something in its place that is no result of this version.
    """
    path = folder / f"{cell.key}.json"
    return read(path) if path.exists() else None


def read(path: Path) -> dict[str, Any]:
    """A result, if it is sound: of this schema, whole, its sums those of its chunks.

    Raises:
        ResultError: says what is wrong with it.
    """
    with told(ResultError, f"{path}: cannot be read", ValueError):
        result = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(result, dict) or "schema" not in result or "cell" not in result:
        raise ResultError(f"{path}: not a result of an evaluation")
    if result["schema"] != SCHEMA:
        other = "an older" if isinstance(result["schema"], int) and result["schema"] < SCHEMA else "another"
        raise ResultError(
            f"{path}: a result of {other} version (schema {result['schema']}, here {SCHEMA}); delete it and measure it "
            "again"
        )
    with told(ResultError, f"{path}: damaged, or edited", KeyError, TypeError, ValueError, AttributeError):
        said = TempLoraConfig.before() | result["cell"]["config"]
        unsaid = sorted(f.name for f in fields(TempLoraConfig) if f.name not in said)
        if unsaid:  # their defaults may have been others
            raise ValueError(f"its config says nothing of {', '.join(unsaid)}")
        cell = Cell.from_dict(result["cell"])
        if result["status"] == DONE:
            _check_sums(result)
        elif result["status"] != NOT_APPLICABLE:
            raise ValueError(f"unknown status {result['status']!r}")
    if path.name != f"{cell.key}.json":
        raise ResultError(f"{path}: holds the result of {cell.key}")
    return result


def _check_sums(result: dict[str, Any]) -> None:
    rows = result["chunks"]
    for name, part in (("tokens", "targets"), ("words", "words"), ("bytes", "bytes")):
        if result[name] != sum(row[part] for row in rows):
            raise ValueError(f"{name} is not the sum of its chunks'")
    if not math.isclose(result["nll"], math.fsum(row["nll"] for row in rows), rel_tol=1e-9, abs_tol=1e-9):
        raise ValueError("nll is not the sum of its chunks'")


def read_all(folder: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """The results in a folder and those below it, and what is wrong with the others.

    Raises:
        ResultError: no such folder.
    """
    if not folder.is_dir():
        raise ResultError(f"{folder}: no such folder")
    found, problems = [], []
    for path in sorted(folder.rglob("*.json")):
        if path.name == PLAN:
            continue
        try:
            found.append(read(path))
        except ResultError as error:
            problems.append(str(error))
    return found, problems


# What all results of a folder have in common.
PLAN = "eval.json"


def claim(folder: Path, common: dict[str, Any]) -> None:
    """Makes a folder one for results that have this in common, or finds that it is.

    Raises:
        ResultError: it holds those of another evaluation; says what differs.
        TextError: it cannot be made.
    """
    path = folder / PLAN
    with told(TextError, f"{folder}: cannot be made"):
        folder.mkdir(parents=True, exist_ok=True)
    held: dict[str, Any] = {}
    with contextlib.suppress(OSError, ValueError):
        held = json.loads(path.read_text(encoding="utf-8"))
    for name, value in common.items():
        if name in held and held[name] != value:
            raise ResultError(
                f"{folder} holds results of another evaluation: {name} is {held[name]!r} there, {value!r} here; "
                "choose another folder with --out"
            )
    write_json(path, held | common)
