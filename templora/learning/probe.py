"""`Probe`: a little text that no update learns, on which each is tried before it is committed.

    [opening][ a passage, the same for every text ][ the last tokens before the chunk ]
               what the base predicts after each     what they are

How well both are predicted through the adapter as it serves, and as it would be: what grows much worse tells of an
update that breaks more than it learns. On the passage the base's own predictions are the truth, one of them drawn after
each token: its rise says how far the adapter leads away from the base, in nats a token (KL divergence, estimated).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from templora.lora.slot import Route
from templora.models.runner import Runner
from templora.runtime.metering import Meter

PASSAGE = (
    "In the morning the two of them went down to the harbour, where the boats lay side by side, and asked what it "
    'would cost to be taken across. "That depends on the weather," said the man, "and on how soon you wish to go." '
    "The new method is described in section three; it needs less memory than the old one, but more time. Water boils "
    "sooner in the mountains, because the pressure of the air is lower there. First, open the file. Then read each "
    "line, and count the words in it. She had never been to the city before and did not know which way led back."
)
_SEED = 0


@dataclass(frozen=True)
class Probe:
    """The probe of one model and session.

    Args:
        runner: runs the base.
        inputs: the opening and the passage.
        drawn: one token for each of the passage's, from what the base predicts after it.
    """

    runner: Runner
    inputs: Sequence[int]
    drawn: Sequence[int]

    @classmethod
    def draw(cls, runner: Runner, opening: Sequence[int], passage: Sequence[int]) -> Probe:
        """Asks the base."""
        inputs = [*opening, *passage]
        with torch.no_grad():
            hidden = runner.read(inputs, None, 0, None, Meter())[len(opening) :]
            generator = torch.Generator().manual_seed(_SEED)
            drawn = torch.multinomial(runner.model.logits(hidden).softmax(-1).cpu(), 1, generator=generator)
        return cls(runner, inputs, drawn[:, 0].tolist())

    def read(self, recent: Sequence[int], routes: Sequence[Route], meter: Meter) -> list[tuple[float, float]]:
        """Mean NLL of the base's predictions and of `recent`, in nats a token, through each adapter, in one pass.

        Args:
            recent: as many tokens as the passage has; of fewer, at the beginning of a text, nothing is said (0).
            routes: the adapters, of one bank.
            meter: where FLOPs are counted.
        """
        if len(recent) < len(self.drawn):
            recent = []
        inputs, targets = [*self.inputs, *recent[:-1]], [*self.drawn, *recent[1:]]
        kept = len(self.drawn)
        hidden = self.runner.compare(inputs, routes, meter, logits=len(targets))[:, -len(targets) :]
        every = self.runner.model.nll(hidden.flatten(0, 1), targets * len(routes)).double().view(len(routes), -1)
        return [(float(nll[:kept].mean()), float(nll[kept:].mean()) if recent else 0.0) for nll in every]
