"""Adapters as GGUF files, for llama.cpp: `--lora FILE` there.

llama.cpp keeps the rows of a Llama-like model's query and key projections in another order than transformers does: its
rotary embedding turns neighbouring rows, transformers' turns rows half a head apart. B's rows are put in its order.

    transformers   head: x0 x1 … x(d/2−1) │ y0 y1 … y(d/2−1)          pairs (xi, yi) are turned together
    llama.cpp      head: x0 y0 x1 y1 … x(d/2−1) y(d/2−1)
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from templora.adapters import Layout
from templora.errors import ModelError

# Families whose GGUF form is llama.cpp's "llama" architecture: the ones whose names and row order are known here.
_LLAMA_LIKE = ("llama", "mistral")


def save_gguf_adapter(path: Path, layout: Layout, weights: torch.Tensor, alpha: float, base: Any) -> None:
    """Writes `weights` [layout.weights] as a LoRA for llama.cpp, in fp16.

    Args:
        path: the file.
        base: the transformers model that the adapter is for.

    Raises:
        ModelError: a family whose GGUF names are not known here, or a file that cannot be written.
    """
    import gguf

    config = base.config.get_text_config()
    if config.model_type not in _LLAMA_LIKE:
        raise ModelError(
            f"{path}: a GGUF adapter can be written for Llama-like models, not for {config.model_type!r}; "
            "PEFT's format (a folder) holds any"
        )
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", alpha)
    for target, (a, b) in zip(layout.targets, layout.views(weights.detach().float().cpu()), strict=True):
        name = names.get_name(target.name)
        if name is None:
            raise ModelError(f"{path}: llama.cpp has no name for {target.name}")
        if target.kind in heads:
            b = interleaved(b, heads[target.kind])
        writer.add_tensor(f"{name}.weight.lora_a", a.half().contiguous().numpy())
        writer.add_tensor(f"{name}.weight.lora_b", b.half().contiguous().numpy())
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    except OSError as error:
        raise ModelError(f"{path}: the adapter cannot be written: {error.strerror}") from error
    finally:
        writer.close()


def interleaved(rows: torch.Tensor, heads: int) -> torch.Tensor:
    """Rows [heads × d, ...] in llama.cpp's order: those that are turned together next to each other."""
    return rows.view(heads, 2, -1, *rows.shape[1:]).transpose(1, 2).reshape(rows.shape)
