"""`templora glossary`: a document's names and terms with what a model calls them, as a glossary to be edited."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from templora.cli.console import Pace, bar
from templora.cli.exits import Interrupted, stop_signals
from templora.cli.options import config_options, model_options, output_options, split_config
from templora.cli.run import Run
from templora.cli.streams import check_stdout, print_out
from templora.errors import OptionError, nearest
from templora.reports.run_report import TextReport
from templora.sampling import SamplingParams
from templora.translation.documents import open_document
from templora.translation.glossary import Glossary
from templora.translation.glossary_files import ENDINGS, glossary_text, read_glossary, write_glossary
from templora.translation.in_memory import InMemory
from templora.translation.languages import detect, language
from templora.translation.proposals import Proposals
from templora.translation.template import read_template

EPILOG = """\b
Examples:
  templora glossary manual.md --to German --model gemma-3-270m --out terms.csv
  templora translate manual.md --to German --model gemma-3-270m --glossary terms.csv --out manual.de.md
  templora glossary book.epub --to fr --most 30 --out names.json

The file has a line for each term, the commonest first: what it is called, where that is sure, in how many paragraphs it
stands, what else came of it, and a paragraph that has it. Edit the translations; a term whose translation is left empty
is none of the glossary's. Ctrl-C writes what has been found so far.
"""
# Where `--from` is left out: of so much of the document its language is told.
_SAMPLE = 20_000


@click.command(epilog=EPILOG)
@click.argument("document", metavar="INPUT")
@click.option("--to", "to", required=True, metavar="LANG", help="language of the translations: de, pt-BR, German, ...")
@click.option("--from", "from_", metavar="LANG", help="language of INPUT; found out without it")
@click.option("--encoding", metavar="NAME", help="of INPUT: GB18030, Shift_JIS, UTF-16, latin-1, ...; found without it")
@click.option("--out", metavar="FILE", help=f"write it here ({', '.join(ENDINGS)}); else as CSV on standard output")
@click.option(
    "--most", default=50, show_default=True, type=click.IntRange(1), metavar="N", help="only the N commonest terms"
)
@click.option("--glossary", metavar="FILE", help="terms that are known already, and left out")
@click.option("--template", metavar="NAME|FILE", help="how the model is asked: lines, chat, or a TOML file")
@click.option("--json", "as_json", is_flag=True, help="print the report as JSON on standard output; needs --out")
@model_options
@output_options
@config_options
def glossary(**arguments: Any) -> None:
    """Find the names and terms of a document, and propose what to call them.

    INPUT is what `templora translate` reads. Of each term two short paragraphs are translated, so that it is seen in
    context; nothing is learnt.
    """
    given, options = split_config(arguments)
    if click.get_current_context().get_parameter_source("recipe") == click.core.ParameterSource.DEFAULT:
        options["recipe"] = "translate"
    to, name, out = language("to", options["to"]), options["document"], options["out"]
    said = language("from", options["from_"]) if options["from_"] else None
    suffix = Path(out).suffix.lower() if out else ENDINGS[0]
    if suffix not in ENDINGS:
        raise OptionError("out", f"{out} must end in {', '.join(ENDINGS)}; {nearest(suffix, ENDINGS)}")
    if options["as_json"] and not out:
        raise OptionError("json", "the report needs standard output for itself: give --out FILE")
    if not out:
        check_stdout()
    remarks: list[str] = []
    document = open_document(name, source=said, target=to, encoding=options["encoding"], remarks=remarks)
    sources = [segment.text for segment in document.segments]
    if not sources:
        raise OptionError("input", f"{name} has no text to find terms in")
    source = said or detect("\n".join(sources)[:_SAMPLE])
    if source is None:
        raise OptionError("from", "the language of the text could not be told: give --from LANG")
    if source.code == to.code:
        raise OptionError("to", f"{to.name} is the language of {name} already; say --from if it is not")
    known = read_glossary(options["glossary"], remarks) if options["glossary"] else Glossary([])

    def terms(text: str) -> dict[str, str]:
        return {term.source: term.target for term in known.found(text)}

    run = Run(
        {"rank": 1, **given, "learning": "off"},
        options,
        [file for file in (name, options["glossary"]) if file != "-" and file],
    )
    run.notes += remarks
    proposals = Proposals(sources, options["most"], terms)
    many, drafted, drafting = len(proposals.segments), 0, Pace()

    def each(_: str) -> None:
        nonlocal drafted
        if stop_signals.received is not None:
            raise Interrupted(stop_signals.received)
        drafted += 1
        drafting.took("token", 1, last=64)

    def show(done: int) -> None:
        run.pace.took("paragraph", 1)
        left = run.pace.left(paragraph=many - done)
        run.console.status(f"{bar(done, many)} {done:,}/{many:,} paragraphs · {left} left")

    with run.console:
        engine, config = run.load()
        template = read_template(options["template"], engine.tokenizer, source.name, to.name)
        sampling = SamplingParams(temperature=0.0, repetition_penalty=1.0, stop=template.stop)
        text = TextReport(name)
        run.texts.append(text)
        with engine.session(config) as session:
            run.follow(proposals.ask(InMemory(session), template, to, sampling, each), show)
        text.finish(session, engine.tokenizer)
        found = proposals.proposals
        sure = sum(bool(one.rendering) for one in found)
        run.notes.append(f"{len(found)} terms found, {sure} of them with a translation that is sure; edit the others")
        if out:
            write_glossary(found, Path(out))
        else:
            print_out(glossary_text(found, suffix))
        report = {"command": "glossary", "from": source.code, "to": to.code, "terms": [vars(one) for one in found]}
        run.finish(engine, drafted, report)
