"""Terms that are settled on the way: where readings agree, and no others."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from conftest import small

from templora.decoding.preview import Preview
from templora.sampling import SamplingParams, Wanted
from templora.store.saved import SavedSession
from templora.store.store import SessionStore
from templora.testing import tiny_engine
from templora.translation.languages import Language
from templora.translation.quality.doubts import Doubts
from templora.translation.settled import SettledTerms
from templora.translation.template import Template
from templora.translation.term_finder import Found, TermFinder
from templora.translation.translation import Translation, corrected, go_back, what_is_done

GERMAN = Language("de", "German")
# "Keeper" and "lighthouse" come and go, in clumps, as terms do.
SOURCES = [
    "The keeper climbed the stairs of the lighthouse.",
    "It rained for a week.",
    "A keeper knows his lighthouse and the sea around it.",
    "Keepers never sleep in winter.",
    "The lighthouse was dark, and the old keeper was alone.",
    *(f"In year {n} nobody came, and nothing at all was written down." for n in range(40)),
    "One keeper left the lighthouse.",
    "The new keeper painted the lighthouse white.",
]


@pytest.fixture
def finder(monkeypatch: pytest.MonkeyPatch) -> TermFinder:
    import templora.translation.term_finder as module

    monkeypatch.setattr(module, "source_terms", lambda stretch: ["keeper", "lighthouse", "old keeper"])
    return TermFinder(SOURCES)


@pytest.fixture
def settled(finder: TermFinder) -> SettledTerms:
    return SettledTerms(finder)


def never(_: str) -> str:
    raise AssertionError("nobody should ask for the way back")


def says(answer: str) -> Callable[[str], str]:
    return lambda _: answer


def test_terms_of_a_document_are_found() -> None:
    finder = TermFinder(["他登上灯塔。", "那灯塔很高。", "我看灯塔吧。", "灯塔。", *["雨下了。", "海很大。"] * 20])
    assert [(f.term, f.text) for f in finder.found(0, "灯塔和海") if f.term == "灯塔"] == [("灯塔", "灯塔")]
    assert TermFinder([]).found(0, "nothing") == []


def test_a_term_is_found_in_any_form(finder: TermFinder) -> None:
    assert finder.found(3, SOURCES[3]) == [Found("keeper", "Keepers")]
    assert finder.found(0, "Lighthouse KEEPER") == [Found("lighthouse", "Lighthouse"), Found("keeper", "KEEPER")]
    assert finder.found(0, "keeperships") == []
    # The longest one counts, as "old keeper" does here; the same is found once.
    assert [f.term for f in finder.found(4, SOURCES[4] + " An old keeper!")] == ["lighthouse", "old keeper"]


def test_terms_come_again_or_not(finder: TermFinder) -> None:
    keeper = finder.found(0, SOURCES[0])[0]
    assert finder.again(keeper, 0) == 5
    assert finder.again(keeper, len(SOURCES) - 1) == 0


def test_a_long_document_is_gone_through_in_stretches(monkeypatch: pytest.MonkeyPatch) -> None:
    import templora.translation.term_finder as module

    asked = []
    monkeypatch.setattr(module, "_STRETCH", 4)
    monkeypatch.setattr(module, "source_terms", lambda stretch: asked.append(len(stretch)) or ["keeper"])
    finder = TermFinder(SOURCES[:6])
    keeper = Found("keeper", "keeper")
    assert [len(finder.found(n, s)) for n, s in enumerate(SOURCES[:6])] == [1, 0, 1, 1, 1, 0]
    assert asked == [4, 2]
    finder.found(0, SOURCES[0])
    assert (finder.again(keeper, 0), finder.again(keeper, 3)) == (3, 0)


def test_two_readings_and_the_way_back_settle_a_term(settled: SettledTerms) -> None:
    target = "Der Wärter stieg hinauf."
    readings = {"keeper": "Wärter", "lighthouse": "Turm"}
    assert settled.agree(0, SOURCES[0], target, readings, says("lamp")) == {}
    assert settled.agree(0, SOURCES[0], target, readings, says("Keeper")) == {"keeper": "Wärter"}
    settled.take(0, SOURCES[0], target, readings, {"keeper": "Wärter"})
    assert [(one.term, one.rendering, one.since) for one in settled.found(2, SOURCES[2])] == [("keeper", "Wärter", 0)]
    assert [found.term for found in settled.open(2, SOURCES[2])] == ["lighthouse"]


def test_so_does_the_same_reading_twice(settled: SettledTerms) -> None:
    for segment, expected in ((0, {}), (2, {"keeper": "Wärter"})):
        target = f"Der Wärter {segment}"
        assert settled.agree(segment, SOURCES[segment], target, {"keeper": "Wärter"}, says("?")) == expected
        settled.take(segment, SOURCES[segment], target, {"keeper": "Wärter"}, {})


@pytest.mark.parametrize(
    ("reading", "target"),
    [
        ("", "Wärter"),
        ("Wärter", "Der Hüter."),  # not in its paragraph
        ("keeper", "The keeper."),  # the term itself
        ("…", "…"),
        ("der alte Wärter vom Turm", "der alte Wärter vom Turm"),  # no term is so long
        ("灯塔灯塔灯塔灯塔灯塔灯", "灯塔灯塔灯塔灯塔灯塔灯"),
    ],
)
def test_what_is_no_rendering(settled: SettledTerms, reading: str, target: str) -> None:
    assert settled.agree(0, SOURCES[0], target, {"keeper": reading}, never) == {}


def test_a_rendering_belongs_to_one_term(settled: SettledTerms) -> None:
    both = {"keeper": "Wärter", "lighthouse": "wärter"}
    way_back = {"Wärter": "keeper", "wärter": "lighthouse"}
    assert settled.agree(0, SOURCES[0], "Der Wärter.", both, lambda r: way_back.get(r, r)) == {"keeper": "Wärter"}
    settled.take(0, SOURCES[0], "Der Wärter.", both, {"keeper": "Wärter"})
    assert settled.agree(2, SOURCES[2], "Der Wärter.", {"lighthouse": "Wärter"}, never) == {}


def test_what_stands_everywhere_is_no_terms_own(settled: SettledTerms) -> None:
    """Neither when it would be settled nor afterwards."""
    for segment in range(5, 25):
        settled.take(segment, SOURCES[segment], "Die Zeit.", {}, {})
    assert settled.agree(0, SOURCES[0], "In die Zeit.", {"keeper": "die"}, never) == {}
    settled.take(0, SOURCES[0], "Der Wärter.", {"keeper": "Wärter"}, {"keeper": "Wärter"})
    assert settled.found(2, SOURCES[2])
    for segment in range(25, 35):
        settled.take(segment, SOURCES[segment], "Die Wärter.", {}, {})
    assert not settled.found(2, SOURCES[2])
    assert "keeper" in settled.all


def test_it_is_asked_for_a_few_times_while_it_comes_again(settled: SettledTerms) -> None:
    for _ in range(4):
        assert "keeper" in [found.term for found in settled.open(0, SOURCES[0])]
        settled.asked(["keeper"])
    assert "keeper" not in [found.term for found in settled.open(0, SOURCES[0])]
    assert [found.term for found in settled.open(len(SOURCES) - 1, SOURCES[-1])] == []


def test_as_it_stands_within_a_sentence(settled: SettledTerms) -> None:
    for target, expected in (
        ("Climbing he was, the keeper.", {}),  # who knows
        ("It is Climbing that he did.", {"keeper": "Climbing"}),
        ("While climbing he fell.", {"keeper": "climbing"}),
    ):
        assert settled.agree(0, SOURCES[0], target, {"keeper": "Climbing"}, says("keeper")) == expected
    assert settled.agree(0, SOURCES[0], "Lin Feng came.", {"keeper": "Lin Feng"}, says("keeper")) == {
        "keeper": "Lin Feng"
    }


def test_a_form_of_it_is_enough(settled: SettledTerms) -> None:
    settled.take(0, SOURCES[0], "directory", {}, {"keeper": "directory", "lighthouse": "灯塔"})
    keeper, lighthouse = settled.found(0, SOURCES[0])
    assert keeper.kept_in("Two directories.")
    assert not keeper.kept_in("He directs.")
    assert lighthouse.kept_in("一座灯塔")


def test_what_a_glossary_says_is_none_of_ours(finder: TermFinder) -> None:
    settled = SettledTerms(finder, lambda text: {"Keeper": "Hüter"} if "keeper" in text else {})
    assert [found.term for found in settled.open(0, SOURCES[0])] == ["lighthouse"]
    settled.take(0, SOURCES[0], "Wärter", {}, {"keeper": "Wärter"})
    assert settled.found(0, SOURCES[0]) == []


def test_who_corrects_is_right(settled: SettledTerms) -> None:
    settled.take(0, SOURCES[0], "Wärter", {}, {"keeper": "Wärter", "lighthouse": "Turm"})
    settled.asked(["keeper"] * 9)
    settled.corrected(2, SOURCES[2], "Ein Hüter kennt seinen Turm.")
    assert list(settled.all) == ["lighthouse"]
    assert [found.term for found in settled.open(2, SOURCES[2])] == ["keeper"]


# Through a session --------------------------------------------------------------------------------------------------

TEMPLATE = Template("", "A: ", "\nB:", " ", "\n", "", way_back=Template("", "B: ", "\nA:", " ", "\n", ""))
COLD = SamplingParams(temperature=0, stop="\n")
ALONE = {"keeper": "Wärter", "lighthouse": "Leuchtturm", "Wärter": "keeper", "Leuchtturm": "Turm"}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, finder: TermFinder) -> list[tuple[str, dict[str, str]]]:
    """A model that knows some words; what it was asked, and the words that were wanted in the answer."""
    found: list[tuple[str, dict[str, str]]] = []

    def preview(self: SavedSession, prompt: str = "", **how: Any) -> Preview:
        wanted: Mapping[str, Wanted] = how.get("wanted") or {}
        source = prompt.split("\n")[-2].removeprefix("A: ").removeprefix("B: ")
        found.append((source, {word: each.stem for word, each in wanted.items()}))
        for word in (source, source.casefold(), source.casefold().removesuffix("s")):
            if word in ALONE:
                return Preview(ALONE[word], True)
        return Preview(f"{len(source)} mal Wärter, Leuchtturm {' '.join(wanted)}.", True)

    monkeypatch.setattr(SavedSession, "preview", preview)
    monkeypatch.setattr(Doubts, "about", lambda *_: "")
    return found


@pytest.fixture
def store(tmp_path: Path) -> SessionStore:
    made = SessionStore(tmp_path / "store")
    made.create("t", tiny_engine(), small(chunk_size=180, window=240, learning="off")).close()
    return made


def run(store: SessionStore, most: int | None = None, **how: Any) -> Translation:
    with store.open("t", tiny_engine()) as saved:
        made = Translation(saved, SOURCES[:5] + SOURCES[-2:], GERMAN, TEMPLATE, COLD, **how)
        for _ in made.run(most):
            pass
        return made


def test_settled_terms_are_wanted_from_then_on(store: SessionStore, asked: list[tuple[str, dict[str, str]]]) -> None:
    made = run(store)
    # Nothing was read when the first paragraph came, so nobody was asked; "Turm" is no way back to "lighthouse".
    assert [(one.term, one.since) for one in made.settled.values()] == [("keeper", 2), ("lighthouse", 4)]
    wanted = {source: words for source, words in asked if source in SOURCES}
    assert wanted[SOURCES[3]] == {"Wärter": "Wärte"}
    assert wanted[SOURCES[-1]] == {"Wärter": "Wärte", "Leuchtturm": "Leuchttu"}
    # Without it nobody is asked for anything.
    asked.clear()
    store.discard("t")
    store.create("t", tiny_engine(), small(chunk_size=180, window=240, learning="off")).close()
    assert run(store, settle=False).settled == {}
    assert {source for source, _ in asked} <= set(SOURCES)
    assert not any(words for _, words in asked)


def test_what_is_settled_is_known_after_a_kill(store: SessionStore, asked: list[tuple[str, dict[str, str]]]) -> None:
    whole = [*run(store).paragraphs]
    questions = asked[:]
    for most in (1, 3, 4, 6):
        asked.clear()
        store.discard("t")
        store.create("t", tiny_engine(), small(chunk_size=180, window=240, learning="off")).close()
        run(store, most)
        made = run(store)
        assert made.paragraphs == whole
        assert asked == questions


def test_a_correction_renames_a_term(store: SessionStore, asked: list[tuple[str, dict[str, str]]]) -> None:
    run(store)
    history = store.history("t")
    known, authors, first = corrected(what_is_done(history, GERMAN), {2: "Ein Hüter kennt seinen Leuchtturm."})
    assert first == 2
    go_back(store, "t", GERMAN, first)
    asked.clear()
    ALONE["keeper"] = "Hüter"
    try:
        made = run(store, known=known, authors=authors)
    finally:
        ALONE["keeper"] = "Wärter"
    assert "Wärter" not in {one.rendering for one in made.settled.values()}
    assert made.paragraphs[2].target == "Ein Hüter kennt seinen Leuchtturm."
