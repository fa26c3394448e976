"""Methods that are not ours: a class by `module:Class`, or by the name under which a package offers it.

A package offers one as an entry point of the group `templora.methods`. Modules are looked for where Python looks, and
then in the current folder. Nothing is imported but what somebody names on a command line, in a call or in a plan; what
results say is never run.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import importlib.metadata
import inspect
import os
import re
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

from templora.errors import OptionError, nearest

if TYPE_CHECKING:
    from templora.methods.base import Method

GROUP = "templora.methods"
_PLACE = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")


def offered() -> dict[str, str]:
    """What installed packages offer: name and place."""
    return {point.name: point.value for point in importlib.metadata.entry_points(group=GROUP)}


def find_class(name: str) -> type[Method] | None:
    """The class that `name` names; None if it names no place, and no package offers it.

    Raises:
        OptionError: it cannot be had, or is no method; says what to do.
    """
    place = name if ":" in name else offered().get(name)
    if place is None:
        return None
    if not _PLACE.fullmatch(place):
        file = re.fullmatch(r"(.*[/\\])?([^\W\d]\w*)\.py:(.*)", place)
        instead = f"; a module has no folder and no .py: {file[2]}:{file[3]}" if file else ""
        raise OptionError("method", f"{place!r} must be module:Class{instead}")
    module, _, path = place.partition(":")
    found: Any = _import(module)
    for part in path.split("."):
        if not hasattr(found, part):
            known = [n for n, value in vars(found).items() if _is_method(value)]
            where = getattr(sys.modules[module], "__file__", None) or module
            known_ones = nearest(part, known) if known else "there is no method in it"
            raise OptionError("method", f"there is no {part!r} in {where}; {known_ones}")
        found = getattr(found, part)
    if not _is_method(found):
        what = f"a {type(found).__name__}" if not isinstance(found, type) else "a class of another kind"
        raise OptionError("method", f"{place} is {what}; it must be derived from templora.methods.base.Method")
    if inspect.isabstract(found):
        missing = ", ".join(sorted(found.__abstractmethods__))
        raise OptionError("method", f"{place} is abstract: it lacks {missing}")
    kind: type[Method] = found
    return kind


def code_of(kind: type[Method]) -> str | None:
    """What tells one state of a method's code from another: SHA-256 over the files of its class and of those that it is
    derived from, or the version of its package where there are no files; None for ours."""
    sources: dict[bytes, None] = {}
    for base in kind.__mro__:
        if base.__module__.partition(".")[0] in ("templora", "builtins"):
            continue
        try:
            source = Path(inspect.getsourcefile(base) or "").read_bytes()
        except (OSError, TypeError):
            package = sys.modules.get(base.__module__.partition(".")[0])
            source = f"{base.__module__} {getattr(package, '__version__', '')}".encode()
        sources[source.replace(b"\r\n", b"\n")] = None
    return hashlib.sha256(b"\0".join(sources)).hexdigest() if sources else None


def _is_method(value: object) -> bool:
    from templora.methods.base import Method

    return isinstance(value, type) and issubclass(value, Method)


def _import(module: str) -> Any:
    here = os.getcwd()
    if here not in sys.path:
        sys.path.append(here)  # last: a folder's file must not stand in for a package
    importlib.invalidate_caches()  # it may just have been written
    try:
        with contextlib.redirect_stdout(sys.stderr):  # what it prints is no answer of ours
            return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name and f"{module}.".startswith(f"{error.name}."):
            beside = sorted(p.stem for p in Path(here).glob("*.py"))
            close = f"; {nearest(module, beside)}" if beside else ""
            raise OptionError(
                "method", f"there is no module {error.name!r}, neither in {here} nor installed{close}"
            ) from error
        raise _fails(module, error) from error
    except (Exception, SystemExit) as error:  # whatever somebody's code raises
        raise _fails(module, error) from error


def _fails(module: str, error: BaseException) -> OptionError:
    said = " ".join(str(error).split())[:200]
    last = traceback.extract_tb(error.__traceback__)[-1:]
    where = "".join(f" ({Path(frame.filename).name}, line {frame.lineno})" for frame in last)
    return OptionError("method", f"{module} cannot be imported: {type(error).__name__}: {said}{where}")
