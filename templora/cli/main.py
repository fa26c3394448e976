"""Entry point: finds the subcommand, and turns what goes wrong into one line and an exit code.

0    done                         130  interrupted (Ctrl-C)
2    something given is unusable  143  terminated
"""

from __future__ import annotations

import difflib
import importlib
import sys
import warnings

import click

from templora import __version__
from templora.cli.exits import Interrupted
from templora.errors import OptionError, TemploraError

_COMMANDS = {
    "write": "Write a long text, learning it as it grows.",
    "score": "Score texts with and without the temporary adapter.",
    "models": "List the built-in models and what they cost.",
}


class _Lazy(click.Group):
    """Imports a subcommand only when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in _COMMANDS:
            return None
        command = getattr(importlib.import_module(f"templora.cli.{name}"), name)
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        close = difflib.get_close_matches(name, _COMMANDS, n=1)
        if name not in _COMMANDS and not name.startswith("-"):
            hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(_COMMANDS)}"
            raise click.UsageError(f"no command {name!r}; {hint}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="templora")
def cli() -> None:
    """Write and score text of unlimited length with a language model that learns the text as it goes.

    A temporary LoRA adapter is trained on the text, chunk by chunk, while it is written or read. It holds what no
    longer fits the window, and is thrown away at the end; the model itself never changes.
    """


def main() -> None:
    """Runs the command line and exits."""
    # One line is enough for a warning; where in our code it was raised is no help to a user.
    warnings.showwarning = lambda message, *_: print(f"templora: warning: {message}", file=sys.stderr)
    sys.exit(_run())


def _run() -> int:
    from templora.cli.options import as_flag

    try:
        result = cli.main(standalone_mode=False)
        return result if isinstance(result, int) else 0
    except click.UsageError as error:
        error.show()
        return 2
    except click.ClickException as error:
        error.show()
        return 2
    except OptionError as error:
        return _fail(as_flag(error))
    except TemploraError as error:
        return _fail(str(error))
    except (KeyboardInterrupt, click.Abort):
        return 130
    except Interrupted as stop:
        return stop.code


def _fail(message: str) -> int:
    print(f"templora: error: {message}", file=sys.stderr)
    return 2
