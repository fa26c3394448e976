"""`templora bench`, end to end."""

from __future__ import annotations

import importlib.util
import json
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import forked
import pytest
from ggufs import has_llama_cpp
from test_cli import Cli, cli, fails, model, no_load  # noqa: F401

from templora.bench import bench, ceilings
from templora.bench.bench import Bench, Figure
from templora.bench.ceilings import Ceilings
from templora.cli.exits import Interrupted

TINY = ["--shape", "tiny", "--device", "cpu", "--quick", "--window", "96", "--chunk-size", "32", "--rank", "4"]


@pytest.fixture
def ceilings_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measuring them has tests of its own."""
    monkeypatch.setattr(ceilings, "measure_apart", lambda *_, **__: Ceilings(1e9, 2e12, 1e12))


def test_a_table_then_json_on_the_last_line(cli: Cli) -> None:  # noqa: F811
    ran = cli("bench", *TINY, "--json")
    assert ran.code == 0
    *table, last = ran.out.splitlines()
    document = json.loads(last)
    assert document["complete"]
    assert document["model"] == "tiny (random weights)"
    assert document["config"]["chunk_size"] == 32
    assert {"date", "device", "versions", "load_average", "dtype"} <= document.keys()
    figures = document["figures"]
    assert len(table) == 1 + len(figures)
    for line, (name, figure) in zip(table[1:], figures.items(), strict=True):
        assert line.startswith(name)
        assert figure["lowest"] <= figure["median"] <= figure["highest"]
        if figure["ceiling"]:
            share = figure["ceiling"] / figure["median"]
            assert figure["ratio"] == pytest.approx(share if figure["unit"] == "s" else 1 / share)
    assert "memory bandwidth" in figures
    assert ran.err.count("measured: ") == len(figures)


@pytest.mark.usefixtures("ceilings_known")
def test_a_model_from_a_folder_is_loaded_once_more_for_its_load_time(
    cli: Cli,  # noqa: F811
    model: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "executable", forked.executable())
    ran = cli("bench", "--model", model, *TINY[2:], "--quiet", "--json")
    assert (ran.code, ran.err) == (0, "")
    figures = json.loads(ran.out.splitlines()[-1])["figures"]
    assert list(figures)[-1] == "load, imports included"


@pytest.mark.usefixtures("ceilings_known")
def test_interrupted_it_prints_what_it_has(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    def figures(self: Bench, gguf: Any = None) -> Iterator[Figure]:
        yield Figure("learn a chunk, 1 epoch", "s", (1.0,), 0.5)
        signal.raise_signal(signal.SIGINT)
        pytest.fail("went on")

    monkeypatch.setattr(Bench, "figures", figures)
    ran = cli("bench", *TINY, "--json")
    assert ran.code == 130
    document = json.loads(ran.out.splitlines()[-1])
    assert not document["complete"]
    assert list(document["figures"])[-1] == "learn a chunk, 1 epoch"
    assert "before anything" not in ran.err


def test_interrupted_while_loading_it_prints_nothing(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    def load(*_: object) -> None:
        raise Interrupted(signal.SIGINT)

    monkeypatch.setattr("templora.bench.random_models.random_engine", load)
    ran = cli("bench", *TINY)
    assert (ran.code, ran.out) == (130, "")


@pytest.mark.usefixtures("no_load")
@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--compare", "lama.cpp"], "llama.cpp"),
        (["--compare", "llama.cpp", "--shape", "tiny"], "--compare"),
        (["--shape", "llama-7b"], "llama-2-7b"),
        (["--runs", "0"], "--runs"),
        (["--window", "2"], "--window"),
        (["--chunk-size", "2000"], "--chunk-size"),
    ],
)
def test_what_cannot_be_measured_is_one_line(cli: Cli, arguments: list[str], named: str) -> None:  # noqa: F811
    fails(cli("bench", "--quiet", *arguments), named)


@pytest.mark.usefixtures("no_load")
def test_a_rival_that_is_not_installed(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    fails(cli("bench", "--compare", "llama.cpp"), "--compare", "pip install xllamacpp")


@pytest.mark.usefixtures("no_load")
@has_llama_cpp
def test_a_rival_needs_a_file_it_can_read(cli: Cli, model: Path) -> None:  # noqa: F811
    fails(cli("bench", "--compare", "llama.cpp", "--model", model), "--compare", "GGUF")


@pytest.mark.real
@pytest.mark.usefixtures("ceilings_known")
@has_llama_cpp
def test_beside_llama_cpp(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    """In turn, on the embedded model; small, for nothing is asked of how fast it is. Loading has a test of its own."""
    monkeypatch.setattr(bench, "load_figure", lambda *_: Figure("load, imports included", "s", (1.0,)))
    sizes = ["--window", 32, "--chunk-size", 8, "--rank", 4]
    ran = cli("bench", "--compare", "llama.cpp", "--quick", "--runs", 1, *sizes, "--json")
    assert ran.code == 0, ran
    figures = json.loads(ran.out.splitlines()[-1])["figures"]
    ours, theirs = figures["decode, with adapter"], figures["decode, with adapter: llama.cpp"]
    paired = figures["ours with adapter / llama.cpp with adapter"]
    assert paired["runs"] == pytest.approx([a / b for a, b in zip(ours["runs"], theirs["runs"], strict=True)])
    assert figures["decode, without: llama.cpp"]["ceiling"] is None
