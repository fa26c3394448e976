"""`templora eval continuation`: how a model goes on with books that it has read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from templora.cli.console import Console, bar
from templora.cli.exits import Interrupted, stop_signals
from templora.cli.options import (
    adapter_option,
    check_adapter,
    config_options,
    load_arguments,
    model_options,
    names_in,
    sampling_options,
    split_config,
    take_sampling,
)
from templora.cli.streams import print_out
from templora.errors import OptionError
from templora.evals.continuation.plan import SETTINGS, Sample, StudyPlan

_SETTINGS = "\n".join(f"  {name:<9} {setting.help}" for name, setting in SETTINGS.items())
EPILOG = f"""\b
Settings:
{_SETTINGS}

\b
Examples:
  templora eval continuation --books novels/ --out results/continuation
  templora eval continuation --books novels/ --absorb 2048,8192,20000 --seeds 5 --judge gemma-3-270m --out results/more
  templora eval continuation --books novels/ --texts emma --settings base,own --write 20000 --seeds 1 --out results/long

Each text is one JSON file in --out; `continuation.md` and `continuation.json` there are the tables, with 95 % intervals
over books and seeds; for `other`, each book gets the adapter of the next one. Stop it with Ctrl-C, or kill it, at any
moment: the same command goes on where it was. With the embedded model, on two cores with instructions for bf16, a text
of 1,000 tokens takes about 15 seconds, and reading 20,000 about a minute a book.
"""


@click.command("continuation", epilog=EPILOG)
@click.option("--books", required=True, metavar="DIR", help="folder of .txt files, .gz and so on too; a file; hub:NAME")
@click.option("--texts", metavar="A,B,...", help="which of them, by file name without ending; all if left out")
@click.option("--absorb", default="20000", show_default=True, metavar="N,...", help="tokens that are read first")
@click.option("--write", default=StudyPlan.written, show_default=True, type=int, help="tokens that are written")
@click.option("--seeds", default=StudyPlan.seeds, show_default=True, type=int, help="texts in each setting")
@click.option(
    "--settings", default=",".join(StudyPlan.settings), show_default=True, metavar="A,B,...", help="see below"
)
@click.option(
    "--judge",
    default="self",
    show_default=True,
    metavar="NAME",
    help="who says how likely it finds what was written: a model, self (the same one with a longer window), or none",
)
@adapter_option
@click.option("--out", required=True, metavar="DIR", help="folder for the results; goes on with what it holds")
@click.option("--json", "as_json", is_flag=True, help="print the tables' figures as JSON")
@click.option("--quiet", is_flag=True, help="no progress, only errors")
@sampling_options(without=("logprobs",))
@model_options
@config_options
def continuation(**arguments: Any) -> None:
    """Measure how a model goes on with a book that it has read, with an adapter that learnt it and without.

    Counted are names and rare words of the book that come back though they had left the window, names that are made up,
    the distance to the author's voice, loops, and how likely a reader that sees more finds the text.
    """
    given, options = split_config(arguments)
    sampling = take_sampling(options)
    from templora.evals.continuation.judge import judge
    from templora.evals.continuation.report import write_tables
    from templora.evals.continuation.study import Study
    from templora.evals.measuring.run import Stopped
    from templora.evals.measuring.texts import find_texts
    from templora.loading import check, load
    from templora.recipes import recipe

    check(options["model"], options["dtype"], options["weights"], options["threads"])
    if options["judge"] not in ("self", "none"):
        check(options["judge"], "auto", "auto", options["threads"])
    texts = find_texts(options["books"], names_in("texts", options["texts"]) if options["texts"] else ())
    absorbed, settings = _counts(options["absorb"]), names_in("settings", options["settings"])
    how = {"absorbed": absorbed, "written": options["write"], "seeds": options["seeds"], "settings": settings}
    check_adapter(options["adapter"])
    how["adapter"] = Path(options["adapter"]) if options["adapter"] is not None else None
    planned = recipe(options["recipe"], None, **given)
    StudyPlan(texts, planned, sampling=sampling, **how)  # says what is wrong before a model is loaded
    folder = Path(options["out"])
    with Console(options["quiet"]) as console:
        console.chunk(f"loading {options['model']} …")
        engine = load(**load_arguments(options), plan=planned)
        plan = StudyPlan(texts, engine.config(options["recipe"], **given), sampling=sampling, **how)
        at = 0

        def show(sample: Sample, what: str, done: int, total: int) -> None:
            nonlocal at
            if what == "begins":
                at = done
                return
            name = f"{sample.book} {sample.setting} seed {sample.seed}"
            console.status(f"{bar(at, many, 12)} {at}/{many} texts · {name}: {what}, {done:,} of {total:,} tokens")

        stop_signals.mode = "later"  # between two tokens, each of which is on disk
        study = Study(plan, engine, folder, progress=show, stopping=lambda: stop_signals.received is not None)
        many = len(study.plan.samples)
        for note in study.notes:
            console.line(f"note: {note}")
        known = sum(study.path(sample).exists() for sample in study.plan.samples)
        console.line(f"{many} texts, {known} written before; results go to {folder}")

        def judged(done: int, total: int) -> None:
            console.status(f"{bar(done, total, 12)} {done}/{total} texts judged")
            if stop_signals.received is not None:
                raise Stopped

        try:
            study.run()
            if options["judge"] != "none":
                reader = engine if options["judge"] == "self" else load(options["judge"], threads=options["threads"])
                console.line(f"{reader.name} reads what was written")
                judge(study, reader, judged)
        except Stopped:
            console.line("stopped; the same command goes on where it was")
            assert stop_signals.received is not None
            raise Interrupted(stop_signals.received) from None
        paths = write_tables(folder, folder)
        if options["as_json"]:
            print_out(paths[0].read_text(encoding="utf-8"))
        console.line("".join(f"wrote {path}\n" for path in paths).rstrip())


def _counts(absorb: str) -> list[int]:
    try:
        return [int(name.replace("_", "")) for name in names_in("absorb", absorb)]
    except ValueError:
        raise OptionError("absorb", f"must be numbers of tokens, as in 2048,20000, not {absorb!r}") from None
