"""A guarantee: base and adapter predict together, each weighted by how well it has predicted this text so far.

    experts     adapter    0.8 adapter + 0.2 base    base          fixed predictors, from the same two passes
    weights     proportional to prior × likelihood of the text so far; each token, `SHARE` of them starts anew

What the mixture predicts costs at most ln 3 nats more than the best of the three over the whole text, plus `SHARE` nats
a token (fixed share: Herbster and Warmuth, Machine Learning 32, 1998): a rate that ruins the adapter cannot ruin the
predictions. The middle one is there because it is the best of them where the adapter helps (docs/recipe.md).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

EXPERTS = (1.0, 0.8, 0.0)  # the adapter's part in each one's predictions
SHARE = 1e-4


class Mixture:
    """The weights of the experts, of one text.

    Attributes:
        weights: of the experts, for the next token; they sum to 1.
    """

    def __init__(self, weights: Sequence[float] | None = None) -> None:
        self.weights = list(weights or [1 / len(EXPERTS)] * len(EXPERTS))

    def nll(self, base: Sequence[float], adapted: Sequence[float]) -> list[float]:
        """NLL, in nats, of each token under the mixture, from its NLLs under base and adapter; weights move on."""
        return [self._next(b, a) for b, a in zip(base, adapted, strict=True)]

    def _next(self, base: float, adapted: float) -> float:
        if not (math.isfinite(base) and math.isfinite(adapted)):  # a broken adapter is believed no more
            self.weights = [0.0] * (len(EXPERTS) - 1) + [1.0]
            return base
        least = min(base, adapted)
        # Likelihoods, relative to the larger one, so that none of them vanishes.
        b, a = math.exp(least - base), math.exp(least - adapted)
        posterior = [w * (part * a + (1 - part) * b) for w, part in zip(self.weights, EXPERTS, strict=True)]
        total = sum(posterior)
        self.weights = [(1 - SHARE) * p / total + SHARE / len(EXPERTS) for p in posterior]
        return least - math.log(total)
