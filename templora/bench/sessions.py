"""How fast several sessions of one engine write together, each with an adapter of its own.

    together          tokens a second of all, each in a thread of its own     their bytes a token / memory bandwidth
    wait              milliseconds from one token of a session to its next, the middle one and 99 in 100
    beside learning   the same while one more session reads and learns

Like `bench.bench`, through the same code that callers run, on random ids; nothing is learnt of what is written.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from templora.bench.bench import Figure, cache_bytes, weight_bytes
from templora.bench.ceilings import Ceilings
from templora.bench.llama_cpp import LlamaCpp
from templora.config import TempLoraConfig
from templora.engine.engine import Engine
from templora.events import TokenEvent
from templora.runtime.rss import rss_bytes
from templora.sampling import SamplingParams
from templora.session.session import Session

_GREEDY = SamplingParams(temperature=0.0, repetition_penalty=1.0)


class SessionsBench:
    """Measures sessions of one engine.

    Args:
        engine, config, ceilings, runs: as for `Bench`.
        tokens: that each writes in a run.
        seed: of the random text.
    """

    def __init__(
        self,
        engine: Engine,
        config: TempLoraConfig,
        ceilings: Ceilings,
        *,
        runs: int = 5,
        tokens: int = 64,
        seed: int = 0,
    ) -> None:
        self._engine, self._ceilings, self._runs = engine, ceilings, runs
        # As `Bench` has it; and what is written in one run is not learnt before the next.
        measured: dict[str, Any] = {"patience": 0, "max_repetition": 1.0, "min_entropy": 0.0, "learn_written": False}
        self._config = replace(config, learning="cascaded", **measured)
        self._tokens = max(2, min(tokens, config.chunk_size - 1))
        self._random = random.Random(seed)

    def figures(self, numbers: Sequence[int], gguf: Path | None = None) -> Iterator[Figure]:
        """All figures, as they come.

        Args:
            numbers: of sessions.
            gguf: the same model as a file, for llama.cpp with as many slots, in turn with ours.
        """
        with ExitStack() as stack:
            sessions: list[Session] = []
            held = [self._memory()]
            for i in range(max(numbers) + 1):  # one that learns beside
                sessions.append(stack.enter_context(self._engine.session(replace(self._config, seed=i))))
                self._fill(sessions[-1], 1 + -(-self._config.context // self._config.chunk_size))
                held.append(self._memory())
            for number in numbers:
                yield from self._together(sessions[:number], sessions[-1], gguf)
            # The first one's memory is that of learning, too.
            yield Figure("memory of a further session", "GB", tuple(b / 1e9 for b in np.diff(held[1:]).tolist()))

    def _memory(self) -> int:
        device = self._engine.model.device
        return torch.cuda.memory_allocated(device) if device.type == "cuda" else rss_bytes()

    def _fill(self, session: Session, chunks: int = 1) -> None:
        """Reads and learns on to the end of so many chunks, and reads of the next one what leaves room to write."""
        size, at = self._config.chunk_size, len(session.tokens)
        end = (at // size + chunks) * size + size - self._tokens - 1
        known = min(self._engine.model.vocabulary, len(self._engine.tokenizer))
        for _ in session.score_ids([self._random.randrange(known) for _ in range(end - at)]):
            pass

    def _together(self, sessions: list[Session], beside: Session, gguf: Path | None) -> Iterator[Figure]:
        number, window = len(sessions), self._config.window
        found: dict[str, list[float]] = {}

        def note(name: str, value: float) -> None:
            found.setdefault(name, []).append(value)

        with ExitStack() as stack:
            rival = None
            if gguf is not None:
                folder = Path(stack.enter_context(TemporaryDirectory()))
                loras = [folder / f"{i}.gguf" for i in range(number)]
                for session, path in zip(sessions, loras, strict=True):
                    session.save_adapter(path, half=True)
                rival = stack.enter_context(LlamaCpp(gguf, window + 1, torch.get_num_threads(), *loras))
            for _ in range(self._runs):
                for learning in (False, True):
                    for session in sessions:
                        self._fill(session)
                    prompts = [session.tokens[-(window - self._tokens) :] for session in sessions]
                    seconds, waits = self._written(sessions, beside if learning else None)
                    how = f"{number} session{'s' if number > 1 else ''}" + (", one more learns" if learning else "")
                    note(f"{how}: together", number * self._tokens / seconds)
                    note(f"{how}: wait", float(np.median(waits)))
                    note(f"{how}: wait, 99 in 100", float(np.quantile(waits, 0.99)))
                    if rival is not None and not learning:
                        done = rival.decode_together(prompts, self._tokens)
                        note(f"{how}: together, llama.cpp", 1 / max(1e-9, done.seconds_per_token))
        reader = sessions[0].readers[0]
        adapter = sum(x.numel() * x.element_size() for pair in reader.route.pairs for x in pair) if reader.route else 0
        entries = window - self._tokens // 2
        own = adapter + cache_bytes(reader.cache, entries)
        work = weight_bytes(self._engine.model) / number + own
        for name, values in found.items():
            if "together" in name and "llama.cpp" not in name:
                yield Figure(name, "tok/s", tuple(values), self._ceilings.bytes_per_second / work, work)
            else:
                yield Figure(name, "tok/s" if "together" in name else "ms", tuple(values))
        for name in [name for name in found if name.endswith("llama.cpp")]:
            ours = found[name.removesuffix(", llama.cpp")]
            pairs = tuple(a / b for a, b in zip(ours, found[name], strict=True))
            yield Figure(f"{number} session{'s' if number > 1 else ''}: ours / llama.cpp", "×", pairs)

    def _written(self, sessions: list[Session], beside: Session | None) -> tuple[float, list[float]]:
        """Seconds until all have written, the first token of each left out, and milliseconds from token to token."""
        seen: list[list[float]] = [[] for _ in sessions]
        done, failed = threading.Event(), list[BaseException]()

        def write(i: int) -> None:
            try:
                for event in sessions[i].stream(max_new_tokens=self._tokens, sampling=_GREEDY):
                    if isinstance(event, TokenEvent):
                        seen[i].append(time.perf_counter())
            except BaseException as error:  # told to who waits for this thread
                failed.append(error)

        def learn() -> None:
            try:
                while beside is not None and not done.is_set():
                    self._fill(beside)
            except BaseException as error:
                failed.append(error)

        with self._engine.shared():
            learner = threading.Thread(target=learn)
            writers = [threading.Thread(target=write, args=(i,)) for i in range(len(sessions))]
            for thread in (learner, *writers):
                thread.start()
            for thread in writers:
                thread.join()
            done.set()
            learner.join()
        if failed:
            raise failed[0]
        began, ended = min(times[0] for times in seen), max(times[-1] for times in seen)
        waits = [1000 * (b - a) for times in seen for a, b in pairwise(times)]
        return (ended - began) * self._tokens / (self._tokens - 1), waits
