"""`templora eval` and `templora report`, as a user runs them."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from evaluations import WORKER, books, tiny_folder
from forked import PYTHON

from templora.cli.eval import evaluate
from templora.cli.options import as_flag
from templora.cli.report import report
from templora.errors import ModelError, OptionError, TemploraError
from templora.evals.measuring.runner import Runner
from templora.evals.reporting import results

SIZES = ["--window", "64", "--chunk-size", "32", "--rank", "4", "--alpha", "4", "--tokens", "200"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("eval")
    tiny_folder(place / "model")
    books(place / "books")
    return place


def command(place: Path, out: Path, *more: str) -> list[str]:
    return ["--books", str(place / "books"), "--model", str(place / "model"), "--out", str(out), *SIZES, *more]


# The command line, whose workers are forked too.
FORKED = f"from templora.evals.measuring.runner import Runner\nRunner.worker = {WORKER!r}\n"
FORKED += "from templora.cli.main import main\nmain()"


def templora(*arguments: str, python: Sequence[str] = (*PYTHON, "-c", FORKED)) -> subprocess.Popen[str]:
    return subprocess.Popen([*python, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_an_evaluation_and_its_report(place: Path, tmp_path: Path) -> None:
    """In real processes: killed in the middle with all its workers, gone on with, reported."""
    run = templora("eval", *command(place, tmp_path / "out", "--jobs", "2", "--json"))
    deadline = time.monotonic() + 120
    while not list((tmp_path / "out").glob("*.json"))[1:] and time.monotonic() < deadline:
        time.sleep(0.05)
    run.send_signal(signal.SIGINT)
    _, said = run.communicate(timeout=120)
    assert run.returncode == 130, said
    assert "the same command goes on" in said
    again = templora("eval", *command(place, tmp_path / "out", "--jobs", "2", "--json"))
    out, said = again.communicate(timeout=240)
    assert again.returncode == 0, said
    assert [cell["state"] for cell in json.loads(out)] == ["done"] * 4
    found, problems = results.read_all(tmp_path / "out")
    assert (len(found), problems) == (4, [])
    done = CliRunner().invoke(report, [str(tmp_path / "out"), "--print"], catch_exceptions=False)
    assert "## Perplexity" in done.output
    assert (tmp_path / "out" / "report.html").exists()


def test_a_method_of_ones_own(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the current folder, in a worker of its own; changed, it is measured anew; and a report runs none of it."""
    monkeypatch.setattr(Runner, "worker", WORKER)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path != str(tmp_path)])
    (tmp_path / "mine_cli.py").write_text(OWN)
    more = ["--method", "mine_cli:Mine", "--adapters", "none", "--texts", "book0", "--json"]
    done = invoke(*command(place, tmp_path / "out", *more))
    assert [cell["state"] for cell in json.loads(done.stdout)] == ["done"]
    (tmp_path / "mine_cli.py").write_text(OWN + "# changed\n")
    monkeypatch.delitem(sys.modules, "mine_cli")
    assert "missing" in invoke(*command(place, tmp_path / "out", *more, "--list")).output
    (tmp_path / "mine_cli.py").write_text("raise SystemExit('run')")
    monkeypatch.delitem(sys.modules, "mine_cli")
    (found,), problems = results.read_all(tmp_path / "out")
    assert problems == []
    assert found["cell"]["options"] == {"keep": 3}
    assert "mine_cli:Mine" in CliRunner().invoke(report, [str(tmp_path / "out"), "--print"]).output


OWN = """
from dataclasses import dataclass
from templora.methods.base import MethodState, Method
print('{"at": 5}')

@dataclass(frozen=True)
class Mine(Method):
    keep: int = 3
"""


def children(parent: int) -> set[int]:
    found = set()
    for status in Path("/proc").glob("[0-9]*/status"):
        with contextlib.suppress(OSError):
            if f"\nPPid:\t{parent}\n" in status.read_text():
                found.add(int(status.parent.name))
    return found


def alive(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="looks for processes in /proc")
def test_workers_go_when_the_evaluation_is_killed(place: Path, tmp_path: Path) -> None:
    fresh = [sys.executable, "-m", "templora"]
    run = templora("eval", *command(place, tmp_path / "out", "--jobs", "2"), python=fresh)
    deadline = time.monotonic() + 120
    while len(workers := children(run.pid)) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    run.kill()
    run.communicate(timeout=60)
    assert len(workers) == 2
    deadline = time.monotonic() + 10
    while any(map(alive, workers)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(alive, workers))


def test_it_runs_beside_a_folder_of_its_own_name(place: Path, tmp_path: Path) -> None:
    """The folder that a checkout lies in, for one."""
    (tmp_path / "templora").mkdir()
    script = str(Path(sys.executable).with_name("templora"))
    arguments = command(place, tmp_path / "out", "--texts", "book0", "--adapters", "none", "--quiet")
    done = subprocess.run([script, "eval", *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr


def test_a_list_of_cells_measures_nothing(place: Path, tmp_path: Path) -> None:
    done = invoke("pg19", *command(place, tmp_path / "out", "--list"))
    assert done.output.count("missing") == 8
    assert not (tmp_path / "out").exists()


def test_flags_say_what_a_plan_would(place: Path, tmp_path: Path) -> None:
    more = ["--method", "attention_sinks", "--method", "dynamic_evaluation", "--adapters", "none, own, shuffled"]
    done = invoke(*command(place, tmp_path / "out", *more, "--texts", "book1", "--list"))
    names = [line.split()[-1].rsplit("--", 1)[0] for line in done.output.splitlines()]
    assert sorted(names) == sorted(
        f"book1--model--{m}--{a}"
        for m in ("attention_sinks", "dynamic_evaluation")
        for a in ("none", "own", "shuffled")
    )


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--method", "sinks"], "unknown method 'sinks'"),
        (["--adapters", "mine"], "unknown 'mine'"),
        (["--texts", "bok1"], "did you mean 'book1'"),
        (["--tokens", "x"], "a number or all"),
        (["--recipe", "papr"], "did you mean 'paper'"),
        (["--rank", "0"], "at least 1"),
        (["--other-tokens", "1"], "at least 2"),
        (["pg20"], "did you mean 'pg19'"),
        (["--adapters", ","], "names none"),
        (["--model", "./absent"], "no model './absent'"),
        (["--weights", "int3"], "did you mean 'int8'"),
    ],
)
def test_what_is_wrong_is_said_before_anything_runs(more: list[str], said: str, place: Path, tmp_path: Path) -> None:
    with pytest.raises((OptionError, ModelError), match=said):
        invoke(*command(place, tmp_path / "out", *more))
    assert not (tmp_path / "out").exists()


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(evaluate, list(arguments), catch_exceptions=False)


def test_another_configuration_wants_another_folder(place: Path, tmp_path: Path) -> None:
    results.claim(tmp_path / "out", {"task": "pg19", "tokens": 7})
    with pytest.raises(results.ResultError, match="tokens is 7 there, 200 here"):
        invoke(*command(place, tmp_path / "out"))


def test_cells_that_fail_are_an_error_in_the_end(place: Path, tmp_path: Path) -> None:
    run = templora(
        "eval", *command(place, tmp_path / "out", "--rank", "40", "--texts", "book0", "--adapters", "none,own")
    )
    _, said = run.communicate(timeout=120)
    assert run.returncode == 2
    assert "1 of 2 cells failed; the first: rank: must be at most 32" in said


def test_a_report_of_what_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(results.ResultError, match="no such folder"):
        CliRunner().invoke(report, [str(tmp_path / "x")], catch_exceptions=False)
    (tmp_path / "a.json").write_text("{}")
    runner = CliRunner()
    with pytest.raises(results.ResultError, match="no results"):
        runner.invoke(report, [str(tmp_path)], catch_exceptions=False)
    assert os.listdir(tmp_path) == ["a.json"]


def test_errors_name_flags_that_there_are() -> None:
    """A key of a plan's file has none."""
    assert as_flag(OptionError("chunk_size", "odd")) == "--chunk-size: odd"
    assert as_flag(OptionError("step_size", "odd")) == "step_size: odd"


def continuing(place: Path, out: Path, *more: str) -> list[str]:
    sizes = ["--window", "64", "--chunk-size", "32", "--rank", "4", "--alpha", "4", "--absorb", "96", "--write", "40"]
    known = ["--books", str(place / "books"), "--model", str(place / "model"), "--out", str(out)]
    return ["continuation", *known, *sizes, "--seeds", "2", "--settings", "author,base,own", *more]


def test_continuations_are_written_and_judged_and_tabled(place: Path, tmp_path: Path) -> None:
    """In a real process: interrupted in the middle, gone on with, and as if it never had been."""
    run = templora("eval", *continuing(place, tmp_path / "out"))
    deadline = time.monotonic() + 120
    while not list((tmp_path / "out").glob("*--own--*.json")) and time.monotonic() < deadline:
        time.sleep(0.02)
    run.send_signal(signal.SIGINT)
    _, said = run.communicate(timeout=120)
    assert run.returncode == 130, said
    assert "the same command goes on" in said
    done = run_in_process(continuing(place, tmp_path / "out", "--json"))
    assert done.exit_code == 0, done.output
    whole = run_in_process(continuing(place, tmp_path / "whole", "--json"))
    figures = [json.loads(ran.stdout[ran.stdout.index("{") :])["lengths"]["96"] for ran in (done, whole)]
    assert figures[0] == figures[1]
    assert list(figures[0]) == ["author", "base", "own"]
    assert any(name.startswith("judged: ") for name in figures[0]["own"]["figures"])
    assert "| own | 4 |" in (tmp_path / "out" / "continuation.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("more", "problem"),
    [
        (["--settings", "own,owm"], "--settings: unknown setting 'owm'; did you mean 'own'?"),
        (["--absorb", "many"], "--absorb: must be numbers of tokens"),
        (["--absorb", "32"], "--absorb: must be at least the window"),
        (["--seeds", "0"], "--seeds: must be at least 1"),
        (["--judge", "nobody"], "nobody"),
        (["--texts", "book9"], "there is no text 'book9'"),
        (["--settings", "other", "--texts", "book0"], "--settings: other is the adapter of another book"),
    ],
    ids=lambda value: "" if isinstance(value, str) else " ".join(value),
)
def test_bad_continuations_are_told_before_a_model_is_loaded(
    place: Path, tmp_path: Path, more: list[str], problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("templora.loading.load", lambda *_, **__: pytest.fail("the model was loaded"))
    ran = run_in_process(continuing(place, tmp_path / "out", *more))
    assert isinstance(ran.exception, TemploraError)
    said = as_flag(ran.exception) if isinstance(ran.exception, OptionError) else str(ran.exception)
    assert problem in said


def run_in_process(arguments: list[str]) -> Result:
    return CliRunner().invoke(evaluate, arguments)
