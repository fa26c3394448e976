#!/usr/bin/env python3
"""How the default recipe was chosen: one setting changed at a time, on the books kept for tuning.

    experiments/recipe_sweep.py --books FOLDER [--tokens 12000]

Each cell is one `templora score` on one book (window 1,024, chunk 512) and one file in results/recipe/. Cells that are
there already are not run again, so a sweep that was stopped goes on where it was. Prints a table in Markdown.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
from pathlib import Path

BOOKS = ("1684", "349", "718", "9096")  # The Egoist, The Harvester, Tono-Bungay, Weighed and Wanting
SETTINGS: dict[str, list[str]] = {
    "rate-5e-4": ["--learning-rate", "5e-4"],
    "rate-7e-4": ["--learning-rate", "7e-4"],
    "rate-1e-3": ["--learning-rate", "1e-3"],
    "rate-1.4e-3": ["--learning-rate", "1.4e-3"],
    "paper": ["--recipe", "paper"],
    "rate-5e-4-epochs-2": ["--learning-rate", "5e-4", "--epochs", "2"],
    "dropout-0.05": ["--dropout", "0.05"],
    "context-gradients": ["--context-gradients"],
    "cache-reuse-1": ["--cache-reuse", "1"],
    "cache-reuse-7": ["--cache-reuse", "7"],
    "rank-16": ["--rank", "16", "--alpha", "16"],
    "layers-upper": ["--layers", "upper"],
}
RESULTS = Path(__file__).parent.parent / "results" / "recipe"


def run(setting: str, book: Path, tokens: int) -> dict:
    out = RESULTS / f"{setting}--{book.name.split('.')[0]}.json"
    if not out.exists():
        command = [sys.executable, "-m", "templora", "score", str(book), "--tokens", str(tokens), "--quiet"]
        part = out.with_suffix(".part")  # a run that is stopped writes a report too, of what it got to
        command += ["--window", "1024", "--chunk-size", "512", "--report", str(part), *SETTINGS[setting]]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        part.write_text(json.dumps(json.loads(part.read_text()) | {"file": book.name}) + "\n")
        part.rename(out)
    return json.loads(out.read_text())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--books", type=Path, required=True, help="folder with the books as NUMBER.txt.xz")
    parser.add_argument("--tokens", type=int, default=12000)
    parser.add_argument("--settings", nargs="*", default=list(SETTINGS), choices=SETTINGS)
    parser.add_argument("--ids", nargs="*", default=list(BOOKS), help="which books")
    arguments = parser.parse_args()
    RESULTS.mkdir(parents=True, exist_ok=True)
    print(f"| setting | {' | '.join(arguments.ids)} | all | learning TFLOP a book |")
    print(f"|---|{'---:|' * (len(arguments.ids) + 2)}")
    for setting in arguments.settings:
        cells, nll, tokens, flops = [], 0.0, 0, 0.0
        for book in arguments.ids:
            r = run(setting, arguments.books / f"{book}.txt.xz", arguments.tokens)
            targets = sum(c["targets"] for c in r["chunks"])
            gain = r["adapted"]["nll"] - r["base"]["nll"]
            cells.append(f"{100 * (math.exp(gain / targets) - 1):+.2f} %")
            nll, tokens, flops = nll + gain, tokens + targets, flops + r["flops"]["learn"]
        total = f"{100 * (math.exp(nll / tokens) - 1):+.2f} %"
        print(f"| {setting} | {' | '.join(cells)} | {total} | {flops / 1e12 / len(arguments.ids):.1f} |", flush=True)


if __name__ == "__main__":
    main()
