"""`Scorer`: how well base and adapter predict a session's tokens, each before it is learnt.

The pass that scores a whole chunk through the adapter may be the first one of learning it. It is kept here until the
chunk is closed, and handed out only if that chunk is learnt as it was read.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch

from templora.chunks import Chunk
from templora.config import TempLoraConfig
from templora.events import ChunkScored
from templora.learning.learner import Learner, Reading
from templora.runtime.metering import Meter
from templora.runtime.signals import deferred
from templora.session.mixture import Mixture
from templora.session.readers import Readers
from templora.session.transcript import Transcript


class Scorer:
    """Scores one text.

    Args:
        config: whether there is a mixture, and sizes.
        transcript, readers, learner: of the session.
        meter: where time is counted.
        shares: whether a chunk is learnt as it is read, and not another lesson.
    """

    def __init__(
        self,
        config: TempLoraConfig,
        transcript: Transcript,
        readers: Readers,
        learner: Learner,
        meter: Meter,
        shares: bool,
    ) -> None:
        self._config, self._text, self._readers, self._learner = config, transcript, readers, learner
        self._meter = meter
        self.shares = shares and learner.reads and readers.alike
        self.mixture = Mixture()
        self._kept: Reading | None = None

    def given(self, piece: Sequence[int], *, base: bool, adapted: bool) -> ChunkScored:
        """Scores tokens that come next, and appends them to the text.

        Args:
            piece: they, at most as many as the open chunk has room for.
            base, adapted: whose predictions are wanted. The mixture needs both.
        """
        began, start, readers = time.perf_counter(), len(self._text), self._readers
        longer = self._text.seen([*self._text.tokens, *piece])
        first, end = max(1, start + len(self._text.notes)), len(longer)
        by_base = by_adapted = torch.zeros(0)
        reading = None
        if first < end:  # else it is one token, with nothing before it to predict it from
            if base:
                readers.prepare(readers.base)
                with self._meter.phase("score"):
                    by_base = readers.base.nll(longer, first)
            if adapted:
                readers.prepare(readers.adapted)
                with self._meter.phase("score"):
                    reading = self._read(longer, first)
                    by_adapted = self._predicted(reading) if reading else readers.adapted.nll(longer, first)
        mixed, mixture = None, Mixture(self.mixture.weights)
        if base and adapted and self._config.mixture:
            mixed = sum(mixture.nll(by_base.tolist(), by_adapted.tolist()))
        with deferred():  # what is read is weighed once
            self._text.give(piece)
            self.mixture, self._kept = mixture, reading
        figures = _total(by_base) if base else None, _total(by_adapted) if adapted else None
        return ChunkScored(start, start + len(piece), end - first, *figures, time.perf_counter() - began, mixed)

    def written(self) -> ChunkScored | None:
        """What was written since the last score, read once more by base and adapter alike, in one pass each.

        The logits it was sampled from would not do: in bf16 an NLL depends on how many tokens are read at once.
        """
        began, text, readers = time.perf_counter(), self._text, self._readers
        first, end = max(text.scored_to, text.chunk_start), len(text)
        if first >= end:
            return None
        readers.prepare(readers.base, first)
        tokens, target = text.seen(), first + len(text.notes)
        with self._meter.phase("score"):
            base = _total(readers.base.nll(tokens, target))
            self._kept = reading = self._read(tokens, target)
            adapted = _total(self._predicted(reading) if reading else readers.adapted.nll_again(tokens, target))
        text.scored_to = end
        return ChunkScored(first, end, end - first, base, adapted, time.perf_counter() - began)

    def _read(self, tokens: Sequence[int], first: int) -> Reading | None:
        """A reading of tokens[first:], if that is the whole open chunk and will be learnt as it was read."""
        self._kept = None
        chunk, cache = self._text.open_chunk(len(tokens) - len(self._text.notes)), self._readers.adapted.cache
        full, chunk = chunk.end - chunk.middle == self._config.chunk_size, self._text.seen_chunk(chunk)
        whole = full and first == chunk.first_target
        if chunk.masked or not (whole and self.shares and cache.served_version == self._readers.served):
            return None
        return self._learner.read(tokens, chunk, cache)

    def _predicted(self, reading: Reading) -> torch.Tensor:
        return self._readers.adapted.predicted(reading.hidden, reading.targets, reading.nll)

    def take(self, chunk: Chunk, version: int) -> Reading | None:
        """The kept pass, if it is of this chunk under this version of the adapter; used up."""
        reading, self._kept, chunk = self._kept, None, self._text.seen_chunk(chunk)
        return reading if reading and (reading.chunk, reading.version) == (chunk, version) else None

    def drop(self) -> None:
        """Forgets the kept pass: the adapter is another."""
        self._kept = None

    @property
    def keeps(self) -> bool:
        """Whether a pass is kept."""
        return self._kept is not None

    def state(self) -> list[float]:
        """Weights of the mixture."""
        return self.mixture.weights

    def load_state(self, weights: Sequence[float]) -> None:
        """Becomes what `state` was given."""
        self.mixture, self._kept = Mixture(weights), None


def _total(nll: torch.Tensor) -> float:
    """The sum of some tokens' NLLs, in fp64."""
    return float(nll.double().sum())
