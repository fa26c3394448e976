"""`TempLoraConfig`: every option of the method, said once.

A field's default, check, help text, command-line flag and row in `docs/options.md` all come from the field itself.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from templora.errors import ConfigError, nearest

LEARNING_MODES = ("cascaded", "parallel", "off")


def option(default: Any, help: str, check: Callable[[Any], str | None] | None = None, **before: Any) -> Any:
    """A config field with its help text and its check; a check returns what is wrong, or None.

    `before` is the value that does what was done before there was this field, if that is not as old as the others.
    """
    return field(default=default, metadata={"help": help, "check": check, **before})


def at_least(low: float) -> Callable[[Any], str | None]:
    return lambda v: None if v >= low else f"must be at least {low}, not {v}"


def within(low: float, high: float) -> Callable[[Any], str | None]:
    return lambda v: None if low <= v < high else f"must be from {low} to below {high}, not {v}"


def positive(v: float) -> str | None:
    return None if v > 0 else f"must be above 0, not {v}"


def _layers(v: str) -> str | None:
    part = r"\d+(-\d+)?"
    known = v in ("all", "lower", "upper") or re.fullmatch(rf"{part}(,{part})*", v)
    return None if known else f"cannot read {v!r}: use all, lower, upper, or numbers such as 0-3,8"


def _learning_mode(v: str) -> str | None:
    return None if v in LEARNING_MODES else f"unknown mode {v!r}; {nearest(v, LEARNING_MODES)}"


@dataclass(frozen=True, kw_only=True)
class TempLoraConfig:
    """How a session remembers. Frozen and validated; raises `ConfigError` naming the field.

    The defaults are the `default` recipe: chosen on the embedded model, see docs/recipe.md. Sizes are in tokens.

         tokens  ─────────[ · · · context · · · │ · · chunk · · ]
                          ├──── window − Δ ─────┼───── Δ ───────┤     Δ = chunk_size
                                  ├─train_context┤                    at most window − Δ
    """

    learning: Literal["cascaded", "parallel", "off"] = option(
        "cascaded",
        "learn each chunk before going on (cascaded), one chunk later (parallel), or never (off)",
        _learning_mode,
    )
    rank: int = option(64, "rank of the adapter", at_least(1))
    alpha: float = option(64.0, "adapter scale: its output is multiplied by alpha / rank", within(1e-6, 1e6))
    dropout: float = option(0.0, "dropout on the adapter's input while learning", within(0, 1))
    target_modules: tuple[str, ...] = option(
        ("all",), "linear layers that get an adapter, by last name (q_proj, down_proj, ...); 'all' = all but the head"
    )
    layers: str = option(
        "all", "blocks that get an adapter: all, lower, upper, or numbers such as 0-3,8,12-29", _layers
    )
    chunk_size: int = option(512, "tokens between two updates (the paper's Δ)", at_least(2))
    window: int = option(1024, "most tokens the model attends to at once (the paper's W)", at_least(3))
    train_context: int | None = option(
        None, "context tokens seen while learning a chunk (the paper's L_T); default: window − chunk_size", at_least(1)
    )
    context_gradients: bool = option(
        False, "let gradients flow through the context too (the paper's way, about twice the work)"
    )
    checkpointing: bool = option(
        False, "keep less while learning and compute it again (activation checkpointing): less memory, more time"
    )
    epochs: int = option(1, "optimiser steps on each chunk", at_least(1))
    learning_rate: float | None = option(
        None, "AdamW's step size; default: chosen for the model by how large its weights are", positive
    )
    rate_scale: float = option(
        1.0, "times the rate that suits the model, where learning_rate is not given", positive, before=1.0
    )
    warmup_chunks: int = option(
        2, "chunks over which the rate climbs linearly to its full value; the first is not zero", at_least(0)
    )
    adam_beta1: float = option(0.7, "AdamW's decay of past gradients", within(0, 1))
    adam_beta2: float = option(0.99, "AdamW's decay of past squared gradients", within(0, 1))
    adam_epsilon: float = option(1e-7, "AdamW's epsilon", positive)
    weight_decay: float = option(0.0, "AdamW's decoupled weight decay", at_least(0))
    max_grad_norm: float = option(1.0, "gradients are clipped to this L2 norm", positive)
    max_update: float = option(
        0.01, "an update that moves the adapter's weights by more than this (root mean square) is rolled back", positive
    )
    probe_tokens: int = option(
        32,
        "tokens of earlier text, and of the base's own predictions, that each update is tried on; 0 = it is not",
        at_least(0),
        before=0,
    )
    probe_tolerance: float = option(
        0.1,
        "an update that makes either of the two less likely by more than this, in nats a token, is rolled back",
        positive,
        before=0.1,
    )
    patience: int = option(
        3, "updates rolled back in a row after which learning pauses; 0 = never", at_least(0), before=0
    )
    pause: int = option(8, "chunks that learning pauses for, before it tries again", at_least(1), before=8)
    mixture: bool = option(
        True,
        "predict given texts with base and adapter together, weighted by their past: hardly ever worse than the base",
    )
    neural_cache: int = option(
        0,
        "learnt tokens that are looked up: what followed where the model was in a like state gets likelier; 0 = none",
        at_least(0),
        before=0,
    )
    learn_written: bool = option(
        False, "learn what the model writes itself, too, and not only what it is given", before=True
    )
    max_repetition: float = option(
        0.5,
        "a written chunk in which more than this share of 4-grams repeat is not learnt (a given one: 0.95); 1 = off",
        within(0, 1.0001),
    )
    min_entropy: float = option(
        0.7,
        "a written chunk is not learnt if the entropy of its predictions fell below this share of the usual; 0 = off",
        within(0, 1),
        before=0.0,
    )
    cache_reuse: int = option(
        0, "chunks a KV cache computed under older adapters may live on; 0 = recompute after each", at_least(0)
    )
    seed: int = option(42, "seed of the adapter's first weights, of dropout and of sampling", within(0, 2**63))

    def __post_init__(self) -> None:
        for f in dataclasses.fields(self):
            object.__setattr__(self, f.name, self._checked(f, getattr(self, f.name)))
        if self.chunk_size >= self.window:
            raise ConfigError(
                "chunk_size",
                f"must be below window, which is {self.window}, to leave room for context; not {self.chunk_size}",
            )
        if self.train_context is not None and self.train_context > self.context:
            raise ConfigError(
                "train_context",
                f"is beyond what the window leaves: at most window − chunk_size = {self.context}, "
                f"not {self.train_context}",
            )

    @staticmethod
    def _checked(f: dataclasses.Field[Any], value: Any) -> Any:
        kind, optional = field_type(f)
        if value is None:
            if optional:
                return None
            raise ConfigError(f.name, "must be given")
        try:
            if kind is tuple:
                names = value.split(",") if isinstance(value, str) else value
                value = tuple(str(name).strip() for name in names)
                if not value or not all(value):
                    raise ConfigError(f.name, "must name at least one module")
            elif kind is bool:
                if not isinstance(value, bool):
                    raise ConfigError(f.name, f"must be true or false, not {value!r}")
            elif kind is int:
                if isinstance(value, bool) or int(value) != value:
                    raise ConfigError(f.name, f"must be a whole number, not {value!r}")
                value = int(value)
            elif kind is float:
                value = float(value)
                if not math.isfinite(value):
                    raise ConfigError(f.name, f"must be a finite number, not {value}")
            else:
                value = str(value)
        except (TypeError, ValueError, OverflowError) as error:
            if isinstance(error, ConfigError):
                raise
            raise ConfigError(f.name, f"must be of type {kind.__name__}, not {value!r}") from None
        check = f.metadata["check"]
        problem = check(value) if check else None
        if problem:
            raise ConfigError(f.name, problem)
        return value

    @property
    def context(self) -> int:
        """Tokens kept before a chunk: window − chunk_size (the paper's L_X)."""
        return self.window - self.chunk_size

    @property
    def learn_context(self) -> int:
        """`train_context`, or all that the window leaves."""
        return self.context if self.train_context is None else self.train_context

    @property
    def scaling(self) -> float:
        return self.alpha / self.rank

    def learning_rate_at(self, chunk: int) -> float:
        """The rate for the chunk learnt after `chunk` earlier ones: linear warm-up, never zero, then constant.

        Of a session's config: there `learning_rate` is a number.
        """
        assert self.learning_rate is not None
        return self.learning_rate * min(1.0, (chunk + 1) / max(1, self.warmup_chunks))

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; `from_dict` reads them back."""
        return dataclasses.asdict(self) | {"target_modules": list(self.target_modules)}

    @classmethod
    def before(cls) -> dict[str, Any]:
        """What fields that are younger than others were, in effect, when they were not there."""
        return {f.name: f.metadata["before"] for f in dataclasses.fields(cls) if "before" in f.metadata}

    @classmethod
    def stored(cls, values: Mapping[str, Any]) -> TempLoraConfig:
        """The config that `to_dict` made these of, in this version or an earlier one, which had fewer fields."""
        return cls.from_dict({**cls.before(), **values})

    def as_before(self) -> dict[str, Any]:
        """`to_dict`, without the fields that say no more than what was done before there were these fields."""
        before = self.before()
        return {name: value for name, value in self.to_dict().items() if name not in before or value != before[name]}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TempLoraConfig:
        """The config with these fields; an unknown key is an error that names the nearest known one."""
        known = [f.name for f in dataclasses.fields(cls)]
        for key in values:
            if key not in known:
                raise ConfigError(key, f"unknown option; {nearest(key, known)}")
        return cls(**values)


def field_type(f: dataclasses.Field[Any]) -> tuple[type, bool]:
    """The plain type of a config field (str, int, float, bool or tuple), and whether it may be None."""
    hint = _hints()[f.name]
    optional = isinstance(hint, types.UnionType)
    if optional:
        hint = next(h for h in typing.get_args(hint) if h is not type(None))
    origin = typing.get_origin(hint)
    if origin is Literal:
        return str, optional
    return origin or hint, optional


@functools.cache
def _hints() -> dict[str, Any]:
    """Worked out once: a store makes a config of each log that it lists, and evaluating hints takes most of that."""
    return typing.get_type_hints(TempLoraConfig)
