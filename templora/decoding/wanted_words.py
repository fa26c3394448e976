"""`WantedWords`: words that should occur in a draft, put where the model comes nearest to writing them.

    free      It has six control panels. You can switch between
                         ↑ −2.1 nats        ↑ −9.3                  how likely "console" was to begin at each token
    again     It has six consoles. You can switch from one           what stands behind the word is written anew

A draft is made freely. Where a word is missing, the next draft keeps what stands before the word's likeliest place, has
the word there, and goes on freely: so the word stands where the model would soonest have put it, and the rest fits it.
A draft whose other words are much less likely than the free one's is dropped: the word has no place in it. (Compare
logits that are shifted: Pascual et al. 2021, "A plug-and-play method for controlled text generation"; and a beam that
is filled for each word: Post and Vilar 2018, "Fast lexically constrained decoding with dynamic beam allocation".)
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from templora.events import TokenLogprobs
from templora.sampling import Wanted
from templora.text import decode, encode

# Of a word, and of one that is wanted firmly: nats that its first token has at least where it is put, nats a token by
# which the rest may become less likely, and places that are tried.
_WISH, _DEMAND = (-6.0, 0.3, 2), (-10.0, 1.0, 4)


@dataclass(frozen=True)
class _Place:
    """Where a word may begin: before which token of a draft, as which tokens, and how likely the first of them is."""

    at: int
    ids: tuple[int, ...]
    logprob: float


@dataclass(frozen=True)
class Chosen:
    """A token of a draft, how likely it was if it was free, and which words might have begun in its stead."""

    token: int
    logprob: float | None
    places: Mapping[str, Sequence[_Place]]


@dataclass
class _Attempt:
    """A draft under way.

    Args:
        tokens: of it.
        logprobs: of each, in nats; None: it is of a word that was put.
        told: what its caller keeps of each.
        places: where each word may begin.
        kept: how many of the tokens were kept of the one before.
        word: tokens that follow those, whatever is likely.
    """

    tokens: list[int] = field(default_factory=list)
    logprobs: list[float | None] = field(default_factory=list)
    told: list[TokenLogprobs | None] = field(default_factory=list)
    places: dict[str, list[_Place]] = field(default_factory=dict)
    kept: int = 0
    word: tuple[int, ...] = ()

    @property
    def mean(self) -> float:
        """How likely a token is that was free."""
        free = [logprob for logprob in self.logprobs if logprob is not None]
        return sum(free) / max(1, len(free))


class WantedWords:
    """Words wanted in one draft.

    Args:
        words: each is wanted once, in any case.
        tokenizer: of the model.
    """

    def __init__(self, words: Mapping[str, Wanted], tokenizer: Any) -> None:
        words = {word: how for word, how in words.items() if word.strip() and how.stem.strip()}
        self._tokenizer = tokenizer
        self._limits = {word: _DEMAND if how.firmly else _WISH for word, how in words.items()}
        self._loss = 0.0  # of the word that was put last
        self._patterns = {word: _pattern(how.stem) for word, how in words.items()}
        self._ways = {word: _ways(word, tokenizer) for word in words}
        self._now = self._free = self._best = _Attempt()
        self._text = ""

    @property
    def kept(self) -> list[tuple[int, TokenLogprobs | None]]:
        """The tokens that the draft to be made begins with."""
        return list(zip(self._now.tokens, self._now.told, strict=True))

    def choose(self, logits: torch.Tensor, free: Callable[[], int]) -> Chosen:
        """The next token of a draft: `free`'s choice, but where a word has been put. Touches nothing.

        Args:
            logits: fp32 [vocabulary], of what comes after the tokens so far.
        """
        now = self._now
        done = len(now.tokens) - now.kept
        if done < len(now.word):
            return Chosen(now.word[done], None, {})
        total, token = float(logits.logsumexp(-1)), free()
        if not decode(self._tokenizer, [token]).strip():  # the end, or a gap: nothing is begun there
            return Chosen(token, float(logits[token]) - total, {})
        last = decode(self._tokenizer, now.tokens[-4:])[-1:]
        places = {
            word: [
                _Place(len(now.tokens), ids, float(logits[ids[0]]) - total)
                for ids, text in ways
                if _may_begin(last, text)
            ]
            for word, ways in self._ways.items()
        }
        return Chosen(token, float(logits[token]) - total, places)

    def add(self, chosen: Chosen, told: TokenLogprobs | None = None) -> None:
        """Takes note of a token that a draft goes on with."""
        self._now.tokens.append(chosen.token)
        self._now.logprobs.append(chosen.logprob)
        self._now.told.append(told)
        for word, places in chosen.places.items():
            self._now.places.setdefault(word, []).extend(places)

    def missing(self, text: str) -> list[str]:
        """The words that a text has not."""
        return [word for word, pattern in self._patterns.items() if not pattern.search(text)]

    def begin(self, text: str) -> None:
        """The last draft is the free one.

        Args:
            text: of it.
        """
        self._free = self._best = self._now
        self._text = text

    def put(self, word: str) -> Iterator[None]:
        """Makes ready for drafts with a word that the best one lacks, each at another place of that one."""
        best = self._best
        least, self._loss, tries = self._limits[word]
        places = {place.at: place for place in sorted(best.places.get(word, ()), key=lambda place: place.logprob)}
        for place in sorted(places.values(), key=lambda place: -place.logprob)[:tries]:
            if place.logprob < least or word not in self.missing(self._text):
                return
            before = {w: [p for p in found if p.at < place.at] for w, found in best.places.items()}
            at = place.at
            self._now = _Attempt(best.tokens[:at], best.logprobs[:at], best.told[:at], before, at, place.ids)
            yield

    def better(self, text: str) -> bool:
        """Whether the last draft has more of the words than the best one, and is else as likely as the free one; then
        it is the best one from here on.
        """
        more = len(self.missing(text)) < len(self.missing(self._text))
        if not more or self._now.mean < self._free.mean - self._loss:
            return False
        self._best, self._text = self._now, text
        return True


def _pattern(stem: str) -> re.Pattern[str]:
    """A word's forms, at the start of one where words have spaces between them."""
    return re.compile((r"(?<!\w)" if _alphabetic(stem[0]) else "") + re.escape(stem), re.IGNORECASE)


def _alphabetic(character: str) -> bool:
    """Whether a character is Latin, Greek or Cyrillic: scripts whose words take no article or preposition on."""
    return character.isalnum() and character < "\u0530"


def _ways(word: str, tokenizer: Any) -> list[tuple[tuple[int, ...], str]]:
    """After a space, or without one, as written or with a capital: the tokens, and their text.

    Where a space is a token of its own, the word begins after that.
    """
    forms = (space + form for form in (word, word[0].upper() + word[1:]) for space in (" ", ""))
    found = dict.fromkeys(tuple(encode(tokenizer, form, special=False)) for form in forms)
    return [(ids, decode(tokenizer, ids)) for ids in found if ids and decode(tokenizer, ids[:1]).strip()]


def _may_begin(last: str, way: str) -> bool:
    """Whether a word written this way may follow a character: not within another one."""
    if way[:1].isspace():
        return not last.isspace()
    return not (last and _alphabetic(last) and _alphabetic(way[0]))
