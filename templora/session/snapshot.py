"""`Snapshot`: all that a session is between two chunks, so that another process can go on from there.

Text is not in it: tokens are append-only, and whoever keeps snapshots has them already. A session of the same model and
config that is given the tokens and the snapshot goes on to the same bits.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from templora.errors import TextError
from templora.kvcache.window import WindowCache
from templora.runtime.files import sync_folder


@dataclass(frozen=True)
class Snapshot:
    """Named tensors, and numbers that JSON can hold."""

    tensors: Mapping[str, torch.Tensor]
    meta: Mapping[str, Any]

    def copied(self) -> Snapshot:
        """One whose tensors are its own."""
        return Snapshot({name: tensor.clone() for name, tensor in self.tensors.items()}, self.meta)

    def save(self, path: Path, *, durable: bool = False) -> None:
        """Writes it as safetensors, so that a reader sees all of it or the old one.

        Args:
            path: of the file.
            durable: also after a loss of power.

        Raises:
            TextError: it cannot be written.
        """
        from safetensors import SafetensorError
        from safetensors.torch import save_file

        beside: str | None = None
        try:
            handle, beside = tempfile.mkstemp(dir=path.parent, prefix=".templora-")
            os.close(handle)
            tensors = {name: tensor.contiguous() for name, tensor in self.tensors.items()}
            save_file(tensors, beside, {"templora": json.dumps(self.meta)})
            if durable:
                with open(beside, "rb") as file:
                    os.fsync(file.fileno())
            os.replace(beside, path)
            if durable:
                sync_folder(path.parent)
        except (OSError, SafetensorError) as error:
            if beside:
                Path(beside).unlink(missing_ok=True)
            reason = getattr(error, "strerror", None) or error
            raise TextError(f"{path}: the snapshot cannot be written: {reason}") from error

    @classmethod
    def load(cls, path: Path) -> Snapshot:
        """Reads it back; nothing in the file is executed.

        Raises:
            TextError: missing or damaged.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="pt") as file:
                meta = json.loads((file.metadata() or {})["templora"])
                if not isinstance(meta, dict):
                    raise ValueError("what it says of itself is no table")
                return cls({name: file.get_tensor(name) for name in file.keys()}, meta)  # noqa: SIM118
        except (OSError, ValueError, LookupError, TypeError, RuntimeError, SafetensorError) as error:
            raise TextError(f"{path}: no snapshot can be read here: {error}") from error


STATE = ("weights", "exp_avg", "exp_avg_sq")  # tensors of an `AdapterState`
NUMBERS = ("first_token", "shift", "served_version", "reused", "versions")


def of_cache(cache: WindowCache, name: str) -> Snapshot:
    """What a cache holds; views of it."""
    tensors = {}
    for index, layer in enumerate(cache.layers if cache.length else []):
        tensors[f"{name}.keys.{index}"] = layer.keys[:, :, : cache.length]
        tensors[f"{name}.values.{index}"] = layer.values[:, :, : cache.length]
    return Snapshot(tensors, {key: copy(getattr(cache, key)) for key in NUMBERS})


def to_cache(cache: WindowCache, name: str, snapshot: Snapshot) -> None:
    """Makes a cache hold what another one held."""
    meta = snapshot.meta
    cache.clear(0)
    if meta["versions"]:
        keys = [snapshot.tensors[f"{name}.keys.{i}"] for i in range(len(cache))]
        values = [snapshot.tensors[f"{name}.values.{i}"] for i in range(len(cache))]
        cache.hold(keys, values, next_token=0, next_position=0, version=0)
    for key in NUMBERS:
        setattr(cache, key, copy(meta[key]))  # the cache goes on with it, the snapshot stays
