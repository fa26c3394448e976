"""Standard streams that are not UTF-8, are closed, or take no more: no letter is lost in silence."""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from evaluations import tiny_folder
from test_cli import SMALL, Ran

from templora.cli import streams
from templora.cli.main import _run
from templora.store.store import SessionStore

SOURCE, TARGET = "The lighthouse keeper climbed the stairs.", "灯塔看守人爬上楼梯 — ok."


class Stream(io.TextIOWrapper):
    """A stream of an encoding; perhaps a terminal."""

    def __init__(self, encoding: str, terminal: bool = False) -> None:
        super().__init__(io.BytesIO(), encoding=encoding, write_through=True)
        self._terminal = terminal

    def isatty(self) -> bool:
        return self._terminal

    @property
    def raw(self) -> bytes:
        self.flush()
        found = self.buffer.getvalue()  # type: ignore[attr-defined]
        assert isinstance(found, bytes)
        return found


Run = Callable[..., Ran]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_folder(tmp_path_factory.mktemp("streams") / "model")


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: Path) -> Run:
    """Runs the command line with these streams; all of its output is decoded as what it should be."""
    monkeypatch.setenv("TEMPLORA_SESSIONS", str(tmp_path / "sessions"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in.txt").write_text(SOURCE + "\n")
    known = {"segment": 1, "source": SOURCE, "target": TARGET}
    (tmp_path / "known.jsonl").write_text(json.dumps(known), encoding="utf-8")

    def run(*arguments: object, out: Stream, err: Stream | None = None) -> Ran:
        err = err or Stream("cp1252")
        monkeypatch.setattr(sys, "argv", ["templora", *map(str, arguments)])
        monkeypatch.setattr(sys, "stdout", out)
        monkeypatch.setattr(sys, "stderr", err)
        return Ran(_run(), out.raw.decode(out.encoding), err.raw.decode(err.encoding))

    return run


@pytest.fixture
def translate(run: Run, model: Path) -> Run:
    given = ["in.txt", "--from", "en", "--to", "Chinese", "--model", model, "--chunk-size", "96", "--window", "192"]
    given += ["--rank", "4"]
    return lambda *more, **how: run("translate", *given, "--corrections", "known.jsonl", *more, **how)


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "latin-1", "utf-16"])
def test_what_is_no_terminal_gets_utf8(translate: Run, encoding: str) -> None:
    ran = translate(out=Stream(encoding), err=Stream(encoding))
    assert (ran.code, ran.out) == (0, TARGET + "\n"), ran.err
    assert "loading" in ran.err
    assert SessionStore().names() == []


def test_what_a_terminal_cannot_show_is_counted_and_kept(translate: Run, tmp_path: Path) -> None:
    ran = translate(out=Stream("latin-1", terminal=True))
    assert (ran.code, ran.out) == (0, "????????? ? ok.\n")
    assert "warning: 10 characters could not be shown: this terminal's encoding is latin-1" in ran.err
    assert "the same command with --resume goes on, and with --out FILE as well writes all of it" in ran.err
    assert len(SessionStore().names()) == 1
    assert translate("--resume", "--out", "out.txt", out=Stream("latin-1", terminal=True)).code == 0
    assert (tmp_path / "out.txt").read_text(encoding="utf-8") == TARGET + "\n"
    assert SessionStore().names() == []


def test_a_translation_that_nobody_took_is_kept(translate: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Stream, text: str) -> int:
        if text:
            raise OSError(28, "No space left on device")
        return 0

    with monkeypatch.context() as patched:
        patched.setattr(Stream, "write", full)
        patched.setattr(streams, "say", lambda text: None)
        assert translate("--quiet", out=Stream("utf-8")).code == 2
    assert len(SessionStore().names()) == 1
    again = translate("--quiet", "--resume", out=Stream("utf-8"))
    assert (again.code, again.out) == (0, TARGET + "\n")


def test_every_verb_that_prints_text(run: Run, model: Path, translate: Run) -> None:
    """Beside files' names that are no text, which come out as escapes."""
    prompt = "“Wer da?” fragte die Wärterin 灯塔"
    arguments = ("--prompt", prompt, "--model", model, *SMALL, "--tokens", 3, "--session", "s", "--temperature", 9)
    assert run("write", *arguments, out=Stream("ascii")).code == 0
    assert run("sessions", "export", "s", "--text", "-", out=Stream("ascii")).out.startswith(prompt)
    assert prompt in run("sessions", "show", "s", out=Stream("cp1252")).out
    shown = run("sessions", "show", "s", out=Stream("ascii", terminal=True))
    assert "?Wer da?? fragte die W?rterin ??" in shown.out
    assert "characters could not be shown: this terminal's encoding is ascii" in shown.err
    name = os.fsdecode(b"caf\xe9.txt")
    Path(name).write_text(prompt * 3)
    scored = run("score", name, "--model", model, *SMALL, "--json", out=Stream("ascii"), err=Stream("ascii", True))
    assert scored.code == 0
    assert json.loads(scored.out)["tokens"] > 10
    assert scored.err.startswith("-- receipt ---")
    assert run("models", out=Stream("ascii")).code == 0


@pytest.mark.parametrize("arguments", ["--help", "write --help", "models", "models --json", "--version"])
@pytest.mark.parametrize("end", ["No space left", "standard output was closed"])
def test_help_that_nobody_takes(run: Run, monkeypatch: pytest.MonkeyPatch, arguments: str, end: str) -> None:
    reader, pipe = os.pipe()
    os.close(reader)
    raw = open("/dev/full" if end == "No space left" else pipe, "wb", buffering=0)  # noqa: SIM115
    try:
        ran = run(*arguments.split(), out=_Unread(raw))
    finally:
        raw.close()
    assert ran.code == 2
    assert end in ran.err.splitlines()[-1]


class _Unread(Stream):
    """A stream into a file that takes nothing."""

    def __init__(self, raw: io.RawIOBase) -> None:
        io.TextIOWrapper.__init__(self, raw, encoding="utf-8")  # type: ignore[arg-type]
        self._terminal = False

    @property
    def raw(self) -> bytes:
        return b""


@pytest.mark.parametrize("command", ["write", "translate"])
def test_a_text_that_would_go_nowhere_is_refused(
    run: Run, monkeypatch: pytest.MonkeyPatch, command: str, model: Path
) -> None:
    monkeypatch.setattr("templora.loading.load", lambda *_, **__: pytest.fail("the model was loaded"))
    given = ["--prompt", "It"] if command == "write" else ["in.txt", "--from", "en", "--to", "de"]
    err = Stream("utf-8")
    monkeypatch.setattr(sys, "argv", ["templora", command, *given, "--model", str(model)])
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", err)
    assert _run() == 2
    assert b"standard output is closed" in err.raw
