#!/usr/bin/env python3
"""How long a user waits: from the start of a process to what it shows first, this tree beside another commit of it.

    benchmarks/first_token.py COMMIT [--runs 5]

    import    python -c "import templora"
    help      templora --help, whole
    first     templora write on the embedded model, unpacked and compiled before: until the first token is out
    whole     the same, until the process has ended, one token written
    fresh     until the first token, where Python has compiled nothing yet, as right after an installation

The sides are measured in turn, in another order every other run; a ratio is this tree's figure by the other's, the
median of the pairs'. Files are in the system's cache. Every finished pair is appended to
results/benchmarks/first_token.jsonl and not measured again; first_token.json holds the medians. Keep the machine quiet.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
from journal import RESULTS, Journal, spread, write_results
from table import in_turn

import templora
from templora.models.builtin import DEFAULT_MODEL

HERE = Path(templora.__file__).parent.parent
ROWS = ("import", "help", "first", "whole", "fresh")


def seconds(tree: Path, *arguments: str, **environment: str) -> tuple[float, float]:
    """Until a process of this tree has said its first byte (or ended without a word), and until it has ended."""
    began = time.perf_counter()
    with subprocess.Popen(
        [sys.executable, *arguments], cwd=tree, stdout=subprocess.PIPE, env=os.environ | environment
    ) as process:
        assert process.stdout is not None
        process.stdout.read(1)
        first = time.perf_counter() - began
        process.stdout.read()
    if process.returncode:
        raise SystemExit(f"{tree}: {' '.join(arguments)} ended with exit code {process.returncode}")
    return first, time.perf_counter() - began


def measure(tree: Path, write: list[str]) -> dict[str, float]:
    first, whole = seconds(tree, *write)
    with tempfile.TemporaryDirectory() as empty:
        fresh, _ = seconds(tree, *write, PYTHONPYCACHEPREFIX=empty)
    return {
        "import": seconds(tree, "-c", "import templora")[1],
        "help": seconds(tree, "-m", "templora", "--help")[1],
        "first": first,
        "whole": whole,
        "fresh": fresh,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("commit", help="the other side")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--weights", default="auto")
    parser.add_argument("--prompt", default="The old lighthouse keeper climbed the stairs and")
    parser.add_argument("--results", type=Path, default=RESULTS)
    a = parser.parse_args()
    settings = {k: v for k, v in vars(a).items() if k not in ("runs", "results")}
    journal = Journal(a.results / "first_token.jsonl", settings, torch.device("cpu"))
    write = ["-m", "templora", "write", "--model", a.model, "--weights", a.weights, "--device", "cpu", "--quiet"]
    write += ["--prompt", a.prompt, "--temperature", "0", "--tokens", "1"]
    with tempfile.TemporaryDirectory() as folder:
        other = Path(folder) / "other"
        subprocess.run(["git", "-C", str(HERE), "worktree", "add", "-q", "--detach", str(other), a.commit], check=True)
        try:
            for tree in (HERE, other):  # which unpacks the model and compiles, once
                measure(tree, write)

            def both(number: int) -> dict[str, Any]:
                ours, theirs = in_turn({str(tree): partial(measure, tree, write) for tree in (HERE, other)}, number)
                return {"ours": ours, "other": theirs}

            journal.fill("first token", a.runs, both)
        finally:
            subprocess.run(["git", "-C", str(HERE), "worktree", "remove", "--force", str(other)], check=True)
    pairs = [pair["measured"] for pair in journal.pairs("first token")]
    rows: dict[str, Any] = {
        name: {
            "ratio": spread(pair["ours"][name] / pair["other"][name] for pair in pairs),
            "ours": spread(pair["ours"][name] for pair in pairs),
            "other": spread(pair["other"][name] for pair in pairs),
        }
        for name in ROWS
    }
    document = {"benchmark": "first_token", "other commit": a.commit, "unit": "s", **journal.header, "rows": rows}
    write_results(a.results / "first_token.json", document)
    print(json.dumps({name: round(row["ours"]["median"], 2) for name, row in rows.items()}))


if __name__ == "__main__":
    main()
