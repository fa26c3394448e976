"""Attention sinks (StreamingLLM; Xiao et al., arXiv 2309.17453): nothing is ever computed again.

    entries    [sinks][ ─── dropped ─── ][ ──── the last window − Δ ──── ]
    positions   0 1 2 3                   4 5 6 ...                            within the cache, not within the text

At a chunk's start the entries between the first few and the last window − Δ are dropped, and the keys that are kept are
turned back to the positions that follow the sinks. (The paper drops one entry a token; dropping Δ at a time is the
same window for the last token of a chunk, and a shorter one for the others.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from templora.config import TempLoraConfig
from templora.decoding.reader import Reader
from templora.kvcache.window import WindowCache
from templora.methods.base import Method, MethodState
from templora.models.causal import CausalModel
from templora.models.runner import Runner
from templora.runtime.metering import Meter
from templora.runtime.signals import deferred


@dataclass(frozen=True)
class AttentionSinks(Method):
    """Keeps the first entries for ever, and the cache as it is."""

    name: ClassVar[str] = "attention_sinks"
    takes_notes: ClassVar[bool] = True

    def problem(self, model: CausalModel, config: TempLoraConfig) -> str | None:
        problem = super().problem(model, config)
        if problem:
            return problem
        if getattr(model.decoder, "rotary_emb", None) is None:
            return f"{type(model.module).__name__} has no rotary positions, so keys cannot be moved"
        if model.rewrites_itself:
            return "its rotary embedding changes with length, so keys cannot be moved"
        return None if _turns(model) else "its keys do not turn with their position as those of Llama do"

    def begin(self, model: CausalModel, config: TempLoraConfig, opening: int = 0) -> MethodState:
        return _Sinks(model)


class _Sinks(MethodState):
    rereads = False

    def __init__(self, model: CausalModel) -> None:
        self._model = model

    def prepare(self, reader: Reader, tokens: Sequence[int], chunk_start: int, version: int) -> None:
        cache, first = reader.cache, reader.window_start(chunk_start)
        if cache.length and first > cache.first_token:
            dropped = first - cache.first_token
            if first >= cache.next_token - cache.sinks:  # nothing of it is left, after a long given text, say
                cache.clear(first)
            else:
                with deferred():
                    cache.evict(first)
                    try:
                        turn_back(self._model, cache, cache.sinks, dropped)
                    except BaseException:  # without memory, say: an empty cache, not one that is turned in part
                        cache.clear(first)
                        raise
                    cache.shift -= dropped
        elif not cache.length:
            cache.clear(first)
        reader.fill(tokens, version)


@torch.no_grad()
def turn_back(model: CausalModel, cache: WindowCache, first: int, by: int) -> None:
    """Moves the keys of the entries from `first` on to positions that are `by` lower."""
    kinds = _kinds(model)
    for index, layer in enumerate(cache.layers):
        held = layer.keys[:, :, first : cache.length]
        cos, sin = _angle(model, by, kinds[index], held.device)
        size = cos.shape[-1]  # some families turn a part of each head
        turned = held[..., :size].float()
        half = turned.shape[-1] // 2
        rotated = torch.cat([-turned[..., half:], turned[..., :half]], -1)
        held[..., :size] = (turned * cos - rotated * sin).to(held.dtype)


def _kinds(model: CausalModel) -> list[str | None]:
    """Which rotary table each layer turns by; None where there is one alone."""
    kinds = getattr(model.config, "layer_types", None)
    if kinds and hasattr(model.decoder.rotary_emb, "layer_types"):
        return list(kinds)
    return [None] * model.layers


def _angle(model: CausalModel, by: int, kind: str | None, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    rotary: Any = model.decoder.rotary_emb
    where = torch.tensor([[by]], device=device)
    cos, sin = rotary(torch.zeros(1, device=device), where, *([kind] if kind else []))
    cos, sin = cos[0, 0].float(), sin[0, 0].float()
    # Some kinds also scale what they turn; keys are scaled already.
    scale = (cos.square() + sin.square()).sqrt()
    return cos / scale, sin / scale


@torch.no_grad()
def _turns(model: CausalModel) -> bool:
    """Tries it: a token that sees itself alone has the same keys anywhere, but for their turn."""
    caches, token = [], model.vocabulary // 2
    for position in (9, 2):
        cache = WindowCache(model.layers, 2)
        Runner(model).read([token], cache, position, None, Meter())
        cache.advance(1, 0)
        caches.append(cache)
    turn_back(model, caches[0], 0, 7)
    pairs = zip(caches[0].layers, caches[1].layers, strict=True)
    keys = [(a.keys[:, :, :1].float(), b.keys[:, :, :1].float()) for a, b in pairs]
    return all(float((a - b).abs().max()) <= 0.05 * float(b.abs().max()) for a, b in keys)
