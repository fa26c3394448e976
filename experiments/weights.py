#!/usr/bin/env python3
"""What quantised weights cost in perplexity: bf16, int8 and int4 on two novels, learning off and on.

    experiments/weights.py PG19_FOLDER [--tokens 6000]

One file a run in results/weights/ (runs that are there are kept), then a table in Markdown. The embedded model; int4
are the blocks of its 4-bit file. Learning also changes which numbers are rounded where, so the last column may differ
by more than the weights alone explain.
"""

from __future__ import annotations

import argparse
import json
import lzma
import subprocess
import sys
import tempfile
from pathlib import Path

RESULTS = Path(__file__).parent.parent / "results" / "weights"
WEIGHTS = ("bf16", "int8", "int4")


def run(book: Path, weights: str, tokens: int) -> dict:
    name = book.name.split(".")[0]
    out = RESULTS / f"{weights}--{name}.json"
    if not out.exists():
        part = out.with_suffix(".part")
        with tempfile.NamedTemporaryFile("w", suffix=".txt") as text:
            text.write(lzma.decompress(book.read_bytes()).decode())
            text.flush()
            command = [sys.executable, "-m", "templora", "score", text.name, "--tokens", str(tokens), "--quiet"]
            subprocess.run([*command, "--weights", weights, "--report", str(part)], check=True)
        part.rename(out)
    return json.loads(out.read_text())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="holds 1684.txt.xz and 349.txt.xz")
    parser.add_argument("--tokens", type=int, default=6000)
    a = parser.parse_args()
    RESULTS.mkdir(parents=True, exist_ok=True)
    print("| book | weights | base perplexity | against bf16 | with learning | against bf16 | peak memory |")
    print("|---|---|---:|---:|---:|---:|---:|")
    for book in (1684, 349):
        found = {w: run(a.folder / f"{book}.txt.xz", w, a.tokens) for w in WEIGHTS}
        for weights, report in found.items():
            cells = []
            for side in ("base", "adapted"):
                value, plain = report[side]["perplexity"], found["bf16"][side]["perplexity"]
                cells += [f"{value:.3f}", f"{100 * (value / plain - 1):+.2f} %"]
            cells.append(f"{report['peak_memory_bytes'] / 1e9:.2f} GB" if "peak_memory_bytes" in report else "–")
            print(f"| {book} | {weights} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
