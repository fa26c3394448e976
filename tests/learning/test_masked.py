"""Text that is given to be read and not learnt: in the loss nowhere, seen by everything after it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import small

from templora.chunks import Chunk
from templora.decoding.preview import Preview
from templora.decoding.reader import Reader
from templora.engine.engine import Engine
from templora.errors import TextError
from templora.events import ChunkLearned, ChunkScored, Finished, TokenEvent
from templora.sampling import SamplingParams
from templora.session.session import Session
from templora.store.store import SessionStore
from templora.testing import tiny_engine

FIRST, SECOND = "zwei Worte: ", "two words. "


def weights(session: Session) -> torch.Tensor:
    return session.adapter_weights()


@contextmanager
def counted() -> Iterator[list[int]]:
    """How many tokens each pass inside reads into a cache."""
    read: list[int] = []
    real = Reader.feed

    def feed(reader: Reader, ids: list[int], **how: Any) -> torch.Tensor:
        read.append(len(ids))
        return real(reader, ids, **how)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Reader, "feed", feed)
        yield read


def test_a_chunk_knows_what_it_learns() -> None:
    chunk = Chunk(0, 0, 0, 8, ((0, 3), (5, 6)))
    assert chunk.learnt == [3, 4, 6, 7]
    assert chunk.targets == 4
    assert Chunk(0, 0, 0, 8).targets == 7
    assert Chunk.from_json(chunk.to_json()) == chunk


@pytest.mark.parametrize("options", [{}, {"context_gradients": True}, {"epochs": 2}, {"learning": "parallel"}])
def test_the_loss_is_that_of_what_is_learnt(options: dict[str, Any]) -> None:
    """Against the per-token NLL that scoring the same chunk says."""
    engine = tiny_engine()
    config = small(chunk_size=64, window=128, **options)
    with engine.session(config) as session:
        session.absorb(FIRST, learn=False)
        session.absorb(SECOND)
        learned = session.close_chunk()
    assert learned is not None
    with engine.session(small(chunk_size=64, window=128, learning="off")) as session:
        ids = session.encode(FIRST + SECOND)
        first = len(session.encode(FIRST))
        session.loop.readers.prepare(session.readers[0])
        scored = list(session.score_ids(ids[:first]))
        scored = [e for e in session.score_ids(ids[first:]) if isinstance(e, ChunkScored)]
    assert learned.loss == pytest.approx(scored[0].adapted_nll / scored[0].targets, rel=1e-4)


def test_nothing_masked_is_learning_as_before(engine: Engine, text: str) -> None:
    with engine.session(small()) as session:
        session.absorb(text[:80])
        plain = weights(session)
    with engine.session(small()) as session:
        session.absorb(text[:80], learn=True)
        assert torch.equal(weights(session), plain)
    with engine.session(small()) as session:
        session.absorb(text[:20], learn=False)
        session.absorb(text[20:80])
        assert not torch.equal(weights(session), plain)


def test_what_is_masked_does_matter_as_context(engine: Engine) -> None:
    found = []
    for first in ("abcdefgh", "abcdefgX"):
        with engine.session(small()) as session:
            session.absorb(first, learn=False)
            session.absorb("0123456789")
            session.close_chunk()
            found.append(weights(session))
    assert not torch.equal(*found)


def test_a_chunk_that_is_masked_whole_is_not_learnt(engine: Engine, text: str) -> None:
    with engine.session(small()) as session:
        events = list(session.absorb_events(text[:80], learn=False))
        assert not [e for e in events if isinstance(e, ChunkLearned)]
        assert session.version == 0
        session.absorb(text[:64])
        assert session.version > 0


def test_the_brake_looks_at_what_is_learnt(engine: Engine, text: str) -> None:
    """A source that repeats is no reason against its translation."""
    with engine.session(small(chunk_size=96, window=192)) as session:
        session.absorb("x" * 60, learn=False)
        learned = next(iter(session.absorb_events(text[:36])))
        assert isinstance(learned, ChunkLearned)
        assert learned.committed
    with engine.session(small(chunk_size=96, window=192)) as session:
        session.absorb(text[:36], learn=False)
        learned = next(iter(session.absorb_events("x" * 60)))
        assert isinstance(learned, ChunkLearned)
        assert "repetitive" in learned.reason


def test_a_snapshot_holds_the_masks(engine: Engine, text: str) -> None:
    with engine.session(small()) as session:
        session.absorb(text[:10], learn=False)
        held, tokens = session.snapshot(), list(session.tokens)
        session.absorb(text[10:40])
        wanted = weights(session)
    with engine.session(small()) as session:
        session.restore(tokens, held)
        session.absorb(text[10:40])
        assert torch.equal(weights(session), wanted)


# Drafts and stops --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"cache_reuse": 1}, {"learning": "parallel"}])
@pytest.mark.parametrize("sampling", [SamplingParams(temperature=0), SamplingParams(temperature=2.0)])
def test_a_draft_leaves_no_trace(text: str, options: dict[str, Any], sampling: SamplingParams) -> None:
    found = []
    for drafts in (False, True):
        engine = tiny_engine()
        with engine.session(small(**options)) as session:
            session.absorb(text[:70])
            if drafts:
                said = [session.preview("so", max_new_tokens=9, sampling=sampling) for _ in range(2)]
                assert said[0] == said[1] != Preview("", True)
                session.preview(max_new_tokens=5, sampling=sampling, base=True)
            session.score(text[70:90])
            if drafts:
                session.preview(max_new_tokens=200, sampling=sampling)
            session.write(max_new_tokens=40, sampling=SamplingParams(temperature=1.0))
            found.append((session.tokens, weights(session)))
    assert found[0][0] == found[1][0]
    assert torch.equal(found[0][1], found[1][1])


def test_a_greedy_draft_is_what_is_written(engine: Engine, text: str) -> None:
    """By the adapter or the base, with a prompt or after it."""
    cold: dict[str, Any] = {"max_new_tokens": 12, "sampling": SamplingParams(temperature=0)}
    with engine.session(small()) as session:
        session.absorb(text[:70])
        said = session.preview(text[70:75], stop_at_end=False, **cold)
        base = session.preview(text[70:75], stop_at_end=False, base=True, **cold)
        session.absorb(text[70:75])
        assert session.preview(stop_at_end=False, **cold) == said
        assert session.write(**cold) == said.text != base.text
        assert not said.ended


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_draft_is_the_same_whatever_was_drafted_before(dtype: torch.dtype, text: str) -> None:
    """Though it reads no more than it has to: a learnt chunk, another text, an end of the window are noticed."""
    cold = SamplingParams(temperature=0)
    engine, config = tiny_engine(dtype=dtype), small(chunk_size=100, window=230)
    prompts = {
        "a": 20,
        text[:100]: 20,
        text[100:]: 20,
        text[:90]: 150,
        text[20:99]: 20,
        text[50:140]: 20,
    }  # and how many tokens of it

    def preview(session: Session, prompt: str) -> Preview:
        return session.preview(prompt, max_new_tokens=prompts[prompt], sampling=cold, stop_at_end=False)

    with engine.session(config) as session:
        states, wanted = [], []
        for part in (text[:100], text[100:230], text[230:260], text[260:500]):
            session.absorb(part)
            states.append((list(session.tokens), session.snapshot()))
            wanted.append([])
            for prompt in prompts:
                with engine.session(config) as fresh:
                    fresh.restore(*states[-1])
                    wanted[-1].append(preview(fresh, prompt))
        for n in (0, 1, 2, 3, 1, 0):
            session.restore(*states[n])
            assert [preview(session, prompt) for prompt in prompts] == wanted[n]
        preview(session, text[50:140])
        with counted() as read:
            assert preview(session, text[50:140]) == wanted[0][5]
        assert sum(read) < 64
        other = torch.randn(len(weights(session)), generator=torch.Generator().manual_seed(0)) / 20
        tokens, held = states[0]
        for change in (
            lambda: session.use_adapter(other),
            lambda: session.restore(tokens, replace(held, tensors=held.tensors | {"weights": other})),
        ):
            preview(session, text[50:140])
            change()
            with engine.session(config) as fresh:
                fresh.restore(session.tokens, session.snapshot())
                assert preview(session, text[50:140]) == preview(fresh, text[50:140])
            session.restore(tokens, held)


@pytest.mark.parametrize("options", [{}, {"learning": "parallel"}, {"cache_reuse": 1}])
def test_what_a_draft_has_read_of_the_context_is_not_read_again(text: str, options: dict[str, Any]) -> None:
    """Unless more than the plain context would be seen; what is learnt is the same."""
    cold, found, reads = SamplingParams(temperature=0), [], []
    for drafts in (False, True):
        engine = tiny_engine(dtype=torch.bfloat16)
        with engine.session(small(**options)) as session:
            for n in range(4):
                session.absorb(text[60 * n : 60 * n + 20])
                if drafts:
                    session.preview("so", max_new_tokens=2, sampling=cold)
                with counted() as read:
                    session.absorb(text[60 * n + 20 : 60 * n + 60])
                    session.close_chunk()
                reads.append(sum(read))
            found.append(weights(session))
    assert torch.equal(*found)
    without, with_ = sum(reads[1:4]), sum(reads[5:8])
    assert (with_ < without) == ("cache_reuse" not in options)


def test_a_draft_goes_on_when_the_window_is_full(engine: Engine, text: str) -> None:
    """As writing does, where nothing is learnt on the way."""
    cold: dict[str, Any] = {"max_new_tokens": 150, "sampling": SamplingParams(temperature=0)}
    with engine.session(small(learning="off")) as session:
        session.absorb(text[:64])
        said = session.preview(text[64:128], stop_at_end=False, **cold).text
        session.absorb(text[64:128])
        assert session.write(**cold) == said


def test_a_likelihood_is_the_bases_and_leaves_nothing(engine: Engine, text: str) -> None:
    """That of the same text in a session with nothing else in it."""
    with engine.session(small()) as session, engine.session(small(learning="off", window=200)) as other:
        session.absorb(text[:70])
        before = session.snapshot()
        found = session.likelihood(text[:20], text[20:50])
        other.absorb(text[:20])
        scored = other.score(text[20:50]).base
        assert found.tokens == scored.tokens == 30
        assert found.nll == pytest.approx(scored.nll, rel=1e-5)
        assert before.meta["tokens"] == len(session.tokens)
        assert all(map(torch.equal, before.tensors.values(), session.snapshot().tensors.values()))
        for prompt, wanted in (("", "a"), ("a", ""), ("a", "b" * 300)):
            with pytest.raises(TextError, match="a prompt and a text"):
                session.likelihood(prompt, wanted)


def test_a_draft_needs_something_to_go_on_from(engine: Engine) -> None:
    with engine.session(small()) as session, pytest.raises(TextError, match="nothing to go on from"):
        session.preview()


def test_a_draft_ends_where_it_is_told_to(engine: Engine, text: str) -> None:
    with engine.session(small(learning="off")) as session:
        free = session.preview(text[:50], max_new_tokens=40, sampling=SamplingParams(temperature=0)).text
        stop = free[7]
        said = session.preview(text[:50], max_new_tokens=40, sampling=SamplingParams(temperature=0, stop=stop))
        assert said == Preview(free[: free.index(stop)], True)


def test_writing_stops_before_a_text(engine: Engine, text: str) -> None:
    """At each token that begins with it; what ends a text is still banned, if that is not asked for."""
    with engine.session(small()) as session:
        free = session.write(text[:50], max_new_tokens=40, sampling=SamplingParams(temperature=0))
    stop = free[7]
    with engine.session(small()) as session:
        events = list(session.stream(text[:50], max_new_tokens=40, sampling=SamplingParams(temperature=0, stop=stop)))
        said = "".join(e.text for e in events if isinstance(e, TokenEvent | Finished))
        assert said == free[: free.index(stop)]
        assert isinstance(events[-1], Finished)
        assert events[-1].reason == "stop"


def test_after_a_stop_no_token_is_read_twice(engine: Engine, text: str) -> None:
    """What comes next is what it would be had the same text been given."""
    cold = SamplingParams(temperature=0)
    with engine.session(small(learning="off")) as session:
        free = session.write(text[:50], max_new_tokens=12, sampling=cold)
    stop = free[5]
    said = free[: free.index(stop)]
    found = []
    for written in (True, False):
        with engine.session(small(learning="off", window=128)) as session:
            if written:
                session.write(text[:50], max_new_tokens=40, sampling=SamplingParams(temperature=0, stop=stop))
            else:
                session.absorb(text[:50])
                for _ in session.absorb_ids(session.encode(said)):
                    pass
            scored = [e.adapted_nll for e in session.score_events(text[50:60]) if isinstance(e, ChunkScored)]
            assert session.readers[0].cache.next_token == len(session.tokens) - 1
            found.append((session.tokens, scored))
    assert found[0][0] == found[1][0]
    assert found[0][1] == pytest.approx(found[1][1], rel=1e-4)
    with engine.session(small(learning="off")) as session:
        session.write(text[:50], max_new_tokens=40, sampling=SamplingParams(temperature=0, stop=stop))
        assert session.write(max_new_tokens=12 - len(said), sampling=cold) == free[len(said) :]


# On disk -----------------------------------------------------------------------------------------------------------


def test_a_session_on_disk_goes_on_with_masks_marks_and_stops(tmp_path: Path) -> None:
    """Opened anew after each step and without snapshots, it is the session that was never closed."""
    cold, stop = SamplingParams(temperature=0), SamplingParams(temperature=1.5, stop="e")
    config = small(seed=3)
    with tiny_engine().session(config) as session:
        for round in range(4):
            session.absorb(f"{round}. {FIRST}", learn=False)
            for _ in session.stream("and: ", max_new_tokens=30, sampling=stop, learn_prompt=False):
                pass
            session.absorb("more\n", learn=False)
            session.absorb("\n")
        wanted, learnt = list(session.tokens), weights(session)
    store = SessionStore(tmp_path)
    store.create("s", tiny_engine(), config).close()
    for round in range(4):
        for step in range(3):
            with store.open("s", tiny_engine()) as saved:
                if step == 0:
                    saved.absorb(f"{round}. {FIRST}", learn=False)
                elif step == 1:
                    for _ in saved.stream("and: ", max_new_tokens=30, sampling=stop, learn_prompt=False):
                        pass
                else:
                    assert saved.preview(max_new_tokens=5, sampling=cold).text
                    saved.mark({"n": round})
                    for _ in saved.absorb_parts([("more\n", False), ("\n", True)], mark={"end": round}):
                        pass
            for path in (tmp_path / "s" / "files").glob("*"):
                path.unlink()
    with store.open("s", tiny_engine()) as saved:
        assert saved.tokens == wanted
        assert torch.equal(weights(saved.session), learnt)
        said = [mark for _, mark in saved.history.marks]
        assert said == [m for n in range(4) for m in ({"n": n}, {"end": n})]
        places = [place for place, _ in saved.history.marks]
        # What the mark is of begins before it and ends after it.
        assert [after - before for before, after in zip(places[::2], places[1::2], strict=True)] == [5] * 4
