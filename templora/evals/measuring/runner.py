"""Runs the cells of an evaluation, each in a process of its own, some at a time, and says how far they are.

A worker that is killed is started again once and goes on from its snapshot; if it is killed again its cell has failed,
and the others go on. Results are files, so running an evaluation again measures only what is missing.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from templora.errors import TextError
from templora.evals.measuring.cell import Cell
from templora.evals.reporting import results
from templora.runtime.files import told
from templora.runtime.subprocesses import command

# Times a worker is started for one cell.
_ATTEMPTS = 2
# Seconds that workers get to write their snapshots when all is to stop.
_GRACE = 60.0


@dataclass
class Job:
    """A cell on its way.

    Attributes:
        cell: which.
        state: waiting, running, or what became of it: done, not applicable, failed, stopped.
        at: what it is doing: loading, reading, learning another text.
        done, total: tokens, or paragraphs of a translation.
        first: tokens it had when it was started, from a snapshot.
        seconds: since it began to read.
        reason: why it failed or does not apply.
        result: once there is one.
    """

    cell: Cell
    state: str = "waiting"
    at: str = ""
    done: int = 0
    total: int = 0
    first: int | None = None
    reason: str = ""
    attempts: int = 0
    result: dict[str, Any] | None = None
    _began: float = 0.0
    _ended: float = 0.0
    process: subprocess.Popen[str] | None = field(default=None, repr=False)
    errors: IO[bytes] | None = field(default=None, repr=False)

    @property
    def seconds(self) -> float:
        return (self._ended or time.monotonic()) - self._began if self._began else 0.0

    def came_to(self, result: dict[str, Any]) -> None:
        self.result, self.state, self.reason = result, result["status"], result.get("reason", "")

    @property
    def kind(self) -> tuple[Any, ...]:
        """Cells of one kind take as long a token as each other."""
        c = self.cell
        return c.model, c.method, c.adapter, c.config.window, c.config.chunk_size, c.config.epochs, c.translation


class Runner:
    """Runs cells.

    Args:
        cells: what to measure.
        books, folder: where texts come from and results go.
        jobs: how many workers at a time.
        threads: CPU threads of each: a number, or auto: its share of the cores.
        device: as for `templora.load`.
        show: called with all jobs and the one that has just begun or ended, or None now and then.
        stopping: asked often; if it says so, workers are told to stop and what they have is kept.
    """

    worker: Sequence[str] = command("templora.evals.measuring.worker")

    def __init__(
        self,
        cells: Sequence[Cell],
        books: str,
        folder: Path,
        *,
        jobs: int = 1,
        threads: str = "auto",
        device: str = "auto",
        show: Callable[[Sequence[Job], Job | None], None] = lambda *_: None,
        stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        self.jobs = [Job(cell) for cell in cells]
        self._books, self._folder, self._most = books, folder, jobs
        self._threads, self._device = threads, device
        self._show, self._stopping = show, stopping
        self._said: queue.Queue[tuple[Job, dict[str, Any] | None]] = queue.Queue()

    def run(self) -> Sequence[Job]:
        """Runs until every cell has come to an end, or all is stopped. Returns the jobs.

        Raises:
            ResultError: something in the folder is no result of this version.
            TextError: another evaluation is running in the folder.
        """
        with _alone(self._folder):
            for job in self.jobs:
                result = results.find(self._folder, job.cell)
                if result is not None:
                    job.came_to(result)
                    (self._folder / f"{job.cell.key}.part").unlink(missing_ok=True)  # a kill came between the two
            try:
                self._loop()
            finally:
                self._stop_all()
        return self.jobs

    def _loop(self) -> None:
        while not self._stopping():
            waiting = [job for job in self.jobs if job.state == "waiting"]
            if not self._processes and not waiting:
                return
            for job in waiting[: self._most - len(self._processes)]:
                self._start(job)
            self._hear()

    def _hear(self) -> None:
        """Takes in what a worker says, if any does."""
        try:
            self._take(*self._said.get(timeout=0.1))
        except queue.Empty:
            self._show(self.jobs, None)

    def _start(self, job: Job) -> None:
        job.attempts += 1
        job.state, job.at, job._began, job.first = "running", "starting", 0.0, None
        job._ended, job.reason = 0.0, ""
        threads = self._threads
        if threads == "auto" and self._most > 1:
            from templora.runtime.threads import cores_here

            threads = str(max(1, cores_here() // self._most))
        order = {
            "cell": job.cell.to_dict(),
            "books": self._books,
            "folder": str(self._folder),
            "threads": threads,
            "device": self._device,
            "path": [os.path.abspath(place) for place in sys.path],  # where methods of the user's own are found
        }
        environment = dict(os.environ)
        if threads != "auto":
            environment["OMP_NUM_THREADS"] = threads  # torch's threads spin between operators: fewer of them
        job.errors = tempfile.TemporaryFile()  # noqa: SIM115
        # Ctrl-C goes to the whole group: workers are in another one, and are told by us.
        job.process = subprocess.Popen(
            self.worker,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=job.errors,
            text=True,
            env=environment,
            start_new_session=True,
        )
        threading.Thread(target=self._listen, args=(job, job.process, json.dumps(order)), daemon=True).start()
        self._show(self.jobs, job)

    def _listen(self, job: Job, process: subprocess.Popen[str], order: str) -> None:
        """Passes on what a worker says, and then that it has ended."""
        assert process.stdin is not None
        assert process.stdout is not None
        with contextlib.suppress(OSError):  # it may be gone already
            process.stdin.write(order + "\n")
            process.stdin.flush()
        with process.stdout:
            for line in process.stdout:
                with contextlib.suppress(ValueError):  # cut short by a kill
                    self._said.put((job, json.loads(line)))
        process.wait()
        with contextlib.suppress(OSError):
            process.stdin.close()  # open until now: its end would end the worker
        self._said.put((job, None))

    def _take(self, job: Job, line: dict[str, Any] | None) -> None:
        if line is None:
            self._ended(job)
        elif "error" in line:
            job.reason = line["error"]
        elif "result" in line:
            job.result = line["result"]
        else:
            job.at, job.done, job.total = line["at"], line["done"], line["total"]
            if job.at == "reading" and job.first is None:
                job.first, job._began = job.done, time.monotonic()
            self._show(self.jobs, None)

    def _ended(self, job: Job) -> None:
        assert job.process is not None
        code, job._ended = job.process.returncode, time.monotonic()
        said = _tail(job)
        job.process = None
        if job.result:
            job.came_to(job.result)
        elif code == 2 and job.reason:
            job.state = "failed"
        elif self._stopping():
            job.state = "stopped"
        elif job.attempts < _ATTEMPTS:
            job.state, job.reason = "waiting", f"its process {_how(code)}; it goes on from its last snapshot"
        else:
            job.state, job.reason = "failed", f"its process {_how(code)}{': ' + said if said else ''}"
        self._show(self.jobs, job)

    def _stop_all(self) -> None:
        """Lets workers write their snapshots; those that take too long are killed."""
        for process in self._processes:
            with contextlib.suppress(OSError):
                process.send_signal(signal.SIGTERM)
        until = time.monotonic() + _GRACE
        while self._processes:
            self._hear()
            if time.monotonic() > until:
                for process in self._processes:
                    process.kill()

    @property
    def _processes(self) -> list[subprocess.Popen[str]]:
        return [job.process for job in self.jobs if job.process is not None]


def seconds_left(jobs: Sequence[Job], at_a_time: int) -> float | None:
    """An estimate for what is not done; None while nothing is known.

    Cells of a kind that has been measured take as long a token as those did, others as long as the average.
    """
    speeds: dict[tuple[Any, ...], list[tuple[float, int]]] = {}
    for job in jobs:
        tokens, seconds = 0, 0.0
        if job.state == "running" and job.first is not None:
            tokens, seconds = job.done - job.first, job.seconds
        elif job.state == results.DONE and job.result:
            tokens = len(job.result["chunks"]) if job.cell.translation else job.result["tokens"]
            seconds = job.result["seconds"]["all"]
        if tokens > 0:
            speeds.setdefault(job.kind, []).append((seconds, tokens))
    if not speeds:
        return None
    rates = {kind: sum(s for s, _ in known) / sum(n for _, n in known) for kind, known in speeds.items()}
    average = sum(rates.values()) / len(rates)
    total = max((job.total for job in jobs if job.at == "reading"), default=0)
    left = [
        max(0, (job.total if job.state == "running" and job.at == "reading" else total) - job.done)
        * rates.get(job.kind, average)
        for job in jobs
        if job.state in ("running", "waiting")
    ]
    return max(max(left, default=0.0), sum(left) / at_a_time)


def _how(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = str(-code)
    return f"was killed by {name}" + (" (out of memory, perhaps)" if name == "SIGKILL" else "")


def _tail(job: Job) -> str:
    """The last line that a worker wrote on standard error."""
    assert job.errors is not None
    with job.errors as file:
        file.seek(0)
        lines = file.read().decode("utf-8", "replace").strip().splitlines()
    return lines[-1][:300] if lines else ""


@contextlib.contextmanager
def _alone(folder: Path) -> Any:
    """Inside, no other evaluation runs in this folder."""
    import fcntl

    with told(TextError, f"{folder}: cannot be written"):
        file = (folder / ".lock").open("w")
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise TextError(f"{folder}: another evaluation is running there") from error
        except OSError:
            pass  # a file system without locks
        for torn in folder.glob(".templora-*"):  # of a process that was killed while it wrote
            torn.unlink(missing_ok=True)
        yield
