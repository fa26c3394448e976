"""The benchmark scripts: that they run, keep what they measured, and divide the right figures. At tiny sizes."""

from __future__ import annotations

import json
import subprocess
import sys
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import forked
import pytest
import torch
import transformers
from conftest import TEXT
from forked import PYTHON

import templora
from templora.models.builtin import DEFAULT_MODEL
from templora.testing import byte_tokenizer, tiny_model

BENCHMARKS = Path(__file__).parent.parent.parent / "benchmarks"

# Stands in for the plain side: says how long it took, with as many tokens and chunks as it was told.
PLAIN = """
import argparse, json
p = argparse.ArgumentParser(); p.add_argument("mode")
for name in ("model", "text", "prompt", "tokens", "chunk", "context", "train-context", "rank"):
    p.add_argument("--" + name)
a = p.parse_args()
assert a.context == a.train_context == "64"
seconds = {"decode": 20.0, "score": 0.0, "train": 8.0} if a.mode == "generate" else {"score": 6.0, "train": 12.0}
print("progress")
print(json.dumps({"seconds": seconds | {"total": sum(seconds.values())}, "peak_rss_mib": 512}))
"""
SIZES = ["--window", "96", "--chunk", "32"]


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Makes the scripts' own modules importable, as they are to the scripts."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield
    for name in ("journal", "flatness", "table", "gpu", "against", "random_gguf", "regression"):
        sys.modules.pop(name, None)


def run(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """A script, and whatever it starts, in processes that import nothing; `sys.executable` is how it starts them."""
    code = f"import runpy, sys; sys.executable = {forked.executable()!r}; "
    code += (
        f"sys.path.insert(0, {str(BENCHMARKS)!r}); runpy.run_path({str(BENCHMARKS / script)!r}, run_name='__main__')"
    )
    command = [*PYTHON, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.mark.usefixtures("scripts")
def test_a_sitting_cut_short_goes_on(tmp_path: Path) -> None:
    """Pairs that were finished are not measured again, a line cut in half is; other settings begin anew."""
    from journal import Journal

    path = tmp_path / "pairs.jsonl"
    cpu, asked = torch.device("cpu"), []

    def measure(run: int) -> dict[str, Any]:
        asked.append(run)
        if len(asked) == 3:
            raise KeyboardInterrupt
        return {"ours": float(run + 1), "theirs": 4.0}

    with pytest.raises(KeyboardInterrupt):
        Journal(path, {"tokens": 5}, cpu).fill("learn", 4, measure)
    path.write_text(path.read_text() + '{"row": "learn", "run": 2, "mea')
    journal = Journal(path, {"tokens": 5}, cpu)
    journal.fill("learn", 4, measure)
    assert asked == [0, 1, 2, 2, 3]
    assert journal.ratio("learn", "ours", "theirs") == {
        "ratio": {"median": 0.625, "lowest": 0.25, "highest": 1.0, "runs": 4},
        "ours": 2.5,
        "theirs": 4.0,
    }
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["run"] for line in lines] == [0, 1, 2, 3]
    assert {"date", "load_average", "commit", "header"} <= lines[0].keys()
    assert {"code", "device", "versions", "settings"} == lines[0]["header"].keys()
    assert Journal(path, {"tokens": 6}, cpu).pairs("learn") == []


def test_the_table(tmp_path: Path) -> None:
    """Each row from what both sides said: their phases divided by chunks, and paired."""
    folder = tmp_path / "model"
    tiny_model().save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    plain, text = tmp_path / "plain.py", tmp_path / "book.txt"
    plain.write_text(PLAIN)
    text.write_text(TEXT * 12)
    arguments = ["--model", folder, "--plain", plain, "--text", text, "--runs", 2, *SIZES, "--results", tmp_path]
    arguments += ["--rank", 4, "--score-tokens", 128, "--write-tokens", 64, "--short", 128, "--long", 512]
    ran = run("table.py", *arguments, "--rows", "score,write,flat")
    assert ran.returncode == 0, ran.stderr
    document = json.loads((tmp_path / "table.json").read_text())
    rows = document["rows"]
    assert json.loads(ran.stdout.splitlines()[-1]) == rows
    assert rows["score a chunk, base and adapted, seconds"]["theirs"] == 6.0 / 4
    assert rows["learn a chunk, 2 epochs, seconds"]["theirs"] == 12.0 / 4
    assert rows["write, seconds"]["theirs"] == 28.0
    assert rows["decode while writing, tokens a second"]["theirs"] == 64 / 20.0
    assert rows["learn a chunk while writing, 2 epochs, seconds"]["theirs"] == 8.0 / 2
    assert rows["peak memory, writing, bytes"]["theirs"] == 2**29
    assert rows["write, seconds"]["ours"] > rows["learn a chunk while writing, 2 epochs, seconds"]["ours"] * 2
    for row in list(rows.values())[:-1]:
        assert row["ratio"]["runs"] == 2
        assert row["ratio"]["lowest"] <= row["ratio"]["median"] <= row["ratio"]["highest"]
        assert row["ours"] > 0
    flat = rows["a chunk of a long text against a short one"]
    assert flat["ratio"]["runs"] == 2
    assert flat["memory_ratio"] > 0.5
    assert flat["peak_memory_ratio"] >= 1
    again = run("table.py", *arguments, "--rows", "score,write,flat")
    assert again.returncode == 0
    assert "run 1 of" not in again.stderr  # nothing was measured twice
    assert json.loads((tmp_path / "table.json").read_text()) == document


@pytest.mark.real
@pytest.mark.usefixtures("scripts")
def test_the_plain_side_gets_the_weights_of_the_embedded_model(tmp_path: Path) -> None:
    """Which are blocks of 4 bits here, and nothing that transformers could read."""
    from table import Table

    table = Table(Namespace(model=DEFAULT_MODEL, results=tmp_path, text=None), tmp_path / "text.txt")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(table.plain_model).get_input_embeddings().weight
    ours = templora.load(DEFAULT_MODEL, weights="unpacked").model.module.get_input_embeddings().weight
    assert torch.equal(theirs, ours)


def test_parts_add_up_to_their_phase(tmp_path: Path) -> None:
    folder, text = tmp_path / "model", tmp_path / "book.txt"
    tiny_model(dtype=torch.bfloat16).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    text.write_text(TEXT * 12)
    arguments = ["--model", folder, "--text", text, *SIZES, "--rank", 4, "--chunks", 2, "--square", 64]
    ran = run("parts.py", *arguments, "--buffer-bytes", 2**16, "--results", tmp_path)
    assert ran.returncode == 0, ran.stderr
    document = json.loads((tmp_path / "parts.json").read_text())
    rows = document["a chunk, seconds"]
    for row in rows.values():
        assert sum(row["parts"].values()) == pytest.approx(row["seconds"])
        assert min(row["parts"].values()) > 0
        assert row["least"] > 0
    products = {"frozen products", "attention", "adapter products", "norms and gates", "head and cross-entropy"}
    assert set(rows["learn"]["parts"]) == products | {"optimiser", "other"}
    assert set(rows["cache"]["parts"]) == products - {"head and cross-entropy", "adapter products"} | {"other"}
    assert {"adapter products", "head and cross-entropy"} <= set(rows["score"]["parts"])
    memory = document["memory, bytes"]
    assert memory["imports"] < memory["loaded"] <= memory["peak"]


@pytest.mark.usefixtures("scripts")
def test_what_has_become_worse_is_named() -> None:
    from against import worse

    rows = {"decode": {"ratio": {"median": 1.2}}, "score": {"ratio": {"median": 1.05}}}
    assert worse(rows, 1.1) == ["decode"]
    assert worse(rows, 1.2) == []


@pytest.mark.usefixtures("scripts")
def test_a_random_file_is_a_model_in_the_formats_of_real_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights lie around 0, so that logits are finite and not all alike; value and down projections are the better kind
    in some layers."""
    from random_gguf import kind_of, more_bits, write

    monkeypatch.setenv("TEMPLORA_CACHE", str(tmp_path / "cache"))
    write(tmp_path / "m.gguf", "tiny")
    engine = templora.load(tmp_path / "m.gguf", weights="unpacked")
    weights = [p.float() for p in engine.model.module.parameters() if p.dim() > 1]
    assert all(abs(w.mean()) < 0.002 and 0.01 < w.std() < 0.04 for w in weights)
    logits = engine.model.logits(engine.model.hidden([1, 2, 3], None))
    assert logits.isfinite().all()
    assert logits.std() > 0.01
    assert [kind_of(name, 896, True).name for name in ("attn_q", "attn_v", "token_embd")] == ["Q5_0", "Q8_0", "Q8_0"]
    assert [kind_of(name, 4864, True).name for name in ("ffn_up", "ffn_down")] == ["Q4_K", "Q6_K"]
    assert sum(more_bits(layer, 24) for layer in range(24)) == 12


@pytest.mark.parametrize(
    ("arguments", "named"),
    [(["--rows", "sing"], "'sing'"), (["--rows", "write"], "--plain"), (["--rows", "flat"], "--text")],
)
def test_what_is_missing_is_named(arguments: list[str], named: str) -> None:
    ran = run("table.py", *arguments)
    assert ran.returncode == 2
    assert named in ran.stderr.splitlines()[-1]


def test_the_gpu_benchmark_runs_on_the_cpu(tmp_path: Path) -> None:
    arguments = ["--device", "cpu", "--shape", "tiny", *SIZES, "--rank", 4, "--runs", 1, "--chunks", 1]
    arguments += ["--short", 128, "--long", 256, "--square", 64, "--buffer-bytes", 2**16, "--results", tmp_path]
    arguments += ["--sessions", "1,2", "--session-window", 128]
    ran = run("gpu.py", *arguments)
    assert ran.returncode == 0, ran.stderr
    rows = json.loads((tmp_path / "gpu.json").read_text())["rows"]["tiny"]
    assert json.loads(ran.stdout.splitlines()[-1]) == {"tiny": rows}
    decode = rows["decode, with adapter"]
    assert decode["ratio"] == pytest.approx(decode["median"] / decode["ceiling"])
    assert {"learn a chunk, 2 epochs", "memory bandwidth", "peak memory"} <= rows.keys()
    assert {"overhead of learning, cascaded", "a chunk of a long text against a short one"} <= rows.keys()
    assert {"1 session: together", "2 sessions, one more learns: together"} <= rows.keys()
    seconds = [json.loads(x)["measured"] for x in (tmp_path / "gpu.jsonl").read_text().splitlines()][1]
    assert rows["overhead of learning, cascaded"]["median"] == seconds["cascaded"] / seconds["off"] - 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_no_gpu_is_one_line() -> None:
    command = [sys.executable, str(BENCHMARKS / "gpu.py")]  # as it is called
    ran = subprocess.run(command, capture_output=True, text=True)
    assert (ran.returncode, len(ran.stderr.splitlines())) == (2, 1)
    assert "cuda" in ran.stderr


@pytest.mark.usefixtures("scripts")
def test_what_is_worse_than_it_was() -> None:
    """Less is better of seconds and bytes, more of rates; on another device only ratios to another side count."""
    from regression import worse

    def found(seconds: float, rate: float, ratio: float, device: str = "a") -> dict[str, Any]:
        rows = {
            "learn, seconds": {"ratio": {"median": ratio}, "ours": seconds, "theirs": 9.0},
            "decode, tokens a second": {"median": rate, "lowest": 1.0},
        }
        return {"device": device, "rows": rows, "settings": {"window": 1024}}

    was = found(2.0, 100.0, 0.3)
    assert list(worse(found(2.1, 95.0, 0.31), was, 0.1)) == []
    assert list(worse(found(1.0, 300.0, 0.1), was, 0.1)) == []
    names = [name.split(" / ", 1)[1] for name, *_ in worse(found(2.5, 80.0, 0.4), was, 0.1)]
    assert names == ["learn, seconds / ratio", "learn, seconds / ours", "decode, tokens a second"]
    (lost,) = worse(found(2.5, 80.0, 0.4, device="b"), was, 0.1)
    assert lost[1:3] == (0.3, 0.4)
