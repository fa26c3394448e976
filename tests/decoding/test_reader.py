"""Writing, token by token: what is scored, stopped at, penalised and reported on the way."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from adapted import GREEDY, adapted_logits, logits, with_random_adapter
from conftest import small

from templora import ChunkScored, Finished, SamplingParams, TokenEvent
from templora.decoding.reader import Reader
from templora.decoding.steps import Steps
from templora.engine.engine import Engine
from templora.kvcache.window import WindowCache
from templora.models.causal import CausalModel
from templora.models.runner import Runner
from templora.runtime.metering import Meter
from templora.sampling import Sampler
from templora.testing import tiny_engine


def test_written_chunks_are_scored_without_filters_by_base_and_adapter(engine: Engine, text: str) -> None:
    """Only what was written counts, over all ids, though sampling chose among few."""
    sampling = SamplingParams(temperature=0.7, top_k=3)
    with engine.session(small(learning="off")) as session:
        with_random_adapter(session)
        events = list(session.stream(text[:20], max_new_tokens=60, sampling=sampling, score=True))
        scored = [e for e in events if isinstance(e, ChunkScored)]
        assert [(e.start, e.end, e.targets) for e in scored] == [(20, 32, 12), (32, 64, 32), (64, 80, 16)]
        ids = session.tokens
        found = adapted_logits(session, ids)[0]
        for event in scored:
            wanted = torch.tensor(ids[event.start : event.end])
            for nll, scores in ((event.base_nll, logits(engine, ids)[0]), (event.adapted_nll, found)):
                direct = F.cross_entropy(scores[event.start - 1 : event.end - 1], wanted, reduction="sum")
                assert nll == pytest.approx(float(direct), rel=1e-4)


def test_writing_on_scores_only_what_is_new(engine: Engine, text: str) -> None:
    """A second stream in the same chunk: what the first one wrote has no score to compare with the base's."""
    with engine.session(small()) as session:
        session.write(text[:10], max_new_tokens=8)
        events = session.stream(max_new_tokens=20, score=True)
        spans = [(e.start, e.end, e.targets) for e in events if isinstance(e, ChunkScored)]
        assert spans == [(18, 32, 14), (32, 38, 6)]


def test_an_end_is_stopped_at_or_never_written(engine: Engine, text: str) -> None:
    """The likeliest token is made an end: stop there and leave it out, or write another one."""
    end = int(logits(engine, list(text[:20].encode()))[0, -1].argmax())
    engine.generation_config = SimpleNamespace(eos_token_id=[end])
    with engine.session(small()) as session:
        *_, finished = session.stream(text[:20], max_new_tokens=30, sampling=GREEDY, stop_at_end=True)
        assert finished == Finished(0, "stop")
        assert len(session.tokens) == 20
        *events, finished = session.stream(max_new_tokens=30, sampling=GREEDY)
        assert isinstance(finished, Finished)
        assert (finished.tokens, finished.reason) == (30, "length")
        assert end not in [e.token for e in events if isinstance(e, TokenEvent)]


def test_the_sampler_sees_the_window(engine: Engine, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[int]] = []
    real = Sampler.__call__
    monkeypatch.setattr(
        Sampler, "__call__", lambda self, x, recent, *at: seen.append(recent) or real(self, x, recent, *at)
    )
    with engine.session(small(learning="off")) as session:
        session.write(text[:80], max_new_tokens=30)
        assert seen == [session.tokens[max(0, n - 96) : n] for n in range(80, 110)]


@pytest.mark.parametrize("sinks", [0, 1])
def test_reuse_keeps_the_opening_and_forgets_the_rest(sinks: int, text: str) -> None:
    """One layer's keys depend on nothing but their token and its position, so eviction can be checked entry by entry.

    With BOS the entries after it keep their positions, which a cold pass cannot show: each is computed alone.
    """
    engine = tiny_engine(bos=bool(sinks))
    model = engine.model.module
    model.model.layers = model.model.layers[:1]
    model.config.num_hidden_layers = 1
    engine = Engine(model, engine.tokenizer)
    with engine.session(small(learning="off", cache_reuse=5)) as session:
        session.score(text[:224])
        cache, tokens = session.readers[1].cache, session.tokens
        assert cache.shift > 0
        assert cache.sinks == 4  # the first tokens stay also where there is no BOS
        held = [*range(4), *range(cache.first_token + 4, cache.next_token)]
        plain = WindowCache(1, len(held))
        for at, token in enumerate(held):
            with torch.no_grad():
                engine.model.hidden([tokens[token]], plain, token)
            plain.advance(1, 0)
            ours = cache.layers[0].keys[:, :, at]
            assert torch.allclose(ours, plain.layers[0].keys[:, :, at], rtol=1e-4, atol=1e-5), token


def test_learning_after_an_eviction_goes_on_at_the_texts_positions(
    engine: Engine, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cache that has been evicted holds keys at their old positions; the chunk learnt over it must follow them."""
    fed: list[tuple[bool, int, int]] = []
    real = engine.model.hidden

    def spy(ids: list[int], cache: Any, position: int = 0) -> torch.Tensor:
        fed.append((torch.is_grad_enabled(), position, len(ids)))
        return real(ids, cache, position)

    monkeypatch.setattr(engine.model, "hidden", spy)
    with engine.session(small(cache_reuse=50, max_repetition=1.0)) as session:
        session.write(text[:33], max_new_tokens=159)
        shift = session.readers[0].cache.shift
    assert shift > 0
    learnt = [(position, tokens) for learning, position, tokens in fed if learning]
    assert learnt == [(0, 31)] + [(32 * chunk - 1, 32) for chunk in range(1, 6)]


def test_a_short_prompt_is_read_as_if_it_were_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """To the bit, however it is cut, and not through the modules; a long one goes through them."""
    model, ids = tiny_engine("llama", torch.bfloat16).model, list(b"The keeper of the house on the hill slept.")
    step, real = Steps(model).new(), CausalModel.hidden
    passes, found = list[int](), list[torch.Tensor]()

    def spied(self: CausalModel, tokens: list[int], *how: Any) -> torch.Tensor:
        passes.append(len(tokens))
        return real(self, tokens, *how)

    monkeypatch.setattr(CausalModel, "hidden", spied)
    for cuts in ([10, 26], [10, 11, 18, 19, 26], [10, 27]):
        reader = Reader(Runner(model), None, small(), 0, Meter(), lambda: step)
        reader.prepare(ids[: cuts[0]], 0, 0)
        for cut in cuts[1:]:
            reader.fill(ids[:cut], 0)
        found.append(torch.stack([layer.keys[:, :, :25] for layer in reader.cache.layers]))
    assert torch.equal(found[0], found[1])
    assert torch.allclose(found[0], found[2], atol=0.1)
    assert passes == [9, 9, 9, 17]
