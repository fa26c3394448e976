"""What is asserted is arithmetic; how fast the machine is belongs in benchmarks."""

from __future__ import annotations

import subprocess

import pytest
import torch

from templora.bench import ceilings
from templora.bench.ceilings import Ceilings, matrix_rate, measure_apart, median_seconds, memory_bandwidth

CPU = torch.device("cpu")


def test_the_higher_rate_is_the_ceiling() -> None:
    assert Ceilings(1.0, 2.0, 3.0).flops_per_second == 3.0
    assert Ceilings(1.0, 4.0, 3.0).flops_per_second == 4.0


def test_the_first_pass_is_not_counted_and_the_median_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([5.0, 1.0, 9.0])
    monkeypatch.setattr(ceilings, "timed", lambda action, device: (action(), next(clock))[1])
    called: list[int] = []
    assert median_seconds(lambda: called.append(1), CPU, 3) == 5.0
    assert len(called) == 4


def test_bandwidth_counts_every_byte(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ceilings, "median_seconds", lambda action, device, passes: (action(), 0.5)[1])
    assert memory_bandwidth(CPU, size=2**20) == 2**21


def test_the_rate_weighs_each_shape_by_how_often_it_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two FLOPs for each multiply-add; every product is said to take a second."""
    monkeypatch.setattr(ceilings, "timed", lambda action, device: (action(), 1.0)[1])
    shapes = [(4, 8), (4, 8), (16, 2)]
    assert matrix_rate(shapes, 3, CPU, torch.float32) == 2 * 3 * (4 * 8 + 4 * 8 + 16 * 2) / 3


def test_short_products_are_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ceilings, "timed", lambda action, device: 1e-3)
    monkeypatch.setattr(ceilings, "median_seconds", lambda action, device, passes: float(len(action())))
    assert matrix_rate([(4, 8)], 3, CPU, torch.float32) == 2 * 3 * 4 * 8


def test_another_process_measures(monkeypatch: pytest.MonkeyPatch) -> None:
    """With this one's threads; what it answers is read back whole."""
    asked: list[str] = []
    real = subprocess.run

    def run(*arguments: object, **options: object) -> object:
        asked.append(str(options["input"]))
        return real(*arguments, **options)  # type: ignore[call-overload]

    monkeypatch.setattr(subprocess, "run", run)
    found = measure_apart([(16, 32)], 8, CPU, torch.bfloat16, square=64, buffer_bytes=2**16, passes=1)
    assert min(found.bytes_per_second, found.square_flops_per_second, found.shapes_flops_per_second) > 0
    assert f'"threads": {torch.get_num_threads()}' in asked[0]
    assert '"dtype": "bfloat16"' in asked[0]
