"""`templora glossary`, as a user runs it."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from evaluations import tiny_folder

from templora.cli.glossary import glossary as command
from templora.cli.translate import translate
from templora.errors import OptionError, TextError

LINE = "The keeper {} the lighthouse, and the keeper {} again.\n\n"
BOOK = "".join(LINE.format(a, b) for a, b in zip(["climbed", "left", "saw"], ["slept", "ate", "sang"], strict=True))
BOOK += "".join(f"In the year {n} it rained {n} times, and nobody knew why.\n\n" for n in range(20, 30))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_folder(tmp_path_factory.mktemp("glossary") / "model")


@pytest.fixture
def run(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> object:
    monkeypatch.setenv("TEMPLORA_SESSIONS", str(tmp_path / "sessions"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "book.txt").write_text(BOOK, encoding="utf-8")

    def invoke(*arguments: object, quiet: bool = True) -> Result:
        given = [
            "book.txt",
            "--from",
            "en",
            "--to",
            "de",
            "--model",
            str(model),
            "--chunk-size",
            "96",
            "--window",
            "192",
        ]
        done = CliRunner().invoke(command, [*given, *(["--quiet"] if quiet else []), *map(str, arguments)])
        if done.exception and not isinstance(done.exception, SystemExit):
            raise done.exception
        return done

    return invoke


def test_on_standard_output_and_in_files(run: object, tmp_path: Path) -> None:
    said = run().stdout  # type: ignore[operator]
    rows = list(csv.DictReader(io.StringIO(said)))
    assert "keeper" in [row["term"] for row in rows]
    assert [int(row["paragraphs"]) for row in rows] == sorted((int(row["paragraphs"]) for row in rows), reverse=True)
    assert run("--out", "terms.csv").stdout == ""  # type: ignore[operator]
    assert (tmp_path / "terms.csv").read_text() == said
    run("--out", "terms.json", "--most", 1)  # type: ignore[operator]
    assert [entry["term"] for entry in json.loads((tmp_path / "terms.json").read_text())] == [rows[0]["term"]]
    report = json.loads(run("--out", "terms.tsv", "--json").stdout)  # type: ignore[operator]
    assert (report["command"], report["from"], report["to"], report["discarded"]) == ("glossary", "en", "de", True)
    assert len(report["terms"]) == len(rows)


def test_it_goes_straight_into_a_translation(run: object, model: Path, tmp_path: Path) -> None:
    run("--out", "terms.csv")  # type: ignore[operator]
    edited = (tmp_path / "terms.csv").read_text().replace("\nkeeper,", "\nkeeper,Wärter", 1)
    (tmp_path / "terms.csv").write_text(edited)
    given = ["book.txt", "--from", "en", "--to", "de", "--model", str(model), "--chunk-size", "180", "--window", "250"]
    given += ["--rank", "4"]
    more = ["--glossary", "terms.csv", "--preview", "2", "--out", "out.txt", "--report", "run.json"]
    assert CliRunner().invoke(translate, [*given, *more], catch_exceptions=False).exit_code == 0
    terms = json.loads((tmp_path / "run.json").read_text())["glossary"]
    assert ("keeper", "Wärter") in [(term["term"], term["translation"]) for term in terms]
    # What is known is not proposed again.
    assert "\nkeeper," not in run("--glossary", "terms.csv").stdout  # type: ignore[operator]


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        (["--out", "terms.xls"], OptionError, "out: terms.xls must end in .csv, .tsv, .json"),
        (["--json"], OptionError, "json: the report needs standard output for itself"),
        (["--to", "en"], OptionError, "to: English is the language of book.txt already"),
        (["--glossary", "nowhere.csv"], TextError, "nowhere.csv: cannot be read"),
    ],
)
def test_what_cannot_be(run: object, arguments: list[str], error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said.replace(".", r"\.")):
        run(*arguments)  # type: ignore[operator]
