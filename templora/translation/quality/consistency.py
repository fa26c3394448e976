"""Whether a translation calls the same thing by the same name: one source term, how many renderings.

No word aligner and no dictionary: a rendering is an n-gram of the translation that stands where the term stands in the
source, and seldom elsewhere.

    segments with the term       a rendering covers those it stands in       the next one, of the rest
    [ ■ ■ ■ ■ ■ ■ ■ ■ ■ ■ ]  →   [ package package package package … ]   →   [ bundle bundle ]   →   "other"

What no n-gram covers is "other", and each such segment a rendering of its own: empty text, or one sentence for
everything, has no n-gram that goes with the term, and so no consistency either. Whether the name is the right one is
not asked. Verbs, and languages that inflect, score lower than names do: compare systems on the same terms, and read no
score by itself.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from templora.errors import OptionError
from templora.metrics import bootstrap
from templora.translation.quality import wording
from templora.translation.quality.similarity import SAMPLES, SEED
from templora.translation.quality.wording import GAP, Gram, tokens

# Renderings: at most so many words, or characters. The ratio is far beyond the usual 10.83 (p = 0.001), for thousands
# of n-grams are tried: of 1,718 segments in the wrong order, 10.83 finds a rendering in 5 %, 15 in 1 %, 20 in none.
_MAX_WORDS, _MAX_CHARACTERS = 4, 6
_MIN_RATIO, _MIN_DICE = 20.0, 0.1
# A rendering is part of longer ones that take this share of it, by words that are this much commoner there.
_PART, _BOUND = 0.8, 2.5


@dataclass(frozen=True)
class Rendering:
    """What a term is called in the translation, and in how many of its segments."""

    text: str
    segments: int


@dataclass(frozen=True)
class TermUse:
    """One term and what became of it.

    Attributes:
        term: as in the source.
        segments: how many hold it, outside of longer terms.
        renderings: the commonest first.
        other: segments in which no rendering was found; each counts as a rendering of its own.
        copied: segments in which the term stands untranslated; right for a name between languages of one script.
    """

    term: str
    segments: int
    renderings: tuple[Rendering, ...]
    other: int
    copied: int

    @property
    def commonest(self) -> int:
        """Segments with the commonest rendering."""
        return max((r.segments for r in self.renderings), default=1)

    @property
    def share(self) -> float:
        """Share of the commonest rendering: 1 is always the same."""
        return self.commonest / self.segments

    @property
    def entropy(self) -> float:
        """Entropy of the renderings, in bits: 0 is always the same."""
        shares = [r.segments / self.segments for r in self.renderings] + [1 / self.segments] * self.other
        return abs(math.fsum(p * math.log2(p) for p in shares))


@dataclass(frozen=True)
class Consistency:
    """All terms, weighted by their segments.

    Attributes:
        terms: those that could be measured.
        left_out: those that could not: in fewer than two segments, in too few of a short text, or in nearly all.
        repeated: segments whose translation is word for word that of two others that say something else: it is taken as
            empty, for it says nothing of their terms.
    """

    terms: tuple[TermUse, ...]
    left_out: tuple[str, ...]
    repeated: int

    @property
    def share(self) -> float | None:
        """Share of the segments of each term that have its commonest rendering. None without terms."""
        return self._mean(lambda use: use.commonest)

    @property
    def entropy(self) -> float | None:
        """Mean entropy of a term's renderings, in bits."""
        return self._mean(lambda use: use.entropy * use.segments)

    @property
    def found(self) -> float | None:
        """Share of segments in which some rendering was found. Low for empty or repeated text, whatever the reason."""
        return self._mean(lambda use: use.segments - use.other)

    @property
    def copied(self) -> float | None:
        """Share of segments in which the term stands untranslated: consistent, but no translation."""
        return self._mean(lambda use: use.copied)

    def _mean(self, value: Callable[[TermUse], float]) -> float | None:
        segments = sum(use.segments for use in self.terms)
        return math.fsum(map(value, self.terms)) / segments if segments else None

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        figures = {"share": self.share, "entropy": self.entropy, "found": self.found, "copied": self.copied}
        terms = [asdict(use) | {"share": use.share, "entropy": use.entropy} for use in self.terms]
        return figures | {"repeated": self.repeated, "terms": terms, "left_out": list(self.left_out)}


def consistency(sources: Sequence[str], targets: Sequence[str], terms: Iterable[str]) -> Consistency:
    """How consistently a translation renders the terms of its source.

    For each term a greedy cover: of the n-grams of the translation (1 to 4 words, 1 to 6 characters) the one that goes
    best with the term's segments, against those without it, is a rendering of those it stands in; and so on with the
    rest. What goes best is said by Dice's coefficient, and whether it goes at all by the log-likelihood ratio (Dunning
    1993, "Accurate methods for the statistics of surprise and coincidence"). Terms compete (compare Melamed 2000,
    "Models of translational equivalence among words"): a word that goes better with another term of the same segment is
    not this one's rendering, nor is one that stands in the source as it is.

    Args:
        sources: the segments in order.
        targets: their translations. Empty ones are allowed.
        terms: from `source_terms`, or a glossary's.

    Raises:
        OptionError: not as many targets as sources.
    """
    if len(sources) != len(targets):
        raise OptionError("targets", f"{len(targets):,} translations for {len(sources):,} segments")
    return _Pair(sources, targets, terms).consistency()


class _Pair:
    """A text and its translation."""

    def __init__(self, sources: Sequence[str], targets: Sequence[str], terms: Iterable[str]) -> None:
        folded = wording.folded([tokens(source) for source in sources])
        self._terms = _sought(dict.fromkeys(terms), folded)
        self._targets, self._repeated = _unrepeated(folded, wording.folded([tokens(target) for target in targets]))
        self._longest = _MAX_CHARACTERS if wording.unspaced(self._targets) else _MAX_WORDS
        self._taken: dict[int, set[Gram]] = {}
        self._mine: dict[str, Gram] = {}
        self._copies = [
            {(token,) for token in set(source).intersection(target) if wording.kind(token[0]) == "w"}
            for source, target in zip(folded, self._targets, strict=True)
        ]
        self._find([wording.joined(source) for source in folded])

    def _find(self, texts: Sequence[str]) -> None:
        """Where each term stands: at all, and outside of longer terms."""
        self._at: dict[str, set[int]] = {term: set() for term in self._terms}
        self._own: dict[str, list[int]] = {term: [] for term in self._terms}
        longest_first = sorted(self._terms.items(), key=lambda item: (-len(item[1]), item))
        for number, text in enumerate(texts):
            rest = text
            for term, joined in longest_first:
                if joined in text:
                    self._at[term].add(number)
                if joined in rest:
                    self._own[term].append(number)
                    rest = rest.replace(joined, GAP)

    def consistency(self) -> Consistency:
        measured = [term for term in self._terms if self._measurable(term)]
        self._count()
        first = ((term, next(self._cover(term), None)) for term in measured)
        best = [(-found[2], term, found[0]) for term, found in first if found]
        for _, term, gram in sorted(best):
            self._claim(term, gram)
        self._count()
        uses = [self._use(term, [(gram, many) for gram, many, _ in self._cover(term)]) for term in measured]
        left_out = tuple(term for term in self._terms if term not in measured)
        return Consistency(tuple(uses), left_out, self._repeated)

    def _claim(self, term: str, gram: Gram) -> None:
        """Takes the n-gram wherever the term stands, unless it mostly stands there for one that goes with it better."""
        at = [number for number in self._own[term] if gram in self._grams[number]]
        others = sum(any(_within(gram, other) for other in self._taken.get(number, ())) for number in at)
        if 2 * others <= len(at):
            self._mine[term] = gram
            for number in self._own[term]:
                self._taken.setdefault(number, set()).add(gram)

    def _count(self) -> None:
        """The n-grams of all segments, without what is taken."""
        self._grams = [self._ngrams(number, self._taken.get(number, set())) for number in range(len(self._targets))]
        self._everywhere = Counter(gram for grams in self._grams for gram in grams)

    def _ngrams(self, number: int, hidden: Collection[Gram], spared: Gram = ()) -> set[Gram]:
        """A segment's, but for those that touch a hidden one outside of the spared one."""
        segment = self._targets[number]
        if hidden:
            kept = {at for start in _occurrences(spared, segment) for at in range(start, start + len(spared))}
            shown = list(segment)
            for gram in hidden:
                for start in _occurrences(gram, segment):
                    if kept.isdisjoint(range(start, start + len(gram))):
                        shown[start : start + len(gram)] = [GAP] * len(gram)
            segment = shown
        found = set()
        for start in range(len(segment)):
            for end in range(start + 1, min(start + self._longest, len(segment)) + 1):
                if segment[end - 1] == GAP:
                    break
                found.add(tuple(segment[start:end]))
        return found

    def _measurable(self, term: str) -> bool:
        """Whether a rendering that stands in all its segments and nowhere else would be seen to go with it."""
        own, outside = len(self._own[term]), len(self._targets) - len(self._at[term])
        return own > 1 and _ratio(own, own, 0, outside) >= _MIN_RATIO

    def _use(self, term: str, cover: Sequence[tuple[Gram, int]]) -> TermUse:
        found = [Rendering(wording.spelled(wording.joined(gram)), many) for gram, many in cover]
        found.sort(key=lambda r: (-r.segments, r.text))
        segments = len(self._own[term])
        copied = sum(many for gram, many in cover if wording.joined(gram) == self._terms[term])
        return TermUse(term, segments, tuple(found), segments - sum(r.segments for r in found), copied)

    def _cover(self, term: str) -> Iterator[tuple[Gram, int, float]]:
        """Renderings, how many segments each covers, and its Dice."""
        words = {(token,) for token in tokens(self._terms[term])}
        mine = self._mine.get(term, ())
        held = {}
        for number in self._own[term]:
            hidden = self._taken.get(number, set()) - {mine} | (self._copies[number] - words)
            held[number] = self._ngrams(number, hidden, mine)
        here = Counter(gram for grams in held.values() for gram in grams)
        wanted = {gram for gram, many in here.items() if many > 1}
        within = Counter(gram for number in self._at[term] for gram in wanted & self._grams[number])
        there = {gram: self._everywhere[gram] - within[gram] for gram in wanted}
        outside = len(self._targets) - len(self._at[term])
        while len(held) > 1:
            gram, dice = self._best(here, there, len(held), outside)
            if not gram:
                return
            gram = self._lengthened(gram, held.values(), there, outside)
            covered = [number for number in held if gram in held[number]]
            yield gram, len(covered), dice
            for number in covered:
                here.subtract(held.pop(number))

    def _best(self, here: Counter[Gram], there: Mapping[Gram, int], inside: int, outside: int) -> tuple[Gram, float]:
        """The n-gram that goes best with the segments inside; the longest one of equals."""
        best: tuple[float, int, Gram] = (_MIN_DICE, 0, ())
        for gram, elsewhere in there.items():
            many = here[gram]
            if many > 1:
                rank = (2 * many / (inside + many + elsewhere), len(gram), gram)
                if rank > best and _ratio(many, inside, elsewhere, outside) >= _MIN_RATIO:
                    best = rank
        return best[2], best[0]

    def _lengthened(self, gram: Gram, held: Collection[set[Gram]], there: Mapping[Gram, int], outside: int) -> Gram:
        """With its neighbours, if it is but a part: else "lin" would make "lin feng" and "lin fan" one rendering.

        It is one if on one side nearly always one of a few words stands that stand there and nearly nowhere else.
        """
        within = [grams for grams in held if gram in grams]
        count = Counter(more for grams in within for more in grams if len(more) == len(gram) + 1)
        for side in (slice(1, None), slice(None, -1)):
            bound = [
                more
                for more, many in count.items()
                if more[side] == gram
                and many > 1
                and many * outside >= _BOUND * len(within) * there[more[:1] if side.start else more[-1:]]
            ]
            if sum(not grams.isdisjoint(bound) for grams in within) >= _PART * len(within):
                commonest = min(bound, key=lambda more: (-count[more], more))
                return self._lengthened(commonest, within, there, outside)
        return gram


def _sought(terms: Iterable[str], folded: Sequence[Sequence[str]]) -> dict[str, str]:
    """What to look for in joined segments, for each term as it was given; terms without a letter are left out."""
    vocabulary = {token for segment in folded for token in segment}
    found = {}
    for term in terms:
        joined = wording.joined(wording.stem(token.casefold(), vocabulary) for token in tokens(term)).strip(GAP)
        if joined:
            found[term] = joined
    return found


def _unrepeated(sources: Sequence[Sequence[str]], targets: list[list[str]]) -> tuple[list[list[str]], int]:
    """Targets with those emptied that stand for three sources or more, and how many those are."""
    stands_for: dict[Gram, set[Gram]] = {}
    for source, target in zip(sources, targets, strict=True):
        stands_for.setdefault(tuple(target), set()).add(tuple(source))
    repeated = {target for target, said in stands_for.items() if target and len(said) > 2}
    kept = [[] if tuple(target) in repeated else target for target in targets]
    return kept, sum(tuple(target) in repeated for target in targets)


def _within(gram: Gram, other: Gram) -> bool:
    """Whether one of them is, or is in, the other."""
    short, long = sorted((gram, other), key=len)
    return any(True for _ in _occurrences(short, long))


def _occurrences(gram: Gram, segment: Sequence[str]) -> Iterator[int]:
    """Where it starts."""
    if gram:
        for start in range(len(segment) - len(gram) + 1):
            if segment[start] == gram[0] and tuple(segment[start : start + len(gram)]) == gram:
                yield start


def _ratio(many: int, inside: int, elsewhere: int, outside: int) -> float:
    """Log-likelihood ratio of being commoner inside than outside (Dunning 1993); 0 where it is not."""
    if many * outside <= elsewhere * inside:
        return 0.0
    every, total = many + elsewhere, inside + outside
    cells = (
        (many, inside, every), (inside - many, inside, total - every),
        (elsewhere, outside, every), (outside - elsewhere, outside, total - every),
    )  # fmt: skip
    return 2 * math.fsum(n * math.log(n * total / (row * column)) for n, row, column in cells if n)


def compare(
    sources: Sequence[str], baseline: Sequence[str], system: Sequence[str], terms: Iterable[str]
) -> dict[str, Any]:
    """Two translations of one text: how much more consistently the second one renders the same terms.

    The interval is a paired bootstrap over terms: a term is drawn with its uses in both (Koehn 2004, "Statistical
    significance tests for machine translation evaluation").

    Args:
        sources: the segments in order.
        baseline: translations by the one system.
        system: by the other.
        terms: from `source_terms`, or a glossary's.

    Returns:
        For JSON: both `Consistency.as_dict`, the `difference` of their shares (system − baseline) and its 95 %
        `interval`; None where there are no terms, and no interval for fewer than two.

    Raises:
        OptionError: not as many targets as sources.
    """
    terms = list(terms)
    first, second = consistency(sources, baseline, terms), consistency(sources, system, terms)
    # Which terms can be measured is a matter of the source alone.
    pairs = [(b.commonest - a.commonest, a.segments) for a, b in zip(first.terms, second.terms, strict=True)]
    interval = bootstrap(_difference, pairs, SAMPLES, SEED)
    return {
        "baseline": first.as_dict(),
        "system": second.as_dict(),
        "difference": _difference(pairs) if pairs else None,
        "interval": list(interval) if interval else None,
    }


def _difference(pairs: Sequence[tuple[int, int]]) -> float:
    return sum(more for more, _ in pairs) / sum(segments for _, segments in pairs)
