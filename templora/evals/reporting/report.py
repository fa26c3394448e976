"""The report of an evaluation: sections of tables and plots, as Markdown with PNGs beside it and as one HTML page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from templora.errors import ModelError, TextError
from templora.evals.reporting import pictures, tables, translations
from templora.evals.reporting.groups import Group, group, method_label, recipe_label
from templora.evals.reporting.page import Section, Table, markdown, page
from templora.evals.reporting.results import ResultError
from templora.evals.reporting.tables import percent
from templora.reports.plots import save
from templora.runtime.files import told


def sections(results: Sequence[dict[str, Any]], comet: str | None = None) -> list[Section]:
    """Everything that these results have to say.

    Args:
        results: as `templora.evals.reporting.results` reads them.
        comet: a model that scores translations too, as for `templora.translation.quality.similarity.comet`.

    Raises:
        ResultError: there are none.
    """
    groups = group(results)
    if not groups:
        raise ResultError("there are no results; run `templora eval` first")
    found = []
    names = sorted({g.cell.model for g in groups})
    for model in names:
        own = [g for g in groups if g.cell.model == model]
        prefix = f"{model}: " if len(names) > 1 else ""
        alike = sum(_slug(name) == _slug(model) for name in names) > 1
        slug = f"{_slug(model)}-{names.index(model) + 1}" if alike else _slug(model)
        books = [g for g in own if not g.cell.translation]
        said = [
            *(_of_model(books, slug) if books else []),
            *_of_translations([g for g in own if g not in books], comet),
        ]
        found += [Section(prefix + s.title, s.text, s.tables, s.plots) for s in said]
    beside = tables.side_by_side(groups)
    if beside is not None:
        found.append(Section("Models and methods", "", [beside]))
    notes = _notes(results)
    about = [_provenance(results), *([notes] if notes.rows else [])]
    cells, texts = sum(len(g.results) for g in groups), {text for g in groups for text in g.results}
    counted = f"{cells} cells, {len(texts)} texts, {sum(g.tokens for g in groups):,} tokens read."
    found.append(Section("How it was measured", counted, about))
    return found


def _of_model(groups: Sequence[Group], slug: str) -> list[Section]:
    main = tables.main_group(groups)
    found = []
    if main is not None:
        found.append(
            Section(
                "Perplexity",
                headline(main),
                [tables.by_position(main), tables.by_length(main), tables.definitions(main)],
                [(f"{slug}-position", "Change of perplexity as the text goes on", pictures.gain_by_position(main))],
            )
        )
        assert main.base is not None
        same = [g for g in groups if g.cell.bare.setting == main.base.cell.setting]
        same.sort(key=lambda g: (g.cell.source.reads, g is not main, g.cell.adapter != "own"))
        swept = tables.sweeps(groups, main)
        in_sweeps = {id(g) for points in swept.values() for _, g in points} - {id(main)}
        shown = [g for g in same if id(g) not in in_sweeps and g.results]
        with_adapter = [g for g in shown if g.pairs]
        others = any(g.cell.adapter not in ("none", "own") for g in shown)
        title, text = ("Memory or manner", "") if others else ("The adapter", _NO_CONTROL)
        found.append(Section(title, text, [tables.adapters(shown), tables.by_text(with_adapter)]))
    # Other chunks and caches are a matter of sweeps, not of methods.
    usual = [g for g in groups if main is None or _sizes(g) == _sizes(main)]
    both = tables.with_and_without(usual)
    if not both and any(g.results for g in usual):
        found.append(Section("Without an adapter", "", [tables.bare(usual)]))
    elif len({g.cell.bare.setting for g in usual}) > 1:
        table = tables.compatibility(usual)
        if len(table.rows) > 1:
            plots = [(f"{slug}-methods", "Each method without and with the adapter", pictures.compatibility(both))]
            found.append(Section("Other methods", "", [table], plots if both else []))
    if main is not None:
        whole = [g for g in usual if set(main.results) <= set(g.results)]
        bare = [g for g in whole if not g.cell.source.reads]
        plots = []
        if any(g.cell.config.window != main.cell.config.window for g in bare):
            plots = [(f"{slug}-efficiency", "Perplexity against cost", pictures.efficiency(main, bare))]
        found.append(Section("What it costs", "", [tables.efficiency(whole, main)], plots))
        if swept:
            plots = [(f"{slug}-{o}", f"Sensitivity: {o}", pictures.sweep(o, points)) for o, points in swept.items()]
            found.append(Section("Sensitivity", "", [tables.sensitivity(*one) for one in swept.items()], plots))
    with_adapter = [g for g in groups if g.pairs]
    if with_adapter:
        found.append(Section("Harm", "", [tables.harm(with_adapter)]))
    return found


def _of_translations(groups: Sequence[Group], comet: str | None) -> list[Section]:
    found = translations.comparisons(groups, comet)
    if not found:
        return [Section("Translation", "There is nothing to compare yet.")] if groups else []
    try:
        said = translations.headline(found[0])
    except ModelError as error:  # sacreBLEU is not installed
        return [Section("Translation", f"There are no scores: {error}.")]
    shown = (translations.scores, translations.differences, translations.by_position, translations.signatures)
    return [
        Section("Translation", said, [table(found) for table in shown]),
        Section("Terms", "", [translations.term_table(one) for one in found]),
    ]


# Of fewer texts than this, a bootstrap over texts says little.
_FEW = 5
_NO_CONTROL = (
    "How much of this is memory of the text, and how much the manner of its kind? `--adapters none,own,other` tells: "
    "it adds an adapter that has learnt another text of the folder."
)


def _sizes(group: Group) -> tuple[int, int]:
    return group.cell.config.chunk_size, group.cell.config.cache_reuse


def headline(main: Group) -> str:
    """What was found of the main setting."""
    few_texts = len(main.pairs) < _FEW
    word = "lower" if (main.change or 0) < 0 else "HIGHER"
    sure = f", 95 % interval{tables.between(main.interval)}" if main.interval else ""
    few = (
        " With so few texts the interval is little more than the range of their figures." if sure and few_texts else ""
    )
    together = " and the base together make" if main.cell.config.mixture else " makes"
    how = f"{method_label(main.cell)}, recipe {recipe_label(main.cell.config)}; paired bootstrap over texts"
    return (
        f"Over {len(main.pairs)} texts and {sum(p.tokens for p in main.pairs):,} tokens, the temporary "
        f"adapter{together} the perplexity of {main.cell.model} {word}: {percent(main.change)}{sure} ({how}).{few}"
    )


def _slug(model: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in model.rstrip("/").rsplit("/", 1)[-1])


def _provenance(results: Sequence[dict[str, Any]]) -> Table:
    """Versions, device and commit of what was measured; each combination once."""
    table = Table("Versions", ["commit", "cells", "templora", "torch", "transformers", "python", "device"])
    keys = ("commit", "templora", "torch", "transformers", "python")
    done = [r for r in results if "versions" in r]
    found = Counter((*(str(r["versions"].get(k)) for k in keys), r["device"]) for r in done)
    table.rows += [[commit, str(count), *rest] for (commit, *rest), count in found.items()]
    return table


def _notes(results: Sequence[dict[str, Any]]) -> Table:
    """What the results themselves say that a reader should know."""
    said = dict.fromkeys((r["cell"]["text"], r["cell"]["model"], note) for r in results for note in r.get("notes", ()))
    return Table("Notes", ["text", "model", "note"], [list(row) for row in said])


def write_report(results: Sequence[dict[str, Any]], folder: Path, title: str, comet: str | None = None) -> list[Path]:
    """Writes `report.md`, its PNGs and `report.html` into `folder`; returns their paths. `comet`: as for `sections`.

    Raises:
        ResultError: there are no results.
        TextError: a file cannot be written.
    """
    found = sections(results, comet)
    written = []
    for section in found:
        for name, _, figure in section.plots:
            written.append(folder / f"{name}.png")
            save(figure, written[-1])
    for name, text in (("report.md", markdown(title, found)), ("report.html", page(title, found))):
        path = folder / name
        with told(TextError, f"{path}: the report cannot be written"):
            path.write_text(text, encoding="utf-8", errors="backslashreplace")
        written.append(path)
    return written
