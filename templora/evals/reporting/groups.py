"""Results by setting: what was measured in the same way on several texts, and what it is compared with."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from templora.config import TempLoraConfig
from templora.evals.measuring.cell import Cell
from templora.evals.reporting.results import DONE, ResultError
from templora.evals.reporting.statistics import Pair, change, interval
from templora.recipes import recipe

Result = dict[str, Any]

# Cores that others may use while seconds still mean something.
_BUSY = 0.15


@dataclass
class Group:
    """One setting.

    Attributes:
        cell: one of its cells, as an example.
        results: by text; those that are done.
        reason: why there are none, if the model cannot do it.
    """

    cell: Cell
    results: dict[str, Result] = field(default_factory=dict)
    reason: str = ""
    base: Group | None = None

    @property
    def tokens(self) -> int:
        return sum(r["tokens"] for r in self.results.values())

    @property
    def chunks(self) -> list[dict[str, Any]]:
        return [chunk for r in self.results.values() for chunk in r["chunks"]]

    def total(self, key: str, part: str) -> float:
        """A sum over texts of one figure: ("flops", "learn"), ("seconds", "all"), ..."""
        return float(sum(r[key][part] for r in self.results.values()))

    def most(self, key: str) -> float:
        return float(max((r[key] for r in self.results.values()), default=0))

    @property
    def seconds_mean_something(self) -> bool:
        """Whether other programs left the cores alone."""
        return all(r["others"] is not None and r["others"] < _BUSY for r in self.results.values())

    @property
    def devices(self) -> set[str]:
        """What it was measured on."""
        return {r["device"] for r in self.results.values()}

    def pair(self, text: str, base: Group | None = None) -> Pair | None:
        """A text's NLL beside that of `base` (else this one's own) over the same tokens; None if one is missing."""
        base = base or self.base
        ours, other = self.results.get(text), base.results.get(text) if base else None
        if ours is None or other is None or _read(ours) != _read(other):
            return None
        return Pair(other["nll"], ours["nll"], ours["tokens"])

    @cached_property
    def pairs(self) -> list[Pair]:
        """Each text with its base; texts that only one of them has are left out."""
        return [p for text in self.results if (p := self.pair(text))]

    @property
    def both(self) -> dict[str, tuple[Result, Result]]:
        """The results behind `pairs`, by text: the base's, and this one's."""
        base = self.base.results if self.base else {}
        return {text: (base[text], ours) for text, ours in self.results.items() if self.pair(text)}

    @property
    def compared(self) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """The chunks of these results: the base's, and this one's."""
        both = self.both.values()
        return [c for base, _ in both for c in base["chunks"]], [c for _, ours in both for c in ours["chunks"]]

    @property
    def change(self) -> float | None:
        return change(self.pairs)

    @property
    def interval(self) -> tuple[float, float] | None:
        return interval(self.pairs)


def _read(result: Result) -> tuple[Any, ...]:
    """What must be the same of two results that are compared."""
    return result["tokens"], result["cell"]["text_sha256"], result.get("model", {}).get("sha256")


def group(results: Iterable[Result]) -> list[Group]:
    """Results by setting, each with its base where that was measured.

    Raises:
        ResultError: two of them are of one setting and text: one of them is out of date.
    """
    found: dict[str, Group] = {}
    for result in results:
        cell = Cell.from_dict(result["cell"])
        one = found.setdefault(cell.setting, Group(cell))
        if result["status"] == DONE:
            if cell.text in one.results:
                other = Cell.from_dict(one.results[cell.text]["cell"])
                raise ResultError(
                    f"{other.key}.json and {cell.key}.json are of one setting and text, but of another content of it "
                    "or another text learnt before; delete the one that is out of date"
                )
            one.results[cell.text] = result
        else:
            one.reason = result["reason"]
    for one in found.values():
        if one.cell.setting != one.cell.bare.setting:
            one.base = found.get(one.cell.bare.setting)
    return sorted(found.values(), key=_place)


def _place(one: Group) -> tuple[Any, ...]:
    """Where a setting stands in tables: the plain method first, then by name, options and window."""
    cell = one.cell
    # Somebody's method may take anything.
    options = tuple((0, v, "") if isinstance(v, int | float) else (1, 0, str(v)) for v in cell.options.values())
    return cell.method != "sliding_window", cell.method, options, cell.config.window


def differing(groups: Sequence[Group]) -> list[str]:
    """Fields of the config in which some of these differ."""
    configs = [g.cell.config.to_dict() for g in groups]
    return [name for name in configs[0] if any(c[name] != configs[0][name] for c in configs)] if configs else []


def typical(groups: Sequence[Group]) -> Group | None:
    """The one that stands for the others: most differ from it in one option, and it in few from the defaults."""
    usual = TempLoraConfig().to_dict()

    def close(one: Group) -> tuple[int, int]:
        mine = one.cell.config.to_dict()
        odd = sum(mine[name] != usual[name] for name in usual)
        return sum(len(differing([one, other])) == 1 for other in groups) - odd, one.tokens

    return max(groups, key=close, default=None)


def told_apart(groups: Sequence[Group], label: Callable[[Group], str]) -> list[tuple[str, Group]]:
    """Each with a label; those that would be alike say in what they differ."""
    names = [label(g) for g in groups]
    found = []
    for name, g in zip(names, groups, strict=True):
        alike = [other for its, other in zip(names, groups, strict=True) if its == name]
        odd = [f"{field} {_value(getattr(g.cell.config, field))}" for field in differing(alike)]
        odd += [str(getattr(g.cell, f)) for f in ("weights", "dtype") if len({getattr(o.cell, f) for o in alike}) > 1]
        odd += [f"code {str(g.cell.code)[:7]}"] if len({o.cell.code for o in alike}) > 1 else []
        found.append((", ".join([name, *odd]), g))
    return found


def method_label(cell: Cell) -> str:
    """A way to keep the context, in words."""
    options = ", ".join(f"{v:g}" if isinstance(v, float) else str(v) for v in cell.options.values())
    name = cell.method if cell.code else cell.method.replace("_", " ")
    return f"{name}{f' ({options})' if options else ''}, window {cell.config.window:,}"


def recipe_label(config: TempLoraConfig) -> str:
    """The recipe that a config is nearest to, and what differs from it, sizes apart."""
    labels = []
    for name in ("default", "paper"):
        wanted = recipe(
            name, None, window=config.window, chunk_size=config.chunk_size, mixture=config.mixture
        ).to_dict()
        mine = config.as_before()  # of what was not there when it was measured, nothing is said
        odd = [f"{key} {_value(mine[key])}" for key in mine if mine[key] != wanted[key] and key != "train_context"]
        labels.append((len(odd), name + (f" with {', '.join(odd)}" if odd else "")))
    return min(labels, key=lambda label: label[0])[1]


def _value(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    return "+".join(value) if isinstance(value, list | tuple) else str(value)
