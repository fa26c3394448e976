"""What an engine keeps for its sessions: hooks, the lock, the receipt; and what a session says on the way."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from adapted import appended, with_random_adapter
from conftest import small

from templora import ChunkLearned, Session, SessionClosed
from templora.engine.engine import Engine
from templora.events import Absorbed
from templora.learning.learner import Learner
from templora.testing import byte_tokenizer, tiny_engine


@pytest.mark.parametrize("verb", [Session.absorb_events, Session.score_events])
def test_events_tell_how_far_a_text_is(engine: Engine, text: str, verb: Callable[..., Iterator[Any]]) -> None:
    with engine.session(small()) as session:
        session.absorb("twelve bytes")
        events = list(verb(session, text[:100]))
    done = [(e.done, e.total) for e in events if isinstance(e, Absorbed)]
    assert done == [(20, 100), (52, 100), (84, 100), (100, 100)]
    learned = [(e.index, e.start, e.end, e.version) for e in events if isinstance(e, ChunkLearned)]
    assert learned == [(0, 0, 32, 1), (1, 32, 64, 2), (2, 64, 96, 3)]


def test_learning_off_learns_nothing(engine: Engine, text: str) -> None:
    with engine.session(small(learning="off")) as session:
        session.score(text[:100])
        assert session.close_chunk() is None
        assert session.version == 0
        assert session.meter.flops["learn"] == 0


VERBS: dict[str, Callable[[Session], Any]] = {
    "absorb": lambda s: s.absorb("more"),
    "score": lambda s: s.score("more"),
    "write": lambda s: s.write(max_new_tokens=2),
    "close_chunk": lambda s: s.close_chunk(),
    "save_adapter": lambda s: s.save_adapter("nowhere"),
    "load_adapter": lambda s: s.load_adapter("nowhere"),
    "version": lambda s: s.version,
}


@pytest.mark.parametrize("verb", VERBS)
def test_a_discarded_session_only_keeps_its_text(engine: Engine, verb: str) -> None:
    with engine.session(small()) as session:
        session.absorb("some text")
        assert not session.closed
    assert session.closed
    assert session.discard() is session.receipt
    with pytest.raises(SessionClosed, match="has been discarded"):
        VERBS[verb](session)
    assert session.text == "some text"
    assert not any(hasattr(session, name) for name in ("_adapted", "_base", "_learner"))


def test_a_discarded_session_stops_its_streams(engine: Engine, text: str) -> None:
    with engine.session(small()) as session:
        streams = [session.stream(text[:8], max_new_tokens=30), session.absorb_events(text), session.score_events(text)]
        for stream in streams:
            next(stream)
    for stream in streams:
        with pytest.raises(SessionClosed):
            list(stream)


def test_each_forward_pass_holds_the_lock(engine: Engine, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The route is the engine's, not the thread's: a pass outside the lock may go through another's adapter."""
    depth, passes = [0], []
    real = engine.model.hidden

    class Lock:
        @contextmanager
        def _held(self) -> Iterator[None]:
            depth[0] += 1
            yield
            depth[0] -= 1

        def __enter__(self) -> None:
            self._stack = [*getattr(self, "_stack", []), self._held()]
            self._stack[-1].__enter__()

        def __exit__(self, *error: Any) -> None:
            self._stack.pop().__exit__(None, None, None)

    monkeypatch.setattr(engine, "lock", Lock())
    monkeypatch.setattr(engine.model, "hidden", lambda *a: passes.append(depth[0]) or real(*a))
    with engine.session(small()) as session:
        session.absorb(text[:70])
        session.score(text[:70])
        for _ in session.stream(max_new_tokens=70, score=True):
            assert depth == [0]  # a caller may take its time between two events
        session.close_chunk()
    assert passes
    assert min(passes) == 1


def test_a_route_is_taken_back_after_an_error(engine: Engine) -> None:
    """A forward pass that fails must not leave the base going through an adapter."""
    with engine.session(small()) as session:
        with_random_adapter(session)
        bank, route = session.slot.bank, session.slot.route
        with bank.through(route):
            with pytest.raises(ZeroDivisionError), bank.through(None):
                raise ZeroDivisionError
            assert bank.route is route
        assert bank.route is None


def test_a_loaded_adapter_begins_with_a_fresh_optimiser(engine: Engine, text: str, tmp_path: Path) -> None:
    with engine.session(small()) as session:
        session.absorb(text[:64])
        session.save_adapter(tmp_path)
        saved = session.slot.state
        weights = saved.weights.clone()
        assert saved.exp_avg.abs().max() > 0
        session.absorb(text[64:96])
        session.load_adapter(tmp_path)
        state = session.slot.state
        assert torch.equal(state.weights, weights)
        assert (state.steps, state.version) == (0, 4)
        assert state.exp_avg.abs().max() == state.exp_avg_sq.abs().max() == 0


def test_what_follows_a_loaded_adapter_is_learnt_over_its_own_context(
    engine: Engine, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cache reaches up to the chunk already, but the adapter before computed it."""
    seen: list[set[int]] = []
    real = Learner.learn

    def spy(self: Learner, tokens: Any, chunk: Any, cache: Any, reading: Any, *rest: Any) -> Any:
        seen.append(set(cache.versions))
        return real(self, tokens, chunk, cache, reading, *rest)

    with engine.session(small(max_repetition=1.0)) as session:
        session.write(text[:10], max_new_tokens=40)
        session.save_adapter(tmp_path)
        session.load_adapter(tmp_path)
        monkeypatch.setattr(Learner, "learn", spy)
        assert session.close_chunk() is not None
        assert seen == [{2}]


def test_hooks_go_with_the_last_session_of_their_shape(engine: Engine, text: str) -> None:
    module = engine.model.module
    layer = module.model.layers[0].mlp.up_proj
    with engine.session(small()) as session:
        with engine.session(small(rank=2)), engine.session(small(seed=1)):
            assert len(layer._forward_hooks) == 2  # two shapes
        assert len(layer._forward_hooks) == 1
        session.absorb(text[:32])
        weights = session.slot.state.weights.clone()
    assert len(layer._forward_hooks) == 0
    with engine.session(small()) as session:  # and come back with the next one
        session.absorb(text[:32])
        assert torch.equal(session.slot.state.weights, weights)


@pytest.mark.parametrize("left", ["hook", "gradient", "mode", "module"])
def test_a_receipt_says_so_when_something_is_left_on_the_base(engine: Engine, left: str) -> None:
    module = engine.model.module
    with engine.session(small()) as session:
        session.absorb("some text")
        if left == "hook":
            module.model.norm.register_forward_pre_hook(lambda *_: None)
        elif left == "module":
            module.model.layers[0].mlp.act_fn = torch.nn.ReLU()
        else:  # put back by the engine, as it was
            module.requires_grad_(left == "gradient").train(left == "mode")
    assert session.receipt is not None
    put_back = left in ("gradient", "mode")
    assert (session.receipt.base_unchanged, session.receipt.discarded) == (put_back, put_back)


def test_the_receipts_fingerprint_is_that_of_now(engine: Engine) -> None:
    before = engine.model.fingerprint()
    with engine.session(small()) as session:
        engine.model.module.lm_head.weight.data[0, 0] += 1
    assert session.receipt is not None
    assert before != session.receipt.fingerprint == engine.model.fingerprint()


def test_chat_puts_the_prompt_into_the_models_template() -> None:
    engine = tiny_engine()
    engine.tokenizer = byte_tokenizer()
    engine.tokenizer.chat_template = (
        "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}[answer] {% endif %}"
    )
    with engine.session(small()) as session:
        list(session.stream("It was", max_new_tokens=1, chat=True))
        assert session.text[:-1].startswith("[user] It was\n[answer] ")
        assert len(session.tokens) == len("[user] It was\n[answer] ") + 1


@pytest.mark.parametrize("own", [False, True])
def test_the_brake_counts_only_what_was_written(engine: Engine, own: bool) -> None:
    """16 written tokens are enough to judge a chunk; the given ones beside them never count."""
    with engine.session(small(max_repetition=0.3)) as session:
        session.absorb("7" * (15 if own else 16))
        for _ in range(16 if own else 15):
            appended(session, 9, 1.0)
        learned = session.close_chunk()
        assert learned is not None
        assert learned.committed != own
        assert learned.reason.startswith("repetitive: 92%") == own
