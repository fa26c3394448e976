#!/usr/bin/env python3
"""This tree against another commit of it, in turn: has a change made anything slower?

    benchmarks/against.py COMMIT --text BOOK.txt [--runs 5] [--most 1.1]

The command line does the same work from both trees: reads and scores --score-tokens of BOOK; then goes on from its
first --prompt-tokens with a session on disk, --write-tokens greedily. Each run is a process of its own, the sides in
another order every other run, and a ratio is this tree's figure by the other's, the median of the pairs'. Whether both
wrote the same text is a figure as well. Every finished pair is appended to results/benchmarks/against-COMMIT.jsonl and
not measured again; the .json holds the medians. It fails, and names them, if figures are more than --most times the
other's: before a release it is run against the last. Keep the machine quiet.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
from journal import RESULTS, Journal, book, spread, write_results
from table import in_turn

import templora
from templora.models.builtin import DEFAULT_MODEL
from templora.text import encode

HERE = Path(templora.__file__).parent.parent


def run(tree: Path, verb: str, *options: str) -> dict[str, Any]:
    """What one call of the command line says of itself, and its `wall` seconds, those of starting included."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = [
            sys.executable,
            "-m",
            "templora",
            verb,
            *options,
            "--report",
            str(report),
            "--device",
            "cpu",
            "--quiet",
        ]
        if verb == "write":
            command += ["--session", "against", "--sessions", str(Path(folder) / "sessions")]
            if "learn_written" in (tree / "templora" / "config.py").read_text():
                command.append("--learn-written")  # earlier versions know nothing else
        began = time.perf_counter()
        done = subprocess.run(command, cwd=tree, check=True, stdout=subprocess.PIPE)  # -m takes the tree it stands in
        wall = time.perf_counter() - began
        said: dict[str, Any] = json.loads(report.read_text())
        return said | {"wall": wall, "text": done.stdout}


def measure(a: argparse.Namespace, tree: Path, text: Path, prompt: Path) -> dict[str, Any]:
    common = ["--model", a.model, "--weights", a.weights]
    scored = run(tree, "score", str(text), "--tokens", str(a.score_tokens), *common)
    greedy = ["--temperature", "0", "--tokens", str(a.write_tokens)]
    wrote = run(tree, "write", "--prompt-file", str(prompt), *greedy, *common)
    chunks = a.score_tokens / 512
    return {
        "score a chunk, seconds": (scored["seconds"]["score"] + scored["seconds"]["cache"]) / chunks,
        "learn a chunk, seconds": scored["seconds"]["learn"] / chunks,
        "score, whole process, seconds": scored["wall"],
        "decode a token, seconds": (wrote["seconds"]["decode"] + wrote["seconds"]["cache"]) / a.write_tokens,
        "write, whole process, seconds": wrote["wall"],
        "peak memory, bytes": wrote["peak_memory_bytes"],
        "text": wrote["text"].decode(),
    }


def worse(rows: dict[str, Any], most: float) -> list[str]:
    """Names of figures that are more than `most` times the other side's, in the median of pairs."""
    return [name for name, row in rows.items() if row["ratio"]["median"] > most]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("commit", help="the other side")
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--most", type=float, default=1.1)
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--weights", default="int4")
    parser.add_argument("--score-tokens", type=int, default=4096)
    parser.add_argument("--prompt-tokens", type=int, default=1024)
    parser.add_argument("--write-tokens", type=int, default=1024)
    parser.add_argument("--results", type=Path, default=RESULTS)
    a = parser.parse_args()
    settings = {k: v for k, v in vars(a).items() if k not in ("runs", "most", "results")} | {"text": a.text.name}
    journal = Journal(a.results / f"against-{a.commit}.jsonl", settings, torch.device("cpu"))
    with tempfile.TemporaryDirectory() as folder:
        other, text, prompt = Path(folder) / "other", Path(folder) / "book.txt", Path(folder) / "prompt.txt"
        subprocess.run(["git", "-C", str(HERE), "worktree", "add", "-q", "--detach", str(other), a.commit], check=True)
        try:
            text.write_text(book(a.text))
            tokenizer = templora.load(a.model, device="cpu").tokenizer
            prompt.write_text(tokenizer.decode(encode(tokenizer, text.read_text(), special=False)[: a.prompt_tokens]))

            for tree in (HERE, other):  # which compiles the kernels, once
                run(tree, "write", "--prompt", "Once", "--tokens", "8", "--model", a.model, "--weights", a.weights)

            def both(number: int) -> dict[str, Any]:
                sides = {tree: partial(measure, a, tree, text, prompt) for tree in (HERE, other)}
                ours, theirs = in_turn(sides, number)
                return {"same text": ours.pop("text") == theirs.pop("text"), "ours": ours, "other": theirs}

            journal.fill("against", a.runs, both)
        finally:
            subprocess.run(["git", "-C", str(HERE), "worktree", "remove", "--force", str(other)], check=True)
    pairs = [pair["measured"] for pair in journal.pairs("against")]
    rows: dict[str, Any] = {
        name: {
            "ratio": spread(pair["ours"][name] / pair["other"][name] for pair in pairs),
            "ours": spread(pair["ours"][name] for pair in pairs),
            "other": spread(pair["other"][name] for pair in pairs),
        }
        for name in pairs[0]["ours"]
    }
    document = {"benchmark": "against", "other commit": a.commit, **journal.header, "rows": rows}
    document["pairs that wrote the same text"] = f"{sum(pair['same text'] for pair in pairs)} of {len(pairs)}"
    write_results(a.results / f"against-{a.commit}.json", document)
    print(json.dumps({name: round(row["ratio"]["median"], 3) for name, row in rows.items()}))
    if lost := worse(rows, a.most):
        sys.exit(f"worse than {a.commit}: {', '.join(lost)}")


if __name__ == "__main__":
    main()
