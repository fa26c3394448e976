"""Adapters as files: a folder in PEFT's format, or a .gguf in llama.cpp's; which one, the name says."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import torch
from torch import nn

from templora.arguments import shown
from templora.config import TempLoraConfig
from templora.errors import ModelError, OptionError
from templora.lora.gguf import load_gguf_adapter, save_gguf_adapter
from templora.lora.peft import load_adapter, save_adapter
from templora.lora.slot import Layout
from templora.lora.targets import first_weights
from templora.runtime.files import told


def save(
    path: Path, layout: Layout, weights: torch.Tensor, config: TempLoraConfig, base: nn.Module, *, half: bool = False
) -> None:
    """Writes an adapter, fp32 [weights], of a session of this config; with `half` a .gguf is rounded to fp16."""
    _check(path, "the adapter cannot be written")
    if path.suffix == ".gguf":
        save_gguf_adapter(path, layout, weights, config.alpha, base, half=half)
    else:
        save_adapter(path, layout, weights, config.alpha, config.dropout, base)


def load(path: str | os.PathLike[str], layout: Layout, config: TempLoraConfig, base: nn.Module) -> torch.Tensor:
    """An adapter's weights, fp32 [weights]. What the file leaves out begins as in a new session.

    Raises:
        ModelError: unreadable, or of another shape.
        OptionError: no path.
    """
    if not isinstance(path, str | os.PathLike):
        raise OptionError("adapter", f"must be the path of one, not {shown(path)}")
    path = Path(path)
    _check(path, "no adapter can be read here")
    fresh = first_weights(layout.targets, layout.rank, config.seed)
    if path.suffix == ".gguf" and not path.is_dir():
        return load_gguf_adapter(path, layout, config.alpha, fresh, base)
    return load_adapter(path, layout, config.alpha, fresh)


def _check(path: Path, what: str) -> None:
    """Raises ModelError for a name that nothing can have: too long, with a zero byte, or no UTF-8."""
    with told(ModelError, f"{path}: {what}", ValueError), contextlib.suppress(FileNotFoundError, NotADirectoryError):
        path.lstat()
