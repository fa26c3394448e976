"""`templora bench`: how fast a model runs here, beside what the machine could do."""

from __future__ import annotations

import importlib.util
import json
import os
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from templora import loading
from templora.cli.console import Console
from templora.cli.exits import Interrupted, stop_signals
from templora.cli.options import config_options, load_arguments, model_options, split_config
from templora.cli.streams import print_out
from templora.errors import OptionError, nearest
from templora.models.builtin import BuiltinModel
from templora.recipes import recipe

if TYPE_CHECKING:
    from templora.bench.bench import Figure
    from templora.engine.engine import Engine

EPILOG = """\b
Examples:
  templora bench
  templora bench --quick --window 512 --chunk-size 256
  templora bench --compare llama.cpp --json
  templora bench --shape llama-2-7b --device cuda
  templora bench --sessions 1,2,4,8      # how many write together, how fast

Figures in s and in tok/s are medians. "of it" is the share of the ceiling's speed that was reached: a token cannot be
decoded faster than its weights are read, nor a chunk learnt faster than its products take. Keep the machine quiet.
"""
_RIVALS = ("llama.cpp",)
_MOST_SESSIONS = 64


@click.command(epilog=EPILOG)
@click.option("--runs", default=5, show_default=True, type=click.IntRange(min=1), help="measurements of each figure")
@click.option("--quick", is_flag=True, help="rough figures soon: 2 runs, few tokens, small buffers")
@click.option("--shape", metavar="NAME", help="random weights of this shape instead of --model (llama-2-7b, ...)")
@click.option("--compare", metavar="NAME", help="decode with this one too, in turn (llama.cpp)")
@click.option(
    "--sessions", metavar="LIST", help="instead: so many sessions at once (1,2,4,8), also while one more learns"
)
@click.option("--json", "as_json", is_flag=True, help="print every figure as JSON, the last line of standard output")
@click.option("--quiet", is_flag=True, help="no progress, only the figures")
@model_options
@config_options
def bench(**arguments: Any) -> None:
    """Measure decoding, learning, scoring and loading, beside what the machine could do.

    First the machine's memory bandwidth and matrix rate, then the model. Ctrl-C prints what has been measured.
    """
    given, options = split_config(arguments)
    recipe(options["recipe"], None, **given)  # what is wrong with it is found before anything slow
    gguf = _rival(options)
    numbers = None if options["sessions"] is None else numbers_of_sessions(options["sessions"])
    figures: list[Figure] = []
    engine, about = None, {}
    stopped: Interrupted | None = None
    with Console(options["quiet"]) as console:
        try:
            console.line(f"loading {options['shape'] or options['model']} …")
            engine, sources = _load(options)
            config = engine.config(options["recipe"], **given)
            about = _about(engine, config)
            for figure in _measure(engine, config, options, sources, gguf, numbers):
                figures.append(figure)
                console.line(f"measured: {_row(figure).strip()}")
        except Interrupted as stop:
            stopped = stop
        stop_signals.mode = "later"
        if figures:
            print_out("\n".join([_HEAD, *map(_row, figures)]) + "\n")
        if options["as_json"]:
            document = {"benchmark": "bench", "complete": stopped is None, **about}
            document["figures"] = {f.name: f.to_dict() for f in figures}
            print_out(json.dumps(document) + "\n")
    if stopped is not None:
        raise stopped


def numbers_of_sessions(given: str) -> list[int]:
    """`1,2,4` as numbers, the smallest first.

    Raises:
        OptionError: something else.
    """
    parts = [part.strip() for part in given.split(",")]
    if not all(part.isdecimal() and 1 <= int(part) <= _MOST_SESSIONS for part in parts):
        raise OptionError("sessions", f"takes numbers from 1 to {_MOST_SESSIONS}, as in 1,2,4, not {given!r}")
    return sorted(set(map(int, parts)))


def _rival(options: dict[str, Any]) -> Path | None:
    """The file that a rival is to decode; None if there is none to compare with."""
    if options["compare"] is None:
        return None
    if options["compare"] not in _RIVALS:
        raise OptionError("compare", f"unknown {options['compare']!r}; {nearest(options['compare'], _RIVALS)}")
    if importlib.util.find_spec("xllamacpp") is None:
        raise OptionError("compare", "llama.cpp is not installed here; pip install xllamacpp")
    source = None if options["shape"] else loading.find(options["model"])
    path = source.path() if isinstance(source, BuiltinModel) else source
    if not isinstance(path, Path) or not path.is_file():
        raise OptionError(
            "compare", "llama.cpp reads GGUF: give a .gguf file, or a built-in model in one piece, as --model"
        )
    if loading.find_device(options["device"]).type != "cpu":
        raise OptionError("compare", "llama.cpp is compared with on the CPU: give --device cpu")
    return path


def _load(options: dict[str, Any]) -> tuple[Engine, dict[str, Any] | None]:
    """The engine, and what to give `load` for another one; None if its weights are random."""
    if options["shape"]:
        from templora.bench.random_models import random_engine

        return random_engine(options["shape"], options["device"], options["dtype"]), None
    sources = load_arguments(options)
    return loading.load(**sources), sources


def _measure(
    engine: Engine,
    config: Any,
    options: dict[str, Any],
    sources: dict[str, Any] | None,
    gguf: Path | None,
    numbers: list[int] | None,
) -> Any:
    from templora.bench.bench import Bench, Figure, ceiling_figures, load_figure, model_products
    from templora.bench.ceilings import measure_apart

    quick = options["quick"]
    runs = min(2, options["runs"]) if quick else options["runs"]
    sizes = {"square": 1024, "buffer_bytes": 2**28, "passes": 2} if quick else {}
    model = engine.model
    ceilings = measure_apart(model_products(model), config.chunk_size, model.device, model.dtype, **sizes)
    yield from ceiling_figures(ceilings)
    tokens = 16 if quick else 64
    if numbers is not None:
        from templora.bench.sessions import SessionsBench

        yield from SessionsBench(engine, config, ceilings, runs=runs, tokens=tokens).figures(numbers, gguf)
        return
    yield from Bench(engine, config, ceilings, runs=runs, decode_tokens=tokens).figures(gguf)
    if engine.prepare_seconds:
        yield Figure("make the decode step", "s", (engine.prepare_seconds,))
    if sources is not None:
        yield load_figure(sources, 1 if quick else runs)


def _about(engine: Engine, config: Any) -> dict[str, Any]:
    """What the figures depend on."""
    from templora.reports.run_report import describe_device, source_commit

    return {
        "date": date.today().isoformat(),
        "model": engine.name,
        "dtype": str(engine.model.dtype).removeprefix("torch."),
        "config": config.to_dict(),
        "device": describe_device(engine.model.device),
        "load_average": os.getloadavg()[0],
        "versions": engine.versions() | {"commit": source_commit()},
    }


_HEAD = f"{'':<42} {'achieved':>10} {'':<8} {'lowest':>8} {'highest':>8} {'ceiling':>9} {'of it':>6}"


def _row(figure: Figure) -> str:
    ceiling = "" if figure.ceiling is None else _number(figure.ceiling)
    ratio = "" if figure.ratio is None else f"{figure.ratio:.0%}"
    spread = [_number(v) if len(figure.runs) > 1 else "" for v in (min(figure.runs), max(figure.runs))]
    return (
        f"{figure.name:<42} {_number(figure.median):>10} {figure.unit:<8} "
        f"{spread[0]:>8} {spread[1]:>8} {ceiling:>9} {ratio:>6}"
    ).rstrip()


def _number(value: float) -> str:
    """Three figures that count."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"
