"""`Runner`: the one caller of the model's forward pass, for whoever reads, scores, learns or writes.

read     many tokens of one text, in a pass that is shared with nobody
compare  the same tokens through several adapters
step     one token of each of several texts, in one pass where there is one; each depends on itself alone
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Protocol

import torch

from templora.kvcache.window import WindowCache
from templora.lora.slot import Route
from templora.models.causal import CausalModel
from templora.runtime.metering import Meter


class Step(Protocol):
    """A way to read one token of each of at most `most_rows` texts.

    Attributes:
        most_rows: of a pass.
        is_apart: it does not go through the model's modules, so that it may be in the middle of a pass that does.
    """

    most_rows: int
    is_apart: bool

    def __call__(self, rows: Sequence[Row]) -> list[torch.Tensor]:
        """fp32 logits [vocabulary] of each; writes its token's key and value behind what its cache holds."""

    def state(self, row: int) -> torch.Tensor:
        """The last hidden state [hidden size] of a row's token, of those that were read last."""


@dataclass(frozen=True)
class Row:
    """One token of one text.

    Args:
        token: its id.
        cache: holds all before it; takes it in.
        route: the adapter; None: the bare base.
        step: the way; None: by itself, through the model's own modules.
        meter: where FLOPs are counted.
        mix: makes what is predicted of the model's logits [vocabulary] and the state [hidden size] before them; None:
            they stay as they are.
    """

    token: int
    cache: WindowCache
    route: Route | None
    step: Step | None
    meter: Meter
    mix: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None = None


@dataclass(frozen=True)
class Runner:
    """Runs one model.

    Args:
        model: the base.
    """

    model: CausalModel

    def read(
        self, ids: list[int], cache: Any, position: int, route: Route | None, meter: Meter, *, logits: int = 0
    ) -> torch.Tensor:
        """Final hidden states [len(ids), hidden size]; gradients are recorded if the caller has them recorded.

        Args:
            ids: what is read.
            cache: what they see before them, a `WindowCache` or another of transformers'; None: nothing.
            position: of the first.
            route: the adapter; None: the bare base.
            meter: where FLOPs are counted.
            logits: how many rows will be turned into logits, for that count.
        """
        seen = 0 if cache is None else int(cache.get_seq_length())
        meter.count(self.model.shape.forward(len(ids), seen, logits, weights_of(route)))
        with through(route):
            return self.model.hidden(ids, cache, position)

    @torch.no_grad()
    def compare(self, ids: list[int], routes: Sequence[Route], meter: Meter, *, logits: int = 0) -> torch.Tensor:
        """Final hidden states [routes, len(ids), hidden size] of the same tokens through adapters of one bank."""
        if self.model.mixtures:
            return torch.stack([self.read(ids, None, 0, route, meter, logits=logits) for route in routes])
        for route in routes:
            meter.count(self.model.shape.forward(len(ids), 0, logits, weights_of(route)))
        with routes[0].bank.by_rows(routes):
            return self.model.hidden_rows([ids] * len(routes))

    @torch.no_grad()
    def step(self, rows: Sequence[Row]) -> list[torch.Tensor]:
        """fp32 logits [vocabulary] of what follows each row's token, which is in the row's cache then."""
        found: list[torch.Tensor] = []
        for step, neighbours in groupby(rows, lambda row: row.step if row.cache.length else None):
            together = list(neighbours)
            most = 1 if step is None else step.most_rows
            for first in range(0, len(together), most):
                found += self._pass(step, together[first : first + most])
        return found

    def _pass(self, step: Step | None, rows: Sequence[Row]) -> list[torch.Tensor]:
        """`step` for rows of one compiled step, or for one of none."""
        if step is None:  # nor has a first token a cache to share yet
            (row,) = rows
            hidden = self.read([row.token], row.cache, row.cache.next_position, row.route, row.meter, logits=1)
            logits, states = list(self.model.logits(hidden)), list(hidden)
        else:
            logits = step(rows)
            # Kept before anything is decoded again.
            states = [step.state(i) if row.mix else logits[i] for i, row in enumerate(rows)]
        for row in rows:
            if step is not None:
                row.meter.count(self.model.shape.forward(1, row.cache.length, 1, weights_of(row.route)))
            row.cache.advance(1, row.cache.served_version)
        mixed = zip(rows, logits, states, strict=True)
        return [row.mix(predicted, state) if row.mix else predicted for row, predicted, state in mixed]


@contextmanager
def through(route: Route | None) -> Iterator[None]:
    """The calling thread's passes inside go through this adapter; None: as they went."""
    if route is None:
        yield
        return
    with route.bank.through(route):
        yield


def weights_of(route: Route | None) -> int:
    """Weights of the adapter that a pass goes through."""
    return 0 if route is None else route.bank.layout.weights
