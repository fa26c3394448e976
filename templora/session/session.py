"""`Session`: one text in progress, its temporary adapter, and the verbs that go on with it.

    source: given, scored or sampled ─► transcript ─► chunk full: cycle ─► window moves on
                                        (`Sources`)    (`ChunkCycle`)      (`Readers`)

Verbs are plans (`templora.decoding.plans`): the engine drives them, for this thread alone or among those of other
sessions. Those with an `_events` or `stream` name yield events as things happen; the others fold that stream.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch

from templora.arguments import SEEDS, Writing, whole, yes
from templora.config import TempLoraConfig
from templora.decoding.preview import Preview
from templora.decoding.reader import Reader
from templora.errors import OptionError
from templora.events import END, ChunkLearned, Event, Finished, TokenEvent
from templora.learning.learner import Learner
from templora.lora import adapter_files
from templora.lora.slot import Slot
from templora.methods.base import Method
from templora.metrics import Likelihood
from templora.runtime.metering import Meter
from templora.runtime.signals import deferred
from templora.sampling import SamplingParams, Wanted
from templora.session.chunk_cycle import Lesson
from templora.session.fitting import check_weights
from templora.session.loop import Loop
from templora.session.notes import Notes
from templora.session.results import Receipt, Score
from templora.session.samplers import samplers, the_sampler
from templora.session.snapshot import Snapshot
from templora.session.sources import Given, Sampled, Scored
from templora.text import decode, opening_ids

if TYPE_CHECKING:
    from templora.engine.engine import Engine


class Session:
    """One text and its temporary adapter. Made by `Engine.session`; a context manager that discards on exit.

    Attributes:
        config: how it remembers.
        tokens: every id so far, BOS included where the tokenizer has one. Only appended to, but for tokens that may be
            the beginning of a stop text: those are taken back, if it is one, and nobody is told of them.
        meter: seconds and FLOPs spent, by phase.
        receipt: what `discard` found, once it has run.
        engine, loop: whose session it is, and the parts that it is made of.
    """

    def __init__(
        self, engine: Engine, config: TempLoraConfig, method: Method, lesson: Lesson | None, notes: str
    ) -> None:
        opening = opening_ids(engine.tokenizer)
        if len(opening) >= config.context:
            raise OptionError("chunk_size", "leaves no room for context in the window")
        self.config, self.method, self.meter = config, method, Meter(engine.model.device)
        self.receipt: Receipt | None = None
        self.engine, self._stay = engine, engine.admit(self, config, method)
        try:
            probe = engine.probe(config, opening, self.meter)
            learner = Learner(engine.runner, self._stay.slot, config, self.meter, probe)
            memory = engine.begin(self._stay, config, len(opening))
            made = partial(Notes.of, encode=engine.encode, method=method, config=config, opening=len(opening))
            parts = self._stay.slot, engine.runner, learner, memory, self.meter, lesson, engine.new_step, made
            self.loop = Loop(config, opening, *parts)
            self.tokens = self.loop.text.tokens
            self.loop.set_notes(notes)
        except BaseException:  # out of memory, say: leave the model as it was
            engine.release(self._stay)
            raise

    def __repr__(self) -> str:
        if "tokens" not in vars(self):
            return "<Session that has not begun>"
        state = "discarded" if self.closed else f"{self.config.learning}, version {self.version}"
        chunks = self.loop.text.chunk_index
        return f"<Session of {self.engine.name}: {len(self.tokens):,} tokens, {chunks} chunks closed, {state}>"

    # What a caller may ask -------------------------------------------------------------------------------------

    @property
    def closed(self) -> bool:
        return self.loop.ended

    @property
    def version(self) -> int:
        """Updates committed so far; one that is still to be committed is not among them."""
        return self.slot.version

    @property
    def slot(self) -> Slot:
        """Its adapter."""
        self._alive()
        return self._stay.slot

    @property
    def readers(self) -> tuple[Reader, Reader]:
        """What reads this text: through the adapter, and as the bare base does."""
        self._alive()
        return self.loop.readers.adapted, self.loop.readers.base

    @property
    def text(self) -> str:
        """Everything given and written so far."""
        return decode(self.engine.tokenizer, self.tokens)

    @property
    def notes(self) -> str:
        """What stands in every window besides the text (`set_notes`); empty if nothing does."""
        return self.loop.text.notes.text

    @property
    def open_tokens(self) -> int:
        """Tokens of the open chunk, which are not learnt yet."""
        return self.loop.text.open_tokens

    # Verbs -----------------------------------------------------------------------------------------------------

    def encode(self, text: str, *, chat: bool = False) -> list[int]:
        """The ids of a text that is given to this session; with `chat`, of the user's turn in the chat template.

        Raises:
            OptionError: the model has no chat template.
            ModelError: model and tokenizer do not belong together.
        """
        self._alive()
        return self.engine.encode(text, chat=chat)

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
        yield from self.engine.drive(self.loop.run(Given(self.loop, ids, yes("learn", learn))), self.loop)

    def score(self, text: str) -> Score:
        """Predicts a given text, each chunk before it is learnt, by the base and with the adapter."""
        return Score.of(self.score_events(text))

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
        source = Scored(self.loop, ids, base=base, adapted=adapted)
        yield from self.engine.drive(self.loop.run(source), self.loop)

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
        forced_tokens: Sequence[int] = (),
        resume: bool = False,
    ) -> Iterator[Event]:
        """Absorbs `prompt`, then writes up to `max_new_tokens` tokens, learning each chunk as it fills.

        Args:
            prompt: text to go on from; may be empty if the session already holds some.
            max_new_tokens: how many to write.
            sampling: how they are chosen.
            stop_at_end: stop at an end-of-text token; else none is chosen (as with `min_new_tokens` in transformers).
            chat: put the prompt into the model's chat template, as the user's turn.
            learn_prompt: whether the prompt is learnt like what is written; else it is only read.
            score: also say how likely the base finds what is written, for one more pass over each chunk.
            forced_tokens: what the first of these tokens are known to be, from a run that is repeated.
            resume: it is the rest of a call that was left: `score` then takes in what that one wrote.

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
        sampler = the_sampler(self, sampling, how.stop_at_end)
        self._known([token for token in forced_tokens if token != END])
        tokenizer, ends, most = self.engine.tokenizer, self.engine.end_ids, how.max_new_tokens

        def sampled() -> Sampled:
            return Sampled(self.loop, tokenizer, sampler, ends, most, how.score, forced_tokens)

        given = Given(self.loop, self.encode(prompt, chat=how.chat), how.learn_prompt)
        yield from self.engine.drive(self.loop.write(given, sampled, resume), self.loop)

    def preview(
        self,
        prompt: str = "",
        *,
        max_new_tokens: int = 256,
        sampling: SamplingParams | None = None,
        stop_at_end: bool = True,
        wanted: Mapping[str, Wanted] | None = None,
        base: bool = False,
        at: int | None = None,
        each: Callable[[str], None] = lambda _: None,
    ) -> Preview:
        """What it would write after `prompt`. Nothing of that stays: text, adapter and random numbers are as they were.

        Args:
            prompt: text to go on from; may be empty if the session already holds some.
            max_new_tokens: how much at most.
            sampling, stop_at_end: as for `stream`, with random numbers of the seed and the place. With `n` there are so
                many alternatives, the first of which is what there would be alone (`Preview.alternatives`).
            wanted: words that should occur in it, and how (`decoding.wanted_words`).
            base: ask the bare base, not the adapted model.
            at: as if the text had ended after so many tokens, the adapter being that of now.
            each: told the text of each token, one alternative after the other; what it raises ends the draft.

        Raises:
            TextError: no prompt and nothing in the session, so that there is nothing to go on from.
        """
        how = max_new_tokens, samplers(self, sampling, stop_at_end), self.engine.end_ids, wanted
        self.settle()
        plan = self.loop.preview(self.encode(prompt), base, at, self.engine.tokenizer, *how)
        return self.engine.run(plan, lambda said: each(said.text) if isinstance(said, TokenEvent) else None, self.loop)

    def likelihood(self, prompt: str, text: str) -> Likelihood:
        """`Engine.likelihood`, counted among what this session has spent."""
        self._alive()
        return self.engine.likelihood(prompt, text, self.meter)

    def settle(self) -> None:
        """Makes text, caches and random numbers agree, where a verb was interrupted or left; each verb begins so."""
        self.engine.do(self.loop.enter, of=self.loop)

    def close_chunk(self) -> ChunkLearned | None:
        """Learns the tokens of the open chunk now, though it is not full; None if there is nothing to learn.

        With parallel learning: everything that is still to be learnt, and returns what came last.
        """
        self._alive()
        before, learned = self.engine.do(self.loop.close_chunk, "learn", self.loop), self.loop.cycle.events
        return cast(ChunkLearned, learned.pop()) if len(learned) > before else None

    def set_notes(self, notes: str) -> None:
        """Has `notes`, in place of those there were, stand in every window from here on: a memory, an author's note.

        They come first, after BOS, and a blank line after them if they have no line end; blank ones are none. They are
        read, by the base too, and never learnt; no part of the text; and take room from the context. Learning under way
        is finished first. Raises OptionError: too long, or nothing that the session's method can keep.
        """
        self._alive()
        self.engine.do(lambda: self.loop.set_notes(notes), "learn", self.loop)

    def reseed(self, seed: int) -> None:
        """Random numbers of sampling begin anew, from this seed."""
        seed = whole("seed", seed, *SEEDS)
        self.settle()
        self.loop.seed = seed

    # The adapter -----------------------------------------------------------------------------------------------

    def save_adapter(self, path: str | os.PathLike[str], *, half: bool = False) -> None:
        """Exports the adapter, with all full chunks, those that are committed only later too; else nothing of it stays.

        Args:
            path: a folder, for PEFT's format; or a name that ends in .gguf, for llama.cpp's.
            half: a .gguf in fp16, as llama.cpp's own converter writes it: half as large, but rounded.
        """

        def save() -> None:
            self.loop.enter()
            weights = (self.loop.cycle.stage() or self.slot.state).weights
            adapter_files.save(Path(path), self.slot.layout, weights, self.config, self.engine.model.module, half=half)

        self.engine.do(save, of=self.loop)

    def load_adapter(self, path: str | os.PathLike[str]) -> None:
        """Goes on from an adapter, with a fresh optimiser. Learning under way is finished first. What it leaves out
        begins as in a new session.

        Args:
            path: a folder in PEFT's format, or a .gguf file in llama.cpp's.

        Raises:
            ModelError: unreadable, or of another shape than this session's.
        """
        self.use_adapter(self.read_adapter(path))

    def read_adapter(self, path: str | os.PathLike[str]) -> torch.Tensor:
        """The weights of an adapter that `load_adapter` takes, for `use_adapter`."""
        return adapter_files.load(path, self.slot.layout, self.config, self.engine.model.module)

    def use_adapter(self, weights: torch.Tensor | None) -> None:
        """`load_adapter` for an adapter of this session's shape that is a vector already (`adapter_weights`).

        Raises:
            TextError: it is none.
        """
        found = check_weights(weights, self.slot.layout.weights)
        self.engine.do(lambda: self.loop.begin_from(found), "learn", self.loop)

    def adapter_weights(self) -> torch.Tensor:
        """A copy of the adapter as it serves: fp32 [weights], A then B of each target in turn."""
        return self.engine.do(lambda: self.slot.state.weights.clone(), of=self.loop)

    # Snapshots, and the end ------------------------------------------------------------------------------------

    def snapshot(self, *, copy: bool = True) -> Snapshot:
        """All that this session is now, its tokens apart; `restore` goes on from there, to the same bits. An update
        that is still to be made is not made for this: what it reads is part of the snapshot.

        Args:
            copy: without it the tensors are the session's own, of use until it goes on: enough to save them.
        """
        return self.engine.do(lambda: self.loop.settled_snapshot(copy), of=self.loop)

    def restore(self, tokens: Sequence[int], snapshot: Snapshot) -> None:
        """Becomes the session that a snapshot was taken of.

        Args:
            tokens: that session's, BOS included where the tokenizer has one.
            snapshot: of a session of the same model, config and method.

        Raises:
            TextError: it is not of such a session.
        """
        self._known(tokens)
        self.engine.do(lambda: self.loop.become(tokens, snapshot), of=self.loop)

    def discard(self) -> Receipt:
        """Ends the session: nothing of the adapter stays, and the base is as it was. May be called twice."""

        def discard() -> Receipt:
            with deferred():
                if not self.loop.ended:
                    self.loop.end()
                    self.engine.release(self._stay)
                if self.receipt is None:
                    self.receipt = self.engine.receipt(self._stay)
            return self.receipt

        return self.engine.do(discard, of=self.loop)

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.discard()

    def _known(self, ids: Sequence[int]) -> None:
        self._alive()
        self.engine.check_ids(ids)

    def _alive(self) -> None:
        self.loop.alive()
