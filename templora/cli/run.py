"""What `write` and `score` share: checks first, then the model, then events, then a receipt whatever happens."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from templora.cli.console import Console, receipt
from templora.cli.exits import catch_terminate
from templora.cli.files import check_writable
from templora.cli.options import check_early
from templora.errors import TemploraError
from templora.report import TextReport, build_report, to_json, write_json


class Run:
    """One run of a command: its checks, its clock, its report.

    Args:
        given: config fields from the command line.
        options: the command's other arguments.
    """

    def __init__(self, given: dict[str, Any], options: dict[str, Any]) -> None:
        self.began = time.perf_counter()
        self._given = given
        self._options = options
        check_early(options["recipe"], given)
        self._report_path = check_writable("report", options["report"])
        self._plot_path = check_writable("plot", options["plot"])
        self.console = Console(options["quiet"])
        self.texts: list[TextReport] = []
        self.notes: list[str] = []
        self._loaded = self.began
        catch_terminate()

    def engine(self) -> Any:
        """Loads the model."""
        from templora.loading import load

        options = self._options
        self.console.status(f"loading {options['model']} …", now=True)
        engine = load(
            options["model"],
            device=options["device"],
            dtype=options["dtype"],
            trust_remote_code=options["trust_remote_code"],
        )
        self._loaded = time.perf_counter()
        self.console.chunk(f"loaded {engine.name} in {engine.load_seconds:.1f} s")
        return engine

    def rate(self, tokens: int) -> float:
        """Tokens a second since the model was loaded."""
        return tokens / max(1e-9, time.perf_counter() - self._loaded)

    def config(self, engine: Any) -> Any:
        return engine.config(self._options["recipe"], **self._given)

    def finish(self, engine: Any, tokens: int, extra: dict[str, Any], to_stdout: bool = False) -> None:
        """Builds the report and writes all that was asked for, then prints the receipt."""
        report = build_report(engine, self.texts, tokens, time.perf_counter() - self.began) | extra
        failed: list[TemploraError] = []
        if self._report_path:
            _attempt(failed, write_json, self._report_path, report)
        if self._plot_path:
            from templora.plots import plot_report

            _attempt(failed, plot_report, report, self._plot_path, _title(report))
        if to_stdout:
            print(to_json(report))
        self.console.line(receipt(report, self.notes + [f"{p} written" for p in self._written(failed)]))
        if failed:
            raise failed[0]

    def _written(self, failed: list[TemploraError]) -> list[Path]:
        return [] if failed else [p for p in (self._report_path, self._plot_path) if p]


def _attempt(failed: list[TemploraError], action: Any, *args: Any) -> None:
    try:
        action(*args)
    except TemploraError as error:
        failed.append(error)


def _title(report: dict[str, Any]) -> str:
    base, adapted = report["base"]["perplexity"], report["adapted"]["perplexity"]
    change = f", perplexity {100 * (adapted / base - 1):+.1f} %" if base and adapted else ""
    return f"{report['command']} · {report['model']['name']} · {report['tokens']:,} tokens{change}"
