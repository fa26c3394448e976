"""A pass through a model's own modules whose rows are tokens of different texts.

    x [rows, 1, hidden]   the base's layers    all rows at once: weights are read once
                          attention            one row at a time, over the keys of the row's own cache
                          adapters             one row at a time, by the bank's hooks
                          experts              one row at a time: which are chosen is each row's own

What a row is must not depend on its neighbours. What is done a row at a time does not; and what is done for all at once
does not either, as long as it is done for the same number of them: a product of another shape sums in another order.
So there may be more rows than texts. Those stand last, attend to nothing, and go through no adapter.
"""

from __future__ import annotations

import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from transformers import AttentionInterface
from transformers.cache_utils import Cache, CacheLayerMixin
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from templora.errors import ModelError
from templora.kvcache.window import WindowCache
from templora.layers import attention
from templora.lora.slot import Route
from templora.models.causal import CausalModel

_NAME = "templora-rows"


class RowPass(ABC):
    """What the texts of a pass are, and what their tokens see.

    Args:
        caches: of the texts.
        routes: their adapters.

    Attributes:
        attended: layers whose attention was that of rows.
    """

    def __init__(self, caches: Sequence[WindowCache], routes: Sequence[Route | None]) -> None:
        self.caches, self.routes = caches, routes
        self.attended = 0
        self.attention: str | None = None  # the model's own, by name
        # The layer of each cache that was given keys and values last: that is done just before they are attended to.
        self._held: Sequence[Any] = ()

    def take(self, held: Sequence[Any], keys: torch.Tensor, values: torch.Tensor) -> None:
        """Puts the keys and values [rows, heads, 1, head size] of a layer into that layer of each cache."""
        self._held = held
        for row, layer in enumerate(held):
            self._put(row, layer, keys[row : row + 1], values[row : row + 1])

    @abstractmethod
    def _put(self, row: int, held: Any, key: torch.Tensor, value: torch.Tensor) -> None:
        """Puts a key and a value [1, heads, 1, head size]."""

    @abstractmethod
    def _seen(self, row: int, held: Any, window: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Keys and values [1, heads, entries, head size] that a row attends to, and a mask [1, 1, 1, entries] that is
        added to its scores; of the last `window` entries alone, if that is not 0."""

    def attend(
        self, module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, **how: Any
    ) -> torch.Tensor:
        """Attention [rows, 1, heads, head size] of query [rows, heads, 1, head size], by the model's own function."""
        self.attended += 1
        window = attention.window_of(module, how.get("sliding_window"))
        eager = getattr(sys.modules[type(module).__module__], "eager_attention_forward", None)
        own = ALL_ATTENTION_FUNCTIONS.get_interface(self.attention, eager)
        out = query.new_zeros(len(query), 1, query.shape[1], value.shape[3])
        for row, held in enumerate(self._held):
            keys, values, mask = self._seen(row, held, window)
            out[row] = own(module, query[row : row + 1], keys, values, mask, **how)[0][0]
        return out


class _Going(threading.local):
    """The pass of the calling thread."""

    current: RowPass | None = None


_going = _Going()


class _Layer(CacheLayerMixin):  # type: ignore[misc]
    """A layer of all caches, which hands out what it was given: `RowPass.attend` knows the rest. It says that it is
    empty, for nobody else is to make a mask or a position of its length."""

    is_sliding = False

    def __init__(self, held: Sequence[Any]) -> None:
        super().__init__()
        self._held = held
        self.is_initialized = True

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        raise AssertionError("there is nothing to make")

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: object, **kwargs: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        assert _going.current is not None
        _going.current.take(self._held, key_states, value_states)
        return key_states, value_states

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return query_length, 0

    def get_seq_length(self) -> int:
        return 0

    def get_max_length(self) -> int:
        return -1


def place_of(caches: Sequence[WindowCache], row: int) -> int:
    """The entry of its cache that a row's token becomes: rows of one cache are tokens that follow each other.

    Raises:
        ModelError: there is no room for it, or nothing before it.
    """
    cache = caches[row]
    at = cache.length + caches[:row].count(cache)
    if not 0 < at < cache.capacity:
        raise ModelError(f"the window's cache holds {at} of {cache.capacity} entries: no room for a token")
    return at


class RowReader:
    """Reads rows through a model's own modules.

    Args:
        model: it.
    """

    def __init__(self, model: CausalModel) -> None:
        self._model = model
        self._forwards = [(m, _row_by_row(m.forward)) for m in model.mixtures]
        if any("forward" in m.__dict__ for m, _ in self._forwards):
            raise ModelError("somebody else has put a forward in the place of an expert block's own")
        AttentionInterface.register(_NAME, _attend)

    def read(self, going: RowPass, ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Final hidden states [rows, hidden size] of tokens at positions, int64 [rows] both, the texts' own first. The
        caller counts the entries (`WindowCache.advance`)."""
        layers = zip(*(cache.layers for cache in going.caches), strict=True)
        view = Cache(layers=[_Layer(held) for held in layers])
        nobody = [None] * (len(ids) - len(going.routes))
        with self._by_rows(going), _through([*going.routes, *nobody]):
            out = self._model.decoder(
                input_ids=ids[:, None], position_ids=positions[:, None], past_key_values=view, use_cache=True
            )
        hidden: torch.Tensor = out.last_hidden_state[:, 0]
        return hidden

    @contextmanager
    def _by_rows(self, going: RowPass) -> Iterator[None]:
        """Inside, what must be done a row at a time is done so."""
        config = self._model.config
        going.attention = config._attn_implementation
        if going.attention == _NAME:
            raise ModelError("this model is decoding in another thread, for another engine")
        try:
            _going.current = going
            config._attn_implementation = _NAME
            for module, forward in self._forwards:
                module.__dict__["forward"] = forward
            yield
        finally:
            for module, _ in self._forwards:
                module.__dict__.pop("forward", None)
            config._attn_implementation = going.attention
            _going.current = None


def _attend(
    module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attention_mask: object, **how: Any
) -> tuple[torch.Tensor, None]:
    """transformers' attention interface, for which it makes no masks."""
    if _going.current is None:  # somebody else's pass meanwhile, in another thread
        if query.device.type != "cpu":
            raise ModelError("this model is decoding in another thread; it has no attention for others meanwhile")
        return attention.attend(module, query, key, value, None, **how)
    return _going.current.attend(module, query, key, value, **how), None


def _row_by_row(own: Callable[..., Any]) -> Callable[..., Any]:
    """A module's `forward` that calls its own for each text's row by itself."""

    def forward(x: torch.Tensor, *others: Any, **how: Any) -> Any:
        if _going.current is None:
            return own(x, *others, **how)
        out, found, routes = torch.zeros_like(x), None, _going.current.routes
        for row, route in enumerate(routes):
            with _through([route], among=routes):
                found = own(x[row : row + 1], *others, **how)
            out[row] = (found[0] if isinstance(found, tuple) else found)[0]
        return (out, *found[1:]) if isinstance(found, tuple) else out

    return forward


@contextmanager
def _through(routes: Sequence[Route | None], among: Sequence[Route | None] = ()) -> Iterator[None]:
    """Inside, each row of the calling thread's passes goes through its own adapter, and through none of those `among`
    which it is that were on the way."""
    with ExitStack() as stack:
        for bank in {id(route.bank): route.bank for route in (*routes, *among) if route}.values():
            stack.enter_context(bank.by_rows([r if r and r.bank is bank else None for r in routes]))
        yield
