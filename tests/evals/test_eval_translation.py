"""The translation task of evaluations: pairs in, a row a paragraph out, tables of both."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from evaluations import CONFIG, WORKER, plan, tiny_folder

from templora.cli.eval import evaluate
from templora.cli.report import report
from templora.errors import OptionError, TextError
from templora.evals.measuring.cell import Cell
from templora.evals.measuring.measure import measure
from templora.evals.measuring.pairs import Parallel, find_pairs
from templora.evals.measuring.plan import Plan, read_plan
from templora.evals.measuring.run import Stopped
from templora.evals.measuring.runner import Runner
from templora.evals.reporting import results, translations
from templora.evals.reporting.groups import group
from templora.evals.reporting.report import sections
from templora.sampling import SamplingParams
from templora.translation.inline.characters import one_line
from templora.translation.quality.doubts import Doubts
from templora.translation.template import read_template

GREEDY = SamplingParams(temperature=0, repetition_penalty=1.0, stop="\n")
PAIRS = [(f"Der Hund {i} sah das Haus.", f"The dog {i} saw the house.") for i in range(5)]
TASK = {"task": "translation", "to": "en", "from_": "de", "template": "lines", "pairs": None}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_folder(tmp_path_factory.mktemp("model"))


@pytest.fixture
def trusting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the tiny model writes is taken for a translation."""
    monkeypatch.setattr(Doubts, "about", lambda *_: "")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "hunde.jsonl"
    lines = [{"de": de, "en": en, "chapter": i // 3} for i, (de, en) in enumerate(PAIRS)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def planned(model: Path, file: Path, **options: Any) -> Plan:
    config = CONFIG | {"window": 192, "chunk_size": 96, "min_entropy": 0.0, "max_repetition": 1.0}
    return plan(model, file, **TASK | {"config": config | options.pop("config", {})} | options)


def cells(made: Plan) -> dict[tuple[str, str], tuple[Cell, Parallel]]:
    texts = {text.name: text for text in made.find_texts()}
    found = {}
    for cell in made.cells(list(texts.values())):
        text = texts[cell.text]
        assert isinstance(text, Parallel)
        assert cell.translation is not None
        found[cell.adapter, cell.translation.targets] = cell, text
    return found


def without_clocks(result: dict[str, Any]) -> Any:
    rows = [{k: v for k, v in row.items() if k != "seconds"} for row in result["chunks"]]
    return rows, result["tokens"], result["nll"], result["text_tokens"]


def test_cells_of_translations(model: Path, file: Path) -> None:
    found = cells(planned(model, file, targets=["reference", "own"]))
    assert set(found) == {("none", "reference"), ("none", "own"), ("own", "reference"), ("own", "own")}
    for cell, _ in found.values():
        assert Cell.from_dict(json.loads(json.dumps(cell.to_dict()))) == cell
        assert cell.translation is not None
        assert cell.translation.targets in cell.key
    assert found["own", "own"][0].bare == found["none", "own"][0]


def test_terms_are_settled_or_not_and_compared_with_neither(model: Path, file: Path) -> None:
    def made(**plan: Any) -> list[Cell]:
        asked = planned(model, file, targets=["own"], **plan)
        return asked.cells(asked.find_texts())

    base, settling, ours = made(terms=["settle"])
    assert [(c.adapter, c.translation and c.translation.terms) for c in (base, settling, ours)] == [
        ("none", "glossary"),
        ("none", "settle"),
        ("own", "settle"),
    ]
    assert ours.bare.key == settling.bare.key == base.key
    # What was measured before there was a choice keeps its name; a table may choose for itself.
    assert "terms" not in base.to_dict()["translation"]
    tables = [{"targets": ["reference"], "adapters": ["none"]}, {"terms": ["settle", "glossary"]}]
    assert {(c.adapter, c.translation.targets, c.translation.terms) for c in made(methods=tables) if c.translation} == {
        ("none", "reference", "glossary"),
        ("none", "own", "glossary"),
        ("none", "own", "settle"),
        ("own", "own", "glossary"),
        ("own", "own", "settle"),
    }


def test_the_reference_is_scored_before_it_is_learnt(model: Path, file: Path, tmp_path: Path) -> None:
    """What base and adapter say of it, by a session used by hand."""
    from templora.loading import load

    made = planned(model, file, config={"mixture": False})
    found, engine = cells(made), load(str(model), threads=1)
    template = read_template("lines", engine.tokenizer, "German", "English")
    for adapter in ("none", "own"):
        cell, text = found[adapter, "reference"]
        result = measure(cell, text, tmp_path, engine=engine)
        assert [row["reference"] for row in result["chunks"]] == [en for _, en in PAIRS]
        with engine.session(cell.config) as session:
            for i, ((de, en), row) in enumerate(zip(PAIRS, result["chunks"], strict=True)):
                prompt, answer = template.prompt(de, {}, first=i == 0), template.answer(en)
                size = len(session.encode(prompt + answer))
                if i == 3 or session.open_tokens + size > 96:  # a chapter begins, or the chunk is full
                    session.close_chunk()
                said = session.preview(prompt, max_new_tokens=3 * len(de) + 32, sampling=GREEDY, base=adapter == "none")
                assert row["own"] == one_line(said.text).strip()
                session.absorb(prompt, learn=False)
                score = session.score(answer)
                likelihood = score.base if adapter == "none" else score.adapted
                assert row["nll"] == pytest.approx(likelihood.nll, abs=1e-6)
                assert row["targets"] == likelihood.tokens == len(session.encode(answer))
        learnt = [chunk["committed"] for row in result["chunks"] for chunk in row["learnt"]]
        assert any(learnt) == (adapter == "own")


@pytest.mark.usefixtures("trusting")
@pytest.mark.parametrize("targets", ["reference", "own"])
def test_whoever_is_stopped_goes_on(model: Path, file: Path, tmp_path: Path, targets: str) -> None:
    from templora.loading import load

    engine = load(str(model), threads=1)
    cell, text = cells(planned(model, file, targets=[targets]))["own", targets]
    folder = tmp_path / "parts"
    folder.mkdir()
    whole = measure(cell, text, tmp_path, engine=engine)
    for asked in range(len(PAIRS) - 1):
        with pytest.raises(Stopped):
            measure(cell, text, folder, engine=engine, stop=lambda: True)
        assert len(list(folder.glob("*.part"))) == 1, asked
    result = measure(cell, text, folder, engine=engine)
    assert without_clocks(result) == without_clocks(whole)
    assert (result["resumed"], len(list(folder.glob("*.part")))) == (len(PAIRS) - 1, 0)


@pytest.mark.usefixtures("trusting")
def test_without_an_adapter_nothing_is_learnt_from_what_is_written(model: Path, file: Path, tmp_path: Path) -> None:
    from templora.loading import load

    engine = load(str(model), threads=1)
    found = cells(planned(model, file, targets=["own"]))
    base, ours = (measure(*found[adapter, "own"], tmp_path, engine=engine)["chunks"] for adapter in ("none", "own"))
    assert [row["own"] for row in base] != [row["own"] for row in ours]
    assert not any(chunk["committed"] for row in base for chunk in row["learnt"])
    assert any(chunk["committed"] for row in ours for chunk in row["learnt"])
    assert {row["targets"] for row in (*base, *ours)} == {0}


def test_what_is_doubtful_is_neither_read_nor_learnt(model: Path, file: Path, tmp_path: Path) -> None:
    """This model never ends a line by itself."""
    from templora.loading import load

    engine = load(str(model), threads=1)
    rows = measure(*cells(planned(model, file, targets=["own"]))["own", "own"], tmp_path, engine=engine)["chunks"]
    assert {row["doubt"] for row in rows} == {"it was cut off at its longest"}
    assert not any(row["learnt"] for row in rows)


def test_what_guofeng_has_in_front_is_seen_and_not_scored(model: Path, tmp_path: Path) -> None:
    """Its contexts are the pairs before; chunks end with its segments."""
    from templora.loading import load

    def pairs(*numbers: int) -> list[dict[str, str]]:
        return [{"zh": PAIRS[i][0], "en": PAIRS[i][1]} for i in numbers]

    segments = [
        {"contexts": {"k1": pairs(0)}, "inference": pairs(1)},
        {"contexts": {"k1": pairs(1)}, "inference": pairs(2, 3)},
    ]
    file = tmp_path / "novel.json"
    file.write_text(json.dumps(segments))
    engine = load(str(model), threads=1)
    cell, text = cells(planned(model, file, from_="zh"))["own", "reference"]
    result = measure(cell, text, tmp_path, engine=engine)
    assert [row["source"] for row in result["chunks"]] == [PAIRS[i][0] for i in (1, 2, 3)]
    assert [len(row["learnt"]) for row in result["chunks"][:2]] == [0, 1]
    template = read_template("lines", engine.tokenizer, "Chinese", "English")
    with engine.session(cell.config) as session:
        session.absorb(template.prompt(PAIRS[0][0], {}, first=True) + template.answer(PAIRS[0][1]), learn=False)
        session.absorb(template.prompt(PAIRS[1][0], {}, first=False), learn=False)
        score = session.score(template.answer(PAIRS[1][1]))
    assert result["chunks"][0]["nll"] == pytest.approx(score.mixed.nll, abs=1e-6)


def row(i: int, nll: float, own: str, learnt: bool = False) -> dict[str, Any]:
    update = [{"committed": True, "start": 0, "end": 9}] if learnt else []
    return {
        "source": f"这是内核 {i}", "reference": f"this is the kernel {i}", "own": own, "whole": True, "targets": 10,
        "nll": nll, "words": 5, "bytes": 20, "learnt": update, "seconds": 0.5 + learnt,
    }  # fmt: skip


def result(cell: Cell, rows: list[dict[str, Any]]) -> dict[str, Any]:
    total = {"targets": "tokens", "words": "words", "bytes": "bytes"}
    return {
        "schema": results.SCHEMA, "status": "done", "cell": cell.to_dict(), "chunks": rows, "others": 0.0, "notes": [],
        "device": "cpu",
        "nll": math.fsum(r["nll"] for r in rows), **{to: sum(r[key] for r in rows) for key, to in total.items()},
    }  # fmt: skip


def test_tables_are_arithmetic(model: Path, file: Path, tmp_path: Path) -> None:
    found = cells(planned(model, file))
    base = result(found["none", "reference"][0], [row(i, 20.0, f"this is core {i}") for i in range(12)])
    ours = result(found["own", "reference"][0], [row(i, 18.0, f"this is the kernel {i}", i < 9) for i in range(12)])
    for cell, document in ((found["none", "reference"][0], base), (found["own", "reference"][0], ours)):
        results.write(tmp_path, cell, document)
        assert results.find(tmp_path, cell) == document
    (one,) = translations.comparisons(group([base, ours]))
    assert (one.updates, one.learnt_until) == ((9, 0), "9 of 12")
    assert one.slower == pytest.approx(2.5)
    base["device"] = "another"
    assert one.slower is None
    base["device"] = "cpu"
    table = translations.scores([one])
    assert [r[0][:19] for r in table.rows] == ["reference, k1, base", "reference, k1, defa"]
    assert [r[1] for r in table.rows] == [f"{math.exp(2):.3f}", f"{math.exp(1.8):.3f}"]
    assert [r[2] for r in table.rows][1] == "100.00"
    assert translations.differences([one]).rows[0][1].startswith("−18.13 %")
    assert [r[1] for r in translations.by_position([one]).rows] == ["3"] * 4
    titles = [t.title for s in sections([base, ours]) for t in s.tables]
    assert titles[:3] == ["Base and adapted", "What the adapter changes", "By position in the document"]
    assert "perplexity of the reference −18.13 %" in sections([base, ours])[0].text


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"to": None}, OptionError, "to: say which language"),
        ({"to": "Xyzzyish"}, OptionError, "to: unknown language"),
        ({"targets": ["truth"]}, OptionError, "targets: unknown 'truth'"),
        ({"pairs": 0}, OptionError, "pairs: must be at least 1"),
        ({"terms": ["setle"]}, OptionError, "terms: unknown 'setle'; did you mean 'settle'"),
        ({"methods": [{"targets": ["truth"]}]}, OptionError, "targets: unknown 'truth'"),
        ({"texts": ["hund"]}, OptionError, "there is no document 'hund'; did you mean 'hunde.jsonl'"),
        ({"methods": [{"adapters": ["other"]}]}, OptionError, "'other' is for books"),
        ({"methods": [{"method": "attention_sinks"}]}, OptionError, "method: 'attention_sinks' is for books"),
        ({"repetition_penalty": 0.0}, OptionError, "repetition.penalty"),
        ({"from_": "fr"}, TextError, "has no 'fr'"),
    ],
)
def test_what_cannot_be_planned(model: Path, file: Path, options: Any, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        cells(planned(model, file, **options))


def test_the_plan_that_comes_with_the_package(file: Path) -> None:
    made = read_plan("translation")
    assert (made.task, made.pairs, made.to) == ("translation", 300, None)


def test_on_the_command_line(model: Path, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Runner, "worker", WORKER)
    out = tmp_path / "out"
    sizes = ["--window", "192", "--chunk-size", "96", "--rank", "4", "--alpha", "4", "--threads", "1"]
    asked = ["translation", "--books", str(file), "--to", "en", "--from", "de", "--model", str(model)]
    asked += [
        "--targets",
        "reference",
        "--terms",
        "glossary",
        "--pairs",
        "2",
        "--method",
        "sliding_window",
        "--out",
        str(out),
        *sizes,
    ]
    ran = CliRunner().invoke(evaluate, asked)
    assert ran.exit_code == 0, ran.output
    assert len(list(out.glob("*--reference--*.json"))) == 2
    shown = CliRunner().invoke(report, [str(out), "--print", "--comet", "nothing"])
    assert shown.exit_code == 0, shown.output
    assert "| reference, k1" in shown.output
    assert "sacreBLEU's signature" in shown.output
    assert "| COMET | COMET" in shown.output  # why there is none


def test_pairs_of_a_folder(file: Path) -> None:
    (file.parent / "zweite.jsonl").write_text(json.dumps({"de": "Ja.", "en": "Yes."}) + "\n")
    assert [text.name for text in find_pairs(str(file.parent), "en", "de")] == ["hunde.jsonl", "zweite.jsonl"]
    (file.parent / "._zweite.jsonl").write_bytes(b"\0\5")
    assert [text.name for text in find_pairs(str(file.parent), "en", "de")] == ["hunde.jsonl", "zweite.jsonl"]
    (file.parent / "nichts").mkdir()
    with pytest.raises(OptionError, match="holds no aligned pairs"):
        find_pairs(str(file.parent / "nichts"), "en", "de")
