"""`Previewer`: what a text would go on with, of which nothing stays.

    window    first ──── context ──── chunk │ piece │ piece │ the rest │ prompt, in pieces too
    passes    [                             ][      ][      ][         ][      ][             ]

A draft depends on the text, the adapter and the arguments alone, not on what was drafted before: so it need not be kept
in order to be made again. In bf16 keys and values depend on how many tokens are read at once, hence the fixed passes,
into a cache of its own. Those before the last are still there for the next draft, and for who learns the chunk.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import torch

from templora.decoding.plans import Plan, Token, Work
from templora.decoding.reader import Reader
from templora.decoding.stopping import Held
from templora.decoding.wanted_words import Chosen, WantedWords
from templora.events import TokenEvent, TokenLogprobs
from templora.kvcache.window import WindowCache
from templora.sampling import Sampler, Wanted
from templora.text import decode
from templora.thoughts import tag_tokens

# Tokens of an open chunk that are read in one pass: fewer would cost more passes, more would be read again more often.
_PIECE = 64


@dataclass(frozen=True)
class Preview:
    """What would be written.

    Args:
        text: of it.
        ended: the model ended it itself; else it was cut off at its longest.
        tokens: what it was drafted as, each with its `logprobs` if they were asked for; not of what is compared.
        others: further alternatives, where several were asked for (`SamplingParams.n`).
    """

    text: str
    ended: bool
    tokens: tuple[TokenEvent, ...] = field(default=(), compare=False, repr=False)
    others: tuple[Preview, ...] = ()

    @property
    def alternatives(self) -> tuple[Preview, ...]:
        """All of them, this one first."""
        return replace(self, others=()), *self.others


class Previewer:
    """Drafts through one reader.

    Args:
        reader: which nobody else reads with.
        tokenizer: of the model.
    """

    def __init__(self, reader: Reader, tokenizer: Any) -> None:
        self._reader, self._tokenizer = reader, tokenizer
        self._tags = tag_tokens(tokenizer)
        self._version, self._passes = 0, list[list[int]]()  # what was read, in passes, and under which version

    def preview(
        self,
        tokens: Sequence[int],
        seen: Sequence[int],
        chunk_start: int,
        end: int,
        version: int,
        most: int,
        samplers: Sequence[Sampler],
        ends: Collection[int],
        wanted: Mapping[str, Wanted] | None = None,
    ) -> Plan[Preview]:
        """What comes after `tokens`, yielding `TokenEvent`s as it goes.

        Args:
            tokens: of the text, prompt included.
            seen: the same as the model sees them, with notes.
            chunk_start: where its open chunk begins, among these; the window begins with the context before it, and
                moves on when it is full.
            end: where the text ends, and a prompt begins, among these.
            version: of the adapter.
            most: tokens to draft.
            samplers: how they are chosen, for each alternative.
            ends: tokens at which it ends.
            wanted: words that should occur in it (`templora.decoding.wanted_words`).
        """
        made: list[Preview] = []
        for sampler in samplers:
            words = WantedWords(wanted, self._tokenizer) if wanted else None
            how = tokens, seen, chunk_start, end, version, most, sampler, ends
            draft = yield from self._draft(*how, words)
            if words:
                draft = yield from self._with_words(draft, words, lambda: self._draft(*how, words))  # noqa: B023
            made.append(draft)
        return replace(made[0], others=tuple(made[1:]))

    def _with_words(self, draft: Preview, words: WantedWords, again: Callable[[], Plan[Preview]]) -> Plan[Preview]:
        """A draft with the words that it lacks, as far as they have a place in it."""
        words.begin(draft.text)
        for word in words.missing(draft.text):
            for _ in words.put(word):
                other = yield from again()
                if other.ended >= draft.ended and words.better(other.text):
                    draft = other
                    break
        return draft

    def _draft(
        self,
        tokens: Sequence[int],
        seen: Sequence[int],
        chunk_start: int,
        end: int,
        version: int,
        most: int,
        sampler: Sampler,
        ends: Collection[int],
        words: WantedWords | None,
    ) -> Plan[Preview]:
        reader, begun, seen = self._reader, list(tokens), list(seen)
        held = Held(self._tokenizer, begun[-4:], sampler.params.stops)
        said: list[TokenEvent] = []

        def choose(logits: torch.Tensor) -> tuple[int, TokenLogprobs | None, Chosen | None]:
            def free() -> int:
                return sampler(logits, begun[-reader.config.window :], len(begun))

            chosen = words.choose(logits, free) if words else None
            token = chosen.token if chosen else free()
            return token, sampler.logprobs(logits, token), chosen

        def show(*, last: bool = False) -> Iterator[TokenEvent]:
            for event in held.shown(last=last):
                if isinstance(event, TokenEvent):
                    said.append(event)
                    yield event

        cut, ended = None, False
        kept = words.kept if words else []
        if not kept or not self._passes:  # else they are in the cache
            yield Work(lambda: self._read(seen, chunk_start, end, version), "read")
        for token, logprobs in kept:
            held.token(len(begun), token, logprobs)
            begun.append(token)
            seen.append(token)
            for _ in show():
                pass  # it was told when it was drafted first
        for _ in range(most - len(kept)):
            if not reader.at(len(seen) - 1) or self._is_full(seen):
                yield Work(lambda: self._fill(seen, version), "read")
            token, logprobs, chosen = yield Token(reader, seen, choose)
            if words:
                words.add(chosen, logprobs)
            if token in ends:
                ended = True
                break
            held.token(len(begun), token, logprobs)
            begun.append(token)
            seen.append(token)
            cut = held.cut()
            if cut:
                break
            yield from show()
        cut = cut or held.cut(last=True)
        yield from show(last=True)
        rest = cut.broken + cut.rest if cut else held.flush()
        if cut and rest:
            yield TokenEvent(len(begun), begun[-1], rest)
        text = "".join([event.text for event in said] + [rest])
        if cut is None and self._tags.keys() & set(begun[len(tokens) :]):
            text = self._with_tags(begun[len(tokens) :])
        return Preview(text, ended or cut is not None, tuple(said))

    def _is_full(self, seen: list[int]) -> bool:
        cache = self._reader.cache
        return len(seen) - cache.first_token >= cache.capacity

    def _fill(self, seen: list[int], version: int) -> None:
        """Reads what the cache lacks; if it is full, the window moves on as it does at the end of a chunk."""
        reader = self._reader
        if self._is_full(seen):
            self._passes = []
            reader.cache.clear(reader.window_start(len(seen)))
        reader.fill(seen, version)
        reader.ready()

    def _with_tags(self, ids: Sequence[int]) -> str:
        """The text of ids, with those control tokens that stand around thoughts."""
        said, part = "", list[int]()
        for token in ids:
            if token in self._tags:
                said, part = said + decode(self._tokenizer, part) + self._tags[token], []
            else:
                part.append(token)
        return said + decode(self._tokenizer, part)

    def context(self, tokens: Sequence[int], chunk_start: int, version: int) -> WindowCache | None:
        """A cache that holds the context of a chunk, up to the token before it; None if that was not read."""
        first, end = self._reader.window_start(chunk_start), chunk_start - 1
        held = self._passes and self._version == version and self._reader.cache.first_token == first
        return self._reader.cache if held and self._passes[0] == list(tokens[first:end]) else None

    def _read(self, tokens: list[int], chunk_start: int, end: int, version: int) -> None:
        """Reads what comes before the prompt, but for those passes that it was last read in too."""
        cache, first = self._reader.cache, self._reader.window_start(chunk_start)
        # The token before the chunk is an input of who learns it, so the context ends before that (`Learner`).
        text = end if end >= chunk_start else len(tokens)  # a prompt may go on beyond the open chunk
        ends = [*range(chunk_start - 1, text, _PIECE), *range(text, len(tokens), _PIECE)]
        ends = [end for end in ends if end > first + cache.opening]
        passes = [tokens[begin:end] for begin, end in pairwise([first, *ends])]
        same = 0
        if version == self._version and first == cache.first_token:
            while same < min(len(passes), len(self._passes)) and passes[same] == self._passes[same]:
                same += 1
        self._passes = passes[:same]  # what is read from here on counts when it is done
        self._version = version
        if same:
            cache.truncate(ends[same - 1] - first)
        else:
            cache.clear(first)
        for read, end in list(zip(passes, ends, strict=True))[same:]:
            self._reader.fill(tokens[: end + 1], version)
            self._passes.append(read)
        self._reader.ready()
