"""`templora warm-start`: an adapter of some texts, for others to begin from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from templora.cli.console import Console, Pace, bar, learned_text
from templora.cli.exits import Interrupted, stop_signals
from templora.cli.options import config_options, load_arguments, model_options, split_config
from templora.errors import OptionError
from templora.events import ChunkLearned
from templora.text_files import read_text

EPILOG = """\b
Examples:
  templora warm-start my-first-novel.txt my-second-novel.txt --out my-manner
  templora write --adapter my-manner --prompt-file chapter-1.txt --tokens 3000 --out chapter-2.txt
  templora score book.txt --adapter my-manner

Stop it with Ctrl-C, or kill it, at any moment: the same command goes on where it was. With the embedded model 1,000
tokens take 9 seconds of one core with instructions for bf16. What starts from the adapter must give it the same
shape: the same --rank, --target-modules and --layers, if they are not the default ones.
"""


@click.command("warm-start", epilog=EPILOG)
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option(
    "--out", required=True, metavar="DIR", help="write the adapter there, in PEFT's format, or to a .gguf file"
)
@click.option("--tokens", type=int, help="only the first N tokens of each text")
@click.option("--quiet", is_flag=True, help="no progress, only errors")
@model_options
@config_options
def warm_start(**arguments: Any) -> None:
    """Learn some texts once, and keep the adapter, for others to begin from.

    Much of what an adapter learns of a book is manner, which an author's other books, or others of the time, share. Who
    begins with such an adapter (--adapter) has that from the first word on. Each FILE is a .txt, .gz, .xz or .bz2.
    """
    given, options = split_config(arguments)
    if options["tokens"] is not None and options["tokens"] < 1:
        raise OptionError("tokens", f"must be at least 1, not {options['tokens']}")
    from templora.loading import load
    from templora.recipes import recipe
    from templora.warm_start import WarmStart, check

    out = Path(options["out"])
    planned = recipe(options["recipe"], None, **given)
    check(out, planned)
    texts = [read_text(name) for name in options["files"]]
    with Console(options["quiet"]) as console:
        console.chunk(f"loading {options['model']} …")
        engine = load(**load_arguments(options), plan=planned)
        config = engine.config(options["recipe"], **given)
        warm, pace = WarmStart(engine, texts, out, config, options["tokens"]), Pace()
        at = 0

        def show(done: int, total: int, event: ChunkLearned | None) -> None:
            nonlocal at
            if event:
                console.chunk(f"{done:,} of {total:,} tokens · {learned_text(event)}")
            if done > at:
                pace.took("token", done - at)
                at = done
            console.status(f"{bar(done, total)} {done:,}/{total:,} tokens · {pace.left(token=total - done)} left")
            if stop_signals.received is not None:
                raise Interrupted(stop_signals.received)

        stop_signals.mode = "later"  # between two chunks, each of which is on disk
        try:
            learnt, left_out = warm.run(show)
        except Interrupted:
            console.line("stopped; the same command goes on where it was")
            raise
        not_learnt = f", {left_out} were not" if left_out else ""
        console.line(f"wrote {out}: {warm.tokens:,} tokens, {learnt} chunks learnt{not_learnt}")
        console.line(f"start from it with: templora write --adapter {out} ...")
