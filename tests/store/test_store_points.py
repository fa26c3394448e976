"""Sessions on disk taken back to where something ends, marks that come with what they speak of, and framed notes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from conftest import small

from templora.engine.engine import Engine
from templora.errors import StoreError
from templora.events import ChunkLearned, ChunkScored
from templora.sampling import SamplingParams
from templora.store.history import History
from templora.store.log import Record
from templora.store.saved import SavedSession
from templora.store.store import SessionStore
from templora.testing import byte_tokenizer, tiny_model
from templora.text import Framed, framed, ours, parts_of

GREEDY = SamplingParams(temperature=0)


def state(saved: SavedSession) -> tuple[list[int], str, Any]:
    session = saved.session
    return list(saved.tokens), saved.text, session.adapter_weights().tolist()


def test_back_to_where_an_answer_began(engine: Engine, tmp_path: Path, text: str) -> None:
    store = SessionStore(tmp_path)
    with store.create("novel", engine, small()) as saved:
        saved.absorb(text[:100])
        before = state(saved)
        first = saved.write(max_new_tokens=50, sampling=GREEDY)
        saved.absorb(" And then")
        assert len(before[0]) in saved.history.ends
        assert saved.history.ends[len(before[0])] == 100
    store.fork("novel", "other", tokens=100, mark={"parent": "novel"})
    store.rewind("novel", tokens=100)
    for name in ("novel", "other"):
        with store.open(name, engine) as again:
            assert state(again) == before
            assert again.write(max_new_tokens=50, sampling=GREEDY) == first
    assert store.history("other").marks == [(100, {"parent": "novel"})]
    with pytest.raises(StoreError, match="cannot be cut after 33 tokens"):
        store.rewind("novel", tokens=33)


def test_what_an_end_had_still_to_say_stays_with_it() -> None:
    """Half a character, say, which no token completes: it was shown, and clients send it back."""
    write = {"max_new_tokens": 9, "stop_at_end": True, "score": False, "sampling": {}}
    history = History()
    said: list[tuple[str, tuple[int, ...], dict[str, Any]]] = [
        ("begin", (), {"opening": [], "config": small().to_dict(), "model": {"name": "x", "fingerprint": ""}}),
        ("given", (97,), {"text": "a"}),
        ("write", (), write),
        ("token", (98, 0xC3), {"text": "b"}),
        ("end", (), {"reason": "stop", "text": "\ufffd"}),
        ("mark", (), {"turn": {"role": "user", "digest": "", "answered": True}}),
        ("given", (99,), {"text": "c"}),
    ]
    for seq, (kind, ids, data) in enumerate(said):
        history.add(Record(seq, kind, ids, data))
    for seq, new in enumerate(history.back(3), len(said)):
        history.add(Record(seq, *new))
    assert history.text == "ab\ufffd"
    assert history.acts[-1].reason == "stop"
    assert history.marks == []


def test_what_is_scored_is_scored_again_after_a_kill(engine: Engine, tmp_path: Path, text: str) -> None:
    store = SessionStore(tmp_path)
    with store.create("whole", engine, small()) as saved:
        events = list(saved.absorb_parts([(text, True)], score=True))
        assert sum(isinstance(e, ChunkScored) for e in events) >= len(text) // 32
        wanted = state(saved)
    killed = store.create("killed", engine, small())
    for event in killed.absorb_parts([(text, True)], score=True):
        if isinstance(event, ChunkLearned) and event.index == 4:
            break
    killed.leave()
    with store.open("killed", engine) as again:
        assert state(again) == wanted
    assert "scored" in {r.kind for r in store.history("killed").records}


def test_marks_come_with_what_they_speak_of(engine: Engine, tmp_path: Path, text: str) -> None:
    store = SessionStore(tmp_path)
    with store.create("novel", engine, small()) as saved:
        list(saved.absorb_parts([(text[:70], True)], first={"turn": 1}))
        list(saved.stream("", max_new_tokens=5, mark={"turn": 2}))
        assert saved.history.marks == [(0, {"turn": 1}), (70, {"turn": 2})]
    store.rewind("novel", tokens=70)
    assert store.history("novel").marks == [(0, {"turn": 1})]


def test_framed_notes_stay_framed(tmp_path: Path, text: str) -> None:
    tokenizer = byte_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>"]})
    engine = Engine(tiny_model(), tokenizer, name="framed")
    notes = ours("<|im_start|>") + "Say <|im_start|>.\n"
    store = SessionStore(tmp_path)
    with store.create("novel", engine, small()) as saved:
        saved.set_notes(notes)
        ids = saved.session.loop.text.notes.ids
        assert ids.count(257) == 1
        saved.absorb(text[:100])
        saved.snapshot()
        before = state(saved)
        following = saved.session.preview(max_new_tokens=10, sampling=GREEDY).text
    for _ in range(2):  # from the snapshot, and without it
        with store.open("novel", engine) as again:
            assert again.session.loop.text.notes.ids == ids
            assert state(again) == before
            assert again.session.preview(max_new_tokens=10, sampling=GREEDY).text == following
        for file in (tmp_path / "novel" / "files").iterdir():
            file.unlink()


def test_parts_of_texts_and_back() -> None:
    text = ours("<a>") + "b"
    assert framed(str(text), parts_of(text)) == text
    assert isinstance(framed(str(text), parts_of(text)), Framed)
    assert parts_of("plain") is None
    assert type(framed("other", parts_of(text))) is str
