"""Ways a run ends before it is done."""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType


class Interrupted(Exception):
    """The run was told to stop.

    Args:
        code: the exit code.
        why: for the receipt.
    """

    def __init__(self, code: int, why: str) -> None:
        super().__init__(why)
        self.code = code


def catch_terminate() -> None:
    """From here on SIGTERM ends a run as Ctrl-C does: nothing written is lost, and there is a receipt."""
    signal.signal(signal.SIGTERM, _terminate)


def _terminate(number: int, frame: FrameType | None) -> None:
    raise Interrupted(143, "terminated")


def drop_stdout() -> None:
    """After its reader has gone: keeps Python from complaining about the pipe once more at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
