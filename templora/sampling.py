"""`SamplingParams`, and the choice of a token from logits. Knows nothing of models.

The filters are transformers' own, in the order `generate` applies them, so that the same settings mean the same.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from templora.arguments import number, shown
from templora.errors import ModelError, OptionError

if TYPE_CHECKING:  # the options are known without torch, which takes seconds
    import torch


def _option(default: Any, help: str, check: Callable[[Any], bool], rule: str) -> Any:
    return field(default=default, metadata={"help": help, "check": check, "rule": rule})


# Longest text that may be a stop, in characters: so much is held back at most, and looked through at each token.
_MAX_STOP = 100
_STOP = f"must be a text, or several, of 1 to {_MAX_STOP} characters each"


def _is_stop(text: Any) -> bool:
    return isinstance(text, str) and 0 < len(text) <= _MAX_STOP and not any("\ud800" <= c <= "\udfff" for c in text)


def _texts(stop: Any) -> tuple[Any, ...]:
    """One text or several, or none, as a tuple; what is no text is for the check to find."""
    several = (
        () if stop is None else stop if isinstance(stop, Sequence) and not isinstance(stop, (str, bytes)) else (stop,)
    )
    return tuple(text for i, text in enumerate(several) if text not in several[:i])


@dataclass(frozen=True, kw_only=True)
class SamplingParams:
    """How the next token is chosen. The field's usual names; raises `OptionError`.

    The defaults keep long texts from noise with `min_p` (arXiv 2407.01082) and from loops with a mild
    `repetition_penalty` (arXiv 1909.05858); docs/repetition.md has what they do on the embedded model.
    """

    temperature: float = _option(
        1.0, "divides the logits; 0 = always the likeliest token (greedy)", lambda v: v >= 0, "must be at least 0"
    )
    top_p: float = _option(
        1.0,
        "keep the likeliest tokens that make up this much probability",
        lambda v: 0 < v <= 1,
        "must be above 0, up to 1",
    )
    top_k: int = _option(0, "keep this many of the likeliest tokens; 0 = all", lambda v: v >= 0, "must be at least 0")
    min_p: float = _option(
        0.1,
        "drop tokens less likely than this share of the likeliest one",
        lambda v: 0 <= v < 1,
        "must be from 0 to below 1",
    )
    repetition_penalty: float = _option(
        1.1,
        "above 1: tokens that occur in the window become less likely",
        lambda v: 0.01 <= v <= 100,
        "must be from 0.01 to 100",
    )
    stop: str | Sequence[str] | None = _option(
        (), "stop before this text, wherever it begins in a token; may be given again, for several", _is_stop, _STOP
    )

    def __post_init__(self) -> None:
        object.__setattr__(self, "stop", _texts(self.stop))
        for f in dataclasses.fields(self):
            value = getattr(self, f.name)
            if f.name == "stop":
                for text in value:
                    if not f.metadata["check"](text):
                        raise OptionError(f.name, f"{f.metadata['rule']}, not {text!r:.120}")
                continue
            plain: float = number(f.name, value)
            if f.type == "int":
                if not plain.is_integer():
                    raise OptionError(f.name, f"must be a whole number, not {shown(value)}")
                plain = int(value)
            if not f.metadata["check"](plain):
                raise OptionError(f.name, f"{f.metadata['rule']}, not {shown(value)}")
            # transformers' filters take no other kind of number.
            object.__setattr__(self, f.name, plain)

    @classmethod
    def of(cls, given: SamplingParams | None) -> SamplingParams:
        """What a caller gave, or the defaults."""
        if given is None or isinstance(given, cls):
            return given or cls()
        raise OptionError("sampling", f"must be a SamplingParams, not {shown(given)}")

    @property
    def greedy(self) -> bool:
        return self.temperature == 0

    @property
    def stops(self) -> tuple[str, ...]:
        """The texts before which writing stops."""
        return _texts(self.stop)

    @classmethod
    def stored(cls, values: Mapping[str, Any]) -> SamplingParams:
        """The parameters that a log holds; older logs have one text as `stop`, empty if there is none."""
        return cls(**{**values, "stop": values.get("stop") or ()})


class Sampler:
    """Chooses tokens from logits.

    Args:
        params: how.
        banned: ids that are never chosen (end-of-text, while writing goes on past it).
        seed: of its random numbers, each of which is that of its place: see `uniform`.
        device: the logits'.
    """

    def __init__(
        self, params: SamplingParams, banned: list[int], seed: int, device: torch.device | str = "cpu"
    ) -> None:
        import torch
        from transformers.generation import logits_process as hf

        self.params = params
        self._seed = seed
        self._banned = torch.tensor(banned, dtype=torch.long, device=device)
        self._filters: list[Any] = []
        if params.repetition_penalty != 1:
            self._filters.append(hf.RepetitionPenaltyLogitsProcessor(params.repetition_penalty))
        if not params.greedy:
            if params.temperature != 1:
                self._filters.append(_temperature(params.temperature))
            if params.top_k:
                self._filters.append(hf.TopKLogitsWarper(params.top_k))
            if params.top_p < 1:
                self._filters.append(hf.TopPLogitsWarper(float(params.top_p)))
            if params.min_p > 0:
                self._filters.append(_min_p(params.min_p))

    def __call__(self, logits: torch.Tensor, recent: list[int], index: int, earlier: int = 0) -> int:
        """The token at `index` of the text.

        Args:
            logits: fp32 [vocabulary]; left as it is.
            recent: ids in the window, which the repetition penalty looks at.
            index: where it comes.
            earlier: ends of the text that were chosen there before.
        """
        with _one_thread(logits.device):
            return self._choose(logits, recent, uniform(self._seed, index, earlier))

    def _choose(self, logits: torch.Tensor, recent: list[int], number: float) -> int:
        import torch

        if not math.isfinite(float(logits.max())):
            raise ModelError("the model's logits are not finite; what it has learnt, or its dtype, is too extreme")
        scores = logits[None].clone()
        if len(self._banned):
            scores[0, self._banned] = -math.inf
        # Only the repetition penalty reads the ids; the others get an empty row.
        seen = recent if self.params.repetition_penalty != 1 else []
        ids = torch.tensor([seen], dtype=torch.long, device=scores.device)
        for apply in self._filters:
            scores = apply(ids, scores)
        if self.params.greedy:
            return int(scores[0].argmax())
        left = scores[0].isfinite().nonzero()[:, 0]
        below = scores[0, left].double().softmax(-1).cumsum(-1)
        drawn = torch.searchsorted(below, below[-1] * number, right=True)
        return int(left[min(int(drawn), len(left) - 1)])


def uniform(seed: int, index: int, earlier: int = 0) -> float:
    """A random number in [0, 1) that depends on these numbers alone: what comes at one place of a text does not depend
    on what was drawn elsewhere, or on whether it was. So a text that is known is gone over without a draw."""
    hashed = hashlib.blake2b(struct.pack("<QQQ", seed, index, earlier), digest_size=8).digest()
    return float(int.from_bytes(hashed, "little") >> 11) * 2.0**-53


def entropy_of(logits: torch.Tensor) -> float:
    """Entropy of what a model predicts, in nats, before any filter; logits [vocabulary]."""
    with _one_thread(logits.device):
        # What is 60 nats less likely than the likeliest has no part in it, and −inf would give 0 · −inf.
        below = (logits - logits.max()).clamp_(min=-60.0)
        weights = below.exp()
        total = weights.sum()
        return float(total.log() - weights.dot(below) / total)


@contextmanager
def _one_thread(device: torch.device) -> Iterator[None]:
    """Work this small gains nothing from torch's threads, which would then spin on the cores that decoding needs."""
    import torch

    threads = torch.get_num_threads()
    if device.type != "cpu" or threads == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _temperature(temperature: float) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """Divides by the temperature, measured from the largest so that no temperature leads to inf − inf."""
    divisor = min(1e6, max(1e-6, temperature))
    return lambda _, scores: (scores - scores.amax(-1, keepdim=True)) / divisor


def _min_p(min_p: float) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """transformers' MinPLogitsWarper without its sort of the whole vocabulary (3 ms a token at 49,152 entries)."""
    margin = math.log(min_p)

    def apply(_: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        return scores.masked_fill(scores < scores.amax(-1, keepdim=True) + margin, -math.inf)

    return apply
