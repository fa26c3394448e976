"""`Loop`: the parts that a session is made of, and the loop that takes a text through them.

source ─► take: some tokens ─► transcript ─► chunk full? ─► cycle: learn it ─► pass on what became of it ─┐
  ▲                                                                                                    │
  └────────────────────────────────────────────────────────────────────────────────────────────────────┘
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from templora.arguments import whole
from templora.config import TempLoraConfig
from templora.decoding.plans import Plan, Work
from templora.decoding.preview import Preview
from templora.errors import SessionClosed, TextError
from templora.learning.learner import Learner
from templora.lora.slot import STATE, AdapterState, Slot
from templora.lora.targets import first_weights
from templora.methods.base import MethodState
from templora.models.runner import Runner, Step
from templora.runtime.metering import Meter
from templora.runtime.signals import deferred
from templora.session.chunk_cycle import ChunkCycle, Lesson
from templora.session.fitting import Like, check, most_bytes, notes_of
from templora.session.notes import Notes
from templora.session.readers import Readers
from templora.session.scoring import Scorer
from templora.session.snapshot import Snapshot
from templora.session.sources import Sampled, Source, told
from templora.session.transcript import Transcript
from templora.session.unseen import Unseen


class Loop:
    """The life of one text.

    Args:
        config: of the session.
        opening: tokens before every text.
        slot: the adapter.
        runner: runs the base.
        learner: of the slot.
        memory: how what is before a chunk is kept.
        meter: where time and FLOPs are counted.
        lesson: what is learnt of a chunk; None: the chunk.
        new_step: how a new reader is to decode one token.
        notes: `make_notes`.

    Attributes:
        text, unseen, readers, scorer, cycle, neural_cache: its parts.
        seed: of the random numbers that tokens are chosen by.
        ended: it was discarded.
        make_notes: makes notes of a text, or refuses it.
    """

    def __init__(
        self,
        config: TempLoraConfig,
        opening: Sequence[int],
        slot: Slot,
        runner: Runner,
        learner: Learner,
        memory: MethodState,
        meter: Meter,
        lesson: Lesson | None,
        new_step: Callable[[], Step | None],
        notes: Callable[[object], Notes],
    ) -> None:
        self.config, self.slot, self.meter, self.seed, self.ended = config, slot, meter, config.seed, False
        self.text, self.unseen = Transcript(opening, config.chunk_size, config.context), Unseen()
        self.neural_cache = learner.neural_cache
        self.readers = Readers(runner, slot, config, self.text, memory, meter, new_step, self.neural_cache)
        self.scorer = Scorer(config, self.text, self.readers, learner, meter, shares=lesson is None)
        self.cycle = ChunkCycle(config, self.text, self.readers, self.scorer, learner, slot, meter, lesson)
        self._model, self.make_notes = runner.model, notes

    def run(self, source: Source) -> Plan[None]:
        """Wherever tokens come from: some of them, and, when the chunk is full, what is learnt of it."""
        yield Work(self.enter)
        # A chunk may have filled up just before a caller stopped listening.
        yield from self._close_if_full()
        yield from told(self.cycle.events)
        while source.goes_on:
            self.alive()
            yield from source.take()
            yield from self._close_if_full()
            yield from source.pass_on(self.cycle.events)

    def write(self, given: Source, sampled: Callable[[], Sampled], resume: bool) -> Plan[None]:
        """A prompt is given, then goes on what is sampled, which begins where the prompt ends; with `resume` as the
        rest of a write."""
        yield from self.run(given)
        if not self.text.tokens:
            raise TextError("there is nothing to go on from: give a prompt")
        if not resume:
            self.text.scored_to = len(self.text)
        source = sampled()
        yield from self.run(source)
        yield from source.finish()

    def preview(self, ids: Sequence[int], base: bool, at: int | None, tokenizer: Any, *how: Any) -> Plan[Preview]:
        """What comes after the text, or its first `at` tokens, and `ids`, of which nothing stays; `how` as for
        `Previewer.preview`."""
        end = len(self.text) if at is None else whole("at", at, 0, len(self.text))
        tokens = [*self.text.tokens[:end], *ids]
        if not tokens:
            raise TextError("there is nothing to go on from: give a prompt")
        previewer, version = self.readers.previewer(base, tokenizer)
        start = self.text.chunk_start_at(len(tokens)) + len(self.text.notes)
        end += len(self.text.notes)
        return previewer.preview(tokens, self.text.seen(tokens), start, end, version, *how)

    def set_notes(self, text: object) -> None:
        """Has these stand in every window from here on; what is full or under way is learnt first, with those there
        were."""
        notes = self.make_notes(text)
        self.enter()
        if notes != self.text.notes:
            if not self.text.room:  # somebody stopped listening right before it was learnt
                self.cycle.close()
            self.cycle.settle()
            with deferred():
                self._begin_anew(notes)

    def _begin_anew(self, notes: Notes) -> None:
        """Takes these notes; what was read with others is forgotten."""
        self.text.notes = notes
        self.readers.begin_anew()

    def _close_if_full(self) -> Plan[None]:
        self.alive()
        if not self.text.room:
            yield Work(self.cycle.close, "learn")
            if self.cycle.learns_later:
                yield Work(self.cycle.stage, "learn", later=True)

    def enter(self) -> None:
        """What each verb begins with: all that there is says the same again, where one was interrupted half-way."""
        self.alive()
        if self.unseen.since is not None:
            self.take_back(self.unseen.since)
            self.unseen.since = None
        self.cycle.events.extendleft(reversed(self.unseen.put_back()))
        self._tidy()
        self.cycle.remember()

    def close_chunk(self) -> int:
        """Ends the open chunk, and commits all that is still to be; returns how many events there were before."""
        self.enter()
        before = len(self.cycle.events)
        self.cycle.close()
        self.cycle.settle()
        return before

    def begin_from(self, weights: torch.Tensor) -> None:
        """Goes on from another adapter, fp32 [weights], as one that was just begun."""
        self.enter()
        self.cycle.settle()
        self.cycle.begin_anew()
        self.scorer.drop()
        fresh = AdapterState.fresh(weights.to(self.slot.bank.device))
        self.slot.commit(replace(fresh, version=self.slot.version + 1))

    def take_back(self, end: int) -> None:
        """Makes the text end at token `end` again, with all else as it was then: nobody has seen what came after it."""
        with deferred():
            if crossed := self.unseen.take_back(end):
                self.restore(self.text.tokens[: crossed[0]], crossed[1])
                self.cycle.events.clear()
            del self.text.tokens[end:]
            self._tidy()

    def _tidy(self) -> None:
        with deferred():
            self.text.tidy()
            self.cycle.written.cut(len(self.text))
            self.readers.tidy()

    @property
    def is_seen(self) -> bool:
        """Whether no token waits to be seen, which may be the beginning of a stop text."""
        return self.unseen.since is None

    def end(self) -> None:
        """Lets go of everything that holds weights, keys or values."""
        self.ended = True
        self.unseen.all_seen()
        self.cycle.drop()
        del self.readers, self.scorer, self.cycle, self.neural_cache, self._model

    def alive(self) -> None:
        """Raises `SessionClosed` if it is not."""
        if self.ended:
            raise SessionClosed("this session has been discarded")

    # Snapshots -------------------------------------------------------------------------------------------------

    def snapshot(self, copy: bool = True) -> Snapshot:
        """All of it but the tokens; without `copy`, views of use until it goes on."""
        state, readers, cycle = self.slot.state, self.readers.state(), self.cycle.state()
        # An adapter that has learnt nothing is what the seed gives.
        own = {name: getattr(state, name) for name in STATE if state.version}
        found, numbers = self.neural_cache.state() if self.neural_cache else ({}, {})
        tensors = {**own, **readers.tensors, **cycle.tensors, **found}
        meta = {
            **self.text.state(),
            **self.unseen.state(),
            **readers.meta,
            **cycle.meta,
            **numbers,
            "caches": {**readers.meta["caches"], **cycle.meta["caches"]},
            "version": state.version,
            "steps": state.steps,
            "seed": self.seed,
            "mixture": self.scorer.state(),
            "meter": [dict(self.meter.seconds), dict(self.meter.flops)],
            **self.text.notes.state(),
        }
        taken = Snapshot(tensors, meta)
        return taken.copied() if copy else taken

    def settled_snapshot(self, copy: bool = True) -> Snapshot:
        """`snapshot` of what there is when nothing is half done."""
        self.enter()
        return self.snapshot(copy)

    def become(self, tokens: Sequence[int], snapshot: Snapshot) -> None:
        """`restore`, if a snapshot can be one of this session with these tokens; what was spent, too.

        Raises:
            TextError: it cannot.
        """
        self.enter()
        notes = notes_of(snapshot, self.make_notes)
        check(snapshot, self._like(len(tokens), notes))
        self._begin_anew(notes)
        self.restore(tokens, snapshot)
        self.meter.seconds, self.meter.flops = (dict(part) for part in snapshot.meta["meter"])

    def restore(self, tokens: Sequence[int], snapshot: Snapshot) -> None:
        """Becomes what a snapshot was taken of."""
        meta, slot = snapshot.meta, self.slot
        # Copies, since learning edits an adapter's state in place and the snapshot may be restored again.
        tensors = {k: t.to(slot.bank.device, copy=True) for k, t in snapshot.tensors.items()}
        self.cycle.drop()
        if meta["version"]:
            weights, first, second = (tensors[name] for name in STATE)
            slot.commit(AdapterState(weights, first, second, meta["steps"], meta["version"]))
        elif slot.version:  # it had learnt nothing yet
            fresh = first_weights(slot.layout.targets, slot.layout.rank, self.config.seed)
            slot.commit(AdapterState.fresh(fresh.to(slot.bank.device)))
        self.text.load_state(tokens, meta)
        self.unseen.load_state(meta)
        self.readers.load_state(tensors, meta)
        self.scorer.load_state(meta["mixture"])
        self.cycle.load_state(tensors, meta)
        if self.neural_cache:
            self.neural_cache.load_state(tensors, meta)
        self.seed = meta.get("seed", self.seed)  # older ones hold the state of a generator, which is of no use now

    @property
    def snapshot_bytes(self) -> int:
        """About as many as a snapshot holds."""
        looked_up = self.neural_cache.bytes if self.neural_cache else 0
        return len(STATE) * 4 * self.slot.layout.weights + self.readers.adapted.cache.bytes + looked_up

    @property
    def max_snapshot_bytes(self) -> int:
        """More than any snapshot takes."""
        return most_bytes(self._like(len(self.text), self.text.notes), self.readers.method_tensors)

    def _like(self, tokens: int, notes: Notes) -> Like:
        """What a snapshot is like, with so many tokens, and these notes."""
        c = self.config
        return Like(
            tokens=tokens,
            notes=notes,
            chunk_size=c.chunk_size,
            window=c.window,
            positions=self._model.max_positions,
            weights=self.slot.layout.weights,
            entries=self._model.entries,
            memory=self.readers.fits,
            context=c.learning == "parallel" and not c.context_gradients,
            neural_cache=(c.neural_cache, self._model.head.in_features),
            vocabulary=self._model.vocabulary,
        )
