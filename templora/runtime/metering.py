"""What a session has spent: seconds and FLOPs by phase, and the process's peak memory.

FLOPs are counted from shapes (two for each multiply-add of a matrix product), not measured:

    forward of n tokens over c cached ones
        2 n P                        P = weights of the linear layers; the head only where logits are computed
        + 2 n R                      R = weights of the adapter, when it is on
        + 4 Σ_layers h·d · (n c + n (n + 1) / 2)      attention scores and values; h heads of size d
    backward of the same tokens
        2 n P + 4 n R + 2 × attention                 the base gets no weight gradients

Embeddings, norms, activation functions and the optimiser are left out (together below 2 % for the embedded model).
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

import torch

from templora.runtime.rss import peak_rss_bytes

Phase = Literal["decode", "score", "learn", "cache"]
PHASES: tuple[Phase, ...] = ("decode", "score", "learn", "cache")


@dataclass(frozen=True)
class ModelShape:
    """The sizes that FLOPs depend on."""

    linear_weights: int
    head_weights: int
    attention_width: int  # sum over layers of heads × head size

    def attention(self, tokens: int, cached: int) -> float:
        return 4.0 * self.attention_width * (tokens * cached + tokens * (tokens + 1) / 2)

    def forward(self, tokens: int, cached: int, logits: int, adapter_weights: int) -> float:
        products = tokens * (self.linear_weights + adapter_weights) + logits * self.head_weights
        return 2.0 * products + self.attention(tokens, cached)

    def backward(self, tokens: int, cached: int, logits: int, adapter_weights: int) -> float:
        products = tokens * (self.linear_weights + 2 * adapter_weights) + logits * self.head_weights
        return 2.0 * products + 2.0 * self.attention(tokens, cached)


@dataclass(frozen=True)
class Cost:
    """What a pass of some tokens over cached ones takes, in FLOPs.

    Args:
        shape: the model's.
        tokens, cached: read, and seen before them.
        logits: rows that become logits.
        adapter_weights: of the adapter they go through.
    """

    shape: ModelShape
    tokens: int
    cached: int
    logits: int
    adapter_weights: int

    @property
    def forward(self) -> float:
        return self.shape.forward(self.tokens, self.cached, self.logits, self.adapter_weights)

    @property
    def backward(self) -> float:
        return self.shape.backward(self.tokens, self.cached, self.logits, self.adapter_weights)


@dataclass
class Meter:
    """Seconds and FLOPs by phase. Phases do not nest: an inner one stops the clock of the outer one."""

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PHASES, 0.0))
    flops: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PHASES, 0.0))
    _phases: list[Phase] = field(default_factory=list)
    _since: float = 0.0

    @contextmanager
    def phase(self, name: Phase) -> Iterator[None]:
        self._switch()
        self._phases.append(name)
        try:
            yield
        finally:
            self._switch()
            self._phases.pop()

    def _switch(self) -> None:
        if self.device.type == "cuda" and self._phases and self._phases[-1] != "decode":
            # Decoding synchronises by itself when it reads the token.
            torch.cuda.synchronize(self.device)
        now = time.perf_counter()
        if self._phases:
            self.seconds[self._phases[-1]] += now - self._since
        self._since = now

    def count(self, flops: float) -> None:
        """Adds FLOPs to the current phase."""
        if self._phases:
            self.flops[self._phases[-1]] += flops

    def since(self, before: Meter | None) -> Meter:
        """What was spent since a copy of it was taken; without one, a copy."""
        before = before or Meter()
        seconds = {phase: spent - before.seconds[phase] for phase, spent in self.seconds.items()}
        flops = {phase: spent - before.flops[phase] for phase, spent in self.flops.items()}
        return Meter(self.device, seconds, flops)


def peak_memory_bytes(device: torch.device) -> int:
    """The most memory this process has held: on the GPU for CUDA, else resident in RAM. In bytes."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return peak_rss_bytes()
