"""The terms of a text: what looks like terms and names in it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence

from templora.translation.quality import wording
from templora.translation.quality.wording import GAP, Gram, tokens

# Terms: at most so many of a text, each in at least so many segments.
_MOST, _LEAST = 200, 3
# Of at most so many characters, or words; blocks of segments in which they clump; in nats, how much more often their
# parts stand together than apart, and how freely the neighbours vary.
_CHARACTERS, _WORDS = 6, 3
_BLOCK = 10
_COHESION, _FREEDOM = 2.0, 1.0
# Words in more than this share of segments are function words; short ones in more than the second.
_EVERYWHERE, _SHORT_EVERYWHERE = 0.3, 0.02
# No term begins or ends with one of these; Japanese ones not with hiragana either.
_CLITICS = frozenset("的了是在你我他她它这那也就都而但被把吗呢吧啊们")


def source_terms(sources: Sequence[str]) -> list[str]:
    """Words and phrases of a text that look like terms or names, the likeliest first.

    Candidates are 2 to 6 characters (of a script without spaces) or 1 to 3 words whose parts stand together more often
    than by chance (pointwise mutual information; Church and Hanks 1990, "Word association norms") and whose neighbours
    vary on both sides, so that no part of a longer term is one (branching entropy; Jin and Tanaka-Ishii 2006,
    "Unsupervised segmentation of Chinese text"). Terms clump where function words are spread evenly: candidates are
    ranked by residual IDF over blocks of 10 segments (Church and Gale 1995, "Poisson mixtures"), times the root of
    their number of segments, and up to double for those that are capitalised within a sentence.

    Args:
        sources: the segments in order.

    Returns:
        At most 200 terms in lower case, words in their shortest form that occurs.
    """
    raw = [tokens(source) for source in sources]
    return [wording.spelled(wording.joined(gram)) for gram in _Candidates(raw).ranked()[:_MOST]]


class _Candidates:
    """Counts of a source text's n-grams."""

    def __init__(self, raw: Sequence[Sequence[str]]) -> None:
        self._folded = wording.folded(raw)
        self._characters = wording.unspaced(self._folded)
        self._count: Counter[Gram] = Counter()
        self._segments: Counter[Gram] = Counter()
        self._capitals: Counter[Gram] = Counter()
        for written, segment in zip(raw, self._folded, strict=True):
            spans = [(start, end, tuple(segment[start:end])) for start, end in self._spans(segment)]
            self._count.update(gram for _, _, gram in spans)
            self._segments.update({gram for _, _, gram in spans})
            for start, end, gram in spans:
                # The first word of a sentence is capitalised in any case.
                if start and segment[start - 1] != GAP and all(token[0].isupper() for token in written[start:end]):
                    self._capitals[gram] += 1
        words = [gram for gram in self._count if len(gram) == 1]
        self._total = sum(self._count[word] for word in words)
        self._grammar = {word[0] for word in words if self._grammatical(word)}

    def _spans(self, segment: Sequence[str]) -> Iterator[tuple[int, int]]:
        kinds, longest = ("ck", _CHARACTERS) if self._characters else ("w", _WORDS)
        for start in range(len(segment)):
            size = 0
            for end in range(start + 1, len(segment) + 1):
                token = segment[end - 1]
                size += len(token) if self._characters else 1
                # A run of katakana is one word, however long.
                if wording.kind(token[0]) not in kinds or (size > longest and end > start + 1):
                    break
                yield start, end

    def ranked(self) -> list[Gram]:
        """The likeliest first."""
        found = {gram for gram, many in self._segments.items() if many >= _LEAST and self._cohesive(gram)}
        before: dict[Gram, Counter[str]] = {gram: Counter() for gram in found}
        after: dict[Gram, Counter[str]] = {gram: Counter() for gram in found}
        blocks: dict[Gram, set[int]] = {gram: set() for gram in found}
        size = max(1, min(_BLOCK, len(self._folded) // 10))
        # Where no word of a term can be, there is a neighbour unlike any other: "the" before a noun says nothing of it.
        ends = self._grammar - _CLITICS | {GAP}
        for number, segment in enumerate(self._folded):
            fenced = [f"{GAP}{number}" if token in ends else token for token in (GAP, *segment, GAP)]
            for start, end in self._spans(segment):
                gram = tuple(segment[start:end])
                if gram in found:
                    before[gram][fenced[start]] += 1
                    after[gram][fenced[end + 1]] += 1
                    blocks[gram].add(number // size)
        many = len(self._folded) / size
        ranks = {}
        for gram in found:
            if min(_entropy(before[gram]), _entropy(after[gram])) >= _FREEDOM:
                # In nats: its own IDF, less that of the same number of occurrences thrown anywhere.
                residual = math.log(-math.expm1(-self._count[gram] / many) * many / len(blocks[gram]))
                ranks[gram] = residual * self._segments[gram] ** 0.5 * (1 + self._capitals[gram] / self._count[gram])
        return sorted(ranks, key=lambda gram: (-ranks[gram], gram))

    def _cohesive(self, gram: Gram) -> bool:
        """Long enough, no grammar at its edges, and wherever it is cut, the parts are together more than by chance."""
        if sum(map(len, gram)) < 2 or all(token.isdigit() for token in gram):
            return False
        if gram[0] in self._grammar or gram[-1] in self._grammar:
            return False
        count = self._count
        parts = (count[gram[:cut]] * count[gram[cut:]] for cut in range(1, len(gram)))
        return all(count[gram] * self._total >= math.exp(_COHESION) * product for product in parts)

    def _grammatical(self, word: Gram) -> bool:
        """Whether it belongs to the grammar: no term begins or ends with it."""
        if self._characters:
            return word[0] in _CLITICS or "ぁ" <= word[0][0] <= "ゖ"
        if 2 * self._capitals[word] > self._count[word]:
            return False
        share = self._segments[word] / len(self._folded)
        return share > _EVERYWHERE or (len(word[0]) <= 3 and share > _SHORT_EVERYWHERE)


def _entropy(counts: Counter[str]) -> float:
    """Entropy in nats."""
    total = sum(counts.values())
    return -math.fsum(n / total * math.log(n / total) for n in counts.values())
