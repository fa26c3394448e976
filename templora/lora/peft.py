"""Adapters in PEFT's format: a folder with `adapter_config.json` and `adapter_model.safetensors`.

What is written here loads in PEFT with the same logits, and a plain LoRA trained in PEFT loads here. Weights are fp32.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from templora.errors import ModelError
from templora.lora.slot import Layout
from templora.runtime.files import said, told, written_whole

_PREFIX = "base_model.model."
_CONFIG, _WEIGHTS, _PICKLE = "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"
_MAX_CONFIG = 1 << 20
# A scale that a user copied from what is printed (six digits), or rounded a little.
_SAME_SCALE = 1e-3
# First weights that leave the base as it was; the others (PiSSA, OLoRA, CorDA, LoftQ) go with another base.
_FIRST_WEIGHTS = (True, False, None, "gaussian", "orthogonal", "eva")
# What would change what the adapter does, and is not done here. An empty value is no request.
_NOT_PLAIN = (
    "use_dora", "lora_bias", "modules_to_save", "layer_replication", "trainable_token_indices", "target_parameters",
    "alora_invocation_tokens", "use_qalora", "use_bdlora", "arrow_config", "kasa_config", "velora_config",
    "monteclora_config",
)  # fmt: skip


@dataclass(frozen=True)
class Found:
    """An adapter as a file holds it.

    Args:
        where: the file or folder, for messages.
        rank: of all its pairs.
        scale: what B A x is multiplied by.
        pairs: layer -> (A [rank, inputs], B [outputs, rank]); in the layer names of this model.
    """

    where: Path
    rank: int
    scale: float
    pairs: Mapping[str, tuple[torch.Tensor, torch.Tensor]]

    def fitted(self, layout: Layout, alpha: float, fresh: torch.Tensor) -> torch.Tensor:
        """Its fp32 weights [layout.weights], for a session with this `alpha`.

        A scale that differs from the session's by a rounding goes into B, so that B A x is what it was. What it leaves
        out, layers or single ranks, is `fresh`: with A and B at zero neither would ever learn.

        Args:
            fresh: the weights of a new adapter of this layout; its B are zero.

        Raises:
            ModelError: of another rank, scale or shape, not finite, or for layers that `layout` does not have.
        """
        if self.rank != layout.rank:
            raise ModelError(
                f"{self.where}: its rank is {self.rank}, the session's is {layout.rank}; set rank={self.rank}"
            )
        own = alpha / layout.rank
        if not math.isfinite(self.scale) or self.scale <= 0:
            raise ModelError(f"{self.where}: its scale is {self.scale:g}; only a positive one can be gone on from")
        if abs(self.scale - own) > _SAME_SCALE * self.scale:
            raise ModelError(f"{self.where}: its scale is {self.scale:g}; set alpha={self.scale * layout.rank:g}")
        left = dict(self.pairs)
        weights = torch.zeros(layout.weights)
        for target, (a, b), (fresh_a, _) in zip(
            layout.targets, layout.views(weights), layout.views(fresh), strict=True
        ):
            if target.name in left:
                for to, tensor in zip((a, b), left.pop(target.name), strict=True):
                    self._put(target.name, tensor, to)
                if self.scale != own:
                    b.mul_(self.scale / own)
            unused = (a == 0).all(1) & (b == 0).all(0)
            a[unused] = fresh_a[unused]
        if left:
            raise ModelError(f"{self.where}: holds {min(left)}, for which the session has no adapter")
        return weights

    def _put(self, name: str, tensor: torch.Tensor, to: torch.Tensor) -> None:
        if tensor.shape != to.shape:
            raise ModelError(f"{self.where}: {name} has another shape in this model")
        if not tensor.dtype.is_floating_point:
            raise ModelError(f"{self.where}: {name} holds no floating-point numbers")
        to.copy_(tensor)
        if not bool(to.isfinite().all()):
            raise ModelError(f"{self.where}: {name} holds numbers that are not finite")


def save_adapter(folder: Path, layout: Layout, weights: torch.Tensor, alpha: float, dropout: float, base: Any) -> None:
    """Writes `weights` [layout.weights] as a PEFT adapter of the model `base`.

    Raises:
        ModelError: the folder cannot be written; what it held before is still there.
    """
    from safetensors.torch import save

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
    with told(ModelError, f"{folder}: the adapter cannot be written"):
        folder.mkdir(parents=True, exist_ok=True)
        # Both are whole before either takes its place.
        with written_whole(folder / _CONFIG) as settings, written_whole(folder / _WEIGHTS) as file:
            file.write_bytes(save(tensors, metadata={"format": "pt"}))
            settings.write_text(json.dumps(config, indent=1) + "\n")


def load_adapter(folder: Path, layout: Layout, alpha: float, fresh: torch.Tensor) -> torch.Tensor:
    """The fp32 weights [layout.weights] of a PEFT adapter; targets it leaves out are `fresh`.

    Raises:
        ModelError: unreadable, not a plain LoRA, larger than one for `layout` can be, or as `Found.fitted`.
    """
    rank, scale = _settings(folder)
    pairs = {}
    halves: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in _tensors(folder, layout).items():
        layer, dot, half = name.removeprefix(_PREFIX).rpartition(".lora_")
        if not name.startswith(_PREFIX) or not dot or half not in ("A.weight", "B.weight"):
            raise ModelError(f"{folder}: holds {name[:200]}, for which the session has no adapter")
        halves.setdefault(layer, {})[half] = tensor
    for layer, both in halves.items():
        if len(both) < 2:
            raise ModelError(f"{folder}: the adapter is incomplete: {layer[:200]} has one matrix of two")
        pairs[layer] = both["A.weight"], both["B.weight"]
    return Found(folder, rank, scale, pairs).fitted(layout, alpha, fresh)


def _settings(folder: Path) -> tuple[int, float]:
    """Rank and scale of a plain LoRA."""
    path = folder / _CONFIG
    with told(ModelError, f"{folder}: no PEFT adapter can be read here"):
        if not path.is_file():
            raise ModelError(f"{folder}: no PEFT adapter can be read here: there is no {_CONFIG}")
        with path.open("rb") as file:
            text = file.read(_MAX_CONFIG + 1)
    if len(text) > _MAX_CONFIG:
        raise ModelError(f"{path}: no adapter has a config of more than {_MAX_CONFIG:,} bytes")
    try:
        config = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{folder}: no PEFT adapter can be read here: {_CONFIG} is no JSON: {said(error)}") from error
    if not isinstance(config, dict):
        raise ModelError(f"{folder}: no PEFT adapter can be read here: {_CONFIG} holds no settings")
    if config.get("peft_type") != "LORA":
        shown = _shown(config, "peft_type")
        raise ModelError(f"{folder}: only plain LoRA adapters are supported; peft_type is {shown} in {_CONFIG}")
    for key in _NOT_PLAIN:
        if config.get(key):
            raise ModelError(f"{folder}: only plain LoRA adapters are supported, without {key}")
    if config.get("rank_pattern") or config.get("alpha_pattern"):
        raise ModelError(f"{folder}: a rank or alpha that differs by layer is not supported")
    if config.get("bias") not in (None, "none"):
        raise ModelError(f"{folder}: only plain LoRA adapters are supported, not bias {_shown(config, 'bias')}")
    first = config.get("init_lora_weights")
    if not any(first is known or (isinstance(known, str) and first == known) for known in _FIRST_WEIGHTS):
        shown = _shown(config, "init_lora_weights")
        raise ModelError(f"{folder}: an adapter with init_lora_weights {shown} may go with a base that it changed")
    rank: Any = config.get("r")
    alpha: Any = config.get("lora_alpha")
    root = config.get("use_rslora")
    if type(rank) is not int or not 0 < rank < 2**31:
        raise ModelError(f"{folder}: r is {_shown(config, 'r')} in {_CONFIG}; it must be a whole number from 1")
    if type(alpha) not in (int, float) or not 0 < alpha < 2.0**62:
        shown = _shown(config, "lora_alpha")
        raise ModelError(f"{folder}: lora_alpha is {shown} in {_CONFIG}; it must be a positive number")
    if root not in (True, False, None):
        raise ModelError(f"{folder}: use_rslora must be true or false in {_CONFIG}")
    return rank, float(alpha / rank ** (0.5 if root else 1))


def _shown(config: dict[str, Any], key: str) -> str:
    return json.dumps(config[key])[:60] if key in config else "missing"


def _tensors(folder: Path, layout: Layout) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load

    path = folder / _WEIGHTS
    if not path.is_file():
        if (folder / _PICKLE).exists():
            raise ModelError(
                f"{folder}: holds {_PICKLE}, which runs code when it is read, so it is not; save the adapter again "
                "with safe_serialization=True"
            )
        raise ModelError(f"{folder}: no PEFT adapter can be read here: there is no {_WEIGHTS}")
    with told(ModelError, f"{folder}: no PEFT adapter can be read here"), path.open("rb") as file:
        # Twice what it can be in fp64, and names. Read, not mapped: a file cut meanwhile is an error then.
        most = 16 * layout.weights + 2**24
        data = file.read(most + 1)
    if len(data) > most:
        raise ModelError(f"{folder}: larger than any adapter for this session's layers and rank {layout.rank}")
    try:
        found: dict[str, torch.Tensor] = load(data)
        return found
    except (ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise ModelError(f"{folder}: no PEFT adapter can be read here: {said(error)}") from error
