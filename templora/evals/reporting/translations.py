"""Tables of translations: how good they are with the adapter and without, and what each term was called."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from templora.evals.measuring.cell import Translating
from templora.evals.reporting.groups import Group, recipe_label, told_apart
from templora.evals.reporting.page import Table
from templora.evals.reporting.statistics import Pair, change, figures
from templora.evals.reporting.tables import between, number, percent, sure
from templora.translation.quality import consistency, similarity, terms

# Of a document, for the table by position.
_PARTS = 4
# Terms listed, at most.
_TERMS = 20


@dataclass(frozen=True)
class Comparison:
    """One setting with an adapter beside the same without, over the documents that both translated.

    Args:
        name: in tables.
        group: the one with the adapter.
        comet: a model for COMET; None for none.
    """

    name: str
    group: Group
    comet: str | None = None

    @cached_property
    def rows(self) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Paragraphs without the adapter, and with it."""
        return self.group.compared

    @property
    def changes(self) -> list[Pair]:
        """NLLs of the references, paragraph by paragraph; none where they were not revealed."""
        return _changes(*self.rows)

    @cached_property
    def measured(self) -> dict[str, Any]:
        """BLEU, chrF++ and TER of both (`quality.compare`).

        Raises:
            ModelError: sacrebleu is not installed.
        """
        base, ours = self.rows
        references = [row["reference"] for row in ours]
        return similarity.compare(_own(base), _own(ours), references, _how(self.group).target)

    @cached_property
    def terms(self) -> dict[str, Any]:
        base, ours = self.rows
        sources = [row["source"] for row in ours]
        return consistency.compare(sources, _own(base), _own(ours), terms.source_terms(sources))

    @cached_property
    def comets(self) -> list[similarity.Comet]:
        """Without the adapter, and with it."""
        return [
            similarity.comet([r["source"] for r in rows], _own(rows), [r["reference"] for r in rows], self.comet)
            for rows in self.rows
        ]

    @property
    def updates(self) -> tuple[int, int]:
        """Learnt, and not."""
        learnt = [chunk["committed"] for row in self.rows[1] for chunk in row["learnt"]]
        return sum(learnt), len(learnt) - sum(learnt)

    @property
    def learnt_until(self) -> str:
        """The last paragraph with which a chunk was learnt, of how many: learning stops where it does harm."""
        ours = self.rows[1]
        last = max((n for n, row in enumerate(ours, 1) if any(c["committed"] for c in row["learnt"])), default=0)
        return f"{last:,} of {len(ours):,}"

    @property
    def slower(self) -> float | None:
        """Seconds with the adapter, of those without; None on another device, or where other programs ran beside it."""
        base, ours = self.group.base, self.group
        alike = base and base.seconds_mean_something and ours.seconds_mean_something and base.devices == ours.devices
        base_seconds, seconds = (math.fsum(row["seconds"] for row in rows) for rows in self.rows)
        return seconds / base_seconds if alike else None


def comparisons(groups: Sequence[Group], comet: str | None = None) -> list[Comparison]:
    """Each setting whose base was measured: `reference` first, then those with an adapter, and short contexts first."""
    found = [g for g in groups if g.pairs]
    found.sort(key=lambda g: (_how(g).targets != "reference", not g.cell.source.reads, g.cell.config.window))
    return [Comparison(name, g, comet) for name, g in told_apart(found, _label)]


def _how(group: Group) -> Translating:
    assert group.cell.translation is not None
    return group.cell.translation


def _label(group: Group) -> str:
    cell = group.cell
    learns = recipe_label(cell.config) if cell.source.reads else "no adapter"
    return f"{_setting(group)}{_settled(group)}, {learns}"


def _settled(group: Group) -> str:
    return ", terms settled" if _how(group).terms == "settle" else ""


def _setting(group: Group) -> str:
    """What is revealed, and how much context a chunk has."""
    config = group.cell.config
    return f"{_how(group).targets}, k{(config.window - config.chunk_size) / config.chunk_size:g}"


def headline(one: Comparison) -> str:
    """What was found of the main setting."""
    how, cell = _how(one.group), one.group.cell
    revealed = "the true translation revealed after each" if how.targets == "reference" else "nothing revealed"
    penalty = "" if how.repetition_penalty == 1 else f", repetition penalty {how.repetition_penalty:g}"
    said = [f"{name} {_change(one.measured[key])}" for key, name in similarity.NAMES.items()]
    if one.changes:
        said.insert(0, f"perplexity of the reference {sure(one.changes)}")
    learnt, left = one.updates
    return (
        f"{len(one.rows[1]):,} paragraphs from {how.source} to {how.target}, {revealed}, translated by {cell.model} "
        f"greedily{penalty}{_settled(one.group)}: {'; '.join(said)}, against the same model and window alone; paired "
        f"bootstrap over paragraphs, 95 % intervals. {learnt} chunks were learnt, {left} not. kN: before a chunk of "
        f"{cell.config.chunk_size} tokens, N times as many are seen."
    )


def _change(figure: dict[str, Any]) -> str:
    if figure["change_percent"] is None:
        return f"{figure['baseline']:.2f} → {figure['system']:.2f}"
    bounds = figure["change_interval"]
    share = None if bounds is None else (bounds[0] / 100, bounds[1] / 100)
    return percent(figure["change_percent"] / 100) + between(share)


def scores(found: Sequence[Comparison]) -> Table:
    """Each setting without and with the adapter."""
    comet = ["COMET"] if any(c.score is not None for one in found for c in one.comets) else []
    table = Table(
        "Base and adapted",
        ["", "perplexity of the reference", *similarity.NAMES.values(), *comet, "terms", "seconds"],
        note="TER: lower is better. Terms: of the paragraphs with a term of the source, the share with its commonest "
        "rendering. Seconds a paragraph (* other programs ran meanwhile).",
    )
    for one in found:
        assert one.group.base is not None
        sides = ((f"{_setting(one.group)}, base", "baseline", one.group.base), (one.name, "system", one.group))
        for i, ((name, side, group), rows) in enumerate(zip(sides, one.rows, strict=True)):
            seconds = sum(row["seconds"] for row in rows) / max(1, len(rows))
            table.rows.append([
                name, number(figures(rows).perplexity, 3),
                *(number(one.measured[key][side]) for key in similarity.NAMES),
                *(number(one.comets[i].score, 4) for _ in comet), _share(one.terms[side]["share"]),
                number(seconds) + ("" if group.seconds_mean_something else "*"),
            ])  # fmt: skip
    return table


def differences(found: Sequence[Comparison]) -> Table:
    """What the adapter changes."""
    names = similarity.NAMES.values()
    rows = [
        [
            one.name, sure(one.changes), *(_change(one.measured[key]) for key in similarity.NAMES),
            _points(one.terms["difference"]) + between(one.terms["interval"]), *map(str, one.updates),
            one.learnt_until, number(one.slower),
        ]
        for one in found
    ]  # fmt: skip
    return Table(
        "What the adapter changes",
        ["", "perplexity of the reference", *names, "terms", "chunks learnt", "not", "until", "time"],
        rows,
        note="Against the same without it, with 95 % intervals; terms in points. Until: the last paragraph with which "
        "a chunk was learnt. Time: times that of the base.",
    )


def by_position(found: Sequence[Comparison]) -> Table:
    """The same in parts of the documents: what is learnt should tell more and more."""
    table = Table(
        "By position in the document",
        ["", "paragraphs", "perplexity of the reference", "BLEU, base", "adapted", "chrF++, base", "adapted"],
        note=f"Each document in {_PARTS} parts of as many paragraphs.",
    )
    for one in found:
        both, target = one.group.both.values(), _how(one.group).target
        for part in range(_PARTS):
            base, ours = ([row for pair in both for row in _part(pair[side]["chunks"], part)] for side in (0, 1))
            if not ours:
                continue
            q = [similarity.measure(_own(rows), [r["reference"] for r in rows], target) for rows in (base, ours)]
            table.rows.append([
                f"{one.name}, {part + 1} of {_PARTS}", str(len(ours)), percent(change(_changes(base, ours))),
                *(number(which[key]["score"]) for key in ("bleu", "chrf") for which in q),
            ])  # fmt: skip
    return table


def _part(rows: Sequence[dict[str, Any]], part: int) -> Sequence[dict[str, Any]]:
    return rows[part * len(rows) // _PARTS : (part + 1) * len(rows) // _PARTS]


def term_table(one: Comparison) -> Table:
    """What each term was called, the commonest terms first."""
    both = zip(one.terms["baseline"]["terms"], one.terms["system"]["terms"], strict=True)
    commonest = sorted(both, key=lambda pair: -pair[0]["segments"])[:_TERMS]
    return Table(
        f"Terms: {one.name}",
        ["term", "paragraphs", "base", "adapted"],
        [[base["term"], str(base["segments"]), _renderings(base), _renderings(ours)] for base, ours in commonest],
        note="What stands for a term where it stands in the source, and how often; other: where nothing was found that "
        "goes with it.",
    )


def _renderings(use: dict[str, Any]) -> str:
    said = [f"{r['text']} {r['segments']}" for r in use["renderings"][:3]]
    return ", ".join([*said, *([f"other {use['other']}"] if use["other"] else [])])


def signatures(found: Sequence[Comparison]) -> Table:
    """How scores were computed, so that others can compute the same."""
    table = Table("Signatures", ["", "sacreBLEU's signature"])
    known = {(key, one.measured[key]["signature"]) for one in found for key in similarity.NAMES}
    table.rows += [[similarity.NAMES[key], signature] for key, signature in sorted(known)]
    for said in sorted({c.reason for one in found for c in one.comets if c.reason and one.comet}):
        table.rows.append(["COMET", said])
    return table


def _own(rows: Sequence[dict[str, Any]]) -> list[str]:
    return [row["own"] for row in rows]


def _changes(base: Sequence[dict[str, Any]], ours: Sequence[dict[str, Any]]) -> list[Pair]:
    return [Pair(b["nll"], o["nll"], o["targets"]) for b, o in zip(base, ours, strict=True) if o["targets"]]


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.1%}"


def _points(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:+.1f}".replace("-", "−")
