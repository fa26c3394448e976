"""`templora score`: how well a text is predicted, by the base alone and with the temporary adapter."""

from __future__ import annotations

from typing import Any

import click

from templora.cli.console import bar, figures, learned_text
from templora.cli.exits import stop_signals
from templora.cli.options import (
    adapter_option,
    check_adapter,
    config_options,
    model_options,
    notes_option,
    output_options,
    split_config,
)
from templora.cli.run import Run
from templora.config import TempLoraConfig
from templora.errors import OptionError
from templora.events import Absorbed, ChunkLearned, ChunkScored, Event
from templora.metrics import perplexity
from templora.reports.run_report import TextReport
from templora.text import encode, opening_ids
from templora.text_files import read_notes, read_text

EPILOG = """\b
Examples:
  templora score book.txt
  templora score book.txt.xz --tokens 24000 --report book.json --plot book.png
  templora score book.txt --recipe paper --window 1024 --chunk-size 512 --json > paper.json
  zcat book.txt.gz | templora score -
"""


@click.command(epilog=EPILOG)
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option("--tokens", type=int, help="only the first N tokens of each text")
@adapter_option
@notes_option
@click.option("--json", "as_json", is_flag=True, help="print the report as JSON on standard output")
@model_options
@output_options
@config_options
def score(**arguments: Any) -> None:
    """Score texts: perplexity with and without the temporary adapter, per chunk and in total.

    Each chunk is predicted first and learnt afterwards, never the other way round. Each FILE (.txt, .gz, .xz,
    .bz2, or - for standard input) is a text of its own, with an adapter of its own.
    """
    given, options = split_config(arguments)
    most = options["tokens"]
    if most is not None and most < 2:
        raise OptionError("tokens", f"must be at least 2, not {most}")
    check_adapter(options["adapter"])
    run = Run(given, options, [*options["files"], *filter(None, [options["notes"]])])
    if options["notes"] == "-" in options["files"]:
        raise OptionError("notes", "standard input is a text already: give one of them as a file")
    notes = read_notes(options["notes"], run.notes) or ""
    contents = [(name, read_text(name, remarks=run.notes)) for name in options["files"]]
    with run.console:
        engine, config = run.load()
        for name, content in contents:
            text = TextReport("standard input" if name == "-" else name)
            run.texts.append(text)
            ids = encode(engine.tokenizer, content, special=False)
            # N counts what the tokenizer puts in front, as N ids of a tokenised text would.
            ids = ids if most is None else ids[: max(0, most - len(opening_ids(engine.tokenizer)))]

            def show(event: Event, text: TextReport = text, total: int = len(ids)) -> None:
                text.add(event)
                _show(event, run, text, total, config)

            with engine.session(config, notes=notes) as session:
                if options["adapter"] is not None:
                    session.load_adapter(options["adapter"])
                run.follow(session.score_ids(ids), show)
            text.finish(session, engine.tokenizer)
            if run.stopped or stop_signals.received is not None:
                break
        tokens = sum(len(t.session.tokens) for t in run.texts if t.session)
        run.finish(engine, tokens, {"command": "score"}, _totals(run.texts))


def _show(event: Event, run: Run, text: TextReport, total: int, config: TempLoraConfig) -> None:
    if isinstance(event, ChunkLearned) and not event.committed:
        run.notes.append(f"{text.name}: chunk {event.index} was {learned_text(event)}")
    if not text.chunks:
        return
    row = text.chunks[-1]
    done = row["start"] + row["tokens"]
    if isinstance(event, Absorbed):
        in_training = config.learning == "parallel" and done % config.chunk_size == 0
        not_learnt = "in training" if in_training else "too short to learn"
        learnt = f"learnt, version {row['version']}" if row["committed"] else row.get("reason") or not_learnt
        run.console.chunk(
            f"chunk {row['index']}: {done:,}/{total:,} tokens · {figures(text)} · {learnt} · {row['seconds']:.1f} s"
        )
        run.pace.took("token", row["tokens"])
    if isinstance(event, Absorbed | ChunkScored):
        left = run.pace.left(token=total - done)
        run.console.status(
            f"{bar(done, total)} {done:,}/{total:,} · {figures(text)} · {text.committed} learnt · {left} left"
        )


def _totals(texts: list[TextReport]) -> str:
    lines = [
        f"{'text':<32} {'tokens':>9} {'base':>10} {'adapted':>10} {'mixture':>10} {'change':>9}"
        "   perplexity = exp(NLL / tokens)"
    ]
    for text in texts:
        base, adapted, mixed = (perplexity(x.nll, x.tokens) for x in (text.base, text.adapted, text.mixed))
        ours = adapted if mixed is None else mixed
        figures = "nothing to predict"
        if base is not None and ours is not None:
            last = f"{mixed:>10.3f}" if mixed is not None else f"{'–':>10}"
            figures = f"{base:>10.3f} {adapted:>10.3f} {last} {100 * (ours / base - 1):>+8.2f}%"
        lines.append(f"{text.name[-32:]:<32} {text.base.tokens:>9,} {figures}")
    return "\n".join(lines) + "\n"
