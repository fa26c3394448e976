"""`Engine`: owns one base model and everything that may touch it.

Sessions with adapters of one shape share a bank; the first session of a shape hangs its hooks on the model and the
last one takes them off. One lock makes each step of each session whole, so sessions may be used from several threads.

A session that changes the model itself is alone on it. What was worked out of the model once (the compiled step,
learning rates, fused passes) is of the model as it was then: it is dropped when the model is found to be another.
"""

from __future__ import annotations

import contextlib
import gc
import sys
import weakref
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch

from templora.config import TempLoraConfig
from templora.decoding.plans import Kind, Plan, Work, driven
from templora.decoding.steps import Steps
from templora.engine.scheduler import SLICE, Scheduler
from templora.engine.turn import Turn
from templora.engine.watch import Found, Watch, unlike
from templora.errors import ConfigError, ModelError, OptionError, TextError
from templora.events import Event
from templora.learning.probe import PASSAGE, Probe
from templora.learning.rates import learning_rate_for
from templora.lora.bank import AdapterBank
from templora.lora.slot import Layout, Slot
from templora.lora.targets import Target, choose_targets, first_weights
from templora.methods.base import Method, MethodState
from templora.metrics import Likelihood
from templora.models.causal import CausalModel, Trace
from templora.models.runner import Runner, Step
from templora.recipes import recipe
from templora.runtime.allocator import give_freed_memory_back, keep_freed_memory
from templora.runtime.metering import Meter
from templora.runtime.signals import deferrable, safe_point
from templora.runtime.threads import governor
from templora.session.chunk_cycle import Lesson
from templora.session.results import Receipt
from templora.session.session import Session
from templora.text import chat_turn, encode, end_ids, opening_ids

_R = TypeVar("_R")


@dataclass(eq=False)
class Stay:
    """What a session has of its engine.

    Args:
        slot: its adapter.
        base: the model as the session found it.
        method: of the session.
        memory: its method's, once it has begun.
        session: whose stay it is.
    """

    slot: Slot
    base: Found
    method: Method
    memory: MethodState | None = None
    session: weakref.ref[Session] | None = None


class Engine:
    """A base model, ready for sessions. `templora.load` makes one from a name or a path.

    Args:
        module: a transformers causal language model. It is put into eval mode and frozen while sessions are alive,
            and is exactly as it was when the last one is discarded.
        tokenizer: its tokenizer.
        name: what to call it in reports.
        compiled: decode through a step of our own where one applies (docs/decisions.md).
        rows: texts that get a token in one pass on a GPU, whose bits depend on it; on a CPU there are four.

    Attributes:
        lock: held for each step of a session.
        load_seconds: what `templora.load` took.
        threads: how many threads to compute with on a CPU; None: as many as torch is set to, fewer while other
            programs use the cores.
    """

    def __init__(self, module: Any, tokenizer: Any, name: str = "", compiled: bool = True, rows: int = 1) -> None:
        keep_freed_memory()
        self._model: CausalModel | None = CausalModel(module)
        self.model.check()
        self.model.between = self._between
        self.tokenizer = tokenizer
        self.name = name or str(getattr(module.config, "_name_or_path", "")) or type(module).__name__
        self._watch = Watch(self._model, tokenizer)
        self.generation_config = getattr(module, "generation_config", None)
        self.lock = Turn(weakref.WeakMethod(self._collect))
        self.load_seconds = 0.0
        self._steps: Steps | None = None
        self._compiled, self._rows = compiled, rows
        self.threads: int | None = None
        self._banks: dict[Layout, AdapterBank] = {}
        self._rates: dict[tuple[Target, ...], float] = {}
        self._scheduler: Scheduler | None = None
        self._probes: dict[tuple[int, ...], Probe] = {}
        self._stays: list[Stay] = []
        self._abandoned: deque[Stay] = deque()  # of sessions that nobody holds any more
        self._trace: Trace | None = None
        self._moving: list[tuple[Any, str, Any]] = []
        self._first: tuple[tuple[Any, ...], torch.Tensor] | None = None  # first weights, and what they are of
        self._honest: set[tuple[type, str]] = set()  # methods that were found to leave the model alone
        self._stale = False  # the model was changed while sessions were alive

    @property
    def model(self) -> CausalModel:
        """The base.

        Raises:
            ModelError: the engine has been closed.
        """
        if self._model is None:
            raise ModelError("this engine has been closed; load the model again")
        return self._model

    @property
    def runner(self) -> Runner:
        """What runs the base."""
        return Runner(self.model)

    @property
    def sessions(self) -> int:
        """Sessions alive."""
        return len(self._stays)

    def new_step(self) -> Step | None:
        """How a new reader is to decode one token; None through the model's own modules."""
        if not self._compiled:
            return None
        if self._steps is None:
            self._steps = Steps(self.model, self._rows)
        return self._steps.new()

    @property
    def prepare_seconds(self) -> float:
        """What making the decode step took, at the first token: seconds where it had to be compiled."""
        return self._steps.seconds if self._steps else 0.0

    def _forget(self) -> None:
        """What was worked out of the model is of another than there is now."""
        self._rates.clear()
        self._probes.clear()
        self._steps = None

    def config(self, name: str = "default", **options: Any) -> TempLoraConfig:
        """The config of a recipe, its sizes cut to this model's positions, with `options` set differently."""
        return recipe(name, self.model.max_positions, **options)

    def session(
        self,
        config: TempLoraConfig | None = None,
        *,
        method: Method | None = None,
        lesson: Lesson | None = None,
        notes: str = "",
    ) -> Session:
        """Begins a text.

        Args:
            config: its options; without one, the default recipe.
            method: how the text before a chunk is kept; without one, a sliding window.
            lesson: what is learnt of a chunk; without one, the chunk. May replace its tokens, and no others.
            notes: as for `Session.set_notes`.

        Raises:
            OptionError: an argument is of another type.
            ConfigError: the window is beyond the model's positions, the model lacks a module that is named, or it
                cannot learn in parallel.
            ModelError: the model cannot do what the method needs, or one of the sessions changes the model.
        """
        _check_types(config, method, lesson)
        config, method = config or self.config(), method or Method()
        self._check_company(method)
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
            config = replace(config, learning_rate=config.rate_scale * self.learning_rate(config))
        ready = config
        return self.do(lambda: Session(self, ready, method, lesson, notes))

    def _check_company(self, method: Method) -> None:
        """Raises `ModelError` where another session would read a model that a method has changed."""
        alone = next((stay.method.name for stay in self._stays if stay.method.changes_model), None)
        if alone:
            raise ModelError(
                f"a session with {alone} is open, which changes the model itself, so that no other can be beside it; "
                "discard that one first, or load the model a second time"
            )
        if self._stays and method.changes_model:
            raise ModelError(
                f"{method.name} changes the model itself, so that no other session can be beside it, and "
                f"{len(self._stays)} {'is' if len(self._stays) == 1 else 'are'} open; discard "
                f"{'that' if len(self._stays) == 1 else 'those'} first, or load the model a second time"
            )

    @property
    def end_ids(self) -> list[int]:
        """Every token that ends a text for this model."""
        return end_ids(self.tokenizer, self.generation_config)

    def learning_rate(self, config: TempLoraConfig) -> float:
        """The rate that suits this model and the layers that `config` adapts (`templora.learning.rates`)."""
        targets = choose_targets(self.model.module, config)
        if targets not in self._rates:
            self._rates[targets] = self.do(lambda: learning_rate_for(self.model.module, targets))
        return self._rates[targets]

    @contextmanager
    def step(self) -> Iterator[None]:
        """Inside, the model is the caller's alone, and so are the cores there are. Ctrl-C waits for its end, or for the
        next layer of a long pass."""
        with deferrable(), self.lock, governor.step(self.threads):
            yield

    def _between(self, whole: bool = False) -> None:
        """Called between two pieces of long work: at each adapted layer, on the way forward and back, and elsewhere."""
        if not whole:
            safe_point()
        governor.tick()
        if self._scheduler is not None:
            self._scheduler.between(whole)

    @contextmanager
    def shared(self, slice_seconds: float = SLICE) -> Iterator[Scheduler]:
        """Inside, the sessions of all threads are served together by a thread of the engine's own: each gets its tokens
        in turn, also while another one learns. What each writes and learns is what it would alone.

        Args:
            slice_seconds: how long one's learning keeps the others from their next tokens.

        Raises:
            ModelError: it is shared already.
        """
        scheduler = Scheduler(self.step, slice_seconds)
        with self.shared_by(scheduler):
            scheduler.start()
            yield scheduler

    @property
    def is_shared(self) -> bool:
        """Whether sessions of several threads are served together."""
        return self._scheduler is not None

    @property
    def learns(self) -> bool:
        """Whether it learns for one of several threads just now."""
        return self._scheduler is not None and self._scheduler.learns

    @contextmanager
    def shared_by(self, scheduler: Scheduler) -> Iterator[None]:
        """`shared` for who drives a scheduler of their own, and calls its `step` from one thread."""
        if self._scheduler is not None:
            raise ModelError("this engine is shared already")
        self._scheduler = scheduler
        try:
            yield
        finally:
            try:
                scheduler.stop()
            finally:
                self._scheduler, self._first = None, None

    def do(self, what: Callable[[], _R], kind: Kind = "other", of: object = None) -> _R:
        """Does something with the model, when nobody else does; `of` a session, between two events of its verbs."""
        scheduler = self._scheduler
        if scheduler is not None and not scheduler.is_here:
            return self.run(_one(what, kind), of=of)
        with self.step():
            return what()

    def drive(self, plan: Plan[_R], of: object = None) -> Generator[Event, None, _R]:
        """The events of a plan, `of` a session, whose needs are met as they come."""
        scheduler = self._scheduler
        if scheduler is not None and not scheduler.is_here:
            return (yield from scheduler.events(plan, of))
        return (yield from driven(plan, self.step))

    def run(self, plan: Plan[_R], each: Callable[[Event], object] = lambda _: None, of: object = None) -> _R:
        """The result of a plan, each event of which is told."""
        with contextlib.closing(self.drive(plan, of)) as events:
            while True:
                try:
                    each(next(events))
                except StopIteration as end:
                    result: _R = end.value
                    return result

    def encode(self, text: str, *, chat: bool = False) -> list[int]:
        """The ids of a text; with `chat`, of the user's turn in the chat template, without what opens every text.

        Raises:
            OptionError: the model has no chat template.
            ModelError: model and tokenizer do not belong together.
        """
        if chat and not getattr(self.tokenizer, "chat_template", None):
            raise OptionError("chat", "this model has no chat template")
        ids = encode(self.tokenizer, chat_turn(self.tokenizer, text) if chat else text, special=False)
        opening = opening_ids(self.tokenizer)
        if chat and opening and ids[: len(opening)] == opening:  # templates write BOS themselves
            ids = ids[len(opening) :]
        self.check_ids(ids)
        return ids

    def check_ids(self, ids: Sequence[int]) -> None:
        """Raises `ModelError` if the model does not know one of these tokens."""
        known = self.model.vocabulary
        if len(ids) and min(ids) < 0:
            raise ModelError(f"there is no token {min(ids)}: the model knows 0 to {known - 1}")
        if len(ids) and max(ids) >= known:
            raise ModelError(
                f"{self.name}: the tokenizer gives ids up to {max(ids)}, the model knows {known}; "
                "they do not belong together"
            )

    def likelihood(self, prompt: str, text: str, meter: Meter | None = None) -> Likelihood:
        """How well the bare base predicts `text` right after `prompt`, and nothing before that.

        Raises:
            ModelError: a session's method changes the model, so that there is no bare base.
            TextError: the text is empty, or they are longer than the model's positions.
        """
        for stay in self._stays:
            if stay.method.changes_model:
                raise ModelError(f"a likelihood is the bare base's, and {stay.method.name} changes the model itself")
        before, ids = [*opening_ids(self.tokenizer), *self.encode(prompt)], self.encode(text)
        model, spent = self.model, meter or Meter(self.model.device)
        if not before or not ids or len(before) + len(ids) > model.max_positions:
            raise TextError(f"a likelihood needs a prompt and a text, of {model.max_positions:,} tokens at most")

        def read() -> Likelihood:
            with spent.phase("score"), torch.no_grad():
                hidden = self.runner.read([*before, *ids[:-1]], None, 0, None, spent, logits=len(ids))
                nll = model.nll(hidden[len(before) - 1 :], ids)
            found = Likelihood()
            found.add(float(nll.double().sum()), len(ids))
            return found

        return self.do(read, "score")

    def probe(self, config: TempLoraConfig, opening: Sequence[int], meter: Meter) -> Probe | None:
        """What updates of a session are tried on; drawn once for all sessions that begin alike. Called by `Session`."""
        tokens = min(config.probe_tokens, (config.window - len(opening)) // 2)
        if config.learning == "off" or not tokens:
            return None
        known = [i for i in encode(self.tokenizer, PASSAGE, special=False) if i < self.model.vocabulary]
        if not known:
            return None
        key = (tokens, *opening)
        if key not in self._probes:
            passage = (known * (tokens // len(known) + 1))[:tokens]
            self._probes[key] = self.do(lambda: Probe.draw(self.runner, opening, passage))
        with meter.phase("learn"):  # whoever had it drawn: what a session has spent does not depend on others
            meter.count(self.model.shape.forward(len(opening) + tokens, 0, tokens, 0))
        return self._probes[key]

    def admit(self, session: Session, config: TempLoraConfig, method: Method) -> Stay:
        """A slot with a fresh adapter, in the bank of its shape. Called by `Session`."""
        with self.lock:
            self._check_company(method)
            layout = Layout(choose_targets(self.model.module, config), config.rank)
            base = self._look()
            try:
                if not self._stays:
                    self._trace, self._moving = Trace.of(self.model.module), self.model.moving()
                    self.model.module.eval()
                    self.model.module.requires_grad_(False)
                if layout not in self._banks:
                    self._banks[layout] = AdapterBank(self.model.module, layout, self.model.dtype, self._between)
                slot = self._banks[layout].allocate(self._first_weights(layout, config.seed), config.scaling)
            except BaseException:  # out of memory, say: leave the model as it was
                self._tidy()
                raise
            stay = Stay(slot, base, method)
            self._stays.append(stay)
            # Of a session that nobody holds nothing is left either.
            stay.session = weakref.ref(session)
            weakref.finalize(session, self._abandon, stay).atexit = False
            return stay

    def _first_weights(self, layout: Layout, seed: int) -> torch.Tensor:
        """What an adapter begins with. Where sessions come and go those drawn last are kept, since many are alike."""
        key = layout.targets, layout.rank, seed
        if not self.is_shared:
            return first_weights(*key)
        if self._first is None or self._first[0] != key:
            self._first = key, first_weights(*key)
        return self._first[1]

    def begin(self, stay: Stay, config: TempLoraConfig, opening: int) -> MethodState:
        """Begins the memory of a session's method, which may change the model from here on. Called by `Session`.

        Raises:
            ModelError: it does, and the method does not say so.
        """
        method = stay.method
        with self.lock:
            stay.memory = method.begin(self.model, config, opening)
            if method.changes_model:
                self._forget()
            elif (kind := (type(method), str(method.options()))) in self._honest:
                pass
            elif changed := self._watch.differences(stay.base, self._hooks):
                raise ModelError(
                    f"{method.name} changes the model ({', '.join(changed[:3])}) and does not say so: its "
                    "changes_model must be True"
                )
            else:
                self._honest.add(kind)
            return stay.memory

    def release(self, stay: Stay) -> None:
        """Ends a session's stay; the last one leaves the model as the first one found it."""
        with self.lock, contextlib.ExitStack() as always:
            if stay not in self._stays:
                return
            memory, stay.memory = stay.memory, None
            always.callback(self._tidy)
            always.callback(self._stays.remove, stay)
            always.callback(stay.slot.bank.release, stay.slot)
            if stay.method.changes_model:
                always.callback(self._forget)
            if memory is not None:
                always.callback(memory.end)

    def _abandon(self, stay: Stay) -> None:
        """Called when a session is collected, at any moment, in any thread: it waits for nothing and raises nothing."""
        if stay in self._stays:
            self._abandoned.append(stay)
            self._collect()

    def _collect(self) -> None:
        """Releases what belonged to sessions that nobody holds, as soon as nobody is in the middle of a step."""
        while self._abandoned and self.lock.enter_if_free():
            try:
                stay = self._abandoned.popleft()
                with contextlib.suppress(Exception):  # of somebody's method: there is nobody to tell
                    self.release(stay)
            finally:
                self.lock.leave()

    def close(self) -> None:
        """Discards the sessions that are left, lets the model go, and gives its memory back to the system.

        May be called twice; a `with` does it at its end.
        """
        if self._scheduler is not None:
            self._scheduler.stop()
            self._scheduler = None
        with self.lock:
            if self._model is None:
                return
            device = self._model.device
            for stay in list(self._stays):
                session = stay.session() if stay.session else None
                if session is None:
                    self.release(stay)
                else:
                    session.discard()
            self._model, self._trace, self._first = None, None, None
            self._forget()
            del self._watch
        gc.collect()
        give_freed_memory_back()
        if device.type == "cuda":
            torch.cuda.empty_cache()

    def __del__(self) -> None:
        # What its weights took is given back too: malloc keeps it otherwise (`allocator`).
        watch = vars(self).get("_watch")
        large = watch is not None and watch.large
        vars(self).clear()
        del watch
        if large and not sys.is_finalizing():
            give_freed_memory_back()

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        if "_stays" not in vars(self):
            return "<Engine that has not begun>"
        if self._model is None:
            return f"<Engine {self.name}: closed>"
        kind = str(self._model.dtype).removeprefix("torch.")
        said = f"{type(self._model.module).__name__}, {kind} on {self._model.device}"
        return f"<Engine {self.name}: {said}, {self.sessions} session{'s' * (self.sessions != 1)} open>"

    def _tidy(self) -> None:
        for layout, bank in list(self._banks.items()):
            if not bank.slots:
                bank.detach()
                del self._banks[layout]
        if self._stays:
            return
        if self._trace is not None:
            self._trace.restore(self.model.module)
        for module, name, value in self._moving:
            setattr(module, name, value)
        self._moving = []

    @property
    def _hooks(self) -> list[Any]:
        """Our own on the model."""
        return [hook for bank in self._banks.values() for hook in bank.hooks]

    def _look(self, trust: bool = True) -> Found:
        """The model as it is now. What was worked out of another one is dropped."""
        found, changed = self._watch.look(self._hooks, trust)
        if changed:
            self._forget()
            self._stale = True
        if self._stale and not self._stays:
            self.model.look()
            self.model.check()
            self._stale = False
        return found

    def identity(self) -> dict[str, Any]:
        """What tells this model from others, as JSON can hold it: weights, what is computed with them, tokenizer."""

        def identity() -> dict[str, Any]:
            self._check_company(Method())
            _ = self.model  # raises, if the engine is closed
            return self._watch.identity(self._look(trust=False), self._hooks)

        return self.do(identity)

    def unlike(self, identity: Mapping[str, Any]) -> str:
        """Why this is not the model of that `identity`; empty if it is. What it does not say is passed over."""
        return unlike(identity, self.identity())

    def receipt(self, stay: Stay) -> Receipt:
        """Compares the model with what a session found, and looks for what its slot may have left."""
        with self.lock:
            fingerprint, changed = self._watch.compare(stay.base, self._hooks)
            trace = Trace.of(self.model.module)
            # While other sessions live their hooks are there, and nothing else.
            ours = sum(len(layout.targets) for layout in self._banks)
            before = self._trace or trace
            clean = trace.modules == before.modules and trace.hooks_total == before.hooks_total + ours
            clean = clean and stay.slot.is_empty and (bool(self._stays) or trace == before)
        return Receipt(not changed, clean, fingerprint, tuple(changed))

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


def _one(what: Callable[[], _R], kind: Kind) -> Plan[_R]:
    """A plan that needs one thing."""
    answer: _R = yield Work(what, kind)
    return answer


def _check_types(config: object, method: object, lesson: object) -> None:
    """Raises `OptionError` for an argument of `Engine.session` that is something else."""
    if not isinstance(config, TempLoraConfig | None):
        raise OptionError("config", f"must be a TempLoraConfig, as engine.config(...) makes one, not {config!r:.80}")
    if not isinstance(method, Method | None):
        raise OptionError(
            "method", f"must be a Method, as templora.methods.make_method(name) makes one, not {method!r:.80}"
        )
    if lesson is not None and not callable(lesson):
        raise OptionError("lesson", f"must be a function of tokens and chunk, not {lesson!r:.80}")
