"""Tables of a study: what each setting wrote, beside the base and the author, with 95 % intervals.

Intervals are percentiles of a bootstrap over books and, within each book, over seeds. Where two settings are compared
the same books and seeds are drawn for both.
"""

from __future__ import annotations

import json
import random
import statistics
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from templora.errors import TextError
from templora.evals.continuation.plan import SETTINGS
from templora.evals.continuation.study import SCHEMA, read_sample
from templora.metrics import middle
from templora.reports.run_report import write_json
from templora.runtime.files import told
from templora.sampling import SamplingParams

_RESAMPLES = 2000
_SEED = 20240121
_REFERENCES = ("base", "other")  # what the others are compared with
_SHOWN = ("temperature", "min_p", "repetition_penalty")  # of the sampling, whatever they are

Document = Mapping[str, Any]
_Tree = Mapping[str, Sequence[Any]]  # of each book, its seeds' values


@dataclass(frozen=True)
class Figure:
    """A figure of written texts.

    Args:
        name: for JSON.
        title: for tables.
        of: the figure of a sample's document, or None if it has none.
        digits: after the point.
        scale: for tables.
    """

    name: str
    title: str
    of: Callable[[Document], float | None]
    digits: int = 1
    scale: float = 1.0


def _mean(document: Document, of: Callable[[Mapping[str, Any]], float]) -> float:
    return statistics.fmean(of(part) for part in document["slices"])


def _per_1000(name: str) -> Callable[[Document], float]:
    return lambda d: _mean(d, lambda part: 1000 * sum(part[name].values()) / max(1, part["words"]))


def _plain(name: str) -> Callable[[Document], float]:
    return lambda d: _mean(d, lambda part: float(part[name]))


def _refused(document: Document) -> float | None:
    chunks = document["chunks"]
    return sum(not chunk["committed"] for chunk in chunks) / len(chunks) if chunks else None


FIGURES = (
    Figure("carried_names", "names carried /1,000 words", _per_1000("carried_names")),
    Figure("carried_kinds", "kinds", lambda d: _mean(d, lambda part: float(len(part["carried_names"])))),
    Figure("carried_rare", "rare words carried /1,000", _per_1000("carried_rare")),
    Figure("invented", "names invented /1,000", _per_1000("invented")),
    Figure("voice", "voice: words", _plain("voice"), 3),
    Figure("sentences", "voice: sentences", _plain("sentences"), 3),
    Figure("repeated_4grams", "repeated 4-grams %", _plain("repeated_4grams"), 1, 100),
    Figure("distinct_2", "distinct-2", _plain("distinct_2"), 3),
    Figure("compression", "compression", _plain("compression_ratio"), 2),
    Figure("refused", "chunks not learnt %", _refused, 0, 100),
)


def judged_by(documents: Sequence[Document]) -> list[Figure]:
    """A figure for each reader: nats a word."""
    names = sorted({name for document in documents for name in document.get("judged", {})})

    def of(name: str) -> Callable[[Document], float | None]:
        def nats(document: Document) -> float | None:
            found = document.get("judged", {}).get(name)
            return found["nll"] / max(1, document["words"]) if found else None

        return nats

    return [Figure(f"judged: {name}", f"nats a word, {name}", of(name), 3) for name in names]


def read_study(folder: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """(the study, its samples) in a folder.

    Raises:
        TextError: there is none, or it cannot be read.
    """
    with told(TextError, f"{folder}: no study can be read here", ValueError, LookupError, TypeError):
        study = json.loads((folder / "study.json").read_text(encoding="utf-8"))
        if study["schema"] != SCHEMA:
            raise ValueError("it is of another version of templora")
    samples = [sample for path in sorted(folder.glob("*--*--*--*.json")) if "slices" in (sample := read_sample(path))]
    if not samples:
        raise TextError(f"{folder}: nothing is written yet")
    return study, samples


def mean(tree: _Tree) -> float | None:
    """The mean over books of the mean over seeds."""
    books = [statistics.fmean(values) for values in tree.values() if values]
    return statistics.fmean(books) if books else None


def interval(statistic: Callable[[_Tree], float | None], tree: _Tree) -> tuple[float, float] | None:
    """Bootstrap of a statistic over books and seeds; None where there is one value, or none."""
    if sum(map(len, tree.values())) < 2:
        return None
    draw, books = random.Random(_SEED), list(tree.values())
    found = []
    for _ in range(_RESAMPLES):
        drawn = [draw.choices(of, k=len(of)) for of in draw.choices(books, k=len(books))]
        found.append(statistic({str(i): of for i, of in enumerate(drawn)}))
    known = [value for value in found if value is not None]
    return middle(known) if known else None


def difference(tree: _Tree) -> float | None:
    """The mean difference of pairs of values."""
    return mean({book: [b - a for a, b in pairs] for book, pairs in tree.items()})


def ratio(tree: _Tree) -> float | None:
    """The ratio of the means of pairs of values."""
    before = mean({book: [a for a, _ in pairs] for book, pairs in tree.items()})
    after = mean({book: [b for _, b in pairs] for book, pairs in tree.items()})
    return after / before if before and after is not None else None


def summary(samples: Sequence[Document]) -> dict[str, Any]:
    """All figures: of each length and setting, and of each setting beside the base."""
    figures = [*FIGURES, *judged_by(samples)]
    by_length: dict[int, dict[str, list[Document]]] = defaultdict(lambda: defaultdict(list))
    for sample in samples:
        by_length[sample["absorbed"]][sample["setting"]].append(sample)
    document: dict[str, Any] = {}
    for absorbed, settings in sorted(by_length.items()):
        rows = document[str(absorbed)] = {}
        for setting in [name for name in SETTINGS if name in settings]:
            row: dict[str, Any] = {"texts": len(settings[setting]), "figures": {}}
            row["books"] = len({sample["book"] for sample in settings[setting]})
            for figure in figures:
                tree = _tree(settings[setting], figure.of)
                found: dict[str, Any] = {"mean": mean(tree), "interval": interval(mean, tree)}
                for other in () if setting in ("author", "base") else _REFERENCES:
                    if other in settings and other != setting:
                        pairs = _pairs(figure, settings[other], settings[setting])
                        found[f"less_{other}"] = {"mean": difference(pairs), "interval": interval(difference, pairs)}
                        found[f"to_{other}"] = {"mean": ratio(pairs), "interval": interval(ratio, pairs)}
                row["figures"][figure.name] = found
            rows[setting] = row
    return document


def _tree(samples: Sequence[Document], of: Callable[[Document], Any]) -> dict[str, list[Any]]:
    tree: dict[str, list[Any]] = defaultdict(list)
    for sample in samples:
        value = of(sample)
        if value is not None:
            tree[sample["book"]].append(value)
    return tree


def _pairs(figure: Figure, before: Sequence[Document], after: Sequence[Document]) -> dict[str, list[Any]]:
    """(figure before, figure after) of the same books and seeds."""
    known = {(sample["book"], sample["seed"]): figure.of(sample) for sample in before}

    def pair(sample: Document) -> tuple[float, float] | None:
        a, b = known.get((sample["book"], sample["seed"])), figure.of(sample)
        return None if a is None or b is None else (a, b)

    return _tree(after, pair)


def tables(study: Mapping[str, Any], samples: Sequence[Document], lengths: Mapping[str, Any]) -> str:
    """The study in Markdown; `lengths` is the `summary` of its samples."""
    figures = [*FIGURES, *judged_by(samples)]
    config, sampling, model = study["config"], study["sampling"], study["model"]["name"]
    usual = json.loads(json.dumps(asdict(SamplingParams())))
    lines = [
        f"# How {model} goes on with books",
        "",
        f"{study['written']:,} tokens are written after the first tokens of a book have been read; window "
        f"{config['window']:,}, chunk {config['chunk_size']:,}. Sampling: "
        + ", ".join(f"{name} {value}" for name, value in sampling.items() if name in _SHOWN or value != usual.get(name))
        + ". Carried is what stands in what was read, in none of the other books, and nowhere in the last window of "
        "tokens; invented is what stands nowhere in the book; voice is the distance (Burrows' Delta) to the book's "
        "later chapters. Intervals: 95 %, bootstrap over books and seeds.",
        "",
    ]
    lines += [f"- **{name}**: {SETTINGS[name].help}" for name in SETTINGS if any(s["setting"] == name for s in samples)]
    for absorbed, rows in lengths.items():
        lines += ["", f"## After {int(absorbed):,} tokens", ""]
        lines += ["| | texts | " + " | ".join(figure.title for figure in figures) + " |"]
        lines += ["|---|---:|" + "---:|" * len(figures)]
        for setting, row in rows.items():
            cells = [_cell(row["figures"][figure.name], figure) for figure in figures]
            lines.append(f"| {setting} | {row['texts']} | " + " | ".join(cells) + " |")
        for other in _REFERENCES:
            compared = [(setting, row) for setting, row in rows.items() if f"less_{other}" in row["figures"]["voice"]]
            if not compared:
                continue
            lines += ["", f"Difference from {other}, the same books and seeds:", ""]
            lines += ["| | " + " | ".join(figure.title for figure in figures) + " |", "|---|" + "---:|" * len(figures)]
            for setting, row in compared:
                cells = [_cell(row["figures"][figure.name][f"less_{other}"], figure, sign=True) for figure in figures]
                lines.append(f"| {setting} | " + " | ".join(cells) + " |")
    drift = _drift(samples)
    if drift:
        lines += ["", *drift]
    return "\n".join(lines) + "\n"


def _cell(found: Mapping[str, Any], figure: Figure, sign: bool = False) -> str:
    if found["mean"] is None:
        return "–"

    def said(value: float) -> str:
        return f"{figure.scale * value:{'+' if sign else ''}.{figure.digits}f}"

    low_high = found["interval"]
    return said(found["mean"]) + (f" [{said(low_high[0])}, {said(low_high[1])}]" if low_high else "")


def _drift(samples: Sequence[Document]) -> list[str]:
    """Tables by thousand tokens, where more than one were written."""
    most = max(len(sample["slices"]) for sample in samples)
    if most < 2:
        return []
    lines = ["## By thousand tokens written"]
    for absorbed in sorted({sample["absorbed"] for sample in samples}):
        for setting in SETTINGS:
            of = [s for s in samples if s["setting"] == setting and s["absorbed"] == absorbed]
            if not of:
                continue
            lines += ["", f"{setting}, after {absorbed:,} tokens:", ""]
            plain = [figure for figure in FIGURES if figure.name != "refused"]
            lines += ["| thousand | " + " | ".join(figure.title for figure in plain) + " |"]
            lines += ["|---:|" + "---:|" * len(plain)]
            for index in range(most):
                here = [{**s, "slices": s["slices"][index : index + 1]} for s in of if len(s["slices"]) > index]
                cells = [_cell({"mean": mean(_tree(here, f.of)), "interval": None}, f) for f in plain]
                lines.append(f"| {index + 1} | " + " | ".join(cells) + " |")
    return lines


def write_tables(folder: Path, out: Path) -> list[Path]:
    """`continuation.md` and `continuation.json` of a study in a folder; what was written.

    Raises:
        TextError: there is no study, or they cannot be written.
    """
    study, samples = read_study(folder)
    made = [out / "continuation.json", out / "continuation.md"]
    lengths = summary(samples)
    write_json(made[0], {**study, "lengths": lengths})
    with told(TextError, f"{made[1]}: cannot be written"):
        made[1].write_text(tables(study, samples, lengths), encoding="utf-8")
    return made
