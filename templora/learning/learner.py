"""`Learner`: trains one chunk into one slot. Stage, judge, commit or roll back.

The loss is the mean NLL of the chunk's own tokens, but those that are masked. Its context is seen but never a target,
in one of two ways:

    context_gradients off   the context's keys and values are constants, taken from the decoder's cache as they are;
                            only the chunk's tokens go forward and back
    context_gradients on    context and chunk go forward and back together, under the adapter in training (the paper)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace

import torch

from templora.chunks import Chunk
from templora.config import TempLoraConfig
from templora.kvcache.window import WindowCache
from templora.layers.checkpointing import checkpointed
from templora.learning.optimizer import Staged, Step
from templora.learning.probe import Probe
from templora.lora.slot import AdapterState, Route, Slot
from templora.models.neural_cache import NeuralCache, States
from templora.models.runner import Runner, through
from templora.runtime.metering import Cost, Meter
from templora.runtime.signals import deferred


@dataclass(frozen=True)
class Update:
    """What became of one chunk.

    Args:
        committed: whether the slot's adapter changed.
        reason: why not; empty if it did.
        loss: mean NLL at the first step, nats a token.
        grad_norm: L2 norm of the last gradient, before clipping.
        change: root mean square of the change of the weights, 0 if it never got that far.
        drift: nats a token by which the base's own predictions became less likely; None if it was not tried on them.
        forgetting: nats a token by which the text before the chunk did; None likewise.
    """

    committed: bool
    reason: str
    loss: float
    grad_norm: float
    change: float
    drift: float | None = None
    forgetting: float | None = None


@dataclass
class Reading:
    """A chunk that was scored along a way that leads back to the adapter: the first forward pass of learning it.

    Args:
        chunk: what was read.
        targets: its tokens that are predicted.
        version: of the adapter it was read through.
        nll: of each of the chunk's targets, in nats, fp32 [T].
        hidden: final hidden states [T, H], with their graph.
        gradient: of the mean NLL with respect to them.
        copy: where the adapter's gradient will be.
        cost: FLOPs of the way back, the head's gradient, which is here already, included.
    """

    chunk: Chunk
    targets: Sequence[int]
    version: int
    nll: torch.Tensor
    hidden: torch.Tensor
    gradient: torch.Tensor
    copy: _TrainingCopy
    cost: float

    def backward(self) -> States:
        """Goes the way back, once; what was read."""
        hidden, gradient = self.hidden, self.gradient
        del self.hidden, self.gradient  # with the graph, whose small pieces would lie between the next one's large ones
        torch.autograd.backward(hidden, gradient)
        return States(hidden.detach(), self.targets, self.nll)


class Learner:
    """Trains one slot of a bank.

    Args:
        runner: runs the base.
        slot: whose adapter learns.
        config: the optimiser's settings and the bounds an update must keep.
        meter: where FLOPs are counted.
        probe: what an update is tried on; None: nothing.

    Attributes:
        neural_cache: what takes in, too, what is learnt; None: nothing.
    """

    def __init__(
        self,
        runner: Runner,
        slot: Slot,
        config: TempLoraConfig,
        meter: Meter,
        probe: Probe | None = None,
    ) -> None:
        self._runner, self._model = runner, runner.model
        self.neural_cache = NeuralCache.of(config, runner.model, meter)
        self._slot = slot
        self._config = config
        self.meter = meter
        self._probe = probe

    @property
    def reads(self) -> bool:
        """Whether the pass that scores a chunk can be the first one that learns it (`read`): same context, same
        adapter, nothing dropped, everything kept."""
        c = self._config
        alike = c.learn_context == c.context and not (c.context_gradients or c.dropout or c.cache_reuse)
        return alike and c.learning == "cascaded" and not c.checkpointing

    def read(self, tokens: Sequence[int], chunk: Chunk, cache: WindowCache) -> Reading:
        """Scores `chunk` of `tokens` in such a way that learning it need not go forward again.

        The cache is not written. What the backward pass needs is kept until the reading is dropped.
        """
        before = self._slot.state
        copy = _TrainingCopy(self._slot)
        with ExitStack() as during:
            hidden, targets, cost = self._forward(tokens, chunk, cache, copy.route(self._config, 0), during)
            nll, gradient = self._model.nll_gradient(hidden, targets)
        return Reading(chunk, targets, before.version, nll, hidden, gradient, copy, cost.backward)

    def learn(
        self,
        tokens: Sequence[int],
        chunk: Chunk,
        cache: WindowCache,
        reading: Reading | None = None,
        report: Callable[[Update], None] = lambda _: None,
    ) -> Update:
        """Stages an update on `chunk` of `tokens`, and commits it if it is sound.

        Args:
            tokens: ids of the whole text so far.
            chunk: what to learn.
            cache: the decoder's, holding the context; read, never written.
            reading: of this chunk under the adapter as it is, if there is one; used up.
            report: told what became of it, together with the commit: both happen, or none.
        """
        before = self._slot.state
        staged, update = self.stage(before, tokens, chunk, cache, reading=reading)
        with deferred():
            if staged is not None:
                self.commit(staged)
            report(update)
        return update

    def commit(self, staged: Staged) -> None:
        """Makes the slot serve what is staged; done again, it changes nothing."""
        with deferred():
            staged.commit(self._slot)
            if self.neural_cache and staged.read:
                self.neural_cache.take(staged.read)

    def stage(
        self,
        before: AdapterState,
        tokens: Sequence[int],
        chunk: Chunk,
        cache: WindowCache,
        reading: Reading | None = None,
    ) -> tuple[Staged | None, Update]:
        """Trains on `chunk` from `before`, the slot's state, and judges what comes of it; touches nothing.

        Returns:
            What is to be committed, None if it is not sound, and the update as it will be then.
        """
        config = self._config
        copy = reading.copy if reading else _TrainingCopy(self._slot)
        steps: list[Step] = []
        staged = Staged(before, steps, config, self._slot.bank.between)
        loss = math.nan
        for epoch in range(config.epochs):
            if epoch == 0 and reading:
                self.meter.count(reading.cost)
                read = reading.backward()
            else:
                if epoch > 0:
                    copy.take(staged)
                route = copy.route(config, _seed(config, before.version, epoch))
                read = self._backward(tokens, chunk, cache, route)
            step_loss = float(read.nll.double().mean())
            step = Step.clipped(copy.take_gradient(), config.max_grad_norm)
            if epoch == 0:
                loss, staged.read = step_loss, read
            if not math.isfinite(step_loss):
                return None, Update(False, f"the loss is not finite ({step_loss})", loss, step.norm, 0.0)
            if not math.isfinite(step.norm):
                return None, Update(False, f"the gradient is not finite ({step.norm})", loss, step.norm, 0.0)
            steps.append(step)
        before_it = tokens[cache.opening if cache.notes else 0 : chunk.middle]  # of the text alone
        update = self._judged(Update(True, "", loss, step.norm, 0.0), staged, copy, before_it)
        return staged if update.committed else None, update

    def _judged(
        self,
        update: Update,
        staged: Staged,
        copy: _TrainingCopy,
        before: Sequence[int],
    ) -> Update:
        """`update` with what is found when it is tried, `before` being the text before the chunk."""
        config, probe = self._config, self._probe
        change = copy.take(staged) if probe else staged.change()
        update = replace(update, change=change)
        # Bounds are written so that what is not a number fails them too.
        if not change <= config.max_update:
            reason = f"the update is too large ({change:.3g} root mean square, max_update is {config.max_update:g})"
            return replace(update, committed=False, reason=reason)
        if probe is None:
            return update

        routes = [self._slot.route_of(weights) for weights in (self._slot.serving, copy.weights)]
        was, now = probe.read(before[-len(probe.drawn) :], routes, self.meter)
        drift, forgetting = now[0] - was[0], now[1] - was[1]
        update = replace(update, drift=drift, forgetting=forgetting)
        for rise, of in ((drift, "the base's own predictions"), (forgetting, "the text before it")):
            if not rise <= config.probe_tolerance:
                reason = (
                    f"the update makes {of} less likely, by {rise:.2f} nats a token; probe_tolerance is "
                    f"{config.probe_tolerance:g}"
                )
                return replace(update, committed=False, reason=reason)
        return update

    def _backward(self, tokens: Sequence[int], chunk: Chunk, cache: WindowCache, route: Route) -> States:
        """One forward and backward pass; what was read."""
        # Held until the backward pass is over, which may have to go through the blocks again.
        with ExitStack() as during:
            hidden, targets, cost = self._forward(tokens, chunk, cache, route, during)
            again = replace(cost, logits=0).forward if self._config.checkpointing else 0.0
            self.meter.count(cost.backward + again)
            nll = self._model.nll_backward(hidden, targets)
            return States(hidden.detach(), targets, nll)

    def _forward(
        self, tokens: Sequence[int], chunk: Chunk, cache: WindowCache, route: Route, during: ExitStack
    ) -> tuple[torch.Tensor, list[int], Cost]:
        """Hidden states before each of the chunk's targets, with the way back to the adapter; and the targets."""
        during.enter_context(torch.enable_grad())
        during.enter_context(self._model.passes())
        if self._config.checkpointing:
            # A backward pass may be in another thread, on a GPU it is.
            during.enter_context(checkpointed(self._model.decoder, lambda: through(route)))
        first, most = chunk.first_target - 1, self._config.learn_context
        inputs, targets = list(tokens[first : chunk.end - 1]), list(tokens[first + 1 : chunk.end])
        learnt = chunk.targets
        if self._config.context_gradients:
            start = max(chunk.start, chunk.middle - most)
            opening = list(tokens[: min(cache.opening, first) if start else 0])
            context = opening + list(tokens[start + len(opening) : first])
            read, seen = len(context) + len(inputs), 0
            whole = self._runner.read(context + inputs, None, 0, route, self.meter, logits=learnt)
            hidden = whole[len(context) :]
        else:
            # The token before the chunk is an input, so it is not among the cached ones: hence most − 1.
            seen, position = during.enter_context(cache.as_context(first, most - 1))
            read = len(inputs)
            hidden = self._runner.read(inputs, cache, position, route, self.meter, logits=learnt)
        if chunk.masked:
            rows = [i - first - 1 for i in chunk.learnt]
            hidden, targets = hidden[rows], [targets[i] for i in rows]
        return hidden, targets, Cost(self._model.shape, read, seen, len(targets), self._slot.layout.weights)


class _TrainingCopy:
    """A slot's weights in compute dtype, to go through while their gradient is taken.

    At first they are those that serve, where they lie: nobody writes to them before the update is committed.
    """

    def __init__(self, slot: Slot) -> None:
        self._slot = slot
        self.weights = slot.serving
        self._own = False
        self._gradient: torch.Tensor | None = None

    def take(self, staged: Staged) -> float:
        """Goes on with the weights as they are after the steps so far; returns by how much these changed them (root
        mean square)."""
        if not self._own:
            self.weights, self._own = torch.empty_like(self.weights), True
        return staged.change(self.weights)

    def route(self, config: TempLoraConfig, seed: int) -> Route:
        """A route whose backward pass leaves its gradient here."""
        self._gradient = torch.zeros_like(self.weights)
        return self._slot.route_of(self.weights, config.dropout, seed, self._gradient)

    def take_gradient(self) -> torch.Tensor:
        """The gradient of the last backward pass [weights], no longer held here."""
        gradient, self._gradient = self._gradient, None
        assert gradient is not None
        return gradient


def _seed(config: TempLoraConfig, version: int, epoch: int) -> int:
    """Seed of an epoch's dropout: the session's own, and another for each version and epoch."""
    mixed = config.seed
    for part in (version, epoch):
        mixed = (mixed * 1_000_003 + part + 1) % 2**61
    return mixed * 4_099 % 2**62  # room for the targets' numbers, which are added
