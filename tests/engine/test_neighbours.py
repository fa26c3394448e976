"""Who else is there changes nothing: sessions under random schedules are each what they are alone.

Verbs are asked for by threads, one a session; the test itself owns the engine, and draws the order of
rows and of work, when slices end, and who is left or interrupted. TEMPLORA_SCHEDULES=1000 draws more of them.
"""

from __future__ import annotations

import contextlib
import os
import random
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import LONG, TEXT, small

from templora import ChunkLearned, Finished, SamplingParams, Session, SessionStore
from templora.config import TempLoraConfig
from templora.engine.engine import Engine
from templora.engine.scheduler import Run, Scheduler
from templora.store import snapshots
from templora.testing import tiny_engine

SCHEDULES = int(os.environ.get("TEMPLORA_SCHEDULES", "600" if LONG else "12"))
OPTIONS: list[dict[str, Any]] = [
    {},
    {"learning": "parallel"},
    {"learning": "off"},
    {"dropout": 0.2, "epochs": 2},
    {"learning": "parallel", "dropout": 0.1, "cache_reuse": 1, "neural_cache": 100},
    {"cache_reuse": 2, "neural_cache": 100},
    {"context_gradients": True},
    {"mixture": True, "rank": 2},
    {"max_repetition": 1.0, "layers": "1"},
]


class Chance(Scheduler):
    """Does things in an order that is drawn."""

    def __init__(self, draw: random.Random) -> None:
        now = [0.0]

        def clock() -> float:
            now[0] += draw.random() ** 4
            return now[0]

        super().__init__(slice_seconds=draw.choice([0.0, 0.3, 3.0, 1e9]), clock=clock)
        self._draw = draw

    def order_rows(self, ready: Sequence[Run]) -> Sequence[Run]:
        return self._draw.sample(list(ready), self._draw.randint(0, len(ready)))

    def choose_work(self, waiting: Sequence[Run]) -> Run:
        return self._draw.choice(list(waiting))


class Script:
    """What is asked of one session, drawn by a seed.

    Args:
        seed: of it.
        unrest: says when a verb is left, to be asked for again; None: never.
    """

    def __init__(self, seed: int, unrest: random.Random | None = None) -> None:
        draw = random.Random(seed)
        self.config: TempLoraConfig = replace(small(), **draw.choice(OPTIONS))
        self._verbs = ["absorb", *(draw.choice(["absorb", "score", "write", "write", "stop"]) for _ in range(4))]
        self._others = [draw.choice(["", "preview", "close", "seed", "rewind", "notes", "notes"]) for _ in self._verbs]
        self._sizes = [draw.randint(10, 45) for _ in self._verbs]
        self._seed, self._unrest = seed, unrest
        self.found: list[Any] = []

    def play(self, session: Session) -> list[Any]:
        """All of it; what came of each verb, and what the session is at the end."""
        learned: dict[int, Any] = {}
        for at, (verb, other, size) in enumerate(zip(self._verbs, self._others, self._sizes, strict=True)):
            upto, ended = len(session.tokens) + size, len(session.tokens)
            while (left := upto - len(session.tokens)) > 0:
                for event in self._left(self._events(session, verb, at, left)):
                    if isinstance(event, ChunkLearned):
                        learned[event.index] = replace(event, seconds=0.0)
                    elif isinstance(event, Finished):
                        if len(session.tokens) == ended:  # at a stop text, right away
                            upto = 0
                        ended = len(session.tokens)
                session.settle()
            for event in session.absorb_ids([]):  # what nobody was told of yet
                assert isinstance(event, ChunkLearned)
                learned[event.index] = replace(event, seconds=0.0)
            self._other(session, other, at)
        self.found += [session.tokens, [learned[i] for i in sorted(learned)], session.adapter_weights().tolist()]
        self.found.append(session.engine.do(lambda: self._logits(session)))
        return self.found

    def _events(self, session: Session, verb: str, at: int, left: int) -> Iterator[Any]:
        if verb in ("absorb", "score"):
            ids = session.encode(TEXT[at * 7 : at * 7 + 60])[-left:]
            return session.score_ids(ids) if verb == "score" else session.absorb_ids(ids, learn=at != 2)
        stop = ("\0\1", "e") if verb == "stop" else ()
        sampling = SamplingParams(temperature=1.5, stop=stop)
        return session.stream(max_new_tokens=left, sampling=sampling, score=at % 2 == 0)

    def _left(self, events: Iterator[Any]) -> Iterator[Any]:
        """The events of a verb, which may be left before its end."""
        with contextlib.closing(events):  # type: ignore[type-var]
            for event in events:
                yield event
                if self._unrest and self._unrest.random() < 0.03:
                    return

    def _other(self, session: Session, verb: str, at: int) -> None:
        if verb == "preview":
            self.found.append(session.preview(TEXT[:9], max_new_tokens=9, sampling=SamplingParams(temperature=1.5)))
        elif verb == "close" and (closed := session.close_chunk()):
            self.found.append(replace(closed, seconds=0.0))
        elif verb == "seed":
            session.reseed(at)
        elif verb == "notes":
            session.set_notes(TEXT[: (self._seed + 13 * at) % 44])
        elif verb == "rewind":
            held, tokens = session.snapshot(), list(session.tokens)
            session.write(max_new_tokens=20)
            session.restore(tokens, held)

    @staticmethod
    def _logits(session: Session) -> Any:
        reader = session.readers[0]
        session.loop.readers.prepare(reader)
        return reader.next_logits(session.tokens).tolist()


ALONE: dict[tuple[str, int], list[Any]] = {}


def alone(engine: Engine, family: str, seed: int) -> list[Any]:
    if (family, seed) not in ALONE:
        script = Script(seed)
        with engine.session(script.config) as session:
            ALONE[family, seed] = script.play(session)
    return ALONE[family, seed]


def together(engine: Engine, draw: random.Random, verbs: Sequence[Any]) -> None:
    """Each of `verbs` in a thread of its own, the engine owned by this one."""
    errors: list[BaseException] = []

    def ask(verb: Any) -> None:
        try:
            verb()
        except BaseException as error:
            errors.append(error)

    scheduler = Chance(draw)
    with engine.shared_by(scheduler):
        threads = [threading.Thread(target=ask, args=(verb,), daemon=True) for verb in verbs]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            scheduler.step()
    if errors:
        raise errors[0]


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_each_is_what_it_is_alone(family: str) -> None:
    """Tokens, what was learnt of every chunk, the adapter's bits, the last logits, drafts."""
    engine, quiet = tiny_engine(family), tiny_engine(family)
    for number in range(SCHEDULES if family == "llama" else SCHEDULES // 8):
        draw = random.Random(number)
        seeds = [draw.randrange(60) for _ in range(draw.randint(2, 4))]
        scripts = [Script(seed, random.Random(draw.random())) for seed in seeds]

        def play(script: Script) -> None:
            with engine.session(script.config) as session:
                script.play(session)

        together(engine, draw, [lambda script=script: play(script) for script in scripts])
        for seed, script in zip(seeds, scripts, strict=True):
            assert script.found == alone(quiet, family, seed), f"schedule {number}, script {seed}"
    assert engine.sessions == 0


def test_the_same_after_kills(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sessions on disk, each left in the middle of something, again and again, and gone on with; with snapshots that
    are written beside it all."""
    monkeypatch.setattr(snapshots, "_SHARE", 1e9)  # one after every chunk
    engine, config = tiny_engine(), small(dropout=0.1)
    expected = {}
    for learning in ("cascaded", "parallel"):
        with engine.session(replace(config, learning=learning)) as session:
            session.absorb(TEXT[:50])
            session.write(max_new_tokens=150, sampling=SamplingParams(temperature=1.5))
            expected[learning] = session.tokens, session.adapter_weights().tolist()
    for number in range(max(2, SCHEDULES // 10)):
        draw, store = random.Random(number), SessionStore(tmp_path / str(number))
        found = {}

        def live(name: str, learning: str, unrest: random.Random, store: Any = store, found: Any = found) -> None:
            with store.create(name, engine, replace(config, learning=learning)) as saved:
                list(saved.absorb_events(TEXT[:50]))
            for _ in range(99):
                with contextlib.suppress(ZeroDivisionError), store.open(name, engine) as saved:
                    events = saved.resume() if saved.pending else saved.stream(
                        max_new_tokens=150, sampling=SamplingParams(temperature=1.5)
                    ) if len(saved.tokens) == 50 else iter(())  # fmt: skip
                    for _ in events:
                        if unrest.random() < 0.03:
                            raise ZeroDivisionError
                    found[name] = learning, (saved.tokens, saved.session.adapter_weights().tolist())
                    return

        verbs = []
        for index, learning in enumerate(("cascaded", "parallel", "cascaded")):
            unrest = random.Random(draw.random())
            verbs.append(lambda i=index, learning=learning, unrest=unrest: live(f"s{i}", learning, unrest))
        together(engine, draw, verbs)
        assert len(found) == 3
        for learning, was in found.values():
            assert was == expected[learning], number
