#!/usr/bin/env python3
"""templora beside the plain transformers + PEFT way, in turn, in one sitting: medians of paired ratios.

    benchmarks/versus_plain.py --plain PLAIN.py --text BOOK.txt [--runs 3]

PLAIN.py is a script with the interface of the plain baseline: `score --model --text --tokens ...` and
`generate --model --prompt --tokens ...`, its last line of output being JSON with `seconds` by phase. Both sides run the
same model directory, window 1,024, chunk 512, training context 512. Rows:

    same recipe      the paper's recipe on both sides: the same steps on the same tokens
    default recipe   templora's own default against the paper's on the plain side: what users get

Loading is left out on both sides. The machine must be quiet. The last line printed is one JSON document, which is also
written to results/benchmarks/.
"""

from __future__ import annotations

import argparse
import json
import lzma
import statistics
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path

import templora

SIZES = ["--window", "1024", "--chunk-size", "512", "--train-context", "512"]
PROMPT = "The old lighthouse keeper climbed the stairs and"


def ours(mode: str, model: str, text: Path, tokens: int, recipe: str) -> dict:
    with tempfile.NamedTemporaryFile(suffix=".json") as out:
        command = [sys.executable, "-m", "templora", mode, "--model", model, "--recipe", recipe, *SIZES]
        command += ["--tokens", str(tokens), "--quiet", "--json"]
        if mode == "score":
            command.insert(4, str(text))
        else:
            # --temperature 0: the plain side decodes greedily. A report on standard output is score's alone.
            command = [c for c in command if c != "--json"]
            command += [
                "--prompt",
                PROMPT,
                "--temperature",
                "0",
                "--repetition-penalty",
                "1",
                "--max-repetition",
                "1",
                "--report",
                out.name,
            ]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        report = json.loads(done.stdout if mode == "score" else Path(out.name).read_text())
    phases = {p: report["seconds"][p] for p in ("decode", "score", "learn", "cache")}
    if mode == "write":
        phases["score"] = 0.0  # likelihoods for the report; the plain side computes none
    return {"phases": phases, "total": sum(phases.values()), "device": report["device"], "versions": report["versions"]}


def plain(script: Path, mode: str, model: str, text: Path, tokens: int) -> dict:
    command = [sys.executable, str(script), "generate" if mode == "write" else "score", "--model", model]
    command += ["--tokens", str(tokens), "--chunk", "512", "--context", "512", "--train-context", "512"]
    command += ["--prompt", PROMPT] if mode == "write" else ["--text", str(text)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    phases = json.loads(done.stdout.splitlines()[-1])["seconds"]
    total = phases.pop("total")
    return {"phases": phases, "total": total}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plain", type=Path, required=True)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--score-tokens", type=int, default=4096)
    parser.add_argument("--write-tokens", type=int, default=2048)
    a = parser.parse_args()
    rows, pairs = {}, []
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as text, tempfile.TemporaryDirectory() as model:
        engine = templora.load()  # both sides read the same directory
        engine.model.module.save_pretrained(model)
        engine.tokenizer.save_pretrained(model)
        del engine
        raw = a.text.read_bytes()
        text.write((lzma.decompress(raw) if a.text.suffix == ".xz" else raw).decode())
        text.flush()
        for mode, tokens in (("score", a.score_tokens), ("write", a.write_tokens)):
            for run in range(a.runs):
                p = plain(a.plain, mode, model, Path(text.name), tokens)
                for recipe in ("paper", "default"):
                    o = ours(mode, model, Path(text.name), tokens, recipe)
                    pairs.append({"mode": mode, "recipe": recipe, "run": run, "ours": o, "plain": p})
                    print(f"{mode} {recipe} run {run}: {o['total']:.1f} s, plain {p['total']:.1f} s", file=sys.stderr)
    for mode in ("score", "write"):
        for recipe in ("paper", "default"):
            chosen = [x for x in pairs if (x["mode"], x["recipe"]) == (mode, recipe)]
            ratio = statistics.median(x["ours"]["total"] / x["plain"]["total"] for x in chosen)
            rows[f"{mode}, {'same recipe' if recipe == 'paper' else 'default recipe'}"] = {
                "ratio_of_time": ratio,
                "ours_seconds": statistics.median(x["ours"]["total"] for x in chosen),
                "plain_seconds": statistics.median(x["plain"]["total"] for x in chosen),
            }
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    document = {
        "benchmark": "versus_plain",
        "date": date.today().isoformat(),
        "commit": commit,
        "device": pairs[0]["ours"]["device"],
        "versions": pairs[0]["ours"]["versions"],
        "tokens": {"score": a.score_tokens, "write": a.write_tokens},
        "rows": rows,
        "pairs": pairs,
    }
    folder = Path(__file__).parent.parent / "results" / "benchmarks"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "versus-plain.json").write_text(json.dumps(document, indent=1) + "\n")
    print(json.dumps({"rows": rows}))


if __name__ == "__main__":
    main()
