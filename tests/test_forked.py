"""Programs that are forked behave as those that Python starts, in what tests rely on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from forked import PLACE, PYTHON

pytestmark = pytest.mark.skipif(PLACE not in os.environ, reason="no server: programs are Python's own")
BOTH = pytest.mark.parametrize("python", [(sys.executable,), PYTHON], ids=["fresh", "forked"])
SAYS = "import os, sys; print(sys.argv, os.getcwd(), os.environ['X'], sys.stdin.read(), end='\\n\\n'); "


@BOTH
def test_it_gets_all_it_is_given(python: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("if __name__ == '__main__':\n    " + SAYS)
    for how in (["-c", SAYS], ["-m", "mine"], [str(tmp_path / "mine.py")]):
        done = subprocess.run(
            [*python, *how, "a", "-m", "ü"], cwd=tmp_path, env=os.environ | {"X": "x y"}, input="in ü".encode(),
            capture_output=True, check=True,
        )  # fmt: skip
        name = how[0] if how[0] == "-c" else str(tmp_path / "mine.py")
        said = f"{[name, 'a', '-m', 'ü']} {tmp_path} x y in ü\n\n"
        assert done.stdout.decode() == said


@BOTH
@pytest.mark.parametrize(
    ("code", "ended", "said"),
    [
        ("pass", 0, ""),
        ("import sys; sys.exit(7)", 7, ""),
        ("1 / 0", 1, "ZeroDivisionError"),
        ("import sys; sys.exit('no')", 1, "no"),
        ("import os; os._exit(9)", 9, ""),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL, ""),
        ("import os, signal; os.kill(os.getpid(), signal.SIGTERM)", -signal.SIGTERM, ""),
        ("import atexit, sys; atexit.register(lambda: print('end', file=sys.stderr)); sys.exit(3)", 3, "end"),
        ("import sys; sys.stderr.write('without a line')", 0, "without a line"),
    ],
)
def test_it_ends_as_it_would(python: tuple[str, ...], code: str, ended: int, said: str) -> None:
    done = subprocess.run([*python, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == ended
    assert said in done.stderr
    assert said or not done.stderr


WAITS = """
import os, signal, sys, time
try:
    print(os.getpid(), flush=True)
    time.sleep(60)
except KeyboardInterrupt:
    sys.exit(5)
"""


@BOTH
@pytest.mark.parametrize(
    ("number", "ended"),
    [(signal.SIGINT, 5), (signal.SIGTERM, -signal.SIGTERM), (signal.SIGKILL, -signal.SIGKILL)],
)
def test_signals_reach_it(python: tuple[str, ...], number: int, ended: int) -> None:
    with subprocess.Popen([*python, "-c", WAITS], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        program = int(process.stdout.readline())
        assert (program == process.pid) == (python != PYTHON)
        process.send_signal(number)
        process.stdout.read()  # until nobody holds the other end any more
        assert process.wait(10) == ended


@BOTH
def test_a_pipe_that_is_closed_is_closed_for_it(python: tuple[str, ...]) -> None:
    code = "import sys\nwhile True:\n    sys.stdout.write('x' * 1000)"
    with subprocess.Popen([*python, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert b"BrokenPipeError" in process.stderr.read()


def test_what_is_forked_has_imported_all_and_is_alone() -> None:
    """A process with threads must not fork: what they hold stays held."""
    code = "import os, sys; print('torch' in sys.modules, 'templora.cli.write' in sys.modules, "
    code += "len(os.listdir('/proc/self/task')), sorted(os.listdir('/proc/self/fd')))"
    done = subprocess.run([*PYTHON, "-c", code], capture_output=True, text=True, check=True, stdin=subprocess.DEVNULL)
    *found, fds = done.stdout.split(maxsplit=3)
    assert found == ["True", "True", "1"]
    assert len(eval(fds)) <= 4  # the streams, and the folder that is being listed
