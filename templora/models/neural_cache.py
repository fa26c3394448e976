"""`NeuralCache`: what followed where the model was in a state like this one.

    learnt text   state before each token ─► key        the token ─► value
    now           state ─► its likeness to each key ─► softmax ─► how likely each value is
                                                     └► how alike the nearest is ─► share of that in the prediction

An adapter holds the manner of a text better than its names: those are rare, and little is learnt of them. Here a name
is as likely as the places where it stood are like this one. (Neural cache: Grave, Joulin, Usunier, arXiv 1612.04426;
over a whole text: Khandelwal et al., arXiv 1911.00172.)

States are the last hidden ones, before the head, which the pass that learns a chunk has anyway. Each number of them is
taken against its mean and spread in the first chunk, and each state brought to length 1: without that a few large
numbers decide alone. How much the prediction trusts the cache is learnt as the text goes on (`_BOUNDS`, `_SHARES`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F

from templora.layers.upcast import linear
from templora.runtime.metering import Meter

if TYPE_CHECKING:
    from templora.config import TempLoraConfig
    from templora.models.causal import CausalModel

_SHARPNESS = 20.0  # what likenesses are multiplied by, before their softmax
_BOUNDS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95)  # of the nearest key's likeness, between which shares are learnt apart
_SHARES = (0.0, 0.02, 0.05, 0.1, 0.2, 0.4, 0.7)  # that are weighed against each other
_PRIOR = 12.0  # nats that a share of 1 is behind a share of 0, before anything is known
_ROWS = 128  # states that are looked up at once
_LEAST_SPREAD = 1e-6


@dataclass(frozen=True)
class States:
    """A chunk as it was read, before it was learnt.

    Args:
        hidden: the last hidden state before each of its tokens [T, H].
        targets: the tokens.
        nll: of each, in nats, under the model alone: fp32 [T].
    """

    hidden: torch.Tensor
    targets: Sequence[int]
    nll: torch.Tensor


class NeuralCache:
    """What one text is looked up in.

    Args:
        most: tokens that are held; the oldest go first.
        vocabulary: of the model.
        meter: where FLOPs are counted.

    Nothing that it holds is ever written to, only replaced: a snapshot needs no copy of it.
    """

    def __init__(self, most: int, vocabulary: int, meter: Meter) -> None:
        self._most, self._vocabulary, self._meter = most, vocabulary, meter
        self._clear()

    @classmethod
    def of(cls, config: TempLoraConfig, model: CausalModel, meter: Meter) -> NeuralCache | None:
        """That of a session, if it has one."""
        return cls(config.neural_cache, model.vocabulary, meter) if config.neural_cache else None

    def _clear(self) -> None:
        self._keys = torch.empty(0, 0, dtype=torch.bfloat16)  # [held, H], of length 1
        self._tokens = torch.empty(0, dtype=torch.long)  # [held], on the CPU
        self._kinds = self._tokens  # each of them once
        self._scale = torch.empty(2, 0)  # mean and spread of each number of a state
        self._evidence = self._prior()
        self._last: States | None = None  # what was taken in last

    @staticmethod
    def _prior() -> torch.Tensor:
        """Nats in favour of each share, for each bound [bounds + 1, shares]."""
        return (-_PRIOR * torch.tensor(_SHARES, dtype=torch.float64)).repeat(len(_BOUNDS) + 1, 1)

    @property
    def held(self) -> int:
        """Tokens held."""
        return len(self._tokens)

    @property
    def bytes(self) -> int:
        """Memory held."""
        return self._keys.nbytes + self._tokens.nbytes

    @torch.no_grad()
    def take(self, states: States) -> None:
        """Takes in a chunk that has been learnt: weighs how it would have been predicted, then holds it. Done again, it
        changes nothing."""
        if states is self._last:
            return
        targets = torch.tensor(states.targets, dtype=torch.long)
        hidden, evidence, scale = states.hidden.detach(), self._evidence, self._scale
        if self.held:
            found, nearest = self._found(hidden, targets)
            model, cache = (-states.nll).double().cpu().exp()[:, None], found.double()[:, None]
            shares = torch.tensor(_SHARES, dtype=torch.float64)
            evidence = evidence.index_add(0, _bucket(nearest), ((1 - shares) * model + shares * cache).log())
        else:
            spread, mean = torch.std_mean(hidden.float(), 0, correction=0)
            scale = torch.stack([mean, spread.clamp_min(_LEAST_SPREAD)])
        keys = _keys(hidden, scale)
        keys = torch.cat([self._keys, keys])[-self._most :] if self.held else keys[-self._most :]
        tokens = torch.cat([self._tokens, targets])[-self._most :]
        self._keys, self._tokens, self._scale, self._evidence, self._last = keys, tokens, scale, evidence, states
        self._kinds = torch.unique(tokens)

    @torch.no_grad()
    def mixed(self, logits: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
        """fp32 logits [vocabulary] of the model and the cache together, from the model's, and the state [H] before
        them."""
        if not self.held:
            return logits
        likeness = self._likeness(hidden[None])[0]
        share = float(self._shares(likeness.max()[None]))
        found = torch.zeros(self._vocabulary).index_add_(0, self._tokens, torch.softmax(_SHARPNESS * likeness, 0).cpu())
        # The model's part is shifted, and only what the cache holds has another: its sum would lose the least likely.
        # All stay where they were on the whole: a repetition penalty depends on what is above 0.
        kinds, mixed = self._kinds.to(logits.device), logits + math.log1p(-share)
        cached = (share * found[self._kinds]).log().to(logits.device) + logits.logsumexp(-1)
        return mixed.index_copy_(0, kinds, torch.logaddexp(mixed[kinds], cached))

    @torch.no_grad()
    def nll(self, nll: torch.Tensor, hidden: torch.Tensor, targets: Sequence[int]) -> torch.Tensor:
        """NLL of `targets` [T], in nats, of the model and the cache together, from the model's, and the states [T, H]
        before them."""
        if not self.held or not len(nll):
            return nll
        found, nearest = self._found(hidden, torch.tensor(targets, dtype=torch.long))
        share = self._shares(nearest)
        return -((1 - share) * (-nll).double().cpu().exp() + share * found).log().float().to(nll.device)

    def _shares(self, nearest: torch.Tensor) -> torch.Tensor:
        """The cache's share of a prediction whose nearest key is as alike as this [T]: fp64 [T]."""
        expected = self._evidence.softmax(1) @ torch.tensor(_SHARES, dtype=torch.float64)
        return expected[_bucket(nearest)]

    def _found(self, hidden: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(how likely the cache alone finds each target, how alike its nearest key is), fp32 [T] each."""
        likely, nearest = [], []
        tokens = self._tokens.to(hidden.device)
        parts = torch.split(hidden, _ROWS), torch.split(targets.to(hidden.device), _ROWS)
        for states, wanted in zip(*parts, strict=True):
            likeness = self._likeness(states)
            nearest.append(likeness.amax(1))
            weights = torch.softmax(_SHARPNESS * likeness, 1)
            likely.append((weights * (tokens == wanted[:, None])).sum(1))
        return torch.cat(likely).cpu(), torch.cat(nearest).cpu()

    def _likeness(self, hidden: torch.Tensor) -> torch.Tensor:
        """Of each state [T, H] to each key: fp32 [T, held], 1 where they are the same."""
        self._meter.count(2.0 * len(hidden) * self._keys.numel())
        return linear(_keys(hidden, self._scale), self._keys).float()

    # Snapshots -------------------------------------------------------------------------------------------------

    def state(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """(tensors, numbers) of what it holds."""
        if not self.held:
            return {}, {}
        tensors = {"keys": self._keys.flatten(), "tokens": self._tokens, "scale": self._scale}
        named = {f"neural_cache.{name}": tensor for name, tensor in tensors.items()}
        return named, {"neural_cache": self._evidence.tolist()}

    def load_state(self, tensors: Mapping[str, torch.Tensor], meta: Mapping[str, Any]) -> None:
        """Becomes what `state` was given."""
        self._clear()
        if "neural_cache" in meta:
            self._evidence = torch.tensor(meta["neural_cache"], dtype=torch.float64)
            self._tokens, self._scale = tensors["neural_cache.tokens"].cpu(), tensors["neural_cache.scale"]
            self._keys = tensors["neural_cache.keys"].view(len(self._tokens), -1)
            self._kinds = torch.unique(self._tokens)


EVIDENCE = (len(_BOUNDS) + 1, len(_SHARES))  # shape of the table in a snapshot


def _keys(hidden: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """States [T, H] as they are compared: bf16 [T, H]."""
    return F.normalize((hidden.float() - scale[0]) / scale[1], dim=1).bfloat16()


def _bucket(nearest: torch.Tensor) -> torch.Tensor:
    return torch.bucketize(nearest.cpu(), torch.tensor(_BOUNDS))
