"""`LlamaLayout`: the parts of a decoder built like Llama, by what they do rather than by family.

    x += after_attention(o(attention(rotary(head norms(q, k, v of before_attention(x))))))
    x += after_mlp(down(activation(gate(h)) · up(h))),  h = before_mlp(x)

Llama, Mistral, Qwen 2 and 3 and Gemma 3 are; they differ in which norms there are, in biases, in sliding windows and
in rotary tables. What does not fit is refused here, and what fits but means something else is caught by whoever
compares with the model's own output.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from templora.models.causal import CausalModel

ACTIVATIONS = ("silu", "gelu_pytorch_tanh")


class UnknownLayout(Exception):
    """This model is not built that way."""


@dataclass(frozen=True)
class Layer:
    """One block.

    Args:
        linears: q, k, v, o, gate, up, down.
        norms: before and after attention, before and after the MLP: weights [hidden], fp32; None where there is none.
        head_norms: of queries and keys: weights [head size], fp32; none, or two.
        sliding: entries that attention sees, the newest included; 0 = all.
        kind: which rotary table; an index into `LlamaLayout.rotary_kinds`.
    """

    linears: tuple[nn.Module, ...]
    norms: tuple[torch.Tensor | None, ...]
    head_norms: tuple[torch.Tensor, ...]
    sliding: int
    kind: int


class LlamaLayout:
    """The parts of `model`.

    Raises:
        UnknownLayout: they are not all found, or there are others.
    """

    def __init__(self, model: CausalModel) -> None:
        config, decoder = model.config, model.decoder
        self._rotary: Any = getattr(decoder, "rotary_emb", None)
        activation = getattr(config, "hidden_act", None) or getattr(config, "hidden_activation", None)
        kinds = getattr(config, "layer_types", None)
        soft = getattr(config, "attn_logit_softcapping", None)
        if self._rotary is None or activation not in ACTIVATIONS or soft:
            raise UnknownLayout
        if set(kinds or []) - {"full_attention", "sliding_attention"} or model.rewrites_itself:
            raise UnknownLayout
        self.activation: str = activation
        self._frequencies = list(self._rotary.buffers())
        # A rotary module with layer types has a table for each.
        self.rotary_kinds: list[str | None] = (
            sorted(set(kinds)) if kinds and hasattr(self._rotary, "layer_types") else [None]
        )
        # Gemma stores the weights of its norms less one.
        self._norm_offset = 1.0 if "gemma" in config.model_type else 0.0
        try:
            self.layers = [self._layer(config, block) for block in decoder.layers]  # type: ignore[union-attr]
            self.final_norm = self._norm_weight(decoder.norm)
            first: Any = decoder.layers[0]  # type: ignore[index]
            norm = first.input_layernorm
            self.epsilon = float(getattr(norm, "variance_epsilon", None) or norm.eps)
            self.head_size, self.attention_scale = int(first.self_attn.head_dim), float(first.self_attn.scaling)
        except AttributeError as error:
            raise UnknownLayout from error
        self.heads, self.groups = int(config.num_attention_heads), int(config.num_key_value_heads)
        self.hidden, self.inner = int(config.hidden_size), int(config.intermediate_size)

    def _layer(self, config: Any, block: Any) -> Layer:
        attention, mlp = block.self_attn, block.mlp
        linears = [attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj]
        linears += [mlp.gate_proj, mlp.up_proj, mlp.down_proj]
        norms = [block.input_layernorm, None, block.post_attention_layernorm, None]
        if hasattr(block, "pre_feedforward_layernorm"):
            norms = [norms[0], norms[2], block.pre_feedforward_layernorm, block.post_feedforward_layernorm]
        head_norms = [attention.q_norm, attention.k_norm] if hasattr(attention, "q_norm") else []
        found = {id(m) for m in (*linears, *norms, *head_norms)}
        # A block that holds weights in anything else does something more.
        if any(id(m) not in found for m in block.modules() if [*m.parameters(False), *m.buffers(False)]):
            raise UnknownLayout
        sliding = getattr(attention, "sliding_window", None)
        if config.model_type == "mistral":  # has it in its config alone
            sliding = config.sliding_window
        kind = getattr(attention, "layer_type", None)
        return Layer(
            linears=tuple(linears),
            norms=tuple(None if n is None else self._norm_weight(n) for n in norms),
            head_norms=tuple(self._norm_weight(n) for n in head_norms),
            sliding=int(sliding or 0),
            kind=self.rotary_kinds.index(kind) if len(self.rotary_kinds) > 1 else 0,
        )

    def _norm_weight(self, norm: Any) -> torch.Tensor:
        if getattr(norm, "bias", None) is not None:
            raise UnknownLayout
        weight: torch.Tensor = norm.weight.detach().float() + self._norm_offset
        return weight

    @property
    def turns(self) -> tuple[int, ...]:
        """Another one after the rotary embedding's frequencies have been rewritten."""
        return tuple(buffer._version for buffer in self._frequencies)

    def rotary(self, first: int, count: int) -> torch.Tensor:
        """Cosines, then sines, fp32 [count, kinds, 2 · head size], of the positions from `first` on."""
        where = torch.arange(first, first + count)[None]
        tables = [self._rotary(torch.zeros(1), where, *([kind] if kind else [])) for kind in self.rotary_kinds]
        return torch.stack([torch.cat([cos[0], sin[0]], -1) for cos, sin in tables], 1).float().contiguous()
