"""`Readers`: the two that read a session's text, through its adapter and as the bare base does, under its method."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from templora.chunks import Chunk
from templora.config import TempLoraConfig
from templora.decoding.preview import Previewer
from templora.decoding.reader import Reader
from templora.kvcache.window import WindowCache
from templora.lora.slot import Slot
from templora.methods.base import MethodState
from templora.models.neural_cache import NeuralCache
from templora.models.runner import Runner, Step
from templora.runtime.metering import Meter
from templora.session.snapshot import Snapshot, of_cache, to_cache
from templora.session.transcript import Transcript


class Readers:
    """What reads one text.

    Args:
        runner: runs the base.
        slot: the adapter.
        config: sizes, and `cache_reuse`.
        transcript: the text.
        memory: how what is before a chunk is kept.
        meter: where FLOPs are counted.
        new_step: how a new reader is to decode one token.
        neural_cache: what takes part in the predictions of the adapted one.

    Attributes:
        adapted, base: they.
    """

    def __init__(
        self,
        runner: Runner,
        slot: Slot,
        config: TempLoraConfig,
        transcript: Transcript,
        memory: MethodState,
        meter: Meter,
        new_step: Callable[[], Step | None],
        neural_cache: NeuralCache | None = None,
    ) -> None:
        self._neural_cache = neural_cache
        self._text, self._memory, self._slot, self._config = transcript, memory, slot, config
        self._runner, self._meter, self._new_step = runner, meter, new_step
        self.adapted, self.base = self._make(slot), self._make(None)
        self._previewers: dict[bool, Previewer] = {}  # whether the base drafts -> with what

    def _make(self, slot: Slot | None) -> Reader:
        cache = self._neural_cache if slot else None
        reader = Reader(self._runner, slot, self._config, self._text.opening, self._meter, self._new_step, cache)
        reader.begin(len(self._text.notes))
        return reader

    def begin_anew(self) -> None:
        """Forgets all that was read: the notes are others."""
        self._previewers = {}
        for reader in (self.adapted, self.base):
            reader.begin(len(self._text.notes))

    @property
    def served(self) -> int:
        """What caches must have been computed under: it grows when the adapter changes, or the model itself."""
        return self._slot.version + self._memory.version

    @property
    def alike(self) -> bool:
        """Whether the pass that scores a chunk may leave the caches as they are: they are computed anew anyway."""
        return self._memory.rereads

    def prepare(self, reader: Reader, end: int | None = None, chunk_start: int | None = None) -> None:
        """Makes a reader's cache hold what the next token sees, if the text ended at `end` and its open chunk began at
        `chunk_start`; without them, as it is."""
        tokens = self._text.tokens if end is None else self._text.tokens[:end]
        start = self._text.chunk_start if chunk_start is None else chunk_start
        self._memory.prepare(reader, self._text.seen(tokens), start + len(self._text.notes), self.served)

    def is_prepared(self, for_chunk: tuple[int, int]) -> bool:
        """Whether the adapted one has read all but the newest token since `prepared_for` said this."""
        return for_chunk == self.prepared_for and self.adapted.at(self._newest)

    @property
    def _newest(self) -> int:
        """Where the newest token is, as the model sees the text."""
        return len(self._text) + len(self._text.notes) - 1

    @property
    def prepared_for(self) -> tuple[int, int]:
        """What `prepare` depends on, the newest tokens apart: where the open chunk begins, and `served`."""
        return self._text.chunk_start, self.served

    def previewer(self, base: bool, tokenizer: Any) -> tuple[Previewer, int]:
        """What drafts, with a reader of its own; and the version that it reads under."""
        if base not in self._previewers:
            self._previewers[base] = Previewer(self._make(None if base else self._slot), tokenizer)
        return self._previewers[base], self._memory.version if base else self.served

    def context(self, chunk: Chunk) -> WindowCache:
        """A cache that reaches up to the token before the chunk; one that was given, not read, is not in it yet."""
        cache, seen = self.adapted.cache, self._text.seen_chunk(chunk)
        read = cache.next_token >= seen.first_target - 1 and cache.served_version == self.served
        if self._config.context_gradients or read:
            return cache
        drafter = self._previewers.get(False)  # may have read it, in the very pass that would read it now
        if drafter and self._memory.is_plain and not self._config.cache_reuse:
            held = drafter.context(self._text.seen(), seen.middle, self.served)
            if held is not None:
                return held
        self.prepare(self.adapted, seen.first_target - len(self._text.notes), chunk.middle)
        return cache

    def remember(self, chunk: Chunk, meter: Meter) -> None:
        """Has the method take in a chunk that is closed."""
        self._memory.learn(self._text.seen(), self._text.seen_chunk(chunk), meter)

    def tidy(self) -> None:
        """Takes what is beyond the text out of the caches."""
        for reader in (self.adapted, self.base):
            reader.cache.keep(self._newest)

    def state(self) -> Snapshot:
        """The caches, and what the method holds; views."""
        tensors, caches = dict(self._memory.tensors()), {}
        for name, reader in (("adapted", self.adapted), ("base", self.base)):
            # What would be computed anew anyway is left out.
            stale = reader.cache.served_version != self.served and self._memory.rereads
            held = WindowCache(0, 0) if stale and not self._config.cache_reuse else reader.cache
            part = of_cache(held, name)
            tensors |= part.tensors
            caches[name] = part.meta
        return Snapshot(tensors, {"memory_version": self._memory.version, "caches": caches})

    def load_state(self, tensors: Mapping[str, torch.Tensor], meta: Mapping[str, Any]) -> None:
        """Becomes what `state` was given."""
        self._memory.restore(tensors, meta["memory_version"])
        self._previewers = {}  # whose versions are another adapter's
        for name, reader in (("adapted", self.adapted), ("base", self.base)):
            to_cache(reader.cache, name, Snapshot(tensors, meta["caches"][name]))

    def fits(self, tensors: Mapping[str, torch.Tensor]) -> bool:
        """Whether the method can go on from these."""
        return self._memory.fits(tensors)

    @property
    def method_tensors(self) -> Mapping[str, torch.Tensor]:
        """What the method holds."""
        return self._memory.tensors()
