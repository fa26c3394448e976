"""What must not be learnt is not: each guard is provoked, and what it holds back leaves nothing behind."""

from __future__ import annotations

import json
import math
import signal
from typing import Any

import pytest
import torch
from adapted import appended
from conftest import small

from templora import ChunkLearned, SamplingParams, TempLoraConfig
from templora.engine.engine import Engine
from templora.learning.guards import Brake, Patience, Written, from_json, to_json
from templora.learning.probe import Probe
from templora.recipes import recipe
from templora.sampling import entropy_of
from templora.session.chunk_cycle import ChunkCycle
from templora.session.session import Session
from templora.session.snapshot import Snapshot
from templora.testing import tiny_engine

GREEDY = SamplingParams(temperature=0, repetition_penalty=1.0)


def learned(session: Session, text: str) -> list[ChunkLearned]:
    return [e for e in session.absorb_events(text) if isinstance(e, ChunkLearned)]


def sharp_engine() -> Engine:
    """Predicts with certainty, as trained models do, so that there is something to spoil."""
    engine = tiny_engine()
    engine.model.module.lm_head.weight.data.mul_(8.0)
    return engine


def readings(monkeypatch: pytest.MonkeyPatch, rises: list[tuple[float, float]]) -> None:
    """Has the probe find these rises, one update after the other; then none."""
    left = [[(1.0, 1.0), (1.0 + rise[0], 1.0 + rise[1])] for rise in rises]
    monkeypatch.setattr(Probe, "read", lambda *_: left.pop(0) if left else [(1.0, 1.0)] * 2)


# The probe ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("learning", ["cascaded", "parallel"])
@pytest.mark.parametrize("options", [{}, {"context_gradients": True, "epochs": 2}], ids=["cached", "paper"])
def test_a_rate_that_explodes_is_rolled_back(learning: str, options: dict[str, Any], text: str) -> None:
    """The version before goes on serving, to the bit."""
    config = small(learning=learning, learning_rate=1.0, max_update=100.0, patience=0, **options)
    with sharp_engine().session(config) as session, sharp_engine().session(small(learning="off")) as bare:
        served = session.slot.serving.clone()
        events = learned(session, text[:200])
        assert len(events) >= 4
        for event in events:
            assert not event.committed
            assert "less likely" in event.reason
            assert event.drift is not None
            assert event.forgetting is not None
            assert max(event.drift, event.forgetting) > config.probe_tolerance
        assert session.version == 0
        assert torch.equal(session.slot.serving, served)
        assert session.write(max_new_tokens=20) == bare.write(text[:200], max_new_tokens=20)


def test_trying_an_update_changes_nothing(text: str) -> None:
    """With and without the probe: the same adapter, the same likelihoods."""
    found = []
    for probe_tokens in (0, 16):
        with tiny_engine(bos=True).session(small(probe_tokens=probe_tokens)) as session:
            score = session.score(text[:300])
            found.append((score.adapted.chunk_nll, session.adapter_weights()))
            assert session.version > 5
    assert found[0][0] == found[1][0]
    assert torch.equal(found[0][1], found[1][1])


def test_drift_is_measured_against_what_the_base_predicts(engine: Engine) -> None:
    """Over the passage alone: a fresh adapter has the base's own likelihoods, one that leads away has lower ones."""
    from adapted import with_random_adapter

    from templora.runtime.metering import Meter

    passage = list(b"a passage of the same text for all")
    with engine.session(small()) as session:
        probe = Probe.draw(engine.runner, [], passage)
        assert probe == Probe.draw(engine.runner, [], passage)
        logits = engine.model.module(torch.tensor([passage])).logits[0]
        plain = torch.nn.functional.cross_entropy(logits, torch.tensor(probe.drawn)).item()

        def read(recent: list[int]) -> tuple[float, float]:
            return probe.read(recent, [session.slot.route], Meter())[0]

        recent = list(b"what was read before, as many ids.")
        assert len(recent) == len(passage)
        assert read(recent)[0] == pytest.approx(plain, rel=1e-5)
        assert read(recent[:-1]) == (pytest.approx(plain, rel=1e-5), 0.0)
        logits = engine.model.module(torch.tensor([passage + recent])).logits[0, len(passage) : -1]
        assert read(recent)[1] == pytest.approx(
            torch.nn.functional.cross_entropy(logits, torch.tensor(recent[1:])).item(), rel=1e-5
        )
        fresh, before = session.slot.route_of(session.slot.serving.clone()), read(recent)
        with_random_adapter(session)
        assert read(recent)[0] > plain + 1e-3
        # Both in one pass are what each is.
        both = probe.read(recent, [fresh, session.slot.route], Meter())
        assert both == [pytest.approx(before, rel=1e-5), pytest.approx(read(recent), rel=1e-5)]


@pytest.mark.parametrize(
    ("rise", "said"), [((0.3, 0.0), "base's own"), ((0.0, 0.3), "before it"), ((math.nan, 0.0), "nan")]
)
def test_either_half_of_the_probe_is_enough(
    rise: tuple[float, float], said: str, engine: Engine, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    readings(monkeypatch, [(0.0, 0.0), rise, (0.09, 0.09)])
    with engine.session(small()) as session:
        events = learned(session, text[:96])
    assert [e.committed for e in events] == [True, False, True]
    assert said in events[1].reason


def test_a_model_of_few_ids_is_tried_on_what_it_knows(text: str) -> None:
    """Windows too small for two probes, and vocabularies that lack most of the passage."""
    with tiny_engine().session(small(window=20, chunk_size=8, probe_tokens=64)) as session:
        probe = session.engine.probe(session.config, [], session.meter)
        assert probe is not None
        assert len(probe.drawn) == 10
        assert all(e.drift is not None for e in learned(session, text[:60]))


# Patience ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("learning", ["cascaded", "parallel"])
def test_learning_pauses_after_repeated_rejections_and_tries_again(
    learning: str, engine: Engine, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = (1.0, 0.0)
    readings(monkeypatch, [(0.0, 0.0), bad, bad, (0.0, 0.0), bad, bad, bad, bad])
    with engine.session(small(learning=learning, patience=3, pause=2)) as session:
        events = learned(session, text[: 32 * 13])
        session.close_chunk()
        events += session.loop.cycle.events
    said = [
        "+" if e.committed else "." if "is paused" in e.reason else "!" if "pauses" in e.reason else "-" for e in events
    ]
    assert len(said) >= 12
    assert "+--+--!..!..+".startswith("".join(said))
    assert "3 in a row" in events[6].reason
    assert "(2 chunks to go)" in events[7].reason
    assert "3 updates in a row were rolled back" in events[7].reason
    assert events[7].loss is None  # not even tried


def test_a_rejection_that_is_interrupted_is_reported_once(
    engine: Engine, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C while it was being reported: it counts, and the chunk is not tried again."""
    readings(monkeypatch, [(1.0, 0.0)] * 2)
    real = ChunkCycle._report

    def report(self: ChunkCycle, *what: Any) -> None:
        real(self, *what)
        signal.raise_signal(signal.SIGINT)

    with engine.session(small(patience=3)) as session:
        with monkeypatch.context() as patch:
            patch.setattr(ChunkCycle, "_report", report)
            with pytest.raises(KeyboardInterrupt):
                session.absorb(text[:32])
        assert session.snapshot().meta["guards"]["patience"] == [1, 0]
        assert [e.index for e in learned(session, text[32:96])] == [0, 1, 2]


def test_without_patience_every_chunk_is_tried(engine: Engine, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    readings(monkeypatch, [(1.0, 0.0)] * 9)
    with engine.session(small(patience=0)) as session:
        events = learned(session, text[: 32 * 9])
    assert len(events) == 9
    assert all(e.loss is not None and not e.committed for e in events)


def test_what_the_guards_know_goes_on_with_the_session(text: str) -> None:
    """Left after each chunk, in the middle of a row of rejections and of a pause: the same reasons, the same tokens."""
    config = small(learning_rate=5e-3, probe_tolerance=0.1, patience=2, pause=2, min_entropy=0.97, seed=49)
    how: Any = {"sampling": SamplingParams(min_p=0.1)}
    with sharp_engine().session(config) as session:
        events = [e for e in session.stream(text[:64], max_new_tokens=400, **how) if isinstance(e, ChunkLearned)]
        tokens = session.tokens
    reasons = [e.reason for e in events]
    for said in ("less likely", "pauses", "is paused", "entropy"):
        assert any(said in reason for reason in reasons), said
    with sharp_engine().session(config) as session:
        found = [e for e in session.absorb_events(text[:64]) if isinstance(e, ChunkLearned)]
        left = session.snapshot()
    for _ in range(10):
        with sharp_engine().session(config) as session:
            session.restore(tokens[: left.meta["tokens"]], Snapshot(left.tensors, json.loads(json.dumps(left.meta))))
            found += [e for e in session.stream(max_new_tokens=40, **how) if isinstance(e, ChunkLearned)]
            left = session.snapshot()
            assert session.tokens == tokens[: len(session.tokens)]
    assert [e.reason for e in found] == reasons


# The brake ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("phrase", ["la ", "so on"])
def test_a_chunk_of_one_phrase_is_not_learnt_whoever_wrote_it(phrase: str, engine: Engine, text: str) -> None:
    with engine.session(small(chunk_size=128, window=192)) as session:
        events = learned(session, text[:128] + (phrase * 128)[:128] + text[:128])
    assert [e.committed for e in events] == [True, False, True]
    assert events[1].reason.startswith("repetitive: ")
    with engine.session(small(chunk_size=128, window=192, max_repetition=1.0)) as session:  # its switch
        assert all(e.committed for e in learned(session, (phrase * 128)[:256]))


def test_a_poisoned_lesson_is_seen_though_the_text_is_sound(engine: Engine, text: str) -> None:
    def lesson(tokens: Any, chunk: Any) -> list[int]:
        return [*tokens[: chunk.middle], *[7] * (chunk.end - chunk.middle)]

    with engine.session(small(), lesson=lesson) as session:
        (event,) = learned(session, text[:32])
    assert not event.committed


def test_falling_entropy_is_not_learnt(engine: Engine) -> None:
    """Against what was written and learnt before; the first chunk has nothing to fall from."""
    reasons = []
    with engine.session(small(min_entropy=0.5)) as session:
        for at, nats in enumerate((2.0, 1.5, 0.8, 0.9, 0.0)):
            for token in range(32):
                appended(session, (token * 7 + at) % 250, nats)
            event = session.close_chunk()
            assert event is not None
            reasons.append(event.reason)
    assert [bool(reason) for reason in reasons] == [False, False, True, False, True]
    assert "fell to 0.80 nats a token, from 1.75 so far" in reasons[2]
    with engine.session(small(min_entropy=0.0)) as session:
        for nats in (2.0, 0.0):
            for token in range(32):
                appended(session, token * 7 % 250, nats)
            event = session.close_chunk()
            assert event is not None
            assert event.committed


def test_entropy_of_what_is_written_is_that_of_the_predictions(engine: Engine, text: str) -> None:
    with engine.session(small(learning="off")) as session:
        session.write(text[:40], max_new_tokens=20, sampling=GREEDY)
        tokens, written = session.tokens, session.loop.cycle.written
    with torch.no_grad():
        logits = engine.model.module(torch.tensor([tokens])).logits[0]
    plain = torch.distributions.Categorical(logits=logits[39:59]).entropy()
    assert written.spans == [(40, 60)]
    assert written.entropy == pytest.approx(float(plain.sum()), rel=1e-3)


@pytest.mark.parametrize("banned", [False, True])
def test_entropy(banned: bool) -> None:
    logits = torch.randn(500, generator=torch.Generator().manual_seed(1)) * 5
    if banned:
        logits[::3] = -math.inf
    plain = torch.distributions.Categorical(logits=logits.double().clamp(min=-1e9)).entropy().item()
    assert entropy_of(logits) == pytest.approx(plain, rel=1e-5)
    assert entropy_of(torch.tensor([100.0, -math.inf])) < 1e-20


def test_guards_survive_json() -> None:
    state = Written({3: 1.0, 4: 0.5}), Brake(2.5, 7), Patience(2, 1)
    assert from_json(json.loads(json.dumps(to_json(*state)))) == state
    older = {**to_json(*state), "entropy": 1.5}
    del older["entropies"]
    assert from_json(older)[0].entropy == state[0].entropy
    assert from_json(older)[1:] == state[1:]


def test_what_was_written_is_cut_with_the_text() -> None:
    written, at = Written(), [3, 4, 5, 9, 10]
    for token in at:
        written.append(token, float(token))
    for end in (11, 10, 6, 5, 4, 3):
        written.cut(end)
        kept = [token for token in at if token < end]
        assert list(written.entropies) == kept
        assert [i for first, last in written.spans for i in range(first, last)] == kept


# Configs of earlier versions ---------------------------------------------------------------------------------------


def test_a_stored_config_means_what_it_meant() -> None:
    before = TempLoraConfig.before()
    earlier = {name: value for name, value in TempLoraConfig().to_dict().items() if name not in before}
    config = TempLoraConfig.stored(earlier)
    assert (config.probe_tokens, config.patience, config.min_entropy) == (0, 0, 0.0)
    assert config.as_before() == earlier
    assert TempLoraConfig.stored(TempLoraConfig().to_dict()) == TempLoraConfig()
    assert set(TempLoraConfig().as_before()) - set(earlier) == {
        "probe_tokens",
        "patience",
        "min_entropy",
        "learn_written",
    }
    assert config.learn_written


def _adapter_of(text: str, given: int, written: int, **options: Any) -> tuple[int, torch.Tensor, list[int]]:
    """(versions, weights, tokens) after so much of a text was given, and so much written."""
    with tiny_engine().session(small(learn_written=False, **options)) as session:
        session.absorb(text[:given])
        if written:
            session.write(max_new_tokens=written, sampling=SamplingParams(temperature=2.0))
        session.close_chunk()
        return session.version, session.adapter_weights(), list(session.tokens)


@pytest.mark.parametrize("learning", ["cascaded", "parallel"])
def test_what_is_written_is_not_learnt_unless_asked_for(learning: str, text: str) -> None:
    version, weights, _ = _adapter_of(text, 32, 64, learning=learning)
    before = _adapter_of(text, 32, 0, learning=learning)
    assert version == before[0] == 1
    assert torch.equal(weights, before[1])
    with tiny_engine().session(small(learning=learning)) as session:  # asked for
        session.absorb(text[:32])
        session.write(max_new_tokens=64, sampling=SamplingParams(temperature=2.0))
        session.close_chunk()
        assert session.version == 3


@pytest.mark.parametrize("learning", ["cascaded", "parallel"])
@pytest.mark.parametrize(("given", "learnt"), [(16, 1), (3, 1), (2, 0)])
def test_a_chunk_that_was_given_in_part_is_learnt_in_part(learning: str, given: int, learnt: int, text: str) -> None:
    """As if what was written had been given to be read only. Token 0 is nobody's target, and one target is too few."""
    version, weights, tokens = _adapter_of(text, given, 32 - given, learning=learning)
    with tiny_engine().session(small(learning=learning)) as session:
        for part, learn in ((tokens[:given], True), (tokens[given:], False)):
            for _ in session.absorb_ids(part, learn=learn):
                pass
        session.close_chunk()
        assert version == session.version == learnt
        assert torch.equal(weights, session.adapter_weights())


def test_the_papers_recipe_learns_what_it_writes() -> None:
    assert recipe("paper").learn_written
    assert not TempLoraConfig().learn_written
