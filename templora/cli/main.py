"""Entry point: finds the subcommand, and turns what goes wrong into one line and an exit code.

0    done                         130  interrupted (Ctrl-C)
2    something given is unusable  143  terminated
"""

from __future__ import annotations

import importlib
import sys
import warnings

import click

from templora import __version__
from templora.cli import streams
from templora.cli.exits import Interrupted, stop_signals
from templora.errors import OptionError, TemploraError, is_out_of_memory, nearest
from templora.runtime.garbage import leave_to_the_system

_COMMANDS = {
    "write": "Learn a text of any length, and write on.",
    "translate": "Translate a document, learning its terms on the way.",
    "glossary": "Find the names and terms of a document, and propose what to call them.",
    "serve": "Serve sessions to OpenAI-compatible clients.",
    "sessions": "List texts that stay on disk; resume, fork, rewind, export and discard them.",
    "score": "Score texts with and without the temporary adapter.",
    "warm-start": "Learn some texts once, for others to begin from.",
    "eval": "Evaluate methods and models on whole texts, into a folder of results.",
    "report": "Make tables, plots and a page of an evaluation's results.",
    "bench": "Measure how fast this machine runs a model, beside what it could do.",
    "models": "List the built-in models and what they cost.",
}

# Where a command's function has another name: a builtin has it, or it is no name.
_FUNCTIONS = {"eval": "evaluate", "warm-start": "warm_start"}


class _Lazy(click.Group):
    """Imports a subcommand only when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in _COMMANDS:
            return None
        command = getattr(importlib.import_module(f"templora.cli.{name.replace('-', '_')}"), _FUNCTIONS.get(name, name))
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in _COMMANDS and not args[0].startswith("-"):
            raise click.UsageError(f"no command {args[0]!r}; {nearest(args[0], _COMMANDS)}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="templora")
def cli() -> None:
    """Write, score and translate text of unlimited length with a language model that learns the text as it grows.

    A temporary LoRA adapter is trained on the text, chunk by chunk, while it is read. It holds what no longer fits the
    window, and is thrown away at the end; the model itself never changes.
    """


def main() -> None:
    """Runs the command line and exits."""
    # One line is enough for a warning; where in our code it was raised is no help to a user.
    warnings.showwarning = lambda message, *_: _say(f"templora: warning: {message}")
    code = _run()
    leave_to_the_system()
    sys.exit(code)


def _run() -> int:
    """The command line of `sys.argv`; returns the exit code."""
    with stop_signals.caught():
        try:
            code = _invoke(sys.argv[1:])
        except Interrupted as stop:
            if stop_signals.mode == "now":
                _say(f"templora: {stop} before anything was written")
            code = stop.code
        if lost := streams.lost():
            _say(f"templora: warning: {lost}; in a file (--out FILE, or > FILE) they are as they should be")
        return code


def _invoke(arguments: list[str]) -> int:
    from templora.cli.options import as_flag

    streams.prepare()
    try:
        # Not click's own `main`: it takes a closed pipe for a reason to leave without a word.
        try:
            with cli.make_context("templora", arguments or ["--help"]) as context:
                cli.invoke(context)
            code = 0
        except click.exceptions.Exit as done:
            code = done.exit_code
        streams.print_out("")
        return code
    except click.UsageError as error:
        hint = f"; see {error.ctx.command_path} --help" if error.ctx else ""
        return _fail(error.format_message().rstrip(".") + hint)
    except click.ClickException as error:
        return _fail(error.format_message())
    except OptionError as error:
        return _fail(as_flag(error))
    except TemploraError as error:
        return _fail(str(error))
    except OSError as error:
        said = streams.broken(error)  # a help text, for whatever else is printed says so itself
        return _fail(f"{error.filename}: {error.strerror}" if error.filename else str(said))
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        return _fail("not enough memory; lower --rank, --window or --chunk-size, or take a smaller model")


def _fail(message: str) -> int:
    _say("templora: error: " + " ".join(message.split()))
    return 2


def _say(line: str) -> None:
    streams.say(line + "\n")
