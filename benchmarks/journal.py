"""Results files: every finished pair is a line of a .jsonl, so that a sitting cut short goes on where it stopped.

A line holds what was measured and what it depends on: the code, device, versions, settings, date, and the load average
before it. Lines of other code or other settings are not mixed in.
"""

from __future__ import annotations

import hashlib
import json
import lzma
import os
import statistics
import sys
from collections.abc import Callable, Iterable
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

import templora
from templora.reports.run_report import describe_device, source_commit

RESULTS = Path(__file__).parent.parent / "results" / "benchmarks"
_PACKAGES = ("templora", "torch", "transformers", "peft", "numba", "xllamacpp")


def book(path: Path) -> str:
    """The text of a file, which may be compressed (.xz)."""
    raw = path.read_bytes()
    return (lzma.decompress(raw) if path.suffix == ".xz" else raw).decode()


def versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def code_digest() -> str:
    """Of the package's sources: what was measured, whether committed yet or not."""
    digest = hashlib.sha256()
    package = Path(templora.__file__).parent
    for file in sorted(package.rglob("*.py")):
        digest.update(f"{file.relative_to(package)}\n".encode() + file.read_bytes())
    return digest.hexdigest()[:12]


class Journal:
    """The pairs of one benchmark.

    Args:
        path: the .jsonl file.
        settings: sizes and whatever else the figures depend on.
        device: where it runs.
    """

    def __init__(self, path: Path, settings: dict[str, Any], device: torch.device) -> None:
        self._path = path
        self.header = {
            "code": code_digest(),
            "device": describe_device(device),
            "versions": versions(),
            "settings": settings,
        }
        lines = path.read_text().splitlines() if path.is_file() else []
        # The last line may have been cut short by whatever ended the sitting.
        whole = [line for line in lines if line.endswith("}")]
        if len(whole) < len(lines):
            path.write_text("".join(line + "\n" for line in whole))
        self._pairs = [pair for pair in map(json.loads, whole) if pair["header"] == self.header]

    def pairs(self, row: str) -> list[dict[str, Any]]:
        """What has been measured for a row, in order."""
        return [pair for pair in self._pairs if pair["row"] == row]

    def fill(self, row: str, runs: int, measure: Callable[[int], dict[str, Any]]) -> None:
        """Measures what is missing of `runs` pairs. `measure` is given the number of the run."""
        for run in range(len(self.pairs(row)), runs):
            load, now = os.getloadavg()[0], datetime.now(timezone.utc).isoformat(timespec="seconds")
            pair = {"row": row, "run": run, "date": now, "load_average": load, "commit": source_commit()}
            pair["measured"] = measure(run)
            self._pairs.append(pair | {"header": self.header})
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a") as file:
                file.write(json.dumps(self._pairs[-1]) + "\n")
                file.flush()
                os.fsync(file.fileno())
            print(f"{row}, run {run + 1} of {runs}: {json.dumps(pair['measured'])[:200]}", file=sys.stderr, flush=True)

    def values(self, row: str, name: str) -> list[float]:
        """One measured value of each pair of a row."""
        return [pair["measured"][name] for pair in self.pairs(row)]

    def ratio(self, row: str, ours: str, theirs: str) -> dict[str, Any]:
        """Median of the paired ratios ours / theirs, and the medians they are of."""
        pairs = list(zip(self.values(row, ours), self.values(row, theirs), strict=True))
        return {
            "ratio": spread(a / b for a, b in pairs),
            "ours": statistics.median(a for a, _ in pairs),
            "theirs": statistics.median(b for _, b in pairs),
        }


def spread(values: Iterable[float]) -> dict[str, float | int]:
    kept = list(values)
    return {"median": statistics.median(kept), "lowest": min(kept), "highest": max(kept), "runs": len(kept)}


def write_results(path: Path, document: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")
