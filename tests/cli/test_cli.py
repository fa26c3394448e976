"""The command line, end to end on a tiny model: what it prints, what it leaves behind, and how it fails.

Most cases run in this process; signals, pipes and terminals that need a real one get it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import gzip
import io
import json
import lzma
import os
import pty
import re
import select
import shutil
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import transformers
from conftest import TEXT
from forked import PYTHON

import templora
import templora.learning.learner
from templora.cli.main import _run
from templora.config import TempLoraConfig
from templora.testing import byte_tokenizer, tiny_model

SMALL = ["--chunk-size", "32", "--window", "96", "--rank", "4", "--learn-written"]
LONG = TEXT * 3
SUMMARY = {"nll", "perplexity", "mean_chunk_perplexity", "word_perplexity", "bits_per_byte"}
CHUNK = {"index", "start", "tokens", "base_nll", "adapted_nll", "committed", "seconds"}
TOP = {"tokens", "config", "model", "device", "versions", "base", "adapted", "chunks", "seconds", "flops"}
TOP |= {"peak_memory_bytes", "base_unchanged", "discarded"}


@dataclass
class Ran:
    """How a command ended, and what it printed."""

    code: int
    out: str
    err: str


Cli = Callable[..., Ran]


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    tiny_model("llama").save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Iterator[Cli]:
    """Runs the command line in this process."""

    def run(*arguments: object, stdin: bytes = b"") -> Ran:
        monkeypatch.setattr(sys, "argv", ["templora", *map(str, arguments)])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        capfd.readouterr()
        return Ran(_run(), *capfd.readouterr())

    terminate = signal.getsignal(signal.SIGTERM)
    yield run
    signal.signal(signal.SIGTERM, terminate)


@pytest.fixture
def write(cli: Cli, model: Path) -> Cli:
    def run(*arguments: object, prompt: str | None = "It was", stdin: bytes = b"") -> Ran:
        given = [] if prompt is None else ["--prompt", prompt]
        return cli("write", "--model", model, *SMALL, "--tokens", 80, *given, *arguments, stdin=stdin)

    return run


@pytest.fixture
def score(cli: Cli, model: Path) -> Cli:
    return lambda *arguments, **more: cli("score", "--model", model, *SMALL, *arguments, **more)


@pytest.fixture
def no_load(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("templora.loading.load", lambda *_, **__: pytest.fail("the model was loaded"))


@pytest.fixture
def book(tmp_path: Path) -> Path:
    path = tmp_path / "book.txt"
    path.write_text(LONG)
    return path


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def figures(path: Path) -> Any:
    """A report without what differs from run to run."""
    report = read(path)
    for key in ("seconds", "peak_memory_bytes"):
        del report[key]
    for chunk in report["chunks"]:
        del chunk["seconds"]
    return report


def fails(ran: Ran, *named: object) -> None:
    """Exit code 2, and one error line, the last one, with all of `named`."""
    errors = [line for line in ran.err.splitlines() if line.startswith(("templora: error: ", "Error: "))]
    assert (ran.code, len(errors), ran.out) == (2, 1, ""), ran
    assert ran.err.splitlines()[-1] == errors[0]
    assert all(str(word) in errors[0] for word in named), errors[0]


def start(model: Path, *arguments: object, python: Sequence[str] = PYTHON, **streams: Any) -> subprocess.Popen[bytes]:
    command = [*python, "-m", "templora", "write", "--model", model, *SMALL, "--prompt", "It was"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TERM": "xterm"}
    return subprocess.Popen([*map(str, [*command, *arguments])], stdin=subprocess.DEVNULL, env=environment, **streams)


# Texts that cannot be used ------------------------------------------------------------------------------------------

PACKED = {"xz": lzma.compress(LONG.encode()), "gz": gzip.compress(LONG.encode())}
BAD_TEXTS = {
    "empty.txt": b"",
    "blank.txt": b" \n\r\n",
    "bom.txt": b"\xef\xbb\xbf",
    "binary.txt": bytes(range(256)),
    "nul.txt": b"text\0text",
    "utf16.txt": LONG.encode("utf-16-le"),
    "none.gz": b"",
    "none.xz": b"",
    "plain.gz": b"not compressed",
    "plain.xz": b"not compressed",
    "short.gz": PACKED["gz"][:-20],
    "short.xz": PACKED["xz"][:-20],
    "broken.gz": PACKED["gz"][:14] + b"\xff" * 8 + PACKED["gz"][22:],
    "broken.xz": PACKED["xz"][:30] + b"\xff" * 8 + PACKED["xz"][38:],
    "checksum.gz": PACKED["gz"][:-8] + b"\0" * 8,
}


@pytest.mark.usefixtures("no_load")
@pytest.mark.parametrize("name", BAD_TEXTS)
def test_bad_text_is_named(write: Cli, score: Cli, book: Path, tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(BAD_TEXTS[name])
    fails(score(book, path), path)
    fails(write("--prompt-file", path, prompt=None), path)
    assert path.read_bytes() == BAD_TEXTS[name]


def test_another_encoding_is_found_and_said(score: Cli, write: Cli, tmp_path: Path) -> None:
    path = tmp_path / "novel.txt"
    path.write_bytes("灯塔看守人每天傍晚六点点亮灯火，然后坐在窗边，听海浪拍打岩石。".encode("gb18030"))
    for done in (score(path), write("--prompt-file", path, "--tokens", "3", prompt=None)):
        assert done.code == 0, done
        assert f"{path}: read as GB18030" in done.err


@pytest.mark.usefixtures("no_load")
def test_what_is_no_file_is_named(score: Cli, tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing.txt", tmp_path / ("x" * 300)):
        fails(score(path), path)
    fails(score("-"), "standard input")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
@pytest.mark.usefixtures("no_load")
def test_unreadable_file(score: Cli, book: Path) -> None:
    book.chmod(0)
    fails(score(book), book, "Permission denied")


# Options that cannot be used ----------------------------------------------------------------------------------------


BAD_OPTIONS = """
--chunk-size 96 | --chunk-size 200 | --train-context 65 | --rank 0 | --rank 1.5 | --alpha 1e308
--learning-rate 0 | --learning-rate -1 | --learning-rate nan | --learning of | --recipe papr | --target-modules ,
--seed -1 | --seed 18446744073709551616 | --tokens 0 | --tokens -5 | --tokens abc | --chunk-sizee 9
--temperature -1 | --temperature nan | --top-p 0 | --top-k -1 | --min-p 1 | --repetition-penalty 0
--prompt-file draft.txt | --prompt= | --out {}/none/x | --report {}/none/x | --plot {}/none/x
--out {} | --report {} | --plot {}
"""
# What is wrong only for this model.
BAD_FOR_MODEL = """
--window 300 | --layers 9-99 | --layers foo | --target-modules foo | --dtype foo | --device foo | --device cuda:99
--device meta | --device mps | --weights int5 | --chat | --rank 9999999999999
"""
ALSO_NAMED = {
    "--chunk-size 96": "window, which is 96",
    "--train-context 65": "at most window − chunk_size = 64",
    "--recipe papr": "'paper'",
    "--chunk-sizee 9": "'--chunk-size'",
    "--prompt-file draft.txt": "--prompt",
    "--weights int5": "did you mean 'int",
    "--window 300": "at most 256",
    "--chat": "no chat template",
}


def each(options: str) -> list[str]:
    return [option.strip() for line in options.strip().splitlines() for option in line.split("|")]


@pytest.mark.usefixtures("no_load")
@pytest.mark.parametrize("option", each(BAD_OPTIONS))
def test_bad_option_is_named_before_the_model_loads(write: Cli, tmp_path: Path, option: str) -> None:
    fails(write(*option.format(tmp_path).split()), re.split("[ =]", option)[0], ALSO_NAMED.get(option, ""))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("option", each(BAD_FOR_MODEL))
def test_what_does_not_fit_the_model_is_named(write: Cli, option: str) -> None:
    fails(write(*option.split()), option.split()[0], ALSO_NAMED.get(option, ""))


@pytest.mark.parametrize(("name", "named"), [("smollm2", "'smollm2-135m'"), ("x" * 300, "xxx"), ("/no/model", "/no/")])
def test_unknown_model_names_the_nearest(write: Cli, name: str, named: str) -> None:
    fails(write("--model", name), named)


@pytest.mark.parametrize("temperature", ["1e-45", "1e-300", "1e300"])
def test_extreme_temperature_still_writes(write: Cli, temperature: str) -> None:
    assert write("--temperature", temperature, "--tokens", 4).code == 0


@pytest.mark.usefixtures("no_load")
def test_score_needs_two_tokens_to_predict_one(score: Cli, book: Path) -> None:
    fails(score(book, "--tokens", 1), "--tokens")


@pytest.mark.usefixtures("no_load")
def test_prompt_that_is_not_text_is_named(write: Cli) -> None:
    fails(write(prompt=os.fsdecode(b"caf\xe9")), "--prompt")


def test_unknown_command_names_the_nearest(cli: Cli) -> None:
    fails(cli("wirte"), "'wirte'", "'write'")
    fails(cli("zzz"), "'zzz'", "score")
    fails(cli("--nope"), "--nope")


@pytest.mark.usefixtures("no_load")
@pytest.mark.parametrize(
    ("given", "named"),
    [
        (["ch1.txt"], "templora write --prompt-file ch1.txt"),
        (["my book.txt", "--tokens", "9"], "--prompt-file 'my book.txt'"),
        (["Once", "upon", "a", "time"], "--prompt 'Once upon a time'"),
        (["It was. So it was."], "--prompt 'It was. So it was.'"),
    ],
)
def test_what_stands_alone_is_told_its_option(cli: Cli, given: list[str], named: str) -> None:
    fails(cli("write", *given), named)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_a_model_of_the_hub_has_an_owner(write: Cli, name: str) -> None:
    fails(write("--model", name), repr(name), "OWNER/NAME, as in openai-community/gpt2", "give a directory")


# Models that cannot be used -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("removed", "named"), [("config.json", "config.json"), ("tokenizer", "tokenizer"), ("model.safetensors", "model")]
)
def test_incomplete_directory(write: Cli, model: Path, tmp_path: Path, removed: str, named: str) -> None:
    folder = tmp_path / "incomplete"
    shutil.copytree(model, folder, ignore=shutil.ignore_patterns(f"{removed}*"))
    fails(write("--model", folder), folder, named)


@pytest.mark.parametrize(
    "content", [b"", b"not a GGUF", b"GGUF", struct.pack("<4sIQQ", b"GGUF", 3, 5, 5) + b"abc", b"GGUF" + bytes(300)]
)
def test_damaged_gguf(write: Cli, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "damaged.gguf"
    path.write_bytes(content)
    fails(write("--model", path), path, "GGUF")


def test_tokenizer_larger_than_the_model(score: Cli, model: Path, tmp_path: Path) -> None:
    folder, path = tmp_path / "small", tmp_path / "text"
    shutil.copytree(model, folder)
    small = tiny_model("llama")
    small.resize_token_embeddings(120)
    small.save_pretrained(folder)
    path.write_text("日本語" * 30)
    fails(score("--model", folder, path), folder)


# Outputs that cannot be written -------------------------------------------------------------------------------------


def test_no_room_for_the_text(write: Cli) -> None:
    ran = write("--out", "/dev/full")
    assert ran.code == 2
    assert "receipt" in ran.err
    assert "/dev/full" in ran.err.splitlines()[-1]
    assert "No space left" in ran.err.splitlines()[-1]


@pytest.mark.parametrize("command", ["write", "score"])
@pytest.mark.parametrize("end", ["No space left", "standard output was closed"])
def test_standard_output_that_takes_no_more(
    write: Cli, score: Cli, book: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, end: str
) -> None:
    report = tmp_path / "run.json"
    reader, pipe = os.pipe()
    os.close(reader)
    stream = open("/dev/full" if end == "No space left" else pipe, "w")  # noqa: SIM115
    monkeypatch.setattr(sys, "stdout", stream)
    try:
        ran = write("--report", report) if command == "write" else score(book, "--report", report)
    finally:
        with contextlib.suppress(OSError):  # what it could not write is still in it
            stream.close()
        with contextlib.suppress(OSError):
            os.close(pipe)
    assert ran.code == 2
    assert "receipt" in ran.err
    assert end in ran.err.splitlines()[-1]
    assert read(report)["discarded"]


def test_out_may_be_a_device(write: Cli) -> None:
    assert write("--out", "/dev/null").code == 0


def test_report_follows_a_link(write: Cli, tmp_path: Path) -> None:
    """Replacing the link would, for /dev/stdout or /dev/null and a user who may, replace the device."""
    target, link = tmp_path / "target.json", tmp_path / "link.json"
    link.symlink_to(target)
    assert write("--report", link).code == 0
    assert link.is_symlink()
    assert read(target)["tokens"] == 80


@pytest.mark.usefixtures("no_load")
def test_outputs_never_overwrite_each_other_or_the_text(write: Cli, score: Cli, book: Path, tmp_path: Path) -> None:
    same = tmp_path / "same"
    fails(write("--out", same, "--report", same), same)
    fails(write("--report", same, "--plot", same), same)
    fails(score(book, "--report", book), book)
    fails(write("--prompt-file", book, "--plot", book, prompt=None), book)
    assert book.read_text() == LONG
    assert not same.exists()


# Interruptions ------------------------------------------------------------------------------------------------------

SIGNALS = [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]


@pytest.mark.parametrize(("number", "code", "word"), SIGNALS)
def test_stopped_by_a_signal(model: Path, tmp_path: Path, number: int, code: int, word: str) -> None:
    out = tmp_path / "out.txt"
    python = [sys.executable] if number == signal.SIGINT else PYTHON  # once as Python itself starts
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = start(model, "--tokens", 10**6, "--out", out, python=python, **pipes)
    assert process.stdout is not None
    text = os.read(process.stdout.fileno(), 64)
    process.send_signal(number)
    rest, err = process.communicate(timeout=60)
    assert process.returncode == code
    assert b"receipt" in err
    assert word.encode() in err
    assert b"Traceback" not in err
    assert out.read_bytes() == text + rest


@pytest.mark.parametrize("moment", ["load", "print", "learn", "discard"])
@pytest.mark.parametrize(("number", "code", "word"), SIGNALS)
def test_a_signal_at_any_moment(
    write: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, code: int, word: str, moment: str
) -> None:
    out, text = tmp_path / "out.txt", io.StringIO()
    place, name = {
        "load": (transformers.AutoModelForCausalLM, "from_pretrained"),
        "print": (text, "write"),
        "learn": (templora.learning.learner.Staged, "change"),
        "discard": (templora.Session, "discard"),
    }[moment]
    real, calls = getattr(place, name), iter(range(1000))

    def with_signal(*arguments: Any, **options: Any) -> Any:
        result = real(*arguments, **options)
        if arguments[0] and next(calls) == {"print": 9}.get(moment, 0):  # of writes, only those with text
            os.kill(os.getpid(), number)
        return result

    monkeypatch.setattr(place, name, with_signal)
    monkeypatch.setattr(sys, "stdout", text)
    ran = write("--out", out)
    assert ran.code == code
    assert word in ran.err
    if moment != "load":
        assert "receipt" in ran.err
        assert out.read_bytes().decode().rstrip("\n") == text.getvalue().rstrip("\n") != ""


def test_closed_pipe(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.txt"
    process = start(model, "--tokens", 10**6, "--out", out, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    text = os.read(process.stdout.fileno(), 20)
    process.stdout.close()
    err = process.stderr.read()
    process.stderr.close()
    assert process.wait(60) == 2
    assert err.splitlines()[-1].startswith(b"templora: error: standard output was closed")
    assert b"receipt" in err
    assert b"Traceback" not in err
    assert out.read_bytes().startswith(text)


@pytest.mark.parametrize("closed", ["stdin", "stdout", "stderr"])
def test_a_stream_that_is_not_open(write: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, closed: str) -> None:
    """After `<&-`, `>&-` and `2>&-` Python has None there."""
    out = tmp_path / "out.txt"
    monkeypatch.setattr(io, "TextIOWrapper", io.TextIOWrapper if closed != "stdin" else lambda *_: None)
    if closed != "stdin":
        monkeypatch.setattr(sys, closed, None)
    ran = write("--out", out, prompt=None if closed == "stdin" else "It was")
    if closed == "stdin":
        fails(ran, "--prompt")
    else:
        assert ran.code == 0
        assert out.stat().st_size > 0
        assert "receipt" not in ran.out


def on_terminals(model: Path, stdout_too: bool, rows: int) -> tuple[int, bytes, bytes]:
    """Exit code, stdout and stderr of a run whose stderr, and perhaps stdout, is a terminal."""
    (reader, writer), (screen, terminal) = (pty.openpty() if stdout_too else os.pipe()), pty.openpty()
    for end in (terminal, writer) if stdout_too else (terminal,):
        fcntl.ioctl(end, termios.TIOCSWINSZ, struct.pack("HHHH", rows, 100, 0, 0))
    process = start(model, "--tokens", 80, stdout=writer, stderr=terminal)
    os.close(writer)
    os.close(terminal)
    got, live = {reader: b"", screen: b""}, [reader, screen]
    while live:
        for end in select.select(live, [], [])[0]:
            part = b""
            with contextlib.suppress(OSError):  # how a terminal says that it has ended
                part = os.read(end, 65536)
            got[end] += part
            if not part:
                live.remove(end)
                os.close(end)
    return process.wait(60), got[reader], got[screen]


@pytest.mark.parametrize("stdout_too", [False, True])
def test_panel_stays_off_standard_output(write: Cli, model: Path, stdout_too: bool) -> None:
    code, out, err = on_terminals(model, stdout_too, rows=40)
    assert code == 0
    # On a terminal the text ends with a line break, so that what comes next starts a line. Where colorama is installed,
    # torch has it reset the terminal at exit.
    assert (
        out.replace(b"\r\n", b"\n").removesuffix(b"\x1b[0m")
        == (write().out + "\n" * stdout_too).replace("\r\n", "\n").encode()
    )
    assert b"\x1b[1;38r" in err, "the panel is at the bottom of the terminal that shows it"
    assert b"\x1b[r" in err.split(b"\x1b[1;38r")[-1], "and the terminal is given back whole"
    assert b"receipt" in err


# What write does ----------------------------------------------------------------------------------------------------


def test_out_is_what_standard_output_had_and_is_appended_to(write: Cli, tmp_path: Path) -> None:
    out = tmp_path / "out.txt"
    once = write("--out", out)
    assert once.code == 0
    assert out.read_bytes().decode() == once.out
    before = out.read_bytes()
    write("--out", out)
    assert out.read_bytes() == before * 2


def test_prompt_from_anywhere_gives_the_same_text(write: Cli, tmp_path: Path) -> None:
    path, report, text = tmp_path / "prompt.txt", tmp_path / "run.json", b"It was\r\nso"
    path.write_bytes(b"\xef\xbb\xbf" + text)
    ways: list[dict[str, Any]] = [{"prompt": text.decode()}, {"prompt": None, "stdin": text}]
    found = [write("--report", report, **way).out for way in ways]
    found += [write("--report", report, "--prompt-file", name, **ways[1]).out for name in (path, "-")]
    assert found == found[:1] * 4
    assert read(report)["prompt_tokens"] == len(text)
    fails(write(prompt=None), "standard input")


def test_same_seed_same_text_and_figures(write: Cli, tmp_path: Path) -> None:
    first, second, other = (tmp_path / name for name in ("1.json", "2.json", "3.json"))
    text = write("--seed", 5, "--report", first).out
    assert write("--seed", 5, "--report", second).out == text
    assert write("--seed", 6, "--report", other).out != text
    assert figures(first) == figures(second) != figures(other)


def test_prompt_longer_than_the_window_is_learnt_first(write: Cli, tmp_path: Path) -> None:
    report = tmp_path / "run.json"
    assert write("--tokens", 1, "--report", report, prompt=LONG).code == 0
    assert read(report)["committed"] == len(LONG) // 32 > 3
    found = read(report)
    assert (found["tokens"], found["prompt_tokens"]) == (1, len(LONG))
    # Each token is predicted once, the first one of all from nothing; so is what was written, counted at the top only.
    assert (found["prompt"]["tokens"], found["prompt"]["words"]) == (len(LONG) - 1, len(LONG.split()))
    assert sum(chunk["targets"] for chunk in found["chunks"]) == len(LONG)


def test_too_short_to_learn_says_so(write: Cli, score: Cli, tmp_path: Path) -> None:
    path = tmp_path / "short.txt"
    path.write_text("It was")
    for ran in (write("--tokens", 5), score(path)):
        assert ran.code == 0
        assert "nothing was learnt" in ran.err


@pytest.mark.parametrize("command", ["write", "score"])
def test_parallel_learning_commits_each_chunk_after_the_next(
    write: Cli, score: Cli, book: Path, tmp_path: Path, command: str
) -> None:
    report, flag = tmp_path / "run.json", ("--learning", "parallel", "--threads", "1")
    ran = write(*flag, "--report", report) if command == "write" else score(book, *flag, "--report", report)
    assert ran.code == 0
    found = read(report)
    full = found["tokens"] // 32 if command == "score" else 2
    assert (found["committed"], found["rejected"]) == (full - 1, 0)
    whole = [c for c in found["chunks"] if (c["start"] + c["tokens"]) % 32 == 0]  # a prompt's last part is a row too
    assert [c["committed"] for c in whole][:full] == [True] * (full - 1) + [False]
    assert found["config"]["learning"] == "parallel"
    assert found["device"].endswith(", 1 threads")
    seconds = found["seconds"]
    assert sum(seconds[p] for p in ("decode", "score", "learn", "cache")) <= seconds["total"]
    assert ("in training" in ran.err) == (command == "score")
    assert "NO" not in ran.err


def test_parallel_learning_of_one_chunk_says_why_nothing_was_learnt(write: Cli) -> None:
    ran = write("--learning", "parallel", "--tokens", 30)
    assert "nothing was learnt: parallel learning commits a chunk at the end of the next one" in ran.err


@pytest.mark.parametrize("threads", ["0", "many"])
def test_threads_that_are_none(write: Cli, threads: str) -> None:
    fails(write("--threads", threads), "--threads", "must be auto or a number from 1", repr(threads))


@pytest.mark.parametrize("command", ["write", "score"])
def test_exploding_rate_is_rolled_back(write: Cli, score: Cli, book: Path, tmp_path: Path, command: str) -> None:
    report, rate = tmp_path / "run.json", ("--learning-rate", "1e9")
    ran = write(*rate, "--report", report) if command == "write" else score(book, *rate, "--report", report, "--quiet")
    assert ran.code == 0
    found = read(report)
    assert found["tokens"] == (80 if command == "write" else len(LONG))
    assert (found["committed"], found["rejected"]) == (0, found["tokens"] // 32)
    assert found["base"] == pytest.approx(found["adapted"], rel=1e-3)
    assert ("2 learnt, 0" not in ran.err and "2 rolled back" in ran.err) == (command == "write")


def test_chat(write: Cli, model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "chat"
    shutil.copytree(model, folder)
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}[answer] "
    tokenizer.save_pretrained(folder)
    assert write("--model", folder, "--chat").out == write(prompt="[user] It was\n[answer] ").out != write().out


def test_stop_at_end(write: Cli, tmp_path: Path) -> None:
    """All 260 ids are equally likely here, so the end comes soon, if it may."""
    report = tmp_path / "run.json"
    flat = ("--temperature", 1000, "--min-p", 0, "--learning", "off", "--tokens", 1500, "--report", report)
    assert write(*flat, "--stop-at-end").code == 0
    assert 0 < read(report)["tokens"] < 1500
    assert write(*flat, "--tokens", 700).code == 0
    assert read(report)["tokens"] == 700


# What score does ----------------------------------------------------------------------------------------------------


def test_the_same_text_from_anywhere_scores_the_same(score: Cli, book: Path, tmp_path: Path) -> None:
    report, found = tmp_path / "run.json", []
    for suffix, packed in PACKED.items():
        (tmp_path / f"book.{suffix}").write_bytes(packed)
    for name in (book, tmp_path / "book.xz", tmp_path / "book.gz", "-"):
        assert score(name, "--report", report, stdin=LONG.encode()).code == 0
        found.append(figures(report))
    assert found[0]["tokens"] == len(LONG)
    assert all(f == found[0] for f in found)


@pytest.mark.parametrize("tokens", [2, 31, 32, 33, 100])
def test_tokens_scores_exactly_the_first_ones(score: Cli, book: Path, tmp_path: Path, tokens: int) -> None:
    cut, report = tmp_path / "cut.txt", tmp_path / "run.json"
    cut.write_text(LONG[:tokens])
    assert score(book, "--tokens", tokens, "--report", report).code == 0
    first = figures(report)
    assert (first["tokens"], sum(c["tokens"] for c in first["chunks"])) == (tokens, tokens)
    assert score(cut, "--report", report).code == 0
    assert figures(report) == first


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        (b"one\r\ntwo\r\n" * 9, 90),
        (b"\xef\xbb\xbf" + b"text " * 9, 45),
        ("日本語🙂".encode() * 9, 117),
        (b"line" * 99999, 96),
        (b"x", 1),
    ],
    ids=["crlf", "bom", "multi-byte", "one long line", "one token"],
)
@pytest.mark.parametrize("plot", [False, True])
def test_odd_texts(score: Cli, tmp_path: Path, text: bytes, tokens: int, plot: bool) -> None:
    """A byte is a token here."""
    path, report, picture = tmp_path / "odd.txt", tmp_path / "run.json", tmp_path / "run.png"
    path.write_bytes(text)
    more = ["--plot", picture] if plot else []
    assert score(path, "--report", report, *(["--tokens", 96] if tokens == 96 else []), *more).code == 0
    assert read(report)["tokens"] == tokens
    assert picture.exists() == plot


def test_several_files_each_have_their_own_adapter(score: Cli, book: Path, tmp_path: Path) -> None:
    report = tmp_path / "run.json"
    ran = score(book, book, "--report", report)
    assert ran.code == 0
    assert ran.out.count(book.name) == 2
    first, second = read(report)["texts"]
    assert first["base"] == second["base"]
    assert first["adapted"] == second["adapted"]
    assert read(report)["tokens"] == 2 * len(LONG)
    assert len(read(report)["chunks"]) == 2 * len(first["chunks"])


@pytest.mark.parametrize("name", [b"caf\xe9.txt", "café.txt".encode()])
def test_file_names_need_not_be_utf8(score: Cli, tmp_path: Path, name: bytes) -> None:
    path, report = tmp_path / os.fsdecode(name), tmp_path / "run.json"
    path.write_text(LONG)
    assert score(path, path, "--report", report).code == 0
    assert len(read(report)["texts"]) == 2


# Reports and plots --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["write", "score"])
def test_report_and_plot(write: Cli, score: Cli, book: Path, tmp_path: Path, command: str) -> None:
    path, picture = tmp_path / "run.json", tmp_path / "run.png"
    outputs = ("--report", path, "--plot", picture)
    assert (write(*outputs) if command == "write" else score(book, *outputs)).code == 0
    report = read(path)
    assert set(report) >= TOP
    assert set(report["base"]) == set(report["adapted"]) == SUMMARY
    assert all(value > 0 for key in ("base", "adapted") for value in report[key].values())
    assert set(report["seconds"]) >= {"load", "decode", "score", "learn", "total"}
    assert (report["base_unchanged"], report["discarded"]) == (True, True)
    assert TempLoraConfig.from_dict(report["config"]).chunk_size == 32
    assert all(set(chunk) >= CHUNK for chunk in report["chunks"])
    assert [chunk["index"] for chunk in report["chunks"]] == list(range(len(report["chunks"])))
    assert sum(chunk["base_nll"] for chunk in report["chunks"]) == pytest.approx(report["base"]["nll"])
    assert picture.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


def test_a_page_shows_both_texts_and_changes_nothing(write: Cli, book: Path, tmp_path: Path) -> None:
    path, report = tmp_path / "story.html", tmp_path / "run.json"
    plain = write("--prompt-file", book, "--report", report, prompt=None)
    without = read(report)
    ran = write("--prompt-file", book, "--page", path, "--report", report, prompt=None)
    assert ran.code == 0
    assert ran.out == plain.out
    assert [c["base_nll"] for c in read(report)["chunks"]] == [c["base_nll"] for c in without["chunks"]]
    made = path.read_text(encoding="utf-8")
    assert "with the adapter" in made
    assert "without it" in made
    assert "as it was" in made
    refused = write("--page", path, "--session", "x", "--sessions", tmp_path / "sessions")
    assert refused.code == 2
    assert "--page: is of one run" in refused.err


def test_json_on_standard_output(score: Cli, book: Path) -> None:
    assert set(json.loads(score(book, "--json").out)) >= TOP


def test_quiet(write: Cli, score: Cli, book: Path) -> None:
    assert write("--quiet").err == ""
    assert score(book, "--quiet").err == ""


# Help ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["write", "score"])
def test_help_mentions_every_option(cli: Cli, command: str) -> None:
    ran = cli(command, "--help")
    assert ran.code == 0
    words = ran.out.replace("/", " ").split()
    for field in dataclasses.fields(TempLoraConfig):
        assert "--" + field.name.replace("_", "-") in words


def test_version_and_models(cli: Cli) -> None:
    assert templora.__version__ in cli("--version").out
    assert "write" in cli("--help").out
    assert "--rank" in cli("models", "--help").out
    rows = json.loads(cli("models", "--json").out)
    assert [row["name"] for row in rows if row["default"]] == ["smollm2-135m"]
    assert all(row["name"] in cli("models").out for row in rows)
    fails(cli("models", "--rank", 0), "--rank")
