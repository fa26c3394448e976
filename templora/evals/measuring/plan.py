"""Plans: which cells an evaluation consists of, from a TOML file.

    task = "pg19"                        which measurement
    books = "folder"                     a folder of texts, or hub:NAME; --books on the command line
    texts = ["1684", "349"]              which of them; all if left out
    tokens = 60000                       first tokens of each; "all" for whole books
    models = ["smollm2-135m"]
    other_tokens = 15000                 of the text that adapters = ["other"] learn: the next one in the list

    [config]                             options of every cell: `recipe`, and any of `TempLoraConfig`
    window = 1024

    [[methods]]                          a way to keep the context, and with which adapters it is measured
    method = "attention_sinks"           or "module:Class"; any option of the method or of the config may follow
    adapters = ["none", "own"]

    [sweep]                              of the first method with its own adapter, one option changed at a time
    rank = [8, 16, 32]

For `task = "translation"`, books are aligned pairs (`templora.translation.pairs`), and in the place of tokens:

    pairs = 300                          first pairs of each document; "all" for whole ones
    to = "en"                            the language that is translated into; --to on the command line
    from = "zh"                          and from; found out if left out
    targets = ["reference", "own"]       what is learnt: the true translation, once the model has made its own; or that
    terms = ["settle"]                   the document's terms are settled on the way; or "glossary": none are
    template = "lines"                   how the model is asked; by the model if left out
    repetition_penalty = 1.12            of its words, which are chosen greedily

A `[[methods]]` table may have `targets` and `terms` of its own. Whatever reads through an adapter, or settles terms, is
measured without as well: there would be nothing to compare it with.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from itertools import product
from typing import Any, TypeAlias

from templora.config import TempLoraConfig
from templora.errors import ConfigError, OptionError, nearest
from templora.evals.measuring.cell import Cell, Translating
from templora.evals.measuring.pairs import Parallel, find_pairs
from templora.evals.measuring.texts import Text, find_texts
from templora.methods import make_method, method_code, method_options
from templora.methods.adapters import adapter_source
from templora.recipes import recipe
from templora.toml_files import read_toml
from templora.translation.languages import language

# Of each it is said here which texts it is of and what its cells have besides, in `measure` what reads one.
TASKS = ("pg19", "translation")
_KINDS: dict[str, Any] = {
    "task": str, "books": str, "weights": str, "dtype": str, "other_tokens": int, "config": dict, "sweep": dict,
    "methods": list, "to": str, "from": str, "template": str, "repetition_penalty": (float, int),
}  # fmt: skip
_WORDS = {str: "string", int: "whole number", dict: "table", list: "list", (float, int): "number"}
# Of translations: what a `[[methods]]` table may say for itself.
_AXES = ("targets", "terms")
AnyText: TypeAlias = Text | Parallel
_Besides: TypeAlias = Iterator[tuple[AnyText, dict[str, Any]]]
_FIELDS = tuple(f.name for f in dataclasses.fields(TempLoraConfig))


@dataclass
class Plan:
    """An evaluation, as it is asked for.

    Args:
        task, books, texts, tokens, models, other_tokens, weights, dtype: as in the file.
        config: options of every cell, `recipe` among them.
        methods: a table for each.
        sweep: values by option.
        pairs, to, from_, targets, terms, template, repetition_penalty: as in the file.
    """

    task: str = "pg19"
    books: str | None = None
    texts: Sequence[str] = ()
    tokens: int | None = 20_000
    models: Sequence[str] = ("smollm2-135m",)
    other_tokens: int = 15_000
    weights: str = "auto"
    dtype: str = "auto"
    config: Mapping[str, Any] = field(default_factory=dict)
    methods: Sequence[Mapping[str, Any]] = ({"method": "sliding_window", "adapters": ["none", "own"]},)
    sweep: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    pairs: int | None = 300
    to: str | None = None
    from_: str | None = None
    targets: Sequence[str] = ("reference",)
    terms: Sequence[str] = ("glossary",)
    template: str | None = None
    repetition_penalty: float = 1.0

    def __post_init__(self) -> None:
        if self.task not in TASKS:
            raise OptionError("task", f"unknown task {self.task!r}; {nearest(self.task, TASKS)}")
        if self.tokens is not None and self.tokens < 2:
            raise OptionError("tokens", f"must be at least 2, not {self.tokens}")
        if self.other_tokens < 2:
            raise OptionError("other_tokens", f"must be at least 2, not {self.other_tokens}")
        for option, given in (
            ("model", self.models),
            ("methods", self.methods),
            ("targets", self.targets),
            ("terms", self.terms),
        ):
            if not given:
                raise OptionError(option, "must name at least one")
        for targets, terms in product(self.targets, self.terms):  # says what is wrong
            Translating("", "", targets, self.pairs, self.template, self.repetition_penalty, terms)

    @property
    def translates(self) -> bool:
        return self.task == "translation"

    @property
    def common(self) -> dict[str, Any]:
        """What results of one folder must have in common."""
        if self.translates:
            return {"task": self.task, "pairs": self.pairs, "to": self._to}
        return {"task": self.task, "tokens": self.tokens}

    @property
    def _to(self) -> str:
        """Code of the language."""
        if self.to is None:
            raise OptionError("to", "say which language is translated into")
        return language("to", self.to).code

    def find_texts(self) -> Sequence[AnyText]:
        if self.books is None:
            what = "a file of aligned pairs" if self.translates else "a folder with .txt files, or hub:NAME"
            raise OptionError("books", f"say where the texts are: {what}")
        if self.translates:
            return find_pairs(self.books, self._to, self.from_, self.texts)
        return find_texts(self.books, self.texts)

    def cells(self, texts: Sequence[AnyText]) -> list[Cell]:
        """Every cell once, those that others are compared with first.

        Raises:
            OptionError: an unknown option, or a value that does not fit.
        """
        settings = [setting for table in (*self.methods, *self._swept()) for setting in self._settings(table)]
        cells: dict[str, Cell] = {}
        of_texts = self._of_pairs if self.translates else self._of_books
        for model, setting in product(self.models, settings):
            for text, more in of_texts(texts, setting):
                how = {name: value for name, value in setting.items() if name not in _AXES}
                cell = Cell(
                    task=self.task, text=text.name, text_sha256=text.sha256, model=model, weights=self.weights,
                    dtype=self.dtype, code=method_code(setting["method"]), **how, **more,
                )  # fmt: skip
                for each in (cell.bare, cell):
                    cells.setdefault(each.key, each)
        return sorted(cells.values(), key=lambda cell: (cell.key != cell.bare.key, cell.source.reads))

    def _of_books(self, texts: Sequence[AnyText], setting: dict[str, Any]) -> _Besides:
        """What a cell of each book has besides."""
        for i, text in enumerate(texts):
            more: dict[str, Any] = {"tokens": self.tokens}
            if adapter_source(setting["adapter"]).other:
                # The next one that is not this one again under another name.
                teacher = next((t for t in (*texts[i + 1 :], *texts[:i]) if t.sha256 != text.sha256), None)
                if teacher is None:
                    said = f"{setting['adapter']!r} learns another text first, and there is only one"
                    raise OptionError("adapters", said)
                more |= {"other": teacher.name, "other_sha256": teacher.sha256, "other_tokens": self.other_tokens}
            yield text, more

    def _of_pairs(self, texts: Sequence[AnyText], setting: dict[str, Any]) -> _Besides:
        """What cells of each document have besides."""
        method, adapter = setting["method"], setting["adapter"]
        if method != "sliding_window":
            raise OptionError("method", f"{method!r} is for books; translations are drafted over a sliding window")
        source = adapter_source(adapter)
        if source.other or source.lesson:
            raise OptionError("adapters", f"{adapter!r} is for books; what translates has none or own")
        how = (self.pairs, self.template, self.repetition_penalty)
        for text in texts:
            assert isinstance(text, Parallel)
            for targets, terms in product(setting["targets"], setting["terms"]):
                yield text, {"tokens": None, "translation": Translating(text.source, self._to, targets, *how, terms)}

    def _settings(self, table: Mapping[str, Any]) -> list[dict[str, Any]]:
        """What cells of a `[[methods]]` table have in common: method, its options and config; one for each adapter."""
        values = dict(table)
        method = str(values.pop("method", "sliding_window"))
        adapters = _strings("adapters", values.pop("adapters", ["none", "own"]))
        axes = {name: _strings(name, values.pop(name, getattr(self, name))) for name in _AXES}
        known = list(method_options(method))
        options = make_method(method, **{name: values.pop(name) for name in known if name in values}).options()
        values = {**self.config, **values}
        name = str(values.pop("recipe", "default"))
        for key in values:
            if key not in _FIELDS:
                choices = nearest(key, [*_FIELDS, "recipe", *known, "method", "adapters", *_AXES])
                raise OptionError("methods", f"unknown option {key!r}; {choices}")
        common = {"method": method, "options": options, "config": recipe(name, None, **values), **axes}
        return [{"adapter": adapter, **common} for adapter in adapters]

    def _swept(self) -> Iterator[Mapping[str, Any]]:
        """A `[[methods]]` table for each value."""
        for name, values in self.sweep.items():
            if name not in _FIELDS:
                raise OptionError("sweep", f"unknown option {name!r}; {nearest(name, _FIELDS)}")
            if not isinstance(values, list | tuple) or not values:
                raise OptionError("sweep", f"{name} must be a list of values")
            for value in values:
                table = {**self.methods[0], name: value, "adapters": ["own"]}
                if name == "rank" and isinstance(value, int):  # what an adapter's output is multiplied by stays
                    table["alpha"] = self._settings(self.methods[0])[0]["config"].scaling * value
                yield table


def _strings(name: str, value: Any) -> list[str]:
    values = [value] if isinstance(value, str) else value
    if not isinstance(values, list | tuple) or not values or not all(isinstance(v, str) for v in values):
        raise OptionError(name, f"must be a list of names, not {value!r}")
    return list(values)


def builtin_plans() -> dict[str, str]:
    """The plans that come with the package, by name."""
    files = [file for file in resources.files("templora.evals.plans").iterdir() if file.name.endswith(".toml")]
    return {file.name.removesuffix(".toml"): file.read_text(encoding="utf-8") for file in files}


def read_plan(name: str) -> Plan:
    """A plan that comes with the package, or a TOML file.

    Raises:
        OptionError: neither, or it cannot be used; says what is wrong.
    """
    values = read_toml("plan", name, builtin_plans())
    keys = [f.name.rstrip("_") for f in dataclasses.fields(Plan)]
    for key in values:
        if key not in keys:
            raise OptionError("plan", f"{name}: unknown key {key!r}; {nearest(key, keys)}")
    for key in ("tokens", "pairs"):
        if key in values:
            values[key] = parse_count(key, values[key])
    for key in ("texts", "models", "targets", "terms"):
        if key in values:
            values[key] = _strings(key, values[key])
    for key, kind in _KINDS.items():
        if key in values and not isinstance(values[key], kind):
            raise OptionError(key, f"{name}: must be a {_WORDS[kind]}")
    if not all(isinstance(table, dict) for table in values.get("methods", [])):
        raise OptionError("methods", f"{name}: write each as [[methods]]")
    if "from" in values:
        values["from_"] = values.pop("from")
    return Plan(**values)


def parse_count(option: str, value: Any) -> int | None:
    """A number of tokens or pairs, or None for `all`."""
    if value == "all":
        return None
    try:
        if isinstance(value, bool | float):
            raise ValueError
        return int(str(value).replace(",", "").replace("_", ""))
    except ValueError:
        raise ConfigError(option, f"must be a number or all, not {value!r}") from None
