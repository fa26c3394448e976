"""The report of an evaluation: its figures, its tables, its page."""

from __future__ import annotations

import copy
import html.parser
import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
from evaluations import CONFIG

from templora.config import TempLoraConfig
from templora.evals.measuring.cell import Cell
from templora.evals.reporting import results, tables
from templora.evals.reporting.groups import group, method_label, recipe_label
from templora.evals.reporting.page import Section, Table, page
from templora.evals.reporting.report import sections, write_report
from templora.evals.reporting.results import ResultError
from templora.recipes import recipe


def result(text: str, nats: float, adapter: str = "none", chunks: int = 4, **options: Any) -> dict[str, Any]:
    """A result whose every token costs `nats`; chunks of 10 tokens, 5 words, 40 bytes."""
    fields = {k: options.pop(k) for k in list(options) if k in TempLoraConfig.__dataclass_fields__}
    model, method = options.pop("model", "m"), options.pop("method", "sliding_window")
    config = TempLoraConfig(**{**CONFIG, **fields})
    cell = Cell(
        "pg19", text, "0" * 64, 10 * chunks, model, method, adapter, config, other="o", other_sha256="", other_tokens=5
    )
    rows = [
        {"start": 10 * i, "tokens": 10, "targets": 10, "nll": 10 * nats, "words": 5, "bytes": 40, "seconds": 0.1}
        for i in range(chunks)
    ]
    return {
        "schema": results.SCHEMA, "status": "done", "cell": cell.to_dict(), "text_tokens": 1000, "tokens": 10 * chunks,
        "words": 5 * chunks, "bytes": 40 * chunks, "nll": 10 * nats * chunks, "chunks": rows,
        "seconds": {"all": 2.0, "learn": 1.0}, "flops": {"all": 3e9, "learn": 1e9}, "peak_memory_bytes": 10**9,
        "kv_bytes": 10**6, "others": 0.0, "device": "cpu", "notes": [],
        "versions": {"commit": "abc", "templora": "1", "torch": "2", "transformers": "5", "python": "3"},
    } | options  # fmt: skip


RESULTS = [
    result("a", 2.0), result("b", 3.0), result("a", 1.9, "own"), result("b", 2.8, "own"),
    result("a", 1.95, "other"), result("b", 2.95, "other"),
    result("a", 1.8, "own", rank=8, alpha=8.0), result("b", 2.9, "own", rank=8, alpha=8.0),
    result("a", 1.9, window=128), result("b", 2.9, window=128),
    result("a", 2.1, "own", window=128, chunk_size=32), result("b", 2.9, "own", window=128, chunk_size=32),
]  # fmt: skip


def test_tables_are_arithmetic() -> None:
    groups = group(RESULTS)
    main = tables.main_group(groups)
    assert main is not None
    assert main.change == pytest.approx(math.expm1((1.9 + 2.8 - 2.0 - 3.0) / 2))
    row = tables.by_position(main).rows[-1]
    assert row == ["all", "2", "80", "12.182", "10.486", "−13.93 % [−18.13, −9.52]"]
    definitions = tables.definitions(main).rows
    assert definitions[0][1:] == ["12.182", f"{(math.exp(2) + math.exp(3)) / 2:.3f}", f"{math.exp(5):.2f}", "0.9017"]
    lengths = tables.by_length(main).rows
    assert [r[0] for r in lengths] == ["0–1K", "all"] or lengths[0][1] == "2"


def test_each_text_is_compared_with_itself_alone() -> None:
    """A text that lacks its base, or has it over other tokens, is left out."""
    short = [result("a", 2.0), result("a", 1.9, "own"), result("b", 2.8, "own"), result("c", 1.0, chunks=3)]
    short.append(result("c", 0.1, "own") | {"cell": result("c", 0.1, "own", chunks=3)["cell"]})
    own = next(g for g in group(short) if g.cell.adapter == "own" and "a" in g.results)
    assert own.change == pytest.approx(math.expm1(-0.1))
    assert own.interval is None


def test_what_was_read_must_be_the_same() -> None:
    """Another content of the text, or other weights, are nothing to compare with."""
    base, own = result("a", 2.0), result("a", 1.9, "own")
    assert group([base, own])[1].change == pytest.approx(math.expm1(-0.1))
    assert group([base | {"model": {"sha256": "x"}}, own])[1].change is None
    edited = copy.deepcopy(own)
    edited["cell"]["text_sha256"] = "1" * 64
    assert group([base, edited])[1].change is None
    with pytest.raises(ResultError, match=r"of one setting and text.*delete"):
        group([base, own, edited])


def test_perplexities_are_of_the_texts_that_are_compared() -> None:
    """An evaluation that was stopped has bases of all texts and adapters of some."""
    partial = [result("a", 2.0), result("b", 3.0), result("a", 1.9, "own"), result("a", 2.1, window=128)]
    groups = group(partial)
    main = tables.main_group(groups)
    assert main is not None
    assert tables.definitions(main).rows[0][1] == tables.by_position(main).rows[-1][3] == f"{math.exp(2):.3f}"
    assert tables.compatibility(groups).rows[0][1:4] == ["1", f"{math.exp(2):.3f}", f"{math.exp(1.9):.3f}"]


def test_the_default_recipe_stands_for_the_adapter() -> None:
    """Beside several runs of the paper's; and in a sweep it is the middle of it, whatever that is."""
    rates = [recipe("paper", None, window=64, chunk_size=32, learning_rate=rate) for rate in (1e-4, 2e-4, 3e-4)]
    odd = [result("a", 1.7, "own", **r.to_dict()) for r in rates]
    main = tables.main_group(group([*RESULTS, *odd]))
    assert main is not None
    assert main.cell.config.rank == CONFIG["rank"]
    assert main.cell.config.epochs == 1
    swept = [result("a", 1.9, "own", rank=32, **{k: v}) for k, v in [("epochs", 2), ("epochs", 3), ("dropout", 0.1)]]
    main = tables.main_group(group([result("a", 2.0), *swept, *(result("a", 1.8, "own", rank=r) for r in (32, 64))]))
    assert main is not None
    assert main.cell.config.rank == 32


def test_rows_that_would_look_alike_say_what_differs() -> None:
    both = [result("a", 1.9, "own"), result("a", 1.8, "own", mixture=False), result("a", 2.0)]
    names = [row[0] for row in tables.adapters([g for g in group(both) if g.pairs]).rows]
    assert len(set(names)) == 2
    assert all("mixture" in name for name in names)
    sections_of = [t.title for s in sections([*RESULTS, *both[1:2]]) for t in s.tables]
    assert "What the adapter has learnt" in sections_of


def test_results_without_any_adapter_are_shown_too() -> None:
    bare = [result("a", 2.0), result("a", 1.9, window=128)]
    rows = next(s for s in sections(bare) if s.title == "Without an adapter").tables[0].rows
    assert [row[:3] for row in rows] == [
        ["sliding window, window 64", "1", f"{math.exp(2):.3f}"], ["sliding window, window 128", "1", "6.686"],
    ]  # fmt: skip


def test_models_of_one_name_have_pictures_of_their_own(tmp_path: Path) -> None:
    two = [
        r
        for m in ("x/checkpoint", "y/checkpoint")
        for r in (result("a", 2.0, model=m), result("a", 1.9, "own", model=m))
    ]
    pictures = [path.name for path in write_report(two, tmp_path, "t") if path.suffix == ".png"]
    assert pictures == ["checkpoint-1-position.png", "checkpoint-2-position.png"]


def test_sweeps_are_found_in_the_results() -> None:
    groups = group(RESULTS)
    main = tables.main_group(groups)
    assert main is not None
    found = {option: [label for label, _ in points] for option, points in tables.sweeps(groups, main).items()}
    assert found == {"rank": ["4", "8"], "window": ["64", "128"]}


def test_the_adapter_stands_beside_what_it_would_replace() -> None:
    """Itself, itself in less memory, then every window without it; not those with it."""
    groups = group([*RESULTS, result("a", 1.9, "own", checkpointing=True)])
    main = tables.main_group(groups)
    assert main is not None
    rows = tables.efficiency(groups, main).rows
    assert [row[0].removeprefix("sliding window, window ") for row in rows] == [
        "64, with the adapter", "64, with the adapter and checkpointing", "64", "128",
    ]  # fmt: skip
    assert [row[2] for row in rows[:2]] == ["", "+0.00 %"]
    assert rows[3][2] == "+5.13 % [+0.00, +10.52]"  # 1.9 and 2.9 nats against 1.9 and 2.8


def test_harm_is_shown_first() -> None:
    table = tables.harm([g for g in group(RESULTS) if g.pairs])
    assert table.rows[0][1:3] == ["a", "+10.53 %"]  # 2.1 against 1.9 nats


def test_methods_that_do_not_apply_say_why() -> None:
    bare = result("a", 0.0, method="attention_sinks")
    refused = results.not_applicable(Cell.from_dict(bare["cell"]), "it has no positions")
    table = tables.compatibility(group([*RESULTS, refused]))
    assert any("not applicable: it has no positions" in cell for row in table.rows for cell in row)


def test_seconds_beside_other_programs_are_marked() -> None:
    busy = [copy.deepcopy(r) | {"others": 0.5} for r in RESULTS[:4]]
    table = tables.compatibility(group(busy))
    assert table.rows[0][7] == "50.00*"


def test_labels_say_what_differs() -> None:
    assert recipe_label(recipe("default", window=1024)) == "default"
    assert recipe_label(recipe("paper", window=1024, chunk_size=512)) == "paper"
    assert recipe_label(recipe("default", rank=8, epochs=2)) == "default with rank 8, epochs 2"
    assert method_label(Cell.from_dict(result("a", 1.0, window=2048)["cell"])) == "sliding window, window 2,048"


class _Page(html.parser.HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.outside: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "br", "path", "use", "image"):
            self.open.append(tag)
        for name, value in attrs:
            if name in ("src", "href") and value and not value.startswith(("#", "data:")):
                self.outside.append(value)

    def handle_endtag(self, tag: str) -> None:
        if tag in self.open:
            while self.open.pop() != tag:
                pass


def test_the_page_is_whole_and_needs_nothing_else(tmp_path: Path) -> None:
    written = write_report(RESULTS, tmp_path, "Two <books> & more")
    text = (tmp_path / "report.html").read_text()
    parsed = _Page()
    parsed.feed(text)
    assert parsed.open == []
    assert parsed.outside == []
    assert "<script" not in text
    assert "Two &lt;books&gt; &amp; more" in text
    assert text.count("<svg") >= 4
    assert {p.suffix for p in written} == {".png", ".md", ".html"}
    assert all(p.stat().st_size > 100 for p in written)
    markdown = (tmp_path / "report.md").read_text()
    for name in re.findall(r"!\[.*?\]\((.*?)\)", markdown):
        assert (tmp_path / name).exists()
    widths = {line.count(" | ") for line in markdown.split("### Text by text")[1].splitlines()[4:7]}
    assert len(widths) == 1
    assert write_report(RESULTS, tmp_path, "Two <books> & more") == written
    assert (tmp_path / "report.html").read_text() == text


def test_names_in_a_page_are_escaped() -> None:
    text = page("<b>", [Section("<i>", "a < b", [Table("<u>", ["<s>"], [["<script>"]], "&")])])
    assert "<script>" not in text
    assert "<i>" not in text


def test_several_models_have_sections_of_their_own() -> None:
    both = [*RESULTS, *(result(t, 2.0, a, model="other/n") for t in "ab" for a in ("none", "own"))]
    titles = [s.title for s in sections(both)]
    assert "m: Perplexity" in titles
    assert "other/n: Perplexity" in titles


def test_models_and_methods_stand_in_one_table() -> None:
    """Over what all have read: another tokenizer's tokens reach further; mixed or not, and a rival."""
    mixed = result("a", 1.5, "own")
    for row in mixed["chunks"]:
        row["adapter_nll"] = 14.0
    far = result("a", 4.0, model="n", chunks=6)  # of which 160 bytes are what the others have read
    for row in far["chunks"][4:]:
        row["nll"] = 1000.0
    rival = result("a", 1.8, method="dynamic_evaluation")
    elsewhere = result("b", 9.0, model="n", chunks=6)
    table = tables.side_by_side(group([result("a", 2.0), mixed, rival, far, elsewhere]))
    assert table is not None
    bits = [2.0, 1.8, 1.5, 1.4, 4.0]
    assert [row[1] for row in table.rows] == [f"{10 * b / math.log(2) / 40:.4f}" for b in bits]
    names = [row[0] for row in table.rows]
    assert names[0].startswith("m: sliding window")
    assert names[1].startswith("m: dynamic evaluation")
    assert names[2].endswith("mixed")
    assert names[3].endswith("by itself")
    assert names[4].startswith("n: ")
    assert [row[2] for row in table.rows] == ["", "−10.00 %", "−25.00 %", "−30.00 %", "+100.00 %"]
    unmixed = [result("a", 2.0), result("a", 1.5, "own", mixture=False), rival]
    assert len(tables.side_by_side(group(unmixed)).rows) == 3  # type: ignore[union-attr]
    assert tables.side_by_side(group([result("a", 2.0), mixed])) is None
    assert tables.side_by_side(group([result("a", 2.0), elsewhere])) is None
    shown = sections([result("a", 2.0), mixed, far])
    assert [s.title for s in shown][-2:] == ["Models and methods", "How it was measured"]


def test_somebodys_methods_are_shown_and_not_run() -> None:
    """Whatever their options are; and two states of their code are two settings."""
    found = []
    for code, nats, options in (
        ("1" * 64, 1.9, {"keep": None}),
        ("2" * 64, 1.8, {"keep": 3}),
        ("2" * 64, 1.7, {"keep": "x"}),
    ):
        one = result("a", nats, method="nowhere_to_be_found:Mine")
        one["cell"] |= {"options": options, "code": code}
        found.append(one)
    again = result("a", 1.6, method="nowhere_to_be_found:Mine")
    again["cell"] |= {"options": {"keep": 3}, "code": "3" * 64}
    table = tables.side_by_side(group([result("a", 2.0), *found, again]))
    assert table is not None
    names = [row[0] for row in table.rows]
    assert len(set(names)) == 5
    assert any("code 3333333" in name for name in names)
    assert sections([result("a", 2.0), *found, again])


def test_bases_alone_make_a_report_too(tmp_path: Path) -> None:
    write_report(RESULTS[:2], tmp_path, "bases")
    with pytest.raises(ResultError, match="no results"):
        write_report([], tmp_path, "nothing")
    assert json.dumps(RESULTS)


def test_what_results_say_of_themselves_is_shown_once() -> None:
    noted = [r | {"notes": ["the tokenizer hardly knows it"]} if r["cell"]["text"] == "a" else r for r in RESULTS]
    assert sections(RESULTS)[-1].tables[-1].title == "Versions"
    assert sections(noted)[-1].tables[-1].rows == [["a", "m", "the tokenizer hardly knows it"]]
