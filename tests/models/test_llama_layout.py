from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from templora.models.causal import CausalModel
from templora.models.llama_layout import LlamaLayout, UnknownLayout
from templora.testing import tiny_model


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3", "gemma3"])
def test_finds_the_parts(family: str) -> None:
    model = CausalModel(tiny_model(family))
    layout = LlamaLayout(model)
    assert len(layout.layers) == 2
    kinds = [name for name, m in model.decoder.named_modules() if isinstance(m, nn.Linear)]
    assert sum(len(layer.linears) for layer in layout.layers) == len(kinds)
    assert (layout.heads, layout.groups, layout.head_size) == (4, 2, 128 if family == "qwen3" else 8)
    assert (layout.hidden, layout.inner) == (32, 48)
    layer = layout.layers[0]
    assert [norm is not None for norm in layer.norms] == [True, family == "gemma3", True, family == "gemma3"]
    assert len(layer.head_norms) == (2 if family in ("qwen3", "gemma3") else 0)
    assert [found.sliding for found in layout.layers] == {"mistral": [24, 24], "gemma3": [24, 0]}.get(family, [0, 0])
    assert len(layout.rotary_kinds) == (2 if family == "gemma3" else 1)


def test_norms_are_what_the_family_multiplies_with() -> None:
    """Gemma stores them less one."""
    for family, expected in (("llama", 1.0), ("gemma3", 1.0)):
        layout = LlamaLayout(CausalModel(tiny_model(family)))
        assert (layout.final_norm == expected).all()


def test_rotary_rows_follow_the_positions() -> None:
    layout = LlamaLayout(CausalModel(tiny_model("gemma3")))
    table = layout.rotary(0, 20)
    assert table.shape == (20, 2, 16)
    assert (table[0, :, :8] == 1).all()
    assert torch.equal(layout.rotary(15, 2), table[15:17])
    assert not torch.equal(table[:, 0], table[:, 1])  # sliding layers turn faster


@pytest.mark.parametrize("family", ["phi", "gpt2"])
def test_refuses_other_families(family: str) -> None:
    with pytest.raises(UnknownLayout):
        LlamaLayout(CausalModel(tiny_model(family)))


def more_weights(model: Any) -> None:
    model.model.layers[1].mlp.extra = nn.Linear(4, 4)


def other_activation(model: Any) -> None:
    model.config.hidden_act = "relu"


def growing_rotary(model: Any) -> None:
    model.model.rotary_emb.rope_type = "dynamic"


def soft_scores(model: Any) -> None:
    model.config.attn_logit_softcapping = 50.0


def norm_with_bias(model: Any) -> None:
    model.model.norm.bias = nn.Parameter(torch.zeros(32))


@pytest.mark.parametrize("change", [more_weights, other_activation, growing_rotary, soft_scores, norm_with_bias])
def test_refuses_what_it_does_not_know(change: Any) -> None:
    module = tiny_model("llama")
    change(module)
    with pytest.raises(UnknownLayout):
        LlamaLayout(CausalModel(module))
