"""Where a request meets what a session holds: clients send all of a text, or of a conversation, every time.

    session   Once upon a time │ there was a king. │ He had
    request   Once upon a time   there was a queen          what comes from the first difference on takes its place
    request              time    there was a king. He had a daughter     its beginning was left out: it goes on

Knows no models and no files.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from templora.chat import Message
from templora.store.history import History, text_of
from templora.text import control_tokens, decode

# Of fewer characters that are alike nothing follows.
_ENOUGH = 128
_PLACES = 64  # at which a session's text is compared with a request that lacks its beginning


@dataclass(frozen=True)
class Meeting:
    """Where they part.

    Args:
        held: characters, or messages, of the session that stay.
        given: of the request, those that it holds thereby.
    """

    held: int
    given: int


def meet_text(held: str, given: str) -> Meeting | None:
    """Where a text and a session's part; None if they have nothing to do with each other."""
    same = _same(held, given)
    found = Meeting(same, same)
    if same < len(held) and same < len(given):
        found = max([found, *_later(held, given)], key=lambda meeting: meeting.given)
    whole = found.held == len(held) or found.given == len(given)
    return found if not held or (whole and found.given) or found.given >= _ENOUGH else None


def _later(held: str, given: str) -> list[Meeting]:
    """The same, for requests that lack the beginning of it."""
    head, found, at = given[:_ENOUGH], list[Meeting](), len(held)
    while len(head) == _ENOUGH and len(found) < _PLACES and (at := held.rfind(head, 0, at + _ENOUGH - 1)) > 0:
        same = _same(held[at:], given)
        found.append(Meeting(at + same, same))
    return found


def _same(one: str, other: str) -> int:
    """How many characters both begin with."""
    low, high = 0, min(len(one), len(other))
    while low < high:  # by halves: slices are compared at the speed of memory
        middle = (low + high + 1) // 2
        low, high = (middle, high) if one[low:middle] == other[low:middle] else (low, middle - 1)
    return low


@dataclass(frozen=True)
class Spelled:
    """A session's text with its control tokens by name, as clients that fill in templates themselves send it.

    Args:
        text: it.
        ends: where it can be cut: positions in tokens, each with the characters before it, and whether what comes after
            it was given to be learnt.
    """

    text: str
    ends: Sequence[tuple[int, int, bool]]

    @classmethod
    def of(cls, history: History, tokenizer: Any) -> Spelled:
        """The text of a log."""
        names, said, at, shown = control_tokens(tokenizer), list[str](), len(history.opening), 0
        ends = list[tuple[int, int, bool]]()
        for record in history.records:
            text = text_of(record)
            if not names.keys().isdisjoint(record.ids):
                text = decode(tokenizer, record.ids, special=True)
            if record.ids:
                ends.append((at, shown, record.kind == "given" and bool(record.data.get("learn", True))))
            said.append(text)
            at, shown = at + len(record.ids), shown + len(text)
        return cls("".join(said), [*ends, (at, shown, True)])

    def cut(self, characters: int) -> tuple[int, int, bool]:
        """The end within so many characters that comes last."""
        return [end for end in self.ends if end[1] <= characters][-1]


@dataclass(frozen=True)
class Turn:
    """A message that a session holds.

    Args:
        role: whose.
        digest: of what it says.
        start: position of its first token.
        answered: what an answer begins with has been read after it.
    """

    role: str
    digest: str
    start: int
    answered: bool


def digest_of(text: str) -> str:
    """Tells messages apart; clients take white space off the ends of them."""
    return hashlib.sha256(text.strip().encode("utf-8", "replace")).hexdigest()[:24]


def turns_of(history: History) -> list[Turn]:
    """The messages of a log. What was written says itself what it is; of what was given, the log has the digest."""
    marks = [(at, data["turn"]) for at, data in history.marks if isinstance(data.get("turn"), dict)]
    ends = [*(at for at, _ in marks[1:]), len(history.tokens)]
    found = []
    for (start, turn), end in zip(marks, ends, strict=False):
        digest = str(turn["digest"]) if "digest" in turn else digest_of(_between(history, start, end))
        if turn.get("tokens", 0) > end - start:  # it was taken back into the middle of it
            digest = ""
        found.append(Turn(str(turn.get("role")), digest, start, bool(turn.get("answered"))))
    return found


def _between(history: History, start: int, end: int) -> str:
    at, said = len(history.opening), []
    for record in history.records:
        # An end has text too, but no tokens: what the last one before it had still to say.
        if start <= at and at + len(record.ids) <= end and (record.ids or at > start):
            said.append(text_of(record))
        at += len(record.ids)
    return "".join(said)


def meet_turns(held: Sequence[Turn], given: Sequence[Message], *, sure: bool) -> Meeting | None:
    """Where a conversation and a session's part; None if they have nothing to do with each other.

    Args:
        held: the session's.
        given: of the request, which may have left out the first ones.
        sure: the client said that it is this session; else both must have an answer in common.
    """
    if not held:
        return Meeting(0, 0)
    said = [(message.role, digest_of(message.content)) for message in given]
    known = [(turn.role, turn.digest) for turn in held]
    best: Meeting | None = None
    for first in range(len(known) - 1, -1, -1):
        many = 0
        while first + many < len(known) and many < len(said) and known[first + many] == said[many]:
            many += 1
        answers = any(role == "assistant" for role, _ in said[:many])
        if many and (answers or (sure and first == 0)) and (best is None or many >= best.given):
            best = Meeting(first + many, many)
    if best is None:
        return None
    return _whole(held, given, best)


def _whole(held: Sequence[Turn], given: Sequence[Message], found: Meeting) -> Meeting:
    """Takes back a message after which something else was read than comes there now."""
    goes_on = found.given < len(given)
    answered = given[found.given].role == "assistant" if goes_on else given[-1].role != "assistant"
    last = held[found.held - 1]
    if last.role != "assistant" and last.answered != answered:
        return Meeting(found.held - 1, found.given - 1)
    return found
