"""`Learner`: trains one chunk into one slot. Stage, judge, commit or roll back.

The loss is the mean NLL of the chunk's own tokens. Its context is seen but never a target, in one of two ways:

    context_gradients off   the context's keys and values are constants, taken from the decoder's cache as they are;
                            only the chunk's tokens go forward and back
    context_gradients on    context and chunk go forward and back together, under the adapter in training (the paper)
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError
from contextlib import ExitStack
from dataclasses import dataclass, replace

import torch

from templora.adapters import AdapterBank, AdapterState, Route
from templora.cache import WindowCache
from templora.checkpointing import checkpointed
from templora.chunks import Chunk
from templora.config import TempLoraConfig
from templora.metering import Meter
from templora.model import CausalModel
from templora.threads import governor

# Weights looked at together where a copy of all of them would be a waste.
_BLOCK = 1 << 18


@dataclass(frozen=True)
class Update:
    """What became of one chunk.

    Args:
        committed: whether the slot's adapter changed.
        reason: why not; empty if it did.
        loss: mean NLL at the first step, nats a token.
        grad_norm: L2 norm of the last gradient, before clipping.
        change: root mean square of the change of the weights, 0 if it never got that far.
    """

    committed: bool
    reason: str
    loss: float
    grad_norm: float
    change: float


class Learner:
    """Trains one slot of a bank.

    Args:
        model, bank, slot: whose adapter learns what.
        config: the optimiser's settings and the bounds an update must keep.
        meter: where FLOPs are counted.
    """

    def __init__(self, model: CausalModel, bank: AdapterBank, slot: int, config: TempLoraConfig, meter: Meter) -> None:
        self._model = model
        self._bank = bank
        self._slot = slot
        self._config = config
        self._meter = meter

    def learn(self, tokens: Sequence[int], chunk: Chunk, cache: WindowCache) -> Update:
        """Stages an update on `chunk` of `tokens`, and commits it if it is sound.

        Args:
            tokens: ids of the whole text so far.
            chunk: what to learn.
            cache: the decoder's, holding the context; read, never written.
        """
        before = self._bank.state(self._slot)
        staged, update = self.stage(before, tokens, chunk, cache)
        if staged is not None:
            self._bank.commit(self._slot, staged)
        return update

    def stage(
        self,
        before: AdapterState,
        tokens: Sequence[int],
        chunk: Chunk,
        cache: WindowCache,
        stop: threading.Event | None = None,
    ) -> tuple[AdapterState | None, Update]:
        """Trains a copy of `before` on `chunk` and judges it; touches neither the bank's slots nor `before`.

        It may run in any thread beside other passes through the model, if nobody writes to `cache` meanwhile.

        Returns:
            The staged state, None if it is not sound, and the update as it will be once that is committed.

        Raises:
            CancelledError: `stop` was set.
        """
        config, state = self._config, before.staged()

        def check() -> None:
            if stop is not None and stop.is_set():
                raise CancelledError
            governor.tick()

        training = _TrainingCopy(self._bank, self._model.dtype, config, check)
        optimizer = _adamw(state, config)
        loss = norm = math.nan
        for epoch in range(config.epochs):
            training.load(state.weights)
            route = replace(training.route, seed=_seed(config, before.version, epoch))
            with self._bank.through(route):
                step_loss = self._backward(tokens, chunk, cache)
            state.weights.grad = training.gradient()
            step_norm = float(torch.nn.utils.clip_grad_norm_([state.weights], config.max_grad_norm))
            loss, norm = (step_loss if epoch == 0 else loss), step_norm
            if not math.isfinite(step_loss):
                return None, Update(False, f"the loss is not finite ({step_loss})", loss, norm, 0.0)
            if not math.isfinite(step_norm):
                return None, Update(False, f"the gradient is not finite ({step_norm})", loss, norm, 0.0)
            optimizer.step()
        state.weights.grad = None
        change = _root_mean_square(state.weights.detach(), before.weights)
        # Written so that a change that is not a number fails too.
        if not change <= config.max_update:
            reason = f"the update is too large ({change:.3g} root mean square, max_update is {config.max_update:g})"
            return None, Update(False, reason, loss, norm, change)
        state.weights.requires_grad_(False)
        done = AdapterState(state.weights, state.exp_avg, state.exp_avg_sq, before.steps + config.epochs, state.version)
        return done, Update(True, "", loss, norm, change)

    def _backward(self, tokens: Sequence[int], chunk: Chunk, cache: WindowCache) -> float:
        """One forward and backward pass; returns the mean NLL, gradients left in the route's leaves."""
        first, weights = chunk.first_target - 1, self._bank.layout.weights
        inputs, targets = list(tokens[first : chunk.end - 1]), list(tokens[first + 1 : chunk.end])
        shape, most = self._model.shape, self._config.learn_context
        # Held until the backward pass is over, which may have to go through the blocks again.
        with ExitStack() as during:
            during.enter_context(torch.enable_grad())
            during.enter_context(self._model.passes())
            if self._config.checkpointing:
                during.enter_context(checkpointed(self._model.decoder))
            if self._config.context_gradients:
                start = max(chunk.start, chunk.middle - most)
                opening = list(tokens[: min(cache.opening, start)])
                context = opening + list(tokens[start + len(opening) : first])
                cost = (len(context) + len(inputs), 0, len(targets), weights)
                hidden = self._model.hidden(context + inputs, None)[len(context) :]
            else:
                # The token before the chunk is an input, so it is not among the cached ones: hence most − 1.
                seen, position = during.enter_context(cache.as_context(first, most - 1))
                cost = (len(inputs), seen, len(targets), weights)
                hidden = self._model.hidden(inputs, cache, position)
            again = shape.forward(cost[0], cost[1], 0, weights) if self._config.checkpointing else 0.0
            self._meter.count(shape.forward(*cost) + shape.backward(*cost) + again)
            return self._model.nll_backward(hidden, targets)


def _root_mean_square(a: torch.Tensor, b: torch.Tensor) -> float:
    """Of a − b, without another vector as long as they are."""
    blocks = zip(torch.split(a, _BLOCK), torch.split(b, _BLOCK), strict=True)
    return math.sqrt(sum(float((x - y).square_().sum()) for x, y in blocks) / len(a))


class _TrainingCopy:
    """The staged adapter in compute dtype, as leaves whose gradients land in one flat buffer.

    `check` is called at each target, on the way forward and back.
    """

    def __init__(
        self, bank: AdapterBank, dtype: torch.dtype, config: TempLoraConfig, check: Callable[[], None]
    ) -> None:
        self._flat = torch.empty(bank.layout.weights, dtype=dtype, device=bank.device)
        self._grad = torch.zeros_like(self._flat)
        pairs = bank.layout.views(self._flat)
        for pair, grads in zip(pairs, bank.layout.views(self._grad), strict=True):
            for leaf, grad in zip(pair, grads, strict=True):
                leaf.requires_grad_()
                leaf.grad = grad  # autograd adds to it in place
            pair[0].register_post_accumulate_grad_hook(lambda _: check())  # type: ignore[no-untyped-call]
        self.route = Route(pairs, config.scaling, config.dropout, check=check)

    @torch.no_grad()
    def load(self, weights: torch.Tensor) -> None:
        self._flat.copy_(weights)
        self._grad.zero_()

    def gradient(self) -> torch.Tensor:
        return self._grad.float()


def _adamw(state: AdapterState, config: TempLoraConfig) -> torch.optim.AdamW:
    """AdamW over the staged vector, going on from the staged moments (which it edits in place)."""
    optimizer = torch.optim.AdamW(
        [state.weights.requires_grad_()],
        lr=config.learning_rate_at(state.steps // config.epochs),
        eps=config.adam_epsilon,
        weight_decay=config.weight_decay,
        fused=True,
    )
    optimizer.state[state.weights] = {
        "step": torch.tensor(float(state.steps), device=state.weights.device),
        "exp_avg": state.exp_avg,
        "exp_avg_sq": state.exp_avg_sq,
    }
    return optimizer


def _seed(config: TempLoraConfig, version: int, epoch: int) -> int:
    """Of an epoch's dropout: the session's own, and another for each version and epoch."""
    mixed = config.seed
    for part in (version, epoch):
        mixed = (mixed * 1_000_003 + part + 1) % 2**61
    return mixed * 4_099 % 2**62  # room for the targets' numbers, which are added
