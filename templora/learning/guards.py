"""What keeps a session from learning what it should not: the brake on degenerate chunks, and the pause after updates
that were rolled back again and again. An update itself is judged in `templora.learning.learner`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from templora.config import TempLoraConfig
from templora.metrics import repeated

# Fewer written tokens than this say nothing about repetition.
_MIN_TO_JUDGE = 16
# Of the 4-grams of any chunk: in one word or phrase over and over there is nothing to learn but that, whoever wrote it.
_DEGENERATE = 0.95


@dataclass
class Written:
    """What the model wrote itself of the open chunk.

    Attributes:
        entropies: by position in the text, the entropy of the prediction that a token was chosen from, in nats.
    """

    entropies: dict[int, float] = field(default_factory=dict)

    @property
    def entropy(self) -> float:
        """All of it."""
        return sum(self.entropies.values())

    @property
    def tokens(self) -> int:
        return len(self.entropies)

    @property
    def spans(self) -> list[tuple[int, int]]:
        """Where, as [first, end) of the text's tokens."""
        found: list[tuple[int, int]] = []
        for at in self.entropies:
            first = found.pop()[0] if found and found[-1][1] == at else at
            found.append((first, at + 1))
        return found

    def append(self, at: int, entropy: float) -> None:
        """Counts the token at `at`."""
        self.entropies[at] = entropy

    def cut(self, end: int) -> None:
        """Counts no token from `end` on."""
        while self.entropies and next(reversed(self.entropies)) >= end:
            self.entropies.popitem()


@dataclass(frozen=True)
class Brake:
    """Holds chunks back that are degenerate.

    Attributes:
        entropy, tokens: of what was written in the chunks that were let through.
    """

    entropy: float = 0.0
    tokens: int = 0

    def problem(self, config: TempLoraConfig, tokens: Sequence[int], written: Written, lesson: Sequence[int]) -> str:
        """Why a chunk should not be learnt; empty if nothing speaks against it.

        Args:
            config: of the session.
            tokens: of the text.
            written: what of the chunk the model wrote.
            lesson: the tokens that are to be learnt.
        """
        own = [tokens[at] for at in written.entropies]
        for ids, most in ((own, config.max_repetition), (lesson, max(_DEGENERATE, config.max_repetition))):
            share = repeated(ids) if len(ids) >= _MIN_TO_JUDGE else 0.0
            if share > most:
                return f"repetitive: {share:.0%} of its 4-grams repeat, and at most {most:.0%} may (max_repetition)"
        if self.tokens and len(own) >= _MIN_TO_JUDGE:
            now, usual = written.entropy / len(own), self.entropy / self.tokens
            if now < config.min_entropy * usual:
                return (
                    f"its entropy fell to {now:.2f} nats a token, from {usual:.2f} so far; min_entropy is "
                    f"{config.min_entropy:g} of that"
                )
        return ""

    def passed(self, written: Written) -> Brake:
        """The brake after a chunk that was let through."""
        return Brake(self.entropy + written.entropy, self.tokens + written.tokens)


@dataclass(frozen=True)
class Patience:
    """Counts updates that were rolled back, and says when learning pauses.

    Attributes:
        rolled_back: in a row.
        paused: chunks that are still not to be learnt.
    """

    rolled_back: int = 0
    paused: int = 0

    def after(self, committed: bool, config: TempLoraConfig) -> Patience:
        """Once one more update was judged."""
        if committed:
            return Patience()
        count = self.rolled_back + 1
        # The first one after a pause begins the next, if it is rolled back too.
        return Patience(count, config.pause if config.patience and count >= config.patience else self.paused)

    @property
    def problem(self) -> str:
        """Why a chunk is not even tried; empty if it is."""
        if not self.paused:
            return ""
        return f"learning is paused ({self.paused} chunks to go): {self.rolled_back} updates in a row were rolled back"

    def skipped(self) -> Patience:
        """One chunk later, which was not learnt."""
        return replace(self, paused=max(0, self.paused - 1))


def to_json(written: Written, brake: Brake, patience: Patience) -> dict[str, Any]:
    """What a snapshot has to say about them."""
    return {
        "spans": written.spans,
        "entropies": list(written.entropies.values()),
        "brake": [brake.entropy, brake.tokens],
        "patience": [patience.rolled_back, patience.paused],
    }


def from_json(held: Mapping[str, Any]) -> tuple[Written, Brake, Patience]:
    """What `to_json` was given; older versions said the sum of entropies alone."""
    spans = [(first, end) for first, end in held["spans"]]
    tokens = sum(end - first for first, end in spans)
    entropies = held["entropies"] if "entropies" in held else [held["entropy"], *[0.0] * (tokens - 1)][:tokens]
    places = [at for first, end in spans for at in range(first, end)]
    written = Written(dict(zip(places, entropies, strict=True)))
    return written, Brake(*held["brake"]), Patience(*held["patience"])
