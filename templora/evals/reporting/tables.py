"""Tables of an evaluation, from its results alone. What they say is worked out here; how it looks, elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate
from typing import Any, TypeAlias, TypeVar

from templora.evals.reporting.groups import Group, differing, method_label, recipe_label, told_apart, typical
from templora.evals.reporting.page import Table
from templora.evals.reporting.statistics import ALL, Bucket, Pair, buckets, change, figures, interval

# Fields that may be swept, in the order of the paper's section on parameters.
SWEPT = (
    "epochs", "rank", "learning_rate", "chunk_size", "train_context", "target_modules", "layers", "cache_reuse",
    "dropout", "warmup_chunks", "adam_beta1", "adam_beta2", "window", "context_gradients",
)  # fmt: skip


Row = TypeVar("Row")
# What stands above it, and what it says of a row.
Column: TypeAlias = tuple[str, Callable[[Row], str]]


def percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:+.2f} %".replace("-", "−")


def between(bounds: Sequence[float] | None) -> str:
    return "" if bounds is None else f" [{100 * bounds[0]:+.2f}, {100 * bounds[1]:+.2f}]".replace("-", "−")


def number(value: float | None, digits: int = 2) -> str:
    return "–" if value is None else f"{value:,.{digits}f}"


def sure(pairs: Sequence[Pair]) -> str:
    return percent(change(pairs)) + between(interval(pairs))


def tabulated(
    title: str, rows: Iterable[tuple[str, Row]], columns: Sequence[Column[Row]], *, first: str = "", note: str = ""
) -> Table:
    """A table of named rows; `first` stands above the names."""
    headings = [first, *(heading for heading, _ in columns)]
    return Table(title, headings, [[name, *(say(row) for _, say in columns)] for name, row in rows], note)


# Columns ------------------------------------------------------------------------------------------------------------


def _tflop(part: str) -> Callable[[Group], str]:
    return lambda g: number(g.total("flops", part) / 1e9 / g.tokens if g.tokens else None)


def _seconds(group: Group) -> str:
    if not group.tokens:
        return "–"
    return number(1000 * group.total("seconds", "all") / group.tokens) + ("" if group.seconds_mean_something else "*")


def _compared(side: int) -> Callable[[Group], str]:
    """Perplexity of the base (0) or with the adapter (1), over what both have read."""
    return lambda g: number(figures(g.compared[side]).perplexity, 3)


def _without(say: Callable[[Group], str]) -> Callable[[Group], str]:
    """The same of the base."""
    return lambda g: say(g.base) if g.base else "–"


_TEXTS: Column[Group] = ("texts", lambda g: str(len(g.results)))
_BOTH: Column[Group] = ("texts", lambda g: str(len(g.pairs)))
_PERPLEXITY: Column[Group] = ("perplexity", lambda g: number(figures(g.chunks).perplexity, 3))
_CHANGE: Column[Group] = ("change", lambda g: sure(g.pairs) if g.cell.source.reads else "")
_LEARNING: Column[Group] = ("learning TFLOP", _tflop("learn"))
_ALL: Column[Group] = ("all TFLOP", _tflop("all"))
_SECONDS: Column[Group] = ("seconds", _seconds)
_MEMORY: Column[Group] = ("peak memory", lambda g: f"{m / 1e9:.2f} GB" if (m := g.most("peak_memory_bytes")) else "–")
_COSTS: Sequence[Column[Group]] = (
    ("TFLOP", _tflop("all")),
    _SECONDS,
    _MEMORY,
    ("keys and values", lambda g: f"{g.most('kv_bytes') / 1e6:.1f} MB"),
)
_MEASURED = "TFLOP and seconds per 1,000 tokens read (* other programs ran meanwhile)"


# Sections -----------------------------------------------------------------------------------------------------------


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
    for bucket in (*into, ALL):
        parts = [
            [[c for c in result["chunks"] if where(text, c) in bucket] for result in both]
            for text, both in group.both.items()
        ]
        kept = [(base, ours) for base, ours in parts if ours]
        if kept:
            pairs = [Pair(_sum(base, "nll"), _sum(ours, "nll"), int(_sum(ours, "targets"))) for base, ours in kept]
            sides = ([c for chunks in side for c in chunks] for side in zip(*kept, strict=True))
            perplexities = (number(figures(chunks).perplexity, 3) for chunks in sides)
            read = f"{sum(p.tokens for p in pairs):,}"
            table.rows.append([bucket.name, str(len(kept)), read, *perplexities, sure(pairs)])
    table.strong = {len(table.rows) - 1}
    return table


def _sum(chunks: Sequence[dict[str, Any]], key: str) -> float:
    return float(sum(chunk[key] for chunk in chunks))


def by_text(groups: Sequence[Group]) -> Table:
    """Each text on its own, under each setting with an adapter."""

    def change_of(text: str) -> Column[Group]:
        return text, lambda g: percent(change([pair])) if (pair := g.pair(text)) else "–"

    columns = [*map(change_of, sorted({text for g in groups for text in g.results})), ("all", _CHANGE[1])]
    note = "Change of perplexity against the same without an adapter."
    return tabulated("Text by text", told_apart(groups, _adapter_label), columns, note=note)


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
    for name, values in zip(("base", "with the adapter"), found, strict=True):
        table.rows.append([name, *map(number, values, (3, 3, 2, 4))])
    ratios = [None if a is None or b is None else a / b - 1 for b, a in zip(*found, strict=True)]
    table.rows.append(["change", *map(percent, ratios)])
    return table


def adapters(groups: Sequence[Group]) -> Table:
    """What the adapter has learnt: the text, or, as controls, something else; and with which recipe."""
    note = "TFLOP are per 1,000 tokens read."
    if any(g.cell.source.other for g in groups):
        note += (
            " What it took to learn another text is not among them. What an adapter of another text gains is manner, "
            "not memory."
        )
    columns = (_TEXTS, _PERPLEXITY, _CHANGE, _LEARNING, _ALL)
    return tabulated("What the adapter has learnt", told_apart(groups, _adapter_label), columns, note=note)


def with_and_without(groups: Sequence[Group]) -> list[tuple[Group, Group]]:
    """Each way to keep the context, and the same with its own adapter: of several recipes the typical one."""
    own = [(g, typical([o for o in groups if o.cell.adapter == "own" and o.base is g and o.pairs])) for g in groups]
    return [(g, ours) for g, ours in own if ours]


def compatibility(groups: Sequence[Group]) -> Table:
    """Each way to keep the context, without and with the adapter."""
    both = with_and_without(groups)
    bases = told_apart([g for g, _ in both], lambda g: method_label(g.cell))
    columns = [
        _BOTH, ("without", _compared(0)), ("with", _compared(1)), _CHANGE,
        ("TFLOP without", _without(_tflop("all"))), ("with", _tflop("all")),
        ("seconds without", _without(_seconds)), ("with", _seconds), ("memory with", _MEMORY[1]),
    ]  # fmt: skip
    table = tabulated(
        "Each method without and with the adapter",
        [(name, ours) for (name, _), (_, ours) in zip(bases, both, strict=True)],
        columns,
        note=f"{_MEASURED}; memory is the process's peak.",
    )
    for g in groups:
        if g.reason and not g.results and not g.cell.source.reads:
            table.rows.append([method_label(g.cell), f"not applicable: {g.reason}", *[""] * (len(columns) - 1)])
    return table


def efficiency(groups: Sequence[Group], main: Group) -> Table:
    """A short window with the adapter beside longer ones without, or the same one."""
    longer = any(g.cell.config.window > main.cell.config.window for g in groups)
    kind = (main.cell.method, main.cell.adapter)
    alike = [g for g in groups if g.pairs and (g.cell.method, g.cell.adapter) == kind]
    cheaper = [g for g in alike if differing([main, g]) == ["checkpointing"]]
    bare = [g for g in groups if not g.cell.source.reads and g.results]
    bare.sort(key=lambda g: (g.cell.method != "sliding_window", g.cell.method, g.cell.config.window))

    def beside(g: Group) -> dict[str, Pair]:
        return {text: pair for text in main.results if (pair := g.pair(text, main))}

    def name(g: Group) -> str:
        adapter = ", with the adapter" if g.cell.source.reads else ""
        return method_label(g.cell) + adapter + (" and checkpointing" if g in cheaper else "")

    def perplexity(g: Group) -> str:
        return number(figures([c for t in beside(g) for c in g.results[t]["chunks"]]).perplexity, 3)

    def against(g: Group) -> str:
        return "" if g is main else sure([*beside(g).values()])

    table = tabulated(
        "A short window with the adapter against longer ones without" if longer else "With the adapter, and without",
        [(name(g), g) for g in (main, *cheaper, *bare) if beside(g)],
        [("perplexity", perplexity), ("against it", against), *_COSTS],
        note=f"{_MEASURED}. 'Against it': perplexity against the first row's.",
    )
    table.strong = {0}
    return table


def bare(groups: Sequence[Group]) -> Table:
    """Ways to keep the context that were measured without an adapter alone."""
    shown = [g for g in groups if not g.cell.source.reads and g.results]
    named = told_apart(shown, lambda g: method_label(g.cell))
    return tabulated("Each method", named, (_TEXTS, _PERPLEXITY, *_COSTS), note=f"{_MEASURED}.")


def side_by_side(groups: Sequence[Group]) -> Table | None:
    """Every model and method in one table, over the same part of the same texts; None where there is but one kind.

    What is predicted by base and adapter together stands beside what the adapter predicts by itself, so that there is
    something to compare rivals with that are mixed with nothing.
    """
    shown = _for_comparison([g for g in groups if g.results and not g.cell.translation])
    if len({(g.cell.model, g.cell.method, str(g.cell.options)) for g in shown}) < 2:
        return None
    texts = [t for t in shown[0].results if all(t in g.results for g in shown)]
    texts = [t for t in texts if len({g.results[t]["cell"]["text_sha256"] for g in shown}) == 1]
    if not texts:
        return None
    # Another tokenizer's tokens reach less far, or further.
    ends = {t: min(sum(c["bytes"] for c in g.results[t]["chunks"]) for g in shown) for t in texts}
    many = len({g.cell.model for g in shown}) > 1
    models_only = "Bits per byte and perplexity per word compare models; per token only those of one tokenizer. "
    table = Table(
        "Side by side",
        ["", "bits per byte", "against the first", "per word", "per token", "TFLOP", "seconds"],
        note=f"Over what all of them read of {len(texts)} text{'s' * (len(texts) > 1)}, up to the end of a chunk. "
        f"{models_only if many else ''}Mixed: predicted by base and adapter together. {_MEASURED}.",
    )
    first: float | None = None

    def label(g: Group) -> str:
        return (f"{g.cell.model}: " if many else "") + f"{method_label(g.cell)}, {_adapter_label(g)}"

    for name, g in told_apart(shown, label):
        chunks = [c for t in texts for c in _up_to(g.results[t]["chunks"], ends[t])]
        alone = [c | {"nll": c["adapter_nll"]} for c in chunks if c.get("adapter_nll") is not None]
        kinds = [(name + (", mixed" if g.cell.config.mixture else ""), chunks, [_tflop("all")(g), _seconds(g)])]
        if g.cell.config.mixture and len(alone) == len(chunks):
            kinds.append((f"{name}, by itself", alone, ["", ""]))
        for kind, read, costs in kinds:
            f = figures(read)
            first = f.bits_per_byte if first is None else first
            against = None if f.bits_per_byte is None or not first else f.bits_per_byte / first - 1
            table.rows.append([
                kind, number(f.bits_per_byte, 4), percent(against) if table.rows else "", number(f.word_perplexity),
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


def sensitivity(option: str, points: Sequence[tuple[str, Group]]) -> Table:
    """One option changed, everything else alike."""
    both: Sequence[Column[Group]] = (("base", _compared(0)), ("with the adapter", _compared(1)))
    columns = (_BOTH, *both, _CHANGE, _LEARNING, _ALL, _SECONDS)
    return tabulated(f"Sensitivity: {option}", points, columns, first=option)


def sweeps(groups: Sequence[Group], main: Group) -> dict[str, list[tuple[str, Group]]]:
    """Settings that differ from the main one in one option alone, by option, each with its value."""
    found = {}
    for option in SWEPT:
        points = [main]
        for g in groups:
            alike = (g.cell.method, g.cell.options, g.cell.adapter) == (
                main.cell.method, main.cell.options, main.cell.adapter)  # fmt: skip
            changed = set(differing([main, g])) - ({"alpha"} if option == "rank" else set())
            if alike and g.pairs and changed == {option}:
                points.append(g)
        if len(points) > 1:
            points.sort(key=lambda g: _swept(g, option))
            found[option] = [(_label(_swept(g, option)), g) for g in points]
    return found


def _swept(group: Group, option: str) -> Any:
    config = group.cell.config
    if option == "train_context" and config.train_context is None:
        return config.learn_context
    if option == "learning_rate" and config.learning_rate is None:  # the rule's
        return next(iter(group.results.values()))["learning_rate"]
    return getattr(config, option)


def _label(value: Any) -> str:
    if isinstance(value, tuple):
        return ", ".join(value)
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def harm(groups: Sequence[Group]) -> Table:
    """Where an adapter did worst, text by text; nothing is left out."""
    table = Table(
        "Where the adapter did worst",
        ["", "text", "change of total loss", "change of perplexity"],
        note="The ten worst of all settings and texts. A change of total loss above +1 % would be harm.",
    )
    labels = told_apart(groups, lambda g: f"{g.cell.model}: {method_label(g.cell)}; {_adapter_label(g)}")
    pairs = [(name, text, pair) for name, g in labels for text in g.results if (pair := g.pair(text)) and pair.base > 0]
    found = [(pair.ours / pair.base - 1, name, text, pair) for name, text, pair in pairs]
    for loss, name, text, pair in sorted(found, key=lambda f: -f[0])[:10]:
        table.rows.append([name, text, percent(loss), percent(change([pair]))])
    return table
