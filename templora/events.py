"""What a session yields while it works. The command line, reports and any server fold the same stream."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

# In place of a token, where a write is repeated whose tokens are known: it ended here before `max_new_tokens`.
END = -1

FinishReason = Literal["length", "stop"]


class TopLogprob(NamedTuple):
    """One of the likeliest tokens: its id, what it says by itself, and its log-probability."""

    token: int
    text: str
    logprob: float


@dataclass(frozen=True)
class TokenLogprobs:
    """How likely a token was by the model's own distribution, before anything was done to that; natural logarithms.

    Args:
        logprob: of the token that was chosen.
        top: the likeliest tokens, which need not include that one; as many as were asked for.
    """

    logprob: float
    top: tuple[TopLogprob, ...] = ()


@dataclass(frozen=True)
class TokenEvent:
    """One token was written.

    Args:
        index: its position in the session's tokens.
        token: its id.
        text: what it adds to the text; may be empty while a character is incomplete.
        logprobs: how likely it was, and what else was likely; None if not asked for (`SamplingParams.logprobs`).
    """

    index: int
    token: int
    text: str
    logprobs: TokenLogprobs | None = None


@dataclass(frozen=True)
class ChunkScored:
    """The tokens [start, end) were predicted, before anything was learnt from them.

    Args:
        start, end: where they lie in the session's tokens.
        targets: how many were predicted.
        base_nll, adapted_nll: total NLL in nats, by the bare base and through the adapter; None if not asked for.
        seconds: time taken.
        mixed_nll: by the mixture of both (`templora.session.mixture`); None if there is none. Written text has none.
    """

    start: int
    end: int
    targets: int
    base_nll: float | None
    adapted_nll: float | None
    seconds: float
    mixed_nll: float | None = None


@dataclass(frozen=True)
class ChunkLearned:
    """A chunk was closed: its update was committed, or it was not, and `reason` says why.

    Args:
        index: number of the chunk in the session.
        start, end: its tokens.
        committed: whether the adapter changed.
        version: the adapter's version from here on.
        reason: why nothing was committed; empty if it was.
        loss: mean NLL of the chunk at the first step, in nats a token; None if the chunk was never tried.
        grad_norm: L2 norm of the last step's gradient before clipping.
        update: root mean square of the change of the adapter's weights.
        seconds: time taken.
        drift, forgetting: nats a token by which the update makes the base's own predictions, and the text before the
            chunk, less likely (`templora.learning.probe`); None if that was not tried.
    """

    index: int
    start: int
    end: int
    committed: bool
    version: int
    reason: str = ""
    loss: float | None = None
    grad_norm: float | None = None
    update: float | None = None
    seconds: float = 0.0
    drift: float | None = None
    forgetting: float | None = None


@dataclass(frozen=True)
class Absorbed:
    """Part of a given text was taken in: `done` of `total` tokens."""

    done: int
    total: int


@dataclass(frozen=True)
class Finished:
    """Writing ended after `tokens` tokens: at their number (`length`), or at an end-of-text token or a stop
    text (`stop`). `text` is what is left to show: what the last token says before a stop text, in tokens of its own."""

    tokens: int
    reason: FinishReason
    text: str = ""


Event = TokenEvent | ChunkScored | ChunkLearned | Absorbed | Finished
