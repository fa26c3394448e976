"""The KV cache of one session: bounded, evictable, and honest about which adapter computed it.

    entry      0 · · · · · · · · · length ─ ─ ─ ─ capacity
    position   i + shift                               eviction drops entries at the left and makes `shift` grow
    version    v v v v v+1 v+1 ...                     the adapter that computed each entry

It holds every token of the window but the newest, which is fed next and predicts the one after it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from transformers.cache_utils import Cache, CacheLayerMixin

from templora.errors import ModelError
from templora.runtime.signals import deferred


class _Span:
    """Which entries a forward pass sees, shared by all layers of a cache: the first `opening`, then [start, end); and
    whether it leaves the cache as it is."""

    def __init__(self, opening: int) -> None:
        self.opening = opening
        self.start = 0
        self.end = 0
        self.read_only = False

    @property
    def skipped(self) -> bool:
        return self.start > 0

    @property
    def length(self) -> int:
        return self.end - self.start + (self.opening if self.skipped else 0)


class _Layer(CacheLayerMixin):  # type: ignore[misc]
    """Keys and values of one layer, [1, heads, capacity, head size], written in place.

    Within `WindowCache.as_context` nothing is written: learning sees the context's keys and values as constants.
    """

    is_sliding = False  # sliding-window layers keep the whole window; the model's mask narrows what they see

    def __init__(self, span: _Span, capacity: int) -> None:
        super().__init__()
        self._span = span
        self._capacity = capacity

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        size = list(key_states.shape)
        size[2] = self._capacity
        # Zeros: recorded passes read all of it, and a mask does not hide what is not a number.
        self.keys = key_states.new_zeros(size)
        size[3] = value_states.shape[3]
        self.values = value_states.new_zeros(size)
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: object, **kwargs: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states.detach(), value_states.detach())
        keys, values, span = self.keys, self.values, self._span
        if keys is None or values is None:
            raise ModelError("a layer's cache was used before it was made")
        if span.read_only:
            return self._seen(keys, key_states), self._seen(values, value_states)
        after = span.end + key_states.shape[2]
        if after > self._capacity:
            raise ModelError(f"the window's cache has no room for {key_states.shape[2]} tokens after {span.end}")
        keys[:, :, span.end : after] = key_states
        values[:, :, span.end : after] = value_states
        return keys[:, :, :after], values[:, :, :after]

    def _seen(self, held: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
        span = self._span
        opening = [held[:, :, : span.opening]] if span.skipped and span.opening else []
        return torch.cat([*opening, held[:, :, span.start : span.end], new], 2)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.get_seq_length() + query_length, 0

    def get_seq_length(self) -> int:
        return self._span.length

    def get_max_length(self) -> int:
        return self._capacity


class WindowCache(Cache):  # type: ignore[misc]
    """KV cache of at most `capacity` entries in `layers` layers, usable as transformers' `past_key_values`.

    Args:
        layers: blocks of the model.
        capacity: most entries.
        opening: entries at the left that belong to every context: BOS, where the tokenizer has one, and notes.
        sinks: entries at the left that are never evicted, the opening among them. Models put attention that they
            have no use for on the first tokens of what they see; when those go, predictions break down (attention
            sinks, arXiv 2309.17453; measured here: docs/log.md).
    """

    def __init__(self, layers: int, capacity: int, opening: int = 0, sinks: int = 0) -> None:
        self._span = _Span(opening)
        super().__init__(layers=[_Layer(self._span, capacity) for _ in range(layers)])
        self.capacity = capacity
        self.opening = opening
        self.notes = 0  # of the opening so many, its last ones, are no tokens of the text
        self.sinks = max(opening, sinks)
        self.versions: list[int] = []  # one an entry: the adapter version that computed it
        self.first_token = 0  # token index of the first entry after the sinks, less `sinks`
        self.shift = 0  # entry i has position i + shift; sinks have position i
        self.served_version = 0  # adapter version it was last prepared for
        self.reused = 0  # chunk boundaries survived since it was last computed from nothing

    def __len__(self) -> int:
        return len(self.layers)

    @property
    def length(self) -> int:
        """Entries held."""
        return len(self.versions)

    @property
    def bytes(self) -> int:
        """Memory held for entries, filled or not."""
        held = [t for layer in self.layers if layer.is_initialized for t in (layer.keys, layer.values)]
        return sum(t.numel() * t.element_size() for t in held)

    @property
    def next_token(self) -> int:
        """Index of the first token of the text that is not held."""
        return self.first_token + self.length

    @property
    def next_position(self) -> int:
        return self.shift + self.length

    def advance(self, tokens: int, version: int) -> None:
        """Counts the entries that a forward pass of `tokens` tokens has just written to every layer."""
        if self.length + tokens > self.capacity:
            raise ModelError(f"the window's cache has no room for {tokens} tokens after {self.length}")
        self.versions.extend([version] * tokens)
        self._span.end = len(self.versions)

    def clear(self, first_token: int) -> None:
        """Empties the cache; what is fed next is the opening, then the tokens from `first_token` + opening on."""
        self.versions = []
        self._span.end = 0
        self.shift = self.reused = 0
        self.first_token = first_token

    def begin(self, opening: int, notes: int, sinks: int) -> None:
        """Empties the cache, for other windows: these are as given at first, the notes among the opening."""
        self.clear(0)
        self.opening, self.notes, self.sinks = opening, notes, max(opening, sinks)
        self._span.opening = opening

    @torch.no_grad()
    def hold(
        self,
        keys: Sequence[torch.Tensor],
        values: Sequence[torch.Tensor],
        *,
        next_token: int,
        next_position: int,
        version: int,
    ) -> None:
        """Holds these entries, [1, heads, entries, head size] a layer, and nothing else.

        `next_token` and `next_position` are of what is fed next; the entries count as the tokens just before it, though
        they may stand for more.
        """
        self.clear(0)
        for layer, key, value in zip(self.layers, keys, values, strict=True):
            if not layer.is_initialized:
                layer.lazy_initialization(key, value)
            layer.keys[:, :, : key.shape[2]] = key
            layer.values[:, :, : value.shape[2]] = value
        entries = keys[0].shape[2]
        self.first_token, self.shift = next_token - entries, next_position - entries
        self.advance(entries, version)

    @torch.no_grad()
    def evict(self, first_token: int) -> None:
        """Drops the entries between the sinks and those of token `first_token` + sinks. Positions stay as they were."""
        drop = first_token - self.first_token
        if drop <= 0:
            return
        s, length, kept, shift, reused = self.sinks, self.length, self.versions, self.shift, self.reused
        with deferred():
            # One that fails half-way, without memory, leaves an empty cache, not a wrong one.
            self.clear(self.first_token)
            for layer in self.layers:
                for held in (layer.keys, layer.values):
                    held[:, :, s : length - drop] = held[:, :, s + drop : length].clone()
            self.first_token, self.shift, self.reused = self.first_token + drop, shift + drop, reused
            self.versions = kept[:s] + kept[s + drop :]
            self._span.end = self.length

    def truncate(self, length: int) -> None:
        """Keeps the first `length` entries alone, as if what came after them had not been read."""
        del self.versions[length:]
        self._span.start, self._span.end = 0, self.length

    def keep(self, next_token: int) -> None:
        """Takes out the entries from token `next_token` on, if there are any: `next_token` is what is fed next then."""
        length = self.length - max(0, self.next_token - next_token)
        # The first entries are not those of the tokens just before the others.
        self.truncate(length if length >= self.sinks or not self.first_token else 0)

    @contextmanager
    def as_context(self, end_token: int, most: int) -> Iterator[tuple[int, int]]:
        """Inside, forward passes see `most` entries as constants, the opening and the last ones before `end_token`, and
        leave the cache as it is.

        Yields (entries seen, position that follows them).
        """
        start, end = self._context(end_token, most)
        self._span.start, self._span.end, self._span.read_only = start, end, True
        try:
            yield self._span.length, self.shift + end
        finally:
            self._span.start, self._span.end, self._span.read_only = 0, self.length, False

    @torch.no_grad()
    def snapshot(self, end_token: int, most: int) -> WindowCache:
        """A copy of the entries that `as_context` shows; it shows the same, and stays while this one moves on."""
        start, end = self._context(end_token, most)
        opening = self.opening if start else 0
        length = opening + end - start
        copy = WindowCache(len(self.layers), length, self.opening, self.sinks)
        copy.notes = self.notes
        copy.first_token, copy.shift = end_token - length, self.shift + end - length
        for layer, held in zip(copy.layers, self.layers, strict=True):
            if held.is_initialized:
                layer.lazy_initialization(held.keys, held.values)
                for new, old in ((layer.keys, held.keys), (layer.values, held.values)):
                    new[:, :, :opening] = old[:, :, :opening]
                    new[:, :, opening:] = old[:, :, start:end]
        copy.advance(length, self.served_version)
        copy.versions = self.versions[:opening] + self.versions[start:end]
        return copy

    def _context(self, end_token: int, most: int) -> tuple[int, int]:
        """The entries [start, end) that follow the opening in a context of `most` entries before `end_token`."""
        end = end_token - self.first_token
        if not 0 <= end <= self.length:
            raise ModelError(f"the window's cache holds {self.length} entries, and the context would end after {end}")
        return 0 if end <= max(most, self.opening) else max(self.opening, end - max(0, most - self.opening)), end
