"""Command-line options, made from the fields that define them."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import re
from collections.abc import Callable, Collection, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import click

from templora.config import TempLoraConfig, field_type
from templora.errors import OptionError
from templora.models.builtin import DEFAULT_MODEL
from templora.recipes import RECIPES
from templora.runtime.files import told
from templora.sampling import SamplingParams

Command = Callable[..., Any]
Decorator = Callable[[Command], Command]


def flag_name(field: str) -> str:
    """`chunk_size` → `--chunk-size`."""
    return "--" + field.replace("_", "-")


def _all(*options: Decorator) -> Decorator:
    """Adds options to a command, in this order."""
    return lambda command: functools.reduce(lambda made, option: option(made), reversed(options), command)


def _config_option(f: dataclasses.Field[Any]) -> Decorator:
    kind, _ = field_type(f)
    default = ",".join(f.default) if isinstance(f.default, tuple) else f.default
    shown = "" if default is None else f"  [default: {str(default).lower() if kind is bool else default}]"
    return click.option(
        f"{flag_name(f.name)}/--no-{f.name.replace('_', '-')}" if kind is bool else flag_name(f.name),
        f.name,
        default=None,
        type=None if kind is bool else (str if kind is tuple else kind),
        metavar=None if kind is bool else {int: "N", float: "X"}.get(kind, "TEXT"),
        help=f.metadata["help"] + shown,
    )


# Those of `TempLoraConfig` that are not given are left to the recipe.
config_options = _all(
    click.option(
        "--recipe",
        default="default",
        show_default=True,
        metavar="NAME",
        help=f"start from these settings ({', '.join(RECIPES)}); options below change single ones",
    ),
    *map(_config_option, dataclasses.fields(TempLoraConfig)),
)


def sampling_options(*, without: Collection[str] = (), **defaults: Any) -> Decorator:
    """Adds one option for each field of `SamplingParams`, some with other defaults than the field's."""
    options = []
    for f in dataclasses.fields(SamplingParams):
        if not f.metadata["flag"] or f.name in without:
            continue
        several = isinstance(f.default, tuple)
        options.append(
            click.option(
                flag_name(f.name),
                default=defaults.get(f.name, f.default),
                type=f.metadata["kind"],
                multiple=several,
                show_default=not several,
                help=f.metadata["help"],
            )
        )
    return _all(*options)


def take_sampling(options: dict[str, Any]) -> SamplingParams:
    """What a command's options say of sampling, taken from among the others."""
    found = {f.name: options.pop(f.name) for f in dataclasses.fields(SamplingParams) if f.name in options}
    found["logit_bias"] = [_bias(given) for given in found["logit_bias"]]
    return SamplingParams(**found)


def _bias(given: str) -> tuple[int | str, float]:
    """`sea=-5`, or `#123=-5` for the token with that id; a text that looks like an id takes a space before it."""
    what, _, value = given.rpartition("=")
    try:
        return int(what[1:]) if re.fullmatch("#[0-9]{1,18}", what) else what, float(value)
    except ValueError:
        raise OptionError("logit_bias", f"must be like sea=-5, or #123=-5 for a token's id, not {given!r}") from None


# Which model runs where.
model_options = _all(
    click.option(
        "--model",
        default=DEFAULT_MODEL,
        show_default=True,
        help="a built-in name (see `templora models`), a directory, a .gguf file, or a hub id",
    ),
    click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N"),
    click.option("--dtype", default="auto", show_default=True, help="auto, bfloat16, float16 or float32"),
    click.option(
        "--weights",
        default="auto",
        show_default=True,
        help="how the frozen weights are held: unpacked (in --dtype), bf16 (2 bytes a weight), int8 (1 byte, made "
        "here, next to no loss), int4 (0.6 bytes: the blocks of a .gguf and of built-in models as they are, at no "
        "further loss; made here from other models, at a real one), or auto: blocks as they are where there are any, "
        "on a CPU; else unpacked. Fewer bytes decode faster",
    ),
    click.option(
        "--threads",
        default="auto",
        show_default=True,
        help="CPU threads: a number, or auto: all cores, fewer while other programs use them",
    ),
    click.option("--trust-remote-code", is_flag=True, help="let a model's repository run its own Python"),
)


def load_arguments(options: Mapping[str, Any]) -> dict[str, Any]:
    """Those of a command's options that `templora.load` takes."""
    from templora.loading import load  # not needed for a --help

    return {name: options[name] for name in inspect.signature(load).parameters if name in options}


sessions_option = click.option(
    "--sessions",
    metavar="DIR",
    help="folder of sessions  [default: $TEMPLORA_SESSIONS, else ~/.local/share/templora/sessions]",
)


notes_option = click.option(
    "--notes",
    metavar="FILE",
    help="a memory, or an author's note (.txt, .gz, .xz, .bz2; - = standard input): its text stands in every window, "
    "after BOS, is read and never learnt, and takes room from the context (--window). In a session on disk it stays; "
    "another file takes its place, an empty one ('' too) removes it",
)


adapter_option = click.option(
    "--adapter", metavar="DIR", help="start from this adapter, in PEFT's format or a .gguf, instead of a fresh one"
)


def check_adapter(folder: str | None) -> None:
    """Finds out early whether there may be one."""
    if folder is None:
        return
    with told(partial(OptionError, "adapter"), f"{folder} cannot be read"):  # a name that is too long, say
        if folder.endswith(".gguf") and Path(folder).is_file():
            return
        there = (Path(folder) / "adapter_config.json").is_file()
    if not there:
        raise OptionError("adapter", f"there is no adapter in PEFT's format in {folder}: no adapter_config.json")


# What a run leaves behind.
output_options = _all(
    click.option("--report", metavar="FILE", help="write every figure of the run to this JSON file"),
    click.option("--plot", metavar="FILE", help="draw perplexity by position and the time into this PNG"),
    click.option("--quiet", is_flag=True, help="no progress and no receipt, only errors"),
)


def split_config(values: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Divides a command's arguments into config fields that were given, and everything else."""
    fields = {f.name for f in dataclasses.fields(TempLoraConfig)}
    given = {k: v for k, v in values.items() if k in fields and v is not None}
    return given, {k: v for k, v in values.items() if k not in fields}


def names_in(option: str, value: str) -> list[str]:
    """The names in `a, b`, of which there must be one."""
    names = [name.strip() for name in value.split(",") if name.strip()]
    if not names:
        raise OptionError(option, f"{value!r} names none")
    return names


def as_flag(error: OptionError) -> str:
    """The error in the command line's words: the flag in place of the field, where there is one."""
    from templora.cli.main import cli

    context = click.Context(cli)
    commands = [cli.get_command(context, name) for name in cli.list_commands(context)]
    commands += [task for command in commands for task in getattr(command, "tasks", {}).values()]
    flags = {flag for command in commands if command for p in command.params for flag in p.opts}
    flag = flag_name(error.option)
    return f"{flag if flag in flags else error.option}: {error.problem}"
