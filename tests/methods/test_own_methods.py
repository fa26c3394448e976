"""Methods that are not ours: found by module and class, or as entry points; refused in one line."""

from __future__ import annotations

import importlib.metadata
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from evaluations import books, cells, plan, tiny_folder

from templora.errors import OptionError, TextError
from templora.evals.measuring.cell import Cell
from templora.evals.measuring.measure import measure
from templora.methods import make_method, method_code
from templora.methods.base import Method
from templora.methods.own import GROUP

HEAD = """
import abc
from dataclasses import dataclass
from templora.methods.base import MethodState, Method
"""
MINE = (
    HEAD
    + """
@dataclass(frozen=True)
class Mine(Method):
    keep: int = 3
    share: float = 0.5
    loud: bool = False
    kinds: tuple = ("a",)

@dataclass(frozen=True)
class Other(Mine):
    pass

class Abstract(Mine, abc.ABC):
    @abc.abstractmethod
    def how(self): ...

@dataclass(frozen=True)
class Wanting(Method):
    must: int

@dataclass(frozen=True)
class Picky(Method):
    keep: int = 3
    def __post_init__(self):
        if self.keep > 5:
            raise ValueError("too many")

class Box:
    Inner = Mine

def function(): ...
"""
)


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Writes a module into the current folder, or writes it anew."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))

    def write(name: str, source: str) -> None:
        (tmp_path / f"{name}.py").write_text(source)
        monkeypatch.delitem(sys.modules, name, raising=False)

    return write


def test_a_class_is_found_by_its_place(write: Any) -> None:
    write("own_a", MINE)
    made = make_method("own_a:Mine", keep=4, share=1, loud=True, kinds=["b"])
    assert (made.name, made.options()) == ("Mine", {"keep": 4, "share": 1, "loud": True, "kinds": ("b",)})
    assert make_method("own_a:Box.Inner") == make_method("own_a:Mine")
    assert method_code("sliding_window") is None
    assert method_code("templora.methods.base:Method") is None
    code = method_code("own_a:Mine")
    assert code == method_code("own_a:Mine")
    write("own_a", MINE + "# changed")
    assert method_code("own_a:Mine") != code


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("absent_module:Mine", {}, "no module 'absent_module', neither in .* nor installed; known: own_b"),
        ("own_c:Mine", {}, "no module 'own_c'.*did you mean 'own_b'"),
        ("own_b.more:Mine", {}, "no module 'own_b.more'"),
        ("own_b:Mein", {}, "no 'Mein' in .*own_b.py; did you mean 'Mine'"),
        ("own_b:Box.Outer", {}, "no 'Outer'"),
        ("own_b:function", {}, "is a function; it must be derived from templora.methods.base.Method"),
        ("own_b:MethodState", {}, "is a class of another kind"),
        ("own_b:Abstract", {}, "is abstract: it lacks how"),
        ("own_b:Mine", {"kept": 1}, "no option 'kept'; did you mean 'keep'"),
        ("own_b:Mine", {"keep": "x"}, "keep: must be of type int"),
        ("own_b:Mine", {"keep": True}, "keep: must be of type int"),
        ("own_b:Wanting", {}, "cannot be made: TypeError.*must"),
        ("own_b:Picky", {"keep": 6}, "cannot be made: ValueError: too many"),
        ("own_b", {}, "unknown method 'own_b'.*or module:Class"),
        ("own_b:", {}, "must be module:Class"),
        (":Mine", {}, "must be module:Class"),
        ("a:b:c", {}, "must be module:Class"),
        ("some/own_b.py:Mine", {}, "no folder and no .py: own_b:Mine"),
        ("../own_b:Mine", {}, "must be module:Class"),
        ("json:loads", {}, "is a function"),
    ],
)
def test_what_cannot_be_one_is_refused_in_one_line(name: str, options: Any, said: str, write: Any) -> None:
    write("own_b", MINE)
    with pytest.raises(OptionError, match=said) as caught:
        make_method(name, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("1 / 0", r"ZeroDivisionError: division by zero \(own_d.py, line 1\)"),
        ("import no_such_thing", "ModuleNotFoundError: No module named 'no_such_thing'"),
        ("def f(:", "SyntaxError"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("\0", "SyntaxError|ValueError"),
        (HEAD + "@dataclass\nclass Mine(Method): pass", "TypeError: cannot inherit non-frozen"),
    ],
)
def test_a_module_that_fails_is_named(source: str, said: str, write: Any) -> None:
    write("own_d", source)
    with pytest.raises(OptionError, match=f"own_d cannot be imported: {said}"):
        make_method("own_d:Mine")


def test_a_package_may_offer_one(write: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    write("own_e", MINE)
    points = [importlib.metadata.EntryPoint("ours", "own_e:Mine", GROUP)]
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: points)
    assert make_method("ours", keep=5) == make_method("own_e:Mine", keep=5)
    with pytest.raises(OptionError, match="did you mean 'ours'"):
        make_method("our")


def test_a_cell_of_ones_own_method(write: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its figures are those of the plain method that it is; its code is a part of what it is."""
    write("own_f", MINE)
    model, folder = tiny_folder(tmp_path / "model"), books(tmp_path / "books", 1)
    table = {"method": "own_f:Other", "keep": 7, "adapters": ["none"]}
    (cell,), texts = cells(plan(model, folder, methods=[table]))
    (plain,), _ = cells(plan(model, folder, methods=[{"adapters": ["none"]}]))
    assert cell.key.startswith("book0--model--own_f-Other--none--")
    assert cell.to_dict()["code"] == method_code("own_f:Mine")
    assert "code" not in plain.to_dict()
    found = [measure(c, texts["book0"], tmp_path)["nll"] for c in (cell, plain)]
    assert found[0] == found[1]
    write("own_f", MINE + "# changed")
    changed = Cell.from_dict(cell.to_dict() | {"tokens": 100})
    with pytest.raises(TextError, match="own_f:Other has changed since this evaluation was begun"):
        measure(changed, texts["book0"], tmp_path)
    write("own_f", "raise SystemExit('run')")
    assert Cell.from_dict(cell.to_dict()) == cell  # what a result says is not run
    with pytest.raises(OptionError, match="cannot be imported: SystemExit: run"):
        cells(plan(model, folder, methods=[table]))


def test_the_one_in_the_docs(write: Any, tmp_path: Path) -> None:
    docs = Path(__file__).parent.parent.parent / "docs" / "evaluation.md"
    (code,) = re.findall(r"```python\n(.*?)```", docs.read_text(), re.DOTALL)
    write("own_g", code)
    model, folder = tiny_folder(tmp_path / "model"), books(tmp_path / "books", 1)
    tables = [{"method": "own_g:Thinned", "keep": keep, "adapters": ["none"]} for keep in (1, 2)]
    found, texts = cells(plan(model, folder, methods=[*tables, {"adapters": ["none"]}]))
    nlls = [measure(cell, texts["book0"], tmp_path)["nll"] for cell in found]
    assert nlls[0] == pytest.approx(nlls[2])
    assert abs(nlls[1] - nlls[2]) > 1


def test_what_a_method_is_called_without_a_name() -> None:
    class Nameless(Method):
        pass

    assert (Nameless.name, Nameless().name, Method.name) == ("Nameless", "Nameless", "sliding_window")
