"""`templora translate`, as a user runs it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from evaluations import tiny_folder
from forked import PYTHON

from templora.cli.translate import translate as command
from templora.errors import ModelError, OptionError, StoreError, TextError
from templora.store.store import SessionStore
from templora.translation.quality.doubts import Doubts
from templora.translation.translation import Translation
from templora.translation.translator import Translator

SMALL = ["--chunk-size", "96", "--window", "192", "--rank", "4", "--learning-rate", "0.01"]
BOOK = (
    "  The Lighthouse\n\n"
    "The keeper climbed the stairs,\nand the lamp was lit.\n\n\n"
    "* * *\n\n"
    "Nobody came that winter.   \n\n"
    "1847\n\n"
    "“Who goes there?” asked the keeper.\n"
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_folder(tmp_path_factory.mktemp("translate") / "model")


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SessionStore:
    monkeypatch.setenv("TEMPLORA_SESSIONS", str(tmp_path / "sessions"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "book.txt").write_text(BOOK, encoding="utf-8")
    return SessionStore()


@pytest.fixture
def trusting(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the tiny model writes is taken for a translation."""
    monkeypatch.setattr(Doubts, "about", lambda *_: "")


Translate = Callable[..., Result]


@pytest.fixture
def translate(model: Path, store: SessionStore) -> Translate:
    def run(*arguments: object, quiet: bool = True) -> Result:
        given = ["book.txt", "--from", "en", "--to", "de", "--model", str(model), *SMALL]
        given += [*(["--quiet"] if quiet else []), *map(str, arguments)]
        return CliRunner().invoke(command, given, catch_exceptions=True)

    return run


def outcome(result: Result) -> Result:
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def test_a_document_from_its_beginning_to_its_end(translate: Translate, store: SessionStore, tmp_path: Path) -> None:
    done = outcome(translate("--out", "book.de.txt", "--pairs", "book.jsonl", "--report", "run.json"))
    assert done.exit_code == 0
    assert done.output == ""
    pairs = [json.loads(line) for line in (tmp_path / "book.jsonl").read_text().splitlines()]
    assert [p["source"] for p in pairs] == [
        "The Lighthouse",
        "The keeper climbed the stairs, and the lamp was lit.",
        "Nobody came that winter.",
        "“Who goes there?” asked the keeper.",
    ]
    a, b, c, d = (p["target"] for p in pairs)
    # All that stands between paragraphs is what it was.
    text = (tmp_path / "book.de.txt").read_bytes().decode()
    assert text == f"  {one(a)}\n\n{one(b)}\n\n\n* * *\n\n{one(c)}   \n\n1847\n\n{one(d)}\n"
    report = json.loads((tmp_path / "run.json").read_text())
    assert (report["command"], report["from"], report["to"]) == ("translate", "en", "de")
    assert (report["paragraphs"], report["of"], report["complete"]) == (4, 4, True)
    assert report["base_unchanged"]
    assert report["discarded"]
    assert store.names() == [], "what is done leaves nothing behind"
    # On standard output it is the same.
    assert outcome(translate()).stdout == text


def one(target: str) -> str:
    from templora.translation.inline.characters import one_line

    return one_line(target)


def test_a_preview_and_the_rest(translate: Translate, store: SessionStore, tmp_path: Path) -> None:
    whole = outcome(translate()).stdout
    first = outcome(translate("--preview", 2, "--out", "out.txt"))
    assert first.exit_code == 0
    begun = (tmp_path / "out.txt").read_text()
    assert whole.startswith(begun)
    assert begun.endswith("* * *\n\n")
    (name,) = store.names()
    assert name.startswith("translate-book-de-")
    with pytest.raises(OptionError, match=f"2 of 4 paragraphs .* --resume, or .* discard {name}"):
        outcome(translate("--out", "out.txt"))
    outcome(translate("--out", "out.txt", "--resume"))
    assert (tmp_path / "out.txt").read_text() == whole
    assert store.names() == []


def test_resumed_to_standard_output_it_goes_on_where_it_was(translate: Translate) -> None:
    whole = outcome(translate()).stdout
    first = outcome(translate("--preview", 3)).stdout
    assert first + outcome(translate("--resume")).stdout == whole


def test_a_file_that_was_changed_meanwhile_is_kept(translate: Translate, tmp_path: Path) -> None:
    outcome(translate("--preview", 2, "--out", "out.txt"))
    (tmp_path / "out.txt").write_text("my own words")
    outcome(translate("--resume", "--out", "out.txt"))
    assert (tmp_path / "out.txt~").read_text() == "my own words"
    assert "my own" not in (tmp_path / "out.txt").read_text()


def test_another_file_is_not_overwritten(translate: Translate, tmp_path: Path) -> None:
    (tmp_path / "out.txt").write_text("precious")
    with pytest.raises(OptionError, match=r"out: out\.txt is there already"):
        outcome(translate("--out", "out.txt"))
    assert (tmp_path / "out.txt").read_text() == "precious"


def test_corrections(translate: Translate, store: SessionStore, tmp_path: Path) -> None:
    """Lines that nobody edited are no corrections; what comes before the first edited one stays."""
    named = ("--session", "book", "--out", "out.txt", "--pairs", "book.jsonl")
    outcome(translate(*named))
    assert store.names() == ["book"]
    lines = (tmp_path / "book.jsonl").read_text().splitlines()
    before = [json.loads(line)["target"] for line in lines]
    edited = {**json.loads(lines[1]), "target": "Der Wärter stieg hinauf."}
    lines[1] = json.dumps(edited)
    (tmp_path / "book.jsonl").write_text("\n".join(lines))
    outcome(translate(*named, "--corrections", "book.jsonl"))
    after = [json.loads(line)["target"] for line in (tmp_path / "book.jsonl").read_text().splitlines()]
    assert after[:2] == [before[0], edited["target"]]
    assert after[2:] != before[2:]
    assert "Der Wärter stieg hinauf.\n" in (tmp_path / "out.txt").read_text()
    # Given again, nothing changes.
    outcome(translate(*named, "--corrections", "book.jsonl"))
    assert [json.loads(line)["target"] for line in (tmp_path / "book.jsonl").read_text().splitlines()] == after


@pytest.mark.usefixtures("trusting")
def test_a_glossary_is_shown_to_the_model_and_reported(
    translate: Translate, store: SessionStore, tmp_path: Path
) -> None:
    (tmp_path / "terms.tsv").write_text("# names\nkeeper\tWärter\nlamp\tLampe\n")
    done = outcome(translate("--glossary", "terms.tsv", "--session", "g", "--report", "run.json", quiet=False))
    assert "Terms: keeper = Wärter\nEnglish: The keeper climbed" in store.history("g").text
    terms = json.loads((tmp_path / "run.json").read_text())["glossary"]
    assert [(t["term"], t["translation"], t["paragraphs"]) for t in terms] == [
        ("keeper", "Wärter", 2),
        ("lamp", "Lampe", 1),
    ]
    kept = sum(t["kept"] for t in terms)
    assert f"glossary: kept {kept} of 3 times" in done.stderr
    assert ("not always: keeper" in done.stderr) == (terms[0]["kept"] < 2)


def test_what_is_doubtful_is_said(translate: Translate, tmp_path: Path) -> None:
    done = outcome(translate("--report", "run.json", "--out", "out.txt", quiet=False))
    report = json.loads((tmp_path / "run.json").read_text())
    assert report["doubts"]["it was cut off at its longest"] == [1, 2, 3, 4]
    assert "doubtful, for it was cut off at its longest: paragraphs 1, 2, 3, 4\n" in done.stderr


ALIGNED = [("The lamp.", "Die Lampe."), ("***", "***"), ("Nobody came that winter.", "Niemand kam in jenem Winter.")]


def test_aligned_pairs_are_learnt_and_compared_with(model: Path, store: SessionStore, tmp_path: Path) -> None:
    """The true translation is revealed after the model's own, which is what is shown."""
    lines = [json.dumps({"en": en, "de": de, "chapter": 1}) for en, de in ALIGNED]
    (tmp_path / "pairs.jsonl").write_text("\n".join(lines))
    given = ["pairs.jsonl", "--to", "de", "--from", "en", "--model", str(model), *SMALL, "--report", "run.json"]
    found = {}
    for targets in ("reference", "own"):
        done = outcome(CliRunner().invoke(command, [*given, "--targets", targets, "--out", f"{targets}.jsonl"]))
        assert done.exit_code == 0, done.output
        rows = [json.loads(line) for line in (tmp_path / f"{targets}.jsonl").read_text().splitlines()]
        assert [(r["source"], r["reference"], r["chapter"]) for r in rows] == [(*ALIGNED[i], "1") for i in (0, 2)]
        report = json.loads((tmp_path / "run.json").read_text())
        assert report["quality"]["bleu"]["signature"].startswith("nrefs:1")
        assert "against the true translations: BLEU" in done.stderr
        found[targets] = [r["translation"] for r in rows]
        assert found[targets] != [r["reference"] for r in rows]
    named = [*given, "--targets", "reference", "--session", "named", "--out", "again.jsonl"]
    assert outcome(CliRunner().invoke(command, named)).exit_code == 0
    assert "\nGerman: Niemand kam in jenem Winter.\n" in store.history("named").text
    assert (tmp_path / "again.jsonl").read_text() == (tmp_path / "reference.jsonl").read_text()


def test_there_must_be_a_true_translation_to_reveal(translate: Translate) -> None:
    with pytest.raises(OptionError, match=r"targets: book.txt has no true translations"):
        outcome(translate("--targets", "reference"))


def test_stopped_with_ctrl_c_and_gone_on_with(model: Path, translate: Translate, tmp_path: Path) -> None:
    whole = outcome(translate()).stdout
    arguments = ["book.txt", "--from", "en", "--to", "de", "--model", str(model), *SMALL, "--out", "out.txt"]
    process = subprocess.Popen([*PYTHON, "-m", "templora", "translate", *arguments], stderr=subprocess.PIPE, text=True)
    out = tmp_path / "out.txt"
    while process.poll() is None and not (out.exists() and out.stat().st_size):
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=60)[1]
    assert process.returncode in (0, 130)
    if process.returncode:
        assert "the same command with --resume goes on" in said
        outcome(translate("--out", "out.txt", "--resume"))
    assert (tmp_path / "out.txt").read_text() == whole


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--to", "xx"], "to: unknown language 'xx'"),
        (["--from", "Gremlin"], "from: unknown language"),
        (["--from", "de"], "German is the language of book.txt already"),
        (["--json"], "give --out FILE"),
        (["--pairs", "nowhere/p.jsonl"], "pairs: nowhere/p.jsonl cannot be written"),
        (["--pairs", "book.txt"], "pairs: would overwrite a file of this run"),
        (["--glossary", "-"], "glossary: must be a file"),
        (["--template", "lime"], "did you mean 'lines'"),
        (["--template", "chat"], "no chat template"),
    ],
)
def test_what_cannot_be(translate: Translate, store: SessionStore, arguments: list[str], problem: str) -> None:
    with pytest.raises(OptionError, match=problem):
        outcome(translate(*arguments))
    assert store.names() == []


@pytest.mark.parametrize(
    ("file", "text", "problem"),
    [
        ("terms.tsv", "a\tb\tc\n", "terms.tsv, line 1: a term, a tab and its translation"),
        ("terms.tsv", "a\tb\n\na\tc\n", "line 3: 'a' is 'c' here, and 'b' in line 1"),
        ("terms.tsv", "a\tb\nb\tc\nc\ta\n", "a cycle: a → b → c → a"),
        ("terms.tsv", "a\t\n", "line 1: its translation is empty"),
        ("terms.tsv", "# nothing\n", None),
        ("terms.tsv", "a\ta\nb\tc\nb\tc\n", None),
        ("fixed.jsonl", "{", "fixed.jsonl, line 1: not JSON"),
        ("fixed.jsonl", '{"segment": 9, "source": "a", "target": "b"}', "there is no paragraph 9; the document has 4"),
        ("fixed.jsonl", '{"segment": 1, "source": "a", "target": "b"}', "its paragraph 1 is 'The Lighthouse', not 'a'"),
        (
            "fixed.jsonl",
            '{"segment": 1, "source": "Nobody came that winter.", "target": "b"}',
            "it is paragraph 3 now",
        ),
        ("fixed.jsonl", '{"segment": 1, "source": "The Lighthouse", "target": " "}', "the translation is empty"),
        ("fixed.jsonl", '{"segment": 1, "source": "The Lighthouse"}', "target is missing"),
        ("fixed.jsonl", "[]", "must be an object"),
    ],
)
def test_files_that_cannot_be_used(
    translate: Translate, store: SessionStore, tmp_path: Path, file: str, text: str, problem: str | None
) -> None:
    (tmp_path / file).write_text(text)
    option = "--glossary" if file == "terms.tsv" else "--corrections"
    if problem is None:
        assert outcome(translate(option, file, "--preview", 1)).exit_code == 0
        return
    with pytest.raises(TextError, match=problem):
        outcome(translate(option, file))
    assert store.names() == [], "nothing has begun"


def test_other_settings_are_not_taken_up(translate: Translate, tmp_path: Path) -> None:
    outcome(translate("--preview", 1))
    with pytest.raises(OptionError, match=r"temperature: the translation began with 0\.0, and keeps that; not 0\.5"):
        outcome(translate("--resume", "--temperature", 0.5))
    (tmp_path / "book.txt").write_text(BOOK.replace("keeper", "guard"))
    done = outcome(translate("--resume", quiet=False))
    assert "there was nothing to resume" in done.stderr, "another text is another translation"


def test_further_sampling_is_taken_up(translate: Translate) -> None:
    """What is no number comes back from a log as it went in."""
    how = ["--dry-multiplier", 0.8, "--dry-sequence-breakers", "x", "--logit-bias", "sea=-5", "--logit-bias", "#7=1"]
    outcome(translate("--preview", 1, *how))
    assert outcome(translate("--preview", 2, "--resume", *how)).exit_code == 0
    with pytest.raises(OptionError, match="logit_bias: the translation began with"):
        outcome(translate("--resume", *how[:4]))


def test_markdown_keeps_its_markup(model: Path, store: SessionStore, tmp_path: Path) -> None:
    text = "# The lamp\n\nSee [the manual](https://example.org/a_b) and run `oil --lamp`.\n\n"
    text += "```sh\noil --lamp\n```\n\n- one\n- 2\n"
    (tmp_path / "a.md").write_text(text)
    arguments = ["a.md", "--from", "en", "--to", "de", "--model", str(model), *SMALL, "--quiet", "--out", "b.md"]
    outcome(CliRunner().invoke(command, arguments))
    made = (tmp_path / "b.md").read_text()
    assert made.startswith("# ")
    assert "```sh\noil --lamp\n```\n\n- " in made
    assert made.endswith("\n- 2\n")
    assert made.count("](https://example.org/a_b)") == made.count("`oil --lamp`") == 1
    assert "the manual" not in made


def test_an_epub_needs_a_file_and_is_one(model: Path, store: SessionStore, tmp_path: Path) -> None:
    from books import FILES, book

    (tmp_path / "a.epub").write_bytes(book({"OEBPS/lost.xhtml": b""}))
    arguments = ["a.epub", "--from", "en", "--to", "ar", "--model", str(model), *SMALL, "--quiet", "--preview", "2"]
    with pytest.raises(OptionError, match=r"out: a \.epub needs a file"):
        outcome(CliRunner().invoke(command, arguments))
    outcome(CliRunner().invoke(command, [*arguments, "--out", "b.epub", "--report", "r.json"]))
    with zipfile.ZipFile(tmp_path / "b.epub") as archive:
        made = {name: archive.read(name) for name in archive.namelist()}
    assert made.pop("OEBPS/lost.xhtml") == b""
    assert list(made) == list(FILES)
    said = "OEBPS/lost.xhtml: the package does not name it; left as it is"
    assert json.loads((tmp_path / "r.json").read_text())["problems"] == [said]
    changed = {name for name, raw in made.items() if raw != FILES[name]}
    assert "OEBPS/text/one.xhtml" in changed
    assert {"mimetype", "OEBPS/lamp.png", "OEBPS/style.css"}.isdisjoint(changed)
    assert b'dir="rtl"' in made["OEBPS/text/one.xhtml"]
    assert b">ar</dc:language>" in made["OEBPS/book.opf"]


def test_a_start_that_failed_leaves_nothing_to_resume(
    translate: Translate, store: SessionStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Neither where the model fails at once, nor where it was killed before the first paragraph was done."""
    whole = outcome(translate()).stdout

    def fail(*_: object, **__: object) -> None:
        raise ModelError("it cannot")

    for place in (Translation, Translator):
        with monkeypatch.context() as patched:
            patched.setattr(place, "__init__" if place is Translation else "_draft", fail)
            with pytest.raises(ModelError, match="it cannot"):
                outcome(translate("--out", "out.txt"))
        assert store.names() == []
    with monkeypatch.context() as patched:
        patched.setattr(Translator, "_draft", fail)
        patched.setattr(SessionStore, "discard", lambda *_, **__: None)
        assert translate("--session", "book").exit_code
    assert store.names() == ["book"]
    assert outcome(translate("--session", "book", "--rank", 3, "--out", "out.txt")).exit_code == 0
    assert store.history("book").begin["config"]["rank"] == 3
    assert (tmp_path / "out.txt").read_text() != ""
    assert outcome(translate()).stdout == whole


@pytest.mark.parametrize("name", ["..", "", ".hidden", "a/b", "-x", "n" * 101])
def test_a_name_that_cannot_be_is_found_before_the_model_loads(
    translate: Translate, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr("templora.loading.load", lambda *_, **__: pytest.fail("the model was loaded"))
    with pytest.raises(StoreError, match="cannot be a session's name"):
        outcome(translate("--session", name))


def test_other_encodings(translate: Translate, tmp_path: Path) -> None:
    """Found, or named, they are read alike, and so is what --resume goes on with; the translation is in UTF-8."""
    text = "“Où est la lampe de la mère ?” Elle était là.\r\n\r\n— Elle est déjà près de l’île, à côté du phare.\r\n"
    book = tmp_path / "book.txt"
    book.write_bytes(text.encode())
    outcome(translate("--from", "fr", "--out", "whole.txt"))
    book.write_bytes(text.encode("cp1252"))
    begun = outcome(translate("--from", "fr", "--preview", 1, "--out", "out.txt", quiet=False))
    assert "book.txt: read as windows-1252; --encoding names another" in begun.stderr
    book.write_bytes(text.encode("utf-16"))
    outcome(translate("--from", "fr", "--resume", "--out", "out.txt"))
    made, whole = ((tmp_path / name).read_bytes() for name in ("out.txt", "whole.txt"))
    assert made == b"\xef\xbb\xbf" + whole, "with the byte order mark of the file that it was gone on with from"
    book.write_bytes(text.encode("cp850", "replace"))  # which has no such quotes
    said = outcome(translate("--from", "fr", "--encoding", "IBM850", "--report", "run.json", quiet=False)).stderr
    assert "read as" not in said
    with pytest.raises(OptionError, match="encoding: unknown encoding 'gb1803'; did you mean 'gb18030'"):
        outcome(translate("--encoding", "gb1803"))
    with pytest.raises(TextError, match=r"book.txt: not UTF-8 text \(byte 2\), which --encoding says"):
        outcome(translate("--encoding", "utf8"))


def test_an_encoding_is_of_a_text(model: Path, store: SessionStore, tmp_path: Path) -> None:
    from books import book

    (tmp_path / "a.epub").write_bytes(book())
    arguments = ["a.epub", "--to", "de", "--model", str(model), "--encoding", "cp1252", "--out", "b.epub"]
    with pytest.raises(OptionError, match=r"encoding: an? \.epub says itself which one it is in"):
        outcome(CliRunner().invoke(command, arguments))
    (tmp_path / "p.jsonl").write_bytes('{"fr": "L’été déjà.", "en": "Summer already."}'.encode("utf-16"))
    arguments = ["p.jsonl", "--from", "fr", "--to", "en", "--model", str(model), *SMALL, "--quiet", "--out", "b.jsonl"]
    outcome(CliRunner().invoke(command, arguments))
    assert json.loads((tmp_path / "b.jsonl").read_text())["source"] == "L’été déjà."


@pytest.mark.parametrize("layout", ["both", "side"])
def test_both_languages(translate: Translate, tmp_path: Path, layout: str) -> None:
    """Gone on with in another layout it is written anew, and nothing is translated twice."""
    outcome(translate("--layout", layout, "--out", "whole.txt", "--pairs", "p.jsonl", "--report", "r.json"))
    whole = (tmp_path / "whole.txt").read_bytes()
    assert json.loads((tmp_path / "r.json").read_text())["layout"] == layout
    pairs = [json.loads(line) for line in (tmp_path / "p.jsonl").read_text().splitlines()]
    if layout == "both":
        a, b, c, d = (one(pair["target"]) for pair in pairs)
        assert whole.decode() == (
            f"  The Lighthouse\n\n  {a}\n\nThe keeper climbed the stairs,\nand the lamp was lit.\n\n{b}\n\n\n"
            f"* * *\n\nNobody came that winter.\n\n{c}   \n\n1847\n\n“Who goes there?” asked the keeper.\n\n{d}\n"
        )
    outcome(translate("--layout", layout, "--out", "other.txt", "--preview", 2))
    done = outcome(translate("--out", "other.txt", "--resume", quiet=False))
    assert "other.txt had been changed; what it was is in other.txt~" in done.stderr
    assert (tmp_path / "other.txt").read_text() == outcome(translate()).stdout
    assert whole.startswith((tmp_path / "other.txt~").read_bytes())


def test_both_languages_killed_and_gone_on_with(model: Path, translate: Translate, tmp_path: Path) -> None:
    outcome(translate("--layout", "both", "--out", "whole.txt"))
    whole = (tmp_path / "whole.txt").read_bytes()
    arguments = ["book.txt", "--from", "en", "--to", "de", "--model", str(model), *SMALL, "--out", "out.txt"]
    arguments += ["--layout", "both"]
    process = subprocess.Popen([sys.executable, "-m", "templora", "translate", *arguments], stderr=subprocess.DEVNULL)
    out = tmp_path / "out.txt"
    while process.poll() is None and not (out.exists() and out.stat().st_size):
        time.sleep(0.01)
    process.kill()
    process.wait(timeout=60)
    begun = out.read_bytes()
    assert whole.startswith(begun)
    if begun != whole:
        outcome(translate("--layout", "both", "--out", "out.txt", "--resume"))
    assert out.read_bytes() == whole


def test_a_layout_that_a_document_has_not(model: Path, store: SessionStore, tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_text('{"fr": "La lampe.", "en": "The lamp."}')
    arguments = ["p.jsonl", "--from", "fr", "--to", "en", "--model", str(model), "--layout", "both"]
    with pytest.raises(OptionError, match=r"layout: both is for \.txt, .*\.epub.*; this document has target"):
        outcome(CliRunner().invoke(command, arguments))
