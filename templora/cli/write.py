"""`templora write`: long text on standard output, learnt as it is written."""

from __future__ import annotations

import contextlib
import itertools
import os
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from templora.cli.console import bar, figures, learned_text
from templora.cli.exits import Interrupted, stop_signals
from templora.cli.files import TextFile
from templora.cli.options import (
    adapter_option,
    check_adapter,
    config_options,
    model_options,
    notes_option,
    output_options,
    sampling_options,
    sessions_option,
    split_config,
    take_sampling,
)
from templora.cli.run import Run
from templora.cli.streams import check_stdout, print_out
from templora.errors import OptionError
from templora.events import Absorbed, ChunkLearned, ChunkScored, Event, Finished, TokenEvent
from templora.metrics import repetition
from templora.reports.run_report import TextReport
from templora.reports.story_page import Story, Written
from templora.text import decode
from templora.text_files import read_notes, read_text

if TYPE_CHECKING:
    from templora.session.session import Session

EPILOG = """\b
Examples:
  templora write --prompt "The lighthouse keeper climbed the stairs and" --tokens 4000
  templora write --prompt-file chapters-1-to-7.txt --tokens 3000 --out chapter-8.txt
  templora write --chat --prompt "Tell me a long story." --report run.json --plot run.png
  cat notes.txt | templora write --tokens 500 --temperature 0.7 > more.txt

Text, and only text, goes to standard output. Everything else goes to standard error. Ctrl-C stops after the token or
the update in progress, with all text on disk and a receipt; twice, at once.
"""


@click.command(epilog=EPILOG, context_settings={"allow_extra_args": True})
@click.option("--prompt", help="text to go on from")
@click.option("--prompt-file", metavar="FILE", help="read it from a file (.txt, .gz, .xz, .bz2; - = standard input)")
@click.option("--tokens", default=1000, show_default=True, type=int, help="how many tokens to write")
@click.option("--out", metavar="FILE", help="also append the text to this file, on disk after each chunk")
@click.option("--session", metavar="NAME", help="keep the text on disk under this name, or go on with the one there is")
@sessions_option
@click.option("--keep", default=3, show_default=True, type=click.IntRange(1), help="most snapshots of it to keep")
@click.option("--reseed", metavar="N", type=click.IntRange(0, 2**63 - 1), help="random numbers of it begin anew")
@click.option(
    "--draft/--no-draft",
    default=None,
    help="the prompt is the session's own text, edited: it takes that text's place from the first difference on "
    "(--no-draft: it comes after it)  [default: whichever it is like]",
)
@adapter_option
@notes_option
@click.option("--chat", is_flag=True, help="put the prompt into the model's chat template")
@click.option("--stop-at-end", is_flag=True, help="stop when the model ends its text; otherwise it writes on")
@sampling_options()
@model_options
@output_options
@click.option(
    "--page", metavar="FILE", help="also write it without the adapter, and put both side by side into this HTML page"
)
@config_options
def write(**arguments: Any) -> None:
    """Learn a text of any length, and write on.

    Every chunk of --chunk-size tokens of the prompt is learnt by a temporary adapter, so it may be far longer than the
    window. What is written is not learnt, unless it is given back edited (--session) or --learn-written asks for it.
    When the text is done the adapter is thrown away.
    """
    _no_arguments(click.get_current_context())
    given, options = split_config(arguments)
    sampling = take_sampling(options)
    if options["tokens"] < 1:
        raise OptionError("tokens", f"must be at least 1, not {options['tokens']}")
    for name in ("reseed", "draft"):
        if options[name] is not None and options["session"] is None:
            raise OptionError(name, "is for a text that stays on disk: give --session NAME")
    if options["out"] and options["session"] is not None:
        raise OptionError("out", "a session keeps its text itself; see templora sessions export NAME --text FILE")
    if options["page"] and options["session"] is not None:
        raise OptionError("page", "is of one run; a session on disk may go on over many")
    if sampling.logprobs is not None and options["report"] is None:
        raise OptionError("logprobs", "are put into the report: give --report FILE")
    if not options["out"] and options["session"] is None:
        check_stdout()
    check_adapter(options["adapter"])
    kept = None
    if options["session"] is not None:
        from templora.cli.kept import Kept

        kept = Kept(options, given)
    run = Run(given, options, [file for file in (options["prompt_file"], options["notes"]) if file])
    needed = not (kept and kept.begun)
    if options["notes"] == "-" and (options["prompt_file"] or "-" * (options["prompt"] is None and needed)) == "-":
        raise OptionError("notes", "standard input is the prompt already: give one of them as a file")
    notes = read_notes(options["notes"], run.notes)
    prompt = _prompt(options, needed, run.notes)
    if kept:
        kept.read(prompt, options["draft"])
    with run.console:
        engine, config = run.load()
        out = TextFile(run.outputs["out"]) if "out" in run.outputs else None
        text, read = TextReport("written"), TextReport("prompt")
        run.texts.append(text)
        read_end = 0  # of the prompt, as an index of the session's tokens, where that is scored
        written: list[int] = []
        likely: list[dict[str, Any]] = []
        how = {
            "max_new_tokens": options["tokens"],
            "sampling": sampling,
            "stop_at_end": options["stop_at_end"],
            "chat": options["chat"],
            "score": any(name in run.outputs for name in ("report", "plot", "page")),
        }
        without: list[Written] = []
        with contextlib.ExitStack() as stack:
            if kept:
                saved = stack.enter_context(kept.open(run, engine, config, notes))
                session = saved.session
                if options["reseed"] is not None:
                    saved.reseed(options["reseed"])
                wanted, events = kept.stream(saved, how)
            else:
                session = stack.enter_context(engine.session(config, notes=notes or ""))
                if options["adapter"] is not None:
                    session.load_adapter(options["adapter"])
                wanted, events = options["tokens"], session.stream(prompt, **how)
                if how["score"]:
                    ids = session.encode(prompt, chat=how.pop("chat"))
                    read_end = len(session.tokens) + len(ids)
                    beside = _without(run, session, how, without) if "page" in run.outputs else ()
                    events = itertools.chain(session.score_ids(ids), beside, session.stream(**how))

            given_now = 0 if kept and kept.begun else len(prompt)
            progress = _Progress(run, given_now, wanted, config.chunk_size)

            def show(event: Event) -> None:
                text.add(event)
                if isinstance(event, ChunkScored) and event.end <= read_end:
                    read.add(event)
                if isinstance(event, TokenEvent | Finished):
                    if out:
                        out.write(event.text)
                    print_out(event.text)
                if isinstance(event, Finished) and event.tokens > len(written):  # a part of a token was the last
                    written[:] = session.tokens[-event.tokens :]
                if isinstance(event, TokenEvent):
                    written.append(event.token)
                    if event.logprobs:
                        likely.append(asdict(event))
                    if out and len(written) % config.chunk_size == 0:
                        out.sync()
                elif isinstance(event, ChunkLearned) and (event.end > read_end or not event.committed):
                    run.console.chunk(f"\nchunk {event.index}: {event.end - event.start} tokens, {learned_text(event)}")
                    if not event.committed:
                        run.notes.append(f"chunk {event.index} was {learned_text(event)}")
                elif isinstance(event, Absorbed) and read.base.tokens:
                    run.console.line(f"{event.done:>9,} of {event.total:,} tokens of the prompt read · {figures(read)}")
                progress.show(event, len(written))

            run.follow(events, show)
            if kept:
                run.notes += [note for note in saved.remarks if note not in run.notes]
            if out:
                out.close()
        if kept and kept.name in kept.store:
            run.notes.append(f"the session is kept: templora sessions resume {kept.name}, or discard {kept.name}")
        text.finish(session, engine.tokenizer)
        if read_end:
            read.measure(engine.tokenizer.decode(session.tokens[:read_end]))
            run.notes.append(f"the prompt's {figures(read)}")
        if run.stopped is None and sys.stdout is not None and sys.stdout.isatty():
            print_out("\n")
        spoken = engine.tokenizer.decode(written, skip_special_tokens=True)
        extra = {
            "command": "write",
            "prompt_tokens": len(session.tokens) - len(written) - (kept.before if kept else 0),
            **(kept.report() if kept else {}),
            "sampling": asdict(sampling) | {"stop_at_end": options["stop_at_end"]},
            "repetition": repetition(written, spoken),
            **({} if sampling.logprobs is None else {"logprobs": likely}),
            "prompt": {k: v for k, v in read.to_dict().items() if k != "chunks"} if read_end else None,
        }
        if without and written:
            ids = session.tokens[: len(session.tokens) - len(written)]
            decoding = session.meter.seconds["decode"] - without[0].seconds
            adapted = Written("with the adapter", spoken, decoding)
            run.page = _story(session, ids, adapted, without[0])
        run.finish(engine, len(written), extra)


def _without(run: Run, session: Session, how: Mapping[str, Any], into: list[Written]) -> Iterator[Event]:
    """Writes the text without the adapter, for the page, before it is written; yields nothing."""
    written, before = 0, session.meter.since(None)

    def show(_: str) -> None:
        nonlocal written
        written += 1
        run.console.status(f"{bar(written, how['max_new_tokens'])} without the adapter, to compare: {written:,} tokens")
        if stop_signals.received is not None:
            raise Interrupted(stop_signals.received)

    run.console.chunk("writing without the adapter first, to compare …")
    settings = {name: how[name] for name in ("max_new_tokens", "sampling", "stop_at_end")}
    preview = session.preview(base=True, each=show, **settings)
    into.append(Written("without it", preview.text, session.meter.since(before).seconds["decode"]))
    yield from ()


def _story(session: Session, read: Sequence[int], adapted: Written, without: Written) -> Story:
    """What the page is of: the tokens that were read, and the two texts. What is in the notes never left the window."""
    notes = session.loop.text.notes
    room = session.config.window - len(notes)
    before = f"{notes.text}\n\n" if notes else ""
    whole, near = (before + decode(session.engine.tokenizer, ids) for ids in (read, read[-room:]))
    return Story("How the story goes on", whole, near, adapted, without)


def _no_arguments(context: click.Context) -> None:
    """Says what a file or a text that stands among the options was meant to be."""
    if not context.args:
        return
    given = " ".join(context.args)
    file = next((arg for arg in context.args if Path(arg).suffix[1:].isalnum() or os.path.lexists(arg)), None)
    option = f"--prompt-file {shlex.quote(file)}" if file else f"--prompt {shlex.quote(given)}"
    raise click.UsageError(f"{given[:80]!r} stands alone; to go on from it: templora write {option}", context)


def _prompt(options: dict[str, Any], needed: bool, remarks: list[str]) -> str:
    if options["prompt"] is not None and options["prompt_file"] is not None:
        raise OptionError("prompt", "give either --prompt or --prompt-file, not both")
    if options["prompt"] is not None:
        prompt = str(options["prompt"])
        if not prompt.strip():
            raise OptionError("prompt", "is empty")
        with contextlib.suppress(UnicodeError):
            prompt.encode()
            return prompt
        with contextlib.suppress(UnicodeError):  # where the locale is not UTF-8, what was typed may be it all the same
            return os.fsencode(prompt).decode()
        raise OptionError("prompt", "is not UTF-8 text")
    if options["prompt_file"] is not None:
        return read_text(options["prompt_file"], remarks=remarks)
    if not needed:
        return ""
    if sys.stdin is None or sys.stdin.isatty():
        nothing = "there is nothing to go on from: give --prompt, --prompt-file, or text on standard input"
        raise OptionError("prompt", nothing)
    return read_text("-", remarks=remarks)


class _Progress:
    """What the panel says: of the prompt while that is read and learnt, of the text while it is written.

    Args:
        run: whose panel it is.
        prompt: characters of it.
        wanted: tokens that are to be written.
        chunk_size: of the session.
    """

    def __init__(self, run: Run, prompt: int, wanted: int, chunk_size: int) -> None:
        self._run, self._wanted, self._chunk_size = run, wanted, chunk_size
        self._read, self._total = 0, 0
        if prompt:
            run.console.chunk(f"reading the prompt of {prompt:,} characters …")
            run.console.status(f"reading the prompt of {prompt:,} characters …", now=True)

    def show(self, event: Event, written: int) -> None:
        pace = self._run.pace
        if isinstance(event, TokenEvent):
            pace.took("token", 1, last=64)
        elif isinstance(event, ChunkLearned | ChunkScored):
            pace.took("chunk", isinstance(event, ChunkLearned))
        elif isinstance(event, Absorbed) and event.total:
            pace.took("read", event.done - self._read if event.done > self._read else event.done)
            self._read, self._total = event.done, event.total
        if written or self._read >= self._total > 0:
            self._run.console.status(self._writing(written))
        elif isinstance(event, Absorbed):
            self._run.console.status(self._reading(), now=True)

    def _reading(self) -> str:
        done, total = self._read, self._total
        left = self._run.pace.left(read=total - done, chunk=(total - done) / self._chunk_size)
        learnt = self._run.texts[0].committed
        return f"{bar(done, total)} prompt: {done:,} of {total:,} tokens read · {learnt} chunks learnt · {left} left"

    def _writing(self, written: int) -> str:
        report, pace, wanted = self._run.texts[0], self._run.pace, self._wanted
        rest = max(0, wanted - written)
        left = pace.left(token=rest, chunk=rest / self._chunk_size) if written else "?"
        each = (pace.each("token") or 0.0) + (pace.each("chunk") or 0.0) / self._chunk_size
        speed = f"{1 / each:.0f} tok/s" if written and each else "…"
        rejected = f" · {report.rejected} rolled back or skipped" if report.rejected else ""
        return (
            f"{bar(written, wanted)} {written:,}/{wanted:,} tokens · {speed} · {left} left · "
            f"{report.committed} chunks learnt{rejected}"
        )
