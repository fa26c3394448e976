"""`Steps`: how the readers of one model read a token, worked out when first asked."""

from __future__ import annotations

import time
import warnings
from functools import cached_property

from templora.decoding.graph_rows import GraphRows, graph_rows
from templora.decoding.module_rows import rows_of
from templora.models.causal import CausalModel
from templora.models.runner import Step
from templora.runtime.threads import governor, threads


class Steps:
    """The steps of a model as it is now.

    Args:
        model: it.
        rows: texts that are read in one pass on a GPU; of one, recordings are the readers' own.

    Attributes:
        seconds: what making the step that readers share took: seconds where it had to be compiled.
    """

    def __init__(self, model: CausalModel, rows: int = 1) -> None:
        self._model, self._rows = model, rows
        self.seconds = 0.0

    def new(self) -> Step | None:
        """That of a new reader; None: one text at a time, through the model's own modules."""
        if isinstance(self._shared, GraphRows) and self._shared.most_rows == 1:
            return GraphRows(self._model, 1)
        return self._shared

    @cached_property
    def _shared(self) -> Step | None:
        began = time.perf_counter()
        if self._model.device.type == "cuda":
            made: Step | None = graph_rows(self._model, self._rows)
            if made is None and self._rows > 1:
                warnings.warn(f"this model cannot read {self._rows} texts in one pass; rows=1 it is", stacklevel=2)
                made = graph_rows(self._model, 1)
        else:
            from templora.decoding.cpu_step import cpu_step  # brings numba with it, which a GPU has no use for

            made = cpu_step(self._model, governor.wanted, threads) or rows_of(self._model)
        self.seconds = time.perf_counter() - began
        return made
