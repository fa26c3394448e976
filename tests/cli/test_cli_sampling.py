"""The sampling options of `templora write`, as a user gives them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from evaluations import tiny_folder

from templora.cli.translate import translate as translate_command
from templora.cli.write import write as command
from templora.errors import OptionError

SMALL = ["--chunk-size", "32", "--window", "96", "--rank", "4", "--tokens", "50", "--temperature", "1.5", "--quiet"]
Write = Callable[..., Result]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_folder(tmp_path_factory.mktemp("sampling") / "model")


@pytest.fixture
def write(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> Result:
        given = ["--model", str(model), *SMALL, "--prompt", "It was", *map(str, arguments)]
        ran = CliRunner().invoke(command, given)
        if ran.exception and not isinstance(ran.exception, SystemExit):
            raise ran.exception
        return ran

    return run


@pytest.mark.parametrize(
    "options",
    [
        "--frequency-penalty 1.5",
        "--presence-penalty -1.5",
        "--dry-multiplier 5 --dry-allowed-length 1 --dry-base 3",
        "--xtc-probability 1 --xtc-threshold 0.005",
        "--logit-bias e=8",
        "--logit-bias #101=8",
    ],
)
def test_each_option_changes_the_text(write: Write, options: str) -> None:
    plain = write().stdout
    assert write(*options.split()).stdout != plain
    assert write(*options.split()).stdout == write(*options.split()).stdout


def test_a_bias_may_be_given_several_times(write: Write) -> None:
    """By text or by id; the text may hold what parts it from its number."""
    every = [flag for i in range(257) if i != 61 for flag in ("--logit-bias", f"#{i}=-100")]
    assert set(write(*every, "--logit-bias", "==3").stdout) == {"="}
    report = write("--logit-bias", "a=b=1.5", "--logit-bias", " #1=2", "--report", "run.json")
    assert report.exit_code == 0
    assert json.loads(Path("run.json").read_text())["sampling"]["logit_bias"] == [["a=b", 1.5], [" #1", 2.0]]


@pytest.mark.parametrize("bad", ["sea", "sea=", "sea=x", "=1", "sea=101", "sea=nan", "#99999=1"])
def test_what_is_no_bias(write: Write, bad: str) -> None:
    with pytest.raises(OptionError, match="logit_bias: "):
        write("--logit-bias", bad)


def test_logprobs_are_in_the_report(write: Write) -> None:
    with pytest.raises(OptionError, match="logprobs: are put into the report: give --report FILE"):
        write("--logprobs", 2)
    text = write("--logprobs", 2, "--report", "run.json").stdout
    found = json.loads(Path("run.json").read_text())["logprobs"]
    assert len(found) == 50
    assert "".join(event["text"] for event in found) == text.rstrip("\ufffd")
    for event in found:
        first, second = event["logprobs"]["top"]
        assert 0 > first[2] >= second[2]
        assert event["logprobs"]["logprob"] <= first[2]
    assert write("--report", "run.json").stdout == text
    assert "logprobs" not in json.loads(Path("run.json").read_text())


def test_flags_are_those_that_a_command_can_do_something_with() -> None:
    """One text is written, so none asks how many; a translation reports no tokens."""
    flags = {
        command: set(re.findall(r"--[a-z-]+", CliRunner().invoke(command, ["--help"]).output))
        for command in (command, translate_command)
    }
    for found in flags.values():
        assert {"--frequency-penalty", "--dry-sequence-breakers", "--xtc-threshold", "--logit-bias"} <= found
        assert "--n" not in found
    assert "--logprobs" in flags[command]
    assert "--logprobs" not in flags[translate_command]
