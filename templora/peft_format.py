"""Adapters in PEFT's format: a folder with `adapter_config.json` and `adapter_model.safetensors`.

What is written here loads in PEFT with the same logits, and a plain LoRA trained in PEFT loads here. Weights are fp32.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from templora.adapters import Layout
from templora.errors import ModelError

_PREFIX = "base_model.model."


def save_adapter(folder: Path, layout: Layout, weights: torch.Tensor, alpha: float, dropout: float, base: Any) -> None:
    """Writes `weights` [layout.weights] as a PEFT adapter of the model `base`.

    Raises:
        ModelError: the folder cannot be written.
    """
    from safetensors.torch import save_file

    tensors = {}
    for target, (a, b) in zip(layout.targets, layout.views(weights.detach().float().cpu()), strict=True):
        tensors[f"{_PREFIX}{target.name}.lora_A.weight"] = a.contiguous()
        tensors[f"{_PREFIX}{target.name}.lora_B.weight"] = b.contiguous()
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": str(getattr(base.config, "_name_or_path", "") or ""),
        "r": layout.rank,
        "lora_alpha": alpha,
        "lora_dropout": dropout,
        # Whole names: `layers` may have left out some blocks, and PEFT matches by suffix.
        "target_modules": [t.name for t in layout.targets],
        "fan_in_fan_out": any(type(base.get_submodule(t.name)).__name__ == "Conv1D" for t in layout.targets),
        "bias": "none",
        "inference_mode": True,
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
        (folder / "adapter_config.json").write_text(json.dumps(config, indent=1) + "\n")
    except OSError as error:
        raise ModelError(f"{folder}: the adapter cannot be written: {error.strerror}") from error


def load_adapter(folder: Path, layout: Layout, alpha: float) -> torch.Tensor:
    """The fp32 weights [layout.weights] of a PEFT adapter; targets it leaves out stay at the identity (B = 0).

    Raises:
        ModelError: unreadable, not a plain LoRA, of another rank or scale, or for layers that `layout` does not have.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        config = json.loads((folder / "adapter_config.json").read_text())
        tensors = load_file(folder / "adapter_model.safetensors")
    except (OSError, ValueError, SafetensorError) as error:
        raise ModelError(f"{folder}: no PEFT adapter can be read here: {error}") from error
    if config.get("peft_type") != "LORA" or config.get("use_dora") or config.get("bias", "none") != "none":
        raise ModelError(f"{folder}: only plain LoRA adapters are supported")
    if config.get("rank_pattern") or config.get("alpha_pattern"):
        raise ModelError(f"{folder}: a rank or alpha that differs by layer is not supported")
    if config["r"] != layout.rank:
        raise ModelError(f"{folder}: its rank is {config['r']}, the session's is {layout.rank}; set rank={config['r']}")
    scaling = config["lora_alpha"] / config["r"] ** (0.5 if config.get("use_rslora") else 1)
    if scaling != alpha / layout.rank:
        raise ModelError(f"{folder}: its scale is {scaling:g}; set alpha={scaling * layout.rank:g}")
    weights = torch.zeros(layout.weights)
    for target, (a, b) in zip(layout.targets, layout.views(weights), strict=True):
        name = f"{_PREFIX}{target.name}"
        found = tensors.pop(f"{name}.lora_A.weight", None), tensors.pop(f"{name}.lora_B.weight", None)
        if found[0] is None or found[1] is None:
            continue
        if found[0].shape != a.shape or found[1].shape != b.shape:
            raise ModelError(f"{folder}: {target.name} has another shape in this model")
        a.copy_(found[0])
        b.copy_(found[1])
    if tensors:
        raise ModelError(f"{folder}: holds {sorted(tensors)[0]}, for which the session has no adapter")
    return weights
