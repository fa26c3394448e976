"""`Session`: one text in progress, and the life of its chunks.

    given or written tokens ─► open chunk ─► full: learn ─► judge ─► commit or roll back ─► window moves on

Writing, absorbing and scoring are one loop that differs only in where the next tokens come from. Verbs with an
`_events` or `stream` name yield events as things happen; the others fold that stream.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import torch

from templora.adapters import AdapterState
from templora.chunks import Chunk
from templora.config import TempLoraConfig
from templora.decoding import Adapter, Decoder
from templora.errors import ModelError, OptionError, SessionClosed, TextError
from templora.events import Absorbed, ChunkLearned, ChunkScored, Event, Finished, FinishReason, TokenEvent
from templora.learning import Learner
from templora.metering import Meter
from templora.metrics import Likelihood, repeated
from templora.peft_format import load_adapter, save_adapter
from templora.sampling import Sampler, SamplingParams
from templora.text import TextStream, decode, encode, end_ids, opening_ids

if TYPE_CHECKING:
    from templora.engine import Engine


@dataclass(frozen=True)
class Score:
    """How well a text was predicted, by the base alone and with the adapter, over the same tokens."""

    base: Likelihood
    adapted: Likelihood

    @property
    def reduction(self) -> float:
        """How much lower the adapted perplexity is, as a share of the base's: 0.1 = 10 % lower."""
        base, adapted = self.base, self.adapted
        if not base.tokens:
            return 0.0
        return 1.0 - float(torch.tensor((adapted.nll - base.nll) / base.tokens, dtype=torch.float64).exp())


@dataclass(frozen=True)
class Receipt:
    """What is left when a session is over: the base as it was, and nothing of the adapter."""

    base_unchanged: bool
    discarded: bool
    fingerprint: str


class Session:
    """One text and its temporary adapter. Made by `Engine.session`; a context manager that discards on exit.

    Attributes:
        config: how it remembers.
        tokens: every id so far, BOS included where the tokenizer has one. Only ever appended to.
        meter: seconds and FLOPs spent, by phase.
        receipt: what `discard` found, once it has run.
    """

    def __init__(self, engine: Engine, config: TempLoraConfig) -> None:
        self.config = config
        self.meter = Meter(engine.model.device)
        self.receipt: Receipt | None = None
        self._engine = engine
        self._tokenizer = engine.tokenizer
        opening = opening_ids(self._tokenizer)
        self._sinks = len(opening)
        if self._sinks >= config.context:
            raise OptionError("chunk_size", "leaves no room for context in the window")
        self.tokens: list[int] = opening
        self._chunk_start = 0
        self._chunk_index = 0
        self._written_from = 0
        self._generator = torch.Generator(engine.model.device).manual_seed(config.seed)
        self._bank, self._slot = engine.adapter_slot(self, config)
        adapter = Adapter(self._bank, self._slot, config.scaling)
        self._adapted = Decoder(engine.model, adapter, config, self._sinks, self.meter)
        base = Adapter(self._bank, None, config.scaling)
        self._base = Decoder(engine.model, base, config, self._sinks, self.meter)
        self._learner = Learner(engine.model, self._bank, self._slot, config, self.meter)

    # What a caller may ask -------------------------------------------------------------------------------------

    @property
    def version(self) -> int:
        """Updates committed so far."""
        self._alive()
        return self._bank.state(self._slot).version

    @property
    def text(self) -> str:
        """Everything given and written so far."""
        return decode(self._tokenizer, self.tokens)

    @property
    def closed(self) -> bool:
        return self.receipt is not None

    # Verbs -----------------------------------------------------------------------------------------------------

    def absorb(self, text: str) -> None:
        """Takes in a given text: learns every full chunk of it, keeps the rest as context."""
        for _ in self.absorb_events(text):
            pass

    def absorb_events(self, text: str) -> Iterator[Event]:
        """`absorb`, yielding `ChunkLearned` and `Absorbed` as it goes."""
        ids = self._encode(text)
        yield from self._finish_interrupted()
        done = 0
        while done < len(ids):
            with self._engine.lock:
                self._alive()
                piece = ids[done : done + self._room()]
                self._give(piece)
                done += len(piece)
                learned = self._close_if_full()
            if learned:
                yield learned
            yield Absorbed(done, len(ids))

    def score(self, text: str) -> Score:
        """Predicts a given text, each chunk before it is learnt, by the base and with the adapter."""
        score = Score(Likelihood(), Likelihood())
        for event in self.score_events(text):
            if isinstance(event, ChunkScored):
                score.base.add(event.base_nll, event.targets)
                score.adapted.add(event.adapted_nll, event.targets)
        return score

    def score_events(self, text: str) -> Iterator[Event]:
        """`score`, yielding `ChunkScored`, `ChunkLearned` and `Absorbed` as it goes."""
        yield from self.score_ids(self._encode(text))

    def score_ids(self, ids: Sequence[int]) -> Iterator[Event]:
        """`score_events` for a text that is tokens already."""
        yield from self._finish_interrupted()
        done = 0
        while done < len(ids):
            with self._engine.lock:
                self._alive()
                piece = list(ids[done : done + self._room()])
                scored = self._append_scored(piece)
                done += len(piece)
                learned = self._close_if_full()
            yield scored
            if learned:
                yield learned
            yield Absorbed(done, len(ids))

    def write(
        self, prompt: str = "", *, tokens: int = 256, sampling: SamplingParams | None = None, stop_at_end: bool = False
    ) -> str:
        """Writes on after `prompt` and returns what was written. Arguments as for `stream`."""
        events = self.stream(prompt, tokens=tokens, sampling=sampling, stop_at_end=stop_at_end)
        return "".join(e.text for e in events if isinstance(e, TokenEvent | Finished))

    def stream(
        self,
        prompt: str = "",
        *,
        tokens: int = 256,
        sampling: SamplingParams | None = None,
        stop_at_end: bool = False,
        chat: bool = False,
        score: bool = False,
    ) -> Iterator[Event]:
        """Absorbs `prompt`, then writes up to `tokens` tokens, learning each chunk as it fills.

        Args:
            prompt: text to go on from; may be empty if the session already holds some.
            tokens: how many to write.
            sampling: how they are chosen.
            stop_at_end: stop at an end-of-text token. Otherwise such tokens are never chosen (as with
                `min_new_tokens` in transformers' `generate`).
            chat: put the prompt into the model's chat template, as the user's turn.
            score: also say how likely the base finds what is written, for one more pass over each chunk.

        Yields:
            `ChunkLearned` and `Absorbed` for the prompt; then `TokenEvent`s, with a `ChunkLearned` (before it a
            `ChunkScored`, if asked for) after each full chunk; at last one `Finished`.

        Raises:
            OptionError: `tokens` below 1, or `chat` for a model that has no template.
            TextError: no prompt and nothing in the session, so that there is nothing to go on from.
        """
        if tokens < 1:
            raise OptionError("tokens", f"must be at least 1, not {tokens}")
        yield from self.absorb_events(self._as_chat(prompt) if chat else prompt)
        if not self.tokens:
            raise TextError("there is nothing to go on from: give a prompt")
        ends = end_ids(self._tokenizer, self._engine.generation_config)
        sampler = Sampler(sampling or SamplingParams(), [] if stop_at_end else ends, self._generator)
        text = TextStream(self._tokenizer)
        self._written_from = len(self.tokens)
        reason: FinishReason = "length"
        written = 0
        while written < tokens and reason == "length":
            with self._engine.lock:
                self._alive()
                token = self._next(sampler)
                if token in ends:
                    reason = "stop"
                else:
                    self.tokens.append(token)
            if reason == "length":
                yield TokenEvent(len(self.tokens) - 1, token, text.push(token))
                written += 1
            with self._engine.lock:
                full = self._room() == 0
                done = full or written == tokens or reason == "stop"
                scored = self._score_written() if score and done else None
                learned = self._close_if_full()
            if scored:
                yield scored
            if learned:
                yield learned
        yield Finished(written, reason, text.flush())

    def close_chunk(self) -> ChunkLearned | None:
        """Learns the tokens of the open chunk now, though it is not full; None if there is nothing to learn."""
        with self._engine.lock:
            self._alive()
            return self._close()

    def save_adapter(self, folder: str | os.PathLike[str]) -> None:
        """Exports the adapter in PEFT's format; without this nothing of it outlives the session."""
        with self._engine.lock:
            self._alive()
            weights = self._bank.state(self._slot).weights
            base = self._engine.model.module
            save_adapter(Path(folder), self._bank.layout, weights, self.config.alpha, self.config.dropout, base)

    def load_adapter(self, folder: str | os.PathLike[str]) -> None:
        """Goes on from an adapter in PEFT's format, with a fresh optimiser.

        Raises:
            ModelError: unreadable, or of another shape than this session's.
        """
        with self._engine.lock:
            self._alive()
            weights = load_adapter(Path(folder), self._bank.layout, self.config.alpha).to(self._bank.device)
            self._bank.commit(self._slot, replace(AdapterState.fresh(weights), version=self.version + 1))

    def discard(self) -> Receipt:
        """Throws the adapter, its optimiser state and the caches away; the text stays. May be called twice.

        Returns:
            Whether the base is bit for bit what it was, and whether nothing of the adapter is left on it.
        """
        if self.receipt is None:
            with self._engine.lock:
                self._engine.release(self, self._bank, self._slot)
                del self._adapted, self._base, self._learner, self._bank
                self.receipt = self._engine.receipt()
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

    def _finish_interrupted(self) -> Iterator[Event]:
        """Closes a chunk that filled up just before the caller stopped listening."""
        with self._engine.lock:
            self._alive()
            learned = self._close_if_full()
        if learned:
            yield learned

    def _prepare(self, *decoders: Decoder) -> None:
        for decoder in decoders:
            decoder.prepare(self.tokens, self._chunk_start, self.version)

    def _next(self, sampler: Sampler) -> int:
        self._prepare(self._adapted)
        with self.meter.phase("decode"):
            logits = self._adapted.next_logits(self.tokens)
            return sampler(logits, self.tokens[-self.config.window :])

    def _score_written(self) -> ChunkScored | None:
        """The written tokens of the open chunk, read once more by base and adapter alike, in one pass each.

        The logits it was sampled from would not do: in bf16 an NLL depends on how many tokens are read at once.
        """
        began = time.perf_counter()
        first, end = max(self._written_from, self._chunk_start), len(self.tokens)
        if first >= end:
            return None
        self._base.prepare(self.tokens[:first], self._chunk_start, self.version)
        with self.meter.phase("score"):
            base = self._base.nll(self.tokens, first)
            adapted = self._adapted.nll_again(self.tokens, first)
        return ChunkScored(first, end, end - first, base, adapted, time.perf_counter() - began)

    def _append_scored(self, piece: list[int]) -> ChunkScored:
        began, start = time.perf_counter(), len(self.tokens)
        self._prepare(self._base, self._adapted)
        self._give(piece)
        first = max(1, start)
        if first == len(self.tokens):  # one token, with nothing before it to predict it from
            return ChunkScored(start, first, 0, 0.0, 0.0, 0.0)
        with self.meter.phase("score"):
            base = self._base.nll(self.tokens, first)
            adapted = self._adapted.nll(self.tokens, first)
        end = len(self.tokens)
        return ChunkScored(start, end, end - first, base, adapted, time.perf_counter() - began)

    def _close_if_full(self) -> ChunkLearned | None:
        return self._close() if self._room() == 0 else None

    def _close(self) -> ChunkLearned | None:
        """Learns the open chunk if it should be, and opens the next one."""
        start, end = self._chunk_start, len(self.tokens)
        chunk = Chunk(self._chunk_index, max(0, start - self.config.context), start, end)
        if self.config.learning == "off" or not chunk.targets:
            learned = None
        elif (share := self._repetition(start, end)) > self.config.max_repetition:
            reason = f"repetitive: {share:.0%} of its 4-grams repeat (max_repetition is {self.config.max_repetition:g})"
            learned = ChunkLearned(chunk.index, start, end, False, self.version, reason)
        else:
            learned = self._learn(chunk)
        self._chunk_start = end
        self._chunk_index += 1
        return learned

    def _learn(self, chunk: Chunk) -> ChunkLearned:
        began = time.perf_counter()
        if not self.config.context_gradients:
            self._prepare_context(chunk)
        with self.meter.phase("learn"):
            update = self._learner.learn(self.tokens, chunk, self._adapted.cache)
        return ChunkLearned(
            index=chunk.index,
            start=chunk.middle,
            end=chunk.end,
            committed=update.committed,
            version=self.version,
            reason=update.reason,
            loss=update.loss,
            grad_norm=update.grad_norm,
            update=update.change,
            seconds=time.perf_counter() - began,
        )

    def _prepare_context(self, chunk: Chunk) -> None:
        """The cache must reach up to the token before the chunk; a chunk that was given, not read, is not in it."""
        cache = self._adapted.cache
        if cache.next_token < chunk.first_target - 1 or cache.served_version != self.version:
            self._adapted.prepare(self.tokens[: chunk.first_target], chunk.middle, self.version)

    def _repetition(self, start: int, end: int) -> float:
        """Share of repeated 4-grams in the tokens of this chunk that the model wrote itself; 0 for a given text."""
        written = self.tokens[max(start, self._written_from) : end]
        return repeated(written) if len(written) >= 16 else 0.0

    def _encode(self, text: str) -> list[int]:
        self._alive()
        return encode(self._tokenizer, text, special=False)

    def _give(self, piece: list[int]) -> None:
        """Appends tokens that the model did not write itself."""
        known = self._engine.model.vocabulary
        if max(piece) >= known:
            raise ModelError(
                f"{self._engine.name}: the tokenizer gives ids up to {max(piece)}, the model knows {known}; "
                "they do not belong together"
            )
        self.tokens.extend(piece)
        self._written_from = len(self.tokens)

    def _as_chat(self, prompt: str) -> str:
        if not getattr(self._tokenizer, "chat_template", None):
            raise OptionError("chat", "this model has no chat template")
        turns = [{"role": "user", "content": prompt}]
        return str(self._tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))

    def _alive(self) -> None:
        if self.receipt is not None:
            raise SessionClosed("this session has been discarded")
