"""`propose`: a document's terms and what a model calls them, as a glossary to be edited.

Of each term the shortest paragraphs are translated, so that it is seen in context, and what is settled by that is
proposed (`settled`). Nothing is learnt.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from templora.sampling import SamplingParams
from templora.translation.languages import Language
from templora.translation.settled import SettledTerms, no_terms
from templora.translation.template import Template
from templora.translation.term_finder import TermFinder
from templora.translation.translator import Text, Translated, Translator

# Paragraphs in which a term is looked at; characters of one that are shown around it.
_LOOKS, _AROUND = 2, 40


@dataclass(frozen=True)
class Proposal:
    """A term.

    Args:
        term: as it first stands in the document.
        rendering: what it is called, if that is settled; else empty.
        paragraphs: in how many it stands.
        context: the beginning of one of them, or what is around the term.
        others: what it was called besides, alone, where that did not settle it.
    """

    term: str
    rendering: str
    paragraphs: int
    context: str
    others: tuple[str, ...] = ()


@dataclass
class _Term:
    """A term, the text of its first use, and the paragraphs that it stands in."""

    text: str
    segments: list[int]


class Proposals:
    """What is proposed for one document.

    Args:
        sources: its paragraphs.
        most: terms, the commonest.
        given: the terms in a text that are known already, which are not proposed.
    """

    def __init__(self, sources: Sequence[str], most: int, given: Callable[[str], Mapping[str, str]] = no_terms) -> None:
        self._sources, self._given = sources, given
        self._finder = TermFinder(sources)
        found: dict[str, _Term] = {}
        for segment, source in enumerate(sources):
            known = {term.casefold() for term in given(source)}
            for one in self._finder.found(segment, source):
                if known.isdisjoint((one.term, one.text.casefold())):
                    found.setdefault(one.term, _Term(one.text, [])).segments.append(segment)
        commonest = sorted(found, key=lambda term: -len(found[term].segments))[:most]
        self._terms = {term: found[term] for term in commonest}
        self._settled = SettledTerms(self._finder, given)
        self._read: dict[str, list[str]] = {}

    @property
    def segments(self) -> list[int]:
        """The paragraphs that are to be translated."""
        wanted = set[int]()
        for term in self._terms.values():
            wanted.update(sorted(term.segments, key=lambda segment: len(self._sources[segment]))[:_LOOKS])
        return sorted(wanted)

    def ask(
        self,
        text: Text,
        template: Template,
        language: Language,
        sampling: SamplingParams,
        each: Callable[[str], None] = lambda _: None,
    ) -> Iterator[int]:
        """Asks a model, yielding how many paragraphs are done. May be left at any time.

        Args:
            text: a session that learns nothing.
            template, language, sampling, each: as for `Translator`.
        """
        translator = Translator(text, template, language, sampling, terms=self._given, settled=self._settled, each=each)
        wanted = set(self.segments)
        left = [unit for unit in translator.units(self._sources) if unit.segment in wanted]
        done = 0
        for event in translator.run(left):
            if isinstance(event, Translated):
                for term, reading in event.readings.items():
                    self._read.setdefault(term, []).append(reading)
                done += event.unit.last
                yield done

    @property
    def proposals(self) -> list[Proposal]:
        """The terms, the commonest first."""
        found = []
        for name, term in self._terms.items():
            settled = self._settled.all.get(name)
            rendering = settled.rendering if settled else ""
            others = dict.fromkeys(r for r in self._read.get(name, ()) if r and r.casefold() != rendering.casefold())
            source = self._sources[term.segments[0]]
            context = _around(source, term.text)
            found.append(Proposal(term.text, rendering, len(term.segments), context, tuple(others)))
        return found


def _around(source: str, term: str) -> str:
    """A term, and what stands around it."""
    at = max(0, source.find(term))
    start, end = max(0, at - _AROUND), at + len(term) + _AROUND
    return "…" * (start > 0) + source[start:end] + "…" * (end < len(source))
