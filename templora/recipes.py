"""Named settings of `TempLoraConfig`, and how they shrink to fit a model's positions."""

from __future__ import annotations

from typing import Any

from templora.config import TempLoraConfig
from templora.errors import ConfigError, nearest

RECIPES: dict[str, dict[str, Any]] = {
    # The defaults of TempLoraConfig: docs/recipe.md says how they were chosen.
    "default": {},
    # Paragraphs are short: a chunk is a few of them. docs/translation.md
    # Of what a model translates itself less is to be believed than of what somebody else did (docs/log.md).
    "translate": {"chunk_size": 128, "window": 512, "rate_scale": 0.2},
    "translate-reference": {"chunk_size": 128, "window": 512},
    # arXiv 2401.11504 and its released scripts. What is left out is the same in both recipes.
    "paper": {
        "rank": 64,
        "alpha": 64.0,
        "dropout": 0.05,
        "learning_rate": 5e-5,
        "warmup_chunks": 2,
        "adam_beta1": 0.9,
        "adam_beta2": 0.999,
        "adam_epsilon": 1e-7,
        "max_grad_norm": 1.0,
        "epochs": 2,
        "chunk_size": 1024,
        "window": 4096,
        "train_context": 3072,
        "context_gradients": True,
        "mixture": False,
        "learn_written": True,
        "probe_tokens": 0,
        "patience": 0,
        "min_entropy": 0.0,
    },
}


def recipe(name: str = "default", max_positions: int | None = None, **overrides: Any) -> TempLoraConfig:
    """The config of a recipe, with the fields in `overrides` set differently.

    Args:
        name: a key of `RECIPES`.
        max_positions: most tokens the model can attend to. A recipe's window larger than that is cut to it (and
            its chunk to at most a quarter of the window); a window in `overrides` is never changed.

    Raises:
        ConfigError: unknown recipe or field, or values that do not fit together.
    """
    if name not in RECIPES:
        raise ConfigError("recipe", f"unknown recipe {name!r}; {nearest(name, RECIPES)}")
    values = dict(RECIPES[name])
    window = values.get("window", TempLoraConfig.window)
    if "window" not in overrides and max_positions is not None and window > max_positions:
        values["window"] = max_positions
        values["chunk_size"] = min(values.get("chunk_size", TempLoraConfig.chunk_size), max(2, max_positions // 4))
    if values.get("train_context") is not None and "train_context" not in overrides:
        sizes = {"window": TempLoraConfig.window, "chunk_size": TempLoraConfig.chunk_size, **values, **overrides}
        left = _number(sizes["window"]) - _number(sizes["chunk_size"])
        # Where other sizes were asked for, the recipe's L_T means "at most this".
        values["train_context"] = max(1, min(values["train_context"], left))
    return TempLoraConfig.from_dict(values | overrides)


def _number(value: Any) -> int:
    return value if isinstance(value, int) else 0  # anything else is refused by TempLoraConfig, in its own words
