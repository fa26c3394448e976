"""`--notes`: of write and score, and of sessions on disk."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from conftest import TEXT
from evaluations import tiny_folder

from templora.cli.score import score as score_command
from templora.cli.sessions import sessions
from templora.cli.write import write as write_command
from templora.config import TempLoraConfig
from templora.errors import OptionError, TextError
from templora.loading import load
from templora.store.store import SessionStore

SMALL = ["--chunk-size", "32", "--window", "96", "--rank", "4", "--learning-rate", "0.01", "--learn-written"]
NOTES = "Aldous keeps the lamp."
Command = Callable[..., Result]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_folder(tmp_path_factory.mktemp("notes") / "model")


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SessionStore:
    monkeypatch.setenv("TEMPLORA_SESSIONS", str(tmp_path / "sessions"))
    return SessionStore()


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    (tmp_path / "notes.md").write_text(NOTES)
    return tmp_path / "notes.md"


@pytest.fixture
def write(model: Path) -> Command:
    def run(*arguments: object, sizes: bool = True) -> Result:
        given = ["--model", str(model), *(SMALL if sizes else []), "--temperature", "1.5", *map(str, arguments)]
        return CliRunner().invoke(write_command, given)

    return run


@pytest.fixture
def score(model: Path, tmp_path: Path) -> Command:
    (tmp_path / "book.txt").write_text(TEXT)

    def run(*arguments: object) -> Result:
        given = ["--model", str(model), *SMALL, "--json", "--quiet", str(tmp_path / "book.txt"), *map(str, arguments)]
        return CliRunner().invoke(score_command, given)

    return run


def ask(*arguments: object) -> Any:
    return CliRunner().invoke(sessions, list(map(str, arguments)))


def test_they_are_read_and_are_no_part_of_the_text(write: Command, score: Command, notes: Path, tmp_path: Path) -> None:
    found = [json.loads(score(*given).stdout) for given in ([], ["--notes", notes], ["--notes", ""])]
    assert found[0]["base"]["nll"] != found[1]["base"]["nll"]
    assert found[0]["base"]["nll"] == found[2]["base"]["nll"]
    # The first token has something before it: it is predicted too.
    assert [row["chunks"][0]["targets"] for row in found] == [31, 32, 31]
    assert "notes" not in found[0] | found[2]
    assert found[1]["notes"] == {"text": NOTES, "tokens": len(NOTES) + 2}
    report, written = tmp_path / "r.json", []
    for given in ([], ["--notes", notes, "--report", report], ["--notes", ""]):
        done = write("--prompt", TEXT, "--tokens", 40, "--quiet", *given)
        assert done.exit_code == 0, done.exception
        assert NOTES not in done.stdout
        written.append(done.stdout)
    assert written[0] == written[2] != written[1]
    assert json.loads(report.read_text())["notes"]["tokens"] == len(NOTES) + 2


def test_as_prompts_are_read(write: Command, notes: Path, tmp_path: Path) -> None:
    """Compressed, with a byte order mark; nothing but that, and blank ones, are none."""
    plain = write("--prompt", TEXT, "--tokens", 20, "--quiet", "--notes", notes).stdout
    none = write("--prompt", TEXT, "--tokens", 20, "--quiet").stdout
    for name, raw, expected in (
        ("bom.txt", b"\xef\xbb\xbf" + NOTES.encode(), plain),
        ("n.gz", gzip.compress(NOTES.encode()), plain),
        ("empty", b"", none),
        ("bom", b"\xef\xbb\xbf", none),
        ("blank", b" \n\n", none),
    ):
        (tmp_path / name).write_bytes(raw)
        assert write("--prompt", TEXT, "--tokens", 20, "--quiet", "--notes", tmp_path / name).stdout == expected, name


@pytest.mark.parametrize("session", [[], ["--session", "novel"]])
@pytest.mark.parametrize(
    ("raw", "kind", "said"),
    [
        (None, TextError, "cannot be read: No such file"),
        (b"a\0b", TextError, "a binary file"),
        (b"\xff\xff", TextError, "not UTF-8"),
        (b"x" * 47, OptionError, "are 49 tokens, and 48 tokens fit.*larger --window"),
    ],
)
def test_what_cannot_be_notes_is_named(
    write: Command, score: Command, store: SessionStore, tmp_path: Path, session: Any, raw: Any, kind: Any, said: str
) -> None:
    path = tmp_path / "notes.md"
    if raw is not None:
        path.write_bytes(raw)
    runs = [write("--prompt", TEXT, "--tokens", 5, "--notes", path, *session)]
    runs += [] if session else [score("--notes", path)]
    for done in runs:
        assert done.exit_code == 1
        assert isinstance(done.exception, kind)
        with pytest.raises(kind, match=said):
            raise done.exception
        assert not done.stdout
    assert store.names() == []


def test_a_session_keeps_them_until_others_are_given(
    write: Command, store: SessionStore, notes: Path, tmp_path: Path
) -> None:
    def run(*given: object) -> str:
        done = write("--session", "novel", *given, sizes=not store.names())
        assert done.exit_code == 0, done.exception
        return done.stderr

    def stand() -> list[str]:
        return [r.data["notes"] for r in store.history("novel").records if r.kind == "notes"]

    assert "notes were changed" not in run("--prompt", TEXT, "--tokens", 20, "--notes", notes)
    assert stand() == [NOTES]
    assert "notes were changed" not in run("--tokens", 20)
    assert "notes were changed" not in run("--tokens", 20, "--notes", notes)
    assert stand() == [NOTES]
    assert "24 tokens of notes" in ask("list").output
    assert "24 tokens in every window" in ask("show", "novel").output
    assert json.loads(ask("show", "novel", "--json").output)["notes_text"] == NOTES
    assert json.loads(ask("list", "--json").output)[0]["notes"] == 24
    ask("fork", "novel", "other", "--chunk", "1")
    assert store.history("other").notes["notes"] == NOTES
    notes.write_text("Mara is dead.\n")
    assert "the session's notes were changed: 14 tokens" in run("--tokens", 20, "--notes", notes)
    assert stand() == [NOTES, "Mara is dead.\n"]
    report = tmp_path / "report.json"
    assert ask("export", "novel", "--report", report).exit_code == 0
    assert json.loads(report.read_text())["notes"] == {"text": "Mara is dead.\n", "tokens": 14}
    assert "its notes are gone" in run("--tokens", 20, "--notes", "")
    assert stand()[-1] == ""
    assert ask("list").output.count("tokens of notes") == 1  # the fork's
    assert "notes          none" in ask("show", "novel").output
    notes.write_text("x" * 99)
    length = len(store.history("novel").records)
    assert isinstance(write("--session", "novel", "--notes", notes, sizes=False).exception, OptionError)
    assert len(store.history("novel").records) == length


def test_what_failed_before_there_was_a_text_is_begun_anew(
    write: Command, store: SessionStore, notes: Path, model: Path
) -> None:
    with load(str(model)) as engine:
        store.create("novel", engine, TempLoraConfig(chunk_size=16, window=64, rank=4), notes="Mara is dead.").close()
    done = write("--session", "novel", "--prompt", TEXT, "--tokens", 5, "--notes", notes)
    assert done.exit_code == 0, done.exception
    assert store.history("novel").notes["notes"] == NOTES


def test_a_write_that_was_cut_short_goes_on_with_the_new_ones(
    write: Command, store: SessionStore, notes: Path, model: Path
) -> None:
    def cut() -> None:
        with load(str(model)) as engine:
            config = TempLoraConfig(chunk_size=32, window=96, rank=4, learning_rate=0.01)
            source = {"model": str(model), "dtype": "auto", "weights": "auto"}
            saved = store.create("novel", engine, config, source=source)
            events = saved.stream(TEXT, max_new_tokens=60)
            next(event for event in events if saved.pending == 40)
            saved.leave()

    for given in ([], ["--prompt", TEXT]):
        cut()
        assert store.show("novel").pending == 40
        done = write("--session", "novel", "--quiet", "--notes", notes, *given, sizes=False)
        assert done.exit_code == 0, done.exception
        history = store.history("novel")
        assert history.notes["notes"] == NOTES
        assert len(history.tokens) == len(TEXT) + 60
        assert history.text.count(TEXT) == 1
        store.discard("novel")


def test_notes_that_are_refused_take_nothing_of_a_draft_back(write: Command, store: SessionStore, notes: Path) -> None:
    assert write("--session", "novel", "--prompt", TEXT * 2, "--tokens", 20).exit_code == 0
    before = store.history("novel").text
    notes.write_text("x" * 99)
    draft = before[:150] + "Something else, and what comes after that."
    for given in (["--draft"], []):
        done = write("--session", "novel", "--prompt", draft, *given, "--notes", notes, sizes=False)
        assert isinstance(done.exception, OptionError), done.exception
        assert store.history("novel").text == before


def test_notes_of_a_session_without_a_text_stay(write: Command, store: SessionStore, notes: Path, model: Path) -> None:
    with load(str(model)) as engine:
        store.create("novel", engine, TempLoraConfig(chunk_size=16, window=64, rank=4), notes=NOTES).close()
    notes.write_text("x" * 99)
    done = write("--session", "novel", "--prompt", TEXT, "--tokens", 5, "--notes", notes)
    assert isinstance(done.exception, OptionError)
    assert store.history("novel").notes["notes"] == NOTES
    assert write("--session", "novel", "--prompt", TEXT, "--tokens", 5).exit_code == 0
    assert store.history("novel").notes["notes"] == NOTES
    store.rewind("novel", 0)
    assert write("--session", "novel", "--prompt", TEXT, "--tokens", 5, "--notes", "", sizes=False).exit_code == 0
    assert store.history("novel").notes["notes"] == ""


def test_standard_input_is_read_once(write: Command, score: Command, store: SessionStore) -> None:
    for run, given in ((write, []), (write, ["--prompt-file", "-"]), (write, ["--session", "novel"]), (score, ["-"])):
        done = run("--notes", "-", *given)
        assert isinstance(done.exception, OptionError)
        assert "standard input is" in str(done.exception)
    assert store.names() == []


def test_what_stands_in_the_notes_never_left_the_window_of_a_page(
    write: Command, notes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pages: list[Any] = []
    monkeypatch.setattr("templora.cli.run.write_page", lambda story, *_: pages.append(story))
    done = write("--prompt", TEXT, "--tokens", 5, "--notes", notes, "--page", tmp_path / "page.html")
    assert done.exit_code == 0, done.exception
    assert pages[0].read == f"{NOTES}\n\n{TEXT}"
    assert pages[0].window == f"{NOTES}\n\n{TEXT[-(96 - len(NOTES) - 2) :]}"
