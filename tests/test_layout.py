"""The shape of the package itself."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import templora

PACKAGE = Path(templora.__file__).parent
# Each module may import only from rows above its own.
ORDER = [
    ["errors", "allocator", "kernels", "ourselves", "scratch", "uninterrupted", "whole"],
    ["config", "chunks", "metrics", "mixture", "events", "models", "resident", "text_files", "gguf_header", "asked"],
    ["guards", "quantized", "gguf_config"],
    ["recipes", "sampling", "text", "targets", "llama_cpp", "widened", "gguf_tokenizer", "gguf_foreign"],
    [
        "stopping",
        "wanted",
        "adapters",
        "attention",
        "cache",
        "checkpointing",
        "metering",
        "threads",
        "gguf_file",
        "memory",
    ],
    ["arrangement", "fused", "unpacked", "ceilings"],
    ["model", "peft_format", "rates"],
    ["anatomy", "captured", "gguf_adapter", "optimizer", "probe"],
    ["decoding", "learning", "step"],
    ["drafting", "updates", "methods", "snapshot"],
    ["session"],
    ["engine"],
    ["loading", "report", "testing"],
    ["plots", "shapes", "store"],
    ["bench", "translation"],
    ["evals"],
    ["cli"],
]


def imports(path: Path) -> set[str]:
    """The templora modules that a file imports, those for type checking left out."""
    found = set()
    tree = ast.parse(path.read_text())
    skipped = {
        id(n)
        for i in ast.walk(tree)
        if isinstance(i, ast.If) and "TYPE_CHECKING" in ast.dump(i.test)
        for n in ast.walk(i)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and id(node) not in skipped and (node.module or "").startswith("templora."):
            found.add((node.module or "").split(".")[1])
    return found


def test_dependencies_point_one_way() -> None:
    row = {module: i for i, modules in enumerate(ORDER) for module in modules}
    files = [p for p in PACKAGE.glob("*.py") if p.stem not in ("__init__", "__main__")]
    packages = [p.parent for p in PACKAGE.glob("*/__init__.py")]
    assert {p.stem for p in files} | {p.name for p in packages} == set(row)
    files += [p for package in packages for p in package.rglob("*.py")]
    for path in files:
        name = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        for module in imports(path):
            assert module == name or row[module] < row[name], f"{path.stem} imports {module}"


def test_public_names_are_there() -> None:
    assert templora.__all__ == sorted(templora.__all__)
    for name in templora.__all__:
        assert getattr(templora, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'lode'"):
        _ = templora.lode


def test_importing_is_light() -> None:
    """Neither torch nor transformers before a model is loaded; the same for the command line's own start."""
    heavy = "{'torch', 'transformers', 'matplotlib', 'numpy'} & set(sys.modules)"
    code = f"import sys, templora, templora.cli.main; from templora import TempLoraConfig, recipe, load; print({heavy})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_our_types_are_for_users_too() -> None:
    assert (PACKAGE / "py.typed").exists()
    assert '"templora" = ["py.typed"]' in (PACKAGE.parent / "pyproject.toml").read_text()
