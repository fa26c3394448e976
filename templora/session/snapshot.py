"""`Snapshot`: all that a session is between two chunks, so that another process can go on from there.

Text is not in it: tokens are append-only, and whoever keeps snapshots has them already. A session of the same model and
config that is given the tokens and the snapshot goes on to the same bits.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
import tempfile
from collections.abc import Callable, Iterator, Mapping
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from templora.errors import TextError
from templora.kvcache.window import WindowCache
from templora.runtime.files import sync_folder

# safetensors' names of the kinds of numbers that a session holds.
_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_PIECE = 1 << 20  # bytes that are copied or written at once


@dataclass(frozen=True)
class Snapshot:
    """Named tensors, and numbers that JSON can hold."""

    tensors: Mapping[str, torch.Tensor]
    meta: Mapping[str, Any]

    def copied(self, between: Callable[[], object] = lambda: None) -> Snapshot:
        """One whose tensors are its own; `between` is called between two pieces of the work."""
        copies = {}
        for name, tensor in self.tensors.items():
            own = copies[name] = torch.empty(tensor.shape, dtype=tensor.dtype, device=tensor.device)
            size = _PIECE // tensor.element_size()
            pieces = zip(torch.split(own, size), torch.split(tensor, size), strict=True) if own.dim() == 1 else ()
            for into, piece in pieces or [(own, tensor)]:
                into.copy_(piece)
                between()
        return Snapshot(copies, self.meta)

    def save(self, path: Path, *, durable: bool = False, between: Callable[[], object] = lambda: None) -> str:
        """Writes it as safetensors, so that a reader sees all of it or the old one.

        Args:
            path: of the file.
            durable: also after a loss of power.
            between: called between two pieces of the work.

        Returns:
            SHA-256 of the file.

        Raises:
            TextError: it cannot be written.
        """
        beside: str | None = None
        digest = hashlib.sha256()
        try:
            handle, beside = tempfile.mkstemp(dir=path.parent, prefix=".templora-")
            with os.fdopen(handle, "wb", buffering=0) as file:
                for part in self._parts():
                    written = 0
                    while written < len(part):
                        count = file.write(part[written : written + _PIECE]) or 0
                        digest.update(part[written : written + count])
                        written += count
                        between()
                if durable:
                    os.fsync(file.fileno())
            os.replace(beside, path)
            if durable:
                sync_folder(path.parent)
        except (OSError, ValueError) as error:  # ValueError: a name with a zero byte, or no UTF-8
            if beside:
                Path(beside).unlink(missing_ok=True)
            reason = getattr(error, "strerror", None) or error
            raise TextError(f"{path}: the snapshot cannot be written: {reason}") from error
        return digest.hexdigest()

    def _parts(self) -> Iterator[memoryview]:
        """The file: the length of its header, the header, each tensor.

        Not by safetensors' own writer, which keeps every other thread of Python waiting for as long as it writes.
        """
        # Numbers of more bytes first, so that each lies where such numbers may lie.
        tensors = sorted(self.tensors.items(), key=lambda item: (-item[1].element_size(), item[0]))
        header: dict[str, Any] = {"__metadata__": {"templora": json.dumps(self.meta)}}
        at = 0
        for name, tensor in tensors:
            place = [at, at + tensor.nbytes]
            header[name] = {"dtype": _NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": place}
            at += tensor.nbytes
        said = json.dumps(header).encode()
        said += b" " * (-len(said) % 8)
        yield memoryview(struct.pack("<Q", len(said)))
        yield memoryview(said)
        for _, tensor in tensors:
            raw: Any = tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
            yield memoryview(raw)

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
