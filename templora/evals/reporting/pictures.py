"""Plots of an evaluation. Each function draws one figure."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

from templora.evals.reporting.groups import Group, method_label
from templora.evals.reporting.statistics import figures
from templora.reports.plots import ADAPTED, BASE, blank

_TEXTS = ("#2563eb", "#0d9488", "#a16207", "#7c3aed", "#be185d", "#4d7c0f", "#0369a1", "#b45309")


def gain_by_position(group: Group) -> Any:
    """How the perplexity is lowered as the text goes on: each text, and all of them so far."""
    figure = blank(8, 4)
    axes = figure.subplots()
    texts = sorted(group.results)
    for text, colour in zip(texts, itertools.cycle(_TEXTS)):
        where, values = _running(group, [text])
        axes.plot(where, values, color=colour, alpha=0.7, linewidth=1.2, label=text)
    if len(texts) > 1:
        where, values = _running(group, texts)
        axes.plot(where, values, color=ADAPTED, linewidth=2.5, label="all")
    axes.axhline(0, color=BASE, linewidth=1)
    axes.set(xlabel="tokens read", ylabel="change of perplexity so far (%)")
    axes.grid(alpha=0.2)
    axes.legend(fontsize="small", ncols=2)
    return figure


def _running(group: Group, texts: Sequence[str]) -> tuple[list[int], list[float]]:
    """Change of perplexity, in percent, of everything up to each position."""
    gains: dict[int, list[float]] = {}
    for bare, adapted in (both for text, both in group.both.items() if text in texts):
        for ours, base in zip(adapted["chunks"], bare["chunks"], strict=True):
            entry = gains.setdefault(ours["start"] + ours["tokens"], [0.0, 0.0])
            entry[0] += ours["nll"] - base["nll"]
            entry[1] += ours["targets"]
    where, values, nll, tokens = [], [], 0.0, 0.0
    for at in sorted(gains):
        nll, tokens = nll + gains[at][0], tokens + gains[at][1]
        where.append(at)
        values.append(100 * math.expm1(min(700.0, nll / max(1.0, tokens))))
    return where, values


def compatibility(pairs: Sequence[tuple[Group, Group]]) -> Any:
    """Perplexity of each method, without (grey) and with the adapter."""
    figure = blank(8, 0.55 * len(pairs) + 1.2)
    axes = figure.subplots()
    for row, (_, ours) in enumerate(reversed(pairs)):
        a, b = (figures(chunks).perplexity or math.nan for chunks in ours.compared)
        axes.plot([a, b], [row, row], color=BASE, linewidth=2, zorder=1)
        axes.scatter([a], [row], color=BASE, s=50, zorder=2, label="without" if row == 0 else None)
        axes.scatter([b], [row], color=ADAPTED, s=50, zorder=2, label="with the adapter" if row == 0 else None)
    axes.set_yticks(range(len(pairs)), [method_label(b.cell) for b, _ in reversed(pairs)])
    axes.set(xlabel="perplexity")
    axes.grid(alpha=0.2, axis="x")
    axes.legend(fontsize="small")
    return figure


def efficiency(main: Group, others: Sequence[Group]) -> Any:
    """Perplexity against compute and memory: what a longer window costs, and what the adapter does."""
    figure = blank(9, 3.8)
    left, right = figure.subplots(1, 2, sharey=True)
    for g in [g for g in (*others, main) if g.tokens]:
        colour, name = (ADAPTED, "with the adapter") if g is main else (BASE, None)
        value = figures(g.chunks).perplexity
        compute = g.total("flops", "all") / 1e9 / g.tokens
        memory = g.most("peak_memory_bytes") / 1e9
        for axes, x in ((left, compute), (right, memory)):
            axes.scatter([x], [value], color=colour, s=60, zorder=2, label=name)
            other = "" if g.cell.method == "sliding_window" else f"{g.cell.method.replace('_', ' ')} "
            short = f"{other}{g.cell.config.window:,}" + (" + adapter" if g is main else "")
            axes.annotate(short, (x, value), xytext=(0, 7), textcoords="offset points", fontsize="small", ha="center")
    left.set(xlabel="TFLOP per 1,000 tokens", ylabel="perplexity")
    right.set(xlabel="peak memory (GB)")
    for axes in (left, right):
        axes.grid(alpha=0.2)
        axes.margins(x=0.2, y=0.15)
    return figure


def sweep(option: str, points: Sequence[tuple[str, Group]]) -> Any:
    """Change of perplexity by one option."""
    figure = blank(4.5, 3)
    axes = figure.subplots()
    labels = [label.replace(", ", "\n").replace("_proj", "") for label, _ in points]
    values = [100 * (g.change or 0.0) for _, g in points]
    where = range(len(labels))
    axes.plot(where, values, "o-", color=ADAPTED)
    bounds = [g.interval for _, g in points]
    if all(bounds):
        axes.fill_between(where, [100 * b[0] for b in bounds if b], [100 * b[1] for b in bounds if b],
                          color=ADAPTED, alpha=0.12)  # fmt: skip
    axes.set_xticks(where, labels, fontsize="small")
    axes.set(xlabel=option, ylabel="change of perplexity (%)")
    axes.grid(alpha=0.2)
    return figure
