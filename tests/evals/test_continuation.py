from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

import pytest

from templora.config import TempLoraConfig
from templora.errors import OptionError, TextError
from templora.evals.continuation import study as study_module
from templora.evals.continuation.judge import judge
from templora.evals.continuation.plan import Sample, StudyPlan
from templora.evals.continuation.report import difference, interval, mean, ratio, write_tables
from templora.evals.continuation.study import Study
from templora.evals.measuring.run import Stopped
from templora.evals.measuring.texts import Text
from templora.testing import tiny_engine

CONFIG = TempLoraConfig(window=96, chunk_size=32, rank=4, alpha=4.0, learning_rate=0.01, learn_written=True)
ALL = ("author", "base", "base-2x", "own", "other")


def book(name: str, of: str) -> Text:
    return Text(
        name, "".join(f"In part {i} the keeper met {of} by the sea, and {of} lit the lamp. " for i in range(40))
    )


BOOKS = (book("one", "Tobin"), book("two", "Odalie"))


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study_module, "SLICE", 40)


def plan(**options: Any) -> StudyPlan:
    values: dict[str, Any] = {"books": BOOKS, "config": CONFIG, "absorbed": (300,), "written": 50, "seeds": 2}
    return StudyPlan(**{**values, "settings": ALL, **options})


def documents(folder: Path) -> dict[str, Any]:
    found = {path.name: json.loads(path.read_text()) for path in folder.glob("*--*.json")}
    for document in found.values():
        del document["seconds"]
    return found


def test_every_setting_writes_and_is_measured(tmp_path: Path) -> None:
    study = Study(plan(), tiny_engine(), tmp_path)
    study.run()
    found = documents(tmp_path)
    assert len(found) == 2 * (1 + 2 * 4)  # the author writes on once
    for document in found.values():
        assert document["tokens"] == 50
        assert len(document["slices"]) == 1
    author = found["one--300--author--1.json"]
    assert author["text"] == BOOKS[0].content[300:350]  # the tokenizer is of bytes
    assert not author["slices"][0]["invented"]
    assert {path.name for path in tmp_path.iterdir()} == {"study.json", *found}
    learnt = {name: len(document["chunks"]) for name, document in found.items()}
    assert learnt["one--300--own--1.json"] >= 1
    assert learnt["one--300--other--2.json"] >= 1
    assert not learnt["one--300--base--1.json"]
    texts = [found[f"one--300--{setting}--1.json"]["text"] for setting in ("base", "own", "other")]
    assert len(set(texts)) == 3


def test_who_is_stopped_anywhere_ends_with_the_same_texts(tmp_path: Path) -> None:
    how = plan(settings=("base", "own"), seeds=1, absorbed=(200, 300), books=BOOKS[:1])
    Study(how, tiny_engine(), tmp_path / "whole").run()
    calls, stops = 0, 0

    def stopping() -> bool:
        nonlocal calls
        calls += 1
        return calls % 29 == 0

    while True:
        try:
            Study(how, tiny_engine(), tmp_path / "parts", stopping=stopping).run()
            break
        except Stopped:
            stops += 1
    assert stops > 5
    assert documents(tmp_path / "parts") == documents(tmp_path / "whole")


def test_two_lengths_are_one_reading(tmp_path: Path) -> None:
    both, long = tmp_path / "both", tmp_path / "long"
    Study(plan(absorbed=(224, 320), settings=("own",), seeds=1), tiny_engine(), both).run()
    Study(plan(absorbed=(320,), settings=("own",), seeds=1), tiny_engine(), long).run()
    found = documents(both)
    assert len(found) == 4
    # What the longer reading writes does not depend on the shorter one, whose end is the end of a chunk.
    assert documents(long).items() <= found.items()


def test_a_judge_reads_more_and_says_what_it_thinks(tmp_path: Path) -> None:
    study = Study(plan(settings=("author", "base"), seeds=1), tiny_engine(), tmp_path)
    study.run()
    name = judge(study, tiny_engine(), window=200)
    first = documents(tmp_path)
    for document in first.values():
        assert document["judged"][name]["tokens"] >= 50  # of what was written, spelled anew
        assert document["judged"][name]["nll"] > 0
    judge(study, tiny_engine(), window=200)
    assert documents(tmp_path) == first
    study.run()
    assert documents(tmp_path) == first


def test_a_judge_that_sees_no_more_is_refused(tmp_path: Path) -> None:
    study = Study(plan(settings=("author",), seeds=1), tiny_engine(), tmp_path)
    study.run()
    with pytest.raises(OptionError, match="sees no more"):
        judge(study, tiny_engine(), window=64)


def test_a_study_from_before_there_was_an_option_goes_on(tmp_path: Path) -> None:
    Study(plan(settings=("author",), seeds=1), tiny_engine(), tmp_path).run()
    path = tmp_path / "study.json"
    older = json.loads(path.read_text())
    del older["config"]["neural_cache"], older["config"]["learn_written"]
    path.write_text(json.dumps(older))
    Study(plan(settings=("author",), seeds=1), tiny_engine(), tmp_path).run()


def test_what_cannot_be_measured_is_said(tmp_path: Path) -> None:
    study = Study(plan(books=[*BOOKS, Text("short", "Too little.")]), tiny_engine(), tmp_path)
    assert "short: has 11 tokens" in study.notes[0]
    with pytest.raises(TextError, match="no book is long enough"):
        Study(plan(books=[Text("short", "Too little.")], settings=("own",)), tiny_engine(), tmp_path / "a")
    with pytest.raises(OptionError, match="another config"):
        Study(plan(config=CONFIG.__class__(**{**CONFIG.to_dict(), "rank": 2})), tiny_engine(), tmp_path)
    for options, problem in (
        ({"settings": ("owm",)}, "did you mean 'own'"),
        ({"absorbed": (10,)}, "at least the window"),
        ({"absorbed": ()}, "at least 1"),
        ({"written": 0}, "at least 1"),
        ({"books": BOOKS[:1]}, "only one"),
    ):
        with pytest.raises(OptionError, match=problem):
            plan(**options)


def test_a_book_in_another_script_has_no_names_and_is_measured_all_the_same(tmp_path: Path) -> None:
    books = [Text(name, "".join(f"第{i}天，老人对{name}说话。" for i in range(60))) for name in ("王", "李")]
    Study(plan(books=books, settings=("author", "base"), seeds=1), tiny_engine(), tmp_path).run()
    for document in documents(tmp_path).values():
        assert document["slices"][0]["carried_names"] == {}


def test_samples_of_one_seed_come_together() -> None:
    samples = plan().samples
    assert [s.seed for s in samples] == sorted(s.seed for s in samples)
    assert Sample("1684", 300, "own", 2).key == "1684--300--own--2"
    assert Sample("Ödön", 300, "own", 2).key != Sample("Ädän", 300, "own", 2).key


def test_the_tables_say_what_the_samples_say(tmp_path: Path) -> None:
    study = Study(plan(written=80), tiny_engine(), tmp_path)
    study.run()
    judge(study, tiny_engine(), window=200)
    paths = write_tables(tmp_path, tmp_path)
    made, text = json.loads(paths[0].read_text()), paths[1].read_text()
    rows = made["lengths"]["300"]
    assert [*rows] == ["author", "base", "base-2x", "own", "other"]
    figure = rows["own"]["figures"]["repeated_4grams"]
    found = documents(tmp_path)
    by_hand = [
        [statistics.fmean(part["repeated_4grams"] for part in found[f"{book}--300--{setting}--{seed}.json"]["slices"])
         for book in ("one", "two") for seed in (1, 2)]
        for setting in ("own", "base")
    ]  # fmt: skip
    assert figure["mean"] == pytest.approx(statistics.fmean(by_hand[0]))
    assert figure["less_base"]["mean"] == pytest.approx(statistics.fmean(by_hand[0]) - statistics.fmean(by_hand[1]))
    assert figure["interval"][0] <= figure["mean"] <= figure["interval"][1]
    assert "| own | 4 |" in text
    assert "By thousand tokens" in text
    assert "nats a word, tiny-llama, window 200" in text


def test_an_interval_is_as_wide_as_the_books_differ() -> None:
    apart = {"a": [1.0, 1.0], "b": [3.0, 3.0]}
    assert interval(mean, apart) == (1.0, 3.0)
    assert interval(mean, {"a": [2.0, 2.0], "b": [2.0]}) == (2.0, 2.0)
    assert interval(mean, {"a": [2.0]}) is None
    assert ratio({"a": [(1.0, 2.0), (2.0, 2.0)]}) == pytest.approx(4 / 3)
    assert ratio({"a": [(0.0, 2.0)]}) is None
    assert difference({"a": [(1.0, 2.0)], "b": [(1.0, 4.0)]}) == 2.0


def test_a_folder_without_a_study_is_told(tmp_path: Path) -> None:
    with pytest.raises(TextError, match="no study"):
        write_tables(tmp_path, tmp_path)
    (tmp_path / "study.json").write_text('{"schema": 1}')
    with pytest.raises(TextError, match="nothing is written"):
        write_tables(tmp_path, tmp_path)
    (tmp_path / "study.json").write_text('{"schema": 99}')
    with pytest.raises(TextError, match="another version"):
        write_tables(tmp_path, tmp_path)


@pytest.mark.parametrize("held", ["", "[]", "{}", '{"schema": 1, "book": "one"}', '{"schema": 99}'])
def test_a_damaged_sample_is_named(tmp_path: Path, held: str) -> None:
    study = Study(plan(settings=("author",), seeds=1), tiny_engine(), tmp_path)
    (tmp_path / "one--300--author--1.json").write_text(held)
    for use in (study.run, lambda: write_tables(tmp_path, tmp_path), lambda: judge(study, tiny_engine(), window=200)):
        with pytest.raises(TextError, match=r"one--300--author--1\.json: cannot be read"):
            use()


def test_what_else_is_in_the_folder_stays(tmp_path: Path) -> None:
    (tmp_path / "sessions").mkdir()
    (tmp_path / "sessions" / "mine.txt").write_text("mine")
    Study(plan(settings=("own",), seeds=1), tiny_engine(), tmp_path).run()
    assert (tmp_path / "sessions" / "mine.txt").read_text() == "mine"
    assert not (tmp_path / ".unfinished").exists()


def test_adapters_may_begin_with_what_another_one_learnt(tmp_path: Path) -> None:
    engine = tiny_engine()
    with engine.session(CONFIG) as session:
        session.absorb("A third book. " * 40)
        session.save_adapter(tmp_path / "adapter")
    options: dict[str, Any] = {"books": BOOKS[:1], "settings": ("base", "own"), "seeds": 1}
    wrote = {}
    for name, start in (("cold", None), ("warm", tmp_path / "adapter")):
        for _ in range(2):  # goes on with what is there
            Study(plan(**options, adapter=start), engine, tmp_path / name).run()
        found = documents(tmp_path / name)
        wrote[name] = {setting: found[f"one--300--{setting}--1.json"]["ids"] for setting in ("base", "own")}
    assert wrote["cold"]["base"] == wrote["warm"]["base"]
    assert wrote["cold"]["own"] != wrote["warm"]["own"]
    with engine.session(CONFIG) as session:
        session.load_adapter(tmp_path / "adapter")
        session.absorb(BOOKS[0].content[:300])
        session.reseed(1)
        session.write(max_new_tokens=50)
        assert wrote["warm"]["own"] == " ".join(map(str, session.tokens[300:]))
    with pytest.raises(OptionError, match="adapter"):
        Study(plan(**options), engine, tmp_path / "warm")
