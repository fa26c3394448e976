"""Adapters as GGUF files, for llama.cpp: `--lora FILE` there. In fp32 ours come back to the bit.

llama.cpp keeps the rows of a Llama-like model's query and key projections in another order than transformers does: its
rotary embedding turns neighbouring rows, transformers' turns rows half a head apart. B's rows are put in its order.

    transformers   head: x0 x1 … x(d/2−1) │ y0 y1 … y(d/2−1)          pairs (xi, yi) are turned together
    llama.cpp      head: x0 y0 x1 y1 … x(d/2−1) y(d/2−1)
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch

from templora.errors import ModelError
from templora.gguf.header import GgufHeader, Stored
from templora.lora.peft import Found
from templora.lora.slot import Layout
from templora.runtime.files import told, written_whole

# transformers' name of each family whose names in llama.cpp are known here, and llama.cpp's; `llama` has its own order.
_FAMILIES = {"llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3", "gemma3_text": "gemma3"}
# Keys of an adapter's file that do not change what it does.
_HARMLESS = ("general.", "adapter.lora.task_name", "adapter.lora.prompt_prefix", "split.")


def save_gguf_adapter(
    path: Path, layout: Layout, weights: torch.Tensor, alpha: float, base: Any, *, half: bool = False
) -> None:
    """Writes `weights` [layout.weights] as a LoRA for llama.cpp.

    Args:
        path: the file.
        base: the transformers model that the adapter is for.
        half: in fp16, else in fp32.

    Raises:
        ModelError: a family whose GGUF names are not known here, or a file that cannot be written; what it held before
            is still there.
    """
    import gguf

    names = _Names(path, layout, base)
    with told(ModelError, f"{path}: the adapter cannot be written"), written_whole(path) as beside:
        writer = gguf.GGUFWriter(beside, names.family)
        try:
            writer.add_type("adapter")
            writer.add_string("adapter.type", "lora")
            writer.add_float32("adapter.lora.alpha", alpha)
            matrices: list[np.ndarray[Any, Any]] = []
            views = layout.views(weights.detach().float().cpu())
            for target, (a, b) in zip(layout.targets, views, strict=True):
                name, heads = names.of[target.name], names.heads.get(target.kind)
                b = interleaved(b, heads) if heads else b
                for letter, matrix in (("a", a), ("b", b)):
                    matrices.append((matrix.half() if half else matrix).contiguous().numpy())
                    writer.add_tensor(f"{name}.weight.lora_{letter}", matrices[-1])
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_ti_data_to_file()
            (file,) = writer.fout or [beside.open("wb")]
            writer.write_padding(file, file.tell())
            for numbers in matrices:  # the writer's own way is numpy's tofile, which a full disk does not disturb
                file.write(numbers.data)
                writer.write_padding(file, numbers.nbytes)
        finally:
            writer.close()


def load_gguf_adapter(path: Path, layout: Layout, alpha: float, fresh: torch.Tensor, base: Any) -> torch.Tensor:
    """The fp32 weights [layout.weights] of a LoRA for llama.cpp; what it leaves out is `fresh`.

    Raises:
        ModelError: unreadable, no plain LoRA, for another family than `base`, or as `Found.fitted`.
    """
    names, header = _Names(path, layout, base), GgufHeader(path)
    if (header.text("general.type"), header.text("adapter.type")) != ("adapter", "lora"):
        raise ModelError(f"{path}: this GGUF holds no LoRA adapter")
    if header.text("general.architecture") != names.family:
        family = header.text("general.architecture")[:80]
        raise ModelError(f"{path}: this adapter is for {family!r} models, this one is {names.family!r}")
    scaled = header.fields.get("adapter.lora.alpha", 0.0)
    for key in header.fields:
        if key not in ("adapter.type", "adapter.lora.alpha") and not key.startswith(_HARMLESS):
            raise ModelError(f"{path}: only plain LoRA adapters are supported, without {key[:80]}")
    if not isinstance(scaled, float) or not math.isfinite(scaled) or scaled < 0:
        raise ModelError(f"{path}: adapter.lora.alpha must be a positive number")
    left, rank = dict(header.tensors), layout.rank
    pairs: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
    for target in layout.targets:
        name = f"{names.of[target.name]}.weight"
        a, b = left.pop(f"{name}.lora_a", None), left.pop(f"{name}.lora_b", None)
        if a is None and b is None:
            continue
        if a is None or b is None:
            raise ModelError(f"{path}: the adapter is incomplete: {name} has one matrix of two")
        if not pairs:
            rank = a.shape[0]
        for stored, shape in ((a, (rank, target.inputs)), (b, (target.outputs, rank))):
            if stored.shape != shape:
                raise ModelError(f"{path}: {stored.name} has another shape in this model, or another rank")
        rows, heads = _numbers(b), names.heads.get(target.kind)
        pairs[target.name] = _numbers(a), halved(rows, heads) if heads else rows
    if left:
        raise ModelError(f"{path}: holds {min(left)[:200]}, for which the session has no adapter")
    return Found(path, rank, scaled / rank if scaled else 1.0, pairs).fitted(layout, alpha, fresh)


class _Names:
    """What llama.cpp calls a model's layers.

    Args:
        path: for messages.

    Attributes:
        family: llama.cpp's name of it.
        of: llama.cpp's name of each target.
        heads: of the projections whose rows are in another order there.

    Raises:
        ModelError: not known here.
    """

    def __init__(self, path: Path, layout: Layout, base: Any) -> None:
        from gguf import MODEL_ARCH_NAMES, get_tensor_name_map

        config = base.config.get_text_config()
        if config.model_type not in _FAMILIES:
            raise ModelError(
                f"{path}: GGUF adapters are known of {', '.join(sorted(set(_FAMILIES.values())))} models, not for "
                f"{config.model_type!r}; PEFT's format (a folder) holds any"
            )
        self.family = _FAMILIES[config.model_type]
        arch = next(key for key, name in MODEL_ARCH_NAMES.items() if name == self.family)
        known = get_tensor_name_map(arch, config.num_hidden_layers)
        self.of: dict[str, str] = {}
        for target in layout.targets:
            name = known.get_name(target.name)
            if name is None:
                raise ModelError(f"{path}: llama.cpp has no name for {target.name}")
            self.of[target.name] = name
        self.heads: dict[str, int] = {}
        if self.family == "llama":
            self.heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}


def _numbers(stored: Stored) -> torch.Tensor:
    from gguf import GGMLQuantizationType, dequantize

    try:
        numbers = dequantize(stored.read(), GGMLQuantizationType(stored.kind))
    except (NotImplementedError, ValueError) as error:
        raise ModelError(f"{stored.path}: {stored.name} is of a type that cannot be read") from error
    return torch.from_numpy(np.asarray(numbers, np.float32))


def interleaved(rows: torch.Tensor, heads: int) -> torch.Tensor:
    """Rows [heads × d, ...] in llama.cpp's order: those that are turned together next to each other."""
    return rows.view(heads, 2, -1, *rows.shape[1:]).transpose(1, 2).reshape(rows.shape)


def halved(rows: torch.Tensor, heads: int) -> torch.Tensor:
    """The inverse of `interleaved`."""
    return rows.view(heads, -1, 2, *rows.shape[1:]).transpose(1, 2).reshape(rows.shape)
