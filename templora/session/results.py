"""What verbs of a session return: how well a text was predicted, and what is left when it is over."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from templora.events import ChunkScored, Event
from templora.metrics import Likelihood, perplexity


@dataclass(frozen=True)
class Score:
    """How well a text was predicted: by the base alone, through the adapter, and by the mixture of both (empty if the
    config asks for none), over the same tokens."""

    base: Likelihood
    adapted: Likelihood
    mixed: Likelihood

    @classmethod
    def of(cls, events: Iterable[Event]) -> Score:
        """What chunks that were scored add up to."""
        score = cls(Likelihood(), Likelihood(), Likelihood())
        for event in events:
            if isinstance(event, ChunkScored):
                score.base.add(event.base_nll or 0.0, event.targets)
                score.adapted.add(event.adapted_nll or 0.0, event.targets)
                if event.mixed_nll is not None:
                    score.mixed.add(event.mixed_nll, event.targets)
        return score

    def __repr__(self) -> str:
        parts = [(name, getattr(self, name)) for name in ("base", "adapted", "mixed")]
        figures = [f"{name}={perplexity(part.nll, part.tokens):.4g}" for name, part in parts if part.tokens]
        return f"Score(perplexity {', '.join(figures) or 'of nothing'}; tokens={self.base.tokens:,})"

    @property
    def reduction(self) -> float:
        """How much lower the perplexity is with the adapter, as a share of the base's: 0.1 = 10 % lower.

        Of the mixture's predictions where the config asks for them, else of the adapter's alone.
        """
        ours = self.mixed if self.mixed.tokens else self.adapted
        difference = (ours.nll - self.base.nll) / max(1, self.base.tokens)
        return -math.expm1(min(700.0, difference))


@dataclass(frozen=True)
class Receipt:
    """What is left when a session is over: the base as it was, and nothing of the adapter.

    It compares what the session found with what it leaves: a change that was put back in between is not seen.

    Args:
        base_unchanged: the base computes what it did when the session began: its weights, bit for bit, and all that it
            does with them.
        discarded: nothing of the adapter is left, and no hook or module on the base that was not there before.
        fingerprint: SHA-256 over the base's weights, as they are now.
        changed: names of what the session did not find so.
    """

    base_unchanged: bool
    discarded: bool
    fingerprint: str
    changed: tuple[str, ...] = ()
