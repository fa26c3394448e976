"""What a run says on standard error: a status panel on a terminal, plain lines elsewhere, a receipt at the end."""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING, Any

from templora.cli.streams import say
from templora.events import ChunkLearned
from templora.metrics import perplexity

if TYPE_CHECKING:
    from templora.report import TextReport


class Console:
    """Progress of one run.

    On a terminal the two bottom rows are set aside for a panel that is redrawn in place, so that text can stream
    above it; elsewhere each chunk is a line.
    """

    def __init__(self, quiet: bool = False) -> None:
        self._quiet = quiet or sys.stderr is None
        self._panel = not self._quiet and sys.stderr.isatty() and os.environ.get("TERM", "dumb") != "dumb"
        self._rows = 0
        self._drawn = 0.0

    def __enter__(self) -> Console:
        return self

    def __exit__(self, *error: object) -> None:
        self._close_panel()

    def line(self, text: str) -> None:
        """A line that stays, above the panel."""
        if not self._quiet:
            if self._rows:
                self._close_panel()
                self._write("\n")
            self._write(text + "\n")

    def chunk(self, text: str) -> None:
        """A chunk's line where there is no panel to show it."""
        if not self._panel:
            self.line(text)

    def status(self, text: str, now: bool = False) -> None:
        """Redraws the panel, at most ten times a second."""
        moment = time.monotonic()
        if not self._panel or (not now and moment - self._drawn < 0.1):
            return
        self._drawn = moment
        try:
            columns, rows = os.get_terminal_size(sys.stderr.fileno())
        except OSError:
            return
        if rows < 6:
            return
        if rows != self._rows:
            # Make room at the bottom, then keep it out of the scrolling region.
            self._write(f"\n\n\x1b[2A\x1b7\x1b[1;{rows - 2}r\x1b8")
            self._rows = rows
        rule = "─" * columns
        self._write(f"\x1b7\x1b[{rows - 1};1H\x1b[2K\x1b[2m{rule}\x1b[0m\x1b[{rows};1H\x1b[2K{text[:columns]}\x1b8")

    def _close_panel(self) -> None:
        if self._rows:
            self._write(f"\x1b7\x1b[{self._rows - 1};1H\x1b[J\x1b[r\x1b8")
            self._rows = 0

    def _write(self, text: str) -> None:
        say(text)


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
    seconds, flops = report["seconds"], report["flops"]
    learnt = f"{report['committed']} learnt, {report['rejected']} rolled back or skipped"
    if not report["committed"] and not report["rejected"]:
        learnt = "nothing was learnt"
        if report["config"] and report["config"]["learning"] == "off":
            learnt += " (--learning off)"
        elif report["config"] and report["config"]["learning"] == "parallel":
            learnt += ": parallel learning commits a chunk at the end of the next one, and no second one filled up"
        else:
            learnt += f": no chunk of {report['config']['chunk_size'] if report['config'] else '?'} tokens filled up"
    phases = ("decode", "score", "learn", "cache")
    beside = f"; {seconds['overlapped']:.1f} s of learning beside the rest" if seconds["overlapped"] else ""
    if "again" in seconds:
        beside = f", doing again what it was {seconds['again']:.1f} s{beside}"
    left = ("adapter discarded", _yes(report["discarded"]))
    if kept := report.get("session"):
        gone = "nothing of it is left on the model" if report["discarded"] else "SOMETHING OF IT IS LEFT ON THE MODEL"
        left = ("adapter", f"kept on disk with session {kept['name']}; {gone}")
    before = f", after {kept['tokens_before']:,} that the session had" if kept and kept["tokens_before"] else ""
    rows = [
        ("tokens", f"{report['tokens']:,}{before}"),
        ("chunks", learnt),
        (
            "time",
            f"{clock(seconds['total'])} ({', '.join(f'{p} {seconds[p]:.1f} s' for p in phases if seconds[p])}{beside})",
        ),
        (
            "compute",
            f"{flops['total'] / 1e12:.2f} TFLOP "
            f"({', '.join(f'{p} {flops[p] / 1e12:.2f}' for p in phases if flops[p])})",
        ),
        ("peak memory", f"{report['peak_memory_bytes'] / 1e9:.2f} GB"),
        ("base unchanged", f"{_yes(report['base_unchanged'])} (sha256 {str(report['model']['sha256'])[:12]})"),
        left,
    ]
    rows += [("note", note) for note in notes]
    return "\n".join(["── receipt " + "─" * 40, *(f"{name:<18}{value}" for name, value in rows)])


def _yes(value: bool) -> str:
    return "yes" if value else "NO"
