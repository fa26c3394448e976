"""What `write` and `score` share: checks first, then the model, then events, then a receipt whatever happens."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

from templora import loading
from templora.cli.console import Console, Pace, receipt
from templora.cli.exits import Interrupted, stop_signals
from templora.cli.files import check_outputs
from templora.cli.options import load_arguments
from templora.cli.streams import print_out
from templora.errors import TemploraError
from templora.recipes import recipe
from templora.reports.run_report import TextReport, build_report, to_json, write_json
from templora.reports.story_page import Story, write_page


class Run:
    """One run of a command.

    Args:
        given: config fields from the command line.
        options: the command's other arguments.
        inputs: files that it reads.

    Attributes:
        outputs: paths by option: report, plot, page, out.
        pace: of its work.
        stopped: what ended the run early, to be raised once the receipt is out.
        page: what the page is of, if one is wanted and there is something to show.
    """

    def __init__(self, given: dict[str, Any], options: dict[str, Any], inputs: list[str]) -> None:
        self._began = time.perf_counter()
        self._given = given
        self._options = options
        self._plan = recipe(options["recipe"], None, **given)  # what is wrong with it is found before anything slow
        self.outputs = check_outputs({k: options.get(k) for k in ("out", "report", "plot", "page")}, inputs)
        self.console = Console(options["quiet"])
        self.texts: list[TextReport] = []
        self.pace = Pace()
        self.notes: list[str] = []
        self.stopped: BaseException | None = None
        self.page: Story | None = None

    def load(self) -> tuple[Any, Any]:
        """Loads the model: (engine, config)."""
        options = self._options
        self.console.chunk(f"loading {options['model']} … (a .gguf and a built-in one are unpacked first, once)")
        self.console.status(f"loading {options['model']} …", now=True)
        engine = loading.load(**load_arguments(options), plan=self._plan)
        self.console.chunk(f"loaded {engine.name} in {engine.load_seconds:.1f} s")
        return engine, engine.config(options["recipe"], **self._given)

    def follow(self, events: Iterable[Any], show: Callable[[Any], None]) -> None:
        """Shows events until they end or the run is stopped, which `stopped` then says.

        A signal is acted on between two events, so that a token is shown, saved and counted, or none of these.
        """
        stop_signals.mode = "soon"
        self.pace.start()
        try:
            for event in events:
                show(event)
                if stop_signals.received is not None:
                    break
        except (Exception, Interrupted) as error:
            self.stopped = error
        stop_signals.mode = "later"

    def finish(self, engine: Any, tokens: int, extra: dict[str, Any], totals: str = "") -> None:
        """Writes what was asked for, prints the receipt, and raises what stopped the run, if anything did.

        Args:
            engine: the model, its sessions discarded.
            tokens: tokens written or scored.
            extra: what only this command reports.
            totals: for standard output, where the report itself is not asked for there.
        """
        if self.stopped is None and stop_signals.received is not None:
            self.stopped = Interrupted(stop_signals.received)
        report = build_report(engine, self.texts, tokens, time.perf_counter() - self._began) | extra
        if "report" in self.outputs:
            self._attempt(write_json, self.outputs["report"], report)
        if "plot" in self.outputs:
            from templora.reports.plots import plot_report

            self._attempt(plot_report, report, self.outputs["plot"], _title(report))
        if "page" in self.outputs and self.page:
            self._attempt(write_page, self.page, report, self.outputs["page"])
        if not isinstance(self.stopped, Exception):  # an interrupted run still has figures, a failed one has an error
            self._attempt(print_out, to_json(report) + "\n" if self._options.get("as_json") else totals)
        if self.stopped:
            self.notes.append(f"stopped early: {self.stopped}")
        self.console.line(receipt(report, self.notes))
        if stop_signals.received is not None:  # perhaps only while the report was written
            raise Interrupted(stop_signals.received)
        if self.stopped:
            raise self.stopped

    def _attempt(self, action: Callable[..., None], *arguments: Any) -> None:
        """Does one of several last things; the first to fail is what the run ends with."""
        try:
            action(*arguments)
        except TemploraError as error:
            self.stopped = self.stopped or error


def _title(report: dict[str, Any]) -> str:
    # What a model wrote itself it finds likely: the change that says something is that of the text it was given.
    text = report.get("prompt") or report
    base, ours = text["base"]["perplexity"], (text["mixed"] or text["adapted"])["perplexity"]
    whose = f"{text['name']}'s " if text is not report else ""
    change = f", {whose}perplexity {100 * (ours / base - 1):+.1f} %" if base and ours else ""
    return f"{report['command']} · {report['model']['name']} · {report['tokens']:,} tokens{change}"
