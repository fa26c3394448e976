"""What is done to logits before a token is chosen from them, beyond what transformers has.

Each is made once and called with ids [1, tokens] and scores [1, vocabulary], as transformers' own are, and returns new
scores. `templora.sampling` says in which order.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch

Processor: TypeAlias = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
_Ids: TypeAlias = npt.NDArray[np.int64]

# So much longer than is allowed may a repeat be, as far as DRY goes: 1.75 ** 50 bans a token for good.
_LONGER = 50
# The largest penalty: however it is scaled afterwards, fp32 holds it.
_MOST = 1e30


def bias(values: Mapping[int, float], device: torch.device | str) -> Processor:
    """Adds to the logits of single tokens; −inf bans one. (OpenAI's `logit_bias`.)"""
    at = torch.tensor(list(values), dtype=torch.long, device=device)
    added = torch.tensor([list(values.values())], dtype=torch.float32, device=device)
    return lambda _, scores: scores.index_add(1, at, added)


def frequency_and_presence(frequency: float, presence: float) -> Processor:
    """Takes `frequency` for each time that a token occurs, and `presence` once if it does.

    (OpenAI's definition: mu[j] − c[j] · frequency − (c[j] > 0) · presence.)
    """

    def apply(ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        counts = torch.bincount(ids[0], minlength=scores.shape[-1])
        return scores - frequency * counts - presence * (counts > 0)

    return apply


def dry(multiplier: float, base: float, allowed_length: int, most: int, breakers: Collection[int]) -> Processor:
    """DRY, "Don't Repeat Yourself": whoever goes on with a repeat pays the more, the longer it is already.

    A token that came after an earlier occurrence of the last L tokens loses multiplier · base ** (L − allowed_length),
    if L is at least `allowed_length`. (text-generation-webui, PR 5677; llama.cpp, PR 9702. As there, breakers
    themselves lose nothing.)

    Args:
        multiplier, base, allowed_length: as above.
        most: tokens looked back at; 0 = all that there are.
        breakers: tokens that no repeat reaches across.
    """
    multiplier = min(multiplier, _MOST)
    breaks = np.zeros(max(breakers, default=-1) + 2, dtype=bool)  # the last stands for every token beyond
    breaks[list(breakers)] = True

    def apply(ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        seen = ids[0, -most:].cpu().numpy()
        tokens, lengths = repeats(seen, breaks[np.minimum(seen, len(breaks) - 1)], allowed_length + _LONGER)
        long = lengths >= allowed_length
        if not long.any():
            return scores
        penalties = np.minimum(multiplier * base ** (lengths[long] - allowed_length).astype(float), _MOST)
        at = torch.from_numpy(tokens[long]).to(scores.device)
        return scores.index_add(1, at, torch.from_numpy(-penalties)[None].to(scores))

    return apply


def repeats(ids: _Ids, breaks: npt.NDArray[np.bool_], most: int) -> tuple[_Ids, _Ids]:
    """The tokens that would go on with a repeat of the end of a text, and how long that is already, at its longest.

    Args:
        ids: of the text [tokens].
        breaks: of each, whether no repeat reaches across it.
        most: what is longer counts as so long.
    """
    last = len(ids) - 1
    broken = np.flatnonzero(breaks)
    most = min(most, last - int(broken[-1]) if len(broken) else last)
    found = np.zeros(len(ids), dtype=np.int64)  # how long the repeat is that ends at each token
    if most < 1:
        return found[:0], found[:0]
    at = np.flatnonzero((ids[:-1] == ids[-1]) & ~breaks[1:])
    found[at] = 1
    for length in range(1, most):
        at = at[np.searchsorted(at, length) :]
        at = at[ids[at - length] == ids[last - length]]
        if not len(at):
            break
        found[at] = length + 1
    ends = np.flatnonzero(found)
    tokens, which = np.unique(ids[ends + 1], return_inverse=True)
    longest = np.zeros(len(tokens), dtype=np.int64)
    np.maximum.at(longest, which, found[ends])
    return tokens, longest


def xtc(threshold: float, kept: Collection[int], device: torch.device | str) -> Callable[[torch.Tensor], torch.Tensor]:
    """XTC, "Exclude Top Choices": of the tokens at least as likely as `threshold` only the least likely one stays.

    Nothing is done where that would drop one of `kept`: a line or a text could never end.
    (text-generation-webui, PR 6335; without its sort of the whole vocabulary. Of several that are equally unlikely the
    last one stays.) It is for the caller to do this with some probability; scores [1, vocabulary].
    """
    spared = torch.tensor(sorted(kept), dtype=torch.long, device=device)

    def apply(scores: torch.Tensor) -> torch.Tensor:
        probabilities = scores[0].softmax(-1)
        likely = (probabilities >= threshold).nonzero()[:, 0]
        if len(likely) < 2:
            return scores
        least = len(likely) - 1 - int(probabilities[likely].flip(0).argmin())
        dropped = torch.cat([likely[:least], likely[least + 1 :]])
        if torch.isin(dropped, spared).any():
            return scores
        return scores.index_fill(1, dropped, -math.inf)

    return apply


def temperature(divisor: float) -> Processor:
    """Divides by the temperature, measured from the largest so that no temperature leads to inf − inf."""
    divisor = min(1e6, max(1e-6, divisor))
    return lambda _, scores: (scores - scores.amax(-1, keepdim=True)) / divisor


def min_p(share: float) -> Processor:
    """transformers' MinPLogitsWarper without its sort of the whole vocabulary (3 ms a token at 49,152 entries)."""
    margin = math.log(share)

    def apply(_: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        return scores.masked_fill(scores < scores.amax(-1, keepdim=True) + margin, -math.inf)

    return apply
