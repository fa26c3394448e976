"""`Reader`: reads a session's tokens through one adapter (or none), with a KV cache of one window.

    tokens    0 · · · · first ── context ──┬── open chunk ── n−1 │ n
    cache            [sinks][──────────────┴───────────────)
                                              the newest token is fed with the next step and predicts token n

Between chunks the window moves on: old entries are evicted, and the rest is recomputed or, for up to `cache_reuse`
boundaries, lived with although an older adapter computed it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property

import torch

from templora.config import TempLoraConfig
from templora.errors import ModelError
from templora.kvcache.window import WindowCache
from templora.lora.slot import Route, Slot
from templora.models.neural_cache import NeuralCache
from templora.models.runner import Row, Runner, Step
from templora.runtime.metering import Meter
from templora.runtime.signals import deferred

# Entries that outlive evictions, beside BOS: four are enough (arXiv 2309.17453, section 3).
_SINKS = 4
# Known tokens that the compiled step reads sooner, four at a time, than the modules do at once: a short prompt, say.
_FEW = 16


class Reader:
    """One reader of one text.

    Args:
        runner: runs the base.
        slot: the adapter to read through; None: the bare base.
        config: sizes of window and chunk, and `cache_reuse`.
        opening: how many tokens at the start of the text stay in every window.
        meter: where FLOPs are counted.
        step: the compiled way to read one token, or None for the model's own modules. Asked when first needed.
        neural_cache: what takes part in its predictions.
    """

    def __init__(
        self,
        runner: Runner,
        slot: Slot | None,
        config: TempLoraConfig,
        opening: int,
        meter: Meter,
        step: Callable[[], Step | None] = lambda: None,
        neural_cache: NeuralCache | None = None,
    ) -> None:
        self.config = config
        self.neural_cache = neural_cache
        self.runner, self.model, self.slot = runner, runner.model, slot
        self.meter = meter
        self._make_step = step
        self._opening, self._sinks = opening, min(_SINKS, config.context - 1)
        self.cache = WindowCache(self.model.layers, config.window, opening, self._sinks)

    def begin(self, notes: int) -> None:
        """From here on so many tokens after the opening stay in every window too; nothing is read yet."""
        self.cache.begin(self._opening + notes, notes, self._sinks)

    @cached_property
    def step(self) -> Step | None:
        return self._make_step()

    def ready(self) -> None:
        """Makes what the first token needs, so that no clock of decoding counts it."""
        _ = self.step

    @property
    def is_apart(self) -> bool:
        """Whether its next token does not go through the model's modules, not even once to be recorded; known once it
        is `ready`."""
        return getattr(self.__dict__.get("step"), "is_apart", False) and bool(self.cache.length)

    @property
    def rows(self) -> int:
        """How many known tokens it reads at once, when it is `ready`, and texts with others."""
        step: Step | None = self.__dict__.get("step")
        return step.most_rows if step and self.cache.length else 1

    def joins(self, other: Reader) -> bool:
        """Whether its next token can be read in one pass with another's."""
        return min(self.rows, other.rows) > 1 and self.step is other.step and self.cache is not other.cache

    @property
    def route(self) -> Route | None:
        """The adapter that it reads through now."""
        return None if self.slot is None else self.slot.route

    def at(self, token: int) -> bool:
        """Whether the cache holds what comes before `token`, the newest, and nothing more."""
        return self.cache.next_token == token and bool(self.cache.length)

    def window_start(self, chunk_start: int) -> int:
        """First token of the window in which a chunk starting at `chunk_start` is read, opening included."""
        return max(0, chunk_start - self.config.context)

    def prepare(self, tokens: Sequence[int], chunk_start: int, version: int) -> None:
        """Makes the cache hold the window before the newest token, under the adapter of this version.

        Recomputes it when the window has moved or the adapter has changed, unless `cache_reuse` allows one more
        chunk on what is there. The schedule depends on versions and sizes alone, so a base reader given the adapted
        one's versions goes through the same passes.
        """
        cache, first = self.cache, self.window_start(chunk_start)
        if cache.length == 0:
            cache.clear(first)
        elif first > cache.first_token or version != cache.served_version:
            fits = cache.shift + (first - cache.first_token) + self.config.window <= self.model.max_positions
            reusable = cache.reused < self.config.cache_reuse and fits and first < cache.next_token - cache.sinks
            if reusable:
                with deferred():
                    cache.evict(first)
                    cache.reused += 1
                    cache.served_version = version
            else:
                cache.clear(first)
        self.fill(tokens, version)

    def fill(self, tokens: Sequence[int], version: int) -> None:
        """Reads what the cache lacks, up to the newest token exclusively, under the adapter of this version."""
        self.cache.keep(len(tokens) - 1)  # who read further was interrupted before that became the text
        self.cache.served_version = version
        missing = self._missing(tokens)
        if missing:
            with self.meter.phase("cache"):
                if self._by_step(missing):
                    self.runner.step([replace(self.row(token), mix=None) for token in missing])
                else:
                    self.feed(missing, logits=0)

    def _by_step(self, tokens: Sequence[int]) -> bool:
        """Whether these are read the way that tokens are written: the modules take nearly as long for a few as for
        many."""
        few = bool(self.cache.length) and len(tokens) <= _FEW
        return few and self.model.device.type == "cpu" and self.step is not None and self.step.is_apart

    def _missing(self, tokens: Sequence[int]) -> list[int]:
        cache = self.cache
        if cache.length == 0 and cache.first_token > 0:
            return [*tokens[: cache.opening], *tokens[cache.first_token + cache.opening : -1]]
        return list(tokens[cache.next_token : -1])

    @torch.no_grad()
    def feed(self, ids: list[int], *, logits: int) -> torch.Tensor:
        """Reads `ids` after what is cached and caches them: hidden states [len(ids), hidden size].

        `logits` is how many rows will be turned into logits, for the FLOP count.
        """
        cache = self.cache
        hidden = self.runner.read(ids, cache, cache.next_position, self.route, self.meter, logits=logits)
        cache.advance(len(ids), cache.served_version)
        return hidden

    def row(self, token: int) -> Row:
        """What reads `token`, the newest, after what the cache holds."""
        mix = self.neural_cache.mixed if self.neural_cache else None
        # Nothing is read of an adapter that adds nothing; but on CUDA another route would be another recording.
        spared = self.slot is not None and self.model.device.type == "cpu" and self.slot.adds_nothing
        return Row(token, self.cache, None if spared else self.route, self.step, self.meter, mix)

    def next_logits(self, tokens: Sequence[int]) -> torch.Tensor:
        """fp32 logits [vocabulary] of the token after `tokens`, of which the cache holds all but the last."""
        return self.runner.step([self.row(tokens[-1])])[0]

    def nll(self, tokens: Sequence[int], first_target: int) -> torch.Tensor:
        """NLL, in nats, of each of tokens[first_target:], the cache holding all before token first_target − 1."""
        if self.cache.next_token != first_target - 1:
            raise ModelError(
                f"what comes before token {first_target} was not read: {self.cache.next_token} tokens were"
            )
        hidden = self.feed(list(tokens[first_target - 1 : -1]), logits=len(tokens) - first_target)
        return self.predicted(hidden, tokens[first_target:])

    @torch.no_grad()
    def nll_again(self, tokens: Sequence[int], first_target: int) -> torch.Tensor:
        """`nll` of tokens that have been read already; leaves the cache as it is."""
        inputs = list(tokens[first_target - 1 : -1])
        with self.cache.as_context(first_target - 1, self.config.window) as (_, position):
            hidden = self.runner.read(inputs, self.cache, position, self.route, self.meter, logits=len(inputs))
        return self.predicted(hidden, tokens[first_target:])

    def predicted(
        self, hidden: torch.Tensor, targets: Sequence[int], by_model: torch.Tensor | None = None
    ) -> torch.Tensor:
        """NLL [T], in nats, of `targets` after hidden states [T, H]; `by_model`: what it is under the model alone, if
        that is known."""
        nll = self.model.nll(hidden, list(targets)) if by_model is None else by_model
        return self.neural_cache.nll(nll, hidden, targets) if self.neural_cache else nll
