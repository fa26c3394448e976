"""Runs of many cells: workers that die, stop, fail or are waited for, played by a small program."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from evaluations import CONFIG

from templora.config import TempLoraConfig
from templora.errors import TextError
from templora.evals.measuring.cell import Cell
from templora.evals.measuring.runner import Job, Runner, seconds_left
from templora.evals.reporting import results
from templora.evals.reporting.results import ResultError

# Does what the name of the cell's text says.
FAKE = """
import json, os, signal, sys, time
from pathlib import Path
order = json.loads(sys.stdin.readline())
folder, cell = Path(order["folder"]), order["cell"]
say = lambda **line: print(json.dumps(line), flush=True)
starts = folder / (cell["text"] + ".starts")
starts.write_text((starts.read_text() if starts.exists() else "") + str(order["threads"]) + "\\n")
kind = cell["text"].split("-")[0]
say(at="reading", done=0, total=100)
if kind == "killed" or (kind == "once" and starts.read_text().count("\\n") == 1):
    os.kill(os.getpid(), signal.SIGKILL)
if kind == "fails":
    say(error="the text has no end")
    sys.exit(2)
if kind == "crashes":
    raise ZeroDivisionError("one over nothing")
if kind == "ended":
    sys.exit(130)
if kind == "waits":
    stop = []
    signal.signal(signal.SIGTERM, lambda *_: stop.append(1))
    (folder / "waiting").write_text("")
    while not stop:
        time.sleep(0.01)
    (folder / "snapshot").write_text("")
    sys.exit(130)
from templora.evals.reporting import results
from templora.evals.measuring.cell import Cell
made = Cell.from_dict(cell)
result = results.write(folder, made, results.not_applicable(made, "it is a play"))
say(at="reading", done=100, total=100)
say(result=result)
"""


def cell(text: str) -> Cell:
    return Cell("pg19", text, "0" * 64, 100, "model", "sliding_window", "own", TempLoraConfig(**CONFIG))


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    fake = tmp_path / "fake.py"
    fake.write_text(FAKE)
    monkeypatch.setattr(Runner, "worker", (sys.executable, str(fake)))

    def start(texts: Sequence[str], **options: Any) -> dict[str, Job]:
        jobs = Runner([cell(t) for t in texts], "books", tmp_path, **options).run()
        return {job.cell.text: job for job in jobs}

    return start


def test_cells_that_fail_leave_the_others_alone(run: Any, tmp_path: Path) -> None:
    jobs = run(["fails", "killed", "crashes", "once", "fine"], jobs=2)
    assert {text: job.state for text, job in jobs.items()} == {
        "fails": "failed", "killed": "failed", "crashes": "failed", "once": "not applicable", "fine": "not applicable",
    }  # fmt: skip
    assert jobs["fails"].reason == "the text has no end"
    assert "killed by SIGKILL" in jobs["killed"].reason
    assert "ZeroDivisionError: one over nothing" in jobs["crashes"].reason
    starts = {text: (tmp_path / f"{text}.starts").read_text().count("\n") for text in jobs}
    assert starts == {"fails": 1, "killed": 2, "crashes": 2, "once": 2, "fine": 1}


def test_a_worker_that_somebody_else_ended_has_not_stopped_by_itself(run: Any) -> None:
    """It says that it was told to stop, but not by us; and what was said of its first start is forgotten."""
    job = run(["ended"])["ended"]
    assert (job.state, job.attempts) == ("failed", 2)
    assert "exit code 130" in job.reason
    again = run(["once"])["once"]
    assert (again.state, again.reason) == ("not applicable", "it is a play")
    assert again.seconds >= 0


def test_what_a_killed_process_was_writing_is_tidied_away(run: Any, tmp_path: Path) -> None:
    (tmp_path / ".templora-torn").write_text("half of a snapsh")
    run(["fine"])
    assert not (tmp_path / ".templora-torn").exists()


def test_what_is_there_is_not_measured_again(run: Any, tmp_path: Path) -> None:
    for _ in range(2):
        jobs = run(["a", "b"], threads="3")
        assert all(job.result is not None for job in jobs.values())
    assert (tmp_path / "a.starts").read_text() == "3\n"


def test_stopping_lets_workers_keep_what_they_have(run: Any, tmp_path: Path) -> None:
    jobs = run(["waits", "later"], stopping=lambda: (tmp_path / "waiting").exists())
    assert (jobs["waits"].state, jobs["later"].state) == ("stopped", "waiting")
    assert (tmp_path / "snapshot").exists()


def test_workers_share_the_cores(run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    run(["a", "b"], jobs=3)
    assert (tmp_path / "a.starts").read_text() == "2\n"


def test_two_evaluations_do_not_share_a_folder(run: Any, tmp_path: Path) -> None:
    import fcntl

    with (tmp_path / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(TextError, match="another evaluation is running"):
            run(["a"])
    with pytest.raises(TextError, match="cannot be written"):
        Runner([], "books", tmp_path / "absent").run()


def test_a_damaged_result_is_an_error_before_anything_runs(run: Any, tmp_path: Path) -> None:
    run(["a"])
    path = tmp_path / f"{cell('a').key}.json"
    path.write_text("{")
    with pytest.raises(ResultError, match="cannot be read"):
        run(["a", "b"])
    assert not (tmp_path / "b.starts").exists()


def test_everybody_who_watches_is_told(run: Any) -> None:
    seen: list[tuple[str, str]] = []
    run(["once", "fine"], show=lambda jobs, job: seen.append((job.cell.text, job.state)) if job else None)
    assert seen == [
        ("once", "running"), ("once", "waiting"), ("once", "running"), ("once", "not applicable"),
        ("fine", "running"), ("fine", "not applicable"),
    ]  # fmt: skip


def job(text: str, state: str, done: int = 0, seconds: float = 0.0, adapter: str = "own") -> Job:
    made = Job(Cell("pg19", text, "", 100, "m", "sliding_window", adapter, TempLoraConfig(**CONFIG)), state)
    if state == "running":
        made.at, made.done, made.total, made.first = "reading", done, 100, 0
        made._began = time.monotonic() - seconds
    if state == results.DONE:
        made.result = {"tokens": 100, "seconds": {"all": seconds}}
        made.at, made.done, made.total = "reading", 100, 100
    return made


def test_the_time_left_is_worked_out_by_kind() -> None:
    """Base: 0.1 s a token, known; own adapter: 0.4 s a token so far."""
    jobs = [
        job("a", "done", seconds=10.0, adapter="none"),
        job("b", "waiting", adapter="none"),
        job("a", "running", done=50, seconds=20.0),
        job("b", "waiting"),
    ]
    assert seconds_left(jobs, 1) == pytest.approx(10 + 20 + 40, rel=0.01)
    assert seconds_left(jobs, 2) == pytest.approx(40, rel=0.01)  # the longest cell takes that long by itself
    assert seconds_left([job("a", "waiting")], 1) is None


def test_keys_are_file_names() -> None:
    made = Cell("pg19", "a/b: ü", "", 5, "./x/my model", "sliding_window", "own", TempLoraConfig(**CONFIG))
    assert "/" not in made.key
    assert json.dumps(made.key)
