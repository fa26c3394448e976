"""What requests may say. Unknown fields are passed over, and named in the answer (`X-Templora-Ignored`): clients send
sixty. Known ones that cannot be done are refused."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, field_validator

from templora.chat import Message
from templora.sampling import SamplingParams
from templora.server.errors import bad
from templora.text import ours

Prompt: TypeAlias = str | list[int]
# "all" and "written": what the model writes, too, which is up to the session.
Learn: TypeAlias = Literal["all", "written", "given", "none"] | bool | None
# Fields that would change what is answered, and cannot be had: refused unless they say no more than nothing.
_CANNOT: dict[str, tuple[Any, ...]] = {
    "tools": (None, []),
    "functions": (None, []),
    "suffix": (None, ""),
    "response_format": (None, {"type": "text"}),
    "grammar": (None, ""),
    "json_schema": (None, {}),
    "guided_json": (None,),
    "guided_regex": (None,),
    "modalities": (None, ["text"]),
    "audio": (None,),
    "image_data": (None, []),
    "use_beam_search": (None, False),
    "mirostat": (None, 0),
    "best_of": (None, 1),
}
# Other clients' names of the same things.
_ALIASES = {"repeat_penalty": "repetition_penalty", "n_predict": "max_tokens", "dry_penalty_last_n": "dry_range"}
_PLAIN = {"min_p": 0.0, "repetition_penalty": 1.0}  # the API's own defaults, where the library has others


class _Request(BaseModel):
    model_config = ConfigDict(extra="allow", str_strip_whitespace=False)

    def ignored(self) -> list[str]:
        """Fields that nothing is known of; raises `ApiError` for those that cannot be done."""
        extra = self.model_extra or {}
        for name, nothing in _CANNOT.items():
            if name in extra and extra[name] not in nothing:
                raise bad(name, "is not supported here", "unsupported")
        return sorted(name for name in extra if name not in _CANNOT)


class _Sampling(_Request):
    """What both kinds of completions have."""

    model: str = ""
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    dry_multiplier: float | None = None
    dry_base: float | None = None
    dry_allowed_length: int | None = None
    dry_range: int | None = None
    dry_sequence_breakers: list[str] | str | None = None
    xtc_probability: float | None = None
    xtc_threshold: float | None = None
    logit_bias: dict[str, float] | list[tuple[int | str, float | bool]] | None = None
    stop: list[str] | str | None = None
    seed: int | None = None
    n: int | None = None
    stream: bool | None = None
    stream_options: dict[str, Any] | None = None
    ignore_eos: bool | None = None
    # Of sessions.
    session: str | None = None
    learn: Learn = None
    draft: bool | None = None
    notes: str | None = None
    detach: bool | None = None
    prompt_cache_key: str | None = None

    @classmethod
    def of(cls, body: Mapping[str, Any]) -> Any:
        """The request that a JSON object is, other clients' names of fields made ours."""
        named = {_ALIASES.get(name, name): value for name, value in body.items()}
        return cls.model_validate({**named, **{k: v for k, v in body.items() if k not in _ALIASES}})

    @field_validator("seed")
    @classmethod
    def _negative_is_none(cls, seed: int | None) -> int | None:
        return None if seed is not None and seed < 0 else seed

    @field_validator("dry_sequence_breakers")
    @classmethod
    def _json_in_a_text(cls, breakers: list[str] | str | None) -> Any:
        if not isinstance(breakers, str) or not breakers.startswith("["):
            return breakers
        with suppress(ValueError):
            return json.loads(breakers)
        return breakers

    @property
    def scratch(self) -> bool:
        """Whether it says that nothing may be kept of it."""
        said = self.model_fields_set
        return ("learn" in said and self.learn is False) or ("session" in said and self.session is None)

    @property
    def learns_given(self) -> bool:
        return self.learn in (None, True, "all", "given")

    @property
    def include_usage(self) -> bool:
        return bool((self.stream_options or {}).get("include_usage"))

    @property
    def choices(self) -> int:
        """How many answers are wanted."""
        if not 1 <= (many := 1 if self.n is None else self.n) <= 128:
            raise bad("n", f"must be from 1 to 128, not {many}")
        return many

    def sampling(self, *, top: int | None, plain: bool, alternatives: int = 1) -> SamplingParams:
        """How tokens are chosen.

        Args:
            top: how many of the likeliest are to be named; None: no log-probabilities.
            plain: as OpenAI's API has it where nothing is said; else as the library has it, for long texts.
            alternatives: how many, where they are drawn together.

        Raises:
            OptionError: a value is out of its bounds.
        """
        names = [f for f in SamplingParams.__dataclass_fields__ if f not in ("logprobs", "n", "logit_bias", "stop")]
        said = {name: getattr(self, name) for name in names if getattr(self, name, None) is not None}
        found: dict[str, Any] = {**(_PLAIN if plain else {}), **said, "logprobs": top, "n": alternatives}
        for name in ("top_k", "dry_range"):  # -1 is others' way to say: all
            found[name] = max(0, found.get(name, 0))
        return SamplingParams(**found, stop=_stops(self.stop), logit_bias=_biases(self.logit_bias))


class CompletionRequest(_Sampling):
    """POST /v1/completions, and llama.cpp's /completion."""

    prompt: str | list[int] | list[str] | list[list[int]] = ""
    echo: bool | None = None
    logprobs: int | bool | None = None

    @property
    def prompts(self) -> list[Prompt]:
        """Each of them; texts may hold control tokens by name, as clients that fill in a template themselves send."""
        given: Sequence[Any] = self.prompt if isinstance(self.prompt, list) else [self.prompt]
        if given and isinstance(given[0], int):
            return [list(given)]
        if not given:
            raise bad("prompt", "holds nothing")
        return [ours(p) if isinstance(p, str) else p for p in given]

    @property
    def top(self) -> int | None:
        """How many of the likeliest tokens are to be named; None: no log-probabilities."""
        return None if self.logprobs is None or self.logprobs is False else int(self.logprobs)


class _Part(BaseModel):
    type: str
    text: str | None = None


class ChatMessage(BaseModel):
    """One of a conversation."""

    model_config = ConfigDict(extra="ignore")
    role: str
    content: str | list[_Part] | None = None
    tool_calls: list[Any] | None = None

    def plain(self) -> Message:
        """What is said, as text."""
        if self.tool_calls:
            raise bad("messages", "calls of tools are not supported here", "unsupported")
        if isinstance(self.content, list):
            if any(part.type != "text" for part in self.content):
                raise bad("messages", "only text is supported here", "unsupported")
            said = "".join(part.text or "" for part in self.content)
        else:
            said = self.content or ""
        return Message("system" if self.role == "developer" else self.role, said)


class ChatRequest(_Sampling):
    """POST /v1/chat/completions."""

    messages: list[ChatMessage] = Field(min_length=1)
    max_completion_tokens: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None

    @property
    def top(self) -> int | None:
        """As of `CompletionRequest`."""
        return (self.top_logprobs or 0) if self.logprobs else None


def divided(messages: Sequence[ChatMessage]) -> tuple[str, list[Message]]:
    """What the system says, all of it, and the other messages."""
    said = [message.plain() for message in messages]
    system = "\n\n".join(m.content for m in said if m.role == "system" and m.content.strip())
    others = [m for m in said if m.role != "system"]
    if not others:
        raise bad("messages", "nobody but the system says anything")
    return system, others


class TokenizeRequest(_Request):
    """POST /tokenize, in vLLM's words and in llama.cpp's."""

    prompt: str | None = None
    content: str | None = None
    messages: list[ChatMessage] | None = None
    add_special_tokens: bool | None = None
    add_special: bool | None = None
    with_pieces: bool | None = None


class DetokenizeRequest(_Request):
    """POST /detokenize."""

    tokens: list[int]


class SessionRequest(BaseModel):
    """POST /v1/sessions."""

    model_config = ConfigDict(extra="forbid")
    name: str | None = None
    model: str = ""
    config: dict[str, Any] = Field(default_factory=dict)
    notes: str = ""
    adapter: str | None = None
    ttl: float | None = Field(default=None, gt=0)
    metadata: dict[str, Any] = Field(default_factory=dict)


class AbsorbRequest(BaseModel):
    """POST /v1/sessions/{id}/absorb."""

    model_config = ConfigDict(extra="forbid")
    text: str
    learn: bool = True
    score: bool = False


class Point(BaseModel):
    """A moment of a session: after so many chunks or tokens, or right before an answer."""

    model_config = ConfigDict(extra="forbid")
    chunk: int | None = Field(default=None, ge=0)
    token: int | None = Field(default=None, ge=0)
    response: str | None = None


class PreviewRequest(CompletionRequest):
    """POST /v1/sessions/{id}/preview: how it would go on, from a moment on, with the adapter or as the base would."""

    at: Point | None = None
    base: bool = False


class RewindRequest(BaseModel):
    """POST /v1/sessions/{id}/rewind."""

    model_config = ConfigDict(extra="forbid")
    at: Point


class ForkRequest(BaseModel):
    """POST /v1/sessions/{id}/fork."""

    model_config = ConfigDict(extra="forbid")
    name: str | None = None
    at: Point | None = None
    metadata: dict[str, Any] = Field(default_factory=dict)


class ScoreRequest(BaseModel):
    """POST /v1/sessions/{id}/score: a text that would come next, or what the session has from a token on."""

    model_config = ConfigDict(extra="forbid")
    text: str | None = None
    start: int | None = Field(default=None, ge=0)
    top: int = Field(default=0, ge=0, le=20)
    tokens: bool = False


class NotesRequest(BaseModel):
    """PUT /v1/sessions/{id}/notes."""

    model_config = ConfigDict(extra="forbid")
    notes: str


class SeedRequest(BaseModel):
    """POST /v1/sessions/{id}/reseed."""

    model_config = ConfigDict(extra="forbid")
    seed: int | None = None


def _stops(given: list[str] | str | None) -> tuple[str, ...]:
    texts = [given] if isinstance(given, str) else given or []
    return tuple(text for text in texts if text)  # an empty one stops nothing


def _biases(
    given: Mapping[str, float] | Sequence[tuple[int | str, float | bool]] | None,
) -> list[tuple[int | str, float]]:
    """Keys are ids, which JSON makes texts of; llama.cpp's pairs may ban with `false`."""
    if not given:
        return []
    if isinstance(given, Mapping):
        try:
            return [(int(token), value) for token, value in given.items()]
        except ValueError:
            raise bad("logit_bias", "must map ids of tokens to numbers") from None
    return [(what, -100.0 if value is False else float(value)) for what, value in given]
