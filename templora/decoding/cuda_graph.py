"""`CudaGraphStep`: the decode step on CUDA as one recorded graph.

Read token by token, a model on a GPU waits for Python: hundreds of small kernels, each launched by hand. Here they are
recorded once and replayed with one launch. What a graph reads stays where it was recorded:

    token, position, entry    int64 [3] on the device, rewritten before each replay
    keys and values           the session's own `WindowCache` buffers, at full capacity under a mask
    adapter                   what serves of its slot, which commits rewrite in place

so evictions, window moves and commits need no new recording; another cache or another route does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

from templora.errors import ModelError
from templora.kvcache.window import StaticView, WindowCache
from templora.lora.slot import Route
from templora.models.causal import CausalModel
from templora.models.runner import Row, through

_R = TypeVar("_R")

# Rotary embeddings that look at the positions' values to choose their frequencies: a replay cannot.
_VALUE_DEPENDENT_ROPE = ("dynamic", "longrope")


def static_step(
    model: CausalModel, view: StaticView, inputs: torch.Tensor, route: Route | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """(fp32 logits [V], last hidden state [H]) of one token, by operations that are the same for every token.

    Args:
        view: the cache; one entry of it is written.
        inputs: int64 [3]: token, its position, the entry to write (which `view` was made with, too).
        route: the adapter.
    """
    token, position = inputs[0:1][None], inputs[1:2][None]
    with through(route):
        out = model.decoder(input_ids=token, position_ids=position, past_key_values=view, use_cache=True)
    hidden = out.last_hidden_state[0]
    return model.logits(hidden)[0], hidden[0]


class CudaGraphStep:
    """The decode step of one reader, recorded at its first token.

    Args:
        model: what `supports` said yes to.
        record: what turns a step [] -> logits [V] into a replay of it; a CUDA graph unless a test wants otherwise.
    """

    most_rows = 1  # a recording is of one cache
    is_apart = False

    def __init__(
        self,
        model: CausalModel,
        record: Callable[[Callable[[], torch.Tensor]], Callable[[], torch.Tensor]] | None = None,
    ) -> None:
        self._model = model
        self._record = record or cuda_graph
        self._inputs = torch.zeros(3, dtype=torch.long, device=model.device)
        self._recorded_for: tuple[WindowCache, Route | None] | None = None
        self._replay: Callable[[], torch.Tensor] | None = None

    @staticmethod
    def supports(model: CausalModel) -> bool:
        """Whether this model's step can be recorded where it is."""
        return model.device.type == "cuda" and can_be_static(model)

    @torch.no_grad()
    def __call__(self, rows: Sequence[Row]) -> list[torch.Tensor]:
        """fp32 logits [V] of what follows the token of one row, which is written to the cache and not counted yet
        (`advance`). The cache holds everything before it, at least one entry; a recording is of the row's adapter."""
        (row,) = rows
        cache, route = row.cache, row.route
        if not 0 < cache.length < cache.capacity:
            raise ModelError(
                f"the window's cache holds {cache.length} of {cache.capacity} entries: no room for a token"
            )
        self._inputs.copy_(torch.tensor([row.token, cache.next_position, cache.length]))
        of = self._recorded_for
        if self._replay is None or of is None or of[0] is not cache or of[1] is not route:
            self._replay = None  # its memory goes before the next one takes its own
            view = StaticView(cache, self._inputs[2:3])
            self._replay = self._record(lambda: self._step(view, route))
            self._recorded_for = (cache, route)  # holding them keeps their addresses from being given to others
        return [self._replay().clone()]  # samplers edit logits; the next replay overwrites them

    def _step(self, view: StaticView, route: Route | None) -> torch.Tensor:
        logits, self._state = static_step(self._model, view, self._inputs, route)
        return logits

    def state(self, row: int) -> torch.Tensor:
        """The last hidden state [hidden size] of the token that was read last."""
        return self._state.clone()


def can_be_static(model: CausalModel) -> bool:
    """Whether nothing in this model's step depends on values that a recording would freeze."""
    rope = getattr(model.config, "rope_parameters", None) or {}
    kinds = [rope, *(r for r in rope.values() if isinstance(r, dict))]
    return not any(kind.get("rope_type") in _VALUE_DEPENDENT_ROPE for kind in kinds)


def cuda_graph(step: Callable[[], _R]) -> Callable[[], _R]:
    """Records `step` as a CUDA graph; it is run a few times first, which must do no harm."""
    aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):  # libraries set themselves up at first use, which cannot be recorded
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    # Other threads may be learning on streams of their own meanwhile.
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        found = step()

    def replay() -> _R:
        graph.replay()
        return found

    return replay
