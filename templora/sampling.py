"""`SamplingParams`, and the choice of a token from logits. Knows nothing of models.

What is done to the logits is transformers' own where it has it (`templora.processors` has the rest), in its order, so
that the same settings mean the same:

    bias → penalties (repetition; frequency, presence; DRY) → temperature → truncation (top-k, top-p, min-p; XTC)
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

from templora.arguments import number, shown, whole
from templora.errors import ModelError, OptionError
from templora.events import TokenLogprobs, TopLogprob
from templora.text import first_ids, token_text, tokens_holding

if TYPE_CHECKING:  # the options are known without torch, which takes seconds
    import torch

    from templora.kernels.choosing import Chooser

# Longest text that may be a stop, in characters: so much is held back at most, and looked through at each token.
_MAX_STOP = 100
_TEXTS = f"must be a text, or several, of 1 to {_MAX_STOP} characters each"
_BIASES = f"must map ids of tokens, or texts of 1 to {_MAX_STOP} characters, to numbers from -100 to 100"
# As OpenAI's API has them.
_MAX_TOP, _MAX_N = 20, 128


def _option(
    default: Any,
    help: str,
    rule: str,
    check: Callable[[Any], bool] = lambda _: True,
    take: Callable[[str, Any], Any] | None = None,
    kind: type | None = None,
    flag: bool = True,
) -> Any:
    """A field.

    Args:
        default, help: of it.
        rule, check: what must hold of its value.
        take: makes that of what is given; None: it is a number.
        kind: of the flag's value; None: the default's.
        flag: whether the command line has one.
    """
    kind = kind or type(default)
    take = take or {int: _whole, float: number}[kind]
    known = {"help": help, "rule": rule, "check": check, "take": take, "kind": kind, "flag": flag}
    return field(default=default, metadata=known)


def _whole(name: str, value: Any) -> int:
    """A whole number, also as 5.0."""
    if not number(name, value).is_integer():
        raise OptionError(name, f"must be a whole number, not {shown(value)}")
    return int(value)


def _whole_or_none(name: str, value: Any) -> int | None:
    return None if value is None else _whole(name, value)


def _is_text(text: Any) -> bool:
    return isinstance(text, str) and 0 < len(text) <= _MAX_STOP and not any("\ud800" <= c <= "\udfff" for c in text)


def _texts(given: Any) -> tuple[Any, ...]:
    """One text or several, or none, as a tuple; what is no text is for the check to find."""
    several = (
        ()
        if given is None
        else given
        if isinstance(given, Sequence) and not isinstance(given, (str, bytes))
        else (given,)
    )
    return tuple(text for i, text in enumerate(several) if text not in several[:i])


def _checked_texts(name: str, given: Any) -> tuple[str, ...]:
    texts = _texts(given)
    for text in texts:
        if not _is_text(text):
            raise OptionError(name, f"{_TEXTS}, not {text!r:.120}")
    return texts


def _biases(name: str, given: Any) -> tuple[tuple[int | str, float], ...]:
    """A mapping as pairs, which JSON leaves as they are: it would make texts of ids."""
    pairs = list(given.items()) if isinstance(given, Mapping) else () if given is None else given
    found = []
    for pair in pairs if isinstance(pairs, Sequence) else [pairs]:
        if not isinstance(pair, Sequence) or isinstance(pair, str) or len(pair) != 2:
            raise OptionError(name, f"{_BIASES}, not {shown(given)}")
        what, value = pair
        plain = number(name, value)
        if (isinstance(what, str) and not _is_text(what)) or not -100 <= plain <= 100:
            raise OptionError(name, f"{_BIASES}, not {shown(what)} to {shown(value)}")
        found.append((str(what) if isinstance(what, str) else whole(name, what, 0, 2**63 - 1), plain))
    return tuple(found)


@dataclass(frozen=True)
class Wanted:
    """How a word is wanted in a draft (`templora.decoding.wanted_words`).

    Args:
        stem: what any of its forms begins with: the word itself, if only an ending may follow it.
        firmly: though the draft becomes less likely by it.
    """

    stem: str
    firmly: bool = False


@dataclass(frozen=True, kw_only=True)
class SamplingParams:
    """How the next token is chosen. The field's usual names; raises `OptionError`.

    The defaults keep long texts from noise with `min_p` (arXiv 2407.01082) and from loops with a mild
    `repetition_penalty` (arXiv 1909.05858); docs/continuation.md has how they were chosen.

    `logit_bias` maps ids of tokens to what is added to their logits, or a text to what is added to the tokens that it
    begins with, as it is and after a space: `{"sea": -5, 123: 2.5}`. Other words that begin with those tokens are meant
    too; only where the text is one token is it meant alone. What is said of one token several times adds up, but −100
    bans it in any case. It is held as pairs.
    """

    temperature: float = _option(
        1.0, "divides the logits; 0 = always the likeliest token (greedy)", "must be at least 0", lambda v: v >= 0
    )
    top_p: float = _option(
        1.0,
        "keep the likeliest tokens that make up this much probability",
        "must be above 0, up to 1",
        lambda v: 0 < v <= 1,
    )
    top_k: int = _option(0, "keep this many of the likeliest tokens; 0 = all", "must be at least 0", lambda v: v >= 0)
    min_p: float = _option(
        0.05,
        "drop tokens less likely than this share of the likeliest one",
        "must be from 0 to below 1",
        lambda v: 0 <= v < 1,
    )
    repetition_penalty: float = _option(
        1.1,
        "above 1: tokens that occur in the window become less likely",
        "must be from 0.01 to 100",
        lambda v: 0.01 <= v <= 100,
    )
    stop: str | Sequence[str] | None = _option(
        (),
        "stop before this text, wherever it begins in a token; may be given again, for several",
        _TEXTS,
        take=_checked_texts,
        kind=str,
    )
    frequency_penalty: float = _option(
        0.0,
        "taken from a token's logit for each time that it occurs in the window",
        "must be from -2 to 2",
        lambda v: -2 <= v <= 2,
    )
    presence_penalty: float = _option(
        0.0,
        "taken from a token's logit once, if it occurs in the window",
        "must be from -2 to 2",
        lambda v: -2 <= v <= 2,
    )
    dry_multiplier: float = _option(
        0.0,
        "DRY: taken from the logit of a token that would go on with a repeat, times the base for each token that the "
        "repeat is longer than allowed; 0 = off",
        "must be at least 0",
        lambda v: v >= 0,
    )
    dry_base: float = _option(
        1.75, "DRY: how fast the penalty grows with the repeat", "must be from 1 to 100", lambda v: 1 <= v <= 100
    )
    dry_allowed_length: int = _option(
        2, "DRY: the shortest repeat that costs anything, in tokens", "must be at least 1", lambda v: v >= 1
    )
    dry_range: int = _option(
        0, "DRY: tokens looked back at, of the window; 0 = all of it", "must be at least 0", lambda v: v >= 0
    )
    dry_sequence_breakers: str | Sequence[str] | None = _option(
        ("\n", ":", '"', "*"),
        "DRY: no repeat reaches across a token with this text in it; may be given again, for several, in place of the "
        "default: a line break, a colon, a double quote and an asterisk",
        _TEXTS,
        take=_checked_texts,
        kind=str,
    )
    xtc_probability: float = _option(
        0.0,
        "XTC: how often all tokens of at least the threshold's probability are dropped but the least likely of them; "
        "0 = never",
        "must be from 0 to 1",
        lambda v: 0 <= v <= 1,
    )
    xtc_threshold: float = _option(
        0.1, "XTC: the threshold; above 0.5 nothing is dropped", "must be above 0, up to 1", lambda v: 0 < v <= 1
    )
    logit_bias: Mapping[int | str, float] | Sequence[tuple[int | str, float]] | None = _option(
        (),
        "TEXT=X or #ID=X: added to the logits of the tokens that the text begins with, or of the one with this id; "
        "-100 bans; may be given again, for several",
        _BIASES,
        take=_biases,
        kind=str,
    )
    logprobs: int | None = _option(
        None,
        "report the log-probability of each token, and of this many of the likeliest ones",
        f"must be from 0 to {_MAX_TOP}",
        lambda v: v is None or 0 <= v <= _MAX_TOP,
        take=_whole_or_none,
        kind=int,
    )
    n: int = _option(
        1, "alternatives of a preview", f"must be from 1 to {_MAX_N}", lambda v: 1 <= v <= _MAX_N, flag=False
    )

    def __post_init__(self) -> None:
        for f in dataclasses.fields(self):
            value = getattr(self, f.name)
            plain = f.metadata["take"](f.name, value)
            if not f.metadata["check"](plain):
                raise OptionError(f.name, f"{f.metadata['rule']}, not {shown(value)}")
            # transformers' filters take no other kind of number.
            object.__setattr__(self, f.name, plain)
        if self.n > 1 and self.greedy:
            raise OptionError("n", "must be 1 where the temperature is 0: each alternative would be the same")

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
    def usual(self) -> bool:
        """Whether no option is used but the repetition penalty, the temperature and min-p."""
        penalties = self.frequency_penalty or self.presence_penalty or self.dry_multiplier or self.logit_bias
        truncated = self.top_k or self.top_p < 1 or self.xtc_probability or not self.min_p
        return not penalties and (self.greedy or not truncated)

    @property
    def stops(self) -> tuple[str, ...]:
        """The texts before which writing stops."""
        return _texts(self.stop)

    @property
    def breakers(self) -> tuple[str, ...]:
        """The texts that no repeat reaches across."""
        return _texts(self.dry_sequence_breakers)

    def biases(self, tokenizer: Any) -> dict[int, float]:
        """What is added to the logits of which tokens; −inf bans one."""
        found: dict[int, float] = {}
        for what, value in _biases("logit_bias", self.logit_bias):
            for token in first_ids(tokenizer, what) if isinstance(what, str) else [what]:
                found[token] = found.get(token, 0.0) + (value if value > -100 else -math.inf)
        return found

    @classmethod
    def stored(cls, values: Mapping[str, Any]) -> SamplingParams:
        """The parameters that a log holds; older ones have fewer fields, and one text as `stop`, or an empty one."""
        return cls(**{**values, "stop": values.get("stop") or ()})


class Sampler:
    """Chooses tokens from logits.

    Args:
        params: how.
        banned: ids that are never chosen (end-of-text, while writing goes on past it).
        seed: of its random numbers, each of which is that of its place: see `uniform`.
        device: the logits'.
        tokenizer: of the model, for options that speak of texts, and for `logprobs`.
        ends: ids that end a text.
        vocabulary: ids that the model knows.
        alternative: which of several texts this is, each with random numbers of its own.

    Raises:
        OptionError: `logit_bias` is of tokens that there are not, or leaves none.
    """

    def __init__(
        self,
        params: SamplingParams,
        banned: list[int],
        seed: int,
        device: torch.device | str = "cpu",
        *,
        tokenizer: Any = None,
        ends: Sequence[int] = (),
        vocabulary: int | None = None,
        alternative: int = 0,
    ) -> None:
        import torch

        self.params = params
        self._seed, self._alternative, self._tokenizer = seed, alternative, tokenizer
        self._banned = torch.tensor(banned, dtype=torch.long, device=device)
        self._chooser: Chooser | None = None
        if torch.device(device).type == "cpu" and params.usual:
            from templora.kernels.choosing import Chooser  # brings numba with it, which a GPU has no use for

            self._chooser = Chooser(banned, params.repetition_penalty, params.temperature, params.min_p)
        self._filters: list[Any] = []
        self._reads = False  # whether one of them reads the ids
        self._xtc: Callable[[torch.Tensor], torch.Tensor] | None = None
        self._add_penalties(_checked(params.biases(tokenizer), banned, vocabulary), device)
        if not params.greedy:
            self._add_filters([*ends, *(first_ids(tokenizer, "\n") if params.xtc_probability else [])], device)

    def _add_penalties(self, biases: Mapping[int, float], device: torch.device | str) -> None:
        from transformers.generation import logits_process as hf

        from templora import processors

        params = self.params
        if biases:
            self._filters.append(processors.bias(biases, device))
        plain = len(self._filters)
        if params.repetition_penalty != 1:
            self._filters.append(hf.RepetitionPenaltyLogitsProcessor(params.repetition_penalty))
        if params.frequency_penalty or params.presence_penalty:
            own = processors.frequency_and_presence(params.frequency_penalty, params.presence_penalty)
            self._filters.append(own)
        if params.dry_multiplier:
            breakers = tokens_holding(self._tokenizer, params.breakers) if params.breakers else ()
            sizes = params.dry_allowed_length, params.dry_range
            self._filters.append(processors.dry(params.dry_multiplier, params.dry_base, *sizes, breakers))
        self._reads = len(self._filters) > plain

    def _add_filters(self, spared: Sequence[int], device: torch.device | str) -> None:
        from transformers.generation import logits_process as hf

        from templora import processors

        params = self.params
        if params.temperature != 1:
            self._filters.append(processors.temperature(params.temperature))
        if params.top_k:
            self._filters.append(hf.TopKLogitsWarper(params.top_k))
        if params.top_p < 1:
            self._filters.append(hf.TopPLogitsWarper(float(params.top_p)))
        if params.min_p > 0:
            self._filters.append(processors.min_p(params.min_p))
        if params.xtc_probability:
            self._xtc = processors.xtc(params.xtc_threshold, spared, device)

    def __call__(self, logits: torch.Tensor, recent: list[int], index: int, earlier: int = 0) -> int:
        """The token at `index` of the text.

        Args:
            logits: fp32 [vocabulary]; left as it is.
            recent: ids in the window, which the penalties look at.
            index: where it comes.
            earlier: ends of the text that were chosen there before.
        """

        def drawn(which: int = 0) -> float:
            return uniform(self._seed, index, earlier, self._alternative, which)

        if self._chooser is not None:
            token = self._chooser(logits.detach(), recent, drawn())
            if token is None:
                raise _not_finite()
            return token
        with _one_thread(logits.device):
            return self._choose(logits, recent, drawn)

    def _choose(self, logits: torch.Tensor, recent: list[int], drawn: Callable[..., float]) -> int:
        import numpy as np
        import torch

        if not math.isfinite(float(logits.max())):
            raise _not_finite()
        scores = logits[None].clone()
        if len(self._banned):
            scores[0, self._banned] = -math.inf
        # Only the penalties read the ids; the others get an empty row. numpy is faster at both of these than torch.
        ids = torch.from_numpy(np.array([recent if self._reads else []], np.int64)).to(scores.device)
        for apply in self._filters:
            scores = apply(ids, scores)
        if self.params.greedy:
            return int(scores[0].argmax())
        if self._xtc and drawn(1) < self.params.xtc_probability:
            scores = self._xtc(scores)
        left = torch.from_numpy((scores[0] > -math.inf).cpu().numpy().nonzero()[0]).to(scores.device)
        below = scores[0, left].double().softmax(-1).cumsum(-1)
        found = torch.searchsorted(below, below[-1] * drawn(), right=True)
        return int(left[min(int(found), len(left) - 1)])

    def logprobs(self, logits: torch.Tensor, token: int) -> TokenLogprobs | None:
        """How likely a token is by logits [vocabulary], and what else; None if that was not asked for."""
        many = self.params.logprobs
        if many is None:
            return None
        with _one_thread(logits.device):
            every = logits.log_softmax(-1)
            likeliest = every.topk(min(many, len(every)))
            top = zip(likeliest.indices.tolist(), likeliest.values.tolist(), strict=True)
            said = tuple(TopLogprob(i, token_text(self._tokenizer, i), value) for i, value in top)
            return TokenLogprobs(float(every[token]), said)


def _not_finite() -> ModelError:
    return ModelError("the model's logits are not finite; what it has learnt, or its dtype, is too extreme")


def _checked(biases: dict[int, float], banned: Sequence[int], vocabulary: int | None) -> dict[int, float]:
    """Biases, if there are such tokens, and some are left that may be chosen."""
    if vocabulary is None or not biases:
        return biases
    if (largest := max(biases)) >= vocabulary:
        raise OptionError("logit_bias", f"there is no token {largest}: the model knows 0 to {vocabulary - 1}")
    if len({*banned, *(token for token, value in biases.items() if value == -math.inf)}) == vocabulary:
        raise OptionError("logit_bias", "bans every token")
    return biases


def uniform(seed: int, index: int, earlier: int = 0, alternative: int = 0, which: int = 0) -> float:
    """A random number in [0, 1) that depends on these numbers alone: what comes at one place of a text does not depend
    on what was drawn elsewhere, or on whether it was. So a text that is known is gone over without a draw.

    Args:
        seed: of the text.
        index: the place.
        earlier: ends of the text that were chosen there before.
        alternative: which of several texts; the first is the one that there would be alone.
        which: of several numbers of one place.
    """
    place = struct.pack("<QQQ", seed % 2**64, index, earlier)
    if alternative or which:  # without, what a seed writes is what it always was
        place += struct.pack("<QQ", alternative, which)
    hashed = hashlib.blake2b(place, digest_size=8).digest()
    return float(int.from_bytes(hashed, "little") >> 11) * 2.0**-53


def entropy_of(logits: torch.Tensor) -> float:
    """Entropy of what a model predicts, in nats, before any filter; logits fp32 [vocabulary]."""
    if logits.device.type == "cpu":
        from templora.kernels.choosing import entropy

        return float(entropy(logits.detach().numpy()))
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
