#!/usr/bin/env python3
"""The README's table: each row as medians of paired runs, ours and the other side in turn, in one sitting.

    benchmarks/table.py --plain PLAIN.py --text BOOK.txt [--rows decode,score,write,load,flat] [--runs 5]

PLAIN.py is Temp-LoRA on transformers + PEFT with the interface `score --model --text --tokens ...` and
`generate --model --prompt --tokens ...`; its last line of output is JSON with `seconds` by phase. Both sides run the
same weights, window 1,024, chunk 512, training context 512, rank 64 on every layer, two optimiser steps a chunk.

    decode   tokens a second at a nearly full window, with an adapter and without, beside llama.cpp on the same file
    score    BOOK, chunk by chunk: seconds a chunk to score (base and adapted) and to learn, beside PLAIN
    write    --write-tokens tokens, everything but loading: seconds in all, to decode, to learn; memory; beside PLAIN
    load     the embedded model for the first time, unpacking and compiling included, and once that is done
    flat     a chunk at --long tokens beside one at --short, and memory likewise

Every finished pair is appended to results/benchmarks/table.jsonl and not measured again; table.json holds the medians.
Keep the machine quiet.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from flatness import flatness
from journal import RESULTS, Journal, book, spread, write_results

import templora
from templora.bench.bench import Bench
from templora.bench.ceilings import Ceilings
from templora.models.builtin import BUILTIN_MODELS, DEFAULT_MODEL
from templora.text import encode

ROWS = ("decode", "score", "write", "load", "flat")
PROMPT = "The old lighthouse keeper climbed the stairs and"
CPU = torch.device("cpu")
# Writes as the plain side does: greedily, learning whatever it wrote, and nothing is scored. (A chunk that is scored is
# read once for that and for learning; here all of the reading is learning's.) Every chunk must have been trained on:
# what is written so goes in circles, and learning would be spared, or pause.
_WRITE = """
import json, sys, time
import templora
from templora.runtime.rss import peak_rss_bytes
a = json.loads(sys.argv[1])
engine = templora.load(a["model"], device="cpu", **a["loading"])
sampling = templora.SamplingParams(temperature=0, repetition_penalty=1.0)
guards = {"max_repetition": 1.0, "min_entropy": 0.0, "patience": 0}
config = engine.config(**a["config"], **guards, learn_written=True)
with engine.session(config) as session:
    began = time.perf_counter()
    events = list(session.stream(a["prompt"], max_new_tokens=a["tokens"], sampling=sampling))
    total = time.perf_counter() - began
learnt = sum(isinstance(e, templora.ChunkLearned) and e.loss is not None for e in events)
if learnt < a["tokens"] // config.chunk_size:
    sys.exit(f"only {learnt} chunks were learnt")
print(json.dumps(session.meter.seconds | {"total": total, "peak_memory_bytes": peak_rss_bytes()}))
"""
# Not measured here: nothing in the table is held against them.
_NO_CEILINGS = Ceilings(1.0, 1.0, 1.0)


class Table:
    """Measures pairs into a journal.

    Args:
        a: the command line.
        text: BOOK as a plain text file, in a folder that goes when the sitting ends.
    """

    def __init__(self, a: argparse.Namespace, text: Path) -> None:
        self._a = a
        self._text = text
        # What may differ from call to call is left out.
        settings = {k: v for k, v in vars(a).items() if k not in ("rows", "runs", "results", "plain", "text")}
        settings["text"] = a.text.name if a.text else None
        self.journal = Journal(a.results / "table.jsonl", settings, CPU)

    def measure(self, row: str) -> None:
        runs = 1 if row == "flat" else self._a.runs  # its pairs are chunks of the same two sessions
        measure = getattr(self, f"_{row}")
        self.journal.fill(row, runs, measure)

    # ours ------------------------------------------------------------------------------------------------------

    def _sizes(self) -> list[str]:
        a = self._a
        sizes = {"window": a.window, "chunk-size": a.chunk, "train-context": a.window - a.chunk, "rank": a.rank}
        return [f"--{name}={size}" for name, size in sizes.items()]

    def _ours(self, mode: str, tokens: int, *options: str) -> dict[str, float]:
        with tempfile.NamedTemporaryFile(suffix=".json") as report:
            command = [sys.executable, "-m", "templora", mode, "--model", self._a.model, *self._sizes(), *options]
            command += ["--weights", self._a.weights] if self._a.weights else []
            command += ["--tokens", str(tokens), "--quiet", "--report", report.name, "--device", "cpu"]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            said = json.loads(Path(report.name).read_text())
        phases: dict[str, float] = said["seconds"]
        return phases | {"peak_memory_bytes": said["peak_memory_bytes"]}

    def _ours_writing(self, tokens: int, **options: Any) -> dict[str, float]:
        a = self._a
        config = {"window": a.window, "chunk_size": a.chunk, "train_context": a.window - a.chunk, "rank": a.rank}
        given = {"model": a.model, "prompt": PROMPT, "tokens": tokens, "config": config | options}
        given["loading"] = {"weights": a.weights} if a.weights else {}
        command = [sys.executable, "-c", _WRITE, json.dumps(given)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
        return found

    @cached_property
    def _engine(self) -> Any:
        weights = {"weights": self._a.weights} if self._a.weights else {}
        return templora.load(self._a.model, device="cpu", **weights)

    # the plain side --------------------------------------------------------------------------------------------

    @cached_property
    def plain_model(self) -> Path:
        """The same weights in a directory, in bf16: what the plain side can read fast."""
        folder = self._text.with_suffix(".model")
        engine = templora.load(self._a.model, device="cpu", weights="unpacked")
        engine.model.module.save_pretrained(folder)
        engine.tokenizer.save_pretrained(folder)
        return folder

    def _plain(self, mode: str, tokens: int, *options: str) -> dict[str, float]:
        a = self._a
        command = [sys.executable, str(a.plain), mode, "--model", str(self.plain_model), "--tokens", str(tokens)]
        context = str(a.window - a.chunk)
        command += ["--chunk", str(a.chunk), "--context", context, "--train-context", context]
        command += ["--rank", str(a.rank), *options]
        # Through a shell that stays: Linux lets a program's peak memory start from that of the process that started it.
        shell = ["sh", "-c", '"$@"; exit $?', "sh", *command]
        done = subprocess.run(shell, check=True, capture_output=True, text=True)
        said = json.loads(done.stdout.splitlines()[-1])
        seconds: dict[str, float] = said["seconds"]
        return seconds | {"peak_memory_bytes": said["peak_rss_mib"] * 2**20}

    # rows ------------------------------------------------------------------------------------------------------

    def _score(self, run: int) -> dict[str, float]:
        """Pooled over the text's chunks, the first of which has no context on either side."""
        a = self._a
        chunks = -(-a.score_tokens // a.chunk)
        both = {
            "plain": lambda: self._plain("score", a.score_tokens, "--text", str(self._text)),
            "ours": lambda: self._ours("score", a.score_tokens, str(self._text), "--epochs", "2"),
        }
        p, o = in_turn(both, run)
        return {
            "ours_score": (o["score"] + o["cache"]) / chunks,
            "plain_score": p["score"] / chunks,
            "ours_learn": o["learn"] / chunks,
            "plain_learn": p["train"] / chunks,
        }

    def _write(self, run: int) -> dict[str, float]:
        """Ours three times: with the plain side's two steps a chunk; with our defaults; with these, sparing memory."""
        tokens = self._a.write_tokens
        chunks = tokens // self._a.chunk
        both = {
            "plain": lambda: self._plain("generate", tokens, "--prompt", PROMPT),
            "ours": lambda: self._ours_writing(tokens, epochs=2),
            "default": lambda: self._ours_writing(tokens),
            "sparing": lambda: self._ours_writing(tokens, checkpointing=True),
        }
        p, o, d, s = in_turn(both, run)
        return {
            "ours_seconds": o["total"],
            "default_seconds": d["total"],
            "plain_seconds": p["total"],
            "ours_decode_rate": tokens / (o["decode"] + o["cache"]),
            "plain_decode_rate": tokens / p["decode"],
            "ours_learn": o["learn"] / chunks,
            "plain_learn": p["train"] / chunks,
            "ours_peak_bytes": o["peak_memory_bytes"],
            "plain_peak_bytes": p["peak_memory_bytes"],
            "default_peak_bytes": d["peak_memory_bytes"],
            "sparing_peak_bytes": s["peak_memory_bytes"],
            "sparing_seconds": s["total"],
        }

    def _decode(self, run: int) -> dict[str, float]:
        engine = self._engine
        config = engine.config(window=self._a.window, chunk_size=self._a.chunk, rank=self._a.rank)
        gguf = BUILTIN_MODELS[self._a.model].path() if self._a.model in BUILTIN_MODELS else Path(self._a.model)
        bench = Bench(engine, config, _NO_CEILINGS, runs=1, decode_tokens=self._a.decode_tokens, seed=run)
        return {f.name: f.median for f in bench.decoding(gguf)}

    def _load(self, _: int) -> dict[str, float]:
        code = (
            "import json, time; began = time.perf_counter(); import torch, transformers.models.llama.modeling_llama\n"
        )
        code += (
            "imported = time.perf_counter(); import templora; templora.load(device='cpu'); now = time.perf_counter()\n"
        )
        code += "print(json.dumps([now - began, now - imported]))"
        found = {}
        with tempfile.TemporaryDirectory() as folder:
            for name in ("first", "then"):
                done = subprocess.run(
                    [sys.executable, "-c", code],
                    check=True,
                    capture_output=True,
                    text=True,
                    env=os.environ | {"TEMPLORA_CACHE": folder, "NUMBA_CACHE_DIR": folder},
                )
                found[f"{name}_seconds"], found[f"{name}_after_imports"] = json.loads(done.stdout.splitlines()[-1])
        return found

    def _flat(self, _: int) -> dict[str, Any]:
        a, engine = self._a, self._engine
        ids = encode(engine.tokenizer, self._text.read_text(), special=False)
        config = engine.config(window=a.window, chunk_size=a.chunk, rank=a.rank)
        return flatness(engine, config, ids, a.short, a.long, a.runs)

    # medians ---------------------------------------------------------------------------------------------------

    def rows(self) -> dict[str, Any]:
        """The table's rows, those that have been measured."""
        j, found = self.journal, {}
        if j.pairs("decode"):
            names = j.pairs("decode")[0]["measured"]
            found["decode, tokens a second; ratios; GB"] = {name: spread(j.values("decode", name)) for name in names}
        if j.pairs("score"):
            found["score a chunk, base and adapted, seconds"] = j.ratio("score", "ours_score", "plain_score")
            found["learn a chunk, 2 epochs, seconds"] = j.ratio("score", "ours_learn", "plain_learn")
        if j.pairs("write"):
            found["write, seconds"] = j.ratio("write", "ours_seconds", "plain_seconds")
            found["write with our defaults, seconds"] = j.ratio("write", "default_seconds", "plain_seconds")
            found["decode while writing, tokens a second"] = j.ratio("write", "ours_decode_rate", "plain_decode_rate")
            found["learn a chunk while writing, 2 epochs, seconds"] = j.ratio("write", "ours_learn", "plain_learn")
            found["peak memory, writing, bytes"] = j.ratio("write", "ours_peak_bytes", "plain_peak_bytes")
            for side in ("default", "sparing"):
                found[f"peak memory, {side}, bytes"] = j.ratio("write", f"{side}_peak_bytes", "plain_peak_bytes")
            found["time that --checkpointing takes"] = j.ratio("write", "sparing_seconds", "default_seconds")
        if j.pairs("load"):
            names = ("first_seconds", "then_seconds", "first_after_imports", "then_after_imports")
            found["load, seconds"] = {name: spread(j.values("load", name)) for name in names}
        if j.pairs("flat"):
            measured = j.pairs("flat")[0]["measured"]
            pairs = list(zip(measured["old_seconds"], measured["young_seconds"], strict=True))
            found["a chunk of a long text against a short one"] = {
                "ratio": spread(old / young for old, young in pairs),
                "long_seconds": statistics.median(old for old, _ in pairs),
                "short_seconds": statistics.median(young for _, young in pairs),
                "memory_ratio": measured["long_bytes"] / measured["short_bytes"],
                "peak_memory_ratio": measured["long_peak_bytes"] / measured["short_peak_bytes"],
            }
        return found


def in_turn(sides: dict[str, Any], run: int) -> list[dict[str, float]]:
    """Measures each side, in another order every other run; in the order given."""
    found = {name: sides[name]() for name in (list(sides) if run % 2 == 0 else list(sides)[::-1])}
    return [found[name] for name in sides]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plain", type=Path, help="for score and write")
    parser.add_argument("--text", type=Path, help="for score and flat (.txt or .xz)")
    parser.add_argument("--rows", default=",".join(ROWS), help="which, comma-separated")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--weights", help="how our side holds the frozen weights, as for the command line")
    parser.add_argument("--window", type=int, default=1024)
    parser.add_argument("--chunk", type=int, default=512)
    parser.add_argument("--rank", type=int, default=64)
    parser.add_argument("--decode-tokens", type=int, default=128)
    parser.add_argument("--score-tokens", type=int, default=2560)
    parser.add_argument("--write-tokens", type=int, default=4096)
    parser.add_argument("--short", type=int, default=5_000)
    parser.add_argument("--long", type=int, default=100_000)
    parser.add_argument("--results", type=Path, default=RESULTS)
    a = parser.parse_args()
    a.rows = a.rows.split(",")
    for row in a.rows:
        if row not in ROWS:
            parser.error(f"--rows: no row {row!r}; known: {', '.join(ROWS)}")
        if row in ("score", "write") and a.plain is None:
            parser.error(f"--plain is needed for {row}")
        if row in ("score", "flat") and a.text is None:
            parser.error(f"--text is needed for {row}")
    return a


def main() -> None:
    a = parse()
    with tempfile.TemporaryDirectory() as folder:
        text = Path(folder) / "text.txt"
        if a.text:
            text.write_text(book(a.text))
        table = Table(a, text)
        for row in a.rows:
            table.measure(row)
            document = {"benchmark": "table", **table.journal.header, "rows": table.rows()}
            write_results(a.results / "table.json", document)
    print(json.dumps(table.rows()))


if __name__ == "__main__":
    main()
