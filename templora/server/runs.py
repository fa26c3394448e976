"""What workers do: answer a request, on the base, in a session, or beside one."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from templora.chat import Message, conversation, message_parts, system_part
from templora.config import TempLoraConfig
from templora.decoding.token_logprobs import token_logprobs
from templora.engine.engine import Engine
from templora.errors import OptionError
from templora.events import Absorbed, ChunkLearned, ChunkScored, Event, Finished, TokenEvent, TokenLogprobs
from templora.runtime.metering import Meter
from templora.sampling import SamplingParams
from templora.server.alignment import Meeting, Spelled, digest_of, meet_text, meet_turns, turns_of
from templora.server.directory import Directory, Known
from templora.server.errors import ApiError, bad, check_ids
from templora.server.items import Begun, Comment, Done, Echo, Item, Token
from templora.store.history import Act, text_of
from templora.text import Framed, decode, opening_ids, ours, token_text

if TYPE_CHECKING:
    from templora.session.session import Session
    from templora.session.snapshot import Snapshot
    from templora.store.saved import SavedSession

Emit = Callable[[Item], None]


@dataclass(frozen=True)
class Asked:
    """What a request wants, whatever it is shaped like.

    Args:
        id: of the answer.
        prompts: texts, or tokens, each of which is to be gone on with; of a chat none.
        system, messages: of a chat.
        sampling: how tokens are chosen.
        choices: answers to each prompt.
        most: tokens of an answer; 0: the prompt is only read.
        stop_at_end: at the model's own end of a text.
        echo: the prompt is part of the answer.
        seed: of random numbers; None: as they come.
        learn: whether what is given is learnt.
        draft: the prompt is the session's own text, edited; False: it comes after that; None: whichever it is like.
        notes: what stands in every window from here on; None: what stood there.
        score: say how likely base and adapter find what is given, before it is learnt.
        key, payload: by which a request that is sent again is known.
    """

    id: str
    prompts: Sequence[str | list[int]]
    sampling: SamplingParams
    most: int
    system: str = ""
    messages: Sequence[Message] = ()
    choices: int = 1
    stop_at_end: bool = True
    echo: bool = False
    seed: int | None = None
    learn: bool = True
    draft: bool | None = None
    notes: str | None = None
    score: bool = False
    key: str | None = None
    payload: str = ""

    @property
    def how(self) -> dict[str, Any]:
        """Arguments of `stream` and `preview`."""
        return {"max_new_tokens": self.most, "sampling": self.sampling, "stop_at_end": self.stop_at_end}


@dataclass
class Runs:
    """Answers requests, each in the thread that it is called in.

    Args:
        engine: shared.
        directory: of its sessions.
        window: of the base, in tokens.
    """

    engine: Engine
    directory: Directory
    window: int
    _base: TempLoraConfig = field(init=False)
    _idle: list[Session] = field(default_factory=list)  # of the base, for who comes next
    _begun: Snapshot | None = None  # what each of them was when it began

    def __post_init__(self) -> None:
        # It learns nothing, so its adapter is as small as can be.
        options: dict[str, Any] = {"learning": "off", "rank": 1, "mixture": False, "min_entropy": 0.0}
        chunk = min(512, max(2, self.window // 2))
        self._base = self.engine.config(window=self.window, chunk_size=chunk, **options)

    def warm_up(self) -> None:
        """Has made and compiled what the first token would wait for."""
        with self._fresh(0) as session:
            session.write(".", max_new_tokens=1)

    # The base --------------------------------------------------------------------------------------------------

    def base(self, asked: Asked, emit: Emit) -> None:
        """Answers by the base alone; nothing is kept."""
        choice = 0
        for ids in self._prompts(asked):
            self._fits(ids, "messages" if asked.messages else "prompt")
            emit(Begun(len(ids)))
            known = self._read(ids, asked) if asked.echo else ()
            for _ in range(asked.choices):
                if asked.echo:
                    emit(Echo(choice, known, decode(self.engine.tokenizer, ids, special=True)))
                seed = secrets.randbits(62) if asked.seed is None else asked.seed + choice
                if asked.most:
                    with self._fresh(seed % 2**63) as session:
                        self._write(session, ids, asked, choice, emit)
                else:
                    emit(Done(choice, "length", 0))
                choice += 1

    @contextlib.contextmanager
    def _fresh(self, seed: int) -> Iterator[Session]:
        """A session that is the bare base, kept for other requests: making one takes longer than a few tokens."""
        try:
            session = self._idle.pop()
        except IndexError:
            session = self.engine.session(self._base)
        try:
            if self._begun is None:
                self._begun = session.snapshot()
            session.restore(opening_ids(self.engine.tokenizer), self._begun)
            session.reseed(seed)
            yield session
        except BaseException:
            session.discard()
            raise
        self._idle.append(session)

    def _prompts(self, asked: Asked) -> list[list[int]]:
        texts: Sequence[str | list[int]] = asked.prompts
        if asked.messages:
            texts = [conversation(self.engine.tokenizer, asked.system, asked.messages)]
        found = []
        for text in texts:
            if isinstance(text, str):
                found.append(self.engine.encode(text))
            else:
                check_ids(text, "prompt", self.engine.model.vocabulary)
                found.append(list(text))
        return found

    def _fits(self, ids: Sequence[int], param: str) -> None:
        if len(ids) >= self.window:
            raise bad(
                param,
                f"has {len(ids):,} tokens, and the base reads {self.window - 1:,} at most; a session reads any number: "
                "its model's name ends in :temp",
                "context_length_exceeded",
            )

    def _read(self, ids: list[int], asked: Asked) -> tuple[tuple[str, TokenLogprobs | None], ...]:
        """Each token of a prompt by name, with how likely it was if that is wanted."""
        tokenizer = self.engine.tokenizer
        said: list[TokenLogprobs | None] = [None] * len(ids)
        if asked.sampling.logprobs is not None:
            opening = opening_ids(tokenizer)
            before, after = (opening, ids) if opening else (ids[:1], ids[1:])
            if after:
                found = self._likely(before, after, asked.sampling.logprobs)
                said = [None] * (len(ids) - len(after)) + found
        return tuple((token_text(tokenizer, i), logprobs) for i, logprobs in zip(ids, said, strict=True))

    def _likely(self, before: Sequence[int], ids: Sequence[int], top: int) -> list[TokenLogprobs]:
        engine, meter = self.engine, Meter(self.engine.model.device)
        read = token_logprobs(
            engine.runner,
            before,
            ids,
            opening=len(opening_ids(engine.tokenizer)),
            window=len(before) + len(ids),  # in one pass
            chunk_size=len(ids),
            top=top,
            tokenizer=engine.tokenizer,
            meter=meter,
        )
        return [token for piece in each_when_free(engine, read) for token in piece]

    def _write(self, session: Session, ids: Sequence[int], asked: Asked, choice: int, emit: Emit) -> None:
        for event in session.absorb_ids(ids):
            _tell(event, emit)
        with contextlib.closing(session.stream("", **asked.how)) as events:  # type: ignore[type-var]
            self._pass_on(events, choice, emit, session.config.chunk_size)

    # Sessions --------------------------------------------------------------------------------------------------

    def session(self, known: Known, asked: Asked, emit: Emit) -> None:
        """Goes on with a session as far as the request does, and answers in it."""
        saved = self.directory.opened(known, _replaying(emit))
        for remark in saved.remarks:
            emit(Comment(remark))
        if asked.key and self._again(saved, asked, emit):
            return
        if asked.messages:
            answered = self._go_on_with_messages(known, saved, asked, emit)
        else:
            answered = self._go_on_with_text(known, saved, asked, emit)
        if not answered:
            self.scratch(known, asked, emit)

    def scratch(self, known: Known | None, asked: Asked, emit: Emit) -> None:
        """Answers with a session's adapter as it is; nothing is learnt and nothing kept."""
        if asked.choices > 1 or len(asked.prompts) > 1:
            raise bad("n", "must be 1 for what is not kept of a session; ask the base, or one after another")
        (ids,) = self._prompts(asked)
        saved = self.directory.opened(known, _replaying(emit)) if known else None
        config = saved.session.config if saved else self._base
        seed = secrets.randbits(62) if asked.seed is None else asked.seed
        with self.engine.session(replace(config, learning="off", seed=seed % 2**63)) as beside:
            if saved and saved.session.version:
                beside.use_adapter(saved.session.adapter_weights())
            emit(Begun(len(ids), version=saved.session.version if saved else 0, scratch=True))
            self._write(beside, ids, asked, 0, emit)

    def _go_on_with_text(self, known: Known, saved: SavedSession, asked: Asked, emit: Emit) -> bool:
        if len(asked.prompts) != 1 or not isinstance(asked.prompts[0], str):
            raise bad("prompt", "must be one text for a session; the base takes several, and tokens")
        prompt = str(asked.prompts[0])
        rest, cut, again = prompt, None, ("", True)
        if prompt and asked.draft is not False:
            held = Spelled.of(saved.history, self.engine.tokenizer)
            met = meet_text(held.text, prompt)
            if met is None and asked.draft:
                met = Meeting(0, 0)
            if met is None:
                return False
            if met.held < len(held.text):
                cut, shown, learnt = held.cut(met.held)
                again = held.text[shown : met.held], learnt
            rest = prompt[met.given :]
        if cut is not None:
            saved = self._rewound(known, saved, cut, emit)
        if asked.notes is not None:
            saved.set_notes(asked.notes)
        had = len(saved.tokens)
        # What stays of what the model wrote is read once more, and is still not the author's.
        parts = [again, (rest, asked.learn)] if again[1] != asked.learn else [(again[0] + rest, asked.learn)]
        self._take_in(saved, parts, emit, score=asked.score)
        self._answer(saved, asked, emit, had, anew=cut is not None and not rest)
        return True

    def _go_on_with_messages(self, known: Known, saved: SavedSession, asked: Asked, emit: Emit) -> bool:
        tokenizer, system = self.engine.tokenizer, asked.system
        parts = message_parts(tokenizer, asked.messages, system=bool(system))
        turns = turns_of(saved.history)
        met = meet_turns(turns, asked.messages, sure=True)
        if met is None or (not turns and len(saved.tokens) > len(saved.history.opening)):
            return False
        cut = met.held < len(turns)
        if cut:
            saved = self._rewound(known, saved, turns[met.held].start, emit)
        if system or asked.notes is not None:
            saved.set_notes((system_part(tokenizer, system) if system else ours("")) + (asked.notes or ""))
        had = len(saved.tokens)
        for i in range(met.given, len(asked.messages)):
            turn = self._turn(asked.messages, i) | {"tokens": len(saved.session.encode(parts[i]))}
            self._take_in(saved, [(parts[i], asked.learn)], emit, score=asked.score, first={"turn": turn})
        anew = cut and met.given == len(asked.messages)
        self._answer(saved, asked, emit, had, anew=anew, turn=asked.messages[-1].role != "assistant")
        return True

    @staticmethod
    def _turn(messages: Sequence[Message], i: int) -> dict[str, Any]:
        """What the log is told of a message (`turns_of`)."""
        message, last = messages[i], i + 1 == len(messages)
        own = message.role == "assistant"
        said = {} if own and last else {"digest": digest_of(message.content)}  # what is gone on with is more than that
        return {"role": message.role, "answered": not own if last else messages[i + 1].role == "assistant", **said}

    def _rewound(self, known: Known, saved: SavedSession, position: int, emit: Emit) -> SavedSession:
        to = max(end for end in saved.history.ends if end <= position)
        emit(Comment(f"back to token {to}"))
        return self.directory.rewound(known, to, _replaying(emit))

    def absorb(self, known: Known, parts: Sequence[tuple[str, bool]], emit: Emit, *, score: bool = False) -> None:
        """Has a session take in texts, each with whether it is to be learnt."""
        saved = self.directory.opened(known, _replaying(emit))
        self._take_in(saved, [(Framed((text, False)), learn) for text, learn in parts], emit, score=score)

    def _take_in(
        self,
        saved: SavedSession,
        parts: Sequence[tuple[str, bool]],
        emit: Emit,
        *,
        score: bool = False,
        first: Mapping[str, Any] | None = None,
    ) -> None:
        given = [(text if isinstance(text, Framed) else ours(text), learn) for text, learn in parts if text]
        if not given:
            return
        with contextlib.closing(saved.absorb_parts(given, first=first, score=score)) as events:  # type: ignore[type-var]
            for event in events:
                _tell(event, emit)

    def _answer(
        self, saved: SavedSession, asked: Asked, emit: Emit, had: int, *, anew: bool, turn: bool = False
    ) -> None:
        """Writes at the end of the session's text.

        Args:
            saved, asked, emit: as elsewhere.
            had: tokens that were there before the request was read.
            anew: what was written there was taken back, so something else is wanted.
            turn: the answer is a message of its own.
        """
        if not saved.tokens:
            raise bad("prompt", "there is nothing to go on from")
        at = len(saved.tokens)
        emit(Begun(at, cached_tokens=had, at=at, version=saved.session.version))
        if not asked.most:
            emit(Done(0, "length", 0))
            return
        if asked.choices > 1:
            self._alternatives(saved, asked, emit)
            return
        if asked.seed is not None or anew:
            saved.reseed(secrets.randbits(62) if asked.seed is None else asked.seed)
        about: dict[str, Any] = {"response": asked.id}
        if turn:
            about["turn"] = {"role": "assistant"}
        if asked.key:
            about |= {"key": asked.key, "payload": asked.payload}
        written = saved.stream("", mark=about, **asked.how)
        with contextlib.closing(written) as events:  # type: ignore[type-var]
            self._pass_on(events, 0, emit, saved.session.config.chunk_size, saved)

    def _alternatives(self, saved: SavedSession, asked: Asked, emit: Emit) -> None:
        """Several answers, none of which is kept: the client will say which by going on with it."""
        made = saved.preview("", **asked.how)
        for choice, draft in enumerate(made.alternatives):
            for said in draft.tokens:
                name = token_text(self.engine.tokenizer, said.token)
                emit(Token(choice, said.text, name, said.logprobs))
            shown = "".join(said.text for said in draft.tokens)
            emit(Done(choice, "stop" if draft.ended else "length", len(draft.tokens), draft.text[len(shown) :]))

    def preview(self, known: Known, asked: Asked, emit: Emit, *, base: bool, at: int | None) -> None:
        """What a session, or the base, would write after its first `at` tokens. Nothing of it stays."""
        saved = self.directory.opened(known, _replaying(emit))
        chosen = {"prompt": any(asked.prompts), "seed": asked.seed is not None, "n": asked.choices > 1}
        if wrong := [name for name, is_chosen in chosen.items() if is_chosen]:
            raise bad(
                wrong[0], "cannot be chosen for what a session would write: it is one answer, at a place of its text"
            )
        end = len(saved.tokens) if at is None else at
        emit(Begun(end, cached_tokens=end, at=end, version=0 if base else saved.session.version, scratch=True))
        made = saved.preview("", base=base, at=end, each=lambda text: emit(Token(0, text, text)), **asked.how)
        emit(Done(0, "stop" if made.ended else "length", len(made.tokens)))

    def _again(self, saved: SavedSession, asked: Asked, emit: Emit) -> bool:
        """Says once more what an answer to the same request was, and goes on with it if it was cut short; False if
        there was none."""
        found = [(at, data) for at, data in saved.history.marks if data.get("key") == asked.key]
        if not found:
            return False
        at, data = found[-1]
        if data.get("payload") != asked.payload:
            raise ApiError(
                409,
                "Idempotency-Key: was used with another request",
                param="Idempotency-Key",
                code="idempotency_mismatch",
            )
        act = next((act for act in saved.history.acts if act.kind == "write" and act.start >= at), None)
        if act is None:
            return False
        emit(Begun(at, cached_tokens=at, at=at, version=saved.session.version))
        self._say_again(saved, act, emit)
        if act.ended is not None:
            left = next((text_of(r) for r in saved.history.records if r.seq == act.ended and r.kind == "end"), "")
            emit(Done(0, "stop" if act.reason == "stop" else "length", len(act.ids), left))
        else:
            with contextlib.closing(saved.resume()) as events:  # type: ignore[type-var]
                self._pass_on(events, 0, emit, saved.session.config.chunk_size, saved, before=len(act.ids))
        return True

    def _say_again(self, saved: SavedSession, act: Act, emit: Emit) -> None:
        at = len(saved.history.opening)
        for record in saved.history.records:
            if record.ids and act.start <= at < act.end:
                text = text_of(record)
                emit(Token(0, text, text, index=at))
            at += len(record.ids)

    def _pass_on(
        self,
        events: Iterator[Event],
        choice: int,
        emit: Emit,
        chunk_size: int,
        saved: SavedSession | None = None,
        before: int = 0,
    ) -> None:
        """What is written, as items; `before`: tokens of the answer that were said already."""
        tokenizer = self.engine.tokenizer
        for event in events:
            if isinstance(event, TokenEvent):
                index = event.index if saved else None
                nats = saved.session.loop.cycle.written.entropies.get(event.index) if saved else None
                emit(Token(choice, event.text, token_text(tokenizer, event.token), event.logprobs, index, nats))
                if saved and saved.session.open_tokens == chunk_size:
                    emit(Comment(f"learning chunk {saved.session.loop.text.chunk_index}"))
            elif isinstance(event, Finished):
                emit(Done(choice, event.reason, event.tokens + before, event.text))
            else:
                _tell(event, emit)


def _tell(event: Event, emit: Emit) -> None:
    """What is done meanwhile, in a comment."""
    if isinstance(event, Absorbed):
        emit(Comment(f"read {event.done} of {event.total} tokens", event))
    elif isinstance(event, ChunkLearned):
        became = f"learnt, version {event.version}" if event.committed else event.reason
        emit(Comment(f"chunk {event.index}: {became}", event))
    elif isinstance(event, ChunkScored):
        emit(Comment(f"scored up to token {event.end}", event))


def _replaying(emit: Emit) -> Callable[[int, int], None]:
    """Progress of opening a session."""
    return lambda done, total: emit(Comment(f"going on with the session: {done} of {total} tokens"))


def each_when_free(engine: Engine, pieces: Iterator[Any]) -> Iterator[Any]:
    """What a generator that uses the model yields, each piece when the model is free."""
    while True:
        piece = engine.do(lambda: next(pieces, None), "score")
        if piece is None:
            return
        yield piece


def check(asked: Asked, *, least: int = 1) -> None:
    """Raises `ApiError` for what cannot be asked for, whoever answers."""
    if asked.echo and asked.messages:
        raise bad("echo", "is for completions")
    if asked.most < least and not asked.echo:
        raise OptionError("max_new_tokens", f"must be at least 1, not {asked.most}")
