"""Evaluations from plan to result: what is planned, measured, kept and refused."""

from __future__ import annotations

import gzip
import json
import random
import sys
import types
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from evaluations import BOOK, CONFIG, books, cells, plan, tiny_folder

from templora.config import TempLoraConfig
from templora.errors import ConfigError, ModelError, OptionError, TextError
from templora.evals.measuring.cell import Cell
from templora.evals.measuring.measure import measure
from templora.evals.measuring.plan import Plan, builtin_plans, parse_count, read_plan
from templora.evals.measuring.run import Stopped
from templora.evals.measuring.texts import Text, find_texts
from templora.evals.reporting import results
from templora.evals.reporting.results import ResultError
from templora.loading import load
from templora.session.snapshot import Snapshot
from templora.testing import tiny_engine

RESULTS = Path(__file__).parent.parent.parent / "results"
SOURCES = ["none", "own", "other", "other-then-own", "shuffled", "bag"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_folder(tmp_path_factory.mktemp("model"))


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    return books(tmp_path / "books")


def same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    """Equal but for clocks, and what depends on the process."""
    odd = ("seconds", "others", "resumed", "date", "peak_memory_bytes", "versions")
    strip = lambda r: {k: v for k, v in r.items() if k not in odd}  # noqa: E731
    rows = lambda r: [{k: v for k, v in c.items() if k != "seconds"} for c in r["chunks"]]  # noqa: E731
    flops = lambda r: {k: pytest.approx(v) for k, v in r["flops"].items()}  # noqa: E731
    return strip(a) | {"chunks": rows(a)} == strip(b) | {"chunks": rows(b), "flops": flops(b)}


# Plans --------------------------------------------------------------------------------------------------------------


def test_whatever_has_an_adapter_is_measured_without_it_too(model: Path, texts: Path) -> None:
    methods = [{"method": "attention_sinks", "adapters": ["own", "other"]}, {"window": 96, "adapters": ["own"]}]
    found, _ = cells(plan(model, texts, methods=methods))
    assert len(found) == 2 * (1 + 2 + 1 + 1)
    keys = {c.key for c in found}
    assert all(c.bare.key in keys for c in found)
    assert [c.source.reads for c in found] == sorted(c.source.reads for c in found)
    other = next(c for c in found if c.adapter == "other" and c.text == "book0")
    assert (other.other, other.other_tokens) == ("book1", 100)


def test_a_sweep_changes_one_option_at_a_time(model: Path, texts: Path) -> None:
    sweep = {"rank": [2, 4], "cache_reuse": [0, 3], "chunk_size": [16]}
    found, _ = cells(plan(model, texts, methods=[{"adapters": ["own"]}], sweep=sweep, texts=["book0"]))
    swept = [c.config for c in found if c.adapter == "own"]
    assert {(c.rank, c.alpha, c.cache_reuse, c.chunk_size) for c in swept} == {
        (4, 4.0, 0, 32), (2, 2.0, 0, 32), (4, 4.0, 3, 32), (4, 4.0, 0, 16),
    }  # fmt: skip
    bare = sorted((c.config.chunk_size, c.config.cache_reuse) for c in found if c.adapter == "none")
    assert bare == [(16, 0), (32, 0), (32, 3)]  # whatever reads in another way has a base of its own


def test_what_no_adapter_learns_makes_no_difference(model: Path, texts: Path) -> None:
    found, _ = cells(plan(model, texts))
    bare = next(c for c in found if c.adapter == "own").bare
    changed = Cell.from_dict(
        {**bare.to_dict(), "adapter": "own", "config": TempLoraConfig(**CONFIG, epochs=5).to_dict()}
    )
    assert changed.bare.key == bare.key
    assert changed.key != bare.key


def test_cells_round_trip(model: Path, texts: Path) -> None:
    methods = [{"method": "extended_positions", "factor": 3.0, "adapters": SOURCES}]
    found, _ = cells(plan(model, texts, methods=methods))
    for cell in found:
        assert Cell.from_dict(json.loads(json.dumps(cell.to_dict()))) == cell
        assert Cell.from_dict(json.loads(json.dumps(cell.to_dict()))).key == cell.key
    assert len({c.key for c in found}) == len(found)


def test_plans_that_ship_can_be_read() -> None:
    texts = [Text("a", "x"), Text("b", "y")]
    assert sorted(builtin_plans()) == ["compatibility", "efficiency", "pg19", "sensitivity", "translation"]
    plans = [read_plan(name) for name in builtin_plans()]
    assert all(len(plan.cells(texts)) > 5 for plan in plans if not plan.translates)


@pytest.mark.parametrize(
    ("toml", "said"),
    [
        ("tokns = 5", "did you mean 'tokens'"),
        ("tokens = 1", "at least 2"),
        ('tokens = "many"', "a number or all"),
        ("tokens = 1.5", "a number or all"),
        ("task = 'pg20'", "did you mean 'pg19'"),
        ("models = []", "list of names"),
        ("books = 3", "must be a string"),
        ("models = 3", "list of names"),
        ("config = 3", "must be a table"),
        ("methods = [3]", r"\[\[methods\]\]"),
        ("[[methods]]\nmethod = 'sliding'", "did you mean 'sliding_window'"),
        ("[[methods]]\nranks = 3", "did you mean 'rank'"),
        ("[[methods]]\nrank = 0", "at least 1"),
        ("[[methods]]\nadapters = ['mine']", "did you mean 'none'"),
        ("[[methods]]\nmethod='kv_compression'\nfactor = 0.5", "factor"),
        ("[sweep]\nrnk = [1]", "did you mean 'rank'"),
        ("[sweep]\nrank = 3", "must be a list"),
        ("[config]\nrecipe = 'papr'", "did you mean 'paper'"),
        ("= 3", "not TOML"),
    ],
)
def test_what_is_wrong_with_a_plan_is_said(toml: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(toml)
    with pytest.raises(OptionError, match=said):
        read_plan(str(tmp_path / "mine.toml")).cells([Text("a", "x"), Text("b", "y")])


def test_plans_that_are_not_there() -> None:
    with pytest.raises(OptionError, match="did you mean 'pg19'"):
        read_plan("pg20")
    with pytest.raises(OptionError, match=r"absent.toml cannot be read"):
        read_plan("absent.toml")
    with pytest.raises(OptionError, match="say where the texts are"):
        Plan().find_texts()
    with pytest.raises(OptionError, match="there is only one"):
        Plan(methods=[{"adapters": ["other"]}]).cells([Text("a", "x")])
    assert parse_count("tokens", "all") is None
    assert parse_count("tokens", "60,000") == parse_count("tokens", 60000) == 60000
    with pytest.raises(ConfigError):
        parse_count("tokens", True)


# Texts --------------------------------------------------------------------------------------------------------------


def test_texts_of_a_folder(tmp_path: Path) -> None:
    import gzip
    import lzma

    (tmp_path / "b.txt").write_text("two")
    (tmp_path / "a.txt.xz").write_bytes(lzma.compress(b"one"))
    (tmp_path / "c.txt.gz").write_bytes(gzip.compress(b"three"))
    (tmp_path / "notes.md").write_text("not a text")
    assert [(t.name, t.content) for t in find_texts(str(tmp_path))] == [("a", "one"), ("b", "two"), ("c", "three")]
    assert [t.name for t in find_texts(str(tmp_path), ["c", "a"])] == ["c", "a"]
    with pytest.raises(OptionError, match="there is no text 'd'"):
        find_texts(str(tmp_path), ["d"])


def test_what_strays_into_a_folder_stops_nothing(tmp_path: Path) -> None:
    """Hidden files and folders are nobody's texts; a file that is none is left out, and named."""
    (tmp_path / "one.txt").write_text("one")
    (tmp_path / "TWO.TXT").write_text("two")
    for name, raw in ((".DS_Store", b"\0"), ("._one.txt", b"\0\5"), (".hidden.txt", b"hidden"), ("Thumbs.db", b"\0")):
        (tmp_path / name).write_bytes(raw)
    (tmp_path / "folder.txt").mkdir()
    assert [(t.name, t.content) for t in find_texts(str(tmp_path))] == [("TWO", "two"), ("one", "one")]
    for name, raw, said in (("empty", b"", "empty"), ("b", b"\0", "binary"), ("latin", b"caf\xe9", "not UTF-8")):
        path = tmp_path / f"{name}.txt"
        path.write_bytes(raw)
        with pytest.warns(UserWarning, match=f"left out: .*{name}.txt: .*{said}"):
            assert [t.name for t in find_texts(str(tmp_path))] == ["TWO", "one"]
        with pytest.raises(TextError, match=said):
            find_texts(str(tmp_path), [name])
        path.unlink()


@pytest.mark.parametrize("name", ["book.txt", "book.md", "book"])
def test_a_file_is_a_folder_of_one_text(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("one")
    assert [(t.name, t.content) for t in find_texts(str(tmp_path / name))] == [("book", "one")]
    assert [t.name for t in find_texts(str(tmp_path / name), ["book"])] == ["book"]


def test_folders_that_hold_no_texts(tmp_path: Path) -> None:
    for name, said in (("absent", "cannot be read"), ("", "cannot be read")):
        with pytest.raises(OptionError, match=said):
            find_texts(str(tmp_path / name) if name else "\0")
    with pytest.raises(OptionError, match="holds no text"):
        find_texts(str(tmp_path))
    for raw, said in ((b"\xff\xff", "not UTF-8"), (b"", "empty"), (b"a\0b", "binary")):
        (tmp_path / "bad.txt").write_bytes(raw)
        with pytest.raises(TextError, match=said):
            find_texts(str(tmp_path))


def test_a_dataset_of_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(OptionError, match="pip install datasets"):
        find_texts("hub:some/books")
    fake = types.ModuleType("datasets")
    rows = [{"short_book_title": "One", "text": "x"}, {"text": "y"}]
    fake.load_dataset = lambda name, split: rows if (name, split) == ("some/books", "test") else 1 / 0  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "datasets", fake)
    assert [(t.name, t.content) for t in find_texts("hub:some/books")] == [("One", "x"), ("1", "y")]
    with pytest.raises(TextError, match="hub:other: no texts could be had: division by zero"):
        find_texts("hub:other")


# Measuring ----------------------------------------------------------------------------------------------------------


def test_a_cell_is_what_a_session_scores(model: Path, texts: Path, tmp_path: Path) -> None:
    """The sums of its chunks against `Session.score` of the same tokens, for base, adapter and mixture."""
    found, by_name = cells(plan(model, texts, methods=[{}, {"mixture": False}]))
    engine = load(model, threads=1)
    text = by_name["book0"]
    ids = engine.tokenizer(text.content)["input_ids"][:300]
    scored = {}
    for mixture in (True, False):
        with engine.session(TempLoraConfig(**CONFIG, mixture=mixture)) as session:
            score = session.score(text.content[:300])
            scored[mixture] = score.mixed.nll if mixture else score.adapted.nll
    for cell in found:
        if cell.text != "book0":
            continue
        result = measure(cell, text, tmp_path, threads=1)
        expected = scored[cell.config.mixture] if cell.source.reads else score.base.nll
        assert result["nll"] == pytest.approx(expected, rel=1e-6)
        assert result["tokens"] == len(ids) - 1
        assert result["words"] == len(text.content[:300].split()) - 1  # the first begins in what nobody predicts
        assert result["clean"]
        assert results.find(tmp_path, cell) == json.loads(json.dumps(result))


@pytest.mark.parametrize("adapter", SOURCES)
def test_two_runs_give_equal_numbers(adapter: str, model: Path, texts: Path, tmp_path: Path) -> None:
    found, by_name = cells(plan(model, texts, methods=[{"adapters": [adapter]}], texts=["book0", "book1"]))
    cell = next(c for c in found if c.adapter == adapter)
    for i in range(2):
        (tmp_path / str(i)).mkdir()
    runs = [measure(cell, by_name[cell.text], tmp_path / str(i), other=by_name["book1"], threads=1) for i in range(2)]
    assert same(runs[0], runs[1])


def test_what_learnt_another_text_serves_every_cell_that_wants_it(model: Path, texts: Path, tmp_path: Path) -> None:
    """It learns once; who goes on from it later gets what it would have learnt by itself."""
    found, by_name = cells(plan(model, texts, methods=[{"adapters": ["other", "other-then-own"]}]))
    first, second = (c for c in found if c.other and c.text == "book0")
    (tmp_path / "alone").mkdir()
    options: dict[str, Any] = {"other": by_name["book1"], "engine": load(model, threads=1)}
    measure(first, by_name["book0"], tmp_path, **options)
    (kept,) = tmp_path.glob("*.adapter")
    learnt = kept.read_bytes(), kept.stat().st_mtime_ns
    shared = measure(second, by_name["book0"], tmp_path, **options)
    assert (kept.read_bytes(), kept.stat().st_mtime_ns) == learnt
    assert same(shared, measure(second, by_name["book0"], tmp_path / "alone", **options))


@pytest.mark.parametrize(
    "table",
    [
        {"adapters": ["none"]},
        {"adapters": ["own"], "cache_reuse": 2},
        {"adapters": ["other-then-own"]},
        {"method": "attention_sinks", "adapters": ["own"], "mixture": False},
        {"method": "dynamic_evaluation", "adapters": ["none"]},
    ],
    ids=str,
)
def test_ten_interruptions_change_nothing(table: dict[str, Any], model: Path, texts: Path, tmp_path: Path) -> None:
    made = plan(model, texts, methods=[table], tokens=None, config={**CONFIG, "window": 96})
    found, by_name = cells(made)
    cell = next(c for c in found if c.adapter == table["adapters"][0])
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    whole.mkdir()
    broken.mkdir()
    options: dict[str, Any] = {"other": by_name["book1"], "engine": load(model, threads=1)}
    expected = measure(cell, by_name[cell.text], whole, **options)
    rng = random.Random(str(table))
    stops = 0
    while stops < 10:
        left = rng.randint(1, 2)

        def stop() -> bool:
            nonlocal left
            left -= 1
            return left == 0

        try:
            result = measure(cell, by_name[cell.text], broken, stop=stop, **options)
            break
        except Stopped:
            stops += 1
    else:
        result = measure(cell, by_name[cell.text], broken, **options)
    assert stops >= 5
    assert same(result, expected)
    assert result["resumed"] >= 1
    assert not list(broken.glob("*.part"))


def test_a_torn_snapshot_costs_time_and_nothing_else(model: Path, texts: Path, tmp_path: Path) -> None:
    found, by_name = cells(plan(model, texts))
    cell = found[-1]
    engine = load(model, threads=1)
    with pytest.raises(Stopped):
        measure(cell, by_name[cell.text], tmp_path, engine=engine, stop=lambda: True)
    part = tmp_path / f"{cell.key}.part"
    part.write_bytes(part.read_bytes()[:-100])
    torn = measure(cell, by_name[cell.text], tmp_path, engine=engine)
    (tmp_path / "again").mkdir()
    assert same(torn, measure(cell, by_name[cell.text], tmp_path / "again", engine=engine))


def test_a_full_disk_stops_no_measurement_before_its_end(
    model: Path, texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Snapshots that find no room are done without; a result that finds none is an error that names it."""
    import os

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    found, by_name = cells(plan(model, texts))
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        with pytest.raises(TextError, match="No space left"):
            measure(found[-1], by_name[found[-1].text], tmp_path, threads=1)
    assert [p.name for p in tmp_path.iterdir() if p.is_file()] == []
    assert measure(found[-1], by_name[found[-1].text], tmp_path, threads=1)["status"] == "done"


def test_what_a_model_cannot_do_is_a_result(texts: Path, tmp_path: Path) -> None:
    found, by_name = cells(plan(tmp_path, texts, methods=[{"method": "attention_sinks"}]))
    for cell in found[-1].bare, found[-1]:
        result = measure(cell, by_name[cell.text], tmp_path, engine=tiny_engine("gpt2"))
        assert result["status"] == "not applicable"
        assert "no rotary positions" in result["reason"]
        assert results.find(tmp_path, cell) == result


def test_a_text_in_a_language_the_tokenizer_does_not_know_is_noted(model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "books"
    folder.mkdir()
    (folder / "a.txt").write_text("你好 世界 " * 30)
    found, by_name = cells(plan(model, folder, methods=[{"adapters": ["none"]}]))
    assert "tokens a word" in measure(found[0], by_name["a"], tmp_path, threads=1)["notes"][0]


@pytest.mark.parametrize("content", ["x", "xy", "word " * 9])
def test_texts_shorter_than_a_chunk(content: str, model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "books"
    folder.mkdir()
    (folder / "a.txt").write_text(content)
    found, by_name = cells(plan(model, folder))
    for cell in found:
        assert measure(cell, by_name["a"], tmp_path, threads=1)["tokens"] == len(content) - 1


# Results ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def result(model: Path, texts: Path, tmp_path: Path) -> Path:
    found, by_name = cells(plan(model, texts))
    measure(found[0], by_name[found[0].text], tmp_path, threads=1)
    return next(tmp_path.glob("book*.json"))


def test_results_round_trip(result: Path) -> None:
    read = results.read(result)
    results.write(result.parent, Cell.from_dict(read["cell"]), read)
    assert results.read(result) == read
    assert read["schema"] == results.SCHEMA
    bare = {"rank": 1, "alpha": 1.0, "learning": "off", "mixture": False, "window": 64, "chunk_size": 32}
    assert TempLoraConfig.stored(read["cell"]["config"]) == TempLoraConfig.stored(bare)
    assert {"torch", "transformers", "commit"} <= read["versions"].keys()
    assert read["device"].startswith("cpu")
    assert BOOK[:3] == "It "


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda r: r | {"schema": 0}, "an older version"),
        (lambda r: r | {"schema": 99}, "another version"),
        (lambda r: r | {"schema": None}, "another version"),
        (lambda r: {k: v for k, v in r.items() if k != "schema"}, "not a result"),
        (lambda r: [r], "not a result"),
        (lambda r: r | {"nll": r["nll"] * 1.01}, "nll is not the sum"),
        (lambda r: r | {"tokens": 5}, "tokens is not the sum"),
        (lambda r: r | {"chunks": r["chunks"][1:]}, "not the sum"),
        (lambda r: r | {"chunks": "none"}, "damaged"),
        (lambda r: r | {"status": "nearly"}, "unknown status"),
        (lambda r: r | {"cell": {}}, "damaged"),
        (lambda r: r | {"cell": r["cell"] | {"tokens": 7}}, "holds the result of"),
        (lambda r: r | {"cell": r["cell"] | {"config": r["cell"]["config"] | {"ranks": 1}}}, "damaged"),
    ],
)
def test_results_that_are_not_sound_are_refused(change: Any, said: str, result: Path) -> None:
    result.write_text(json.dumps(change(json.loads(result.read_text()))))
    with pytest.raises(ResultError, match=said):
        results.read(result)
    found, problems = results.read_all(result.parent)
    assert not found
    assert len(problems) == 1


def test_a_config_of_another_version_is_refused(result: Path) -> None:
    """An option that the result says nothing of has a default now that it may not have had then."""
    document = json.loads(result.read_text())
    del document["cell"]["config"]["mixture"]
    result.write_text(json.dumps(document))
    with pytest.raises(ResultError, match="says nothing of mixture"):
        results.read(result)


def test_a_file_that_is_no_json_is_named(result: Path) -> None:
    result.write_text(result.read_text()[:-20])
    with pytest.raises(ResultError, match=result.name):
        results.read(result)
    with pytest.raises(ResultError, match="no such folder"):
        results.read_all(result / "x")


def test_a_folder_belongs_to_one_evaluation(tmp_path: Path) -> None:
    results.claim(tmp_path / "new", {"task": "pg19", "tokens": 300})
    results.claim(tmp_path / "new", {"task": "pg19", "tokens": 300})
    with pytest.raises(ResultError, match="tokens is 300 there, None here"):
        results.claim(tmp_path / "new", {"task": "pg19", "tokens": None})
    (tmp_path / "file").write_text("")
    with pytest.raises(TextError, match="cannot be made"):
        results.claim(tmp_path / "file" / "x", {})


def test_what_is_not_installed_is_asked_for_again(
    model: Path, texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "kvpress", None)
    found, by_name = cells(plan(model, texts, methods=[{"method": "kv_compression", "adapters": ["none"]}]))
    result = measure(found[0], by_name["book0"], tmp_path, threads=1)
    assert result["status"] == "not applicable"
    assert "pip install kvpress" in result["reason"]
    assert not list(tmp_path.glob("*.json"))


def test_a_text_that_has_changed_is_not_filed_under_the_old_one(model: Path, texts: Path, tmp_path: Path) -> None:
    found, by_name = cells(plan(model, texts, methods=[{"adapters": ["other"]}]))
    own, other = by_name["book0"], by_name["book1"]
    for text, teacher in ((replace(own, content="x" * 500), other), (own, replace(other, content="x" * 500))):
        with pytest.raises(TextError, match="has changed since"):
            measure(found[-2], text, tmp_path, other=teacher, threads=1)


def test_nothing_is_gone_on_with_that_another_model_began(model: Path, texts: Path, tmp_path: Path) -> None:
    """Snapshots and adapters of weights that are no longer there are measured anew."""
    found, by_name = cells(plan(model, texts, methods=[{"adapters": ["own"]}], texts=["book0"]))
    cell, text = found[-1], by_name["book0"]
    (tmp_path / "whole").mkdir()
    expected = measure(cell, text, tmp_path / "whole", threads=1)
    with pytest.raises(Stopped):
        measure(cell, text, tmp_path, threads=1, stop=lambda: True)
    part = next(tmp_path.glob("*.part"))
    held = Snapshot.load(part)
    for meta in ({**held.meta, "of": ["other weights", "1"]}, {k: v for k, v in held.meta.items() if k != "of"}):
        replace(held, meta=meta).save(part)
        result = measure(cell, text, tmp_path, threads=1)
        assert (result["resumed"], result["nll"]) == (0, expected["nll"])
        next(tmp_path.glob("*.json")).unlink()


def test_a_teacher_is_another_text_and_has_something_to_teach(model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "twins"
    folder.mkdir()
    for name, content in (("a", BOOK * 9), ("b", BOOK * 9), ("c", BOOK * 2), ("d", "Short.")):
        (folder / f"{name}.txt").write_text(content)
    found, by_name = cells(plan(model, folder, methods=[{"adapters": ["other"]}]))
    taught = {c.text: c for c in found if c.adapter == "other"}
    assert {name: c.other for name, c in taught.items()} == {"a": "c", "b": "c", "c": "d", "d": "a"}
    with pytest.raises(OptionError, match="only one"):
        plan(model, folder, methods=[{"adapters": ["other"]}], texts=["a", "b"]).cells([by_name["a"], by_name["b"]])
    with pytest.raises(TextError, match="less than a chunk"):
        measure(taught["c"], by_name["c"], tmp_path, other=by_name["d"], threads=1)
    long = replace(taught["a"], other_tokens=5_000)
    assert "has only" in measure(long, by_name["a"], tmp_path, other=by_name["c"], threads=1)["notes"][0]


def test_predictions_that_are_no_numbers_fail_the_cell(model: Path, texts: Path, tmp_path: Path) -> None:
    method = {"method": "dynamic_evaluation", "step_size": 0.9, "steps": 50, "adapters": ["none"]}
    found, by_name = cells(plan(model, texts, methods=[method], texts=["book0"]))
    with pytest.raises(ModelError, match="no numbers any more"):
        measure(replace(found[0], dtype="float16"), by_name["book0"], tmp_path, threads=1)
    assert not list(tmp_path.glob("*.json"))


def test_one_text_under_two_endings_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one")
    with gzip.open(tmp_path / "a.txt.gz", "wt") as file:
        file.write("another")
    with pytest.raises(OptionError, match="'a' twice"):
        find_texts(str(tmp_path))


@pytest.mark.parametrize("folder", sorted(p.parent.name for p in RESULTS.glob("*/eval.json")))
def test_what_was_measured_in_earlier_versions_keeps_its_name(folder: str) -> None:
    """Options that came later change neither what a result says nor its file's name."""
    found, problems = results.read_all(RESULTS / folder)
    assert found
    assert not problems
