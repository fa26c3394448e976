"""`templora eval`: tasks × methods × models, into a folder of results."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from templora.cli.console import Console, bar, clock
from templora.cli.continuation import continuation
from templora.cli.exits import Interrupted, stop_signals
from templora.cli.options import config_options, names_in, split_config
from templora.cli.streams import print_out
from templora.errors import TemploraError
from templora.methods import METHODS
from templora.methods.adapters import SOURCES
from templora.metrics import perplexity

if TYPE_CHECKING:
    from templora.evals.measuring.plan import Plan
    from templora.evals.measuring.runner import Job


def _lines(described: Mapping[str, str]) -> str:
    return "\n".join(f"  {name:20}{what}" for name, what in described.items())


EPILOG = f"""\b
Methods, how the context is kept:
{_lines({name: what for name, (_, what) in METHODS.items()})}
  {"module:Class":20}one of your own, from the current folder or what is installed (docs/evaluation.md)

\b
Adapters, what they have learnt:
{_lines({name: source.summary for name, source in SOURCES.items()})}

\b
Examples:
  templora eval --books novels/ --tokens 20000 --out results/mine
  templora eval pg19 --books pg19/ --jobs 2 --out results/pg19
  templora eval compatibility --books pg19/ --texts 1684,349 --tokens 6000 --out results/compatibility
  templora eval --books novels/ --method attention_sinks --adapters none,own --model ./my-model --out results/sinks
  templora eval translation --books pairs.jsonl --from zh --to en --pairs 300 --out results/translation
  templora report results/pg19
  templora eval continuation --help          how a model goes on with books: names, voice, loops

Stop it with Ctrl-C whenever you like, and run the same command again: what is finished is not measured again. PLAN is
one of pg19, compatibility, efficiency, sensitivity, translation, or a TOML file of your own; `--tokens all` reads whole
books, `--pairs all` whole documents.
"""


class _Eval(click.Command):
    """Leads to a task that is no table of predictions, and so has options of its own."""

    tasks: Mapping[str, click.Command] = {"continuation": continuation}

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        task = self.tasks.get(args[0]) if args else None
        if task is not None:
            return task.make_context(f"{info_name} {args[0]}", args[1:], parent, **extra)
        return super().make_context(info_name, args, parent, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        return super().invoke(ctx) if ctx.command is self else ctx.command.invoke(ctx)


@click.command("eval", cls=_Eval, epilog=EPILOG)
@click.argument("plan", required=False, metavar="[PLAN]")
@click.option(
    "--books", metavar="DIR", help="folder of .txt files, .gz and so on too; a file; hub:NAME; or aligned pairs"
)
@click.option("--texts", metavar="A,B,...", help="which of them, by file name without ending; all if left out")
@click.option("--pairs", metavar="N|all", help="translation: first pairs of each document  [default: the plan's]")
@click.option("--to", metavar="LANG", help="translation: into this language")
@click.option("--from", "from_", metavar="LANG", help="translation: from this language; found out if left out")
@click.option("--targets", metavar="A,B", help="translation: what is learnt: reference, own")
@click.option("--terms", metavar="A,B", help="translation: whether terms are settled on the way: settle, glossary")
@click.option(
    "--template", metavar="NAME|FILE", help="translation: how the model is asked: lines, chat, or a TOML file"
)
@click.option("--tokens", metavar="N|all", help="first tokens of each text  [default: the plan's, else 20000]")
@click.option("--model", "models", multiple=True, metavar="NAME", help="a model, as for `templora write`; repeatable")
@click.option(
    "--method", "methods", multiple=True, metavar="NAME", help="a way to keep the context, or module:Class; repeatable"
)
@click.option("--adapters", metavar="A,B,...", help="what the adapter has learnt: none, own, other, shuffled, ...")
@click.option("--other-tokens", type=int, metavar="N", help="tokens of another text that `other` adapters learn")
@click.option("--weights", metavar="NAME", help="how frozen weights are held: auto (unpacked), bf16, int8, int4")
@click.option("--dtype", metavar="NAME", help="auto, bfloat16, float16 or float32")
@click.option("--out", required=True, metavar="DIR", help="folder for the results; goes on with what it holds")
@click.option("--jobs", default=1, show_default=True, type=click.IntRange(min=1), help="cells measured at a time")
@click.option("--threads", default="auto", show_default=True, help="CPU threads of each: a number, or its share")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N")
@click.option("--list", "only_list", is_flag=True, help="print the cells and what is missing, measure nothing")
@click.option("--json", "as_json", is_flag=True, help="print what became of each cell as JSON")
@click.option("--quiet", is_flag=True, help="no progress, only errors")
@config_options
def evaluate(**arguments: Any) -> None:
    """Measure how well, and at what cost, models predict texts with each method, with and without an adapter.

    Each cell (a text, a model, a method, an adapter) is one JSON file in --out, with all of its chunks. `templora
    report` makes tables, plots and a page of them.
    """
    given, options = split_config(arguments)
    from templora.evals.reporting import results
    from templora.loading import check

    plan = _plan(given, options)
    for model in plan.models:
        check(model, plan.dtype, plan.weights, options["threads"])
    texts = plan.find_texts()
    cells = plan.cells(texts)
    folder = Path(options["out"])
    if options["only_list"]:
        done = [results.find(folder, cell) is not None for cell in cells]
        print_out("".join(f"{'done   ' if d else 'missing'}  {c.key}\n" for c, d in zip(cells, done, strict=True)))
        return
    results.claim(folder, plan.common)
    _run(plan, cells, folder, options)


# Options that a plan has under the same name.
_SAME = ("books", "other_tokens", "weights", "dtype", "to", "from_", "template")


def _plan(given: dict[str, Any], options: dict[str, Any]) -> Plan:
    from templora.evals.measuring.plan import Plan, parse_count, read_plan

    plan = read_plan(options["plan"]) if options["plan"] else Plan()
    asked = {name: value for name, value in options.items() if value is not None}
    changes = {name: asked[name] for name in _SAME if name in asked}
    changes |= {name: parse_count(name, asked[name]) for name in ("tokens", "pairs") if name in asked}
    changes |= {name: names_in(name, asked[name]) for name in ("texts", "targets", "terms") if name in asked}
    adapters = {"adapters": names_in("adapters", asked["adapters"])} if asked.get("adapters") else {}
    recipe = {"recipe": options["recipe"]} if options["recipe"] != "default" else {}
    methods: Sequence[Mapping[str, Any]] = [{"method": name} for name in options["methods"]] or plan.methods
    return dataclasses.replace(
        plan,
        models=options["models"] or plan.models,
        config={**plan.config, **recipe, **given},
        methods=[{**table, **adapters} for table in methods],
        **changes,
    )


def _run(plan: Plan, cells: Sequence[Any], folder: Path, options: dict[str, Any]) -> None:
    from templora.evals.measuring.runner import Runner, seconds_left

    count = options["jobs"]
    with Console(options["quiet"]) as console:

        def show(jobs: Sequence[Job], changed: Job | None) -> None:
            if changed is not None and changed.state != "running":
                console.line(_line(jobs, changed))
            left = seconds_left(jobs, count)
            ended = sum(job.state not in ("running", "waiting") for job in jobs)
            now = [f"{j.cell.text} {j.cell.method} {j.cell.adapter} {_share(j)}" for j in jobs if j.state == "running"]
            rest = f"{clock(left)} left" if left is not None else "time left not yet known"
            console.status(f"{bar(ended, len(jobs), 12)} {ended}/{len(jobs)} cells · {rest} · " + " | ".join(now))

        told = False

        def stopping() -> bool:
            nonlocal told
            stop = stop_signals.received is not None
            if stop and not told:
                told = True
                console.line("stopping: what is being measured is kept")
            return stop

        stop_signals.mode = "later"  # workers are told, and what they have is kept
        runner = Runner(
            cells,
            str(plan.books),
            folder,
            jobs=count,
            threads=options["threads"],
            device=options["device"],
            show=show,
            stopping=stopping,
        )
        known = sum((folder / f"{cell.key}.json").exists() for cell in cells)
        many = "1 cell" if len(cells) == 1 else f"{len(cells)} cells"
        console.line(f"{many}, {known} measured before; results go to {folder}")
        jobs = runner.run()
        if options["as_json"]:
            document = [{"cell": j.cell.key, "state": j.state, "reason": j.reason} for j in jobs]
            print_out(json.dumps(document, indent=1) + "\n")
        failed = [job for job in jobs if job.state == "failed"]
        if stop_signals.received is not None:
            waiting = sum(job.state in ("waiting", "running", "stopped") for job in jobs)
            console.line(f"stopped with {waiting} cells to go; the same command goes on")
            raise Interrupted(stop_signals.received)
        if failed:
            raise TemploraError(f"{len(failed)} of {len(jobs)} cells failed; the first: {failed[0].reason}")
        console.line(f"all {len(jobs)} cells are there; templora report {folder} makes tables of them")


def _share(job: Job) -> str:
    return f"{100 * job.done / job.total:.0f} %" if job.at == "reading" and job.total else job.at


def _line(jobs: Sequence[Job], job: Job) -> str:
    """What became of a cell, for people."""
    number = f"[{sum(j.state not in ('running', 'waiting') for j in jobs)}/{len(jobs)}]"
    cell, result = job.cell, job.result
    how = f" · {cell.translation.targets} · terms: {cell.translation.terms}" if cell.translation else ""
    what = f"{number} {cell.text} · {cell.model} · {cell.method} · {cell.adapter}{how}"
    if job.state != "done" or not result:
        return f"{what}: {job.state}{': ' + job.reason if job.reason else ''}"
    if cell.translation and not result["tokens"]:
        return f"{what}: {len(result['chunks'])} paragraphs, {clock(job.seconds)}"
    value = perplexity(result["nll"], result["tokens"])
    figure = f"perplexity {value:.3f}" if value is not None else "nothing to predict"
    return f"{what}: {figure} over {result['tokens']:,} tokens, {clock(job.seconds)}"
