#!/usr/bin/env python3
"""Does learning one's own text make it repeat itself? The same seeds and sampling, with and without learning.

    experiments/repetition.py [--tokens 4000] [--seeds 1 2 3]

One file a run in results/repetition/ (runs that are there are kept), then a table in Markdown. The greedy rows show
what the brake is for: always taking the likeliest token loops by itself, and learning a loop would lock it in.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

PROMPT = "The old lighthouse keeper climbed the stairs one last time, and told the boy how it had all begun."
RESULTS = Path(__file__).parent.parent / "results" / "repetition"
SETTINGS: dict[str, list[str]] = {
    "without learning": ["--learning", "off"],
    "default recipe": ["--learn-written"],
    "default recipe, no brake": ["--learn-written", "--max-repetition", "1"],
    "greedy, without learning": ["--learning", "off", "--temperature", "0", "--repetition-penalty", "1"],
    "greedy, default recipe": ["--learn-written", "--temperature", "0", "--repetition-penalty", "1"],
    "greedy, no brake": [
        *("--learn-written", "--temperature", "0", "--repetition-penalty", "1", "--max-repetition", "1")
    ],
}
FIGURES = ("distinct_1", "distinct_2", "distinct_4", "repeated_4grams", "compression_ratio")


def run(setting: str, seed: int, tokens: int) -> dict:
    out = RESULTS / f"{setting.replace(', ', '--').replace(' ', '-')}--seed-{seed}.json"
    if not out.exists():
        command = [sys.executable, "-m", "templora", "write", "--prompt", PROMPT, "--tokens", str(tokens), "--quiet"]
        command += ["--min-p", "0.1"]  # the default when these were measured
        part = out.with_suffix(".part")  # a run that is stopped writes a report too, of what it got to
        command += ["--seed", str(seed), "--report", str(part), *SETTINGS[setting]]
        text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        part.write_text(json.dumps(json.loads(part.read_text()) | {"text": text}) + "\n")
        part.rename(out)
    return json.loads(out.read_text())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=4000)
    parser.add_argument("--seeds", type=int, nargs="*", default=[1, 2, 3])
    parser.add_argument("--settings", nargs="*", default=list(SETTINGS), choices=SETTINGS)
    a = parser.parse_args()
    RESULTS.mkdir(parents=True, exist_ok=True)
    print(f"| | {' | '.join(FIGURES)} | learnt | not learnt |")
    print(f"|---|{'---:|' * (len(FIGURES) + 2)}")
    for setting in a.settings:
        seeds = a.seeds[:1] if setting.startswith("greedy") else a.seeds  # greedy writing has no seed to vary
        runs = [run(setting, seed, a.tokens) for seed in seeds]
        cells = [f"{statistics.mean(r['repetition'][f] for r in runs):.3f}" for f in FIGURES]
        cells += [f"{statistics.mean(r[k] for r in runs):.1f}" for k in ("committed", "rejected")]
        print(f"| {setting} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
