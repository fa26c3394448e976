"""Documents through a session on disk: killed anywhere, corrected anywhere, the same translation."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import small

from templora.decoding.preview import Preview
from templora.errors import OptionError, StoreError
from templora.events import ChunkLearned
from templora.metrics import Likelihood
from templora.sampling import SamplingParams
from templora.store import snapshots as snapshots_module
from templora.store.saved import SavedSession
from templora.store.store import SessionStore
from templora.testing import tiny_engine
from templora.translation.languages import Language
from templora.translation.quality import control
from templora.translation.quality.doubts import Doubts
from templora.translation.sentences import units
from templora.translation.template import Template, read_template
from templora.translation.translation import (
    Paragraph,
    Translation,
    check_same,
    corrected,
    digest,
    go_back,
    what_is_done,
)

GERMAN = Language("de", "German")
SOURCES = (
    "The keeper climbs.",
    "Storm!",
    "Nobody came that winter. The lamp was lit each night, and each night it burned until morning. No ship came.",
    "שלום עולם",
    "Ein Satz, 中文。",
    "The end.",
)
HOT = SamplingParams(temperature=1.0, min_p=0.1, stop="\n")
COLD = SamplingParams(temperature=0, stop="\n")
TEMPLATE = Template("", "A: ", "\nB:", " ", "\n", "")


def config(**options: Any) -> Any:
    return small(chunk_size=96, window=192, learning_rate=1e-2, **options)


def begin(store: SessionStore, **options: Any) -> None:
    store.create("t", tiny_engine(), config(**options)).close()


def translation(saved: SavedSession, sampling: SamplingParams = HOT, **how: Any) -> Translation:
    return Translation(saved, SOURCES, GERMAN, TEMPLATE, sampling, **how)


def targets(store: SessionStore, **how: Any) -> list[str]:
    """Translates what is left, and returns all there is."""
    with store.open("t", tiny_engine()) as saved:
        made = translation(saved, **how)
        for _ in made.run():
            pass
        assert what_is_done(saved.history, GERMAN).paragraphs == made.paragraphs
        return [p.target for p in made.paragraphs]


def weights(store: SessionStore) -> torch.Tensor:
    with store.open("t", tiny_engine()) as saved:
        return saved.session.adapter_weights()


@pytest.fixture(autouse=True)
def trusting(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the tiny model writes is taken for a translation, but for some of it."""
    monkeypatch.setattr(Doubts, "about", lambda _, source, target, whole: "odd" if len(target) % 7 == 3 else "")


@pytest.fixture
def store(tmp_path: Path) -> SessionStore:
    return SessionStore(tmp_path / "store")


def test_each_paragraph_is_translated_in_order(store: SessionStore) -> None:
    begin(store)
    seen: list[Paragraph] = []
    with store.open("t", tiny_engine()) as saved:
        events = list(translation(saved).run())
        seen = [e for e in events if isinstance(e, Paragraph)]
        assert [p.segment for p in seen] == list(range(len(SOURCES)))
        assert any(isinstance(e, ChunkLearned) and e.committed for e in events)
        # The session's text is what the template says, paragraph after paragraph, with what was written.
        text = saved.text
        for source in ("The keeper climbs.", "Storm!", "שלום עולם", "Ein Satz, 中文。", "The end."):
            assert f"A: {source}\nB:" in text
        assert text.count("A: ") == len(units(SOURCES, lambda s: len(s.encode()) <= 32))
        assert text.endswith("\n")


def test_only_translations_are_in_the_loss(store: SessionStore) -> None:
    begin(store)
    with store.open("t", tiny_engine()) as saved:
        for _ in translation(saved).run():
            pass
        acts = [a for a in saved.history.acts if a.kind == "given"]
        sources = [a for a in acts if not a.learn]
        assert not any("A: " in a.data["text"] for a in acts if a.learn)
        read = "".join(a.data["text"] for a in sources)
        assert "A: Storm!\nB:A: Nobody came that winter.\nB:" in read


def test_what_is_doubtful_is_neither_read_nor_learnt(store: SessionStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is in the log; the reader gets it, marked as such."""
    monkeypatch.undo()  # this model never ends a line by itself
    begin(store)
    with store.open("t", tiny_engine()) as saved:
        made = Translation(saved, [f"{i}." for i in range(4)], GERMAN, TEMPLATE, COLD)
        list(made.run())
        assert {p.doubt for p in made.paragraphs} == {"it was cut off at its longest"}
        assert all(p.target for p in made.paragraphs)
        assert what_is_done(saved.history, GERMAN).paragraphs == made.paragraphs
        assert saved.text == ""
        assert saved.session.version == 0


def test_learning_stops_where_the_base_does_better(store: SessionStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every translation but the base's is doubted: of sixteen paragraphs four are enough."""
    asked: list[bool] = []
    plain = SavedSession.preview

    def preview(self: SavedSession, prompt: str = "", **how: Any) -> Preview:
        asked.append(how["base"])
        made = plain(self, prompt, **how)
        return Preview(("+" if how["base"] else "-") + made.text, True)

    monkeypatch.setattr(SavedSession, "preview", preview)
    monkeypatch.setattr(Doubts, "about", lambda _, source, target, whole: "odd" if target[0] == "-" else "")
    begin(store)
    sources = [f"{i}." for i in range(9)]
    with store.open("t", tiny_engine()) as saved:
        made = Translation(saved, sources, GERMAN, TEMPLATE, HOT)
        events = []
        for event in made.run():
            events.append(event)
            if isinstance(event, Paragraph):
                assert made.stopped == (event.segment >= 3)
        learnt = [e.end for e in events if isinstance(e, ChunkLearned)]
        assert learnt
    assert asked == [False, True] * 4 + [True] * 5
    with store.open("t", tiny_engine()) as saved:  # what is known of it is in the log
        made = Translation(saved, [*sources, "9."], GERMAN, TEMPLATE, HOT)
        assert made.stopped
        assert not any(isinstance(e, ChunkLearned) for e in made.run())
        given = [act for act in saved.history.acts if act.kind == "given" and "A: 9." in act.data["text"]]
        assert not any(act.learn for act in saved.history.acts if given[0].start <= act.start)


@pytest.mark.parametrize("better", ["base", "own"])
def test_now_and_then_the_base_translates_too(
    better: str, store: SessionStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The better one is taken, and where that is the base's time and again learning stops; a resumed one knows."""
    asked: list[bool] = []
    plain = SavedSession.preview

    def preview(self: SavedSession, prompt: str = "", **how: Any) -> Preview:
        asked.append(how["base"])
        return Preview(("+" if how["base"] else "-") + plain(self, prompt, **how).text[:8], True)

    def likelihood(self: SavedSession, prompt: str, text: str) -> Likelihood:
        target, source = prompt.split("Translation: ")[1].split("\nSource:")[0], text
        assert source in [f" {i}." for i in range(99)]
        return Likelihood((1.0 if (target[0] == "+") == (better == "base") else 3.0) * 2, 2)

    monkeypatch.setattr(SavedSession, "preview", preview)
    monkeypatch.setattr(SavedSession, "likelihood", likelihood)
    monkeypatch.setattr(Doubts, "about", lambda *_: "")
    monkeypatch.setattr(control, "EVERY", 2)
    begin(store)
    for sources in (range(7), range(20)):
        with store.open("t", tiny_engine()) as saved:
            made = Translation(saved, [f"{i}." for i in sources], GERMAN, TEMPLATE, HOT)
            list(made.run())
            assert made.stopped == (better == "base" and len(sources) > 16)
    signs = "".join(p.target[0] for p in made.paragraphs)
    if better == "base":
        assert signs == "-+" * 8 + "+" * 4
        assert asked == [False, False, True] * 8 + [True] * 4
    else:
        assert signs == "-" * 20
        assert asked == [False, False, True] * 10


def test_where_both_say_the_same_nobody_need_be_asked(store: SessionStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SavedSession, "preview", lambda *_, **how: Preview("ja", True))
    monkeypatch.setattr(SavedSession, "likelihood", lambda *_: pytest.fail("asked"))
    monkeypatch.setattr(control, "EVERY", 1)
    begin(store)
    with store.open("t", tiny_engine()) as saved:
        list(translation(saved).run())
        assert {unit["control"] for unit in what_is_done(saved.history, GERMAN).units} == {0}


def test_chunks_end_between_paragraphs_where_they_can(store: SessionStore) -> None:
    """Known translations as short as their sources: no chunk is full before it is closed."""
    begin(store)
    short = {i: source[:10] for i, source in enumerate(SOURCES) if i != 2}
    with store.open("t", tiny_engine()) as saved:
        list(Translation(saved, [s[:20] for s in SOURCES], GERMAN, TEMPLATE, HOT, known=short | {2: "x"}).run())
        done = what_is_done(saved.history, GERMAN)
        assert len(saved.history.chunks) > 1
        assert set(saved.history.chunks) <= set(done.starts)


@pytest.mark.parametrize("options", [{}, {"cache_reuse": 1}, {"dropout": 0.1}])
def test_left_after_every_event_it_goes_on_to_the_same(tmp_path: Path, options: dict[str, Any]) -> None:
    whole, pieces = SessionStore(tmp_path / "a"), SessionStore(tmp_path / "b")
    begin(whole, **options)
    begin(pieces, **options)
    wanted = targets(whole)
    rng = random.Random(1)
    while True:
        with pieces.open("t", tiny_engine()) as saved:
            events = translation(saved).run()
            for _ in range(rng.randint(1, 60)):
                if next(events, None) is None:
                    break
            done = what_is_done(saved.history, GERMAN)
            events.close()
        if len(done.paragraphs) == len(SOURCES):
            break
    assert [p.target for p in done.paragraphs] == wanted
    assert torch.equal(weights(whole), weights(pieces))


def test_killed_ten_times_it_is_the_same(tmp_path: Path) -> None:
    """SIGKILL at random moments; what has been shown stays."""
    whole, killed, shown = SessionStore(tmp_path / "a"), SessionStore(tmp_path / "b"), tmp_path / "shown"
    begin(whole)
    began = time.perf_counter()
    wanted = targets(whole)
    seconds = time.perf_counter() - began
    begin(killed)
    shown.touch()
    rng, kills = random.Random(7), 0
    while kills < 10 or _child(killed, shown, None):
        kills += _child(killed, shown, rng.uniform(0.0, seconds)) == -signal.SIGKILL if kills < 10 else 0
        if len(what_is_done(killed.history("t"), GERMAN).paragraphs) == len(SOURCES) and kills < 10:
            killed.discard("t")
            begin(killed)
            shown.write_text("")
    assert targets(killed) == wanted
    lines = shown.read_text().splitlines()
    assert lines == [f"{i} {target!r}" for i, target in enumerate(wanted)], "each once, in order"
    assert torch.equal(weights(whole), weights(killed))


def _child(store: SessionStore, shown: Path, seconds: float | None) -> int:
    """Translates in a process of its own, killed after so many seconds; its exit code, or minus the signal."""
    pid = os.fork()
    if not pid:
        snapshots_module._SHARE = 1e9  # a snapshot after every chunk
        with store.open("t", tiny_engine()) as saved, shown.open("a+") as file:
            file.seek(0)
            known = len(file.read().splitlines())
            made = translation(saved)
            for p in made.paragraphs[known:]:
                file.write(f"{p.segment} {p.target!r}\n")
            file.flush()
            for event in made.run():
                if isinstance(event, Paragraph):
                    file.write(f"{event.segment} {event.target!r}\n")
                    file.flush()
        os._exit(0)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(pid, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


# Corrections -------------------------------------------------------------------------------------------------------


def correct(store: SessionStore, corrections: Mapping[int, str]) -> list[str]:
    """What the command line does with a file of corrections."""
    done = what_is_done(store.history("t"), GERMAN)
    known, authors, first = corrected(done, corrections)
    if first is not None:
        go_back(store, "t", GERMAN, first)
    return targets(store, known=known, authors=authors, sampling=COLD)


def test_a_correction_changes_what_comes_after_it_alone(store: SessionStore) -> None:
    begin(store)
    before = targets(store, sampling=COLD)
    after = correct(store, {1: "Hallo Welt"})
    assert after[:1] == before[:1]
    assert after[1] == "Hallo Welt"
    assert after[2:] != before[2:]
    # What nobody changed is no correction, and one that was made stays.
    assert correct(store, dict(enumerate(after))) == after
    assert corrected(what_is_done(store.history("t"), GERMAN), dict(enumerate(after)))[2] is None
    again = correct(store, {4: "Zwei"})
    assert again[:5] == [*after[:4], "Zwei"]


def test_a_correction_is_learnt_at_once(store: SessionStore) -> None:
    """Also if the run is stopped right after it; what is only kept with it is learnt with its chunk, as before."""
    begin(store)
    targets(store, sampling=COLD)
    known, authors, first = corrected(what_is_done(store.history("t"), GERMAN), {1: "Hallo"})
    assert (authors, first) == ({1}, 1)
    go_back(store, "t", GERMAN, 1)
    with store.open("t", tiny_engine()) as saved:
        made = translation(saved, COLD, known=known, authors=authors)
        for event in made.run():
            if isinstance(event, Paragraph) and event.segment == 1:
                break
        assert saved.session.open_tokens
        assert made.paragraphs[1].author
        assert not made.paragraphs[0].author
    with store.open("t", tiny_engine()) as saved:
        event = next(translation(saved, COLD, known=known, authors=authors).run())
        assert isinstance(event, ChunkLearned)
        assert not saved.session.open_tokens
        ends = saved.history.chunks[-1]
    stopped = targets(store, known=known, authors=authors, sampling=COLD)
    # Undisturbed it is the same, to the end of the chunk.
    go_back(store, "t", GERMAN, 1)
    assert targets(store, known=known, authors=authors, sampling=COLD) == stopped
    assert ends in store.history("t").chunks
    assert corrected(what_is_done(store.history("t"), GERMAN), {3: "Neu"})[1] == {1, 3}


def test_a_correction_of_what_is_not_reached_is_kept_for_then(store: SessionStore) -> None:
    begin(store)
    with store.open("t", tiny_engine()) as saved:
        for event in translation(saved).run():
            if isinstance(event, Paragraph) and event.segment == 1:
                break
    done = what_is_done(store.history("t"), GERMAN)
    first_two = [p.target for p in done.paragraphs]
    found = correct(store, {5: "Ende."})
    assert found[:2] == first_two
    assert found[5] == "Ende."


def test_a_correction_of_what_is_under_way(store: SessionStore) -> None:
    begin(store)
    with store.open("t", tiny_engine()) as saved:
        for _ in translation(saved).run():
            if what_is_done(saved.history, GERMAN).parts:
                break
    assert [part["segment"] for part in what_is_done(store.history("t"), GERMAN).parts] == [2]
    found = correct(store, {2: "Niemand kam."})
    assert found[2] == "Niemand kam."
    assert len(found) == len(SOURCES)


# Known translations ------------------------------------------------------------------------------------------------


def test_references_are_learnt_and_the_models_own_is_shown(store: SessionStore) -> None:
    begin(store)
    known = {i: f"Satz {i}" for i in range(len(SOURCES))}
    with store.open("t", tiny_engine()) as saved:
        made = translation(saved, known=known, ask=True)
        for _ in made.run():
            pass
        assert [p.target for p in made.paragraphs] == list(known.values())
        assert all(p.own != p.target and p.known for p in made.paragraphs)
        assert f"A: {SOURCES[0]}\nB: Satz 0\nA: {SOURCES[1]}\nB: Satz 1\n" in saved.text
        assert all(p.own not in saved.text for p in made.paragraphs if p.own)


def test_glossary_terms_are_in_the_prompt_of_their_paragraphs(store: SessionStore) -> None:
    begin(store)
    template = Template("", "{glossary}A: ", "\nB:", " ", "\n", "[{terms}] ")
    known = dict.fromkeys(range(len(SOURCES)), "x")

    def terms(source: str) -> Mapping[str, str]:
        return {"keeper": "Wärter"} if "keeper" in source else {}

    with store.open("t", tiny_engine()) as saved:
        list(Translation(saved, SOURCES, GERMAN, template, HOT, terms=terms, known=known).run())
        assert saved.text.startswith("[keeper = Wärter] A: The keeper climbs.\nB: x\nA: Storm!")


# What is refused ---------------------------------------------------------------------------------------------------


def test_another_document_is_refused() -> None:
    about = {"document": digest(SOURCES), "to": "de"}
    check_same(about, dict(about))
    with pytest.raises(OptionError, match="resume: the document has changed"):
        check_same(about, {**about, "document": digest(SOURCES[1:])})
    with pytest.raises(OptionError, match="to: the translation began with fr, and keeps that; not de"):
        check_same(about, {**about, "to": "fr"})


def test_a_session_that_is_no_translation(store: SessionStore) -> None:
    begin(store)
    with store.open("t", tiny_engine()) as saved:
        saved.mark({"something": "else"})
        with pytest.raises(StoreError, match="not that of a translation"):
            translation(saved)


def test_templates_are_read_and_checked(tmp_path: Path) -> None:
    engine = tiny_engine()
    lines = read_template("lines", engine.tokenizer, "Chinese", "German")
    assert lines.prompt("你好", {}, first=True) == "Chinese: 你好\nGerman:"
    assert lines.answer("Hallo") == " Hallo\n"
    assert lines.prompt("你好", {"好": "gut"}, first=False) == "Terms: 好 = gut\nChinese: 你好\nGerman:"
    with pytest.raises(OptionError, match="no chat template"):
        read_template("chat", engine.tokenizer, "a", "b")
    with pytest.raises(OptionError, match="did you mean"):
        read_template("line", engine.tokenizer, "a", "b")
    for text, problem in (
        ("pair = '{source} {target}'", "a line break must follow"),
        ("pair = '{target}\\n {source}'", "must come before"),
        ("pair = '{source}\\n'", "must hold {target} once"),
        ("ask = '{sauce}'", "did you mean"),
        ("asks = '{source}'", "unknown part"),
        ("ask = '{source}'\npair = '{source}{target}'", "either pair or ask"),
        ("pair = 3", "must be a text"),
        ("pair = ", "not TOML"),
        ('pair = "{glossary}{source}{target}\\n"', "there is no glossary"),
    ):
        path = tmp_path / "t.toml"
        path.write_text(text)
        with pytest.raises(OptionError, match=problem):
            read_template(str(path), engine.tokenizer, "a", "b")


CHAT = (
    "{{ bos_token }}{% for m in messages %}<{{ m.role }}>{{ m.content | trim }}</{{ m.role }}>\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def test_chat_templates_go_around_each_paragraph() -> None:
    tokenizer = tiny_engine().tokenizer
    tokenizer.chat_template = CHAT
    template = read_template(None, tokenizer, "English", "German")
    whole = "".join(
        template.prompt(s, {}, first=i == 0) + template.answer(t) for i, (s, t) in enumerate([("a", "b"), ("c", "d")])
    )
    ask = "Translate into German. Answer with the translation only.\n\n"
    turns = [("user", ask + "a"), ("assistant", "b"), ("user", ask + "c"), ("assistant", "d"), ("user", "|")]
    messages = [{"role": role, "content": content} for role, content in turns]
    wanted = str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
    assert (tokenizer.bos_token or "") + whole == wanted.split("|")[0]
