"""`SavedSession`: a session whose every step is in a log before anybody sees it.

    verb ─► log: what is asked ─► session ─► event ─► log: token, update ─► caller
                                                 └─ now and then, between two chunks: a snapshot

What a killed process leaves is gone on from as a run of the same program would: the last snapshot is restored, and what
the log has after it is done again, its tokens known. On the same machine the session is then what it was, to the bit.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from templora.arguments import SEEDS, Writing, plain, whole, yes
from templora.errors import ModelError, OptionError, SessionClosed, StoreError, TextError
from templora.events import END, Absorbed, ChunkLearned, ChunkScored, Event, Finished, TokenEvent
from templora.metrics import Likelihood
from templora.runtime.signals import deferred
from templora.sampling import SamplingParams
from templora.store.history import Act, History
from templora.store.log import FORMAT, Log, New, Record
from templora.store.snapshots import MAX_KEPT, Snapshots
from templora.text import framed, parts_of, text_pieces

if TYPE_CHECKING:  # what is in the store is listed without torch
    from templora.decoding.preview import Preview
    from templora.engine.engine import Engine
    from templora.session.notes import Notes
    from templora.session.session import Session

Progress = Callable[[int, int], None]  # tokens done, of how many


class SavedSession:
    """One text on disk, in use. Made by `SessionStore`; a context manager that leaves it there.

    Args:
        name: of the session.
        folder: where it is; the caller holds it.
        log, history: open, and what it says.
        engine: with the model that it began with.
        keep: most snapshots to keep.
        progress: told, while what came after the last snapshot is done again.
        session: of the engine's, that has just begun so; without it, one is made.

    Attributes:
        log, history: of the session.
        remarks: what the user should know about how it was opened.
        late: what became of chunks then, of which the process before could not say it any more.
    """

    def __init__(
        self,
        name: str,
        folder: Path,
        log: Log,
        history: History,
        engine: Engine,
        *,
        keep: int = 3,
        progress: Progress = lambda *_: None,
        session: Session | None = None,
    ) -> None:
        from templora.config import TempLoraConfig

        self.name, self.folder = name, folder
        self.remarks = [f"{log.path}: {problem}; it was left out" for problem in history.dropped]
        self.log, self._engine, keep = log, engine, whole("keep", keep, 1, MAX_KEPT)
        self.history = history
        begin = history.begin
        if session is None and (unlike := engine.unlike(begin["model"])):
            raise ModelError(
                f"session {name!r} began with another model, {begin['model']['name']}, than {engine.name}: {unlike}"
            )
        self._on_close: Callable[[], None] = lambda: None
        self._pending: Iterator[Event] | None = None
        self.late: list[Event] = []
        self._verbs = 0  # asked for so far: whoever still listens to an earlier one is told that it was left
        # What became of chunks, by where they end.
        reports = [r for r in self.history.records if r.kind in ("learned", "scored")]
        self._chunks: dict[tuple[str, int], Any] = {(r.kind, r.data["end"]): r.data for r in reports}
        self.session: Session = session or engine.session(TempLoraConfig.stored(begin["config"]))
        self._snapshots = Snapshots(folder, self.session, history, partial(self._note, durable=True), keep)
        try:
            self._snapshots.sweep()
            self._go_on(progress)
            if log.format < FORMAT:
                self.remarks.append(
                    f"{log.path}: an older version began it, which drew random numbers in another way: its text stays; "
                    "what it writes from here on may differ from what that one would have written"
                )
                with contextlib.suppress(StoreError):  # a full disk, say: it is said again next time
                    log.renew()
        except BaseException:
            self._snapshots.leave()
            self.session.discard()
            raise

    def __repr__(self) -> str:
        if "session" not in vars(self):
            return "<SavedSession that has not begun>"
        state = "closed" if self.session.closed else f"{len(self.tokens):,} tokens"
        return f"<SavedSession {self.name!r} in {self.folder}: {state}>"

    # What a caller may ask -------------------------------------------------------------------------------------

    @property
    def text(self) -> str:
        """Everything given and written so far, as it was shown."""
        return self.history.text

    @property
    def tokens(self) -> list[int]:
        return self.session.tokens

    @property
    def notes(self) -> str:
        """As `Session.notes`."""
        return self.session.notes

    @property
    def open_tokens(self) -> int:
        """Tokens of the open chunk, as `Session` has them."""
        if not self.session.closed:
            self._catch_up()
        return self.session.open_tokens

    @property
    def pending(self) -> int:
        """Tokens that a write which was cut short has still to write."""
        act = self.history.pending
        return max(0, act.left) if act else 0

    # Verbs -----------------------------------------------------------------------------------------------------

    def absorb(self, text: str, *, learn: bool = True) -> None:
        """As `Session.absorb`."""
        for _ in self.absorb_events(text, learn=learn):
            pass

    def absorb_events(self, text: str, *, learn: bool = True) -> Iterator[Event]:
        """As `Session.absorb_events`."""
        yield from self.absorb_parts([(text, learn)])

    def absorb_parts(
        self,
        parts: Sequence[tuple[str, bool]],
        *,
        first: Mapping[str, Any] | None = None,
        mark: Mapping[str, Any] | None = None,
        score: bool = False,
    ) -> Iterator[Event]:
        """Texts one after another, each with whether it is to be learnt; all of it is put into the log at once.

        `first` is a mark that comes before all of it, `mark` before the last piece, so that a log that is rewound into
        the parts does not have it. With `score`, what is to be learnt is predicted first, as by `Session.score_events`.
        """
        self._alive()
        given = [(self.session.encode(text), yes("learn", learn)) for text, learn in parts]
        before, within = ([] if said is None else _mark(said) for said in (first, mark))
        records = self._given(given, score=score)
        self._ask([*before, *records[:-1], *within, *records[-1:]])
        yield from self._follow(self._absorb(given, score=score))

    def _absorb(self, given: Sequence[tuple[Sequence[int], bool]], *, score: bool = False) -> Iterator[Event]:
        for ids, learn in given:
            yield from self._take_in(ids, learn=learn, score=score)

    def _take_in(self, ids: Sequence[int], *, learn: bool, score: bool) -> Iterator[Event]:
        return self.session.score_ids(ids) if score and learn else self.session.absorb_ids(ids, learn=learn)

    def preview(self, prompt: str = "", **how: Any) -> Preview:
        """As `Session.preview`."""
        self._alive()
        self._catch_up()
        return self.session.preview(prompt, **how)

    def likelihood(self, prompt: str, text: str) -> Likelihood:
        """As `Session.likelihood`."""
        self._alive()
        return self.session.likelihood(prompt, text)

    def write(self, prompt: str = "", **how: Any) -> str:
        """As `Session.write`."""
        return "".join(e.text for e in self.stream(prompt, **how) if isinstance(e, TokenEvent | Finished))

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
        mark: Mapping[str, Any] | None = None,
    ) -> Iterator[Event]:
        """As `Session.stream`. What it yields is on disk; if it does not come to its end, `resume` goes on.

        `mark` is put into the log with what is asked, before what is written.
        """
        self._alive()
        asked = Writing(  # before it is in the log
            max_new_tokens=max_new_tokens, stop_at_end=stop_at_end, chat=chat, learn_prompt=learn_prompt, score=score
        )
        ids, learn = self.session.encode(prompt, chat=asked.chat), asked.learn_prompt
        sampling = replace(SamplingParams.of(sampling))  # checked again, as by who opens the log next
        self._check_sampling(sampling, asked.stop_at_end)
        if not self.session.tokens and not ids:
            raise TextError("there is nothing to go on from: give a prompt")
        how = {name: getattr(asked, name) for name in ("max_new_tokens", "stop_at_end", "score")}
        given = [(ids, learn)]
        marks = [] if mark is None else _mark(mark)
        self._ask([*self._given(given), *marks, ("write", (), {**how, "sampling": asdict(sampling)})])
        yield from self._follow(self._absorb(given))
        yield from self._follow(self.session.stream("", sampling=sampling, **how))

    def resume(self) -> Iterator[Event]:
        """Goes on with a write that was cut short; yields nothing if there is none."""
        self._alive()
        self._catch_up()
        self._verbs += 1
        events, self._pending = self._pending, None
        act = self.history.pending
        if act is None:
            return
        yield from self._follow(events or (self._stream(act, act.left) if act.left > 0 else self._finish()))

    def _finish(self) -> Iterator[Event]:
        """The end of a write whose last token is there."""
        yield from self.session.absorb_ids([])
        yield Finished(0, "length")

    def close_chunk(self) -> ChunkLearned | None:
        """As `Session.close_chunk`."""
        self._alive()
        self._ask([("close", (), {})])
        learned = [event for event in self._follow(self._close_chunk()) if isinstance(event, ChunkLearned)]
        return learned[-1] if learned else None

    def load_adapter(self, folder: str | os.PathLike[str]) -> None:
        """As `Session.load_adapter`; a copy of it stays with the session."""
        from templora.session.snapshot import Snapshot

        self._alive()
        weights = self.session.read_adapter(folder)
        path = self._snapshots.files / self._snapshots.new_name(self.log.length, "adapter-")
        digest = Snapshot({"weights": weights}, {}).save(path, durable=True)
        self._ask([("adapter", (), {"file": path.name, "sha256": digest})], durable=True)
        self.session.use_adapter(weights)

    def save_adapter(self, path: str | os.PathLike[str]) -> None:
        """As `Session.save_adapter`."""
        self._alive()
        self.session.save_adapter(path)

    def mark(self, data: Mapping[str, Any]) -> None:
        """Puts `data` into the log, at this point of the text."""
        self._alive()
        self._catch_up()
        self._note(_mark(data), durable=True)

    def reseed(self, seed: int) -> None:
        """Random numbers begin anew, from this seed: after a rewind, so that another text comes."""
        self._alive()
        seed = whole("seed", seed, *SEEDS)
        self._ask([("seed", (), {"seed": seed})], durable=True)
        self.session.reseed(seed)

    def set_notes(self, notes: str) -> None:
        """As `Session.set_notes`. A write that was cut short is still to be gone on with, by `resume`, with these."""
        self._alive()
        found = self.session.loop.make_notes(notes)  # before it is in the log
        self._catch_up()
        if found == self.session.loop.text.notes:
            return
        act = self.history.pending
        rest: list[New] = [("write", (), {**act.data, "max_new_tokens": act.left})] if act and act.left > 0 else []
        with deferred():
            self._ask([noted(found), *rest], durable=True)
            self.session.set_notes(notes)

    def snapshot(self) -> None:
        """Makes a snapshot now, so that going on from here takes no time."""
        self._alive()
        self._catch_up()
        self._snapshots.make(self.log.length)

    def close(self) -> None:
        """Leaves the session on disk, and forgets its adapter here. May be called twice."""
        try:
            if not self.session.closed:
                self._catch_up_log()
                self._snapshots.make_if_worth_it(self.log.length)
                self.log.sync()
        finally:
            self.leave()

    def leave(self) -> None:
        """Forgets the session here as it is on disk: what it is in the middle of is done again when it is opened."""
        self._pending = None
        self._snapshots.leave()
        with contextlib.suppress(StoreError):  # whoever could do something about it was told before
            self.log.sync()
        try:
            self.session.discard()
        finally:
            self.log.close()
            self._on_close()

    def on_close(self, what: Callable[[], None]) -> None:
        """What is to be done when it is closed, besides."""
        self._on_close = what

    def __enter__(self) -> SavedSession:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.close()
        else:  # what the session is in the middle of is done again when it is opened next
            self.leave()

    # The log ---------------------------------------------------------------------------------------------------

    def _ask(self, records: Sequence[New], *, durable: bool = False) -> None:
        """Logs what the session is about to do. A write that was cut short is left as it is."""
        self._catch_up()
        self._verbs += 1
        self._pending = None
        self._note(records, durable=durable)

    def _alive(self) -> None:
        if self.session.closed:
            raise SessionClosed(f"session {self.name!r} is closed; it is on disk: open it again")

    def _note(self, records: Sequence[New], *, durable: bool = False) -> None:
        for seq, new in enumerate(records, self.log.length):
            try:
                self.history.check(Record(seq, *new))
            except ValueError as error:  # never in the log, where it would be in the way for ever
                raise StoreError(f"session {self.name!r} cannot keep this: {error}") from error
        for record in self.log.extend(records):
            self.history.add(record)
        self.log.sync(due=not durable)

    def _given(self, parts: Sequence[tuple[Sequence[int], bool]], *, score: bool = False) -> list[New]:
        """Given texts as records, each within a chunk, so that the log can be cut between any two chunks."""
        self._catch_up()  # where the open chunk ends depends on it
        return self._records(parts, score=score)

    def _records(self, parts: Sequence[tuple[Sequence[int], bool]], *, score: bool = False) -> list[New]:
        size, before = self.session.config.chunk_size, self.history.tokens
        open_tokens = len(before) - (self.history.chunks[-1] if self.history.chunks else 0)
        records: list[New] = []
        for ids, learn in parts:
            cuts = range(size - open_tokens % size, len(ids), size)
            texts = text_pieces(self._engine.tokenizer, before, ids, cuts)
            how = {"learn": False} if not learn else {"score": True} if score else {}
            records += [
                ("given", ids[start:end], {"text": text, **how})
                for start, end, text in zip([0, *cuts], [*cuts, len(ids)], texts, strict=True)
                if end > start
            ]
            before, open_tokens = [*before, *ids], open_tokens + len(ids)
        return records

    def _follow(self, events: Iterator[Event]) -> Iterator[Event]:
        """Passes on events that are new, each when it is in the log."""
        verb = self._verbs
        with contextlib.closing(events):  # type: ignore[type-var]
            while True:
                if verb != self._verbs:
                    raise StoreError(f"session {self.name!r} was asked for something else meanwhile; this was left")
                event = next(events, None)
                if event is None:
                    break
                if not self._record(event):
                    continue
                try:
                    yield event
                except GeneratorExit:  # nobody listens any more
                    self.log.sync()
                    raise
                if isinstance(event, ChunkLearned | Absorbed) and self._at_border:
                    self._snapshots.make_if_due(self.log.length)
        self.log.sync()

    @property
    def _at_border(self) -> bool:
        """Whether everything is seen, and a chunk begins here."""
        return not self.session.open_tokens and self.session.loop.is_seen

    def _record(self, event: Event) -> bool:
        """Puts an event into the log; False if it is there already."""
        if isinstance(event, TokenEvent):
            known = len(self.history.tokens)
            if event.index >= known:
                self._note_tokens(event.index + 1, event.text)
            return event.index >= known
        if isinstance(event, Finished):
            # Tokens that nobody was told of are what the last one says before a stop text: with the end, or not at all.
            ids = self.session.tokens[len(self.history.tokens) :]
            last: list[New] = [("token", ids, {"text": event.text})] if ids else []
            self._note([*last, ("end", (), {"reason": event.reason, "text": "" if ids else event.text})])
        elif isinstance(event, ChunkLearned | ChunkScored):
            kind = "learned" if isinstance(event, ChunkLearned) else "scored"
            before = self._chunks.get((kind, event.end))
            if before is not None:
                if isinstance(event, ChunkLearned) and event.loss != before["loss"]:
                    self._differs(event.index)
                return False
            data = self._chunks[kind, event.end] = asdict(event)
            self._note([(kind, (), data)], durable=kind == "learned")
        return True

    def _note_tokens(self, end: int, text: str | None = None) -> None:
        """Logs what was written up to `end`; `text` is that of the last token."""
        known, tokens = len(self.history.tokens), self.session.tokens
        if text is None or end > known + 1:  # whoever waited for the token before was interrupted
            text = "".join(text_pieces(self._engine.tokenizer, tokens[:known], tokens[known:end], ()))
        self._note([("token", tokens[known:end], {"text": text})])

    def _catch_up(self) -> None:
        """Log and session say the same again, where the caller of a verb was interrupted between the two."""
        self._catch_up_log()
        here, known = len(self.session.tokens), len(self.history.tokens)
        if here < known:  # it is read here, and by no one who still listens to that verb
            self._verbs += 1
        for act in self.history.acts if here < known else ():
            if act.end > here:
                ids = act.ids[max(0, here - act.start) :]
                for event in self._take_in(ids, learn=act.learn, score=act.score):
                    self._record(event)

    def _catch_up_log(self) -> None:
        self.session.settle()
        here, known = len(self.session.tokens), len(self.history.tokens)
        if here > known and self.history.pending:
            self._note_tokens(here)
        elif here > known:  # given to the session itself, past its log: all that can be known is the text
            self._note(self._records([(self.session.tokens[known:], True)]))

    def _differs(self, chunk: int) -> None:
        if not any("not learnt as before" in said for said in self.remarks):
            why = "another machine, number of threads or version of torch"
            self.remarks.append(f"chunk {chunk} was not learnt as before ({why}?): what follows may differ")

    def _close_chunk(self) -> Iterator[Event]:
        learned = self.session.close_chunk()
        if learned:
            yield learned

    # Going on --------------------------------------------------------------------------------------------------

    def _go_on(self, progress: Progress) -> None:
        """Makes the session what the log says it is."""
        history = self.history
        at, until = len(history.opening), 0
        for record in reversed(history.snapshots):
            if self._restored(record):
                # None holds what came after it; forks of older versions say so.
                at, until = record.data["tokens"], min(record.data["until"], record.seq)
                break
        for act in history.acts:
            if act.end < at or (act.end == at and act.ended is not None and act.ended <= until):
                continue
            for event in self._again(act, at):
                if not isinstance(event, Finished) and self._record(event):
                    self.late += [event] if isinstance(event, ChunkLearned | ChunkScored) else []
                progress(len(self.session.tokens) - at, len(history.tokens) - at)
                if isinstance(event, ChunkLearned | Absorbed) and self._at_border:
                    self._snapshots.make_if_due(self.log.length, act.seq)
        if self._pending is None:
            for event in self.session.absorb_ids([]):  # a chunk may be full and not learnt yet
                self.late += [event] if self._record(event) else []

    def _again(self, act: Act, at: int) -> Iterator[Event]:
        """Does once more what is after token `at` of an act."""
        session, known = self.session, act.ids[max(0, at - act.start) :]
        problem = self._refused(act)
        if problem:
            instead = "it is left out" if act.kind == "notes" else "its text is read"
            self.remarks.append(f"{self.log.path}: record {act.seq} cannot be done again: {problem}; {instead}")
            act.ended, act.reason = act.seq, "left"
            yield from session.absorb_ids(known)
        elif act.kind == "given":
            yield from self._take_in(known, learn=act.learn, score=act.score)
        elif act.kind == "close":
            yield from self._close_chunk()
        elif act.kind == "seed":
            session.reseed(act.data["seed"])
        elif act.kind == "notes":
            session.set_notes(_notes(act))
        elif act.kind == "adapter":
            try:
                session.use_adapter(self._snapshots.read(act.data).tensors.get("weights"))
            except FileNotFoundError as error:
                raise StoreError(f"{error.filename}: is missing; go back to a chunk before it") from error
        else:
            yield from self._write_again(act, known)

    def _refused(self, act: Act) -> str:
        """Why a write of an older version cannot be asked for, or notes cannot stand; empty if they can."""
        try:
            if act.kind == "notes":
                self.session.loop.make_notes(_notes(act))
            if act.kind == "write":
                self._check_sampling(SamplingParams.stored(act.data["sampling"]), act.data["stop_at_end"])
        except (OptionError, TextError, TypeError, ValueError) as error:
            return str(error)
        return ""

    def _check_sampling(self, sampling: SamplingParams, stop_at_end: bool) -> None:
        """Raises OptionError if nothing can be written so."""
        from templora.session.samplers import the_sampler

        the_sampler(self.session, sampling, stop_at_end)

    def _write_again(self, act: Act, known: list[int]) -> Iterator[Event]:
        left = act.left + len(known)
        whole = act.reason in ("stop", "length")
        if act.reason == "stop":  # the end was drawn too
            known = [*known, END]
        if left <= 0 or not (whole or known):
            return
        events, written = self._stream(act, left, known), 0
        for event in events:
            yield event
            written += isinstance(event, TokenEvent)
            if written == len(known) and not whole:
                break
        if act.ended is None:
            self._pending = events

    def _stream(self, act: Act, left: int, known: Sequence[int] = ()) -> Iterator[Event]:
        """What is left of a write."""
        how = {key: act.data[key] for key in ("stop_at_end", "score")}
        how["resume"] = len(self.session.tokens) > act.start
        sampling = SamplingParams.stored(act.data["sampling"])
        return self.session.stream("", max_new_tokens=left, sampling=sampling, forced_tokens=known, **how)

    def _restored(self, record: Record) -> bool:
        """Makes the session what the snapshot of a record says, if that is kept, whole, and of this session."""
        try:
            held = self._snapshots.read(record.data)
        except FileNotFoundError:
            return False
        except (StoreError, TextError, OSError) as error:
            self.remarks.append(f"{error}; an older snapshot is gone on from")
            return False
        try:
            self.session.restore(self.history.tokens[: record.data["tokens"]], held)
        except TextError as error:
            path = self._snapshots.files / record.data["file"]
            self.remarks.append(f"{path}: {error}; an older snapshot is gone on from")
            return False
        if "seed" not in held.meta:  # of an older version
            seeds = [act.data["seed"] for act in self.history.acts if act.kind == "seed" and act.seq < record.seq]
            if seeds:
                self.session.reseed(seeds[-1])
        return True


def noted(notes: Notes) -> New:
    """The record of notes that stand from there on."""
    parts = parts_of(notes.text)
    return "notes", (), {"notes": str(notes.text), "tokens": len(notes), **({"parts": parts} if parts else {})}


def _notes(act: Act) -> str:
    """The notes that a record holds."""
    return framed(act.data["notes"], act.data.get("parts"))


def _mark(data: Mapping[str, Any]) -> list[New]:
    return [("mark", (), plain("mark", data))]
