"""Answers in OpenAI's two shapes, whole and in pieces, and llama.cpp's."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from templora.events import TokenLogprobs
from templora.server.items import Begun, Done, Echo, Token

_Named = tuple[str, TokenLogprobs | None]


def legacy_logprobs(tokens: Sequence[_Named], offset: int) -> dict[str, Any]:
    """Log-probabilities of completions; `offset` is of the first token, in characters of the answer."""
    offsets = []
    for name, _ in tokens:
        offsets.append(offset)
        offset += len(name)
    return {
        "tokens": [name for name, _ in tokens],
        "token_logprobs": [said.logprob if said else None for _, said in tokens],
        "top_logprobs": [_by_text(said) if said else None for _, said in tokens],
        "text_offset": offsets,
    }


def _by_text(said: TokenLogprobs) -> dict[str, float]:
    """The likeliest tokens by what they say; of two that say the same, the likelier."""
    found: dict[str, float] = {}
    for top in said.top:
        found.setdefault(top.text, top.logprob)
    return found


def chat_logprobs(tokens: Sequence[_Named]) -> dict[str, Any]:
    """Log-probabilities of chat completions."""

    def entry(name: str, logprob: float) -> dict[str, Any]:
        return {"token": name, "logprob": logprob, "bytes": list(name.encode())}

    content = [
        entry(name, said.logprob) | {"top_logprobs": [entry(top.text, top.logprob) for top in said.top]}
        for name, said in tokens
        if said
    ]
    return {"content": content, "refusal": None}


@dataclass
class _Choice:
    text: str = ""
    named: list[_Named] = field(default_factory=list)
    reason: str | None = None


@dataclass
class Answer:
    """One answer as it comes.

    Args:
        id: of it.
        model: as it was asked for.
        chat: in which shape.
        logprobs: whether they are wanted.
        choices: how many.
    """

    id: str
    model: str
    chat: bool
    logprobs: bool
    choices: int = 1
    created: int = field(default_factory=lambda: int(time.time()))
    prompt_tokens: int = 0
    cached_tokens: int = 0
    written: int = 0
    _choices: dict[int, _Choice] = field(default_factory=dict)

    says_done = True  # a stream ends with a line of its own

    def begin(self, begun: Begun) -> None:
        """Takes in what there was before it; of several prompts, all."""
        self.prompt_tokens += begun.prompt_tokens
        self.cached_tokens += begun.cached_tokens

    def add(self, item: Echo | Token | Done) -> dict[str, Any] | None:
        """Takes in a part of it; what a stream says of that, if there is something to say."""
        choice = self._choices.setdefault(item.choice, _Choice())
        before = len(choice.text)
        named: Sequence[_Named] = ()
        if isinstance(item, Echo):
            named = item.tokens
        elif isinstance(item, Token):
            named = [(item.name, item.logprobs)]
        else:
            choice.reason = item.reason
            self.written += item.tokens
        choice.text += item.text
        choice.named += named if self.logprobs else ()
        if not (item.text or isinstance(item, Done) or (self.logprobs and named)):
            return None
        return self._chunk(item.choice, item.text, named if self.logprobs else (), choice.reason, before)

    def opening(self) -> dict[str, Any] | None:
        """What a stream begins with, if with anything."""
        return (
            self._head(chunk=True)
            | {
                "choices": [
                    {"index": i, "delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}
                    for i in range(self.choices)
                ]
            }
            if self.chat
            else None
        )

    def whole(self) -> dict[str, Any]:
        """All of it."""
        said = []
        for index, choice in sorted(self._choices.items()):
            about: dict[str, Any] = {"index": index, "finish_reason": choice.reason, "logprobs": None}
            if self.logprobs:
                about["logprobs"] = chat_logprobs(choice.named) if self.chat else legacy_logprobs(choice.named, 0)
            if self.chat:
                about["message"] = {"role": "assistant", "content": choice.text, "refusal": None}
            else:
                about["text"] = choice.text
            said.append(about)
        return self._head(chunk=False) | {"choices": said, "usage": self.usage()}

    def usage(self) -> dict[str, Any]:
        """Tokens read and written."""
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.written,
            "total_tokens": self.prompt_tokens + self.written,
            "prompt_tokens_details": {"cached_tokens": self.cached_tokens},
        }

    def last(self) -> dict[str, Any]:
        """The piece of a stream that has the usage, and no choices."""
        return self._head(chunk=True) | {"choices": [], "usage": self.usage()}

    def _chunk(self, index: int, text: str, named: Sequence[_Named], reason: str | None, before: int) -> dict[str, Any]:
        about: dict[str, Any] = {"index": index, "logprobs": None, "finish_reason": reason}
        if self.chat:
            about["delta"] = {"content": text} if text else {}
            about["logprobs"] = chat_logprobs(named) if named else None
        else:
            about["text"] = text
            about["logprobs"] = legacy_logprobs(named, before) if named else None
        return self._head(chunk=True) | {"choices": [about]}

    def _head(self, *, chunk: bool) -> dict[str, Any]:
        kind = ("chat.completion.chunk" if chunk else "chat.completion") if self.chat else "text_completion"
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}


class LlamaAnswer(Answer):
    """llama.cpp's shape of a completion, of which there is one."""

    says_done = False

    def whole(self) -> dict[str, Any]:
        choice = self._choices.get(0, _Choice())
        return self._chunk(0, choice.text, choice.named, choice.reason, 0)

    def _chunk(self, index: int, text: str, named: Sequence[_Named], reason: str | None, before: int) -> dict[str, Any]:
        found: dict[str, Any] = {"index": index, "content": text, "stop": reason is not None}
        if named:
            found["completion_probabilities"] = chat_logprobs(named)["content"]
        if reason is None:
            return found
        return found | {
            "model": self.model,
            "stop_type": "limit" if reason == "length" else "eos",
            "tokens_predicted": self.written,
            "tokens_evaluated": self.prompt_tokens,
            "truncated": False,
        }
