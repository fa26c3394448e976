"""Who may be on a model together, what is left when nobody holds a session or an engine any more."""

from __future__ import annotations

import gc
import re
import threading
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from conftest import small

from templora.engine.engine import Engine
from templora.errors import ModelError, OptionError, TextError
from templora.methods.base import Method, MethodState
from templora.methods.dynamic_evaluation import DynamicEvaluation
from templora.methods.extended_positions import SCALINGS, ExtendedPositions
from templora.methods.kv_compression import KvCompression
from templora.models.causal import Trace
from templora.sampling import SamplingParams
from templora.store.store import SessionStore
from templora.testing import tiny_engine

OFF = small(learning="off", mixture=False)
GREEDY = SamplingParams(temperature=0, repetition_penalty=1.0)
CHANGING: list[Method] = [DynamicEvaluation(0.01), *map(ExtendedPositions, SCALINGS)]


@pytest.mark.parametrize("method", CHANGING, ids=lambda m: f"{m.name} {getattr(m, 'scaling', '')}")
def test_a_session_that_changes_the_model_is_alone_on_it(
    method: Method, engine: Engine, tmp_path: Path, text: str
) -> None:
    store, fingerprint, rotary = SessionStore(tmp_path), engine.model.fingerprint(), engine.model.decoder.rotary_emb
    store.create("kept", engine, small()).close()
    with engine.session(OFF, method=method) as alone:
        alone.score(text)
        for begin in (
            lambda: engine.session(small()),
            lambda: engine.session(OFF, method=method),
            lambda: store.create("new", engine, small()),
            lambda: store.open("kept", engine),
        ):
            with pytest.raises(ModelError, match=f"{method.name} is open, which changes the model.*discard that one"):
                begin()
        with pytest.raises(ModelError, match="a likelihood is the bare base's"):
            alone.likelihood("It was", " the best")
    assert alone.receipt is not None
    assert alone.receipt.changed == ()
    assert engine.model.fingerprint() == fingerprint
    assert engine.model.decoder.rotary_emb is rotary
    assert store.names() == ["kept"]
    with engine.session(small()), pytest.raises(ModelError, match=f"{method.name} changes the model.*1 is open"):
        engine.session(OFF, method=method)
    with store.open("kept", engine), pytest.raises(ModelError, match=method.name):
        engine.session(OFF, method=method)


def test_every_method_that_changes_the_model_says_so() -> None:
    assert all(method.changes_model for method in [*CHANGING, KvCompression()])
    assert [m.changes_passes for m in CHANGING] == [True, False, True, False]


@dataclass(frozen=True)
class Silent(Method):
    """Changes the model, and does not say so."""

    name: ClassVar[str] = "silent"

    def begin(self, model: Any, config: Any, opening: int = 0) -> MethodState:
        model.decoder.norm.variance_epsilon = 1.0
        return _PutBack(model)


class _PutBack(MethodState):
    def __init__(self, model: Any) -> None:
        self._model = model

    def end(self) -> None:
        self._model.decoder.norm.variance_epsilon = 1e-6


def test_a_method_that_changes_the_model_silently_is_refused(engine: Engine) -> None:
    with pytest.raises(ModelError, match=r"silent changes the model \(model.norm.variance_epsilon\)"):
        engine.session(OFF, method=Silent())
    assert engine.sessions == 0
    assert engine.model.decoder.norm.variance_epsilon == 1e-6


@pytest.mark.parametrize("scaling", ["yarn", "linear"])
def test_the_compiled_step_is_of_the_model_that_there_is(scaling: str, text: str) -> None:
    def written(engine: Engine, method: Method) -> list[int]:
        with engine.session(OFF, method=method) as session:
            session.write(text[:30], max_new_tokens=40, sampling=GREEDY)
        return session.tokens

    plain, extended = Method(), ExtendedPositions(scaling, factor=8.0)
    alone = [written(tiny_engine(), method) for method in (plain, extended)]
    assert alone[0] != alone[1]
    engine = tiny_engine()
    assert [written(engine, method) for method in (plain, extended, plain, extended)] == alone * 2


# Sessions that nobody holds -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("learning", ["cascaded", "parallel"])
def test_a_session_that_nobody_holds_is_gone(learning: str, engine: Engine, text: str) -> None:
    trace = Trace.of(engine.model.module)
    other = engine.session(small())
    session = engine.session(small(learning=learning))
    session.absorb(text[:96])
    session.preview("It", max_new_tokens=2)
    session.stream("It", max_new_tokens=5)
    ref = weakref.ref(session)
    del session
    gc.collect()
    assert ref() is None
    _wait_for(lambda: engine.sessions == 1)
    other.absorb(text[:40])
    assert other.discard().discarded
    assert Trace.of(engine.model.module) == trace


def test_a_session_with_a_method_that_nobody_holds_puts_the_model_back(engine: Engine, text: str) -> None:
    before = engine.model.fingerprint()
    engine.session(OFF, method=DynamicEvaluation(0.01)).absorb(text)
    gc.collect()
    assert (engine.sessions, engine.model.fingerprint()) == (0, before)
    engine.session(OFF, method=ExtendedPositions()).discard()


def test_what_is_collected_in_the_middle_of_a_step_waits_for_its_end(engine: Engine) -> None:
    session = engine.session(small())
    with engine.step():
        del session
        gc.collect()
        assert len(engine._abandoned) == 1  # whoever is in a step may be looking at its slot
    assert engine.sessions == 0
    session = engine.session(small())
    threads = [threading.Thread(target=gc.collect)]
    with engine.step():
        session.cycle = session  # type: ignore[attr-defined]
        del session
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)  # it does not wait for the lock
            assert not thread.is_alive()
        assert engine.sessions == 1
    assert engine.sessions == 0


def test_a_session_on_disk_that_nobody_holds_can_be_opened_again(engine: Engine, tmp_path: Path) -> None:
    store = SessionStore(tmp_path)
    saved = store.create("a", engine, small())
    saved.absorb("It was")
    del saved
    gc.collect()
    with store.open("a", engine) as saved:
        assert saved.text == "It was"


def test_an_engine_that_nobody_holds_is_gone(text: str) -> None:
    for close in (False, True):
        engine = tiny_engine(dtype=torch.bfloat16)
        with engine.session(small(learning="parallel")) as session:
            session.absorb(text[:96])
            session.write(max_new_tokens=4)
        left = engine.session(small())
        module = weakref.ref(engine.model.module)
        if close:
            with engine:
                pass
            assert left.closed
            with pytest.raises(ModelError, match="has been closed"):
                engine.session(small())
            assert "closed" in repr(engine)
        else:
            del engine
        del session, left
        gc.collect()
        assert module() is None


def test_what_is_shown_of_things(engine: Engine, tmp_path: Path) -> None:
    session = engine.session(small())
    score = session.score("It was the best of times. " * 3)
    assert repr(session) == "<Session of tiny-llama: 78 tokens, 2 chunks closed, cascaded, version 2>"
    assert re.fullmatch(
        r"Score\(perplexity base=\d+\.?\d*, adapted=\d+\.?\d*, mixed=\d+\.?\d*; tokens=77\)", repr(score)
    )
    assert repr(engine) == "<Engine tiny-llama: LlamaForCausalLM, float32 on cpu, 1 session open>"
    assert repr(session.discard()).startswith("Receipt(base_unchanged=True, discarded=True, ")
    assert repr(session).endswith("2 chunks closed, discarded>")
    store = SessionStore(tmp_path)
    assert repr(store) == f"<SessionStore {tmp_path}>"
    with store.create("a", engine, small()) as saved:
        saved.absorb("It was")
        assert repr(saved) == f"<SavedSession 'a' in {tmp_path / 'a'}: 6 tokens>"
    assert repr(saved).endswith("closed>")
    for kind in (type(session), type(saved), Engine):  # one that did not come to its beginning
        assert "has not begun" in repr(kind.__new__(kind))


@pytest.mark.parametrize(
    ("argument", "value", "said"),
    [
        ("config", {"window": 64}, "must be a TempLoraConfig"),
        ("config", "default", "engine.config"),
        ("method", "sliding_window", "make_method"),
        ("method", DynamicEvaluation, "must be a Method"),
        ("lesson", "shuffled", "must be a function"),
    ],
)
def test_what_a_session_is_begun_with_has_types(argument: str, value: Any, said: str, engine: Engine) -> None:
    with pytest.raises(OptionError, match=f"^{argument}: .*{said}"):
        engine.session(**{argument: value})


@pytest.mark.parametrize(
    ("given", "said"),
    [(b"bytes", "decode it first"), (Path("a.txt"), "read it first"), ([1, 2], "absorb_ids"), (None, "NoneType")],
)
@pytest.mark.parametrize("verb", ["absorb", "score", "write", "preview"])
def test_a_text_is_a_str(verb: str, given: Any, said: str, engine: Engine) -> None:
    with engine.session(small()) as session, pytest.raises(TextError, match=f"^a text must be a str, not .*{said}"):
        getattr(session, verb)(given)


def _wait_for(condition: Any) -> None:
    done = threading.Event()
    for _ in range(500):
        if condition():
            return
        done.wait(0.01)
    raise AssertionError
