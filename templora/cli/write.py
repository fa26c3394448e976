"""`templora write`: long text on standard output, learnt as it is written."""

from __future__ import annotations

import contextlib
import sys
from typing import Any

import click

from templora.cli.console import bar, clock, learned_text
from templora.cli.exits import Interrupted, drop_stdout
from templora.cli.files import TextFile, check_writable, read_text
from templora.cli.options import config_options, model_options, output_options, sampling_options, split_config
from templora.cli.run import Run
from templora.errors import OptionError, TextError
from templora.events import Absorbed, ChunkLearned, Event, Finished, TokenEvent
from templora.metrics import repetition
from templora.report import TextReport

EPILOG = """\b
Examples:
  templora write --prompt "The lighthouse keeper climbed the stairs and" --tokens 4000
  templora write --prompt-file draft.txt --tokens 2000 --out draft.txt
  templora write --chat --prompt "Tell me a long story." --report run.json --plot run.png
  cat notes.txt | templora write --tokens 500 --temperature 0.7 > more.txt

Text, and only text, goes to standard output. Everything else goes to standard error.
"""


@click.command(epilog=EPILOG)
@click.option("--prompt", help="text to go on from")
@click.option("--prompt-file", metavar="FILE", help="read it from a file (.txt, .gz, .xz; - = standard input)")
@click.option("--tokens", default=1000, show_default=True, type=int, help="how many tokens to write")
@click.option(
    "--out", type=click.Path(dir_okay=False), help="also append the text to this file, on disk after each chunk"
)
@click.option("--chat", is_flag=True, help="put the prompt into the model's chat template")
@click.option("--stop-at-end", is_flag=True, help="stop when the model ends its text; otherwise it writes on")
@sampling_options
@model_options
@output_options
@config_options
def write(**arguments: Any) -> None:
    """Write a long text, learning it as it grows.

    Every chunk of --chunk-size tokens is learnt by a temporary adapter once it is written. A prompt is learnt in the
    same way, so it may be longer than the window. When the text is done the adapter is thrown away.
    """
    from templora.sampling import SamplingParams

    given, options = split_config(arguments)
    fields = SamplingParams.__dataclass_fields__
    sampling = SamplingParams(**{k: options.pop(k) for k in fields})
    if options["tokens"] < 1:
        raise OptionError("tokens", f"must be at least 1, not {options['tokens']}")
    run = Run(given, options)
    out_path = check_writable("out", options["out"])
    prompt = _prompt(options)
    with run.console:
        engine = run.engine()
        config = run.config(engine)
        out = TextFile(out_path) if out_path else None
        text = TextReport("written")
        run.texts.append(text)
        written: list[int] = []
        stop: Exception | None = None
        with engine.session(config) as session:
            try:
                events = session.stream(
                    prompt,
                    tokens=options["tokens"],
                    sampling=sampling,
                    stop_at_end=options["stop_at_end"],
                    chat=options["chat"],
                    score=bool(options["report"] or options["plot"]),
                )
                for event in events:
                    text.add(event)
                    _show(event, run, out, written, options["tokens"])
            except BrokenPipeError:
                drop_stdout()
                stop = TextError("standard output was closed; the run stopped there")
            except KeyboardInterrupt:
                stop = Interrupted(130, "interrupted")
            except (Interrupted, TextError) as error:
                stop = error
            finally:
                if out:
                    _attempt_close(out)
        text.finish(session, engine.tokenizer, len(session.tokens) - len(written))
        if isinstance(stop, Interrupted):
            run.notes.append(f"{stop}; the text so far is " + (f"in {out_path}" if out_path else "above"))
        spoken = engine.tokenizer.decode(written, skip_special_tokens=True)
        extra = {
            "command": "write",
            "prompt_tokens": len(session.tokens) - len(written),
            "sampling": {k: getattr(sampling, k) for k in fields} | {"stop_at_end": options["stop_at_end"]},
            "repetition": repetition(written, spoken),
        }
        if not stop:
            sys.stdout.write("" if spoken.endswith("\n") else "\n")
        _flush_stdout()
        run.finish(engine, len(written), extra)
    if stop:
        raise stop


def _prompt(options: dict[str, Any]) -> str:
    if options["prompt"] is not None and options["prompt_file"] is not None:
        raise OptionError("prompt", "give either --prompt or --prompt-file, not both")
    if options["prompt"] is not None:
        if not options["prompt"].strip():
            raise OptionError("prompt", "is empty")
        return str(options["prompt"])
    if options["prompt_file"] is not None:
        return read_text(options["prompt_file"])
    if sys.stdin.isatty():
        raise OptionError(
            "prompt", "there is nothing to go on from: give --prompt, --prompt-file, or text on standard input"
        )
    return read_text("-")


def _show(event: Event, run: Run, out: TextFile | None, written: list[int], wanted: int) -> None:
    console = run.console
    if isinstance(event, TokenEvent | Finished):
        sys.stdout.write(event.text)
        sys.stdout.flush()
        if out:
            out.write(event.text)
        if isinstance(event, TokenEvent):
            written.append(event.token)
    elif isinstance(event, ChunkLearned):
        if out:
            out.sync()
        console.chunk(f"\nchunk {event.index}: {event.end - event.start} tokens, {learned_text(event)}")
        if not event.committed:
            run.notes.append(f"chunk {event.index} was {learned_text(event)}")
    elif isinstance(event, Absorbed):
        console.status(f"{bar(event.done, event.total)} prompt: {event.done:,} of {event.total:,} tokens absorbed")
    if isinstance(event, TokenEvent | ChunkLearned):
        report = run.texts[0]
        speed = run.rate(len(written))
        console.status(
            f"{bar(len(written), wanted)} {len(written):,}/{wanted:,} tokens · {speed:.0f} tok/s · "
            f"{clock((wanted - len(written)) / speed) if speed else '?'} left · {report.committed} chunks learnt"
            + (f" · {report.rejected} rolled back" if report.rejected else "")
        )


def _attempt_close(out: TextFile) -> None:
    with contextlib.suppress(TextError):  # reported when it happened
        out.sync()
    out.close()


def _flush_stdout() -> None:
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        drop_stdout()
