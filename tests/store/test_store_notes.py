"""Notes of a session on disk: each change is a record, which what is killed, forked or rewound has at its place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from templora.config import TempLoraConfig
from templora.errors import OptionError, StoreError, TextError
from templora.events import TokenEvent
from templora.sampling import SamplingParams
from templora.store.log import Log
from templora.store.saved import SavedSession
from templora.store.snapshots import Snapshots
from templora.store.store import SessionStore
from templora.testing import tiny_engine

TEXT = "The keeper climbed the stairs, and the lamp was lit. " * 3
NOTES, OTHER, THIRD = "Aldous keeps the lamp.", "Mara is dead.\n", "Nobody speaks."
HOT = SamplingParams(temperature=1.5)
MODES: list[dict[str, Any]] = [
    {},
    {"learning": "parallel"},
    {"learning": "parallel", "context_gradients": True},
    {"cache_reuse": 2},
    {"learning": "off"},
]


def config(**options: Any) -> TempLoraConfig:
    sizes = {"window": 96, "chunk_size": 32, "rank": 4, "alpha": 4.0, "learning_rate": 0.01}
    return TempLoraConfig(**{"learn_written": True, **sizes, **options})


@pytest.fixture
def store(tmp_path: Path) -> SessionStore:
    return SessionStore(tmp_path / "sessions")


@pytest.fixture
def novel(store: SessionStore) -> SessionStore:
    """NOTES from the beginning, OTHER from a place within the fifth chunk on, THIRD at the end."""
    with store.create("novel", tiny_engine(), config(), notes=NOTES) as saved:
        saved.absorb(TEXT[:140])
        saved.set_notes(OTHER)
        saved.write("So", max_new_tokens=60, sampling=HOT)
        saved.set_notes(THIRD)
    return store


def state(saved: Any) -> tuple[list[int], Any, str]:
    session = getattr(saved, "session", saved)
    return list(session.tokens), session.adapter_weights().tolist(), session.notes


def tell(saved: SavedSession) -> None:
    """Does what is left of the story, as often as it is asked to."""
    list(saved.resume())
    acts = [act.kind for act in saved.history.acts]
    if acts.count("given") == 0:
        saved.absorb(TEXT)
    if acts.count("write") == 0:
        list(saved.stream("And so", max_new_tokens=70, sampling=HOT))
    if acts.count("notes") < 2:
        saved.set_notes(OTHER)
    if acts.count("write") < 2:
        list(saved.stream(max_new_tokens=30, sampling=HOT))
    if acts.count("notes") < 3:
        saved.set_notes("")
    if acts.count("notes") < 4:
        saved.set_notes(THIRD)
    if acts.count("write") < 3:
        list(saved.stream("Then", max_new_tokens=50, sampling=HOT, score=True))


@pytest.mark.parametrize("bos", [False, True])
@pytest.mark.parametrize("options", MODES, ids=str)
def test_what_was_killed_goes_on_with_the_notes_of_each_place(
    store: SessionStore, options: dict[str, Any], bos: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a session in memory that nobody disturbed; killed at each place of the log in turn, snapshots now and then."""
    with tiny_engine(bos=bos).session(config(**options), notes=NOTES) as session:
        session.absorb(TEXT)
        session.write("And so", max_new_tokens=70, sampling=HOT)
        session.set_notes(OTHER)
        session.write(max_new_tokens=30, sampling=HOT)
        session.set_notes("")
        session.set_notes(THIRD)
        list(session.stream("Then", max_new_tokens=50, sampling=HOT, score=True))
        expected = state(session)

    class Killed(BaseException):
        pass

    left = every = 13

    def counted(self: Log, *args: Any, **how: Any) -> Any:
        nonlocal left
        left -= 1
        if left < 0:
            raise Killed
        return extend(self, *args, **how)

    def due(self: Snapshots, length: int, until: int | None = None) -> None:
        if length % 3 == 0:
            self.make(length, until)

    extend = Log.extend
    store.create("novel", tiny_engine(bos=bos), config(**options), notes=NOTES).close()
    monkeypatch.setattr(Snapshots, "make_if_due", due)
    monkeypatch.setattr(Log, "extend", counted)
    for killed in range(100):
        left = every + killed % 5
        try:
            with store.open("novel", tiny_engine(bos=bos)) as saved:
                tell(saved)
                assert state(saved) == expected
                assert not saved.remarks
                break
        except Killed:
            pass
    assert 8 <= killed < 99


@pytest.mark.parametrize("options", MODES[:3], ids=str)
def test_a_write_that_was_cut_short_goes_on_with_other_notes(store: SessionStore, options: dict[str, Any]) -> None:
    found = []
    for name, reopened in (("one", False), ("two", True)):
        saved = store.create(name, tiny_engine(), config(**options), notes=NOTES)
        events = saved.stream(TEXT, max_new_tokens=90, sampling=HOT, stop_at_end=False)
        next(event for event in events if isinstance(event, TokenEvent) and saved.pending == 50)
        if reopened:
            saved.leave()
            saved = store.open(name, tiny_engine())
        saved.set_notes(NOTES)  # nothing changes
        assert saved.pending == 50
        saved.set_notes(OTHER)
        assert saved.pending == 50
        assert [act.data["text"] for act in saved.history.given_last]
        with pytest.raises(StoreError, match="something else"):
            next(events) if not reopened else (_ for _ in ()).throw(StoreError("something else"))
        if reopened:
            saved.leave()
            saved = store.open(name, tiny_engine())
        said = [event for event in saved.resume() if isinstance(event, TokenEvent)]
        assert len(said) == 50
        assert not saved.pending
        found.append(state(saved))
        saved.close()
    assert found[0] == found[1]


@pytest.mark.parametrize("snapshots", [True, False])
def test_a_rewind_and_forks_have_the_notes_that_stand_now(novel: SessionStore, snapshots: bool) -> None:
    if not snapshots:
        for path in (novel.folder / "novel" / "files").iterdir():
            path.unlink()
    novel.fork("novel", "whole")
    novel.fork("novel", "early", chunks=3)
    novel.fork("novel", "late", chunks=6)
    novel.fork("novel", "none", chunks=0)
    found = {}
    for name in ("whole", "early", "late", "none", "novel"):
        if name == "novel":
            novel.rewind("novel", 3)
        assert novel.show(name).notes == len(THIRD) + 2
        assert novel.history(name).notes["notes"] == THIRD
        with novel.open(name, tiny_engine()) as saved:
            saved.write("Now", max_new_tokens=40, sampling=HOT)
            found[name] = state(saved)
            assert saved.notes == THIRD
            assert not saved.remarks
    assert found["novel"] == found["early"]
    for name, chunks in (("early", 3), ("late", 6), ("none", 0)):
        with tiny_engine().session(config(), notes=NOTES) as session:
            session.absorb(TEXT[: min(140, 32 * chunks)])
            if chunks == 6:  # 50 of the 60 that it wrote
                session.set_notes(OTHER)
                session.write("So", max_new_tokens=50, sampling=HOT)
            session.set_notes(THIRD)
            session.write("Now", max_new_tokens=40, sampling=HOT)
            assert state(session) == found[name]


def test_going_back_twice_and_to_the_same_notes_adds_no_records(novel: SessionStore) -> None:
    novel.rewind("novel", 3)
    assert [r.kind for r in novel.history("novel").records[-2:]] == ["rewind", "notes"]
    novel.rewind("novel", 3)
    kinds = [r.kind for r in novel.history("novel").records]
    assert kinds.count("notes") == 2
    assert novel.history("novel").notes["notes"] == THIRD
    with novel.create("plain", tiny_engine(), config()) as saved:
        saved.absorb(TEXT)
    novel.rewind("plain", 1)
    assert "notes" not in [r.kind for r in novel.history("plain").records]
    assert "notes" not in novel.report("plain")
    assert novel.report("novel")["notes"] == {"text": THIRD, "tokens": len(THIRD) + 2}


def test_the_beginning_stays_whole(store: SessionStore) -> None:
    with store.create("novel", tiny_engine(), config(), notes=NOTES) as saved:
        saved.reseed(5)
        saved.absorb(TEXT)
    assert [r.kind for r in store.history("novel").first(0)] == ["begin", "notes", "seed"]
    store.rewind("novel", 0)
    with store.open("novel", tiny_engine()) as saved:
        assert (saved.notes, saved.session.loop.seed) == (NOTES, 5)


def test_notes_are_no_part_of_the_text(novel: SessionStore) -> None:
    history = novel.history("novel")
    assert history.text.startswith(TEXT[:140] + "So")
    assert not any(word in history.text for word in ("Aldous", "Mara", "Nobody"))
    assert len(history.tokens) == 140 + 2 + 60
    assert len(history.chunk_texts) == len(history.chunks) == 6


def test_what_cannot_be_is_never_in_the_log(novel: SessionStore) -> None:
    with novel.open("novel", tiny_engine()) as saved:
        length = saved.log.length
        for wrong in ("x" * 500, 7, None, b"x"):
            with pytest.raises(OptionError, match="notes"):
                saved.set_notes(wrong)  # type: ignore[arg-type]
        with pytest.raises(TextError, match="half a character"):
            saved.set_notes("\ud800")
        saved.set_notes(THIRD)
        assert saved.log.length == length
    with pytest.raises(OptionError, match="notes: are 502 tokens"):
        novel.create("other", tiny_engine(), config(), notes="x" * 500)
    assert novel.names() == ["novel"]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"notes": "x" * 500, "tokens": 3}, "record 4 cannot be done again: notes: are 502 tokens"),
        ({"notes": "x" * 10**6, "tokens": 3}, "record 4 cannot be done again: notes: are 1,000,000 characters"),
        ({"notes": "\ud800", "tokens": 1}, "record 4 cannot be done again: character 0"),
        ({"notes": 7, "tokens": 1}, "record 4: notes cannot be that"),
        ({"notes": None, "tokens": 1}, "record 4: notes cannot be that"),
        ({"notes": "x"}, "record 4: notes cannot be that"),
        ({"notes": "x", "tokens": -1}, "record 4: notes cannot be that"),
        ({"notes": "x", "tokens": True}, "record 4: notes cannot be that"),
        ({"notes": ["x"], "tokens": 1}, "record 4: notes cannot be that"),
        ({"text": "x"}, "record 4: notes cannot be that"),
    ],
)
def test_a_record_of_notes_that_cannot_be_is_left_out_and_said(
    store: SessionStore, data: dict[str, Any], said: str
) -> None:
    with store.create("novel", tiny_engine(), config(), notes=NOTES) as saved:
        saved.absorb(TEXT[:40])
    folder = store.folder / "novel"
    for path in (folder / "files").iterdir():
        path.unlink()
    with Log.open(folder / "log.sqlite") as log:
        (record,) = log.extend([("notes", (), data)])
    said = said.replace("record 4", f"record {record.seq}")
    assert store.show("novel").tokens == 40
    with store.open("novel", tiny_engine()) as saved:
        assert any(said in remark and "left out" in remark for remark in saved.remarks)
        assert saved.notes == NOTES
        saved.write(max_new_tokens=3)
    store.rewind("novel", 1)
    with store.open("novel", tiny_engine()) as saved:
        saved.set_notes(OTHER)
    assert store.show("novel").notes == len(OTHER)
