"""`templora write --session` and `templora sessions`, as a user runs them."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from evaluations import tiny_folder

from templora.cli.sessions import sessions
from templora.cli.write import write as write_command
from templora.errors import OptionError, StoreError
from templora.store.store import SessionStore

SMALL = ["--chunk-size", "32", "--window", "96", "--rank", "4", "--learning-rate", "0.01", "--temperature", "1.5"]
PROMPT = "The keeper climbed the stairs, and the lamp was lit."


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_folder(tmp_path_factory.mktemp("sessions") / "model")


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SessionStore:
    monkeypatch.setenv("TEMPLORA_SESSIONS", str(tmp_path / "sessions"))
    return SessionStore()


@pytest.fixture
def write(model: Path, store: SessionStore) -> Callable[..., Result]:
    def run(*arguments: object, new: bool = True) -> Result:
        begin = ["--model", str(model), *SMALL, "--prompt", PROMPT] if new else []
        given = ["--session", "novel", "--quiet", *begin, *map(str, arguments)]
        return CliRunner().invoke(write_command, given, catch_exceptions=True)

    return run


def ask(*arguments: object) -> Result:
    return CliRunner().invoke(sessions, list(map(str, arguments)))


def test_a_session_from_its_beginning_to_its_end(
    write: Callable[..., Result], store: SessionStore, tmp_path: Path
) -> None:
    first = write("--tokens", 100)
    assert first.exit_code == 0
    assert PROMPT + first.output == store.history("novel").text
    more = ask("resume", "novel", "--tokens", 50, "--quiet", "--temperature", 1.5)
    assert PROMPT + first.output + more.output == store.history("novel").text
    assert ask("list").output.startswith(f"novel: {len(PROMPT) + 150:,} tokens, 6 chunks, ")
    shown = ask("show", "novel").output
    assert "in 6 chunks and an open one, 6 of them learnt" in shown
    assert "nothing" in shown
    listed = json.loads(ask("list", "--json").output)
    assert [row["name"] for row in listed] == ["novel"]
    assert json.loads(ask("show", "novel", "--json").output)["text"] == store.history("novel").text
    assert ask("fork", "novel", "other", "--chunk", 3).output.startswith("other: 96 tokens, 3 chunks")
    assert ask("rewind", "novel", "--chunk", 4).output.startswith("novel: 128 tokens, 4 chunks")
    again = write("--tokens", 24, "--temperature", 1.5, new=False)
    assert PROMPT + first.output == store.history("novel").text, "the same text comes again"
    ask("rewind", "novel", "--chunk", 4)
    assert write("--tokens", 24, "--temperature", 1.5, "--reseed", 7, new=False).output != again.output
    assert ask("export", "novel", "--text", tmp_path / "novel.txt").exit_code == 0
    assert (tmp_path / "novel.txt").read_bytes() == store.history("novel").text.encode("utf-8", "replace")
    assert ask("export", "other", "--adapter", tmp_path / "adapter").exit_code == 0
    assert (tmp_path / "adapter" / "adapter_model.safetensors").exists()
    gone = ask("discard", "novel", "--keep-text", tmp_path / "kept.txt").output
    assert gone.startswith("session novel is gone: ")
    assert (tmp_path / "kept.txt").read_bytes() == (tmp_path / "novel.txt").read_bytes()
    assert store.names() == ["other"]


def test_what_was_killed_is_gone_on_with(write: Callable[..., Result], store: SessionStore, model: Path) -> None:
    """By the same command, by `resume`, or by neither."""
    command = [sys.executable, "-m", "templora", "write", "--session", "novel", "--model", str(model), *SMALL]
    command += ["--prompt", PROMPT, "--tokens", "3000"]
    shown = b""
    for killed in (signal.SIGKILL, signal.SIGINT):
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
            assert process.stdout is not None
            shown += process.stdout.read(100)
            process.send_signal(killed)
            shown += process.stdout.read()
        assert process.returncode == (-killed if killed == signal.SIGKILL else 130)
    info = store.show("novel")
    assert info.pending
    assert info.holder == ""
    assert info.tokens + info.pending == len(PROMPT) + 3000
    assert len(shown) >= 200
    assert ask("resume", "novel", "--quiet").exit_code == 0
    assert store.show("novel").tokens == len(PROMPT) + 3000
    assert store.show("novel").pending == 0
    tokens = store.history("novel").tokens
    store.discard("novel")
    assert write("--tokens", 3000).exit_code == 0
    assert store.history("novel").tokens == tokens


def test_what_is_asked_wrongly_is_named(write: Callable[..., Result], store: SessionStore, tmp_path: Path) -> None:
    assert isinstance(write("--tokens", 5, "--out", tmp_path / "x").exception, OptionError)
    assert store.names() == []
    assert isinstance(ask("resume", "novel").exception, StoreError)
    assert isinstance(ask("export", "novel").exception, OptionError)
    write("--tokens", 40)
    error = write("--tokens", 5, "--rank", 8, new=False).exception
    assert "rank: session 'novel' began with 4" in str(error)
    for wrong in ("rewind novel --chunk 9", "fork novel novel", "show novle", "discard ../x"):
        assert isinstance(ask(*wrong.split()).exception, StoreError), wrong
    assert store.names() == ["novel"]


def test_the_second_is_told_who_is_first(write: Callable[..., Result], store: SessionStore, model: Path) -> None:
    command = [sys.executable, "-m", "templora", "write", "--session", "novel", "--model", str(model), *SMALL]
    with subprocess.Popen([*command, "--prompt", PROMPT, "--tokens", "100000"], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.read(1)
        error = ask("resume", "novel", "--quiet").exception
        assert f"session 'novel' is in use by process {process.pid}" in str(error)
        assert f"in use by process {process.pid}" in ask("list").output
        process.kill()
    assert store.show("novel").holder == ""
    assert write("--tokens", 1, new=False).exit_code == 0
