"""`Engine`: owns one base model and everything that may touch it.

Sessions with adapters of one shape share a bank; the first session of a shape hangs its hooks on the model and the
last one takes them off. One lock makes each step of each session whole, so sessions may be used from several threads.
Only parallel learning goes through the model without the lock, along a route of its own thread.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch

from templora.adapters import AdapterBank, Layout
from templora.allocator import keep_freed_memory
from templora.captured import CapturedStep
from templora.config import TempLoraConfig
from templora.decoding import Step
from templora.errors import ConfigError, ModelError
from templora.methods.base import Method
from templora.model import CausalModel, Trace
from templora.rates import learning_rate_for
from templora.recipes import recipe
from templora.session import Lesson, Receipt, Session
from templora.targets import Target, choose_targets
from templora.text import end_ids
from templora.threads import governor, threads
from templora.updates import worker


class Engine:
    """A base model, ready for sessions. `templora.load` makes one from a name or a path.

    Args:
        module: a transformers causal language model. It is put into eval mode and frozen while sessions are alive,
            and is exactly as it was when the last one is discarded.
        tokenizer: its tokenizer.
        name: what to call it in reports.
        compiled: decode through the compiled step where it applies (docs/architecture.md).

    Attributes:
        lock: held for each step of a session.
        load_seconds: what `templora.load` took.
        prepare_seconds: what making the compiled step took, at the first token: seconds where it had to be compiled.
        threads: how many threads to compute with on a CPU; None: as many as torch is set to, fewer while other
            programs use the cores.
    """

    new_executor: Callable[[], Executor] = staticmethod(worker)  # where parallel learning trains

    def __init__(self, module: Any, tokenizer: Any, name: str = "", compiled: bool = True) -> None:
        keep_freed_memory()
        self.model = CausalModel(module)
        self.model.check()
        self.tokenizer = tokenizer
        self.name = name or str(getattr(module.config, "_name_or_path", "")) or type(module).__name__
        self.generation_config = getattr(module, "generation_config", None)
        self.lock = threading.RLock()
        self.load_seconds = 0.0
        self.prepare_seconds = 0.0
        self._compiled = compiled
        self.threads: int | None = None
        self._banks: dict[Layout, AdapterBank] = {}
        self._rates: dict[tuple[Target, ...], float] = {}
        self._sessions: set[Session] = set()
        self._trace: Trace | None = None
        self._fingerprint: str | None = None
        self._executor: Executor | None = None

    @property
    def sessions(self) -> int:
        """Sessions alive."""
        return len(self._sessions)

    def new_step(self) -> Step | None:
        """How a new reader is to decode one token; None through the model's own modules."""
        if not self._compiled:
            return None
        return CapturedStep(self.model) if CapturedStep.supports(self.model) else self._compiled_step

    @cached_property
    def _compiled_step(self) -> Step | None:
        from templora.step import decode_step

        began = time.perf_counter()
        made = decode_step(self.model, governor.wanted[0], threads)
        self.prepare_seconds = time.perf_counter() - began
        return made

    def config(self, name: str = "default", **options: Any) -> TempLoraConfig:
        """The config of a recipe, its sizes cut to this model's positions, with `options` set differently."""
        return recipe(name, self.model.max_positions, **options)

    def session(
        self, config: TempLoraConfig | None = None, *, method: Method | None = None, lesson: Lesson | None = None
    ) -> Session:
        """Begins a text.

        Args:
            config: its options; without one, the default recipe.
            method: how the text before a chunk is kept; without one, a sliding window.
            lesson: what is learnt of a chunk; without one, the chunk. May replace its tokens, and no others.

        Raises:
            ConfigError: the window is beyond the model's positions, the model lacks a module that is named, or it
                cannot learn in parallel.
            ModelError: the model cannot do what the method needs.
        """
        config, method = config or self.config(), method or Method()
        if config.window > method.positions(self.model):
            raise ConfigError(
                "window",
                f"is beyond this model's positions: at most {method.positions(self.model)}, not {config.window}",
            )
        problem = method.problem(self.model, config)
        if problem:
            raise ModelError(f"{method.name} does not work here: {problem}")
        if config.learning == "parallel" and self.model.rewrites_itself:
            raise ConfigError(
                "learning", "cannot be parallel on this model, whose rotary embedding changes with length; use cascaded"
            )
        if config.learning_rate is None:
            config = replace(config, learning_rate=self.learning_rate(config))
        return Session(self, config, method, lesson)

    @property
    def end_ids(self) -> list[int]:
        """Every token that ends a text for this model."""
        return end_ids(self.tokenizer, self.generation_config)

    def learning_rate(self, config: TempLoraConfig) -> float:
        """The rate that suits this model and the layers that `config` adapts (`templora.rates`)."""
        targets = choose_targets(self.model.module, config)
        if targets not in self._rates:
            with self.step():
                self._rates[targets] = learning_rate_for(self.model.module, targets)
        return self._rates[targets]

    @contextmanager
    def step(self, beside: bool = False) -> Iterator[None]:
        """Inside, the model is the caller's alone, and so are the cores there are.

        Args:
            beside: whether the caller also trains in the background.
        """
        with self.lock, governor.step(self.threads, beside):
            yield

    def executor(self) -> Executor:
        """Where sessions with parallel learning train; gone with the last session."""
        with self.lock:
            if self._executor is None:
                self._executor = self.new_executor()
            return self._executor

    def adapter_slot(self, session: Session, config: TempLoraConfig) -> tuple[AdapterBank, int]:
        """A slot with a fresh adapter, in the bank of its shape. Called by `Session`."""
        with self.lock:
            layout = Layout(choose_targets(self.model.module, config), config.rank)
            if self._fingerprint is None:
                self._fingerprint = self.model.fingerprint()
            try:
                if not self._sessions:
                    self._trace = Trace.of(self.model.module)
                    self.model.module.eval()
                    self.model.module.requires_grad_(False)
                if layout not in self._banks:
                    self._banks[layout] = AdapterBank(self.model.module, layout, self.model.dtype)
                slot = self._banks[layout].allocate(config.seed)
            except BaseException:  # out of memory, say: leave the model as it was
                self._tidy()
                raise
            self._sessions.add(session)
            return self._banks[layout], slot

    def release(self, session: Session, bank: AdapterBank, slot: int) -> None:
        """Frees a session's slot; the last session leaves the model as the first one found it."""
        bank.release(slot)
        self._sessions.discard(session)
        self._tidy()

    def _tidy(self) -> None:
        for layout, bank in list(self._banks.items()):
            if not bank.used:
                bank.detach()
                del self._banks[layout]
        if self._sessions:
            return
        if self._executor is not None:
            self._executor.shutdown()
            self._executor = None
        if self._trace is not None:
            self._trace.restore(self.model.module)

    def receipt(self, bank: AdapterBank, slot: int) -> Receipt:
        """Compares the base with what it was before its first session, and looks for what a slot may have left."""
        now = self.model.fingerprint()
        with self.lock:
            trace = Trace.of(self.model.module)
            # While other sessions live their hooks are there, and nothing else.
            clean = self._trace is not None and trace.modules == self._trace.modules and bank.holds_nothing(slot)
            clean = (
                clean and trace.hooks_total == self._trace_hooks() and (bool(self._sessions) or trace == self._trace)
            )
        return Receipt(base_unchanged=now == self._fingerprint, discarded=clean, fingerprint=now)

    def _trace_hooks(self) -> int:
        """Hooks that should be on the model now."""
        assert self._trace is not None
        return self._trace.hooks_total + sum(len(layout.targets) for layout in self._banks)

    def versions(self) -> dict[str, str]:
        """Versions of what the numbers depend on."""
        import platform

        import transformers

        from templora import __version__

        return {
            "templora": __version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "python": platform.python_version(),
        }
