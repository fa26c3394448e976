"""This package in another process of the same Python."""

from __future__ import annotations

import sys
from pathlib import Path

_CODE = """
import runpy, sys
del sys.path[0]
if {root!r} not in sys.path:
    sys.path.append({root!r})
runpy.run_module({module!r}, run_name="__main__", alter_sys=True)
"""


def command(module: str) -> list[str]:
    """What runs a module of this package; arguments may follow.

    Not `python -m`: that looks into the current folder first, where a checkout may lie whose name is the package's.
    """
    return [sys.executable, "-c", _CODE.format(root=str(Path(__file__).resolve().parent.parent.parent), module=module)]
