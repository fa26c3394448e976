"""The shape of the package itself."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import templora
from templora import TempLoraConfig

PACKAGE = Path(templora.__file__).parent
# Each module may import only from rows above its own.
ORDER = [
    ["errors", "allocator", "kernels", "ourselves", "scratch", "thoughts", "uninterrupted", "whole"],
    ["config", "chunks", "metrics", "mixture", "events", "models", "resident", "text_files", "gguf_header", "asked"],
    ["guards", "quantized", "gguf_config"],
    ["recipes", "sampling", "text", "targets", "toml_files", "llama_cpp", "widened", "gguf_tokenizer", "gguf_foreign"],
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
    ["fitting"],
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


HEAVY = {"torch", "transformers", "matplotlib", "numpy"}
# With a session at hand, everything that needs no model; each option that is wrong is found without one, too.
LIGHT = """
sessions list | sessions list --json | sessions show s | sessions fork s t | sessions rewind s --chunk 0
sessions export s --text - | sessions discard t | sessions show nope | sessions resume nope | models --json | --version
write --help | translate --help | score --help | bench --help | eval --help | report --help | sessions --help
wirte | write --chunk-sizee 9 | write --prompt x --recipe papr | write --prompt x --model gpt2
write --prompt x --top-k -1
score --tokens 1 x | score nowhere.txt | translate nowhere.txt --to de | translate nowhere.txt --to xx | report nowhere
eval --out x --books nowhere | write --prompt x --session .s | write --prompt x --dtype float
"""


def test_what_needs_no_model_is_light(tmp_path: Path) -> None:
    """Neither torch nor transformers is imported before a model is loaded, which would take seconds."""
    from templora.store.log import Log

    folder = tmp_path / "s"
    folder.mkdir()
    begin = {"model": {"name": "m", "fingerprint": "f"}, "config": TempLoraConfig().to_dict(), "opening": []}
    with Log.create(folder / "log.sqlite") as log:
        log.extend([("begin", (), {**begin, "versions": {}}), ("given", (65, 66), {"text": "AB"})])
    lines = [line.strip() for line in LIGHT.replace("\n", "|").split("|") if line.strip()]
    code = (
        "import sys, templora, templora.cli.main as main\nfrom templora import TempLoraConfig, recipe, load\n"
        f"for line in {lines}:\n"
        "    sys.argv = ['templora', *line.split()]\n"
        f"    assert main._run() in (0, 2) and not {HEAVY} & set(sys.modules), line\n"
    )
    environment = os.environ | {"TEMPLORA_SESSIONS": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, cwd=tmp_path, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert "s: 2 tokens" in done.stdout


def test_our_types_are_for_users_too() -> None:
    assert (PACKAGE / "py.typed").exists()
    assert '"templora" = ["py.typed"]' in (PACKAGE.parent / "pyproject.toml").read_text()


def test_importing_is_light() -> None:
    """Neither torch nor transformers before a model is loaded; the same for the command line's own start."""
    heavy = "{'torch', 'transformers', 'matplotlib', 'numpy'} & set(sys.modules)"
    code = f"import sys, templora, templora.cli.main; from templora import TempLoraConfig, recipe, load; print({heavy})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_nothing_rests_on_an_assert() -> None:
    """But what only tells the type checker something: `python -O` leaves them out."""
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Assert):
                said = ast.unparse(node.test)
                narrows = said.endswith(" is not None") or said.startswith("isinstance(")
                assert narrows, f"{path.name}:{node.lineno}: assert {said}"
                assert node.msg is None, f"{path.name}:{node.lineno}: if it can be, it is an error of ours"
