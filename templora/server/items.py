"""What a worker has to say of a request, in the order in which it happens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from templora.events import Event, FinishReason, TokenLogprobs


@dataclass(frozen=True)
class Begun:
    """The answer begins.

    Args:
        prompt_tokens: before it, of the whole text.
        cached_tokens: of those, what had been read earlier.
        at: index of its first token in the session; None: of no session.
        version: of the adapter.
        scratch: nothing of it is kept, though a session was meant.
    """

    prompt_tokens: int
    cached_tokens: int = 0
    at: int | None = None
    version: int = 0
    scratch: bool = False


@dataclass(frozen=True)
class Echo:
    """The prompt of one choice, token by token."""

    choice: int
    tokens: tuple[tuple[str, TokenLogprobs | None], ...]
    text: str


@dataclass(frozen=True)
class Token:
    """A token of an answer: which choice's, what it adds, the token's own text, how likely it was, its place in the
    session, and the entropy of what it was chosen from, in nats."""

    choice: int
    text: str
    name: str
    logprobs: TokenLogprobs | None = None
    index: int | None = None
    entropy: float | None = None


@dataclass(frozen=True)
class Done:
    """The end of one choice, after so many tokens; `text` is what was left to show."""

    choice: int
    reason: FinishReason
    tokens: int
    text: str = ""


@dataclass(frozen=True)
class Comment:
    """What is being done meanwhile, in words, and as the event that says it, if one does."""

    text: str
    event: Event | None = None


Item: TypeAlias = Begun | Echo | Token | Done | Comment
