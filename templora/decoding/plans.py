"""Plans: what a text wants next, said in such a way that somebody else can meet it.

A verb is a generator that yields events, for its caller, and needs, for whoever drives it; each need is answered with
what came of it. Driven alone (`driven`) needs are met at once by the calling thread. A scheduler takes the needs of
many texts and puts together what fits one pass (`templora.engine.scheduler`).
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, ExitStack, suppress
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, TypeVar

import torch

from templora.decoding.reader import Reader
from templora.events import Event
from templora.runtime.signals import safe_point

Kind = Literal["read", "score", "learn", "other"]


@dataclass(frozen=True)
class Token:
    """The next token of a text. Answered with what `choose` makes of it.

    Args:
        reader: whose cache holds all but the newest token.
        tokens: of the text.
        choose: from fp32 logits [vocabulary]; touches nothing.
    """

    reader: Reader
    tokens: Sequence[int]
    choose: Callable[[torch.Tensor], Any]

    def meet(self) -> Any:
        with self.reader.meter.phase("decode"):
            return self.choose(self.reader.next_logits(self.tokens))

    def answer(self, logits: torch.Tensor) -> Any:
        """Its answer, from what `next_logits` of several found."""
        with self.reader.meter.phase("decode"):
            return self.choose(logits)


@dataclass(frozen=True)
class Work:
    """Something that needs the model for itself. Answered with its result.

    Args:
        do: it; whole, or, where it raises, as if it had not been done.
        kind: what it is for: reads go before learning.
        later: it is asked for again when its result is needed, and may be done before; answered with None at once.
    """

    do: Callable[[], Any]
    kind: Kind = "other"
    later: bool = False

    def meet(self) -> Any:
        return None if self.later else self.do()


def next_logits(needs: Sequence[Token]) -> list[torch.Tensor]:
    """fp32 logits [vocabulary] of what each waits for, in one pass if they are of one compiled step."""
    with ExitStack() as stack:
        for need in needs:
            stack.enter_context(need.reader.meter.phase("decode"))
        return needs[0].reader.runner.step([need.reader.row(need.tokens[-1]) for need in needs])


class Unheard(BaseException):
    """Thrown into a plan at an event that never reached its caller: whoever can tell it another time keeps it."""


Need: TypeAlias = Token | Work
_R = TypeVar("_R")
Plan: TypeAlias = Generator[Event | Token | Work, Any, _R]


def driven(plan: Plan[_R], step: Callable[[], AbstractContextManager[object]]) -> Generator[Event, None, _R]:
    """The events of a plan, whose needs are met as they come; inside `step` the model is the caller's alone.

    What interrupts it does so within a need, or when one is met and the plan does not know yet: so a plan's own lines
    are never interrupted, unless somebody insists.
    """
    heard = True
    try:
        while True:
            with step():
                try:
                    event = _next_event(plan)
                    heard = False  # until the step is over, whose end may be where a signal is handled
                except StopIteration as end:
                    result: _R = end.value
                    return result
            heard = True
            yield event
    finally:
        end_early(plan, heard)


def end_early(plan: Plan[Any], heard: bool) -> None:
    """Closes a plan where it is, the last event of which was `heard` by its caller, or was not."""
    if heard:
        plan.close()
        return
    with suppress(Unheard):
        plan.throw(Unheard())


def _next_event(plan: Plan[Any]) -> Event:
    said = plan.send(None)
    while isinstance(said, Token | Work):
        try:
            answer = said.meet()
            safe_point()
        except BaseException as error:
            said = plan.throw(error)
        else:
            said = plan.send(answer)
    return said
