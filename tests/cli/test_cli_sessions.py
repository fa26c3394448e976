"""`templora write --session` and `templora sessions`, as a user runs them."""

from __future__ import annotations

import json
import pickle
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from conftest import LONG
from evaluations import tiny_folder
from forked import PYTHON
from ggufs import write_gguf

from templora.cli.sessions import sessions
from templora.cli.translate import translate as translate_command
from templora.cli.write import write as write_command
from templora.errors import ModelError, OptionError, StoreError
from templora.store.log import Log
from templora.store.store import SessionStore

SIZES = ["--chunk-size", "32", "--window", "96", "--rank", "4"]
SMALL = [*SIZES, "--learning-rate", "0.01", "--learn-written", "--temperature", "1.5"]
MANY = 3000 if LONG else 2000  # tokens that take some seconds
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
    learnt = [r.data["committed"] for r in store.history("novel").records if r.kind == "learned"]
    assert len(learnt) == 6
    assert f"in 6 chunks and an open one, {sum(learnt)} of them learnt" in shown
    assert "nothing" in shown
    listed = json.loads(ask("list", "--json").output)
    assert [row["name"] for row in listed] == ["novel"]
    assert json.loads(ask("show", "novel", "--json").output)["text"] == store.history("novel").text
    assert ask().output == ask("list").output
    ends = ask("rewind", "novel").output.splitlines()
    assert [line.split()[:2] for line in ends[1:-1]] == [[str(n), f"{32 * n:,}"] for n in range(1, 7)]
    assert ends[1].endswith(PROMPT[:32])
    assert ends[2].endswith(store.history("novel").chunk_texts[1].split()[-1][-1:])
    assert "--chunk N keeps the first N chunks" in ends[-1]
    assert ask("fork", "novel", "other", "--chunk", 3).output.startswith("other: 96 tokens, 3 chunks")
    assert "no chunk of session other is finished" not in ask("rewind", "other").output
    back = ask("rewind", "novel", "--chunk", 4).output
    assert back.startswith("novel: 128 tokens, 4 chunks")
    assert "it ends with: " in back
    for wrong, hint in (("novel", "templora sessions show novel"), ("lst", "did you mean 'list'")):
        assert hint in ask(wrong).output
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
    command = [*PYTHON, "-m", "templora", "write", "--session", "novel", "--model", str(model), *SMALL]
    command += ["--prompt", PROMPT, "--tokens", str(MANY)]
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
    assert info.tokens + info.pending == len(PROMPT) + MANY
    assert len(shown) >= 200
    assert ask("resume", "novel", "--quiet").exit_code == 0
    assert store.show("novel").tokens == len(PROMPT) + MANY
    assert store.show("novel").pending == 0
    tokens = store.history("novel").tokens
    store.discard("novel")
    assert write("--tokens", MANY).exit_code == 0
    assert store.history("novel").tokens == tokens


def test_a_receipt_is_of_one_run(write: Callable[..., Result], store: SessionStore, tmp_path: Path) -> None:
    """What the runs of a session say adds up to what there is; what the session had spent before is in none of them."""
    found = []
    for run, more in enumerate((["--tokens", "100"], ["--tokens", "60", "--prompt", "Then"], ["--tokens", "8"])):
        report = tmp_path / f"{run}.json"
        arguments = ["--session", "novel", "--report", str(report), *more]
        done = write(*arguments) if run == 0 else CliRunner().invoke(write_command, arguments)
        assert done.exit_code == 0, done.exception
        found.append(json.loads(report.read_text()))
        seconds = found[-1]["seconds"]
        spent = sum(seconds[name] for name in ("decode", "score", "learn", "cache"))
        assert spent + seconds.get("again", 0.0) + seconds["load"] <= seconds["total"]
        assert ("again" in seconds) == (run > 0)
        session = found[-1]["session"]
        assert session["tokens_before"] == sum(r["tokens"] + r["prompt_tokens"] for r in found[:-1])
    assert [(r["tokens"], r["prompt_tokens"]) for r in found] == [(100, len(PROMPT)), (60, 4), (8, 0)]
    assert sum(r["tokens"] + r["prompt_tokens"] for r in found) == store.show("novel").tokens
    assert sum(r["committed"] for r in found) == store.show("novel").learnt
    assert found[2]["flops"]["decode"] < found[1]["flops"]["decode"] < found[0]["flops"]["decode"]
    assert "kept on disk with session novel; nothing of it is left on the model" in done.stderr
    assert "after 216 that the session had" in done.stderr
    assert "adapter discarded" not in done.stderr


def test_an_edited_draft_takes_the_texts_place(
    write: Callable[..., Result], store: SessionStore, tmp_path: Path
) -> None:
    """What was exported and changed by hand is in the session once, and what did not change is not read again."""
    draft = tmp_path / "draft.txt"

    def go_on(text: str, *more: object) -> Result:
        draft.write_bytes(text.encode())
        command = ["--session", "novel", "--prompt-file", str(draft), "--tokens", "20", *map(str, more)]
        return CliRunner().invoke(write_command, command, catch_exceptions=True)

    text = "".join(f"In chapter {i} the keeper of lamp {i * i} climbed {i + 3} stairs. " for i in range(6))
    assert write("--tokens", 9, "--prompt", text).exit_code == 0  # the last --prompt counts
    changed = text[:200] + " and ever " + text[200:250]
    for given, note, read in (
        (text, "has all of the prompt already", ""),
        (changed, "an edited draft of the session's text: 6 chunks stay", changed[192:]),
        (changed, "has all of the prompt already", ""),
    ):
        before = store.history("novel")
        found = go_on(given)
        assert found.exit_code == 0, found.exception
        assert note in found.stderr
        after = store.history("novel")
        kept = before.text if not read else before.text[:192]
        assert after.text == kept + read + found.stdout
        if read:
            assert after.records[1:7] == before.records[1:7]
    store.fork("novel", "killed", 6)  # in between
    assert go_on(changed, "--session", "killed").exit_code == 0
    assert store.history("killed").text.startswith(changed)
    again = go_on(changed, "--draft")
    assert store.history("novel").text == changed + again.stdout
    more = go_on(changed, "--no-draft")
    assert store.history("novel").text == changed + again.stdout + changed + more.stdout
    told = store.history("novel").text
    assert "with --draft" in str(go_on("Another. " * 60 + changed[20:]).exception)
    assert isinstance(write("--draft", "--chat", new=False).exception, OptionError)
    assert store.history("novel").text == told


def test_what_is_asked_wrongly_is_named(write: Callable[..., Result], store: SessionStore, tmp_path: Path) -> None:
    assert isinstance(write("--tokens", 5, "--out", tmp_path / "x").exception, OptionError)
    assert store.names() == []
    assert isinstance(ask("resume", "novel").exception, StoreError)
    assert isinstance(ask("export", "novel").exception, OptionError)
    write("--tokens", 40)
    inside, before = store.folder / "novel" / "log.sqlite", store.history("novel").text
    for option in ("--text", "--adapter", "--report", "--plot"):
        assert "folder of sessions" in str(ask("export", "novel", option, inside).exception)
    assert "folder of sessions" in str(ask("discard", "novel", "--keep-text", inside).exception)
    assert store.history("novel").text == before
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


def test_a_sessions_report_and_plot_are_of_all_its_runs(write: Callable[..., Result], tmp_path: Path) -> None:
    """Two writes of which the first was scored; the figures of that one are those that its own report has."""
    report = tmp_path / "first.json"
    assert write("--tokens", 100, "--report", report).exit_code == 0
    first = json.loads(report.read_text())
    one = json.loads(ask("export", "novel", "--report", "-").output)
    for key in ("tokens", "prompt_tokens", "committed", "rejected", "base", "adapted", "words", "repetition", "config"):
        assert one.get(key) == first.get(key, one.get(key)), key
    assert one["base"]["nll"] > 0
    assert [c.get("loss") for c in one["chunks"]] == [c.get("loss") for c in first["chunks"]]
    assert one["model"]["sha256"] == first["model"]["sha256"]
    assert write("--tokens", 50, new=False).exit_code == 0
    done = ask("export", "novel", "--report", tmp_path / "all.json", "--plot", tmp_path / "all.png")
    assert done.exit_code == 0
    both = json.loads((tmp_path / "all.json").read_text())
    assert both["tokens"] == 150
    assert (
        len(both["chunks"]) == len(one["chunks"]) + 2
    )  # the open chunk counts when it was scored and when it was full
    assert both["base"] == one["base"]
    assert (tmp_path / "all.png").read_bytes().startswith(b"\x89PNG")


def test_a_plot_without_scores_shows_what_was_learnt(write: Callable[..., Result], tmp_path: Path) -> None:
    assert write("--tokens", 100).exit_code == 0
    assert ask("export", "novel", "--plot", tmp_path / "all.png").exit_code == 0
    assert (tmp_path / "all.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads(ask("export", "novel", "--report", "-").output)["base"]["perplexity"] is None


def test_an_exported_adapter_is_a_starting_point(
    write: Callable[..., Result], store: SessionStore, model: Path, tmp_path: Path
) -> None:
    """For another session and for a run that leaves nothing; a session goes on with it after it was left."""
    adapter = tmp_path / "adapter"
    assert write("--tokens", 100).exit_code == 0
    assert ask("export", "novel", "--adapter", adapter).exit_code == 0
    begin = ["--model", str(model), *SMALL, "--prompt", PROMPT, "--quiet", "--tokens", "40", "--temperature", "0"]

    def run(*more: object) -> Result:
        return CliRunner().invoke(write_command, [*begin, *map(str, more)], catch_exceptions=True)

    fresh, started, kept = run(), run("--adapter", adapter), run("--adapter", adapter, "--session", "second")
    assert fresh.exit_code == started.exit_code == kept.exit_code == 0
    assert kept.output == started.output != fresh.output
    assert run("--session", "second", "--tokens", 5).exit_code == 0  # the adapter is in its files
    again = run("--adapter", adapter, "--session", "second")
    assert isinstance(again.exception, OptionError)
    assert "has begun already" in str(again.exception)
    nowhere = run("--adapter", tmp_path)
    assert isinstance(nowhere.exception, OptionError)
    assert "no adapter_config.json" in str(nowhere.exception)
    for name in ("x" * 300, "x" * 300 + ".gguf"):
        assert isinstance((long := run("--adapter", name)).exception, OptionError)
        assert "too long" in str(long.exception)
    wrong = run("--adapter", adapter, "--session", "third", "--rank", 8)
    assert "set rank=4" in str(wrong.exception)
    assert "third" not in store


def test_scoring_can_start_from_an_adapter(write: Callable[..., Result], model: Path, tmp_path: Path) -> None:
    from templora.cli.score import score

    assert write("--tokens", 100).exit_code == 0
    assert ask("export", "novel", "--adapter", tmp_path / "adapter").exit_code == 0
    (tmp_path / "text.txt").write_text(PROMPT)
    found = []
    for more in ([], ["--adapter", str(tmp_path / "adapter")]):
        given = [str(tmp_path / "text.txt"), "--model", str(model), *SMALL[:-2], "--json", "--quiet", *more]
        found.append(json.loads(CliRunner().invoke(score, given).output))
    assert found[0]["base"] == found[1]["base"]
    assert found[0]["adapted"] != found[1]["adapted"]


EVIL = """
from pathlib import Path
from transformers import LlamaConfig, PreTrainedTokenizerFast
Path({mark!r}).touch()
class EvilConfig(LlamaConfig):
    model_type = "evil"
class EvilTokenizer(PreTrainedTokenizerFast):
    pass
"""


def edit(path: Path, **change: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | change))


def config_with_code(folder: Path, mark: Path) -> None:
    (folder / "evil.py").write_text(EVIL.format(mark=str(mark)))
    edit(folder / "config.json", model_type="evil", auto_map={"AutoConfig": "evil.EvilConfig"})


def tokenizer_with_code(folder: Path, mark: Path) -> None:
    (folder / "evil.py").write_text(EVIL.format(mark=str(mark)))
    tokenizer = {"tokenizer_class": "EvilTokenizer", "auto_map": {"AutoTokenizer": [None, "evil.EvilTokenizer"]}}
    edit(folder / "tokenizer_config.json", **tokenizer)


def weights_in_a_pickle(folder: Path, mark: Path) -> None:
    (folder / "model.safetensors").unlink()

    class Evil:
        def __reduce__(self) -> tuple[object, ...]:
            return Path.touch, (mark,)

    with (folder / "pytorch_model.bin").open("wb") as file:
        pickle.dump(Evil(), file)


def attention_from_the_hub(folder: Path, mark: Path) -> None:
    edit(folder / "config.json", attn_implementation="somebody/kernel")


def weights_elsewhere(folder: Path, mark: Path) -> None:
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "somebody/model"}))


@pytest.mark.parametrize("inside", [True, False], ids=["came along", "elsewhere"])
@pytest.mark.parametrize(
    "change",
    [config_with_code, tokenizer_with_code, weights_in_a_pickle, attention_from_the_hub, weights_elsewhere],
    ids=lambda change: change.__name__,
)
def test_nothing_that_a_sessions_log_names_is_run(
    write: Callable[..., Result], store: SessionStore, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    change: Callable[[Path, Path], None], inside: bool,
) -> None:  # fmt: skip
    """A log says that the model's code is trusted, and where it lies: only the command line can say so."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    mark = tmp_path / "was-run"
    made = shutil.copytree(model, (store.folder / "novel" if inside else tmp_path) / "made")
    change(made, mark)
    named = {"name": "m", "fingerprint": "0" * 64, "model": str(made), "dtype": "auto", "trust_remote_code": True}
    begin = {"model": named, "config": {"window": 96, "chunk_size": 32, "rank": 4}, "opening": [], "versions": {}}
    (store.folder / "novel").mkdir(parents=True, exist_ok=True)
    with Log.create(store.folder / "novel" / "log.sqlite") as log:
        log.extend([("begin", (), begin), ("given", [65] * 9, {"text": "A" * 9})])
    (tmp_path / "text.txt").write_text("A lamp.")
    translate = ["--to", "de", "--from", "en", "--resume", "--session", "novel", "--out", str(tmp_path / "out.txt")]
    for attempt in (
        ask("list"),
        ask("show", "novel"),
        ask("resume", "novel", "--quiet"),
        ask("resume", "novel", "--quiet", "--trust-remote-code"),
        ask("export", "novel", "--adapter", tmp_path / "adapter"),
        ask("export", "novel", "--adapter", tmp_path / "adapter", "--trust-remote-code"),
        write(new=False),
        CliRunner().invoke(translate_command, [str(tmp_path / "text.txt"), *translate]),
    ):
        assert attempt.exception is None or isinstance(attempt.exception, ModelError | OptionError), attempt
    for attempt in (ask("resume", "novel", "--quiet"), ask("export", "novel", "--adapter", tmp_path / "adapter")):
        assert isinstance(attempt.exception, ModelError)
        assert "--model" in str(attempt.exception)
    assert "give it as --model too" in str(ask("resume", "novel", "--trust-remote-code").exception)
    assert not mark.exists()
    assert not (tmp_path / "adapter").exists()


def test_a_session_keeps_the_weights_that_it_began_with(
    write: Callable[..., Result], store: SessionStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What `auto` came to is in its log. Older ones say `auto`, which was unpacked then."""
    monkeypatch.setenv("TEMPLORA_CACHE", str(tmp_path / "cache"))
    write_gguf(tmp_path / "m.gguf")
    assert write("--tokens", 5, "--model", tmp_path / "m.gguf").exit_code == 0
    assert store.history("novel").begin["model"]["weights"] == "int4"
    assert ask("resume", "novel", "--tokens", 5, "--quiet").exit_code == 0
    store.discard("novel")
    with monkeypatch.context() as patched:
        patched.setattr("templora.cli.kept.held", lambda *_: "auto")
        assert write("--tokens", 5, "--model", tmp_path / "m.gguf", "--weights", "unpacked").exit_code == 0
    assert store.history("novel").begin["model"]["weights"] == "auto"
    assert ask("resume", "novel", "--tokens", 5, "--quiet").exit_code == 0
    refused = ask("resume", "novel", "--tokens", 5, "--quiet", "--weights", "int4")
    assert "its weights are others" in str(refused.exception)


def test_a_model_given_by_a_relative_path_is_found_from_everywhere(
    write: Callable[..., Result], store: SessionStore, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(model.parent)
    assert write("--tokens", 5, "--model", model.name).exit_code == 0
    assert "trust_remote_code" not in store.history("novel").begin["model"]
    monkeypatch.chdir(tmp_path)
    assert ask("resume", "novel", "--tokens", 5, "--quiet").exit_code == 0
    assert ask("export", "novel", "--adapter", tmp_path / "adapter").exit_code == 0
    shutil.move(model, tmp_path / "moved")
    try:
        assert ask("resume", "novel", "--tokens", 5, "--quiet", "--model", "moved").exit_code == 0
        assert ask("export", "novel", "--adapter", tmp_path / "again", "--model", "moved").exit_code == 0
    finally:
        shutil.move(tmp_path / "moved", model)
