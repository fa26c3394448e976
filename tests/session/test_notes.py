"""Notes: what stands in every window and is no part of the text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from adapted import GREEDY, adapted_logits, logits, with_random_adapter
from conftest import TEXT, small
from transformers import DynamicCache

from templora import (
    ChunkLearned,
    ChunkScored,
    OptionError,
    SamplingParams,
    Session,
    TextError,
    TokenEvent,
)
from templora.chunks import Chunk
from templora.decoding.graph_rows import GraphRows
from templora.engine.engine import Engine
from templora.learning.optimizer import Step
from templora.learning.probe import Probe
from templora.methods.attention_sinks import AttentionSinks
from templora.methods.base import Method
from templora.methods.dynamic_evaluation import DynamicEvaluation
from templora.methods.extended_positions import ExtendedPositions
from templora.methods.kv_compression import KvCompression
from templora.session.notes import Notes
from templora.session.snapshot import Snapshot
from templora.testing import FAMILIES, tiny_engine

NOTES, OTHER = "Aldous keeps the lamp.", "Mara is dead.\n"
HOT = SamplingParams(temperature=1.5)
BOS = 257


def seen_before(session: Session, ids: list[int], start: int, notes: str = NOTES + "\n\n") -> list[int]:
    """What stands before token `start` of a chunk that begins there: opening, notes, the end of the text before it."""
    opening, held = ids[: len(session.loop.text.notes.ids) and int(ids[:1] == [BOS])], list(notes.encode())
    room = session.config.context - len(opening) - len(held)
    return [*opening, *held, *ids[max(len(opening), start - room) : start]]


def nll(scores: torch.Tensor, window: list[int], count: int) -> float:
    targets = torch.tensor(window[len(window) - count :])
    return float(F.cross_entropy(scores[0, -count - 1 : -1].float(), targets, reduction="sum"))


@pytest.mark.parametrize("bos", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_both_readers_score_as_the_plain_model_after_bos_notes_and_window(family: str, bos: bool, text: str) -> None:
    """Each chunk's NLL against one pass over [BOS][notes][window], no cache, under the adapter of that time."""
    engine = tiny_engine(family, bos=bos)
    with engine.session(small(), notes=NOTES) as session, engine.session(small(), notes=NOTES) as mirror:
        for event in session.score_events(text[:200]):
            if isinstance(event, ChunkScored):
                begins = event.start - event.start % 32
                window = [*seen_before(session, session.tokens, begins), *session.tokens[max(begins, bos) : event.end]]
                for found, scores in (
                    (event.base_nll, logits(engine, window)),
                    (event.adapted_nll, adapted_logits(mirror, window)),
                ):
                    assert found == pytest.approx(nll(scores, window, event.targets), rel=1e-5)
                list(mirror.absorb_ids(session.tokens[event.start : event.end]))
        assert session.version == mirror.version == 6
        assert session.text == text[:200]
        assert session.tokens == [*[BOS] * bos, *text[:200].encode()]


@pytest.mark.parametrize("bos", [False, True])
@pytest.mark.parametrize("prompt", ["", "It was", TEXT])
def test_what_is_written_is_what_the_plain_model_chooses(prompt: str, bos: bool) -> None:
    if not (prompt or bos):
        return
    engine = tiny_engine(bos=bos)
    with engine.session(small(learning="off"), notes=NOTES) as session:
        with_random_adapter(session)
        session.write(prompt, max_new_tokens=70, sampling=GREEDY)
        ids, held = session.tokens, session.readers[0].cache.length
        session.settle()
        assert session.readers[0].cache.length == held
        for at in range(bos + len(prompt), len(ids)):
            begins = at - at % 32
            window = [*seen_before(session, ids, begins), *ids[max(begins, bos) : at]]
            assert ids[at] == int(adapted_logits(session, window)[0, -1].argmax())


@pytest.mark.parametrize("bos", [False, True])
@pytest.mark.parametrize("gradients", [False, True])
@pytest.mark.parametrize(("train_context", "parallel"), [(None, False), (None, True), (40, True), (8, False)])
@pytest.mark.parametrize("chunks", [1, 4])
def test_a_chunk_is_learnt_after_the_notes(
    train_context: int | None, gradients: bool, bos: bool, parallel: bool, chunks: int
) -> None:
    """The gradient against plain autograd; of its context, if that is constant, against one with detached keys."""
    engine, learning = tiny_engine(bos=bos), "parallel" if parallel else "cascaded"
    config = small(context_gradients=gradients, train_context=train_context, learning=learning)
    caught: list[torch.Tensor] = []
    real = Step.clipped
    with engine.session(config, notes=NOTES) as session, pytest.MonkeyPatch.context() as patch:
        with_random_adapter(session)
        patch.setattr(Step, "clipped", lambda g, most: caught.append(g.float().clone()) or real(g, most))
        session.absorb((TEXT * 2)[: 32 * chunks - bos - 1])
        session.settle()
        session.loop.cycle.settle()
        caught.clear()
        start, ids, weights = 32 * (chunks - 1), [*session.tokens, 65], session.slot.state.weights.clone()
        before = seen_before(session, ids, start)
        begun, most = bos + len(NOTES) + 2, config.learn_context
        held = [*range(begun), *range(max(begun, len(before) - max(1, most - begun)), len(before))]
        first = len(before)
        session.absorb("A")
        if parallel:
            session.loop.cycle.stage()
        flat = weights.clone().requires_grad_()
        with session.slot.bank.through(session.slot.route_of(flat)):
            plain, targets = DynamicCache(), ids[max(bos, start) :]
            if gradients:
                read, at = [*(before[i] for i in held), *targets[:-1]], None
            else:
                with torch.no_grad():
                    engine.model.decoder(torch.tensor([before[:-1]]), past_key_values=plain, use_cache=True)
                for layer in plain.layers:
                    layer.keys, layer.values = (
                        kv[:, :, [i for i in held if i < first - 1]] for kv in (layer.keys, layer.values)
                    )
                read = [before[-1], *targets[:-1]]
                at = torch.arange(first - 1, first - 1 + len(read))[None]
            how = {"past_key_values": plain, "position_ids": at, "use_cache": True}
            said = engine.model.module(torch.tensor([read]), **how).logits[0]
        F.cross_entropy(said[-len(targets) :], torch.tensor(targets)).backward()
        assert len(caught) == 1
        assert flat.grad is not None
        assert torch.allclose(caught[0], flat.grad, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("bos", [False, True])
def test_what_is_read_only_is_not_in_the_loss(bos: bool) -> None:
    engine = tiny_engine(bos=bos)
    with engine.session(small(), notes=NOTES) as session:
        session.absorb(TEXT[:20], learn=False)
        session.absorb(TEXT[20:30])
        window = [*seen_before(session, session.tokens, 0), *TEXT[:30].encode()]
        expected = nll(logits(engine, window), window, 10) / 10
        learned = session.close_chunk()
    assert learned is not None
    assert learned.loss == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("opening", "chunk", "seen"),
    [
        (1, Chunk(0, 0, 0, 32), Chunk(0, 0, 6, 37)),
        (0, Chunk(0, 0, 0, 32), Chunk(0, 0, 5, 37)),
        (2, Chunk(0, 0, 0, 32, ((2, 4),)), Chunk(0, 0, 7, 37, ((7, 9),))),
        (1, Chunk(2, 0, 64, 96), Chunk(2, 5, 69, 101)),
        (1, Chunk(3, 32, 96, 120, ((97, 99), (110, 120))), Chunk(3, 37, 101, 125, ((102, 104), (115, 125)))),
    ],
)
def test_a_chunk_as_it_is_seen(opening: int, chunk: Chunk, seen: Chunk) -> None:
    """Five tokens of notes, 64 before a chunk."""
    notes, tokens = Notes("abc", (1, 2, 3, 4, 5), opening), list(range(1000, 1200))
    assert notes.chunk(chunk, 64) == seen
    there = notes.seen(tokens)
    assert there == [*tokens[:opening], 1, 2, 3, 4, 5, *tokens[opening:]]
    assert there[seen.middle : seen.end] == tokens[max(opening, chunk.middle) : chunk.end]
    assert Notes(opening=opening).seen(tokens) is tokens
    assert Notes(opening=opening).chunk(chunk, 64) is chunk


def told(session: Session, **how: Any) -> list[Any]:
    """All that a session of some verbs says and is."""
    session.absorb(TEXT[:50])
    events: list[Any] = [*session.score_events(TEXT[50:90]), *session.stream("And", max_new_tokens=80, sampling=HOT)]
    preview = session.preview("Then", max_new_tokens=9, sampling=HOT, **how)
    kept = session.snapshot()
    figures = [(type(e).__name__, getattr(e, "base_nll", 0), getattr(e, "loss", 0)) for e in events]
    tensors = {name: tensor.tolist() for name, tensor in kept.tensors.items()}
    meta = {key: value for key, value in kept.meta.items() if key != "meter"}
    return [session.tokens, figures, preview, session.adapter_weights().tolist(), tensors, meta]


@pytest.mark.parametrize("options", [{}, {"learning": "parallel"}, {"cache_reuse": 1}])
def test_no_notes_are_nothing(options: dict[str, Any]) -> None:
    found = []
    for notes in (None, "", " \n"):
        with tiny_engine(bos=True).session(small(**options)) as session:
            if notes is not None:
                session.set_notes(notes)
            assert session.notes == ""
            found.append(told(session))
    assert found[0] == found[1] == found[2]
    assert "notes" not in found[0][5]


def test_notes_change_what_is_written() -> None:
    written = []
    for notes in ("", NOTES, OTHER):
        with tiny_engine().session(small(), notes=notes) as session:
            assert session.notes == notes
            written.append(told(session)[0])
    assert len(set(map(tuple, written))) == 3


def test_set_and_set_back_is_never_having_changed() -> None:
    """At the beginning of a chunk to the bit; within one, what was read token by token is read in one pass."""
    found = []
    for changes in (False, True):
        with tiny_engine().session(small(), notes=NOTES) as session:
            session.write(TEXT[:40], max_new_tokens=24 + 32, sampling=HOT)
            assert session.open_tokens == 0
            if changes:
                session.set_notes(OTHER)
                session.preview(max_new_tokens=5)
                session.set_notes(NOTES)
            session.write(max_new_tokens=40, sampling=HOT)
            if changes:
                session.set_notes("")
                session.set_notes(NOTES)
            session.write(max_new_tokens=40, sampling=GREEDY)
            found.append((session.tokens, session.adapter_weights()))
    assert found[0][0] == found[1][0]
    assert torch.allclose(found[0][1], found[1][1], rtol=1e-4, atol=1e-5)


def test_from_a_change_on_it_is_as_if_they_had_always_been_there(text: str) -> None:
    with tiny_engine().session(small(learning="off"), notes=OTHER) as session:
        session.absorb(text[:70])
        with_random_adapter(session)
        session.write(max_new_tokens=5, sampling=GREEDY)
        session.set_notes(NOTES)
        session.write(max_new_tokens=60, sampling=GREEDY)
        ids = session.tokens
        for at in range(76, len(ids)):
            window = [*seen_before(session, ids, at - at % 32), *ids[at - at % 32 : at]]
            assert ids[at] == int(adapted_logits(session, window)[0, -1].argmax())


@pytest.mark.parametrize("bos", [False, True])
def test_a_preview_is_what_is_written(bos: bool) -> None:
    for method in (Method(), AttentionSinks()):
        with tiny_engine(bos=bos).session(small(learning="off"), notes=NOTES, method=method) as session:
            for prompt in ([""] if bos else []) + ["It", TEXT]:
                preview = session.preview(prompt, max_new_tokens=8, sampling=HOT, stop_at_end=False)
                assert preview.text == session.write(prompt, max_new_tokens=8, sampling=HOT)
            session.set_notes(OTHER)
            preview = session.preview("It", max_new_tokens=8, sampling=HOT, stop_at_end=False)
            assert preview.text == session.write("It", max_new_tokens=8, sampling=HOT)


def test_the_penalty_does_not_look_at_the_notes(monkeypatch: pytest.MonkeyPatch) -> None:
    from templora.sampling import Sampler

    looked: list[list[int]] = []
    real = Sampler.__call__
    monkeypatch.setattr(
        Sampler, "__call__", lambda self, x, recent, *at: looked.append(list(recent)) or real(self, x, recent, *at)
    )
    with tiny_engine().session(small(), notes="~~~~") as session:
        session.absorb("It was")
        monkeypatch.setattr(session, "tokens", session.tokens)
        session.preview("so", max_new_tokens=1, sampling=GREEDY)
        session.write("so", max_new_tokens=1, sampling=GREEDY)
    assert looked == [list(b"It wasso")] * 2


OPTIONS: list[dict[str, Any]] = [
    {},
    {"learning": "parallel"},
    {"learning": "parallel", "context_gradients": True},
    {"cache_reuse": 2},
    {"learning": "off"},
]


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("method", [Method(), AttentionSinks(), ExtendedPositions("yarn", 2.0)], ids=lambda m: m.name)
def test_going_on_from_a_snapshot_gives_the_same_bits(method: Method, options: dict[str, Any], tmp_path: Path) -> None:
    def second(session: Session) -> list[Any]:
        session.write(max_new_tokens=30, sampling=HOT)
        session.set_notes(OTHER)
        session.write("So", max_new_tokens=70, sampling=HOT)
        return [session.tokens, session.adapter_weights().tolist(), session.notes]

    for given, bos in (("", False), (TEXT, True)):
        with tiny_engine(bos=bos).session(small(**options), method=method, notes=OTHER) as session:
            session.absorb(given)
            session.set_notes(NOTES)
            session.write("It", max_new_tokens=20, sampling=HOT)
            tokens = list(session.tokens)
            session.snapshot().save(tmp_path / "kept")
            expected = second(session)
        with tiny_engine(bos=bos).session(small(**options), method=method) as session:
            session.restore(tokens, Snapshot.load(tmp_path / "kept"))
            assert session.notes == NOTES
            assert second(session) == expected


def test_a_change_finishes_learning_with_the_notes_there_were() -> None:
    """What is committed one chunk later is what is learnt at once, though the notes have changed meanwhile."""
    found = []
    for learning in ("cascaded", "parallel"):
        with tiny_engine().session(small(learning=learning), notes=NOTES) as session:
            session.absorb(TEXT[:32])
            session.set_notes(OTHER)
            assert session.version == 1
            found.append(session.adapter_weights())
    assert torch.allclose(found[0], found[1], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("reuse", [1, 3])
def test_a_cache_that_is_reused_keeps_the_notes(reuse: int) -> None:
    """Entries of notes are never evicted; without learning they are those of a new cache."""
    engine = tiny_engine(positions=512)
    with engine.session(small(cache_reuse=reuse, learning="off"), notes=NOTES) as session:
        session.absorb(TEXT)
        for _ in range(12):
            session.write(max_new_tokens=16, sampling=GREEDY)
            cache = session.readers[0].cache
            assert cache.opening == cache.sinks == len(NOTES) + 2
            held = [layer.keys[:, :, : cache.opening].clone() for layer in cache.layers]
            with engine.session(small(learning="off"), notes=NOTES) as fresh:
                fresh.absorb(TEXT)
                fresh.write(max_new_tokens=1)
                for ours, layer in zip(held, fresh.readers[0].cache.layers, strict=True):
                    assert torch.allclose(ours, layer.keys[:, :, : cache.opening], atol=1e-5)


def test_refused_notes_change_nothing(engine: Engine) -> None:
    config = small()  # 64 tokens before a chunk, of which 16 stay the text's
    with engine.session(config, notes=NOTES) as session:
        session.set_notes("x" * 46)
        for wrong, said in (
            ("x" * 47, r"notes: are 49 tokens, and 48 tokens fit.*--window"),
            ("x" * 10**6, "are 1,000,000 characters"),
            (7, "must be a text, not 7"),
            (None, "must be a text"),
        ):
            with pytest.raises(OptionError, match=said):
                session.set_notes(wrong)  # type: ignore[arg-type]
        assert session.notes == "x" * 46
        assert engine.sessions == 1
    with pytest.raises(OptionError, match="notes: are"):
        engine.session(config, notes="x" * 500)
    assert engine.sessions == 0
    session = engine.session(config)
    session.discard()
    with pytest.raises(Exception, match="discarded"):
        session.set_notes("")


def test_methods_that_cannot_keep_them_say_so(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(KvCompression, "problem", lambda *_: None)

    class Mine(Method):
        pass

    class Willing(Method):
        takes_notes = True

    for method in (DynamicEvaluation(), Mine()):
        with engine.session(small(), method=method) as session:
            with pytest.raises(OptionError, match=f"notes: {method.name} keeps"):
                session.set_notes(NOTES)
            session.set_notes("")
            session.absorb(TEXT[:40])
    assert not KvCompression.takes_notes
    with engine.session(small(), method=Willing(), notes=NOTES) as session:
        session.absorb(TEXT)


@pytest.mark.parametrize("wrong", ["x" * 60, 7, None, ["x"], NOTES + "x"])
def test_a_snapshot_with_other_notes_is_none_of_this_session(wrong: Any, engine: Engine) -> None:
    with engine.session(small(), notes=NOTES) as session:
        session.absorb(TEXT[:70])
        kept = session.snapshot()
        odd = Snapshot(kept.tensors, {**kept.meta, "notes": wrong})
        if isinstance(wrong, str) and len(wrong) < 46:  # of a length that could be: garbage, but none that raises
            session.restore(session.tokens, odd)
        else:
            with pytest.raises(TextError, match="another session"):
                session.restore(session.tokens, odd)
        assert session.notes in (NOTES, wrong)
        session.restore(session.tokens, kept)
        session.write(max_new_tokens=40)


def test_learning_goes_on_from_the_pass_that_scored(engine: Engine) -> None:
    """What a chunk is learnt from is the kept pass, with notes too; the same update as without it."""
    found = []
    for base in (True, False):
        with engine.session(small(), notes=NOTES) as session:
            if base:
                list(session.score_events(TEXT[:96]))
            else:
                session.absorb(TEXT[:96])
            found.append(session.adapter_weights())
    assert torch.allclose(found[0], found[1], rtol=1e-3, atol=1e-5)


def test_steps_read_the_cache_by_entry_whatever_stands_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiled, as a graph is recorded, and through the modules."""
    tokens = []
    for kind in ("compiled", "graph", "modules"):
        engine = tiny_engine(bos=True)
        if kind != "compiled":
            step = GraphRows(engine.model, 1, record=lambda step: step) if kind == "graph" else None
            monkeypatch.setattr(engine, "new_step", lambda step=step: step)
        with engine.session(small(), notes=NOTES) as session:
            events = list(session.stream(TEXT[:60], max_new_tokens=60, sampling=GREEDY))
            session.set_notes(OTHER)
            session.write(max_new_tokens=10, sampling=GREEDY)
            assert [e for e in events if isinstance(e, ChunkLearned)]
            tokens.append(session.tokens)
    assert tokens[0] == tokens[1] == tokens[2]


@pytest.mark.parametrize("options", [{}, {"context_gradients": True}, {"learning": "parallel"}])
def test_what_an_update_is_tried_on_is_the_text_alone(options: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[list[int]] = []
    real = Probe.read
    monkeypatch.setattr(
        Probe, "read", lambda self, recent, *how: tried.append(list(recent)) or real(self, recent, *how)
    )
    with tiny_engine().session(small(probe_tokens=48, **options), notes="~" * 44 + "\n") as session:
        session.absorb(TEXT)
        session.restore(list(session.tokens), session.snapshot())  # what is still to be learnt, too
        session.loop.cycle.settle()
        assert [len(recent) for recent in tried] == [0, 32, 48]
        assert tried[-1] == session.tokens[16:64]


@pytest.mark.parametrize("learning", ["cascaded", "parallel"])
def test_a_chunk_that_is_full_is_learnt_with_the_notes_there_were(learning: str) -> None:
    """A stream may be left right before its chunk is learnt, and go on under other notes."""
    found = []
    for left in (True, False):
        with tiny_engine().session(small(learning=learning), notes=NOTES) as session:
            events = session.stream(TEXT[:40], max_new_tokens=100, sampling=HOT)
            event = next(e for e in events if len(session.tokens) == 64 and (left or not session.open_tokens))
            assert isinstance(event, TokenEvent) is left
            session.set_notes(OTHER)
            assert session.version == 2
            events.close()
            found.append((session.adapter_weights().tolist(), session.write(max_new_tokens=40, sampling=HOT)))
    assert found[0] == found[1]
