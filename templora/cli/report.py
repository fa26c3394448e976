"""`templora report`: tables, plots and a page from the results of an evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from templora.cli.streams import print_out, say
from templora.errors import TextError
from templora.runtime.files import told

EPILOG = """\b
Examples:
  templora report results/pg19
  templora report results/pg19 --out pages/ --title "Nostromo and three others"
  templora report results/pg19 --print
"""


@click.command(epilog=EPILOG)
@click.argument("folder", metavar="DIR")
@click.option("--out", metavar="DIR", help="where to write; the folder itself if left out")
@click.option("--title", help="of the page  [default: from the folder's name]")
@click.option(
    "--comet", metavar="MODEL", help="also score translations with this COMET model: a file, a folder or a name"
)
@click.option("--print", "as_text", is_flag=True, help="also print the tables (Markdown) on standard output")
def report(**options: Any) -> None:
    """Turn the results in DIR (and folders below it) into report.md, plots and one self-contained report.html.

    Everything comes from the results' files; nothing is measured, but for --comet, which reads the translations.
    """
    from templora.evals.reporting.report import write_report
    from templora.evals.reporting.results import read_all

    folder = Path(options["folder"])
    results, problems = read_all(folder)
    for problem in problems:
        say(f"templora: left out: {problem}\n")
    out = Path(options["out"] or folder)
    with told(TextError, f"{out}: cannot be made"):
        out.mkdir(parents=True, exist_ok=True)
    title = options["title"] or f"Evaluation: {folder.resolve().name}"
    written = write_report(results, out, title, options["comet"])
    if options["as_text"]:
        print_out((out / "report.md").read_text(encoding="utf-8"))
    for path in written:
        say(f"wrote {path}\n")
