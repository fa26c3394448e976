"""`Session`: one text in progress, and the life of its chunks.

    given or written tokens ─► open chunk ─► full: learn ─► judge ─► commit or roll back ─► window moves on

Writing, absorbing and scoring are one loop that differs only in where the next tokens come from. Verbs with an
`_events` or `stream` name yield events as things happen; the others fold that stream.
"""

from __future__ import annotations

import math
import os
import time
from collections import deque
from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, TypeAlias

import torch

from templora.arguments import SEEDS, Writing, shown, whole, yes
from templora.chunks import Chunk, spans
from templora.config import TempLoraConfig
from templora.decoding.preview import Preview, Previewer
from templora.decoding.reader import Adapter, Reader
from templora.decoding.stopping import Held
from templora.errors import ModelError, OptionError, SessionClosed, TextError
from templora.events import END, Absorbed, ChunkLearned, ChunkScored, Event, Finished, FinishReason, TokenEvent
from templora.kvcache.window import WindowCache
from templora.learning import guards
from templora.learning.guards import Brake, Patience, Written
from templora.learning.learner import Learner, Reading, Update
from templora.learning.pending import PendingUpdate
from templora.learning.probe import PASSAGE, Probe
from templora.lora.bank import AdapterState
from templora.lora.gguf import load_gguf_adapter, save_gguf_adapter
from templora.lora.peft import load_adapter, save_adapter
from templora.lora.targets import first_weights
from templora.methods.base import Method, MethodState
from templora.metrics import Likelihood, perplexity
from templora.runtime.metering import Meter
from templora.runtime.signals import deferred
from templora.sampling import Sampler, SamplingParams, entropy_of
from templora.session.fitting import Like, check, check_weights, most_bytes
from templora.session.mixture import Mixture
from templora.session.snapshot import STATE, Snapshot, of_cache, to_cache
from templora.text import chat_turn, decode, encode, opening_ids, spelled

if TYPE_CHECKING:
    from templora.engine.engine import Engine

# What is learnt of a chunk: (tokens of the text so far, chunk) -> tokens, which differ within the chunk alone.
Lesson: TypeAlias = Callable[[Sequence[int], Chunk], Sequence[int]]


@dataclass(frozen=True)
class Score:
    """How well a text was predicted: by the base alone, through the adapter, and by the mixture of both (empty if the
    config asks for none), over the same tokens."""

    base: Likelihood
    adapted: Likelihood
    mixed: Likelihood

    def __repr__(self) -> str:
        parts = [(name, getattr(self, name)) for name in ("base", "adapted", "mixed")]
        figures = [f"{name}={perplexity(part.nll, part.tokens):.4g}" for name, part in parts if part.tokens]
        return f"Score(perplexity {', '.join(figures) or 'of nothing'}; tokens={self.base.tokens:,})"

    @property
    def reduction(self) -> float:
        """How much lower the perplexity is with the adapter, as a share of the base's: 0.1 = 10 % lower.

        Of the mixture's predictions where the config asks for them, else of the adapter's alone.
        """
        ours = self.mixed if self.mixed.tokens else self.adapted
        difference = (ours.nll - self.base.nll) / max(1, self.base.tokens)
        return -math.expm1(min(700.0, difference))


@dataclass(frozen=True)
class Receipt:
    """What is left when a session is over: the base as it was, and nothing of the adapter.

    It compares what the session found with what it leaves: a change that was put back in between is not seen.

    Args:
        base_unchanged: the base computes what it did when the session began: its weights, bit for bit, and all that it
            does with them.
        discarded: nothing of the adapter is left, and no hook or module on the base that was not there before.
        fingerprint: SHA-256 over the base's weights, as they are now.
        changed: names of what the session did not find so.
    """

    base_unchanged: bool
    discarded: bool
    fingerprint: str
    changed: tuple[str, ...] = ()


class Session:
    """One text and its temporary adapter. Made by `Engine.session`; a context manager that discards on exit.

    Attributes:
        config: how it remembers.
        tokens: every id so far, BOS included where the tokenizer has one. Only appended to, but for tokens that may be
            the beginning of a stop text: those are taken back, if it is one, and nobody is told of them.
        meter: seconds and FLOPs spent, by phase.
        receipt: what `discard` found, once it has run.
    """

    def __init__(self, engine: Engine, config: TempLoraConfig, method: Method, lesson: Lesson | None = None) -> None:
        self.config = config
        self.method = method
        self.meter = Meter(engine.model.device)
        self.receipt: Receipt | None = None
        self._engine = engine
        self._tokenizer = engine.tokenizer
        opening = opening_ids(self._tokenizer)
        self._opening = len(opening)
        if self._opening >= config.context:
            raise OptionError("chunk_size", "leaves no room for context in the window")
        self.tokens: list[int] = opening
        self._chunk_start = 0
        self._chunk_index = 0
        self._masked: tuple[tuple[int, int], ...] = ()  # spans of the open chunk that are not to be learnt
        self._written, self._brake, self._patience = Written(), Brake(), Patience()
        self._scored_to = 0
        self._seed = config.seed  # of the random numbers that tokens are chosen by
        self._ends = 0, 0  # where ends of the text were chosen last, and how many
        self._sure: int | None = None  # where what nobody has seen begins, which may be taken back; None: it is no more
        self._crossed: list[tuple[int, Snapshot]] = []  # ends of chunks in that, and what there was before they closed
        self._taken_back = 0
        self._unshown = 0, 0  # where the text ends, and how many of its last tokens are of a character not shown yet
        self._finished: Chunk | None = None  # a chunk that is closed, which the method's memory has still to take in
        self._released = False
        self._lesson = lesson
        self._stay = engine.admit(self, config, method)
        self._bank, self._slot = self._stay.bank, self._stay.slot
        try:
            probe = self._probe()
            self._memory = engine.begin(self._stay, config, self._opening)
        except BaseException:  # out of memory, say: leave the model as it was
            with engine.lock:
                engine.release(self._stay)
            raise
        self._adapted = self._reader(Adapter(self._bank, self._slot, config.scaling))
        self._base = self._reader(Adapter(self._bank, None, config.scaling))
        self._previewers: dict[bool, Previewer] = {}  # whether the base drafts -> with what
        self._learner = Learner(engine.model, self._bank, self._slot, config, self.meter, probe)
        self._mixture = Mixture()
        self._reading: Reading | None = None  # of the chunk that was scored last, until it is closed
        parallel = config.learning == "parallel"
        self._pending = PendingUpdate(self._learner, self._bank, self._slot) if parallel else None
        self._learned: deque[ChunkLearned] = deque()  # not yet yielded

    def __repr__(self) -> str:
        if "_learned" not in vars(self):
            return "<Session that has not begun>"
        state = "discarded" if self._released else f"{self.config.learning}, version {self.version}"
        return (
            f"<Session of {self._engine.name}: {len(self.tokens):,} tokens, {self._chunk_index} chunks closed, {state}>"
        )

    # What a caller may ask -------------------------------------------------------------------------------------

    @property
    def version(self) -> int:
        """Updates committed so far; one that is still to be committed is not among them."""
        self._alive()
        return self._bank.state(self._slot).version

    @property
    def text(self) -> str:
        """Everything given and written so far."""
        return decode(self._tokenizer, self.tokens)

    @property
    def open_tokens(self) -> int:
        """Tokens of the open chunk, which are not learnt yet."""
        return len(self.tokens) - self._chunk_start

    @property
    def sure(self) -> bool:
        """Whether no token waits to be seen, which may be the beginning of a stop text."""
        return self._sure is None

    @property
    def snapshot_bytes(self) -> int:
        """About as many as `snapshot` holds."""
        self._alive()
        return len(STATE) * 4 * self._adapted.adapter.weights + self._adapted.cache.bytes

    @property
    def most_snapshot_bytes(self) -> int:
        """More than any snapshot of it takes."""
        self._alive()
        return most_bytes(self._like(len(self.tokens)), self._memory.tensors())

    @property
    def closed(self) -> bool:
        return self._released

    @property
    def readers(self) -> tuple[Reader, Reader]:
        """What reads this text: through the adapter, and as the bare base does."""
        self._alive()
        return self._adapted, self._base

    @property
    def learns_as_it_scores(self) -> bool:
        """Whether the pass that scores a whole chunk is also the first one that learns it."""
        self._alive()
        return self._learner.reads and self._memory.rereads and not self._lesson

    # Verbs -----------------------------------------------------------------------------------------------------

    def encode(self, text: str, *, chat: bool = False) -> list[int]:
        """The ids of a text that is given to this session; with `chat`, of the user's turn in the chat template.

        Raises:
            OptionError: the model has no chat template.
            ModelError: model and tokenizer do not belong together.
        """
        self._alive()
        ids = self._encode_chat(text) if chat else encode(self._tokenizer, text, special=False)
        self._known(ids)
        return ids

    def absorb(self, text: str, *, learn: bool = True) -> None:
        """Takes in a given text: learns every full chunk of it, keeps the rest as context.

        Args:
            text: what is given.
            learn: without it, these tokens are read and seen by what follows, but are not in the loss.
        """
        for _ in self.absorb_events(text, learn=learn):
            pass

    def absorb_events(self, text: str, *, learn: bool = True) -> Iterator[Event]:
        """`absorb`, yielding `ChunkLearned` and `Absorbed` as it goes."""
        yield from self.absorb_ids(self.encode(text), learn=learn)

    def absorb_ids(self, ids: Sequence[int], *, learn: bool = True) -> Iterator[Event]:
        """`absorb_events` for a text that is tokens already."""
        self._known(ids)
        learn = yes("learn", learn)
        with self._step():
            self._enter()
        yield from self._end_chunk()
        done = 0
        while done < len(ids):
            with self._step():
                self._alive()
                piece = ids[done : done + self._room()]
                if not learn:
                    self._masked += ((len(self.tokens), len(self.tokens) + len(piece)),)
                self.tokens.extend(piece)
                done += len(piece)
            yield from self._end_chunk()
            yield Absorbed(done, len(ids))

    def score(self, text: str) -> Score:
        """Predicts a given text, each chunk before it is learnt, by the base and with the adapter."""
        score = Score(Likelihood(), Likelihood(), Likelihood())
        for event in self.score_events(text):
            if isinstance(event, ChunkScored):
                score.base.add(event.base_nll or 0.0, event.targets)
                score.adapted.add(event.adapted_nll or 0.0, event.targets)
                if event.mixed_nll is not None:
                    score.mixed.add(event.mixed_nll, event.targets)
        return score

    def score_events(self, text: str) -> Iterator[Event]:
        """`score`, yielding `ChunkScored`, `ChunkLearned` and `Absorbed` as it goes."""
        yield from self.score_ids(self.encode(text))

    def score_ids(self, ids: Sequence[int], *, base: bool = True, adapted: bool = True) -> Iterator[Event]:
        """`score_events` for a text that is tokens already.

        Args:
            ids: the tokens.
            base, adapted: whose predictions are wanted. Leaving one out saves its passes; the other's stay the same.
                The mixture needs both.
        """
        self._known(ids)
        with self._step():
            self._enter()
        yield from self._end_chunk()
        done = 0
        while done < len(ids):
            with self._step():
                self._alive()
                piece = list(ids[done : done + self._room()])
                scored = self._append_scored(piece, base, adapted)
                done += len(piece)
            yield scored
            yield from self._end_chunk()
            yield Absorbed(done, len(ids))

    def write(
        self,
        prompt: str = "",
        *,
        max_new_tokens: int = 256,
        sampling: SamplingParams | None = None,
        stop_at_end: bool = False,
    ) -> str:
        """Writes on after `prompt` and returns what was written. Arguments as for `stream`."""
        events = self.stream(prompt, max_new_tokens=max_new_tokens, sampling=sampling, stop_at_end=stop_at_end)
        return "".join(e.text for e in events if isinstance(e, TokenEvent | Finished))

    def stream(
        self,
        prompt: str = "",
        *,
        max_new_tokens: int = 256,
        sampling: SamplingParams | None = None,
        stop_at_end: bool = False,
        chat: bool = False,
        learn_prompt: bool = True,
        score: bool = False,
        again: Sequence[int] = (),
        going_on: bool = False,
    ) -> Iterator[Event]:
        """Absorbs `prompt`, then writes up to `max_new_tokens` tokens, learning each chunk as it fills.

        Args:
            prompt: text to go on from; may be empty if the session already holds some.
            max_new_tokens: how many to write.
            sampling: how they are chosen.
            stop_at_end: stop at an end-of-text token. Otherwise such tokens are never chosen (as with
                `min_new_tokens` in transformers' `generate`).
            chat: put the prompt into the model's chat template, as the user's turn.
            learn_prompt: whether the prompt is learnt like what is written; else it is only read.
            score: also say how likely the base finds what is written, for one more pass over each chunk.
            again: what the first of these tokens are known to be, from a run that is repeated.
            going_on: it is the rest of a call that was left: `score` then takes in what that one wrote.

        Yields:
            `ChunkLearned` and `Absorbed` for the prompt; then `TokenEvent`s, with a `ChunkLearned` (before it a
            `ChunkScored`, if asked for) after each full chunk; at last one `Finished`. With parallel learning a
            chunk's `ChunkLearned` comes at the end of the next one, also if that is filled by a later verb.

        Raises:
            OptionError: `max_new_tokens` below 1, or `chat` for a model that has no template.
            TextError: no prompt and nothing in the session, so that there is nothing to go on from.
        """
        how = Writing(
            max_new_tokens=max_new_tokens, stop_at_end=stop_at_end, chat=chat, learn_prompt=learn_prompt, score=score
        )
        sampling = SamplingParams.of(sampling)
        self._known([token for token in again if token != END])
        yield from self.absorb_ids(self.encode(prompt, chat=how.chat), learn=how.learn_prompt)
        if not self.tokens:
            raise TextError("there is nothing to go on from: give a prompt")
        if not going_on:
            self._scored_to = len(self.tokens)
        yield from self._write(how.max_new_tokens, sampling, how.stop_at_end, how.score, deque(again))

    def _write(
        self, most: int, sampling: SamplingParams, stop_at_end: bool, score: bool, known: deque[int]
    ) -> Iterator[Event]:
        sampler = self._sampler(sampling, stop_at_end)
        ends = {*self._engine.end_ids, END}
        held, taken_back = self._held(sampling), self._taken_back
        reason: FinishReason = "length"
        written = shown = 0
        cut = None
        while reason == "length" and (known or written < most):
            token = self._draw(sampler, ends, known)
            if token in ends:
                reason = "stop"
            else:
                held.token(len(self.tokens) - 1, token)
                written += 1
            done = reason == "stop" or (not known and written >= most)
            cut = held.cut(last=done)
            if cut:
                break
            shown += yield from self._show(held, last=done)
            for event in self._after_token(score, done):
                held.other(event)
                shown += yield from self._show(held, last=done)
            if self._taken_back != taken_back:  # by another verb, called meanwhile: what was not shown is written anew
                held, taken_back = self._held(sampling), self._taken_back
                reason, written = "length", shown
        rest = held.flush()
        self._unshown = 0, 0
        if cut:
            with self._step():
                self._alive()
                self._take_back(len(self.tokens) - cut.tokens)
            yield from self._show(held, last=True)
            ids = spelled(self._tokenizer, self.tokens[-4:], cut.rest)
            # A run that knows what was written ends in the same way.
            for token in [*ids, END]:
                self._draw(sampler, ends, deque([token]))
                yield from self._after_token(score, token == END)
            written, reason = written - cut.tokens + len(ids), "stop"
            rest = cut.broken + (cut.rest if ids else "")
            self._sure, self._crossed = None, []
        yield Finished(written, reason, rest)

    def _draw(self, sampler: Sampler, ends: Collection[int], known: deque[int]) -> int:
        """The next token, appended if it is no end; the first of those that are known, if any are."""
        with self._step():
            self._alive()
            if sampler.params.stops and self._sure is None:
                self._sure = len(self.tokens)
            token, nats = self._next(sampler, known[0] if known else None)
            if known:
                known.popleft()
            if token in ends:
                self._ends = len(self.tokens), self._ended + 1
            else:
                self._append_written(token, nats)
            return token

    def _held(self, sampling: SamplingParams) -> Held:
        end, count = self._unshown
        unshown = count if end == len(self.tokens) else 0
        return Held(self._tokenizer, self.tokens[-4 - unshown :], sampling.stops, unshown)

    def _show(self, held: Held, *, last: bool = False) -> Generator[Event, None, int]:
        """What need not wait any longer; returns how many tokens of it were shown."""
        taken_back, shown = self._taken_back, 0
        for event in held.shown(last=last):
            if isinstance(event, TokenEvent):
                shown += 1
                self._unshown = event.index + 1, held.unshown
                if self._sure is not None:
                    self._sure = event.index + 1
            yield event
            if self._taken_back != taken_back:
                return shown
        if self._sure == len(self.tokens):
            self._sure = None
        self._crossed = [c for c in self._crossed if self._sure is not None and c[0] > self._sure]
        return shown

    def _after_token(self, score: bool, done: bool) -> Iterator[Event]:
        """Scores what was written, and closes the chunk, if it is time."""
        full = self._room() == 0
        if full and self._sure is not None:
            self._crossed.append((len(self.tokens), self._snapshot()))
        if score and (full or done):
            with self._step():
                self._alive()
                scored = self._score_written()
            if scored:
                yield scored
        if full:
            yield from self._end_chunk()

    def preview(
        self,
        prompt: str = "",
        *,
        max_new_tokens: int = 256,
        sampling: SamplingParams | None = None,
        stop_at_end: bool = True,
        wanted: Sequence[str] = (),
        base: bool = False,
        each: Callable[[str], None] = lambda _: None,
    ) -> Preview:
        """What it would write after `prompt`. Nothing of that stays: text, adapter and random numbers are as they were.

        Args:
            prompt: text to go on from; may be empty if the session already holds some.
            max_new_tokens: how much at most.
            sampling, stop_at_end: as for `stream`. Random numbers are those of the seed and the place.
            wanted: words that should occur in it (`templora.decoding.lexical_bias`).
            base: ask the bare base, not the adapted model.
            each: told the text of each token; what it raises ends the draft.

        Raises:
            TextError: no prompt and nothing in the session, so that there is nothing to go on from.
        """
        sampling = SamplingParams.of(sampling)
        with self._step():
            self._enter()
        tokens, ends = [*self.tokens, *self.encode(prompt)], self._engine.end_ids
        if not tokens:
            raise TextError("there is nothing to go on from: give a prompt")
        if base not in self._previewers:
            reader = self._reader(self._base.adapter if base else self._adapted.adapter)
            self._previewers[base] = Previewer(reader, self._tokenizer, self._step)
        sampler = self._sampler(sampling, stop_at_end)
        size = self.config.chunk_size
        start = self._chunk_start + (len(tokens) - self._chunk_start) // size * size  # of the chunk that it would be in
        version = self._memory.version if base else self._served
        return self._previewers[base].preview(tokens, start, version, max_new_tokens, sampler, ends, wanted, each)

    def likelihood(self, prompt: str, text: str) -> Likelihood:
        """How well the bare base predicts `text` right after `prompt`, with nothing of this session before it.

        Raises:
            ModelError: the session's method changes the model, so that there is no bare base.
            TextError: the text is empty, or they are longer than the model's positions.
        """
        if self.method.changes_model:
            raise ModelError(f"a likelihood is the bare base's, and {self.method.name} changes the model itself")
        before = [*self.tokens[: self._opening], *self.encode(prompt)]
        ids, model = self.encode(text), self._engine.model
        if not before or not ids or len(before) + len(ids) > model.max_positions:
            raise TextError(f"a likelihood needs a prompt and a text, of {model.max_positions:,} tokens at most")
        with self._step(), self.meter.phase("score"), self._bank.through(None), torch.no_grad():
            self._alive()
            hidden = model.hidden([*before, *ids[:-1]], None)[len(before) - 1 :]
            found = Likelihood()
            found.add(_total(model.nll(hidden, ids)), len(ids))
        self.meter.count(model.shape.forward(len(before) + len(ids) - 1, 0, len(ids), 0))
        return found

    def settle(self) -> None:
        """Makes text, caches and random numbers agree, where a verb was interrupted or left; each verb begins so."""
        with self._step():
            self._enter()

    def close_chunk(self) -> ChunkLearned | None:
        """Learns the tokens of the open chunk now, though it is not full; None if there is nothing to learn.

        With parallel learning: everything that is still to be learnt, and returns what came last.
        """
        known = len(self._learned)
        with self._step():
            self._enter()
            self._close()
            self._settle()
        return self._learned.pop() if len(self._learned) > known else None

    def save_adapter(self, path: str | os.PathLike[str], *, half: bool = False) -> None:
        """Exports the adapter; without this nothing of it outlives the session.

        It holds every full chunk, also one that is committed only later.

        Args:
            path: a folder, for PEFT's format; or a name that ends in .gguf, for llama.cpp's.
            half: a .gguf in fp16, as llama.cpp's own converter writes it: half as large, but rounded.
        """
        with self._step():
            self._enter()
            staged = self._pending.stage() if self._pending else None
            weights, layout = (staged or self._bank.state(self._slot)).weights, self._bank.layout
            base = self._engine.model.module
            if Path(path).suffix == ".gguf":
                save_gguf_adapter(Path(path), layout, weights, self.config.alpha, base, half=half)
            else:
                save_adapter(Path(path), layout, weights, self.config.alpha, self.config.dropout, base)

    def load_adapter(self, path: str | os.PathLike[str]) -> None:
        """Goes on from an adapter, with a fresh optimiser. Learning under way is finished first.

        What it leaves out begins as in a new session.

        Args:
            path: a folder in PEFT's format, or a .gguf file in llama.cpp's.

        Raises:
            ModelError: unreadable, or of another shape than this session's.
        """
        self.use_adapter(self.read_adapter(path))

    def read_adapter(self, path: str | os.PathLike[str]) -> torch.Tensor:
        """The weights of an adapter that `load_adapter` takes, for `use_adapter`."""
        self._alive()
        if not isinstance(path, str | os.PathLike):
            raise OptionError("adapter", f"must be the path of one, not {shown(path)}")
        layout, alpha, where = self._bank.layout, self.config.alpha, Path(path)
        fresh = first_weights(layout.targets, layout.rank, self.config.seed)
        if where.suffix == ".gguf" and not where.is_dir():
            return load_gguf_adapter(where, layout, alpha, fresh, self._engine.model.module)
        return load_adapter(where, layout, alpha, fresh)

    def reseed(self, seed: int) -> None:
        """Random numbers of sampling begin anew, from this seed."""
        seed = whole("seed", seed, *SEEDS)
        with self._step():
            self._enter()
            self._seed = seed

    def use_adapter(self, weights: torch.Tensor | None) -> None:
        """`load_adapter` for an adapter of this session's shape that is a vector already (`adapter_weights`).

        Raises:
            TextError: it is none.
        """
        self._alive()
        found = check_weights(weights, self._bank.layout.weights)
        with self._step():
            self._enter()
            self._settle()
            self._begin_from(found)

    def adapter_weights(self) -> torch.Tensor:
        """A copy of the adapter as it serves: fp32 [weights], in the layout of `AdapterBank`."""
        with self._step():
            self._alive()
            return self._bank.state(self._slot).weights.clone()

    def _begin_from(self, weights: torch.Tensor) -> None:
        self._reading, self._patience = None, Patience()
        state = AdapterState.fresh(weights.to(self._bank.device))
        self._bank.commit(self._slot, replace(state, version=self.version + 1))

    def snapshot(self, *, copy: bool = True) -> Snapshot:
        """All that this session is now, its tokens apart; `restore` goes on from there, to the same bits.

        An update that is still to be made is not made for this: what it reads is part of the snapshot.

        Args:
            copy: without it the tensors are the session's own, of use until it goes on: enough to save them.
        """
        with self._step():
            self._enter()
            return self._snapshot(copy)

    def _snapshot(self, copy: bool = True) -> Snapshot:
        with self._step():
            state = self._bank.state(self._slot)
            tensors = dict(self._memory.tensors())
            if state.version:  # else it is what the seed gives
                tensors |= {name: getattr(state, name) for name in STATE}
            caches = {}
            for name, reader in (("adapted", self._adapted), ("base", self._base)):
                # What would be computed anew anyway is left out.
                stale = reader.cache.served_version != self._served and self._memory.rereads
                held = WindowCache(0, 0) if stale and not self.config.cache_reuse else reader.cache
                part = of_cache(held, name)
                tensors |= part.tensors
                caches[name] = part.meta
            under_way = self._pending.chunk if self._pending else None
            if self._pending and under_way and not self.config.context_gradients:
                part = of_cache(self._pending.context, "context")
                tensors |= part.tensors
                caches["context"] = part.meta
            meta = {
                "tokens": len(self.tokens),
                "version": state.version,
                "seed": self._seed,
                "ends": self._ends,
                "unshown": self._unshown,
                "steps": state.steps,
                "memory_version": self._memory.version,
                "chunk": [self._chunk_index, self._chunk_start],
                "guards": guards.to_json(self._written, self._brake, self._patience),
                "masked": self._masked,
                "under_way": under_way.to_json() if under_way else None,
                "scored_to": self._scored_to,
                "mixture": self._mixture.weights,
                "caches": caches,
                "meter": [self.meter.seconds, self.meter.flops],
            }
            if copy:
                tensors = {name: tensor.clone() for name, tensor in tensors.items()}
            return Snapshot(tensors, meta)

    def restore(self, tokens: Sequence[int], snapshot: Snapshot) -> None:
        """Becomes the session that a snapshot was taken of.

        Args:
            tokens: that session's, BOS included where the tokenizer has one.
            snapshot: of a session of the same model, config and method.

        Raises:
            TextError: it is not of such a session.
        """
        self._known(tokens)
        with self._step():
            self._enter()
            check(snapshot, self._like(len(tokens)))
            self._restore(tokens, snapshot)
            self.meter.seconds, self.meter.flops = (dict(part) for part in snapshot.meta["meter"])

    def _restore(self, tokens: Sequence[int], snapshot: Snapshot) -> None:
        meta = snapshot.meta
        with self._step():
            device = self._bank.device
            # Copies, since learning edits an adapter's state in place and the snapshot may be restored again.
            tensors = {k: t.to(device, copy=True) for k, t in snapshot.tensors.items()}
            if self._pending:
                self._pending.drop()
            self.tokens[:] = list(tokens)
            # Older ones hold the state of a generator, which is of no use now.
            self._seed = meta.get("seed", self._seed)
            self._ends, self._unshown = tuple(meta.get("ends", (0, 0))), tuple(meta.get("unshown", (0, 0)))
            if meta["version"]:
                weights, first, second = (tensors[name] for name in STATE)
                state = AdapterState(weights, first, second, meta["steps"], meta["version"])
                self._bank.commit(self._slot, state)
            self._memory.restore(tensors, meta["memory_version"])
            self._finished = None
            self._chunk_index, self._chunk_start = meta["chunk"]
            self._written, self._brake, self._patience = guards.from_json(meta["guards"])
            self._masked = spans(meta.get("masked", ()))
            self._scored_to, self._reading = meta["scored_to"], None
            self._previewers = {}  # whose versions are another adapter's
            self._mixture = Mixture(meta["mixture"])
            for name, reader in (("adapted", self._adapted), ("base", self._base)):
                to_cache(reader.cache, name, Snapshot(tensors, meta["caches"][name]))
            if self._pending and meta["under_way"]:
                chunk, cache = Chunk.from_json(meta["under_way"]), self._adapted.cache
                if "context" in meta["caches"]:
                    held = meta["caches"]["context"]
                    cache = WindowCache(len(cache), len(held["versions"]), cache.opening, cache.sinks)
                    to_cache(cache, "context", Snapshot(tensors, held))
                lesson = self._lesson(self.tokens, chunk) if self._lesson else self.tokens
                self._pending.start(lesson, chunk, cache)

    def _like(self, tokens: int) -> Like:
        """What a snapshot of this session is like, with so many tokens."""
        model = self._engine.model
        with self._step(), self._bank.through(None):
            entries = model.entries
        return Like(
            tokens=tokens,
            chunk_size=self.config.chunk_size,
            window=self.config.window,
            positions=self.method.positions(model),
            weights=self._bank.layout.weights,
            entries=entries,
            memory=self._memory.fits,
            context=self._pending is not None and not self.config.context_gradients,
        )

    def discard(self) -> Receipt:
        """Throws the adapter, its optimiser state and the caches away; the text stays. May be called twice.

        Returns:
            Whether the base is bit for bit what it was, and whether nothing of the adapter is left on it.
        """
        with deferred(), self._engine.lock:
            if not self._released:
                self._released, self._pending = True, None
                del self._adapted, self._base, self._previewers, self._learner, self._reading, self._memory
                self._engine.release(self._stay)
            if self.receipt is None:
                self.receipt = self._engine.receipt(self._stay)
        return self.receipt

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.discard()

    # The life of a chunk ---------------------------------------------------------------------------------------

    def _room(self) -> int:
        """Tokens that still fit the open chunk."""
        return self._chunk_start + self.config.chunk_size - len(self.tokens)

    def _end_chunk(self) -> Iterator[Event]:
        """Closes the open chunk if it is full, and yields what was learnt since the last time.

        Verbs begin with it too: a chunk may have filled up just before a caller stopped listening.
        """
        with self._step():
            self._alive()
            if self._room() == 0:
                self._close()
        while self._learned:
            yield self._learned.popleft()

    def _probe(self) -> Probe | None:
        """What updates are tried on."""
        config, model = self.config, self._engine.model
        tokens = min(config.probe_tokens, (config.window - self._opening) // 2)
        if config.learning == "off" or not tokens:
            return None
        known = [i for i in encode(self._tokenizer, PASSAGE, special=False) if i < model.vocabulary]
        if not known:
            return None
        passage = (known * (tokens // len(known) + 1))[:tokens]
        with self._step(), self.meter.phase("learn"):
            return Probe.draw(model, self.tokens, passage, self.meter)

    def _reader(self, adapter: Adapter) -> Reader:
        engine = self._engine
        return Reader(engine.model, adapter, self.config, self._opening, self.meter, engine.new_step)

    def _prepare(self, *decoders: Reader) -> None:
        for decoder in decoders:
            self._memory.prepare(decoder, self.tokens, self._chunk_start, self._served)

    @property
    def _served(self) -> int:
        """What caches must have been computed under: it grows when the adapter changes, or the model itself."""
        return self.version + self._memory.version

    def _sampler(self, sampling: SamplingParams, stop_at_end: bool) -> Sampler:
        banned = [] if stop_at_end else self._engine.end_ids
        return Sampler(sampling, banned, self._seed, self._engine.model.device)

    @property
    def _ended(self) -> int:
        """How many ends were chosen where the text ends now."""
        at, count = self._ends
        return count if at == len(self.tokens) else 0

    def _next(self, sampler: Sampler, known: int | None = None) -> tuple[int, float]:
        """The token that comes next, chosen unless it is known, and the entropy of what is predicted."""
        self._prepare(self._adapted)
        self._adapted.ready()
        with self.meter.phase("decode"):
            logits = self._adapted.next_logits(self.tokens)
            token = known
            if token is None:
                token = sampler(logits, self.tokens[-self.config.window :], len(self.tokens), self._ended)
            return token, entropy_of(logits) if self.config.min_entropy else 0.0

    def _append_written(self, token: int, entropy: float) -> None:
        self._written.append(len(self.tokens), entropy)
        self.tokens.append(token)

    def _take_back(self, end: int) -> None:
        """Makes the text end at token `end` again, with all else as it was then: nobody has seen what came after it."""
        with deferred():
            crossed = next((c for c in self._crossed if c[0] > end), None)
            if crossed:
                self._restore(self.tokens[: crossed[0]], crossed[1])
                self._learned.clear()
            del self.tokens[end:]
            self._cut()
            self._crossed = [c for c in self._crossed if c[0] <= end]
            self._taken_back += 1

    def _cut(self) -> None:
        """Takes what is beyond the text out of the caches and counts."""
        self._written.cut(len(self.tokens))
        if self._ends[0] > len(self.tokens):
            self._ends = 0, 0
        for reader in (self._adapted, self._base):
            reader.cache.keep(len(self.tokens) - 1)

    def _enter(self) -> None:
        """What each verb begins with: all that there is says the same again, where one was interrupted half-way."""
        self._alive()
        if self._sure is not None:
            self._take_back(self._sure)
            self._sure = None
        with deferred():
            self._cut()
            end = len(self.tokens)
            self._masked = tuple((a, min(b, end)) for a, b in self._masked if a < end)
        self._remember()

    def _score_written(self) -> ChunkScored | None:
        """What was written since the last score, read once more by base and adapter alike, in one pass each.

        The logits it was sampled from would not do: in bf16 an NLL depends on how many tokens are read at once.
        """
        began = time.perf_counter()
        first, end = max(self._scored_to, self._chunk_start), len(self.tokens)
        if first >= end:
            return None
        self._memory.prepare(self._base, self.tokens[:first], self._chunk_start, self._served)
        with self.meter.phase("score"):
            base = _total(self._base.nll(self.tokens, first))
            self._reading = reading = self._read(self.tokens, first)
            adapted = _total(reading.nll if reading else self._adapted.nll_again(self.tokens, first))
        self._scored_to = end
        return ChunkScored(first, end, end - first, base, adapted, time.perf_counter() - began)

    def _append_scored(self, piece: list[int], by_base: bool, by_adapted: bool) -> ChunkScored:
        began, start = time.perf_counter(), len(self.tokens)
        longer = [*self.tokens, *piece]
        first, end = max(1, start), len(longer)
        base = adapted = torch.zeros(0)
        reading = None
        if first < end:  # else it is one token, with nothing before it to predict it from
            if by_base:
                self._prepare(self._base)
                with self.meter.phase("score"):
                    base = self._base.nll(longer, first)
            if by_adapted:
                self._prepare(self._adapted)
                with self.meter.phase("score"):
                    reading = self._read(longer, first)
                    adapted = reading.nll if reading else self._adapted.nll(longer, first)
        mixed = None
        if by_base and by_adapted and self.config.mixture:
            mixed = sum(self._mixture.nll(base.tolist(), adapted.tolist()))
        self.tokens.extend(piece)
        self._reading = reading
        figures = _total(base) if by_base else None, _total(adapted) if by_adapted else None
        return ChunkScored(start, end, end - first, *figures, time.perf_counter() - began, mixed)

    def _read(self, tokens: list[int], first: int) -> Reading | None:
        """A reading of tokens[first:], if that is the whole open chunk and will be learnt as it was read."""
        self._reading = None
        chunk, cache = replace(self._open_chunk(), end=len(tokens)), self._adapted.cache
        whole = first == chunk.first_target and chunk.end - chunk.middle == self.config.chunk_size
        if chunk.masked or not (whole and self.learns_as_it_scores and cache.served_version == self._served):
            return None
        return self._learner.read(tokens, chunk, cache)

    def _open_chunk(self) -> Chunk:
        start = self._chunk_start
        return Chunk(self._chunk_index, max(0, start - self.config.context), start, len(self.tokens), self._masked)

    def _close(self) -> None:
        """Ends the open chunk."""
        chunk = self._open_chunk()
        if chunk.middle == chunk.end:
            return
        reading, self._reading = self._reading, None
        if reading and (reading.chunk, reading.version) != (chunk, self.version):
            reading = None
        if not self._pending:
            self._open_next(chunk, reading)
        else:
            context = self._prepare_context(chunk)  # under the adapter that read it, so before another one is committed
            self._pending.stage()
            with deferred():  # from here on the context is needed as it is
                self._settle()
                self._open_next(chunk, None, context)
        self._remember()

    def _remember(self) -> None:
        """Has the method's memory take in the chunk that is closed, unless it has."""
        if self._finished:
            self._memory.learn(self.tokens, self._finished, self.meter)
            self._finished = None

    def _open_next(self, chunk: Chunk, reading: Reading | None, context: WindowCache | None = None) -> None:
        """Opens the chunk after `chunk`, and learns this one, or begins to, if it should be."""
        before = self._chunk_index, self._chunk_start, self._written, self._brake, self._masked, self._finished
        reported, written = len(self._learned), self._written
        self._chunk_index, self._chunk_start, self._written, self._masked = chunk.index + 1, chunk.end, Written(), ()
        self._finished = chunk
        try:
            if self.config.learning == "off" or not chunk.targets:
                return
            lesson = self._lesson(self.tokens, chunk) if self._lesson else self.tokens
            learnt = [lesson[i] for i in range(chunk.middle, chunk.end) if chunk.learns(i)]
            reason = self._patience.problem or self._brake.problem(self.config, self.tokens, written, learnt)
            if reason:
                with deferred():
                    self._patience = self._patience.skipped()
                    skipped = ChunkLearned(chunk.index, chunk.middle, chunk.end, False, self.version, reason)
                    self._learned.append(skipped)
                return
            self._brake = self._brake.passed(written)
            self._learn(chunk, lesson, reading, context)
        except BaseException:
            under_way = self._pending is not None and self._pending.chunk is chunk
            if len(self._learned) == reported and not under_way:  # interrupted before: it is still to be learnt
                self._chunk_index, self._chunk_start, self._written, self._brake, self._masked, self._finished = before
            raise

    def _learn(self, chunk: Chunk, lesson: Sequence[int], reading: Reading | None, context: WindowCache | None) -> None:
        began = time.perf_counter()
        cache = self._prepare_context(chunk) if context is None else context
        if self._pending:
            if not self.config.context_gradients:
                # The token before the chunk is an input of the training, as in `Learner`.
                cache = cache.snapshot(chunk.first_target - 1, self.config.learn_context - 1)
            self._pending.start(lesson, chunk, cache)
            return
        with self.meter.phase("learn"):
            self._learner.learn(
                lesson,
                chunk,
                cache,
                reading,
                lambda update: self._report(chunk, update, time.perf_counter() - began),
            )

    def _settle(self) -> None:
        """Commits what is learnt of the chunk before the one that ends now, or rolls it back."""
        if self._pending:
            self._pending.stage()
            with deferred():  # what is committed is reported
                if done := self._pending.settle():
                    self._report(*done)

    def _report(self, chunk: Chunk, update: Update, seconds: float) -> None:
        self._patience = self._patience.after(update.committed, self.config)
        reason = update.reason
        if self._patience.paused:
            reason += f". {self._patience.rolled_back} in a row were: learning pauses for {self.config.pause} chunks"
        self._learned.append(
            ChunkLearned(
                index=chunk.index,
                start=chunk.middle,
                end=chunk.end,
                committed=update.committed,
                version=self.version,
                reason=reason,
                loss=update.loss,
                grad_norm=update.grad_norm,
                update=update.change,
                drift=update.drift,
                forgetting=update.forgetting,
                seconds=seconds,
            )
        )

    def _prepare_context(self, chunk: Chunk) -> WindowCache:
        """A cache that reaches up to the token before the chunk; one that was given, not read, is not in it yet."""
        cache = self._adapted.cache
        read = cache.next_token >= chunk.first_target - 1 and cache.served_version == self._served
        if self.config.context_gradients or read:
            return cache
        drafter = self._previewers.get(False)  # may have read it, in the very pass that would read it now
        if drafter and type(self._memory) is MethodState and not self.config.cache_reuse:
            held = drafter.context(self.tokens, chunk.middle, self._served)
            if held is not None:
                return held
        self._memory.prepare(self._adapted, self.tokens[: chunk.first_target], chunk.middle, self._served)
        return cache

    def _encode_chat(self, prompt: str) -> list[int]:
        if not getattr(self._tokenizer, "chat_template", None):
            raise OptionError("chat", "this model has no chat template")
        ids = encode(self._tokenizer, chat_turn(self._tokenizer, prompt), special=False)
        opening = self.tokens[: self._opening]
        # Templates write BOS themselves, and the session has it already.
        return ids[len(opening) :] if opening and ids[: len(opening)] == opening else ids

    def _known(self, ids: Sequence[int]) -> None:
        self._alive()
        known = self._engine.model.vocabulary
        if len(ids) and min(ids) < 0:
            raise ModelError(f"there is no token {min(ids)}: the model knows 0 to {known - 1}")
        if len(ids) and max(ids) >= known:
            raise ModelError(
                f"{self._engine.name}: the tokenizer gives ids up to {max(ids)}, the model knows {known}; "
                "they do not belong together"
            )

    def _step(self) -> AbstractContextManager[None]:
        return self._engine.step()

    def _alive(self) -> None:
        if self._released:
            raise SessionClosed("this session has been discarded")


def _total(nll: torch.Tensor) -> float:
    """The sum of some tokens' NLLs, in fp64."""
    return float(nll.double().sum())
