#!/usr/bin/env python3
"""Is anything slower, or larger, than it was when it was measured last?

    benchmarks/regression.py [FILE...] [--allowed 0.10]

Compares each file of results/benchmarks/ (by default those that the README's table is made of) with what the commit
before the last change of it had there, figure by figure, and fails where one is worse by more than is allowed. Figures
that are ratios to another side, measured in turn with ours, are compared whatever the machine; seconds, rates and bytes
only where both files name the same device, on which they still follow what else it was doing: benchmarks/against.py,
which measures two commits in turn, tells. Run it before a release.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
FILES = ("table", "larger", "larger-1.5b", "rows", "together", "sessions-together")
# Of these more is better; of everything else that is timed or weighed, less.
_MORE = ("tokens a second", "tok/s", "rate", "ours with adapter /", "times one", "times llama.cpp")
_SKIPPED = (
    "llama.cpp",
    "theirs",
    "lowest",
    "highest",
    "runs",
    "ceiling",
    "count",
    "load_average",
    "settings",
    "config",
)


def figures(found: Any, name: str = "") -> Iterator[tuple[str, float]]:
    """Medians, ratios and other figures of ours in a results file, each under the path of names that leads to it."""
    if isinstance(found, Mapping):
        if isinstance(found.get("median"), int | float):
            yield name, float(found["median"])
            return
        for key, value in found.items():
            skipped = any(word in str(key) for word in _SKIPPED) and "ours" not in str(key)
            if not skipped:
                yield from figures(value, f"{name} / {key}" if name else str(key))
    elif isinstance(found, int | float) and not isinstance(found, bool):
        yield name, float(found)


def is_ratio(name: str) -> bool:
    return "ratio" in name or "ours with adapter /" in name or "times" in name


def more_is_better(name: str) -> bool:
    return any(word in name for word in _MORE)


def before(path: Path) -> dict[str, Any] | None:
    """What a file was before the last commit that changed it, or before what is not committed; None: nothing."""
    where = path.resolve().relative_to(ROOT)

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout

    commits = git("log", "--format=%H", "-n", "2", "--", str(where)).split()
    changed = bool(git("status", "--porcelain", "--", str(where)).strip())
    wanted = commits[:1] if changed else commits[1:2]
    found: dict[str, Any] | None = json.loads(git("show", f"{wanted[0]}:{where}")) if wanted else None
    return found


def worse(now: Mapping[str, Any], was: Mapping[str, Any], allowed: float) -> Iterator[tuple[str, float, float, float]]:
    """Figures that are worse by more than `allowed`: (name, before, now, by which share)."""
    here = now.get("device") == was.get("device")
    old = dict(figures({k: v for k, v in was.items() if isinstance(v, dict | list)}))
    for name, value in figures({k: v for k, v in now.items() if isinstance(v, dict | list)}):
        earlier = old.get(name)
        if not earlier or not value or not (here or is_ratio(name)):
            continue
        loss = earlier / value - 1 if more_is_better(name) else value / earlier - 1
        if loss > allowed:
            yield name, earlier, value, loss


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--allowed", type=float, default=0.10, help="share by which a figure may be worse")
    a = parser.parse_args()
    lost = 0
    for path in a.files or [ROOT / "results" / "benchmarks" / f"{name}.json" for name in FILES]:
        was = before(path)
        if was is None:
            print(f"{path.name}: nothing to compare it with")
            continue
        found = list(worse(json.loads(path.read_text()), was, a.allowed))
        lost += len(found)
        print(f"{path.name}: {len(found) or 'no'} figures are worse by more than {a.allowed:.0%}")
        for name, earlier, value, loss in found:
            print(f"  {name}: {earlier:.4g} -> {value:.4g} ({loss:.0%} worse)")
    sys.exit(1 if lost else 0)


if __name__ == "__main__":
    main()
