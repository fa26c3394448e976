"""`templora sessions`: the texts that stay on disk."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import click

from templora import loading
from templora.cli.files import check_outputs
from templora.cli.options import load_arguments, model_options, sessions_option
from templora.cli.streams import print_out, say
from templora.errors import OptionError, TextError, nearest
from templora.reports.run_report import to_json, write_json
from templora.runtime.files import told, written_whole
from templora.store.history import History
from templora.store.store import SessionInfo, SessionStore

EPILOG = """\b
Examples:
  templora write --session novel --prompt-file chapter-1.txt --tokens 50000     begin one
  templora sessions resume novel                                                go on, after a kill or a night
  templora sessions fork novel darker --chunk 40                                another end, from chunk 40 on
  templora sessions rewind novel                                                where its chunks end, in words
  templora sessions rewind novel --chunk 40                                     away with what came after
  templora sessions resume novel --tokens 9000 --reseed 7                       and on, with other random numbers
  templora sessions export novel --text novel.txt --adapter novel-adapter/ --report novel.json --plot novel.png
  templora sessions discard novel --keep-text novel.txt

A session's folder holds its text, snapshots of its adapter, and all that happened, readable by you alone. Whatever
kills the process, nothing that was shown is lost.
"""

_JSON = click.option("--json", "as_json", is_flag=True, help="print JSON")
_CHUNKS = click.IntRange(min=0)
_WORDS = 72  # characters of a text's end that are shown


class _Sessions(click.Group):
    """Says what to do with a session's name that stands where a command should."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in self.commands and not args[0].startswith("-"):
            name = args[0]
            hint = f"for the session {name!r}: templora sessions show {name}" if name in SessionStore() else ""
            raise click.UsageError(f"no command {name!r}; {hint or nearest(name, self.commands)}", ctx)
        return super().resolve_command(ctx, args)


@click.group(cls=_Sessions, epilog=EPILOG, invoke_without_command=True)
@click.pass_context
def sessions(context: click.Context) -> None:
    """List texts that stay on disk, go on with them, branch, rewind, export and discard them.

    Without a command, it lists them.
    """
    if context.invoked_subcommand is None:
        context.invoke(list_)


@sessions.command("list")
@sessions_option
@_JSON
def list_(sessions: str | None, as_json: bool) -> None:
    """List all sessions.

    How long each is, its model, what is still to be written, and who uses it now.
    """
    store = SessionStore(sessions)
    infos = store.list()
    if as_json:
        print_out(json.dumps([_plain(info) for info in infos], indent=1) + "\n")
        return
    if not infos:
        print_out(f"no sessions in {store.folder}; templora write --session NAME begins one\n")
    for info in infos:
        print_out(_line(info) + "\n")


@sessions.command()
@click.argument("name")
@sessions_option
@_JSON
def show(name: str, sessions: str | None, as_json: bool) -> None:
    """Show one session.

    Its model, length and chunks, what is still to be written, and the end of its text; with --json all of its text.
    """
    store = SessionStore(sessions)
    info = store.show(name)
    if info.problem:
        raise TextError(info.problem)
    history = store.history(name)
    document = _plain(info) | {"model": history.begin["model"], "config": history.begin["config"]}
    document["chunk_ends"] = history.chunks
    if as_json:
        texts = {"notes_text": history.notes["notes"], "text": history.text}
        print_out(json.dumps(document | texts, indent=1, ensure_ascii=False) + "\n")
        return
    rows = [
        ("model", info.model),
        ("tokens", f"{info.tokens:,} in {info.chunks} chunks and an open one, {info.learnt} of them learnt"),
        ("notes", f"{info.notes:,} tokens in every window" if info.notes else "none"),
        ("to be written", f"{info.pending:,} tokens of a write that was cut short" if info.pending else "nothing"),
        ("snapshots", str(info.snapshots)),
        ("on disk", f"{info.bytes / 1e6:.1f} MB in {info.folder}"),
        ("last used", time.strftime("%Y-%m-%d %H:%M", time.localtime(info.used))),
        ("in use by", info.holder or "nobody"),
        ("ends with", "… " + " ".join(history.text[-300:].split())),
    ]
    print_out("".join(f"{name:<15}{value}\n" for name, value in rows))


@sessions.command(context_settings={"ignore_unknown_options": True, "allow_extra_args": True})
@click.argument("name")
@click.pass_context
def resume(context: click.Context, name: str) -> None:
    """Go on with a session.

    A write that was cut short is brought to its end; else --tokens more are written. The same as `templora write
    --session NAME`, whose other options are taken too.
    """
    from templora.cli.write import write

    with write.make_context("templora write", ["--session", name, *context.args], parent=context.parent) as made:
        SessionStore(made.params["sessions"]).show(name)  # else it would begin one
        write.invoke(made)


@sessions.command()
@click.argument("name")
@click.argument("new")
@click.option("--chunk", metavar="N", type=_CHUNKS, help="how many of its chunks; without it, everything")
@sessions_option
def fork(name: str, new: str, chunk: int | None, sessions: str | None) -> None:
    """Branch a session.

    NEW is another session with the beginning of NAME: its first --chunk chunks, or everything; if its log is damaged,
    everything that can still be read.
    """
    made = SessionStore(sessions).fork(name, new, chunk)
    if made.problem:
        say(f"templora: {made.problem}\n")
    print_out(_line(replace(made, problem="")) + "\n")


@sessions.command()
@click.argument("name")
@click.option("--chunk", metavar="N", type=_CHUNKS, help="how many chunks are to stay; without it, they are listed")
@sessions_option
def rewind(name: str, chunk: int | None, sessions: str | None) -> None:
    """Go back in a session, or list where its chunks end.

    To where its first --chunk chunks were learnt: text, adapter and optimiser together. What came after counts no
    more; `fork` first to keep it. The same text comes again, unless --reseed is given when it is gone on with.
    """
    store = SessionStore(sessions)
    if chunk is None:
        print_out(_ends(store.history(name), name))
        return
    print_out(_line(store.rewind(name, chunk)) + "\n")
    ending = _last_words(store.history(name).text)
    print_out(f"it ends with: {ending}\n" if ending else "nothing of its text stays\n")


def _ends(history: History, name: str) -> str:
    """Where chunks end, a line each."""
    if not history.chunks:
        return f"no chunk of session {name} is finished: there is nothing to go back to but its beginning (--chunk 0)\n"
    ends = zip(history.chunks, history.chunk_texts, strict=True)
    rows = [f"{number:>6} {end:>11,}  {_last_words(text)}" for number, (end, text) in enumerate(ends, 1)]
    after = f"templora sessions rewind {name} --chunk N keeps the first N chunks; --chunk 0 none"
    return "\n".join([" chunk      tokens  ends with", *rows, after]) + "\n"


def _last_words(text: str) -> str:
    """The end of a text, on one line."""
    line = " ".join(text[-200:].split())
    if len(line) <= _WORDS and len(text) <= 200:
        return line
    return "… " + line[-_WORDS:].partition(" ")[2] if " " in line[-_WORDS:] else "… " + line[-_WORDS:]


@sessions.command()
@click.argument("name")
@click.option("--text", metavar="FILE", help="write the text there; - for standard output")
@click.option("--adapter", metavar="DIR", help="write the adapter there, in PEFT's format, or to a .gguf file")
@click.option(
    "--report", metavar="FILE", help="write the figures of all its runs there, as JSON; - for standard output"
)
@click.option("--plot", metavar="FILE", help="draw them into this PNG")
@sessions_option
@model_options
def export(name: str, sessions: str | None, **options: Any) -> None:
    """Take out text, adapter, report or plot.

    Perplexities are of what was written with --report or --plot, which take one more pass over each chunk. An adapter
    can be started from again: templora write --adapter DIR. Only --adapter needs the model: the one that the session
    began with, without --model.
    """
    text, adapter, report, plot = wanted = [options[kind] for kind in ("text", "adapter", "report", "plot")]
    if wanted == [None] * 4:
        raise OptionError("text", "say what to export: --text FILE, --adapter DIR, --report FILE, --plot FILE")
    store = SessionStore(sessions)
    outputs = check_outputs({"report": report if report != "-" else None, "plot": plot}, [])
    for file in wanted:
        if file not in (None, "-"):
            store.check_outside(Path(file))
    history, problem = store.readable(name)
    if problem:
        say(f"templora: {problem}\n")
    document = store.report(name) if report is not None or plot is not None else {}
    if report == "-":
        print_out(to_json(document) + "\n")
    elif report is not None:
        write_json(outputs["report"], document)
    if plot is not None:
        from templora.reports.plots import plot_report

        plot_report(document, outputs["plot"], f"{name} · {document['model']['name']} · {len(history.tokens):,} tokens")
    if text == "-":
        print_out(history.text)
    elif text is not None:
        path = check_outputs({"text": text}, [])["text"]
        raw = history.text.encode("utf-8", "replace")
        with told(TextError, f"{path}: cannot be written"):
            if path.exists() and not path.is_file():
                path.write_bytes(raw)  # a device
            else:
                with written_whole(path) as beside:
                    beside.write_bytes(raw)
    if adapter is not None:
        from templora.cli.kept import how_it_was_loaded

        how = load_arguments(options) | how_it_was_loaded(store, history, options)
        with store.open(name, loading.load(**how)) as saved:
            saved.save_adapter(Path(adapter))


@sessions.command()
@click.argument("name")
@click.option("--keep-text", metavar="FILE", help="put the text there first")
@sessions_option
def discard(name: str, keep_text: str | None, sessions: str | None) -> None:
    """Delete a session.

    Text, adapter, optimiser, snapshots and log; says whether they are gone.
    """
    if keep_text is not None:
        check_outputs({"keep_text": keep_text}, [])
    found = SessionStore(sessions).discard(name, keep_text=keep_text)
    kept = f", its text is in {found.text}" if found.text else ""
    if not found.gone:
        raise TextError(f"session {name!r} could not be deleted altogether")
    left = f"; left where it is, since no session wrote it: {', '.join(map(str, found.left))}" if found.left else ""
    print_out(f"session {name} is gone: {found.files} files, {found.bytes / 1e6:.1f} MB{kept}{left}\n")


def _line(info: SessionInfo) -> str:
    if info.problem:
        return f"{info.name}: CANNOT BE READ: {info.problem}"
    about = [f"{info.tokens:,} tokens", f"{info.chunks} chunks", info.model, f"{info.bytes / 1e6:.1f} MB"]
    if info.notes:
        about.append(f"{info.notes:,} tokens of notes")
    if info.pending:
        about.append(f"{info.pending:,} tokens still to be written")
    if info.holder:
        about.append(f"in use by {info.holder}")
    return f"{info.name}: {', '.join(about)}"


def _plain(info: SessionInfo) -> dict[str, Any]:
    return asdict(info) | {"folder": str(info.folder)}
