"""An adapter of other texts, to begin from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from conftest import TEXT, small
from evaluations import tiny_folder

from templora import warm_start as module
from templora.cli.score import score
from templora.cli.warm_start import warm_start
from templora.config import TempLoraConfig
from templora.engine.engine import Engine
from templora.errors import OptionError, TextError
from templora.events import ChunkLearned
from templora.testing import tiny_engine
from templora.warm_start import WarmStart

CONFIG = small()
TEXTS = ("The keeper lit the lamp. " * 14, "Die Öfen glühten — 海上 — and Odalie slept. " * 4, "Rain. " * 9)


def weights(engine: Engine, adapter: Path, config: TempLoraConfig = CONFIG) -> torch.Tensor:
    with engine.session(config) as session:
        session.load_adapter(adapter)
        return session.adapter_weights()


def learnt(engine: Engine, out: Path, **options: Any) -> torch.Tensor:
    WarmStart(engine, TEXTS, out, CONFIG, **options).run()
    return weights(engine, out)


def pieces(most: int | None = None, size: int = 128) -> list[str]:
    return [text for _, text in module._in_turn(tiny_engine().tokenizer, TEXTS, most, size)]


def test_it_is_what_sessions_learn_that_read_them_in_turn(engine: Engine, tmp_path: Path) -> None:
    found, start = learnt(engine, tmp_path / "adapter"), None
    parts = pieces()
    assert len(parts) == 6
    for some, rate in ((parts[:4], 1.0), (parts[4:5], 0.5), (parts[5:], 0.2)):  # round(4.5) is 4
        with engine.session(small(learning_rate=rate * 5e-3)) as session:
            if start is not None:
                session.use_adapter(start)
            for piece in some:
                session.absorb(piece)
            session.close_chunk()
            start = session.adapter_weights()
    assert start is not None
    assert torch.equal(start, found)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter"]  # nothing else is left


@pytest.mark.parametrize("most", [None, 200])
def test_texts_take_turns_and_nothing_of_them_is_lost(most: int | None) -> None:
    tokenizer = tiny_engine().tokenizer
    shelves: dict[str, str] = dict.fromkeys(TEXTS, "")
    order = []
    for piece in pieces(most):
        text = next(text for text in TEXTS if text.startswith(shelves[text] + piece))
        shelves[text] += piece
        order.append(TEXTS.index(text))
    assert order == ([0, 1, 2, 0, 1, 0] if most is None else [0, 1, 2, 0, 1])
    for text, read in shelves.items():
        assert read == (text if most is None else tokenizer.decode(tokenizer.encode(text)[:most]))


@pytest.mark.parametrize("after", [1, 3, 13, 16])
def test_left_at_any_chunk_it_goes_on(engine: Engine, tmp_path: Path, after: int) -> None:
    seen: list[ChunkLearned] = []

    def leave(_done: int, _total: int, event: ChunkLearned | None) -> None:
        seen.extend([event] if event else [])
        if len(seen) == after:
            raise KeyboardInterrupt

    out = tmp_path / "adapter"
    with pytest.raises(KeyboardInterrupt):
        WarmStart(engine, TEXTS, out, CONFIG).run(leave)
    assert not out.exists()
    chunks = WarmStart(engine, TEXTS, out, CONFIG).run()
    assert chunks == WarmStart(engine, TEXTS, tmp_path / "whole", CONFIG).run()
    found = weights(engine, out)
    assert torch.equal(found, learnt(engine, tmp_path / "undisturbed"))


def test_an_adapter_is_there_whole_or_not_at_all(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever is killed while it is put there, or cannot put it there, finds no half of it and goes on."""

    real, out = Path.rename, tmp_path / "adapter"

    def refused(path: Path, to: Path) -> Path:
        if to == out:
            raise OSError("no room")
        return real(path, to)

    with monkeypatch.context() as during:
        during.setattr(Path, "rename", refused)
        with pytest.raises(OptionError, match=r"out: .*no room"):
            WarmStart(engine, TEXTS, out, CONFIG).run()
    assert not out.exists()
    assert torch.equal(learnt(engine, out), learnt(engine, tmp_path / "undisturbed"))
    file = tmp_path / "adapter.gguf"
    assert torch.equal(learnt(engine, file), weights(engine, out))


def test_other_texts_do_not_go_on_with_it(engine: Engine, tmp_path: Path) -> None:
    out = tmp_path / "adapter"

    def leave(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        WarmStart(engine, TEXTS[:1], out, CONFIG).run(leave)
    found = learnt(engine, out)
    assert torch.equal(found, learnt(engine, tmp_path / "undisturbed"))
    assert (tmp_path / "adapter.unfinished").exists()  # the first one's work


def test_what_cannot_be_is_said_before_anything_is_learnt(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    for out in (tmp_path / "there", tmp_path / "no" / "adapter", tmp_path / "a\0b"):
        with pytest.raises(OptionError, match="out"):
            WarmStart(engine, TEXTS, out, CONFIG)
    with pytest.raises(OptionError, match="learning"):
        WarmStart(engine, TEXTS, tmp_path / "adapter", small(learning="off"))
    with pytest.raises(TextError, match="30 tokens together"):
        WarmStart(engine, ["x" * 20, "y" * 10], tmp_path / "adapter", CONFIG)
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


def test_the_command_makes_one_that_others_start_from(tmp_path: Path) -> None:
    model = tiny_folder(tmp_path / "model")
    sizes = ["--model", str(model), "--chunk-size", "32", "--window", "96", "--rank", "4"]
    (tmp_path / "a.txt").write_text(TEXT * 2)
    (tmp_path / "b.txt").write_text(TEXT[::-1])
    out = tmp_path / "adapter"
    given = [str(tmp_path / "a.txt"), str(tmp_path / "b.txt"), *sizes, "--out", str(out)]
    done = CliRunner().invoke(warm_start, [*given, "--tokens", "100"])
    assert done.exit_code == 0, done.output
    assert "200 tokens, 7 chunks learnt" in done.stderr
    assert done.stdout == ""
    start = [str(tmp_path / "a.txt"), *sizes, "--learning", "off", "--json", "--quiet"]
    fresh, warm = (CliRunner().invoke(score, [*start, *more]) for more in ([], ["--adapter", str(out)]))
    assert fresh.exit_code == warm.exit_code == 0
    assert fresh.stdout != warm.stdout
    again = CliRunner().invoke(warm_start, given)
    assert isinstance(again.exception, OptionError)
    assert "is there already" in str(again.exception)
    few = CliRunner().invoke(warm_start, [*given[:-1], str(tmp_path / "other"), "--tokens", "0"])
    assert isinstance(few.exception, OptionError)
