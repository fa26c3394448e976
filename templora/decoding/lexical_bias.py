"""`LexicalBias`: words that should occur in what is written, made likelier where they fit until they have.

A word's first token is lifted where it is among the likeliest ones, so that it is taken where it fits; once it is begun
the rest is lifted anywhere, so that it is finished. Nothing is forced: where the model sees no place for a word it does
not occur. Lifted anywhere, first tokens gather at the beginning of a text, whatever comes of it (docs/log.md).
(Compare soft constraints by shifted logits: Pascual et al. 2021, "A plug-and-play method for controlled text
generation"; hard ones need a beam: Post and Vilar 2018.)
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from templora.text import decode, encode

# How likely a first token must be: one of so many; nats that it is lifted by, and those after it.
RANK, FIRST, NEXT = 25, 8.0, 10.0


@dataclass(frozen=True)
class _Way:
    """As which tokens a word may be written.

    Args:
        ids: the tokens.
        text: of them.
        blank: how many of the first ones are white space alone.
    """

    ids: tuple[int, ...]
    text: str
    blank: int


class LexicalBias:
    """Words wanted in one piece of text.

    Args:
        words: each is wanted once, in any case, with an ending or without.
        tokenizer: of the model.
        since: position of the first token that counts.
    """

    def __init__(self, words: Sequence[str], tokenizer: Any, since: int) -> None:
        self._tokenizer, self._since = tokenizer, since
        self._words = [(_pattern(word), _ways(word, tokenizer)) for word in dict.fromkeys(words) if word.strip()]

    def lift(self, logits: torch.Tensor, tokens: Sequence[int]) -> torch.Tensor:
        """The logits [vocabulary] of what comes after `tokens`, with what leads to a word that is missing lifted."""
        written = list(tokens[self._since :])
        said = decode(self._tokenizer, written)
        missing = [way for pattern, ways in self._words if not pattern.search(said) for way in ways]
        if not missing:
            return logits
        lifts: dict[int, float] = {}
        least = float(logits.topk(min(RANK, len(logits))).values[-1])
        for way in missing:
            begun = _begun(way.ids, written)
            if begun or _may_begin(said, way.text):
                token, lift = way.ids[begun], NEXT if begun > way.blank else FIRST
                if lift == NEXT or float(logits[token]) >= least:
                    lifts[token] = max(lift, lifts.get(token, 0.0))
        if not lifts:
            return logits
        lifted = logits.clone()
        at = torch.tensor(list(lifts), device=logits.device)
        lifted[at] += torch.tensor(list(lifts.values()), dtype=logits.dtype, device=logits.device)
        return lifted


def _pattern(word: str) -> re.Pattern[str]:
    """A word, at the start of one where words have spaces between them."""
    return re.compile((r"(?<!\w)" if _alphabetic(word[0]) else "") + re.escape(word), re.IGNORECASE)


def _alphabetic(character: str) -> bool:
    """Whether a character is Latin, Greek or Cyrillic: scripts whose words take no article or preposition on."""
    return character.isalnum() and character < "\u0530"


def _ways(word: str, tokenizer: Any) -> list[_Way]:
    """After a space, or without one, as written or with a capital."""
    forms = (space + form for form in (word, word[0].upper() + word[1:]) for space in (" ", ""))
    found = []
    for ids in filter(None, dict.fromkeys(tuple(encode(tokenizer, form, special=False)) for form in forms)):
        blank = sum(not decode(tokenizer, ids[: n + 1]).strip() for n in range(len(ids)))
        found.append(_Way(ids, decode(tokenizer, ids), blank))
    return found


def _begun(way: Sequence[int], written: Sequence[int]) -> int:
    """How many of a way's tokens were written last, without being all of it."""
    return max((n for n in range(1, len(way)) if list(written[-n:]) == list(way[:n])), default=0)


def _may_begin(said: str, way: str) -> bool:
    """Whether a word written this way may follow here: not within another one."""
    if way[:1].isspace():
        return not said[-1:].isspace()
    return not (said and _alphabetic(said[-1]) and _alphabetic(way[0]))
