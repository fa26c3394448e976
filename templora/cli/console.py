"""What a run says on standard error: a status panel on a terminal, plain lines elsewhere, a receipt at the end."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections import deque
from typing import Any

from templora.cli import streams
from templora.cli.terminal import Cursor, fitted
from templora.events import ChunkLearned
from templora.metrics import perplexity
from templora.reports.run_report import TextReport

# A terminal that is smaller has no room for a panel.
_MIN_ROWS, _MIN_COLUMNS = 6, 10


class Console:
    """Progress of one run.

    On a terminal the two bottom rows are set aside for a panel that is redrawn in place, so that text can stream
    above it; elsewhere each chunk is a line. What was written before and after the panel is drawn is what a terminal
    would show without it: where the cursor may not be moved (`terminal`), the panel waits.
    """

    def __init__(self, quiet: bool = False) -> None:
        self._quiet = quiet or sys.stderr is None
        self._panel = not self._quiet and sys.stderr.isatty() and os.environ.get("TERM", "dumb") != "dumb"
        self._rows = 0  # of the terminal, where the panel is drawn
        self._moved = False  # the terminal's size has changed since, and what was drawn may lie anywhere
        self._size = self._measured()
        self._cursor = Cursor(self._size[0])
        self._drawn = -1.0

    def __enter__(self) -> Console:
        if self._panel:
            streams.watching.append(self._before_text)
        return self

    def __exit__(self, *error: object) -> None:
        self._close_panel()
        if self._before_text in streams.watching:
            streams.watching.remove(self._before_text)

    def line(self, text: str) -> None:
        """A line that stays, above the panel."""
        if not self._quiet:
            self._close_panel()
            streams.say(text + "\n")

    def chunk(self, text: str) -> None:
        """A chunk's line where there is no panel to show it."""
        if not self._panel:
            self.line(text)

    def status(self, text: str, now: bool = False) -> None:
        """Redraws the panel, at most ten times a second."""
        moment = time.monotonic()
        if not self._panel or (not now and 0 <= moment - self._drawn < 0.1):
            return
        self._measure()
        columns, rows = self._size
        if rows < _MIN_ROWS or columns < _MIN_COLUMNS:
            self._close_panel()
            return
        if self._cursor.may_be_last or self._moved:
            return
        self._drawn = moment
        if not self._rows:
            # Make room at the bottom, in the cursor's column, then keep it out of the scrolling region.
            streams.draw(f"\x1bD\x1bD\x1b[2A\x1b7\x1b[1;{rows - 2}r\x1b8")
            self._rows = rows
        # Without wrapping: how wide the terminal draws it, is not known for sure.
        streams.draw(
            f"\x1b7\x1b[?7l\x1b[{rows - 1};1H\x1b[2K\x1b[2m{'─' * columns}\x1b[0m"
            f"\x1b[{rows};1H\x1b[2K{fitted(text, columns)}\x1b[?7h\x1b8"
        )

    def _measured(self) -> tuple[int, int]:
        """Columns and rows of the terminal; none where there is no terminal."""
        with contextlib.suppress(OSError, ValueError, AttributeError):
            return os.get_terminal_size(sys.stderr.fileno())
        return 0, 0

    def _measure(self) -> None:
        """Looks whether the terminal has another size now.

        It has then given up the scrolling region, and moved all that it shows; but the panel is still below the cursor.
        """
        size = self._measured()
        if size != self._size:
            self._cursor.resize(size[0])
            self._size, self._moved = size, self._rows > 0
        if self._moved and not self._cursor.may_be_last:
            streams.draw("\x1b7\x1b[r\x1b8\x1b[J")
            self._rows, self._moved = 0, False

    def _before_text(self, text: str) -> None:
        self._measure()
        self._cursor.feed(text)

    def _close_panel(self) -> None:
        """Gives the terminal back whole; what comes next begins a line."""
        if not self._panel:
            return
        self._measure()
        if self._rows and not self._moved:
            streams.draw(f"\x1b7\x1b[{self._rows - 1};1H\x1b[J\x1b[r\x1b8")
        elif self._rows:
            streams.draw("\x1b7\x1b[r\x1b8")
        if not self._cursor.at_start:
            streams.say("\n")
        if self._rows and self._moved:
            streams.draw("\x1b[J")
        self._rows, self._moved = 0, False


class Pace:
    """How long recent work took, each kind of it."""

    def __init__(self) -> None:
        self._took: dict[str, deque[tuple[float, float]]] = {}
        self.start()

    def start(self) -> None:
        """What comes next begins now."""
        self._since = time.perf_counter()

    def took(self, kind: str, amount: float, last: int = 8) -> None:
        """The time since the last call was work of this kind: so much of it, of which the last few times count."""
        now = time.perf_counter()
        self._took.setdefault(kind, deque(maxlen=last)).append((now - self._since, amount))
        self._since = now

    def each(self, kind: str) -> float | None:
        """Seconds of one of a kind; None: not known yet."""
        took = self._took.get(kind, ())
        amount = sum(amount for _, amount in took)
        return sum(seconds for seconds, _ in took) / amount if amount else None

    def left(self, **todo: float) -> str:
        """How long so much of some kinds will take, in words; kinds that are not known yet are left out."""
        known = [each * max(0.0, many) for kind, many in todo.items() if (each := self.each(kind)) is not None]
        return clock(sum(known)) if known else "?"


def bar(done: int, total: int, width: int = 20) -> str:
    filled = round(width * done / max(1, total))
    return "█" * filled + "░" * (width - filled)


def clock(seconds: float) -> str:
    """Seconds as people read them: 8 s, 3 min 20 s, 2 h 05 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def figures(text: TextReport) -> str:
    """The perplexities of a text so far, in words."""
    base, ours = (perplexity(x.nll, x.tokens) for x in (text.base, text.ours))
    if base is None or ours is None:
        return "perplexity not yet known"
    return f"perplexity base {base:.3f} with the adapter {ours:.3f} ({100 * (ours / base - 1):+.2f} %)"


def learned_text(event: ChunkLearned) -> str:
    if event.committed:
        loss = f", loss {event.loss:.3f}" if event.loss is not None else ""
        return f"learnt in {event.seconds:.1f} s (version {event.version}{loss})"
    return f"NOT learnt, version {event.version} goes on: {event.reason}"


def receipt(report: dict[str, Any], notes: list[str]) -> str:
    """The end of a run, for people."""
    seconds, flops, config = report["seconds"], report["flops"], report["config"] or {}
    learnt = f"{report['committed']} learnt, {report['rejected']} rolled back or skipped"
    if not report["committed"] and not report["rejected"]:
        learnt = "nothing was learnt"
        if config.get("learning") == "off":
            learnt += " (--learning off)"
        elif config.get("learning") == "parallel":
            learnt += ": parallel learning commits a chunk at the end of the next one, and no second one filled up"
        else:
            what = "tokens" if config.get("learn_written") or report["command"] != "write" else "given tokens"
            learnt += f": no chunk of {config.get('chunk_size', '?')} {what} filled up"
    phases = ("decode", "score", "learn", "cache")
    times = ", ".join(f"{phase} {seconds[phase]:.1f} s" for phase in phases if seconds[phase])
    work = ", ".join(f"{phase} {flops[phase] / 1e12:.2f}" for phase in phases if flops[phase])
    again = f", doing again what it was {seconds['again']:.1f} s" if "again" in seconds else ""
    left = ("adapter discarded", _yes(report["discarded"]))
    if kept := report.get("session"):
        gone = "nothing of it is left on the model" if report["discarded"] else "SOMETHING OF IT IS LEFT ON THE MODEL"
        left = ("adapter", f"kept on disk with session {kept['name']}; {gone}")
    before = f", after {kept['tokens_before']:,} that the session had" if kept and kept["tokens_before"] else ""
    rows = [
        ("tokens", f"{report['tokens']:,}{before}"),
        ("chunks", learnt),
        ("time", f"{clock(seconds['total'])} ({times}{again})"),
        ("compute", f"{flops['total'] / 1e12:.2f} TFLOP ({work})"),
        ("peak memory", f"{report['peak_memory_bytes'] / 1e9:.2f} GB"),
        ("base unchanged", f"{_yes(report['base_unchanged'])} (sha256 {str(report['model']['sha256'])[:12]})"),
        left,
    ]
    rows += [("note", note) for note in notes]
    return "\n".join(["── receipt " + "─" * 40, *(f"{name:<18}{value}" for name, value in rows)])


def _yes(value: bool) -> str:
    return "yes" if value else "NO"
