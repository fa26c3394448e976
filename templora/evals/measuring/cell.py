"""`Cell`: one measurement: one text, read by one model in one way, or translated."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from templora.config import TempLoraConfig
from templora.errors import OptionError, nearest
from templora.methods import METHODS, make_method
from templora.methods.adapters import AdapterSource, adapter_source
from templora.sampling import SamplingParams

if TYPE_CHECKING:
    from templora.methods.base import Method

# What a config says about reading; the rest is about learning, and nothing where nothing is learnt.
_READING = ("window", "chunk_size", "cache_reuse")
TARGETS = ("reference", "own")
TERMS = ("glossary", "settle")


@dataclass(frozen=True)
class Translating:
    """Between which languages a cell translates, and how.

    Args:
        source, target: codes of the languages.
        targets: what is learnt: `reference`, the true translation, revealed after the model's own; or `own`.
        pairs: how many of a document's first pairs; None: all.
        template: as for `read_template`.
        repetition_penalty: of its sampling, which is greedy.
        terms: whether the document's terms are settled on the way (`settle`), or not (`glossary`; there is none).
    """

    source: str
    target: str
    targets: str = "reference"
    pairs: int | None = None
    template: str | None = None
    repetition_penalty: float = 1.0
    terms: str = "glossary"

    def __post_init__(self) -> None:
        if self.terms not in TERMS:
            raise OptionError("terms", f"unknown {self.terms!r}; {nearest(self.terms, TERMS)}")
        if self.targets not in TARGETS:
            raise OptionError("targets", f"unknown {self.targets!r}; {nearest(self.targets, TARGETS)}")
        if self.pairs is not None and self.pairs < 1:
            raise OptionError("pairs", f"must be at least 1, not {self.pairs}")
        SamplingParams(temperature=0.0, repetition_penalty=self.repetition_penalty)  # says what is wrong


@dataclass(frozen=True)
class Cell:
    """What is measured.

    Args:
        task: which measurement; pg19 or translation.
        text: the text's name.
        text_sha256: of its content.
        tokens: how many of its first tokens; None: all.
        model: as for `templora.load`.
        weights, dtype: as for `templora.load`, but `auto` is `unpacked`, whatever the model: figures compare.
        method: how the context is kept; a name in `templora.methods`, or somebody's `module:Class`.
        options: of the method.
        code: of a method that is not ours (`methods.method_code`).
        adapter: what the adapter has learnt; a name in `templora.methods.adapters`.
        config: sizes, and how it learns.
        other, other_sha256, other_tokens: the text that it learnt before, for the sources that did.
        translation: for the task of that name: between which languages, and how.
    """

    task: str
    text: str
    text_sha256: str
    tokens: int | None
    model: str
    method: str
    adapter: str
    config: TempLoraConfig
    options: Mapping[str, Any] = field(default_factory=dict)
    weights: str = "auto"
    dtype: str = "auto"
    other: str | None = None
    other_sha256: str | None = None
    other_tokens: int | None = None
    translation: Translating | None = None
    code: str | None = None

    def __post_init__(self) -> None:
        source = self.source
        if not source.reads:
            kept = {name: getattr(self.config, name) for name in _READING}
            # Nothing reads the adapter; the smallest there is takes no memory that would count as the base's.
            small: dict[str, Any] = {"rank": 1, "alpha": 1.0, "learning": "off", "mixture": False}
            object.__setattr__(self, "config", TempLoraConfig.stored(small | kept))
        if not source.other:
            for name in ("other", "other_sha256", "other_tokens"):
                object.__setattr__(self, name, None)
        if self.method in METHODS:  # of others all are given: what a result says is not run
            object.__setattr__(self, "options", self.made.options())

    @property
    def source(self) -> AdapterSource:
        return adapter_source(self.adapter)

    @property
    def made(self) -> Method:
        return make_method(self.method, **self.options)

    @property
    def bare(self) -> Cell:
        """The same without an adapter, and with no terms settled: what it is compared with."""
        plain = replace(self.translation, terms="glossary") if self.translation else None
        return replace(self, adapter="none", translation=plain)

    def to_dict(self) -> dict[str, Any]:
        values = {name: getattr(self, name) for name in self.__dataclass_fields__}
        # So that what was measured in an earlier version keeps its name.
        values |= {"config": self.config.as_before(), "options": dict(self.options)}
        translation, code = values.pop("translation"), values.pop("code")
        if translation:
            values["translation"] = {k: v for k, v in asdict(translation).items() if (k, v) != ("terms", "glossary")}
        return values | ({"code": code} if code else {})

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Cell:
        made = {**values, "config": TempLoraConfig.stored(values["config"])}
        if "translation" in values:
            made["translation"] = Translating(**values["translation"])
        return cls(**made)

    @cached_property
    def key(self) -> str:
        """What its files are called: readable, and different for whatever differs."""
        digest = hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()[:10]
        words = [self.text, self.model.rstrip("/").rsplit("/", 1)[-1], self.method, self.adapter]
        words += [self.translation.targets] if self.translation else []
        return "--".join([*(re.sub(r"[^\w.]+", "-", word)[:40] for word in words), digest])

    @property
    def setting(self) -> str:
        """All of it but the text, as a key: cells of one setting are pooled."""
        values = self.to_dict()
        for name in ("text", "text_sha256", "other", "other_sha256"):
            del values[name]
        return json.dumps(values, sort_keys=True)
