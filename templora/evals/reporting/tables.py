"""Tables of an evaluation, from its results alone. What they say is worked out here; how it looks, elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

from templora.evals.reporting.groups import Group, differing, method_label, recipe_label, told_apart, typical
from templora.evals.reporting.statistics import Bucket, Pair, buckets, change, figures, interval

# Fields that may be swept, in the order of the paper's section on parameters.
SWEPT = (
    "epochs", "rank", "learning_rate", "chunk_size", "train_context", "target_modules", "layers", "cache_reuse",
    "dropout", "warmup_chunks", "adam_beta1", "adam_beta2", "window", "context_gradients",
)  # fmt: skip


@dataclass
class Table:
    """Cells of text under columns; the first column names the row."""

    title: str
    columns: Sequence[str]
    rows: list[Sequence[str]] = field(default_factory=list)
    note: str = ""
    strong: set[int] = field(default_factory=set)  # rows that matter most

    def markdown(self) -> str:
        rule = ["---", *["---:"] * (len(self.columns) - 1)]
        lines = [self.columns, rule, *([cell.replace("|", "\\|") for cell in row] for row in self.rows)]
        body = "\n".join("| " + " | ".join(line) + " |" for line in lines)
        return "\n\n".join(part for part in (f"### {self.title}", self.note, body) if part) + "\n"


def percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:+.2f} %".replace("-", "−")


def between(bounds: Sequence[float] | None) -> str:
    return "" if bounds is None else f" [{100 * bounds[0]:+.2f}, {100 * bounds[1]:+.2f}]".replace("-", "−")


def number(value: float | None, digits: int = 2) -> str:
    return "–" if value is None else f"{value:,.{digits}f}"


def _sure(pairs: Sequence[Pair]) -> str:
    return percent(change(pairs)) + between(interval(pairs))


# Sections -----------------------------------------------------------------------------------------------------------


def models(groups: Sequence[Group]) -> list[str]:
    return sorted({g.cell.model for g in groups})


def main_group(groups: Sequence[Group]) -> Group | None:
    """The setting that stands for Temp-LoRA: its own adapter over a sliding window."""
    return typical([g for g in groups if g.cell.adapter == "own" and g.cell.method == "sliding_window" and g.pairs])


def by_position(group: Group) -> Table:
    """Perplexity by position in the text: a chunk belongs where it begins."""
    longest = max(r["chunks"][-1]["start"] for r in group.results.values() if r["chunks"])
    return _bucketed("By position in the text", group, buckets(longest + 1), lambda _, chunk: int(chunk["start"]))


def by_length(group: Group) -> Table:
    """Perplexity by the length of the whole text, of which a run may have read only the beginning."""
    lengths = {text: int(r["text_tokens"]) for text, r in group.results.items()}
    return _bucketed("By length of the whole text", group, buckets(max(lengths.values()) + 1), lambda t, _: lengths[t])


def _bucketed(title: str, group: Group, into: Sequence[Bucket], where: Callable[[str, dict[str, float]], int]) -> Table:
    table = Table(title, ["tokens", "texts", "tokens read", "base", "with the adapter", "change"])
    for bucket in [*into, None]:
        kept: list[Pair] = []
        base_chunks, our_chunks = [], []
        for text, both in group.both.items():
            base, ours = ([c for c in r["chunks"] if bucket is None or where(text, c) in bucket] for r in both)
            if ours:
                tokens = sum(c["targets"] for c in ours)
                kept.append(Pair(sum(c["nll"] for c in base), sum(c["nll"] for c in ours), tokens))
                our_chunks += ours
                base_chunks += base
        if not kept:
            continue
        if bucket is None:
            table.strong.add(len(table.rows))
        table.rows.append([
            bucket.name if bucket else "all", str(len(kept)), f"{sum(p.tokens for p in kept):,}",
            number(figures(base_chunks).perplexity, 3), number(figures(our_chunks).perplexity, 3), _sure(kept),
        ])  # fmt: skip
    return table


def by_text(groups: Sequence[Group]) -> Table:
    """Each text on its own, under each setting with an adapter."""
    texts = sorted({text for g in groups for text in g.results})
    table = Table("Text by text", ["", *texts, "all"], note="Change of perplexity against the same without an adapter.")
    for g, name in zip(groups, told_apart(groups, _adapter_label), strict=True):
        cells = [percent(change([p])) if (p := g.pair(text)) else "–" for text in texts]
        table.rows.append([name, *cells, _sure(g.pairs)])
    return table


def _adapter_label(group: Group) -> str:
    source = group.cell.source
    return f"{source.label}, {recipe_label(group.cell.config)}" if source.reads else source.label


def definitions(group: Group) -> Table:
    """All definitions of perplexity side by side, since papers differ in which they print."""
    table = Table(
        "All definitions of perplexity",
        ["", "per token", "mean of chunks (the paper's scripts)", "per word (PG19)", "bits per byte"],
        note="Per token is exp(total NLL / tokens), the standard. The mean of chunks is never below it.",
    )
    found = [figures(chunks) for chunks in group.compared]
    for name, f in zip(("base", "with the adapter"), found, strict=True):
        table.rows.append([
            name, number(f.perplexity, 3), number(f.mean_chunk_perplexity, 3), number(f.word_perplexity),
            number(f.bits_per_byte, 4),
        ])  # fmt: skip
    ratios = [None if a is None or b is None else a / b - 1 for b, a in zip(*found, strict=True)]
    table.rows.append(["change", *map(percent, ratios)])
    return table


def adapters(groups: Sequence[Group]) -> Table:
    """What the adapter has learnt: the text, or, as controls, something else; and with which recipe."""
    table = Table(
        "What the adapter has learnt",
        ["", "texts", "perplexity", "change", "learning TFLOP", "all TFLOP"],
        note="TFLOP are per 1,000 tokens read."
        + (
            " What it took to learn another text is not among them. What an adapter of another text gains is manner, "
            "not memory."
            if any(g.cell.source.other for g in groups)
            else ""
        ),
    )
    for g, name in zip(groups, told_apart(groups, _adapter_label), strict=True):
        table.rows.append([
            name, str(len(g.results)), number(figures(g.chunks).perplexity, 3),
            _sure(g.pairs) if g.cell.source.reads else "", number(_per_thousand(g, "learn")),
            number(_per_thousand(g, "all")),
        ])  # fmt: skip
    return table


def _per_thousand(group: Group, part: str) -> float | None:
    return group.total("flops", part) / 1e9 / group.tokens if group.tokens else None


def with_and_without(groups: Sequence[Group]) -> list[tuple[Group, Group]]:
    """Each way to keep the context, and the same with its own adapter: of several recipes the typical one."""
    own = [(g, typical([o for o in groups if o.cell.adapter == "own" and o.base is g and o.pairs])) for g in groups]
    return [(g, ours) for g, ours in own if ours]


def compatibility(groups: Sequence[Group]) -> Table:
    """Each way to keep the context, without and with the adapter."""
    table = Table(
        "Each method without and with the adapter",
        ["", "texts", "without", "with", "change", "TFLOP without", "with", "seconds without", "with", "memory with"],
        note="TFLOP and seconds per 1,000 tokens read (* other programs ran meanwhile); memory is the process's peak.",
    )
    both = with_and_without(groups)
    names = told_apart([g for g, _ in both], lambda g: method_label(g.cell))
    for name, (g, o) in zip(names, both, strict=True):
        without, with_it = (figures(chunks).perplexity for chunks in o.compared)
        table.rows.append([
            name, str(len(o.pairs)), number(without, 3), number(with_it, 3), _sure(o.pairs),
            number(_per_thousand(g, "all")),
            number(_per_thousand(o, "all")), _seconds(g), _seconds(o), _gigabytes(o.most("peak_memory_bytes")),
        ])  # fmt: skip
    for g in groups:
        if g.reason and not g.results and not g.cell.source.reads:
            row = [method_label(g.cell), "not applicable: " + g.reason]
            table.rows.append([*row, *[""] * (len(table.columns) - len(row))])
    return table


def _seconds(group: Group) -> str:
    if not group.tokens:
        return "–"
    star = "" if group.seconds_mean_something else "*"
    return number(1000 * group.total("seconds", "all") / group.tokens) + star


def _gigabytes(value: float) -> str:
    return f"{value / 1e9:.2f} GB" if value else "–"


def efficiency(groups: Sequence[Group], main: Group) -> Table:
    """A short window with the adapter beside longer ones without, or the same one."""
    longer = any(g.cell.config.window > main.cell.config.window for g in groups)
    table = Table(
        "A short window with the adapter against longer ones without" if longer else "With the adapter, and without",
        ["", "perplexity", "against it", "TFLOP", "seconds", "peak memory", "keys and values"],
        note="TFLOP and seconds per 1,000 tokens read (* other programs ran meanwhile). 'Against it': perplexity "
        "against the first row's.",
    )
    kind = (main.cell.method, main.cell.adapter)
    alike = [g for g in groups if g.pairs and (g.cell.method, g.cell.adapter) == kind]
    cheaper = [g for g in alike if differing([main, g]) == ["checkpointing"]]
    rows = [
        main,
        *cheaper,
        *sorted(
            (g for g in groups if not g.cell.source.reads and g.results),
            key=lambda g: (g.cell.method != "sliding_window", g.cell.method, g.cell.config.window),
        ),
    ]
    for g in rows:
        both = {text: pair for text in main.results if (pair := g.pair(text, main))}
        if not both:
            continue
        name = method_label(g.cell) + (", with the adapter" if g.cell.source.reads else "")
        name += " and checkpointing" if g in cheaper else ""
        table.rows.append([
            name, number(figures([c for t in both for c in g.results[t]["chunks"]]).perplexity, 3),
            "" if g is main else _sure(list(both.values())), number(_per_thousand(g, "all")), _seconds(g),
            _gigabytes(g.most("peak_memory_bytes")), f"{g.most('kv_bytes') / 1e6:.1f} MB",
        ])  # fmt: skip
    table.strong.add(0)
    return table


def bare(groups: Sequence[Group]) -> Table:
    """Ways to keep the context that were measured without an adapter alone."""
    table = Table(
        "Each method",
        ["", "texts", "perplexity", "TFLOP", "seconds", "peak memory", "keys and values"],
        note="TFLOP and seconds per 1,000 tokens read (* other programs ran meanwhile).",
    )
    shown = [g for g in groups if not g.cell.source.reads and g.results]
    for g, name in zip(shown, told_apart(shown, lambda g: method_label(g.cell)), strict=True):
        table.rows.append([
            name, str(len(g.results)), number(figures(g.chunks).perplexity, 3), number(_per_thousand(g, "all")),
            _seconds(g), _gigabytes(g.most("peak_memory_bytes")), f"{g.most('kv_bytes') / 1e6:.1f} MB",
        ])  # fmt: skip
    return table


def side_by_side(groups: Sequence[Group]) -> Table | None:
    """Every model and method in one table, over the same part of the same texts; None where there is but one kind.

    What is predicted by base and adapter together stands beside what the adapter predicts by itself, so that there is
    something to compare rivals with that are mixed with nothing.
    """
    shown = _for_comparison([g for g in groups if g.results and not g.cell.translation])
    if len({(g.cell.model, g.cell.method, str(g.cell.options)) for g in shown}) < 2:
        return None
    texts = [
        t for t in shown[0].results if len({g.results[t]["cell"]["text_sha256"] for g in shown if t in g.results}) == 1
    ]
    texts = [t for t in texts if all(t in g.results for g in shown)]
    if not texts:
        return None
    # Another tokenizer's tokens reach less far, or further.
    ends = {t: min(sum(c["bytes"] for c in g.results[t]["chunks"]) for g in shown) for t in texts}
    many = len(models(shown)) > 1
    table = Table(
        "Side by side",
        ["", "bits per byte", "against the first", "per word", "per token", "TFLOP", "seconds"],
        note=f"Over what all of them read of {len(texts)} text{'s' * (len(texts) > 1)}, up to the end of a chunk. "
        + (
            "Bits per byte and perplexity per word compare models; per token only those of one tokenizer. "
            if many
            else ""
        )
        + "Mixed: predicted by base and adapter together. TFLOP and seconds per 1,000 tokens read (* other programs "
        "ran meanwhile).",
    )
    first: float | None = None
    names = told_apart(
        shown, lambda g: (f"{g.cell.model}: " if many else "") + f"{method_label(g.cell)}, {_adapter_label(g)}"
    )
    for name, g in zip(names, shown, strict=True):
        chunks = [c for t in texts for c in _up_to(g.results[t]["chunks"], ends[t])]
        alone = [c | {"nll": c["adapter_nll"]} for c in chunks if c.get("adapter_nll") is not None]
        cost = [number(_per_thousand(g, "all")), _seconds(g)]
        kinds = [(name + (", mixed" if g.cell.config.mixture else ""), chunks, cost)]
        if g.cell.config.mixture and len(alone) == len(chunks):
            kinds.append((f"{name}, by itself", alone, ["", ""]))
        for label, read, costs in kinds:
            f = figures(read)
            first = f.bits_per_byte if first is None else first
            against = None if f.bits_per_byte is None or not first else f.bits_per_byte / first - 1
            table.rows.append([
                label, number(f.bits_per_byte, 4), percent(against) if table.rows else "", number(f.word_perplexity),
                number(f.perplexity, 3), *costs,
            ])  # fmt: skip
    return table


def _for_comparison(groups: Sequence[Group]) -> list[Group]:
    """The typical one of several recipes of one kind; bare ones first."""
    kinds: dict[tuple[object, ...], list[Group]] = {}
    for g in groups:
        c = g.cell
        kind = (c.model, c.weights, c.dtype, c.method, str(c.options), c.code, c.adapter, c.config.window)
        kinds.setdefault((*kind, c.config.mixture), []).append(g)
    found = [typical(alike) for alike in kinds.values()]
    return sorted((g for g in found if g), key=lambda g: (g.cell.model, g.cell.source.reads))


def _up_to(chunks: Sequence[dict[str, Any]], end: int) -> list[dict[str, Any]]:
    """The chunks that end within the first `end` bytes."""
    ends = accumulate(chunk["bytes"] for chunk in chunks)
    return [chunk for chunk, at in zip(chunks, ends, strict=True) if at <= end]


@dataclass
class Sweep:
    """One option changed, everything else alike."""

    option: str
    points: list[tuple[str, Group]]

    def table(self) -> Table:
        table = Table(
            f"Sensitivity: {self.option}",
            [self.option, "texts", "base", "with the adapter", "change", "learning TFLOP", "all TFLOP", "seconds"],
        )
        for value, g in self.points:
            base, ours = (figures(chunks).perplexity for chunks in g.compared)
            table.rows.append([
                value, str(len(g.pairs)), number(base, 3), number(ours, 3), _sure(g.pairs),
                number(_per_thousand(g, "learn")),
                number(_per_thousand(g, "all")), _seconds(g),
            ])  # fmt: skip
        return table


def sweeps(groups: Sequence[Group], main: Group) -> list[Sweep]:
    """Settings that differ from the main one in one option alone, by option."""
    found = []
    for option in SWEPT:
        points = [main]
        for g in groups:
            alike = (g.cell.method, g.cell.options, g.cell.adapter) == (
                main.cell.method, main.cell.options, main.cell.adapter)  # fmt: skip
            changed = set(differing([main, g])) - ({"alpha"} if option == "rank" else set())
            if alike and g.pairs and changed == {option}:
                points.append(g)
        if len(points) > 1:
            values = [(_option(g, option), g) for g in points]
            found.append(Sweep(option, sorted(values, key=lambda v: _order(v[1], option))))
    return found


def _option(group: Group, option: str) -> str:
    value = getattr(group.cell.config, option)
    if option == "train_context" and value is None:
        value = group.cell.config.learn_context
    if option == "learning_rate" and value is None:  # the rule's
        value = next(iter(group.results.values()))["learning_rate"]
    if isinstance(value, tuple):
        return ", ".join(value)
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _order(group: Group, option: str) -> tuple[int, float, str]:
    text = _option(group, option)
    try:
        return 0, float(text), ""
    except ValueError:
        return 1, 0.0, text


def harm(groups: Sequence[Group]) -> Table:
    """Where an adapter did worst, text by text; nothing is left out."""
    table = Table(
        "Where the adapter did worst",
        ["", "text", "change of total loss", "change of perplexity"],
        note="The ten worst of all settings and texts. A change of total loss above +1 % would be harm.",
    )
    labels = told_apart(groups, lambda g: f"{g.cell.model}: {method_label(g.cell)}; {_adapter_label(g)}")
    found = []
    for g, name in zip(groups, labels, strict=True):
        for text in g.results:
            pair = g.pair(text)
            if pair and pair.base > 0:
                found.append((pair.ours / pair.base - 1, name, text, pair))
    for loss, name, text, pair in sorted(found, key=lambda f: -f[0])[:10]:
        table.rows.append([name, text, percent(loss), percent(change([pair]))])
    return table


def counted(groups: Sequence[Group]) -> str:
    """A sentence on what there is."""
    texts = {t for g in groups for t in g.results}
    cells = sum(len(g.results) for g in groups)
    tokens = sum(g.tokens for g in groups)
    return f"{cells} cells, {len(texts)} texts, {tokens:,} tokens read."
