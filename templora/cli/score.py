"""`templora score`: how well a text is predicted, by the base alone and with the temporary adapter."""

from __future__ import annotations

import sys
from typing import Any

import click

from templora.cli.console import bar, clock, learned_text
from templora.cli.exits import Interrupted, drop_stdout
from templora.cli.files import read_text
from templora.cli.options import config_options, model_options, output_options, split_config
from templora.cli.run import Run
from templora.errors import OptionError
from templora.events import Absorbed, ChunkLearned, ChunkScored
from templora.metrics import perplexity
from templora.report import TextReport
from templora.text import encode, opening_ids

EPILOG = """\b
Examples:
  templora score book.txt
  templora score book.txt.xz --tokens 24000 --window 1024 --chunk-size 512 --report book.json --plot book.png
  templora score book.txt --recipe paper --json > paper.json
  zcat book.txt.gz | templora score -
"""


@click.command(epilog=EPILOG)
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option("--tokens", type=int, help="only the first N tokens of each text")
@click.option("--json", "as_json", is_flag=True, help="print the report as JSON on standard output")
@model_options
@output_options
@config_options
def score(**arguments: Any) -> None:
    """Score texts: perplexity with and without the temporary adapter, per chunk and in total.

    Each chunk is predicted first and learnt afterwards, never the other way round. Each FILE (.txt, .gz, .xz, or - for
    standard input) is a text of its own, with an adapter of its own.
    """
    given, options = split_config(arguments)
    if options["tokens"] is not None and options["tokens"] < 2:
        raise OptionError("tokens", f"must be at least 2, not {options['tokens']}")
    run = Run(given, options)
    contents = [(name, read_text(name)) for name in options["files"]]
    stop: Exception | None = None
    with run.console:
        engine = run.engine()
        config = run.config(engine)
        for name, content in contents:
            text = TextReport("standard input" if name == "-" else name)
            run.texts.append(text)
            with engine.session(config) as session:
                try:
                    ids = encode(engine.tokenizer, content, special=False)
                    most = options["tokens"]
                    # N counts what the tokenizer puts in front, as N ids of a tokenised text would.
                    ids = ids if most is None else ids[: most - len(opening_ids(engine.tokenizer))]
                    for event in session.score_ids(ids):
                        text.add(event)
                        _show(event, run, text, len(ids))
                except KeyboardInterrupt:
                    stop = Interrupted(130, "interrupted; the figures are for the text up to there")
                except Interrupted as error:
                    stop = error
            text.finish(session, engine.tokenizer, 1)
            if stop:
                run.notes.append(str(stop))
                break
        tokens = sum(len(t.session.tokens) for t in run.texts if t.session)
        try:
            if not options["as_json"]:
                _print_totals(run.texts)
            run.finish(engine, tokens, {"command": "score"}, to_stdout=options["as_json"])
            sys.stdout.flush()
        except BrokenPipeError:
            drop_stdout()
    if stop:
        raise stop


def _show(event: object, run: Run, text: TextReport, total: int) -> None:
    done = text.chunks[-1]["start"] + text.chunks[-1]["tokens"] if text.chunks else 0
    if isinstance(event, ChunkLearned) and not event.committed:
        run.notes.append(f"{text.name}: chunk {event.index} was {learned_text(event)}")
    if isinstance(event, Absorbed):
        row = text.chunks[-1]
        learnt = f"learnt, version {row['version']}" if row["committed"] else row.get("reason") or "too short to learn"
        run.console.chunk(
            f"chunk {row['index']}: {done:,}/{total:,} tokens · {_figures(text)} · {learnt} · {row['seconds']:.1f} s"
        )
    if isinstance(event, Absorbed | ChunkScored):
        speed = run.rate(sum(t.base.tokens for t in run.texts))
        left = clock((total - done) / speed) if speed else "?"
        run.console.status(
            f"{bar(done, total)} {done:,}/{total:,} · {_figures(text)} · {text.committed} learnt · {left} left"
        )


def _figures(text: TextReport) -> str:
    base, adapted = (perplexity(x.nll, x.tokens) for x in (text.base, text.adapted))
    if base is None or adapted is None:
        return "perplexity not yet known"
    return f"perplexity base {base:.3f} adapted {adapted:.3f} ({100 * (adapted / base - 1):+.2f} %)"


def _print_totals(texts: list[TextReport]) -> None:
    print(f"{'text':<32} {'tokens':>9} {'base':>10} {'adapted':>10} {'change':>9}   perplexity = exp(NLL / tokens)")
    for text in texts:
        base, adapted = (perplexity(x.nll, x.tokens) for x in (text.base, text.adapted))
        if base is not None and adapted is not None:
            change = 100 * (adapted / base - 1)
            print(f"{text.name[-32:]:<32} {text.base.tokens:>9,} {base:>10.3f} {adapted:>10.3f} {change:>+8.2f}%")
