"""`templora translate`: a document in, the document in another language out, its terms learnt on the way."""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import click

from templora.arguments import plain
from templora.cli.console import Pace, bar, learned_text
from templora.cli.exits import Interrupted, stop_signals
from templora.cli.files import check_outputs
from templora.cli.kept import Kept
from templora.cli.options import (
    adapter_option,
    check_adapter,
    config_options,
    model_options,
    output_options,
    sampling_options,
    sessions_option,
    split_config,
    take_sampling,
)
from templora.cli.run import Run
from templora.cli.streams import check_stdout, lost, print_out
from templora.errors import ModelError, OptionError
from templora.events import ChunkLearned, Event
from templora.reports.run_report import TextReport
from templora.runtime.files import sha256, told
from templora.translation.documents import lay_out, open_document
from templora.translation.glossary import Glossary
from templora.translation.glossary_files import read_glossary
from templora.translation.languages import Language, detect, language
from templora.translation.output import Output
from templora.translation.pairs import read_corrections, write_pairs
from templora.translation.translation import (
    Paragraph,
    Translation,
    check_same,
    corrected,
    digest,
    go_back,
    what_is_done,
)

EPILOG = """\b
Examples:
  templora translate manual.md --to German --model gemma-3-270m --out manual.de.md
  templora translate book.txt --to fr --preview 5
  templora translate book.epub --to fr --out both.epub --layout both
  templora translate book.txt --to fr --out book.fr.txt --session book --pairs book.jsonl
  templora translate book.txt --to fr --out book.fr.txt --session book --corrections book.jsonl
  templora translate pairs.jsonl --from zh --to en --targets reference --out mine.jsonl

Stop it with Ctrl-C whenever you like and go on with --resume: nothing is lost and nothing translated twice. A
translation that is done leaves nothing behind, unless --session gives it a name; then paragraphs can be corrected: edit
the lines of --pairs, give the file to --corrections, and what comes after the first edited one is translated anew.
Aligned pairs (.jsonl, GuoFeng's .json) have a true translation already: the report says how near the model came.
"""
TARGETS = ("own", "reference")
TERMS = ("settle", "glossary")
LAYOUTS = ("target", "both", "below", "side")
# Where `--from` is left out: of so much of the document its language is told.
_SAMPLE = 20_000
# Of what is wrong with a document, in the receipt.
_MAX_PROBLEMS = 8


@click.command(epilog=EPILOG)
@click.argument("document", metavar="INPUT")
@click.option("--to", "to", required=True, metavar="LANG", help="language of the translation: de, pt-BR, German, ...")
@click.option("--from", "from_", metavar="LANG", help="language of INPUT; found out without it")
@click.option("--encoding", metavar="NAME", help="of INPUT: GB18030, Shift_JIS, UTF-16, latin-1, ...; found without it")
@click.option("--out", metavar="FILE", help="write the translation here, each paragraph when it is done")
@click.option(
    "--layout",
    type=click.Choice(LAYOUTS),
    default="target",
    show_default=True,
    help="the translation alone, or each paragraph's source above it (both), below it, or beside it",
)
@click.option("--preview", type=click.IntRange(1), metavar="N", help="only the first N paragraphs; --resume goes on")
@click.option("--resume", is_flag=True, help="go on with a translation that was stopped")
@click.option("--corrections", metavar="FILE", help="paragraphs as you want them, as --pairs writes them")
@click.option(
    "--targets",
    type=click.Choice(TARGETS),
    default="own",
    show_default=True,
    help="what is learnt: the model's own translations, or, of aligned pairs, the true ones",
)
@click.option(
    "--terms",
    type=click.Choice(TERMS),
    default="settle",
    show_default=True,
    help="settle one rendering for each name and term, found on the way; or keep those of --glossary alone",
)
@click.option("--glossary", metavar="FILE", help="terms and their translations, one a line, a tab between")
@click.option("--template", metavar="NAME|FILE", help="how the model is asked: lines, chat, or a TOML file")
@click.option("--pairs", metavar="FILE", help="also write each paragraph with its translation, as JSON lines")
@click.option("--session", metavar="NAME", help="keep everything under this name, to correct it later")
@sessions_option
@click.option("--keep", default=3, show_default=True, type=click.IntRange(1), help="most snapshots of it to keep")
@adapter_option
@sampling_options(without=["logprobs"], temperature=0.0, repetition_penalty=1.0)
@click.option("--json", "as_json", is_flag=True, help="print the report as JSON on standard output; needs --out")
@model_options
@output_options
@config_options
def translate(**arguments: Any) -> None:
    """Translate a document, paragraph by paragraph, learning its terms and its manner on the way.

    INPUT is .txt, .md, .epub, .html, .docx, .srt, .vtt, .ass, .po or .jsonl (- = standard input, as text); what is not
    text stays as it is. One rendering is settled for each name and term, and after every chunk of --chunk-size tokens a
    temporary adapter learns the translations made so far, from their sources.
    """
    given, options = split_config(arguments)
    if click.get_current_context().get_parameter_source("recipe") == click.core.ParameterSource.DEFAULT:
        options["recipe"] = "translate" if options["targets"] == "own" else "translate-reference"
    check_adapter(options["adapter"])
    job = _Job(given, options)
    job.run()


class _Job:
    """One run of the command."""

    def __init__(self, given: dict[str, Any], options: dict[str, Any]) -> None:
        self.options = options
        self.sampling = take_sampling(options)
        self.to = language("to", options["to"])
        name = options["document"]
        said = language("from", options["from_"]) if options["from_"] else None
        remarks: list[str] = []
        encoding = options["encoding"]
        self.document = open_document(name, source=said, target=self.to, encoding=encoding, remarks=remarks)
        remarks = [f"{remark}; --encoding names another" for remark in remarks]
        self.sources = [segment.text for segment in self.document.segments]
        if not self.sources:
            raise OptionError("input", f"{name} has no text to translate")
        self.references = self.document.references
        self.reveals = options["targets"] == "reference"
        if self.reveals and not self.references:
            raise OptionError("targets", f"{name} has no true translations to learn; aligned pairs (.jsonl) have")
        source = said or detect("\n".join(self.sources)[:_SAMPLE])
        if source is None:
            raise OptionError("from", "the language of the text could not be told: give --from LANG")
        self.source = source
        if self.source.code == self.to.code:
            raise OptionError("to", f"{self.to.name} is the language of {name} already; say --from if it is not")
        lay_out(self.document, options["layout"], source)
        if options["as_json"] and not options["out"]:
            raise OptionError("json", "the report needs standard output for itself: give --out FILE")
        if not self.document.streams and not options["out"]:
            raise OptionError("out", f"a {Path(name).suffix} needs a file: give --out FILE")
        if not options["out"]:
            check_stdout()
        if options["glossary"] == "-":
            raise OptionError("glossary", "must be a file, which --resume looks into again, not standard input")
        if options["corrections"] == "-" == name:
            raise OptionError("corrections", "standard input is the document already: give one of them as a file")
        self.glossary = read_glossary(options["glossary"], remarks) if options["glossary"] else Glossary([])
        corrections = {}
        if options["corrections"]:
            corrections = read_corrections(options["corrections"], self.sources, remarks)
        self.named = options["session"] is not None
        if not self.named:
            options["session"] = _own_name(name, self.to, self.sources)
        self.kept = Kept(options, given)
        self.authors = set(corrections)
        self.known = self._taken_up(corrections) if self.kept.begun else corrections
        inputs = [name, *(options[o] for o in ("glossary", "corrections") if options[o])]
        inputs = [file for file in inputs if file != "-" and file != options["pairs"]]
        self.work = Run(given, {**options, "tokens": None}, inputs)
        self.work.notes += remarks
        out = self.work.outputs.get("out")
        self.output = Output(self.document, self.to, out, begun=self.kept.there)
        check_outputs({"pairs": options["pairs"]}, [name])
        self.paragraphs: list[Paragraph] = []
        self.settled: list[dict[str, Any]] = []
        self.drafted = self.committed = self.stopped = 0
        self.drafting = Pace()

    @property
    def about(self) -> dict[str, Any]:
        """What is translated, and how: what a translation that is gone on with began with, and keeps."""
        glossary = self.options["glossary"]
        template = self.options["template"]
        return {
            "document": digest(self.sources),
            "from": self.source.code,
            "to": self.to.code,
            "targets": self.options["targets"],
            "template": _digest("template", template) if template and template.endswith(".toml") else template,
            "glossary": _digest("glossary", glossary) if glossary else None,
            "terms": self.options["terms"],
            **plain("sampling", dataclasses.asdict(self.sampling)),
        }

    def _taken_up(self, corrections: Mapping[int, str]) -> dict[int, str]:
        """What is known from now on, by paragraph; the session goes back to the first one that must be done again."""
        kept, name = self.kept, self.kept.name
        done = what_is_done(kept.store.history(name), self.to)
        there, many = len(done.paragraphs), len(self.sources)
        if done.about is None and kept.store.history(name).acts:
            raise OptionError("session", f"{name!r} is no translation; give another name")
        check_same(self.about, done.about or {})
        if not (self.options["resume"] or corrections or there == many):
            raise OptionError(
                "resume",
                f"{there} of {many} paragraphs are translated already: go on with --resume, or throw them away with "
                f"templora sessions discard {name}",
            )
        known, self.authors, first = corrected(done, corrections)
        if first is not None:
            go_back(kept.store, name, self.to, first)
        return known

    def run(self) -> None:
        from templora.translation.template import read_template

        run, options = self.work, self.options
        if options["resume"] and not self.kept.begun:
            run.notes.append("there was nothing to resume: it began at the first paragraph")
        with run.console:
            engine, config = run.load()
            template = read_template(options["template"], engine.tokenizer, self.source.name, self.to.name)
            sampling = dataclasses.replace(self.sampling, stop=self.sampling.stops + template.stop)
            text = TextReport(options["document"])
            run.texts.append(text)
            with self.kept.open(run, engine, config) as saved:
                if what_is_done(saved.history, self.to).about is None:
                    saved.mark({"translation": self.about})
                known = {**(dict(enumerate(self.references)) if self.reveals else {}), **self.known}
                translation = Translation(
                    saved, self.sources, self.to, template, sampling, settle=options["terms"] == "settle",
                    terms=self._terms, known=known, authors=self.authors, ask=self.reveals, each=self._drafted,
                )  # fmt: skip
                self.paragraphs = translation.paragraphs
                opening = self.output.begin(self.shown)

                def show(event: Event | Paragraph | str) -> None:
                    self._show(event, text)
                    if translation.stopped and not self.stopped:
                        self.stopped = len(self.paragraphs)
                        note = f"learning stopped at paragraph {self.stopped}: the bare model did better too often"
                        run.console.chunk(note)
                        run.notes.append(note)

                run.follow(itertools.chain([opening], translation.run(options["preview"])), show)
                self.settled = self._settled(translation)
                run.notes += [note for note in saved.remarks if note not in run.notes]
            text.finish(saved.session, engine.tokenizer)
            whole = len(self.paragraphs) == len(self.sources)
            self._leave(whole)
            run.finish(engine, self.drafted, self._report(whole) | self.kept.report())

    def _terms(self, source: str) -> dict[str, str]:
        return {term.source: term.target for term in self.glossary.found(source)}

    @property
    def shown(self) -> list[str]:
        """The paragraphs that are done, as the reader gets them."""
        return [self._shown(p) for p in self.paragraphs]

    def _shown(self, paragraph: Paragraph) -> str:
        """What the reader gets: where the true translation is only revealed to be learnt, the model's own."""
        return paragraph.own if self.reveals else paragraph.target

    def _drafted(self, piece: str) -> None:
        """Between two tokens of a draft, of which nothing stays if it is stopped."""
        if stop_signals.received is not None:
            raise Interrupted(stop_signals.received)
        self.drafted += 1
        self.drafting.took("token", 1, last=64)
        self._status()

    def _show(self, event: Event | Paragraph | str, text: TextReport) -> None:
        console = self.work.console
        if isinstance(event, str):
            print_out(event)
            return
        if isinstance(event, Paragraph):
            print_out(self.output.add(event.segment, self._shown(event)))
            self.work.pace.took("letter", len(self.sources[event.segment]), last=16)
            self._status()
            self.drafting.start()
            return
        text.add(event)
        if isinstance(event, ChunkLearned):
            self.committed += event.committed
            console.chunk(f"chunk {event.index}: {event.end - event.start} tokens, {learned_text(event)}")
            if not event.committed:
                self.work.notes.append(f"chunk {event.index} was {learned_text(event)}")

    def _status(self) -> None:
        done, many = len(self.paragraphs), len(self.sources)
        left = self.work.pace.left(letter=sum(map(len, self.sources[done:])))
        words = f"{1 / each:.0f} tokens/s" if (each := self.drafting.each("token")) else "…"
        self.work.console.status(
            f"{bar(done, many)} {done:,}/{many:,} paragraphs · {words} · {left} left · {self.committed} chunks learnt"
        )

    def _leave(self, whole: bool) -> None:
        """What stays when it is over: the files that were asked for, and the session, if there is more to come."""
        run, options, name = self.work, self.options, self.kept.name
        targets = self.shown
        self.output.end(targets)
        if options["pairs"]:
            write_pairs(options["pairs"], self.sources[: len(targets)], targets)
        shown_whole = options["out"] or not lost()
        if not whole or run.stopped or not shown_whole:
            rest = "" if options["out"] else ", and with --out FILE as well writes all of it"
            done = f"{len(targets)} of {len(self.sources)} paragraphs"
            there = name in self.kept.store
            run.notes.append(f"{done}: the same command with --resume goes on{rest}" if there else done)
        elif self.named:
            run.notes.append(f"the session is kept: templora sessions discard {name}")
        else:
            self.kept.store.discard(name)
        if self.output.note:
            run.notes.append(self.output.note)

    def _report(self, whole: bool) -> dict[str, Any]:
        notes, shown = self.work.notes, self.shown
        doubts: dict[str, list[int]] = {}
        for p in self.paragraphs:
            if p.doubt:
                doubts.setdefault(p.doubt, []).append(p.segment + 1)
        for doubt, found in doubts.items():
            notes.append(f"doubtful, for {doubt}: {'paragraph' if len(found) == 1 else 'paragraphs'} {_numbers(found)}")
        quality = self._quality(shown)
        terms = self._kept_terms()
        notes += [_kept("glossary:", terms)] if terms else []
        notes += [_kept(f"terms: {len(self.settled)} settled,", self.settled)] if self.settled else []
        if self.output.moved:
            notes.append(f"markup put back or left out, as the model had lost it: {self.output.moved} pieces")
        problems = self.document.problems
        notes += problems[:_MAX_PROBLEMS]
        if len(problems) > _MAX_PROBLEMS:
            notes.append(f"and {len(problems) - _MAX_PROBLEMS} more such things about the document; --report has all")
        return {
            "command": "translate",
            "from": self.source.code,
            "to": self.to.code,
            "paragraphs": len(self.paragraphs),
            "of": len(self.sources),
            "complete": whole,
            "cut_off": [p.segment + 1 for p in self.paragraphs if not p.whole],
            "empty": [n for n, text in enumerate(shown, 1) if not text],
            "doubts": doubts,
            "learning_stopped_at": self.stopped or None,
            "targets": self.options["targets"],
            "layout": self.options["layout"],
            "quality": quality,
            "glossary": terms,
            "terms": self.settled,
            "moved_markup": self.output.moved,
            "problems": [*problems],
            "sampling": dataclasses.asdict(self.sampling),
        }

    def _quality(self, shown: list[str]) -> dict[str, Any] | None:
        """How near the translations come to the true ones, where there are any."""
        if not (self.references and shown):
            return None
        from templora.translation.quality import similarity

        try:
            found = similarity.measure(shown, self.references[: len(shown)], self.to.code)
        except ModelError as error:
            self.work.notes.append(str(error))
            return None
        said = ", ".join(f"{name} {found[key]['score']:.2f}" for key, name in similarity.NAMES.items())
        self.work.notes.append(f"against the true translations: {said} (TER: lower is better)")
        return found

    def _settled(self, translation: Translation) -> list[dict[str, Any]]:
        """For each term that was settled: in how many paragraphs it stands after that, and in how many it was kept."""
        found: dict[str, list[bool]] = {term: [] for term in translation.settled}
        for p in self.paragraphs:
            for one in translation.settled_in(p.segment):
                if p.segment > one.since:
                    found[one.term].append(one.kept_in(self._shown(p)))
        return [
            {"term": term, "rendering": one.rendering, "paragraphs": len(found[term]), "kept": sum(found[term])}
            for term, one in translation.settled.items()
        ]

    def _kept_terms(self) -> list[dict[str, Any]]:
        """For each term of the glossary: in how many paragraphs it stands, and in how many its translation does."""
        found: dict[tuple[str, str], list[bool]] = {}
        for p in self.paragraphs:
            for term in self.glossary.found(self.sources[p.segment]):
                found.setdefault((term.source, term.target), []).append(term.kept_in(self._shown(p)))
        return [
            {"term": term, "translation": translation, "paragraphs": len(kept), "kept": sum(kept)}
            for (term, translation), kept in found.items()
        ]


def _kept(what: str, terms: list[dict[str, Any]]) -> str:
    missed = sorted((t for t in terms if t["kept"] < t["paragraphs"]), key=lambda t: t["kept"] - t["paragraphs"])
    kept, all_ = sum(t["kept"] for t in terms), sum(t["paragraphs"] for t in terms)
    worst = ", ".join(f"{t['term']} ({t['kept']} of {t['paragraphs']})" for t in missed[:3])
    return f"{what} kept {kept} of {all_} times" + (f"; not always: {worst}" if worst else "")


def _own_name(document: str, to: Language, sources: list[str]) -> str:
    """The name of a session that the user has given none."""
    stem = re.sub(r"[^A-Za-z0-9]+", "-", Path(document).stem if document != "-" else "stdin").strip("-")[:40]
    return f"translate-{stem or 'text'}-{to.code}-{digest(sources)[:8]}"


def _digest(option: str, file: str) -> str:
    with told(partial(OptionError, option), f"{file} cannot be read"):
        return sha256(Path(file))[:12]


def _numbers(found: list[int]) -> str:
    return ", ".join(map(str, found[:10])) + (f" and {len(found) - 10} more" if len(found) > 10 else "")
