"""What a session does between its verbs: interrupted, in pieces, beside others."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from conftest import small

from templora import ChunkLearned, ChunkScored, SamplingParams, Session, SessionClosed, TextError, TokenEvent
from templora.engine.engine import Engine
from templora.kvcache.window import WindowCache
from templora.models.causal import Trace
from templora.reports.run_report import TextReport
from templora.testing import byte_tokenizer, tiny_engine, tiny_model

GREEDY = SamplingParams(temperature=0, repetition_penalty=1.0)


def test_the_brake_counts_what_was_written_in_however_many_calls(text: str) -> None:
    config = small(max_repetition=0.2)
    reasons: list[list[str]] = []
    for pieces in ([160], [10] * 16):
        with tiny_engine().session(config) as session:
            session.absorb(text[:8])
            events = [e for n in pieces for e in session.stream(max_new_tokens=n, sampling=GREEDY)]
            reasons.append([e.reason for e in events if isinstance(e, ChunkLearned)])
    assert reasons[0] == reasons[1]
    assert sum(r.startswith("repetitive") for r in reasons[0]) >= 3


def test_chat_opens_with_one_bos() -> None:
    engine = tiny_engine(bos=True)
    engine.tokenizer.chat_template = "<s>{% for m in messages %}[{{ m.content }}]{% endfor %}"
    with engine.session(small()) as session:
        list(session.stream("hello", max_new_tokens=1, chat=True))
        assert session.tokens[:8] == [257, *b"[hello]"]


@pytest.mark.parametrize(
    "where", ["engine.engine.first_weights", "engine.engine.Probe.draw", "methods.base.Method.begin"]
)
def test_a_session_that_could_not_begin_leaves_nothing(
    where: str, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.model.module.train()
    trace = Trace.of(engine.model.module)
    with monkeypatch.context() as patch:
        patch.setattr(f"templora.{where}", lambda *_: (_ for _ in ()).throw(MemoryError))
        with pytest.raises(MemoryError):
            engine.session(small())
    assert Trace.of(engine.model.module) == trace
    assert engine.sessions == 0
    with engine.session(small()) as session:
        pass
    assert session.receipt is not None
    assert session.receipt.discarded


def test_a_receipt_beside_living_sessions_sees_what_is_left(engine: Engine) -> None:
    first, second, third = (engine.session(small()) for _ in range(3))
    assert first.discard().discarded
    handle = engine.model.module.model.norm.register_forward_hook(lambda *_: None)
    assert not second.discard().discarded
    handle.remove()
    assert third.discard().discarded


def test_discard_may_be_interrupted_and_repeated(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    session = engine.session(small())
    with monkeypatch.context() as patch:
        patch.setattr(engine.model, "checksum", interrupted)
        with pytest.raises(KeyboardInterrupt):
            session.discard()
    assert session.closed
    for verb in (lambda: session.absorb("a"), lambda: session.write("a"), lambda: session.version):
        with pytest.raises(SessionClosed):
            verb()
    assert session.discard() == session.discard()
    assert session.discard().discarded


def test_the_text_outlives_the_adapter(engine: Engine, text: str) -> None:
    with engine.session(small()) as session:
        session.absorb(text[:40])
    assert session.text == text[:40]


def test_nothing_to_go_on_from(engine: Engine) -> None:
    with engine.session(small()) as session, pytest.raises(TextError, match="nothing to go on from"):
        session.write("")


def test_rotary_buffers_that_change_are_not_the_base(text: str) -> None:
    """longrope rewrites its frequencies as it goes; they are derived from the config, not weights."""
    model = tiny_model()
    factors = [1.0] * 4
    model.config.rope_parameters = {
        "rope_type": "longrope", "rope_theta": 10000.0, "short_factor": factors, "long_factor": [2.0] * 4,
        "original_max_position_embeddings": 32, "factor": 8.0,
    }  # fmt: skip
    model = type(model)(model.config).eval()
    with Engine(model, byte_tokenizer()).session(small()) as session:
        session.absorb(text[:200])
    assert session.receipt is not None
    assert session.receipt.base_unchanged


def test_a_model_that_also_sees_gets_adapters_where_it_reads() -> None:
    import transformers as hf

    text_config = tiny_model("gemma3").config.to_dict()
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2}
    config = hf.Gemma3Config(
        text_config=text_config, vision_config=vision | {"image_size": 28, "patch_size": 14}, mm_tokens_per_image=4
    )
    engine = Engine(hf.Gemma3ForConditionalGeneration(config).eval(), byte_tokenizer())
    with engine.session(small(layers="upper")) as session:
        names = [t.name for t in session.slot.layout.targets]
        assert len(names) == 7
        assert all("language_model.layers.1." in name for name in names)
        assert session.write("ab", max_new_tokens=40)
        assert session.version == 1


# Interrupted ------------------------------------------------------------------------------------------------------


def test_a_chunk_is_learnt_once_however_it_is_interrupted(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Right after the commit: it has been learnt. Right before: it is still to be."""
    from templora.learning.learner import Learner

    real = Learner.learn
    for after in (True, False):
        engine = tiny_engine()

        def stopped(self: Learner, *arguments: Any, after: bool = after) -> None:
            if after:
                real(self, *arguments)
            raise KeyboardInterrupt

        with engine.session(small()) as session:
            with monkeypatch.context() as patch:
                patch.setattr(Learner, "learn", stopped)
                with pytest.raises(KeyboardInterrupt):
                    session.absorb(text[:32])
            session.absorb(text[32:40])
            assert session.version == 1
            session.absorb(text[40:64])
            assert session.version == 2


def test_a_score_that_is_interrupted_takes_nothing_in(engine: Engine, text: str) -> None:
    with engine.session(small()) as session, pytest.MonkeyPatch.context() as patch:
        wanted = engine.session(small()).score(text[:64])
        calls = iter(range(10))
        real = type(engine.model)._blocks

        def stopped(self: Any, *arguments: Any) -> Any:
            if next(calls) == 1:
                raise KeyboardInterrupt
            return real(self, *arguments)

        patch.setattr(type(engine.model), "_blocks", stopped)
        with pytest.raises(KeyboardInterrupt):
            session.score(text[:64])
        assert session.tokens == []
    assert wanted.base.tokens == 63


def test_an_eviction_that_is_interrupted_leaves_an_empty_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    cache = WindowCache(2, 8)
    for layer in cache.layers:
        layer.lazy_initialization(torch.zeros(1, 1, 1, 4), torch.zeros(1, 1, 1, 4))
    cache.advance(8, 0)
    cache.layers[1].keys = None
    with pytest.raises(TypeError):
        cache.evict(3)
    assert cache.length == 0


def test_a_reader_who_stops_listening_loses_nothing(text: str) -> None:
    """A generator that is dropped in the middle of a chunk, and right at its end, then gone on with."""
    with tiny_engine().session(small()) as session:
        session.write(text[:10], max_new_tokens=90)
        wanted = session.tokens
    with tiny_engine().session(small()) as session:
        written, prompt = 0, text[:10]
        for stop in (5, 22, 40, 90):
            for event in session.stream(prompt, max_new_tokens=90 - written):
                if isinstance(event, TokenEvent):
                    written += 1
                    if written == stop:
                        break
            prompt = ""
        assert session.tokens == wanted


def test_figures_of_a_run_that_was_cut_short_are_of_what_was_scored(engine: Engine, text: str) -> None:
    report = TextReport("cut")
    with engine.session(small()) as session:
        for event in session.stream(text[:8], max_new_tokens=80, score=True):
            report.add(event)
            if isinstance(event, TokenEvent) and event.index == 80:
                break
    report.finish(session, engine.tokenizer)
    scored = session.tokens[8:64]
    assert report.base.tokens == len(scored)
    assert report.utf8_bytes == len(engine.tokenizer.decode(scored, skip_special_tokens=True).encode())


def test_writing_in_pieces_is_scored_whole(engine: Engine, text: str) -> None:
    with engine.session(small()) as session:
        scored: list[tuple[int, int]] = []
        for piece in (10, 30, 25):
            events = session.stream(text[:8] if not session.tokens else "", max_new_tokens=piece, score=True)
            scored += [(e.start, e.end) for e in events if isinstance(e, ChunkScored)]
    assert [i for start, end in scored for i in range(start, end)] == list(range(8, 8 + 65))


def test_sessions_are_kept_apart_by_type(engine: Engine) -> None:
    """Sessions of one shape share a bank; another rank or other layers make another."""
    sessions = [engine.session(c) for c in (small(), small(seed=3), small(rank=2), small(layers="0"))]
    banks = [s.slot.bank for s in sessions]
    assert banks[0] is banks[1]
    assert len({id(b) for b in banks}) == 3
    assert all(isinstance(s, Session) and s.discard().base_unchanged for s in sessions)
