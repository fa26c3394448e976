"""The arithmetic of the governor, by a clock and a machine that the tests wind."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from conftest import small

from templora.engine.engine import Engine
from templora.errors import OptionError
from templora.loading import load
from templora.runtime.threads import INTERVAL, Cores, Governor, bits_depend_on_threads, governor, idle_here, threads

STAT = """cpu  300 0 100 5000 70 0 0 5 0 0
cpu0 100 0 50 2000 10 0 0 1 0 0
cpu1 100 0 25 1000 20 0 0 3 0 0
cpu2 100 0 25 2000 40 0 0 1 0 0
intr 12345 0 0
"""


class Machine:
    """A fake machine on which this process and others compute."""

    def __init__(self, cores: float) -> None:
        self.cores = cores
        self.now = self.idle = self.own = 0.0
        self.looks = 0

    def run(self, ours: float, others: float, seconds: float = INTERVAL) -> None:
        """Time passes while we and others keep this many cores busy."""
        self.now += seconds
        self.own += ours * seconds
        self.idle += (self.cores - ours - others) * seconds

    def read_idle(self) -> float:
        self.looks += 1
        return self.idle

    @property
    def view(self) -> Cores:
        return Cores(self.read_idle, lambda: self.own, lambda: self.now)


@pytest.fixture
def eight() -> Iterator[None]:
    """torch set to eight threads by the user."""
    before = torch.get_num_threads()
    torch.set_num_threads(8)
    yield
    torch.set_num_threads(before)


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="Linux only")
def test_idle_time_is_read_for_the_cpus_we_may_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "stat").write_text(STAT)
    monkeypatch.setattr("templora.runtime.threads._STAT", tmp_path / "stat")
    monkeypatch.setattr("os.sysconf", lambda _: 100)
    for cpus, seconds in (({0, 1, 2}, 50.7), ({1}, 10.2)):
        monkeypatch.setattr("os.sched_getaffinity", lambda _, cpus=cpus: cpus)
        assert idle_here() == seconds
    (tmp_path / "stat").unlink()
    assert idle_here() is None


def test_available_is_what_is_idle_and_what_we_use() -> None:
    machine = Machine(4)
    cores = machine.view
    cores.look()
    assert cores.available == math.inf
    for ours, others, wanted in ((3, 0, 4), (2.5, 1.5, 2.5), (0, 1, 3), (1, 3, 1)):
        machine.run(ours, others)
        cores.look()
        assert cores.available == pytest.approx(wanted)


def test_it_looks_once_an_interval() -> None:
    machine = Machine(2)
    cores = machine.view
    for _ in range(100):
        machine.run(2, 0, INTERVAL / 10)
        cores.look()
    assert machine.looks == pytest.approx(10, abs=1)


def test_a_system_that_does_not_say_is_asked_once() -> None:
    asked: list[int] = []
    time = iter(range(100))
    cores = Cores(lambda: asked.append(1), lambda: 0.0, lambda: float(next(time)))
    for _ in range(5):
        cores.look()
    assert (cores.available, len(asked)) == (math.inf, 1)


@pytest.mark.usefixtures("eight")
def test_threads_go_down_when_cores_are_taken_and_up_again() -> None:
    """A busy process shares the cores with our threads; when it ends, what we left idle is ours again."""
    machine = Machine(8)
    ours = Governor(machine.view, steady=False)  # as where bits do not depend on threads
    found = []
    loads = [(8, 0), (7.8, 0.2), (6.8, 1.2), (7, 1), (4, 4), (2, 6), (0.5, 7.5), (1, 5), (1, 0), (8, 0)]
    for ours_busy, others_busy in loads:
        with ours.step():
            pass
        machine.run(ours_busy, others_busy)
        with ours.step():
            found.append(torch.get_num_threads())
    assert found == [8, 8, 7, 7, 4, 2, 1, 3, 8, 8]


@pytest.mark.usefixtures("eight")
def test_a_tick_within_a_step_follows_too() -> None:
    machine = Machine(8)
    ours = Governor(machine.view, steady=False)  # as where bits do not depend on threads
    with ours.step():
        assert ours.tick() == 8
        machine.run(3, 5)
        assert ours.tick() == torch.get_num_threads() == 3
        machine.run(3, 0)
        assert ours.tick() == torch.get_num_threads() == 8


@pytest.mark.usefixtures("eight")
def test_the_users_number_is_the_most_and_is_there_again_afterwards() -> None:
    machine = Machine(64)
    ours = Governor(machine.view, steady=False)  # as where bits do not depend on threads
    for cores in (64, 2):
        machine.run(1, 64 - cores)
        with ours.step():
            assert ours.tick() == min(8, cores)
            with ours.step():
                assert ours.tick() == min(8, cores)
        assert torch.get_num_threads() == ours.tick() == 8
    with contextlib.suppress(ZeroDivisionError), ours.step():
        assert ours.tick() == 2
        raise ZeroDivisionError
    assert torch.get_num_threads() == 8


@pytest.mark.usefixtures("eight")
def test_a_fixed_number_is_left_alone() -> None:
    machine = Machine(8)
    ours = Governor(machine.view, steady=False)  # as where bits do not depend on threads
    for _ in range(3):
        machine.run(1, 7)
        with ours.step(fixed=5):
            assert ours.tick() == torch.get_num_threads() == 5
    assert torch.get_num_threads() == 8
    assert machine.looks == 0


@pytest.mark.usefixtures("eight")
def test_torchs_own_number_does_not_depend_on_the_moment_where_bits_depend_on_it() -> None:
    """As on a CPU with AMX: only what `tick` returns, for the compiled kernels, follows the machine."""
    machine = Machine(8)
    ours = Governor(machine.view, steady=True)
    found: list[tuple[int, int]] = []
    for others in (0, 6):
        machine.run(1, others)
        with ours.step():
            found.append((ours.tick(), torch.get_num_threads()))
    assert found == [(8, 8), (2, 8)]
    with ours.step(fixed=5):
        assert torch.get_num_threads() == 5
    assert torch.get_num_threads() == 8


@pytest.mark.parametrize(
    ("amx", "allowed", "depend"),
    [
        (True, None, True),
        (True, "all", True),
        (True, "AVX512_CORE_AMX", True),
        (True, "AVX512_CORE_BF16", False),
        (False, None, False),
    ],
)
def test_bits_depend_on_threads_where_onednn_may_use_amx(
    amx: bool, allowed: str | None, depend: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": amx})
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    if allowed:
        monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", allowed)
    assert bits_depend_on_threads() == depend


def test_sessions_compute_within_steps(engine: Engine, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every pass has the engine's number, and the caller has their own between events."""
    engine.threads = 3
    found: set[int] = set()
    real = engine.model.hidden
    monkeypatch.setattr(engine.model, "hidden", lambda *a: found.add(torch.get_num_threads()) or real(*a))
    with engine.session(small()) as session:
        session.score(text[:70])
        for _ in session.stream(max_new_tokens=40, score=True):
            assert torch.get_num_threads() == threads() == 1
        session.close_chunk()
    assert found == {3}
    assert torch.get_num_threads() == 1


def test_this_machine_has_at_most_its_cores() -> None:
    """The real /proc/stat: whatever is going on, not more than there are, and not less than nothing."""
    import time

    cores = Cores()
    cores.look()
    time.sleep(INTERVAL + 0.05)
    cores.look()
    assert 0 <= cores.available <= 1.2 * (os.cpu_count() or 1) or cores.available == math.inf
    assert governor.wanted == 1


@pytest.mark.parametrize("threads", [0, -1, "two", ""])
def test_a_number_of_threads_that_is_none(threads: int | str) -> None:
    with pytest.raises(OptionError, match="threads: must be auto or a number from 1"):
        load(threads=threads)
