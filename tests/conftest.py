from __future__ import annotations

import contextlib
import gc
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import forked
import pytest
import torch
from forked import PLACE

from templora import TempLoraConfig
from templora.decoding.cpu_step import CpuStep
from templora.decoding.module_rows import ModuleRows
from templora.engine.engine import Engine
from templora.models.runner import Row
from templora.testing import tiny_engine

# One thread: sums in one order, and no barrier to wait at on a busy machine. The models are tiny.
torch.set_num_threads(1)
# A shell that starts the tests in the background has them ignore Ctrl-C, which some of them send themselves.
signal.signal(signal.SIGINT, signal.default_int_handler)

TEXT = "It was the best of times, it was the worst of times, it was the age of wisdom, it was the age of foolishness. "


@pytest.fixture
def engine() -> Engine:
    return tiny_engine()


@pytest.fixture
def text() -> str:
    return TEXT * 6


def small(**options: Any) -> TempLoraConfig:
    """A config whose chunks are as small as the models, and in which written text is learnt like any other."""
    defaults: dict[str, Any] = {"rank": 4, "alpha": 8.0, "chunk_size": 32, "window": 96, "learning_rate": 5e-3}
    defaults["learn_written"] = True
    return TempLoraConfig(**defaults | options)


# What a short run thins out, a long one has whole (`./scripts/test --long`).
LONG = bool(os.environ.get("TEMPLORA_LONG"))
BEGAN = time.monotonic()
gc.disable()  # all that is imported to collect the tests stays: nothing to look for
_at_the_end = contextlib.ExitStack()


def pytest_configure() -> None:
    """Starts what forks programs for tests (`forked`), once for all of pytest's processes."""
    if sys.platform == "linux" and PLACE not in os.environ:
        place = Path(_at_the_end.enter_context(tempfile.TemporaryDirectory(prefix="forks-"))) / "socket"
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        command = [sys.executable, forked.__file__, "serve", str(place)]
        server = subprocess.Popen(command, stdin=subprocess.PIPE, env=environment, start_new_session=True)
        _at_the_end.enter_context(server)  # which closes its standard input, so that it ends
        os.environ[PLACE] = str(place)
        script = Path(forked.executable())
        script.write_text(f'#!/bin/sh\nexec {shlex.join(forked.PYTHON)} "$@"\n')
        script.chmod(0o700)
        _at_the_end.callback(os.environ.pop, PLACE)


def pytest_unconfigure() -> None:
    _at_the_end.close()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Those that take long come first, so that no process is left alone with one at the end."""
    items.sort(key=lambda item: item.get_closest_marker("real") is None and item.path.parent.name != "bench")


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.unfreeze()
    gc.enable()


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A suite that is waited for is a fault like others: what it may take is said outside (`.ci/run`)."""
    minutes = (time.monotonic() - BEGAN) / 60
    allowed = float(os.environ.get("TEMPLORA_TEST_MINUTES", "inf"))
    if minutes > allowed and "PYTEST_XDIST_WORKER" not in os.environ:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
        print(f"\nthe tests took {minutes:.1f} minutes, which is more than {allowed:g}")


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Rows of each pass of a step that takes several."""
    sizes: list[int] = []
    for kind in (CpuStep, ModuleRows):

        def counted(
            step: Any, rows: Sequence[Row], real: Callable[[Any, Sequence[Row]], Any] = kind.__call__
        ) -> list[torch.Tensor]:
            sizes.append(len(rows))
            found: list[torch.Tensor] = real(step, rows)
            return found

        monkeypatch.setattr(kind, "__call__", counted)
    return sizes
