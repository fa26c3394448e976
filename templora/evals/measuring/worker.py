"""The process that measures one cell: told what on standard input, it says how far it is on standard output.

    python -m templora.evals.measuring.worker  <  {"cell": …, "books": …, "folder": …, "threads": …, …}

The order is one line; when standard input ends after it, whoever gave it is gone, and so is the worker. Each line of
output is a JSON object: {"at": "reading", "done": 512, "total": 60000}, and at last {"result": …} or
{"error": …}. A process of its own has a peak memory of its own, and whatever kills it kills one cell alone.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def _leave_with_the_runner() -> None:
    """A worker that went on alone would write into a folder where others work by then."""
    sys.stdin.read()
    os._exit(1)


def main() -> int:
    stopping: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda n, _: stopping.append(n))
    order = json.loads(sys.stdin.readline())
    sys.path += [place for place in order.get("path", ()) if place not in sys.path]
    threading.Thread(target=_leave_with_the_runner, daemon=True).start()

    # What a method of somebody's prints is not what the runner listens to.
    listened, sys.stdout = sys.stdout, sys.stderr

    def say(**line: Any) -> None:
        try:
            print(json.dumps(line), file=listened, flush=True)
        except OSError:  # nobody listens any more
            stopping.append(signal.SIGPIPE)

    from templora.errors import TemploraError
    from templora.evals.measuring.cell import Cell
    from templora.evals.measuring.measure import measure
    from templora.evals.measuring.plan import Plan
    from templora.evals.measuring.run import Stopped

    try:
        cell = Cell.from_dict(order["cell"])
        names = [cell.text, *([cell.other] if cell.other else [])]
        to, source = (cell.translation.target, cell.translation.source) if cell.translation else (None, None)
        texts: Sequence[Any] = Plan(cell.task, order["books"], names, to=to, from_=source).find_texts()
        result = measure(
            cell,
            texts[0],
            Path(order["folder"]),
            other=texts[1] if cell.other else None,
            threads=order["threads"],
            device=order["device"],
            progress=lambda at, done, total: say(at=at, done=done, total=total),
            stop=lambda: bool(stopping),
        )
    except Stopped:
        return 130
    except (TemploraError, MemoryError) as error:
        say(error=str(error) or "not enough memory")
        return 2
    except RuntimeError as error:
        if "memory" not in str(error):
            raise
        say(error="not enough memory")
        return 2
    say(result=result)
    return 0


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code)  # nothing is left to tidy; interpreters with many threads take their time
