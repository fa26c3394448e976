from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from conftest import TEXT, small

from templora import ChunkLearned, ChunkScored
from templora.reports.plots import _running, plot_report
from templora.reports.run_report import TextReport, build_report, to_json, write_json
from templora.testing import tiny_engine

EVENTS = [
    ChunkScored(1, 32, 31, 60.0, 50.0, 0.5),
    ChunkLearned(0, 0, 32, True, 1, "", 1.6, 0.9, 1e-4, 0.25),
    ChunkScored(32, 64, 32, 70.0, 40.0, 0.5),
    ChunkLearned(1, 32, 64, False, 1, "repetitive", seconds=0.25),
    ChunkScored(64, 70, 6, 9.0, 8.0, 0.5),
]


def folded(name: str = "a") -> TextReport:
    report = TextReport(name)
    for event in EVENTS:
        report.add(event)
    return report


def test_a_chunks_score_and_update_are_one_row() -> None:
    report = folded()
    assert [(c["start"], c["tokens"], c["targets"]) for c in report.chunks] == [(1, 31, 31), (32, 32, 32), (64, 6, 6)]
    assert [(c["base_nll"], c["adapted_nll"]) for c in report.chunks] == [(60, 50), (70, 40), (9, 8)]
    assert [c["seconds"] for c in report.chunks] == [0.75, 0.75, 0.5]
    assert [c["committed"] for c in report.chunks] == [True, False, False]
    assert [c.get("reason") for c in report.chunks] == ["", "repetitive", None]
    assert (report.committed, report.rejected) == (1, 1)
    assert (report.base.nll, report.adapted.nll, report.base.tokens) == (139, 98, 69)


def test_an_update_that_comes_a_chunk_later_is_in_its_own_row() -> None:
    """Parallel learning: each chunk's update is known at the end of the next one."""
    scored = [e for e in EVENTS if isinstance(e, ChunkScored)]
    learned = [e for e in EVENTS if isinstance(e, ChunkLearned)]
    late = TextReport("a")
    for event in (scored[0], scored[1], learned[0], scored[2], learned[1]):
        late.add(event)
    assert late.chunks == folded().chunks


def test_words_and_bytes_are_those_of_the_predicted_text() -> None:
    engine, report = tiny_engine(bos=True), TextReport("a")
    with engine.session(small()) as session:
        session.absorb("zwöl")
        for event in session.score_events("f Boxkämpfer jagen"):
            report.add(event)
    report.finish(session, engine.tokenizer)
    assert (report.words, report.utf8_bytes) == (3, len("f Boxkämpfer jagen".encode()))


def test_texts_are_pooled_by_their_totals() -> None:
    engine, texts = tiny_engine(), []
    for name, text in (("a", TEXT[:70]), ("b", TEXT[20:60])):
        texts.append(TextReport(name))
        with engine.session(small()) as session:
            for event in session.score_events(text):
                texts[-1].add(event)
        texts[-1].finish(session, engine.tokenizer)
    report = build_report(engine, texts, 110, 2.0)
    a, b = report["texts"]
    assert (a["tokens"], b["tokens"], report["tokens"]) == (69, 39, 110)
    for key in ("base", "adapted"):
        nll = a[key]["nll"] + b[key]["nll"]
        assert report[key]["perplexity"] == pytest.approx(math.exp(nll / (69 + 39)))
        assert report[key]["bits_per_byte"] == pytest.approx(nll / math.log(2) / (69 + 39))
        assert report[key]["word_perplexity"] == pytest.approx(math.exp(nll / (a["words"] + b["words"])))
    assert [c["text"] for c in report["chunks"]] == ["a"] * 3 + ["b"] * 2
    assert (report["committed"], report["rejected"]) == (a["committed"] + b["committed"], 0)
    assert report["flops"]["total"] == sum(v for k, v in report["flops"].items() if k != "total") > 0
    assert report["flops"]["learn"] == sum(t.session.meter.flops["learn"] for t in texts if t.session)


def test_a_changed_base_or_a_live_session_is_not_called_clean() -> None:
    engine, text = tiny_engine(), TextReport("a")
    with engine.session(small()) as session:
        text.session = session
        open_report = build_report(engine, [text], 0, 0.0)
        engine.model.module.lm_head.weight.data[0, 0] += 1
    report = build_report(engine, [text], 0, 0.0)
    assert (open_report["base_unchanged"], open_report["discarded"]) == (False, False)
    assert (report["base_unchanged"], report["discarded"]) == (False, True)


def test_json_has_null_for_what_is_not_finite() -> None:
    document = {"a": math.inf, "b": [math.nan, {"c": -math.inf}], "d": 1.5, "e": "é", "f": None, "g": True}
    assert json.loads(to_json(document)) == {
        "a": None,
        "b": [None, {"c": None}],
        "d": 1.5,
        "e": "é",
        "f": None,
        "g": True,
    }
    assert "é" in to_json(document)


def test_the_curve_is_the_perplexity_so_far() -> None:
    rows = [{"nll": 2 * math.log(2), "targets": 2}, {"nll": math.log(16), "targets": 1}, {"nll": 1e9, "targets": 1}]
    assert _running(rows, "nll") == pytest.approx([2.0, 2 ** (6 / 3), math.exp(700)])


def test_a_plot_shows_each_chunk_where_it_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib.figure import Figure

    drawn: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda self, *_, **__: drawn.append(self))
    seconds = {"decode": 3.0, "score": 0.0, "learn": 1.0, "cache": 0.5}
    summary = {"base": {"perplexity": 7.5}, "adapted": {"perplexity": 4.1}}
    plot_report(summary | {"chunks": folded().chunks, "seconds": seconds}, tmp_path / "run.png", "title")
    curve, time = drawn[0].axes
    points = {"base": [60 / 31, 70 / 32, 9 / 6], "adapted": [50 / 31, 40 / 32, 8 / 6]}
    for dots, line, values in zip(curve.lines[::2], curve.lines[1::2], points.values(), strict=True):
        assert list(dots.get_xdata()) == list(line.get_xdata()) == [16.5, 48, 67]
        assert list(dots.get_ydata()) == pytest.approx([math.exp(v) for v in values])
    labels = [label.get_text() for label in curve.get_legend().get_texts()]
    assert labels == ["base: 7.50 over all", "adapted: 4.10 over all", "rolled back or skipped"]
    assert [(bar.get_x(), bar.get_width()) for bar in time.patches] == [(0, 3.0), (3.0, 1.0), (4.0, 0.5)]


def test_a_report_keeps_the_mode_of_the_one_it_replaces(tmp_path: Path) -> None:
    """A temporary file is its owner's alone; a report is as any other file."""
    path, other = tmp_path / "run.json", tmp_path / "other"
    other.touch()
    write_json(path, {"a": 1})
    assert path.stat().st_mode == other.stat().st_mode
    path.chmod(0o640)
    write_json(path, {"a": 2})
    assert path.stat().st_mode & 0o777 == 0o640
    assert json.loads(path.read_text()) == {"a": 2}
    assert sorted(tmp_path.iterdir()) == [other, path]


def test_a_plot_of_hopeless_predictions(tmp_path: Path) -> None:
    """Chunks whose perplexity overflows, were never predicted or were rolled back."""
    report = folded()
    report.add(ChunkScored(70, 80, 10, 1e9, 1e9, 0.1))
    report.add(ChunkLearned(3, 80, 112, False, 1, "the loss is not finite (nan)"))
    summary = {"base": {"perplexity": math.inf}, "adapted": {"perplexity": None}}
    seconds = dict.fromkeys(("decode", "score", "learn", "cache"), 0.0)
    plot_report(summary | {"chunks": report.chunks, "seconds": seconds}, tmp_path / "run.png", "title")
    assert (tmp_path / "run.png").read_bytes().startswith(b"\x89PNG")
