"""The picture of a run: perplexity by position, base against adapted, and where the time went."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from templora.errors import TextError
from templora.runtime.files import told

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BASE, ADAPTED = "#8a8f98", "#c2410c"
_CURVES = (("base", "base", BASE), ("adapted", "adapted", ADAPTED), ("mixed", "mixture", "#7c2d12"))
_PHASES = (("decode", "#2563eb"), ("score", "#0d9488"), ("learn", ADAPTED), ("cache", "#a16207"))


def blank(width: float, height: float) -> Figure:
    """An empty figure, of so many inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained", dpi=120)
    FigureCanvasAgg(figure)
    return figure


def save(figure: Any, path: Path) -> None:
    """Writes it as PNG. Raises `TextError` if that cannot be written."""
    with told(TextError, f"{path}: the plot cannot be written"):
        figure.savefig(path, format="png", metadata={"Software": "templora"})


def plot_report(report: dict[str, Any], path: Path, title: str) -> None:
    """Draws a report (`templora.reports.run_report.build_report`) into a PNG.

    Raises:
        TextError: the file cannot be written.
    """
    save(draw_report(report, title), path)


def draw_report(report: Mapping[str, Any], title: str, *, time: bool = True) -> Figure:
    """The picture of a report; with `time`, also where that went."""
    figure = blank(9, 6 if time else 4)
    if time:
        curve, bar = figure.subplots(2, 1, height_ratios=[4, 1])
        _draw_time(report, bar)
    else:
        curve = figure.subplots()
    _draw_curve(report, curve, title)
    return figure


def _draw_curve(report: Mapping[str, Any], curve: Axes, title: str) -> None:
    rows = [c for c in report["chunks"] if c.get("targets")]
    for key, name, colour in _CURVES:
        if key == "mixed" and not (rows and all("mixed_nll" in c for c in rows)):
            continue
        values = [math.exp(min(700.0, c[f"{key}_nll"] / c["targets"])) for c in rows]
        where = [c["start"] + c["tokens"] / 2 for c in rows]
        if key != "mixed":
            curve.plot(where, values, ".", color=colour, alpha=0.35)
        overall = (report.get(key) or {}).get("perplexity")
        label = f"{name}: {overall:.2f} over all" if overall is not None else name
        curve.plot(where, _running(rows, f"{key}_nll"), "-", color=colour, label=label)
    if not rows:  # nothing was scored; what was learnt had a loss
        rows = [c | {"targets": 1} for c in report["chunks"] if c.get("loss") is not None]
        where = [c["start"] + c["tokens"] / 2 for c in rows]
        values = [math.exp(min(700.0, c["loss"])) for c in rows]
        curve.plot(where, values, ".-", color=ADAPTED, label="adapted: each chunk when it was learnt")
    curve.set(xlabel="position in the text (tokens)", ylabel="perplexity", title=title)
    rejected = [c["start"] for c in report["chunks"] if c.get("reason")]
    if rejected:
        curve.vlines(rejected, *curve.get_ylim(), colors="#dc2626", alpha=0.3, label="rolled back or skipped")
    curve.grid(alpha=0.2)
    if rows:
        curve.legend(title="dots: each chunk; line: so far")


def _draw_time(report: Mapping[str, Any], time: Axes) -> None:
    left = 0.0
    for name, colour in _PHASES:
        seconds = report["seconds"].get(name)  # a session's log knows some of them
        if seconds:
            time.barh([0], [seconds], left=left, color=colour, label=f"{name} {seconds:.1f} s")
            left += seconds
    time.set(yticks=[], xlabel="seconds", xlim=(0, left or 1))
    if left:
        time.legend(ncols=4, loc="upper center", bbox_to_anchor=(0.5, 1.5), frameon=False)


def _running(rows: list[dict[str, Any]], key: str) -> list[float]:
    """Perplexity of everything up to and including each chunk."""
    nlls = itertools.accumulate(row[key] for row in rows)
    tokens = itertools.accumulate(row["targets"] for row in rows)
    return [math.exp(min(700.0, nll / many)) for nll, many in zip(nlls, tokens, strict=True)]
