"""The shape of the package itself."""

from __future__ import annotations

import ast
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

import templora
from templora import TempLoraConfig

PACKAGE = Path(templora.__file__).parent
# The floors of the house: a room, or a module at the top, imports only from floors above its own.
FLOORS = [
    ["errors", "chunks", "encodings", "events", "metrics", "thoughts", "runtime", "kernels"],
    ["arguments", "config", "text", "text_files", "toml_files", "kvcache", "layers", "processors"],
    ["chat", "recipes", "sampling", "gguf", "reports"],
    ["lora"],
    ["models"],
    ["decoding", "learning"],
    ["methods"],
    ["session"],
    ["engine", "store"],
    ["loading", "testing", "translation", "warm_start"],
    ["bench", "evals", "server"],
    ["cli"],
]
MODULES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"): path
    for path in PACKAGE.rglob("*.py")
    if path.parent != PACKAGE or path.stem not in ("__init__", "__main__")
}


def imports(path: Path) -> set[str]:
    """The modules of ours that a file imports, in whatever form; those for type checking are left out."""
    tree = ast.parse(path.read_text())
    skipped = {
        id(n)
        for i in ast.walk(tree)
        if isinstance(i, ast.If) and "TYPE_CHECKING" in ast.dump(i.test)
        for n in ast.walk(i)
    }
    names = []
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            names += [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
    return {_module(name.removeprefix("templora.")) for name in names if name.startswith("templora.")} - {""}


def _module(name: str) -> str:
    """The module that a dotted name is, or is in; nothing for the package's own public names."""
    while name and name not in MODULES:
        name = name.rpartition(".")[0]
    return name


def test_every_form_of_import_is_seen(tmp_path: Path) -> None:
    (tmp_path / "x.py").write_text(
        "from templora import errors, Session\nfrom templora.store import log as l\nimport templora.runtime.rss\n"
        "def f():\n    from templora.cli.main import main\nif TYPE_CHECKING:\n    from templora import evals\n"
    )
    assert imports(tmp_path / "x.py") == {"errors", "store.log", "runtime.rss", "cli.main"}


def test_dependencies_point_one_way() -> None:
    floor = {room: i for i, rooms in enumerate(FLOORS) for room in rooms}
    assert {name.split(".")[0] for name in MODULES} == set(floor)
    for name, path in MODULES.items():
        room = name.split(".")[0]
        for module in imports(path):
            other = module.split(".")[0]
            assert other == room or floor[other] < floor[room], f"{name} imports {module}"


def test_passes_begin_in_one_place() -> None:
    """`Runner` is the only caller of forward: nobody else asks the model for hidden states or runs its modules.

    But for the model itself, which tries whether it works at all, and for steps, whose passes are of a token a text.
    """
    begins = {}
    for name, path in MODULES.items():
        calls = [n.func for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Call)]
        found = {c.attr for c in calls if isinstance(c, ast.Attribute)} & {"hidden", "decoder", "module"}
        if found:
            begins[name] = found
    assert begins == {
        "models.runner": {"hidden"},
        "models.causal": {"hidden", "decoder", "module"},
        "decoding.row_pass": {"decoder"},
    }


def test_no_file_is_long() -> None:
    """A stranger reads one in a sitting; the verbs of a session are one screen after another, no program."""
    lines = {name: len(path.read_text().splitlines()) for name, path in MODULES.items()}
    assert max(lines.values()) <= 600, max(lines, key=lambda name: lines[name])
    assert lines["session.session"] <= 400


def test_tests_are_in_the_same_rooms() -> None:
    rooms = {path.name for path in Path(__file__).parent.iterdir() if any(path.glob("test_*.py"))} - {"fuzz"}
    assert rooms <= {path.parent.name for path in PACKAGE.glob("*/__init__.py")}


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
write --prompt x --top-k -1 | write --prompt x --logit-bias sea | write --prompt x --dry-base 0
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


@pytest.mark.parametrize("arguments", [["-c", "import templora"], ["-m", "templora", "--help"]], ids=["import", "help"])
def test_it_is_there_at_once(arguments: list[str]) -> None:
    """In CPU seconds, the best of three: what else the machine does is not counted."""

    def seconds() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    assert min(seconds() for _ in range(3)) < 0.3


def test_nothing_rests_on_an_assert() -> None:
    """But what only tells the type checker something: `python -O` leaves them out."""
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Assert):
                said = ast.unparse(node.test)
                narrows = said.endswith(" is not None") or said.startswith("isinstance(")
                assert narrows, f"{path.name}:{node.lineno}: assert {said}"
                assert node.msg is None, f"{path.name}:{node.lineno}: if it can be, it is an error of ours"
