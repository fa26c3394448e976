"""A session whose process is killed again and again, at random instants: nothing shown is lost, the text is the same.

pytest tests/store/test_crash.py                       some kills
./scripts/test --long tests/store/test_crash.py        210
TEMPLORA_KILLS=2000 pytest tests/store/test_crash.py   as many as you like
"""

from __future__ import annotations

import os
import random
import resource
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from forked import PYTHON

from templora.config import TempLoraConfig
from templora.errors import TemploraError
from templora.events import TokenEvent
from templora.sampling import SamplingParams
from templora.store import snapshots as snapshots_module
from templora.store.store import SessionStore
from templora.testing import tiny_engine

KILLS = int(os.environ.get("TEMPLORA_KILLS", "24"))
MODES: list[dict[str, Any]] = [{}, {"learning": "parallel"}, {"cache_reuse": 2, "window": 96}]
WRITES = (("The keeper climbed the stairs, and the lamp was lit. " * 3, 130), ("Then", 60), ("And", 92))
HOT = SamplingParams(temperature=1.5)
_SHOWN = struct.Struct("<ii")

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs fork and SIGKILL")


def config(**options: Any) -> TempLoraConfig:
    sizes = {"window": 64, "chunk_size": 32, "rank": 4, "alpha": 4.0, "learning_rate": 0.01}
    return TempLoraConfig(**{"learn_written": True, **sizes, **options})


def write_all(store: SessionStore, shown: int) -> None:
    """What a user's program does, each time it is started; `shown` is a file where it notes what it has shown."""
    with store.open("novel", tiny_engine(), keep=2) as saved:
        begun = sum(act.kind == "write" for act in saved.history.acts)
        rest = (saved.stream(prompt, max_new_tokens=n, sampling=HOT) for prompt, n in WRITES[begun:])
        for events in (saved.resume(), *rest):
            for event in events:
                if isinstance(event, TokenEvent):
                    os.write(shown, _SHOWN.pack(event.index, event.token))


def run(store: SessionStore, shown: Path, seconds: float, file_bytes: int | None) -> int:
    """Runs it in a process of its own, killed after so many seconds; returns its exit code, or minus the signal."""
    pid = os.fork()
    if not pid:
        code = 70
        try:
            snapshots_module._SHARE = 1e9  # a snapshot after every chunk
            if file_bytes is not None:  # a full disk, for files that would grow beyond this
                signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
                resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))
            write_all(store, os.open(shown, os.O_WRONLY | os.O_APPEND | os.O_CREAT))
            code = 0
        except TemploraError:
            code = 2
        finally:
            os._exit(code)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.001)
    os.kill(pid, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def tear(log: Path, chance: random.Random) -> None:
    """As if the kill had come while a record was written: a part of one lies behind the last."""
    wal = log.with_name(log.name + "-wal")
    if wal.exists() and wal.stat().st_size:
        with wal.open("ab") as file:
            file.write(chance.randbytes(chance.randrange(1, 4096)))


@pytest.mark.parametrize("options", MODES, ids=str)
def test_killed_at_any_instant_it_goes_on_to_the_same_text(tmp_path: Path, options: dict[str, Any]) -> None:
    """In a process of its own: whoever forks must not have computed with several threads before, as other tests do."""
    call = f"import sys; sys.path[:0] = {sys.path!r}; import test_crash; "
    call += f"test_crash.kill_again_and_again(Path({str(tmp_path)!r}), {options!r})"
    done = subprocess.run(
        [*PYTHON, "-c", f"from pathlib import Path; {call}"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    print(done.stdout)


def kill_again_and_again(tmp_path: Path, options: dict[str, Any]) -> None:
    torch.set_num_threads(1)
    with tiny_engine().session(config(**options)) as session:
        for prompt, n in WRITES:
            list(session.stream(prompt, max_new_tokens=n, sampling=HOT))
        expected = session.tokens
    chance = random.Random(str(options))
    store = SessionStore(tmp_path / "sessions")
    began = time.monotonic()
    store.create("undisturbed", tiny_engine(), config(**options)).close()
    store.folder.joinpath("undisturbed").rename(store.folder / "novel")
    assert run(store, tmp_path / "undisturbed", 600, None) == 0
    whole = time.monotonic() - began
    store.discard("novel")
    kills, ends, full = 0, 0, 0
    while kills < KILLS // len(MODES):
        store.create("novel", tiny_engine(), config(**options)).close()
        shown = tmp_path / f"shown-{ends}"
        code = 1
        while code:
            limit = chance.choice([None, None, chance.randrange(1_000, 150_000)])
            code = run(store, shown, chance.uniform(0, whole * 0.6), limit)
            assert code in (0, 2, -signal.SIGKILL)
            kills += code == -signal.SIGKILL
            assert kills < 50 * KILLS, "it does not get on"
            full += code == 2
            if code and chance.random() < 0.3:
                tear(store.folder / "novel" / "log.sqlite", chance)
            tokens = store.history("novel").tokens
            assert tokens == expected[: len(tokens)]
            seen = shown.read_bytes() if shown.exists() else b""
            for index, token in _SHOWN.iter_unpack(seen[: len(seen) // _SHOWN.size * _SHOWN.size]):
                assert index < len(tokens)
                assert tokens[index] == token
        assert store.history("novel").tokens == expected
        indices = [index for index, _ in _SHOWN.iter_unpack(shown.read_bytes())]
        assert indices == sorted(set(indices)), "something was shown twice"
        assert [p.name for p in store.folder.iterdir()] == ["novel"]
        store.discard("novel")
        ends += 1
    assert full
    assert ends
    print(f"{options}: {kills} kills, {full} times a full disk, {ends} texts, all {len(expected)} tokens the same")
