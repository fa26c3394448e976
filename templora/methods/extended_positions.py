"""Positions beyond those a model was trained on, through transformers' rope scaling: linear, dynamic NTK, YaRN.

linear   positions are divided by `factor` (Chen et al., arXiv 2306.15595)
dynamic  the base of the frequencies grows with the length of what is read, once that passes the model's positions
         (NTK-aware scaling, bloc97 2023, as in transformers' `dynamic`)
yarn     low frequencies are divided, high ones left, attention is sharpened (Peng et al., arXiv 2309.00071)
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from templora.chunks import Chunk
from templora.config import TempLoraConfig
from templora.decoding.reader import Reader
from templora.errors import OptionError, nearest
from templora.methods.base import Method, MethodState
from templora.models.causal import CausalModel
from templora.runtime.metering import Meter

SCALINGS = ("linear", "dynamic", "yarn")


@dataclass(frozen=True)
class ExtendedPositions(Method):
    """A sliding window that may be `factor` times as long as the model's own positions.

    Args:
        scaling: linear, dynamic or yarn.
        factor: by how much positions are stretched.
    """

    name: ClassVar[str] = "extended_positions"
    takes_notes: ClassVar[bool] = True

    scaling: str = "yarn"
    factor: float = 2.0

    def __post_init__(self) -> None:
        if self.scaling not in SCALINGS:
            raise OptionError("scaling", f"unknown {self.scaling!r}; {nearest(self.scaling, SCALINGS)}")
        if not 1 < self.factor <= 64:
            raise OptionError("factor", f"must be above 1 and at most 64, not {self.factor}")

    @property
    def changes_model(self) -> bool:
        return True

    @property
    def changes_passes(self) -> bool:
        return self.scaling == "dynamic"

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

    def begin(self, model: CausalModel, config: TempLoraConfig, opening: int = 0) -> MethodState:
        scaled = _Dynamic if self.scaling == "dynamic" else _Scaled
        return scaled(model, config, self)


class _Scaled(MethodState):
    """Another rotary embedding in the model, until the end."""

    def __init__(self, model: CausalModel, config: TempLoraConfig, method: ExtendedPositions) -> None:
        decoder: Any = model.decoder
        self._decoder = decoder
        self._own = decoder.rotary_emb
        self._config, self._positions = config, model.max_positions
        scaled = copy.deepcopy(self._own.config)
        parameters = scaled.rope_parameters
        # Layers of different kinds have a table each; those that see a short window only need no longer one.
        self._kind = None if "rope_type" in parameters else "full_attention"
        table = parameters[self._kind] if self._kind else parameters
        table |= {"rope_type": method.scaling, "factor": method.factor}
        table["original_max_position_embeddings"] = model.max_positions
        if method.scaling != "dynamic":  # which compares it with the length of what is read
            scaled.max_position_embeddings = int(model.max_positions * method.factor)
        decoder.rotary_emb = type(self._own)(config=scaled).to(model.device)
        decoder.rotary_emb.train(self._own.training)

    def end(self) -> None:
        self._decoder.rotary_emb = self._own


class _Dynamic(_Scaled):
    """Frequencies for the length that a chunk ends at, the same for all that it sees.

    Transformers changes them whenever a pass ends further on than those before, and leaves the keys in the cache turned
    by the old ones.
    """

    def __init__(self, model: CausalModel, config: TempLoraConfig, method: ExtendedPositions) -> None:
        super().__init__(model, config, method)
        rotary = self._decoder.rotary_emb
        self._scaled = rotary.config
        if self._kind:
            rotary.rope_type = {**rotary.rope_type, self._kind: "default"}
        else:
            rotary.rope_type = "default"

    def prepare(self, reader: Reader, tokens: Sequence[int], chunk_start: int, version: int) -> None:
        from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

        kind = {"layer_type": self._kind} if self._kind else {}
        held = getattr(self._decoder.rotary_emb, f"{self._kind}_inv_freq" if self._kind else "inv_freq")
        find = ROPE_INIT_FUNCTIONS["dynamic"]
        held.copy_(find(self._scaled, held.device, seq_len=self._length(chunk_start), **kind)[0])
        super().prepare(reader, tokens, chunk_start, version)

    def learn(self, tokens: Sequence[int], chunk: Chunk, meter: Meter) -> None:
        if self._length(chunk.end) != self._length(chunk.middle):
            self.version += 1  # what the next chunk sees is to be turned anew

    def _length(self, chunk_start: int) -> int:
        fed = chunk_start + self._config.chunk_size - 1  # the last token of a chunk is only predicted
        return max(self._positions, min(self._config.window, fed))
