"""A document's terms, and what a model calls them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from conftest import small

import templora.translation.term_finder as term_finder
from templora.decoding.preview import Preview
from templora.sampling import SamplingParams, Wanted
from templora.session.session import Session
from templora.testing import tiny_engine
from templora.translation.in_memory import InMemory
from templora.translation.languages import Language
from templora.translation.proposals import Proposal, Proposals
from templora.translation.quality.doubts import Doubts
from templora.translation.template import Template

SOURCES = [
    "The keeper climbed the stairs of his lighthouse when night came.",
    "A keeper, a lighthouse.",
    "Nobody came, not even by boat.",
    "One keeper slept.",
    "The keeper painted the old lighthouse by the sea all summer long.",
]
TEMPLATE = Template("", "A: ", "\nB:", " ", "\n", "", way_back=Template("", "B: ", "\nA:", " ", "\n", ""))
COLD = SamplingParams(temperature=0, stop="\n")


@pytest.fixture(autouse=True)
def model(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """One that calls a keeper Wärter, and a lighthouse one thing alone and another in a sentence; what it was asked."""
    asked: list[str] = []
    alone = {"keeper": "Wärter", "Wärter": "keeper", "lighthouse": "Turm"}

    def preview(self: Session, prompt: str = "", *, wanted: Mapping[str, Wanted] | None = None, **_: Any) -> Preview:
        asked.append(prompt.split("\n")[-2][3:])
        return Preview(alone.get(asked[-1], f"Der Wärter {len(asked)}."), True)

    monkeypatch.setattr(Session, "preview", preview)
    monkeypatch.setattr(Doubts, "about", lambda *_: "")
    monkeypatch.setattr(term_finder, "source_terms", lambda _: ["keeper", "lighthouse", "boat"])
    return asked


def proposals(most: int = 9, upto: int | None = None, **given: str) -> list[Proposal]:
    made = Proposals(SOURCES, most, lambda text: {k: v for k, v in given.items() if k in text})
    with tiny_engine().session(small(chunk_size=200, window=250, learning="off")) as session:
        for done in made.ask(InMemory(session), TEMPLATE, Language("de", "German"), COLD):
            if done == upto:
                break
    return made.proposals


def test_terms_their_renderings_and_where_they_stand(model: list[str]) -> None:
    found = proposals()
    assert [(p.term, p.rendering, p.paragraphs, p.others) for p in found] == [
        ("keeper", "Wärter", 4, ()),
        ("lighthouse", "", 3, ("Turm",)),
        ("boat", "", 1, ()),
    ]
    assert found[0].context == "The keeper climbed the stairs of his lighthouse wh…"
    assert found[2].context == SOURCES[2]
    # Of each the shortest paragraphs were translated: the second and fourth, the first and second, the third.
    assert [source for source in SOURCES if source in model] == SOURCES[:4]


def test_only_so_many_and_none_that_are_known(model: list[str]) -> None:
    assert [p.term for p in proposals(most=2)] == ["keeper", "lighthouse"]
    assert [p.term for p in proposals(keeper="Hüter")] == ["lighthouse", "boat"]
    assert "keeper" not in model[-3:]


def test_what_is_found_so_far_is_there_when_it_is_left() -> None:
    assert [bool(p.rendering) for p in proposals(upto=1)] == [False, False, False]
    assert [bool(p.rendering) for p in proposals(upto=2)] == [True, False, False]
