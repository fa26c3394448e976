"""Stop texts: found wherever they lie in tokens, never half shown, and nothing of them left in the session."""

from __future__ import annotations

import itertools
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import small
from pieces import piece_tokenizer
from transformers.convert_slow_tokenizer import bytes_to_unicode

from templora import ChunkLearned, ChunkScored, Finished, OptionError, SamplingParams, Session, TokenEvent
from templora.engine.engine import Engine
from templora.store.log import Log
from templora.store.store import SessionStore
from templora.testing import tiny_model

PROMPT = "The keeper climbed the stairs, and the lamp was lit. "
MODES: list[dict[str, Any]] = [{}, {"learning": "off"}, {"learning": "parallel"}, {"chunk_size": 4}, {"cache_reuse": 2}]


@pytest.fixture(scope="module")
def pieces() -> Engine:
    """Tokens of several characters, and characters of several tokens."""
    return Engine(tiny_model(), piece_tokenizer(), name="pieces")


def hot(*stop: str) -> SamplingParams:
    return SamplingParams(temperature=1.5, min_p=0.0, stop=stop)


def config(**options: Any) -> Any:
    return small(**{"chunk_size": 16, **options})


def wrote(session: Session, sampling: SamplingParams, most: int = 70, **how: Any) -> tuple[str, str]:
    """What was shown of a write, and why it ended; the session holds that and nothing else."""
    before, begun = session.text, len(session.tokens)
    events = list(session.stream(max_new_tokens=most, sampling=sampling, **how))
    said = "".join(e.text for e in events if isinstance(e, TokenEvent | Finished))
    assert session.text == before + said
    assert isinstance(events[-1], Finished)
    assert events[-1].tokens == len(session.tokens) - begun
    return said, events[-1].reason


@pytest.mark.parametrize("mode", MODES, ids=str)
def test_writing_stops_before_the_first_of_several_texts(pieces: Engine, mode: dict[str, Any]) -> None:
    """However tokens and chunks cut them, and what is not one in the end changes nothing."""
    with pieces.session(config(**mode)) as session:
        session.absorb(PROMPT)
        free = wrote(session, hot(), score=True)[0]
        after, tokens, adapter = session.write(max_new_tokens=9), session.tokens, session.adapter_weights()
    draw = random.Random(1)
    several = []
    for _ in range(6):
        begins = [draw.randrange(2, len(free) - 1) for _ in range(2)]
        several.append([free[at : at + draw.choice([1, 3, 9, 30])] + draw.choice(["", "", "@!"]) for at in begins])
    several.append([free[at : at + 5] + "\0" for at in range(0, len(free), 3)])
    for stops in several:
        with pieces.session(config(**mode)) as session:
            session.absorb(PROMPT)
            said, reason = wrote(session, hot(*stops), score=True)
            at = min([free.index(stop) for stop in stops if stop in free], default=None)
            assert (said, reason) == (free[:at], "length" if at is None else "stop"), stops
            if at is None:
                assert session.write(max_new_tokens=9) == after
                assert session.tokens == tokens
                assert torch.equal(session.adapter_weights(), adapter)


@pytest.mark.parametrize(
    ("said", "stop", "shown"),
    [
        (["x", ".\n", "y"], ["\n"], "x."),
        (["T", "H", "E", " END", "."], ["THE END"], ""),
        (["TH", "E", "ing", "e"], ["THE END", "ge"], "THEin"),
        (["r", "ing", "s"], ["ing"], "r"),
        (["xyz"], ["y"], "x"),
        (["a", "☃", "b"], ["☃"], "a"),
        (["a", *(bytes([b]) for b in "😀".encode()), "b"], ["😀"], "a"),
        (["b☃", "☃a"], ["☃☃"], "b"),
        (["a", "b", "c", "d", "e"], ["bcd", "abcde"], ""),
        (["a", "b", "c", "d", "f"], ["bcd", "abcde"], "a"),
        (["a", "b", "c"], ["ab", "abc", "b"], ""),
        (["i", "n", " ", "the", "e"], ["<|endoftext|>", "ee"], "in th"),
    ],
)
def test_where_it_lies_in_tokens(pieces: Engine, said: list[str | bytes], stop: list[str], shown: str) -> None:
    tokenizer = pieces.tokenizer
    ids = [i for part in said for i in _ids(tokenizer, part)]
    with pieces.session(config(learning="off")) as session:
        session.absorb("The en")  # what was given is no part of it
        events = list(session.stream(max_new_tokens=len(ids), sampling=hot(*stop), forced_tokens=ids))
        assert "".join(e.text for e in events if isinstance(e, TokenEvent | Finished)) == shown
        assert session.text == f"The en{shown}"
        assert events[-1].reason == "stop"  # type: ignore[union-attr]


def _ids(tokenizer: Any, part: str | bytes) -> list[int]:
    """The token that says a text, or is a byte."""
    symbols = bytes_to_unicode()
    name = "".join(symbols[byte] for byte in (part.encode() if isinstance(part, str) else part))
    found = tokenizer.convert_tokens_to_ids(name)
    return list(tokenizer(part)["input_ids"]) if found is None else [found]


def test_nothing_is_shown_that_may_be_a_stop_text(pieces: Engine) -> None:
    ids = pieces.tokenizer("THE ENx")["input_ids"]
    with pieces.session(config()) as session:
        session.absorb("a")
        events = session.stream(max_new_tokens=9, sampling=hot("THE END"), forced_tokens=ids)
        first = next(e for e in events if isinstance(e, TokenEvent))
        assert first.index == 1
        assert session.text.startswith("aTHE EN")  # it was read on, before it could be shown
        session.absorb("b")  # another verb: what nobody has seen is taken back
        assert session.text == f"a{first.text}b"
        assert "".join(e.text for e in events if isinstance(e, TokenEvent)) == session.text[len(first.text) + 2 :]


def test_drafts_stop_there_too(pieces: Engine) -> None:
    with pieces.session(config()) as session:
        free = session.preview(PROMPT, max_new_tokens=60, sampling=hot()).text
        for at in range(3, 40, 6):
            told: list[str] = []
            stop = free[at : at + 5]
            draft = session.preview(PROMPT, max_new_tokens=60, sampling=hot(stop), each=told.append)
            assert draft.text == "".join(told) == free[: free.index(stop)]
            assert draft.ended


@pytest.mark.parametrize("bad", ["", [""], ["a", ""], 3, [3], "a" * 101, "\ud800", [["a"]], {"a": 1}, b"a"])
def test_what_is_no_stop_text(bad: Any) -> None:
    with pytest.raises(OptionError, match="stop: must be a text, or several"):
        SamplingParams(stop=bad)


def test_one_or_several_or_none() -> None:
    found = [SamplingParams(stop=stop).stop for stop in ("a", ["a"], ("a", "b", "a"), None, ())]
    assert found == [("a",), ("a",), ("a", "b"), (), ()]
    stored = [SamplingParams.stored({"top_k": 3, **stop}).stop for stop in ({}, {"stop": ""}, {"stop": None})]
    assert stored == [(), (), ()]
    assert SamplingParams.stored({"stop": "a"}) == SamplingParams.stored({"stop": ["a"]}) == SamplingParams(stop="a")


# On disk -----------------------------------------------------------------------------------------------------------


class Killed(BaseException):
    pass


@pytest.fixture
def killed_at(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Which of the next records is not written any more, as long as there is a number."""
    at: list[int] = []
    real = Log.extend

    def extend(self: Log, *args: Any, **how: Any) -> Any:
        if at:
            at[0] -= 1
            if at[0] == 0:
                at.clear()
                raise Killed
        return real(self, *args, **how)

    monkeypatch.setattr(Log, "extend", extend)
    return at


def test_killed_at_any_record_it_goes_on_to_the_same_text(tmp_path: Path, killed_at: list[int], pieces: Engine) -> None:
    with pieces.session(config()) as session:
        session.absorb(PROMPT)
        free = wrote(session, hot(), 24)[0]
    # One across the end of a chunk, one that begins within a token, one that is never there.
    for number, (stop, first, step) in enumerate(
        ((free[11:19], 3, 4), (free[30:33], 11, 5), (free[12:20] + "\0", 12, 9))
    ):
        store, wanted = SessionStore(tmp_path / f"{number}"), None
        for at in range(first, 32, step):
            killed_at[:] = [at]
            with pytest.raises(Killed), store.create(f"{at}", pieces, config()) as saved:  # noqa: PT012
                saved.absorb(PROMPT)
                saved.write(max_new_tokens=24, sampling=hot(stop))
                raise Killed
            killed_at.clear()
            with store.open(f"{at}", pieces) as saved:
                if not saved.history.acts:
                    saved.absorb(PROMPT)
                if saved.history.acts[-1].kind != "write":
                    saved.write(max_new_tokens=24, sampling=hot(stop))
                for _ in saved.resume():
                    pass
                saved.write(max_new_tokens=5, sampling=hot())
                found = saved.text, saved.session.text, list(saved.tokens), saved.session.adapter_weights().tolist()
            wanted = wanted or found
            assert found == wanted, (number, at)
            assert found[0] == found[1]
            assert found[0].startswith(PROMPT + free[: (free + stop).index(stop)])


@pytest.mark.parametrize("score", [True, False])
def test_what_became_of_a_chunk_is_told_once_wherever_a_stream_is_left(pieces: Engine, score: bool) -> None:
    """It waits with the text that may be a stop text; whoever leaves before that is shown is told by the next verb."""
    counts = []
    for leave in range(1, 12):
        with pieces.session(config(chunk_size=8, window=40)) as session:
            session.absorb("abcdef")
            ids = [i for part in ("x", "THE", " EN", "x", "y", "z") for i in pieces.tokenizer(part)["input_ids"]]
            events = session.stream(max_new_tokens=len(ids), sampling=hot("THE END"), forced_tokens=ids, score=score)
            found: list[Any] = list(itertools.islice(events, leave))
            events.close()  # type: ignore[attr-defined]
            for _ in range(2):
                found += session.absorb_ids([])
            learned = [(e.index, e.version) for e in found if isinstance(e, ChunkLearned)]
            assert learned == [(i, i + 1) for i in range(session.version)]
            scored = [i for e in found if isinstance(e, ChunkScored) for i in range(e.start, e.end)]
            assert len(scored) == len(set(scored))
            counts.append((len(session.tokens), session.version))
    assert (8, 1) in counts  # left where the chunk ends
