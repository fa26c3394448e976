"""Sampling as a session asks for it: alternatives of a preview, log-probabilities, and what cannot be asked for."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from conftest import small

from templora import Finished, OptionError, SamplingParams, Session, TokenEvent
from templora.decoding.preview import Preview
from templora.engine.engine import Engine
from templora.sampling import Wanted

HOT = SamplingParams(temperature=1.5)
ASCII: dict[str, Any] = {"temperature": 1.5, "logit_bias": dict.fromkeys(range(128, 256), -100)}
EVERY: dict[str, Any] = {
    "temperature": 1.5,
    "frequency_penalty": 0.3,
    "presence_penalty": -0.2,
    "dry_multiplier": 0.8,
    "dry_allowed_length": 1,
    "xtc_probability": 0.5,
    "xtc_threshold": 0.005,
    "logit_bias": {"e": 3, 120: -100},
    "logprobs": 3,
}


def tokens(events: Any) -> list[TokenEvent]:
    return [event for event in events if isinstance(event, TokenEvent)]


# Alternatives -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [{}, {"wanted": {"lamp": Wanted("lamp")}}, {"base": True}], ids=str)
def test_alternatives_of_a_preview(engine: Engine, text: str, how: dict[str, Any]) -> None:
    """The first is what there would be alone; each is the same, however many there are; nothing of them stays."""
    with engine.session(small()) as session:
        session.absorb(text[:90])

        def preview(n: int) -> Preview:
            return session.preview("so", max_new_tokens=60, sampling=SamplingParams(temperature=1.5, n=n), **how)

        alone, four = preview(1), preview(4)
        assert alone.alternatives == (alone,)
        assert four.alternatives[0] == alone
        assert (four.text, four.ended) == (alone.text, alone.ended)
        assert preview(2).alternatives == four.alternatives[:2]
        assert len({draft.text for draft in four.alternatives}) == 4
        assert all(not draft.others for draft in four.alternatives)
        assert len(session.tokens) == 90


def test_one_alternative_is_kept(engine: Engine, text: str) -> None:
    """And leaves the session as it would be, had nobody drafted."""
    found = []
    for drafts in (True, False):
        with engine.session(small()) as session:
            session.absorb(text[:90])
            if drafts:
                made = session.preview(max_new_tokens=20, sampling=SamplingParams(temperature=1.5, n=3))
                kept = made.alternatives[1].text
            session.absorb(kept)
            session.write(max_new_tokens=30, sampling=HOT)
            found.append((session.tokens, session.adapter_weights()))
    assert found[0][0] == found[1][0]
    assert torch.equal(found[0][1], found[1][1])


def test_each_is_told_of_all_alternatives_and_may_end_them(engine: Engine, text: str) -> None:
    three = SamplingParams(**ASCII, n=3, stop="e")
    with engine.session(small()) as session:
        told: list[str] = []
        made = session.preview(text[:40], max_new_tokens=30, sampling=three, each=told.append)
        assert "".join(told) == "".join(draft.text for draft in made.alternatives)
        assert all("e" not in draft.text for draft in made.alternatives)

        def leave(said: str) -> None:
            told.append(said)
            if len(told) > len(made.alternatives[0].tokens) + 1:
                raise KeyboardInterrupt

        told.clear()
        with pytest.raises(KeyboardInterrupt):
            session.preview(text[:40], max_new_tokens=30, sampling=three, each=leave)
        assert session.preview(text[:40], max_new_tokens=30, sampling=three) == made


def test_a_session_writes_one_text(engine: Engine) -> None:
    with engine.session(small()) as session:
        with pytest.raises(OptionError, match=r"n: must be 1, not 2: .* `preview` gives alternatives"):
            session.write("x", sampling=SamplingParams(n=2))
        with pytest.raises(OptionError, match="logit_bias: there is no token 260"):
            session.preview("x", sampling=SamplingParams(logit_bias={260: 1}))
        assert not session.tokens


# Log-probabilities --------------------------------------------------------------------------------------------------


def test_logprobs_are_what_the_model_predicts(engine: Engine, text: str) -> None:
    """Asking for them changes no token; they are those of a pass over the text, whatever was done to the logits."""
    with engine.session(small(learning="off", window=96)) as session:
        events = tokens(session.stream(text[:30], max_new_tokens=50, sampling=SamplingParams(**EVERY)))
        written = list(session.tokens)
    with torch.inference_mode():
        every = engine.model.module(torch.tensor([written])).logits[0].float().log_softmax(-1)
    for event in events:
        assert event.logprobs is not None
        row = every[event.index - 1]
        assert event.logprobs.logprob == pytest.approx(float(row[event.token]), abs=1e-4)
        assert [top.token for top in event.logprobs.top] == row.topk(3).indices.tolist()
        assert [top.logprob for top in event.logprobs.top] == pytest.approx(row.topk(3).values.tolist(), abs=1e-4)
    assert any(event.token not in [top.token for top in event.logprobs.top] for event in events if event.logprobs)
    with engine.session(small(learning="off", window=96)) as session:
        silent = SamplingParams(**{**EVERY, "logprobs": None})
        quiet = tokens(session.stream(text[:30], max_new_tokens=50, sampling=silent))
        assert [event.token for event in quiet] == [event.token for event in events]
        assert all(event.logprobs is None for event in quiet)


def test_a_preview_has_them_too(engine: Engine, text: str) -> None:
    """Those of the model alone, though words are wanted; and of tokens that stay when a text stops it."""
    with engine.session(small(learning="off")) as session:
        how: dict[str, Any] = {"max_new_tokens": 40, "stop_at_end": False}
        two = SamplingParams(**ASCII, n=2, logprobs=0)
        made = session.preview(text[:30], sampling=two, wanted={"lamp": Wanted("lamp")}, **how)
        for draft in made.alternatives:
            assert "".join(event.text for event in draft.tokens) == draft.text
            written = [*session.encode(text[:30]), *(event.token for event in draft.tokens)]
            with torch.inference_mode():
                every = engine.model.module(torch.tensor([written])).logits[0].float().log_softmax(-1)
            for event in draft.tokens:
                assert event.logprobs is not None
                assert event.logprobs.logprob == pytest.approx(float(every[event.index - 1, event.token]), abs=1e-4)
        made = session.preview(text[:30], sampling=two, **how)
        stop = made.text[10:13]
        stopped = session.preview(text[:30], sampling=replace(two, stop=stop), **how)
        assert stopped.tokens == made.tokens[: made.text.index(stop)]


# Everything at once -------------------------------------------------------------------------------------------------


def wrote(session: Session, prompt: str, most: int, **how: Any) -> list[int]:
    list(session.stream(prompt, max_new_tokens=most, sampling=SamplingParams(**EVERY), **how))
    return list(session.tokens)


@pytest.mark.parametrize("options", [{}, {"learning": "parallel"}], ids=str)
def test_what_is_known_is_gone_over_without_a_draw(engine: Engine, text: str, options: dict[str, Any]) -> None:
    with engine.session(small(**options)) as session:
        whole = wrote(session, text[:50], 100)
        assert 120 not in whole[50:], "it was banned"
    for known in (1, 37, 99):
        with engine.session(small(**options)) as session:
            assert wrote(session, text[:50], 100, forced_tokens=whole[50 : 50 + known]) == whole


@pytest.mark.parametrize(
    "option", ["frequency_penalty", "presence_penalty", "dry_multiplier", "xtc_probability", "logit_bias"]
)
def test_each_changes_what_is_written(engine: Engine, text: str, option: str) -> None:
    without = {**EVERY, option: None if option == "logit_bias" else 0}
    found = []
    for how in (EVERY, without):
        with engine.session(small()) as session:
            events = list(session.stream(text[:50], max_new_tokens=90, sampling=SamplingParams(**how)))
            assert isinstance(events[-1], Finished)
            found.append(list(session.tokens))
    assert found[0] != found[1]


def test_any_seed_writes(engine: Engine) -> None:
    """Also those below nought, which `reseed` always took."""
    with engine.session(small()) as session:
        session.reseed(-1)
        assert len(session.write("x", max_new_tokens=3, sampling=SamplingParams(**EVERY))) >= 0
        assert len(session.tokens) == 4


@pytest.mark.parametrize("at", [20, 32, 45, 71])
def test_a_preview_from_an_earlier_place_is_what_was_written_there(engine: Engine, at: int) -> None:
    """By the base, and by an adapter that has learnt nothing, which is the base; in the open chunk and before it."""
    text = "It was the best of times, it was the worst of times, it was the age of wisdom."[:at]
    with engine.session(small(learning="off", seed=7)) as session:
        written = session.write(text, max_new_tokens=30, sampling=SamplingParams(**ASCII))
        start = len(session.tokens) - 30
        for base in (False, True):
            found = session.preview(
                max_new_tokens=30, sampling=SamplingParams(**ASCII), stop_at_end=False, base=base, at=start
            )
            assert found.text == written
        with pytest.raises(OptionError, match="at: "):
            session.preview(at=len(session.tokens) + 1)


def test_a_preview_from_before_a_short_chunk(engine: Engine) -> None:
    how: dict[str, Any] = {"max_new_tokens": 8, "sampling": SamplingParams(**ASCII)}
    with engine.session(small(learning="off")) as session:
        written = session.write("It was", **how)
    with engine.session(small(learning="off")) as session:
        session.absorb("It was the")
        session.close_chunk()
        assert session.loop.text.chunk_start_at(6) == 0
        assert session.preview(stop_at_end=False, base=True, at=6, **how).text == written
