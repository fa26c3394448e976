"""A longer context in the same cache: the keys and values that matter least are dropped, as a press of KVPress decides.

    tokens   [ ─────── factor × (window − Δ) ─────── ][ chunk ]
    cache    [ ─ window − Δ ─ ]                                    positions stay those of the tokens

KVPress (github.com/NVIDIA/kvpress) is used where it can be imported: the presses' `compress`; the hooks are ours.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from templora.config import TempLoraConfig
from templora.decoding.reader import Reader
from templora.errors import ModelError, OptionError
from templora.methods.base import Method, MethodState
from templora.models.causal import CausalModel


@dataclass(frozen=True)
class KvCompression(Method):
    """A context of `factor` times the window's, compressed into it for each chunk.

    Args:
        press: name of a class of KVPress that takes a `compression_ratio`: KnormPress, SnapKVPress,
            ExpectedAttentionPress, KeyDiffPress, ...
        factor: tokens read for one entry kept.
    """

    name: ClassVar[str] = "kv_compression"

    press: str = "KnormPress"
    factor: float = 2.0

    def __post_init__(self) -> None:
        if not 1 < self.factor <= 64:
            raise OptionError("factor", f"must be above 1 and at most 64, not {self.factor}")

    @property
    def changes_model(self) -> bool:
        return True

    def missing(self) -> str | None:
        try:
            importlib.import_module("kvpress")
        except ImportError as error:
            return f"kvpress cannot be imported here ({error}); pip install kvpress"
        return None

    def problem(self, model: CausalModel, config: TempLoraConfig) -> str | None:
        missing = self.missing()
        if missing:
            return missing
        kvpress = importlib.import_module("kvpress")
        if not hasattr(kvpress, self.press):
            return f"kvpress has no press {self.press!r}"
        if not all(hasattr(layer, "self_attn") for layer in getattr(model.decoder, "layers", [None])):
            return f"kvpress does not know the attention of {type(model.module).__name__}"
        if any(kind != "full_attention" for kind in getattr(model.config, "layer_types", None) or []):
            return "some of its layers see a short window only, which a press would drop entries of"
        needed = int(self.factor * config.context) + config.chunk_size
        if needed > self.positions(model):
            return f"a context of {needed:,} tokens is beyond this model's {self.positions(model):,} positions"
        return super().problem(model, config)

    def begin(self, model: CausalModel, config: TempLoraConfig, opening: int = 0) -> MethodState:
        return _Compressed(self, model, opening)


class _Compressed(MethodState):
    def __init__(self, method: KvCompression, model: CausalModel, opening: int) -> None:
        self._make_press: Callable[..., Any] = getattr(importlib.import_module("kvpress"), method.press)
        self._method, self._model, self._opening = method, model, opening
        self._held: dict[int, tuple[int, int]] = {}  # what each reader's cache was made for: chunk, version

    def prepare(self, reader: Reader, tokens: Sequence[int], chunk_start: int, version: int) -> None:
        room = reader.config.context - 1  # the token before the chunk is fed with it
        end = min(len(tokens), max(1, chunk_start)) - 1
        start = max(0, chunk_start - int(self._method.factor * reader.config.context))
        if end - start <= room:
            reader.prepare(tokens, chunk_start, version)
            return
        if self._held.get(id(reader)) != (chunk_start, version):
            opening = min(self._opening, start)
            ids = [*tokens[:opening], *tokens[start + opening : end]]
            with reader.meter.phase("cache"):
                keys, values = self._compress(reader, ids, room)
            reader.cache.hold(keys, values, next_token=end, next_position=len(ids), version=version)
            self._held[id(reader)] = (chunk_start, version)
        reader.fill(tokens, version)

    @torch.no_grad()
    def _compress(self, reader: Reader, ids: list[int], room: int) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Reads `ids` and keeps `room` entries of each layer."""
        from transformers import DynamicCache

        cache = DynamicCache()
        try:
            # Presses round down what is left: half an entry more makes it exactly `room`.
            press = self._make_press(compression_ratio=1 - (room + 0.5) / len(ids))
            with _pressed(self._model, press):
                reader.runner.read(ids, cache, 0, reader.route, reader.meter)
        except Exception as error:  # whatever a press stumbles over
            said = " ".join(str(error).split())[:200] or type(error).__name__
            raise ModelError(f"{self._method.press} of kvpress fails on this model: {said}") from error
        kept = {layer.keys.shape[-2] for layer in cache.layers}
        if kept != {room}:
            raise ModelError(
                f"{self._method.press} of kvpress keeps {sorted(kept)} entries where {room} were asked for; presses "
                "that keep different numbers in different layers are not supported"
            )
        return [layer.keys for layer in cache.layers], [layer.values for layer in cache.layers]


@contextmanager
def _pressed(model: CausalModel, press: Any) -> Iterator[None]:
    """Inside, each layer's new keys and values are compressed once they have been attended to."""
    decoder: Any = model.decoder

    def compress(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        layer = kwargs["past_key_values"].layers[module.layer_idx]
        # Some presses turn keys back, with the rotary embedding that KVPress lends each layer.
        module.__dict__["rotary_emb"] = decoder.rotary_emb
        hidden = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]
        layer.keys, layer.values = press.compress(module, hidden, layer.keys, layer.values, output[1], kwargs)

    attentions = [layer.self_attn for layer in decoder.layers]
    handles = [a.register_forward_hook(compress, with_kwargs=True) for a in attentions]
    if hasattr(press, "post_init_from_model"):
        press.post_init_from_model(model.module)
    try:
        yield
    finally:
        for attention, handle in zip(attentions, handles, strict=True):
            handle.remove()
            attention.__dict__.pop("rotary_emb", None)
