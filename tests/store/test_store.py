"""Sessions on disk: what is killed goes on to the same tokens; branches, rewinds, and damage."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest
from conftest import LONG

from templora.config import TempLoraConfig
from templora.errors import ModelError, OptionError, StoreError, TextError
from templora.events import Absorbed, ChunkLearned, Finished, TokenEvent
from templora.sampling import Sampler, SamplingParams
from templora.store import snapshots as snapshots_module
from templora.store.log import Log
from templora.store.saved import SavedSession
from templora.store.snapshots import Snapshots
from templora.store.store import SessionStore
from templora.testing import tiny_engine

TEXT = "The keeper climbed the stairs, and the lamp was lit. " * 3
MODES: list[dict[str, Any]] = [{}, {"learning": "parallel"}, {"cache_reuse": 2}, {"learning": "off"}, {"dropout": 0.1}]
# A ninth of it is repeated anyway.
HOT = SamplingParams(temperature=1.5)
EVERY = SamplingParams(
    temperature=1.5,
    frequency_penalty=0.3,
    presence_penalty=-0.2,
    dry_multiplier=0.8,
    dry_allowed_length=1,
    dry_range=60,
    dry_sequence_breakers=["\n", "q"],
    xtc_probability=0.5,
    xtc_threshold=0.005,
    logit_bias={"e": 3.3, 120: -100},
    logprobs=2,
)


def config(**options: Any) -> TempLoraConfig:
    sizes = {"window": 96, "chunk_size": 32, "rank": 4, "alpha": 4.0, "learning_rate": 0.01}
    return TempLoraConfig(**{"learn_written": True, **sizes, **options})


@pytest.fixture
def store(tmp_path: Path) -> SessionStore:
    return SessionStore(tmp_path / "sessions")


def deferred(settings: TempLoraConfig, **how: Any) -> tuple[list[int], Any]:
    how = {"sampling": HOT, **how}
    with tiny_engine().session(settings) as session:
        session.absorb(TEXT)
        list(session.stream("And so", max_new_tokens=100, **how))
        list(session.stream("Then", max_new_tokens=50, **how))
        return session.tokens, session.adapter_weights()


def tell(saved: SavedSession, **how: Any) -> None:
    """Does what is left of the story, and does it as often as it is asked to."""
    how = {"sampling": HOT, **how}
    for _ in saved.resume():
        pass
    done = sum(act.kind == "write" for act in saved.history.acts)
    if not saved.history.acts:
        saved.absorb(TEXT)
    for prompt, tokens in (("And so", 100), ("Then", 50))[done:]:
        list(saved.stream(prompt, max_new_tokens=tokens, **how))


@pytest.mark.parametrize("how", [{}, {"score": True}], ids=["plain", "scored"])
@pytest.mark.parametrize("options", MODES, ids=str)
def test_an_undisturbed_session_is_any_other(store: SessionStore, options: dict[str, Any], how: dict[str, Any]) -> None:
    tokens, weights = deferred(config(**options), **how)
    with store.create("novel", tiny_engine(), config(**options)) as saved:
        tell(saved, **how)
        assert saved.tokens == tokens
        assert (saved.session.adapter_weights() == weights).all()
        text = saved.text
    with store.open("novel", tiny_engine()) as saved:
        assert saved.tokens == tokens
        assert (saved.session.adapter_weights() == weights).all()
        assert saved.text == text == tiny_engine().tokenizer.decode(tokens, skip_special_tokens=True)
        assert not saved.remarks


class Killed(BaseException):
    pass


@pytest.mark.parametrize("how", [{}, {"score": True}, {"sampling": EVERY}], ids=["plain", "scored", "sampled"])
@pytest.mark.parametrize("options", MODES, ids=str)
def test_what_was_killed_goes_on_to_the_same_tokens(
    store: SessionStore, options: dict[str, Any], how: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed each time the log has been written to so often, and snapshots at some of the chunks."""
    tokens, weights = deferred(config(**options), **how)
    every = 17
    left = every

    def due(self: Snapshots, length: int, until: int | None = None) -> None:
        if length % 3 == 0:
            self.make(length, until)

    def counted(self: Any, *args: Any, **kwargs: Any) -> Any:
        nonlocal left
        left -= 1
        if not left:
            raise Killed
        return extend(self, *args, **kwargs)

    from templora.store.log import Log

    extend = Log.extend
    monkeypatch.setattr(Snapshots, "make_if_due", due)
    store.create("novel", tiny_engine(), config(**options)).close()
    monkeypatch.setattr(Log, "extend", counted)
    for killed in range(100):  # noqa: B007
        left = every
        try:
            with store.open("novel", tiny_engine()) as saved:
                tell(saved, **how)
                assert saved.tokens == tokens
                assert (saved.session.adapter_weights() == weights).all()
                assert not saved.remarks
                break
        except Killed:
            pass
    else:
        pytest.fail("it never came to its end")
    assert killed >= 8


def test_a_write_goes_on_with_the_sampling_that_it_began_with(store: SessionStore) -> None:
    """Ids of tokens among it, which JSON has no keys for; what is reported of tokens is not in the log."""
    with store.create("novel", tiny_engine(), config()) as saved:
        expected = list(saved.stream(TEXT, max_new_tokens=60, sampling=EVERY))
    told = [event.logprobs for event in expected if isinstance(event, TokenEvent)]
    assert None not in told
    assert not any(
        "logprob" in key for record in saved.history.records if record.kind == "token" for key in record.data
    )
    with store.create("other", tiny_engine(), config()) as saved:
        events = saved.stream(TEXT, max_new_tokens=60, sampling=EVERY)
        for event in events:
            if isinstance(event, TokenEvent) and event.index == len(TEXT) + 19:
                break
        saved.leave()
    with store.open("other", tiny_engine()) as saved:
        assert SamplingParams.stored(saved.history.acts[-1].data["sampling"]) == EVERY
        rest = [event.logprobs for event in saved.resume() if isinstance(event, TokenEvent)]
        assert rest == told[20:]


def test_a_log_of_an_older_version_goes_on_the_same(store: SessionStore) -> None:
    """Its writes say nothing of the fields that came since."""
    with store.create("novel", tiny_engine(), config()) as saved:
        saved.write(TEXT, max_new_tokens=80, sampling=HOT)
        expected = saved.tokens
        records = [tuple(record[1:]) for record in saved.history.records if record.kind not in ("snapshot", "end")]
    fields = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "stop")
    store.fork("novel", "old")
    (store.folder / "old" / "log.sqlite").unlink()
    with Log.create(store.folder / "old" / "log.sqlite") as log:
        for kind, ids, data in records:
            if kind == "write":
                data = {**data, "sampling": {name: data["sampling"][name] for name in fields}}
            if kind == "token":
                ids, data = ids[:1], {"text": data["text"][:1]}
            log.extend([(kind, ids, data)])
            if kind == "token":
                break
    with store.open("old", tiny_engine()) as saved:
        assert saved.pending == 79
        list(saved.resume())
        assert saved.tokens == expected
        assert not saved.remarks


def test_the_end_of_a_text_is_drawn_again(store: SessionStore) -> None:
    """A draw that ended a write moved the random numbers on, though nothing came of it."""
    how: dict[str, Any] = {"sampling": SamplingParams(temperature=3.0), "stop_at_end": True, "max_new_tokens": 400}
    with store.create("novel", tiny_engine(), config(learning="off"), keep=20) as saved:
        saved.absorb(TEXT)
        for _ in range(8):
            list(saved.stream(**how))
            saved.snapshot()
        assert sum(act.reason == "stop" for act in saved.history.acts) >= 3
    store.fork("novel", "whole")
    with store.open("whole", tiny_engine()) as saved:
        saved.write(max_new_tokens=30)
        expected = saved.tokens
    snapshots = sorted((store.folder / "novel" / "files").iterdir())
    for lost in range(1, len(snapshots) + 1):
        store.fork("novel", f"lost-{lost}")
        for snapshot in snapshots[-lost:]:
            (store.folder / f"lost-{lost}" / "files" / snapshot.name).unlink()
        with store.open(f"lost-{lost}", tiny_engine()) as saved:
            saved.write(max_new_tokens=30)
            assert saved.tokens == expected


@pytest.mark.parametrize("options", MODES, ids=str)
def test_a_rewound_session_is_what_it_was(store: SessionStore, options: dict[str, Any]) -> None:
    """As is a fork, at every chunk."""
    states = {}
    with store.create("novel", tiny_engine(), config(**options)) as saved:
        for events in (saved.absorb_events(TEXT), saved.stream("And so", max_new_tokens=100, sampling=HOT)):
            for event in events:
                if isinstance(event, Absorbed | ChunkLearned) and not saved.session.open_tokens:
                    states[len(saved.tokens)] = saved.session.adapter_weights().tolist()
        tokens = saved.tokens
    history = store.history("novel")
    assert history.chunks == [32 * (i + 1) for i in range(len(tokens) // 32)]
    for chunks, position in enumerate([0, *history.chunks]):
        store.fork("novel", "fork", chunks)
        store.fork("novel", "rewound")
        store.rewind("rewound", chunks)
        for name in ("fork", "rewound"):
            with store.open(name, tiny_engine()) as saved:
                assert saved.tokens == tokens[:position]
                assert saved.pending == 0
                if position in states:
                    assert saved.session.adapter_weights().tolist() == states[position]
                if position > len(TEXT) + len("And so"):
                    list(saved.stream(max_new_tokens=len(tokens) - position, sampling=HOT))
                    assert saved.tokens == tokens
            store.discard(name)
    assert len(states) >= 7 or options == {"learning": "off"}


def test_rewound_and_told_again_it_is_the_same_story(store: SessionStore) -> None:
    with store.create("novel", tiny_engine(), config()) as saved:
        saved.absorb(TEXT)
        list(saved.stream(max_new_tokens=120, sampling=HOT))
        tokens = saved.tokens
    chunks = len(tokens) // 32 - 2
    store.rewind("novel", chunks)
    store.fork("novel", "other")
    with store.open("novel", tiny_engine()) as saved:
        list(saved.stream(max_new_tokens=len(tokens) - len(saved.tokens), sampling=HOT))
        assert saved.tokens == tokens
    with store.open("other", tiny_engine()) as saved:
        saved.reseed(7)
        list(saved.stream(max_new_tokens=len(tokens) - len(saved.tokens), sampling=HOT))
        other = saved.tokens
        assert other != tokens
        assert other[: 32 * chunks] == tokens[: 32 * chunks]
    with store.open("other", tiny_engine()) as saved:
        assert saved.tokens == other


def test_forks_share_their_files(store: SessionStore) -> None:
    with store.create("novel", tiny_engine(), config()) as saved:
        tell(saved)
        saved.snapshot()
        tokens = saved.tokens
    store.fork("novel", "other")
    file = max((store.folder / "novel" / "files").iterdir())
    assert (store.folder / "other" / "files" / file.name).stat().st_ino == file.stat().st_ino
    assert store.discard("novel").gone
    with store.open("other", tiny_engine()) as saved:
        assert saved.tokens == tokens
        assert not saved.remarks


def test_an_adapter_that_was_loaded_stays(store: SessionStore, tmp_path: Path) -> None:
    with tiny_engine().session(config()) as session:
        session.absorb(TEXT * 3)
        session.save_adapter(tmp_path / "adapter")
        learnt = session.adapter_weights()
    with store.create("novel", tiny_engine(), config()) as saved:
        saved.load_adapter(tmp_path / "adapter")
        tell(saved)
        tokens = saved.tokens
    store.fork("novel", "other", 0)
    with store.open("novel", tiny_engine()) as saved:
        assert saved.tokens == tokens
    with store.open("other", tiny_engine()) as saved:
        assert (saved.session.adapter_weights() == learnt).all()


def long_one(store: SessionStore) -> SavedSession:
    """Of many snapshots, of which three are left, the last at its end."""
    saved = store.create("novel", tiny_engine(), config(), keep=3)
    for i in range(6):
        saved.absorb(TEXT[i : i + 32])
        saved.snapshot()
    return saved


@pytest.mark.parametrize("verb", ["load_adapter", "reseed", "close_chunk"])
def test_what_was_asked_right_after_a_snapshot_is_in_a_fork(store: SessionStore, tmp_path: Path, verb: str) -> None:
    with tiny_engine().session(config()) as session:
        session.absorb(TEXT)
        session.save_adapter(tmp_path / "adapter")
    with long_one(store) as saved:
        saved.absorb("half")
        saved.snapshot()
        getattr(saved, verb)(*{"load_adapter": [tmp_path / "adapter"], "reseed": [7]}.get(verb, []))
        saved.leave()  # without one more, as a kill does
    for name, of in (("other", "novel"), ("third", "other")):
        store.fork(of, name)
    found = []
    for name in ("novel", "other", "third"):
        with store.open(name, tiny_engine()) as saved:
            assert not saved.remarks
            saved.write(max_new_tokens=40, sampling=HOT)
            found.append((saved.tokens, saved.session.adapter_weights().tolist(), saved.history.chunks))
    assert found[0] == found[1] == found[2]


def test_a_fork_by_an_older_version_has_what_was_asked_last(store: SessionStore) -> None:
    """Its snapshots say that they hold what the session that it is from had at that number."""
    long_one(store).close()
    store.fork("novel", "other")
    with store.open("other", tiny_engine()) as saved:
        saved.reseed(7)
        saved.write(max_new_tokens=20, sampling=HOT)
        expected = saved.tokens
    history = store.history("novel")
    last = history.snapshots[-1]
    records = [tuple(record[1:]) for record in history.records if record.kind != "snapshot" or record is last]
    store.fork("novel", "old")
    (store.folder / "old" / "log.sqlite").unlink()
    with Log.create(store.folder / "old" / "log.sqlite") as log:
        log.extend([*records, ("seed", (), {"seed": 7})])
        assert log.length - 1 <= last.data["until"]
    with store.open("old", tiny_engine()) as saved:
        saved.write(max_new_tokens=20, sampling=HOT)
        assert saved.tokens == expected


def test_no_two_files_of_a_fork_share_a_name(store: SessionStore, tmp_path: Path) -> None:
    with tiny_engine().session(config()) as session:
        session.save_adapter(tmp_path / "adapter")
    with long_one(store) as saved:
        saved.load_adapter(tmp_path / "adapter")
    before = {p.name: p.read_bytes() for p in (store.folder / "novel" / "files").iterdir()}
    store.fork("novel", "other")
    with store.open("other", tiny_engine(), keep=9) as saved:
        for _ in range(10):
            saved.snapshot()
            saved.load_adapter(tmp_path / "adapter")
        named = [r.data["file"] for r in saved.history.records if "file" in r.data]
        assert len(set(named)) == len(named)
    assert {p.name: p.read_bytes() for p in (store.folder / "novel" / "files").iterdir()} == before


def test_a_missing_adapter_is_named(store: SessionStore, tmp_path: Path) -> None:
    with tiny_engine().session(config()) as session:
        session.save_adapter(tmp_path / "adapter")
    with long_one(store) as saved:
        saved.load_adapter(tmp_path / "adapter")
        saved.leave()
    next((store.folder / "novel" / "files").glob("adapter-*")).unlink()
    for use in (lambda: store.open("novel", tiny_engine()), lambda: store.fork("novel", "other")):
        with pytest.raises(StoreError, match=r"adapter-\d+\.safetensors: is missing"):
            use()
    assert store.names() == ["novel"]
    store.fork("novel", "before", 5)
    store.open("before", tiny_engine()).close()


@pytest.mark.parametrize("asked", ["preview", "set_notes", "mark", "open_tokens", "snapshot"])
@pytest.mark.parametrize("writes", [False, True])
def test_what_is_asked_amid_reading_has_the_rest_read_once(store: SessionStore, asked: str, writes: bool) -> None:
    what: dict[str, Any] = {
        "preview": lambda saved: saved.preview(max_new_tokens=2),
        "set_notes": lambda saved: saved.set_notes(""),
        "mark": lambda saved: saved.mark({"a": 1}),
        "open_tokens": lambda saved: saved.open_tokens,
        "snapshot": lambda saved: saved.snapshot(),
    }
    found = []
    for name, amid in (("novel", True), ("other", False)):
        with store.create(name, tiny_engine(), config()) as saved:
            events = saved.stream(TEXT, max_new_tokens=20) if writes else saved.absorb_events(TEXT)
            next(events)
            if amid:
                assert len(saved.session.tokens) < len(TEXT)
                what[asked](saved)
                with pytest.raises(StoreError, match="asked for something else"):
                    next(events)
            list(saved.resume() if writes and amid else events)
            assert saved.history.tokens == saved.tokens
            found.append((list(saved.tokens), saved.session.adapter_weights().tolist()))
    assert found[0] == found[1]


@pytest.mark.parametrize("length", [31, 45])
def test_what_another_verb_takes_back_is_written_anew(length: int) -> None:
    """Where the last tokens are shown together, and what is scored waits for them, too."""
    how = {"max_new_tokens": length, "sampling": SamplingParams(temperature=1.5, stop=("e",)), "score": True}
    for seed in range(8):
        found = []
        for settles in (False, True):
            with tiny_engine().session(config(learning="off")) as session:
                session.reseed(seed)
                for _ in session.stream(TEXT[:33], **how):  # type: ignore[arg-type]
                    if settles:
                        session.settle()
                found.append(list(session.tokens))
        assert found[0] == found[1], seed


def test_a_write_that_is_left_can_be_resumed_or_not(store: SessionStore) -> None:
    with store.create("novel", tiny_engine(), config()) as saved:
        expected = saved.write(TEXT, max_new_tokens=100, sampling=HOT)
    for again in (False, True):
        with store.create(f"left-{again}", tiny_engine(), config()) as saved:
            events = saved.stream(TEXT, max_new_tokens=100, sampling=HOT)
            for event in events:
                if isinstance(event, TokenEvent) and event.index == len(saved.session.encode(TEXT)) + 39:
                    break
            assert saved.pending == 60
            if not again:
                list(saved.resume())
                assert saved.pending == 0
                assert saved.text == TEXT + expected
        with store.open(f"left-{again}", tiny_engine()) as saved:
            if again:
                assert saved.pending == 60
                saved.absorb("No, not so.")
                assert saved.pending == 0
                text = saved.text
    with store.open("left-True", tiny_engine()) as saved:
        assert saved.text == text
        assert list(saved.resume()) == []


@pytest.mark.parametrize("reopened", [False, True])
def test_a_character_that_was_left_half_way_is_shown_whole(
    store: SessionStore, monkeypatch: pytest.MonkeyPatch, reopened: bool
) -> None:
    """Also across the ends of two chunks, and a snapshot there; at each byte of such characters somewhere."""
    said, prompt = "né€𝄞" * (12 if LONG else 7) + ".", "x"
    ids = list(said.encode())
    monkeypatch.setattr(Sampler, "__call__", lambda self, logits, recent, index, earlier=0: ids[index - 1])
    monkeypatch.setattr(snapshots_module, "_SHARE", 1e9)  # a snapshot after every chunk
    for cut in range(1, len(ids), 3):
        with store.create(f"at-{cut}", tiny_engine(), config()) as saved:
            for event in saved.stream(prompt, max_new_tokens=len(ids)):
                if isinstance(event, TokenEvent) and event.index == cut:
                    break
            if not reopened:
                list(saved.resume())
                assert saved.text == prompt + said, cut
        if reopened:
            with store.open(f"at-{cut}", tiny_engine()) as saved:
                list(saved.resume())
                assert saved.text == prompt + said, cut


@pytest.mark.parametrize("after", ["token", "learned", "snapshot"])
def test_a_write_that_lacks_nothing_but_its_end(
    store: SessionStore, monkeypatch: pytest.MonkeyPatch, after: str
) -> None:
    """Killed after its last token, which fills a chunk: after that was shown, learnt, kept."""
    with tiny_engine().session(config()) as session:
        session.write(TEXT, max_new_tokens=192 - len(TEXT), sampling=HOT)
        session.write("On.", max_new_tokens=20, sampling=HOT)
        expected = session.tokens
    note = SavedSession._note

    def fail_after(self: SavedSession, records: Any, **how: Any) -> None:
        note(self, records, **how)
        if len(self.history.tokens) == 192 and records[-1][0] == after:
            raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(snapshots_module, "_SHARE", 1e9)
        patched.setattr(SavedSession, "_note", fail_after)
        with pytest.raises(Killed), store.create("novel", tiny_engine(), config()) as saved:
            saved.write(TEXT, max_new_tokens=192 - len(TEXT), sampling=HOT)
    with store.open("novel", tiny_engine()) as saved:
        assert saved.pending == 0
        assert [type(event) for event in saved.resume()][-1] is Finished
        assert not saved.history.pending
        saved.write("On.", max_new_tokens=20, sampling=HOT)
        assert saved.tokens == expected


def test_another_model_is_refused(store: SessionStore) -> None:
    store.create("novel", tiny_engine(), config()).close()
    with pytest.raises(ModelError, match="began with another model"):
        store.open("novel", tiny_engine("qwen3"))
    store.open("novel", tiny_engine()).close()


def test_a_session_is_one_process_own(store: SessionStore) -> None:
    import os

    with store.create("novel", tiny_engine(), config()):
        assert store.show("novel").holder == f"process {os.getpid()}"
        for verb in (lambda: store.open("novel", tiny_engine()), lambda: store.discard("novel")):
            with pytest.raises(StoreError, match=f"'novel' is in use by process {os.getpid()}"):
                verb()
        with pytest.raises(StoreError, match="in use"):
            store.rewind("novel", 0)
    assert store.show("novel").holder == ""
    store.open("novel", tiny_engine()).close()


def test_nothing_is_left_of_what_is_discarded(store: SessionStore, tmp_path: Path) -> None:
    with store.create("novel", tiny_engine(), config()) as saved:
        tell(saved)
        saved.snapshot()
        text = saved.text
    found = store.discard("novel", keep_text=tmp_path / "novel.txt")
    assert found.gone
    assert found.files >= 3
    assert found.bytes > 10_000
    assert (tmp_path / "novel.txt").read_bytes() == text.encode()
    assert list(store.folder.iterdir()) == []
    with pytest.raises(StoreError, match="no session 'novel'"):
        store.show("novel")


@pytest.mark.parametrize("name", ["", ".", "..", "../novel", "a/b", "/etc", ".hidden", "a\0b", "a" * 101, "a b", "-x"])
def test_names_cannot_leave_the_folder(store: SessionStore, name: str) -> None:
    with pytest.raises(StoreError, match="name"):
        store.create(name, tiny_engine(), config())
    with pytest.raises(StoreError, match="name"):
        store.discard(name)
    assert name not in store


def test_only_the_user_can_read_it(store: SessionStore) -> None:
    with store.create("novel", tiny_engine(), config()) as saved:
        tell(saved)
        saved.snapshot()
    assert store.folder.stat().st_mode & 0o777 == 0o700
    for path in (store.folder / "novel").rglob("*"):
        assert path.stat().st_mode & 0o077 == 0, path
    assert (store.folder / "novel").stat().st_mode & 0o777 == 0o700


def test_what_cannot_be_asked_leaves_no_trace(store: SessionStore) -> None:
    with store.create("novel", tiny_engine(), config()) as saved:
        with pytest.raises(TextError, match="prompt"):
            saved.write()
        for wrong in (0, -5):
            with pytest.raises(OptionError, match="max_new_tokens"):
                saved.write(TEXT, max_new_tokens=wrong)
        assert saved.tokens == []
        saved.write(TEXT, max_new_tokens=5)
        tokens = saved.tokens
    with store.open("novel", tiny_engine()) as saved:
        assert saved.tokens == tokens
    with pytest.raises(StoreError, match="did you mean 'novel'"):
        store.show("novle")
    with pytest.raises(StoreError, match="already"):
        store.create("novel", tiny_engine(), config())
    with pytest.raises(StoreError, match="already"):
        store.fork("novel", "novel")
    with pytest.raises(StoreError, match="no chunk 99"):
        store.rewind("novel", 99)


@pytest.mark.parametrize("options", MODES, ids=str)
def test_what_is_left_and_gone_on_with_in_one_process_is_the_same(store: SessionStore, options: dict[str, Any]) -> None:
    tokens, weights = deferred(config(**options), score=True)
    with store.create("novel", tiny_engine(), config(**options)) as saved:
        saved.absorb(TEXT)
        for prompt, n in (("And so", 100), ("Then", 50)):
            events: Any = saved.stream(prompt, max_new_tokens=n, sampling=HOT, score=True)
            while saved.pending or isinstance(events, Iterator):
                for event in events:
                    if isinstance(event, TokenEvent) and event.index % 23 == 0:
                        break
                else:
                    break
                events = saved.resume()
        assert saved.tokens == tokens
        assert (saved.session.adapter_weights() == weights).all()
    for file in (store.folder / "novel" / "files").iterdir():
        file.unlink()
    with store.open("novel", tiny_engine()) as saved:
        assert saved.tokens == tokens
        assert (saved.session.adapter_weights() == weights).all()
        assert not saved.remarks


def test_a_caller_who_is_interrupted_and_goes_on_has_what_the_log_has(
    store: SessionStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C in the middle of taking in a text, and between a token and its record."""
    with store.create("novel", tiny_engine(), config()) as saved:
        events = saved.absorb_events(TEXT)
        next(events)
        events.close()  # type: ignore[attr-defined]
        assert len(saved.tokens) < len(TEXT)
        events = saved.stream("And so", max_new_tokens=100, sampling=HOT)
        for event in events:
            if isinstance(event, TokenEvent) and event.index == 200:
                break
        note = SavedSession._note
        monkeypatch.setattr(SavedSession, "_note", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            next(events)
        monkeypatch.setattr(SavedSession, "_note", note)
        saved.absorb("The end")
        tokens, weights, text = saved.tokens, saved.session.adapter_weights(), saved.text
        assert len(tokens) == 202 + len("The end")
        # But for what was half a character when the writing was left.
        assert text.replace("\ufffd", "") == tiny_engine().tokenizer.decode(tokens).replace("\ufffd", "")
        ends = set(accumulate(len(record.ids) for record in saved.history.records))
        assert set(saved.history.chunks) <= ends, "no record goes beyond a chunk"
    for file in (store.folder / "novel" / "files").iterdir():
        file.unlink()
    with store.open("novel", tiny_engine()) as saved:
        assert saved.tokens == tokens
        assert saved.text == text
        assert (saved.session.adapter_weights() == weights).all()
