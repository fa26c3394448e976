"""Positions beyond those a model was trained on, through transformers' rope scaling: linear, dynamic NTK, YaRN.

linear   positions are divided by `factor` (Chen et al., arXiv 2306.15595)
dynamic  the base of the frequencies grows with the length of what is read, once that passes the model's positions
         (NTK-aware scaling, bloc97 2023, as in transformers' `dynamic`)
yarn     low frequencies are divided, high ones left, attention is sharpened (Peng et al., arXiv 2309.00071)
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, ClassVar

from templora.config import TempLoraConfig
from templora.errors import OptionError, nearest
from templora.methods.base import Memory, Method
from templora.model import CausalModel

SCALINGS = ("linear", "dynamic", "yarn")


@dataclass(frozen=True)
class ExtendedPositions(Method):
    """A sliding window that may be `factor` times as long as the model's own positions.

    Args:
        scaling: linear, dynamic or yarn.
        factor: by how much positions are stretched.
    """

    name: ClassVar[str] = "extended_positions"
    summary: ClassVar[str] = "windows beyond the model's own positions, by scaling its rotary embedding"

    scaling: str = "yarn"
    factor: float = 2.0

    def __post_init__(self) -> None:
        if self.scaling not in SCALINGS:
            raise OptionError("scaling", f"unknown {self.scaling!r}; {nearest(self.scaling, SCALINGS)}")
        if not 1 < self.factor <= 64:
            raise OptionError("factor", f"must be above 1 and at most 64, not {self.factor}")

    def positions(self, model: CausalModel) -> int:
        return int(model.max_positions * self.factor)

    def problem(self, model: CausalModel, config: TempLoraConfig) -> str | None:
        rotary = getattr(model.decoder, "rotary_emb", None)
        if rotary is None or not hasattr(rotary, "rope_type"):
            return f"{type(model.module).__name__} has no rotary embedding to scale"
        kinds = rotary.rope_type.values() if isinstance(rotary.rope_type, dict) else [rotary.rope_type]
        if set(kinds) - {"default"}:
            return f"its positions are scaled already ({', '.join(sorted(set(kinds)))})"
        return super().problem(model, config)

    def begin(self, model: CausalModel, config: TempLoraConfig, opening: int = 0) -> Memory:
        return _Scaled(model, self.scaling, self.factor)


class _Scaled(Memory):
    """Another rotary embedding in the model, until the end."""

    def __init__(self, model: CausalModel, scaling: str, factor: float) -> None:
        decoder: Any = model.decoder
        self._decoder = decoder
        self._own = decoder.rotary_emb
        config = copy.deepcopy(self._own.config)
        parameters = config.rope_parameters
        # Layers of different kinds have a table each; those that see a short window only need no longer one.
        tables = [parameters] if "rope_type" in parameters else [parameters["full_attention"]]
        for table in tables:
            table |= {"rope_type": scaling, "factor": factor}
            table["original_max_position_embeddings"] = model.max_positions
        if scaling != "dynamic":  # which compares it with the length of what is read
            config.max_position_embeddings = int(model.max_positions * factor)
        decoder.rotary_emb = type(self._own)(config=config).to(model.device)
        decoder.rotary_emb.train(self._own.training)

    def end(self) -> None:
        self._decoder.rotary_emb = self._own
