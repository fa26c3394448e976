from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from typing import Any

import pytest

from templora.runtime.signals import deferred


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_handled_when_the_work_is_done(number: signal.Signals) -> None:
    done: list[Any] = []
    before = signal.signal(number, lambda *_: done.append("handled"))
    try:
        with deferred():
            os.kill(os.getpid(), number)
            done.append("worked")
        assert done == ["worked", "handled"]
        os.kill(os.getpid(), number)
        assert done == ["worked", "handled", "handled"]
    finally:
        signal.signal(number, before)


def test_a_signal_that_nobody_handles_ends_the_program_afterwards() -> None:
    program = "import os, signal\nfrom templora.runtime.signals import deferred\n"
    program += (
        "with deferred():\n    os.kill(os.getpid(), signal.SIGTERM)\n    print('worked', flush=True)\nprint('on')"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (-signal.SIGTERM, "worked\n")


def test_other_threads_are_left_alone() -> None:
    """Python lets only the main one touch signals."""
    errors: list[BaseException] = []

    def work() -> None:
        try:
            with deferred():
                pass
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert errors == []


def test_every_signal_is_handled_and_every_handler_put_back() -> None:
    """Also where the handlers raise."""
    handled: list[int] = []

    def handler(number: int, _: Any) -> None:
        handled.append(number)
        raise KeyboardInterrupt

    def both_at_once() -> None:
        with deferred(), deferred():
            for number in numbers:
                os.kill(os.getpid(), number)

    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, handler) for number in numbers]
    try:
        with pytest.raises(KeyboardInterrupt):
            both_at_once()
        assert sorted(handled) == sorted(numbers)
        assert [signal.getsignal(number) for number in numbers] == [handler, handler]
    finally:
        for number, old in zip(numbers, before, strict=True):
            signal.signal(number, old)
