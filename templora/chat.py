"""A conversation in a model's chat template, message by message: what each adds to the text.

    template   <|im_start|>user↵ Hello <|im_end|>↵<|im_start|>assistant↵ Good day <|im_end|>↵<|im_start|>user↵ …
    parts      └────────────── of the user's message ──────────────────┘└ answer ┘└──── of the user's next one ── …

What stands between a message and an answer to it is of that message: it has been read when the answer is written. So a
conversation grows by whole parts, and whoever has some of them needs only the others. What the system says is no part:
it stands before all of them (`system_part`), whatever has left the window since.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

from templora.errors import OptionError
from templora.text import Framed, control_tokens, opening_ids, ours

_HOLE = "QpalZm"  # with a number, stands for what somebody says


@dataclass(frozen=True)
class Message:
    """What somebody says.

    Args:
        role: who: `system`, `user`, `assistant`, or whom else the template knows.
        content: what.
    """

    role: str
    content: str


def message_parts(tokenizer: Any, messages: Sequence[Message], *, system: bool = False) -> list[Framed]:
    """What each message adds to the text. After the last one comes an answer, or the rest of it, if it is one.

    Args:
        tokenizer: of the model.
        messages: all but the system's.
        system: whether something stands before them that the system says.

    Raises:
        OptionError: the model has no chat template, or its template does not take these messages.
    """
    frame = _system_frame(tokenizer) if system else None
    if frame:
        frames = _frames(tokenizer, [Message("system", ""), *messages])
        frames = [frames[1][len(frame[1]) :], *frames[2:]]
    else:
        frames = _frames(tokenizer, messages)
    made: list[Framed] = []
    for i, message in enumerate(messages):
        answered = messages[i + 1].role == "assistant" if i + 1 < len(messages) else message.role != "assistant"
        before = "" if i and message.role == "assistant" else frames[i]
        part = ours(before) + message.content
        made.append(part + ours(frames[i + 1]) if answered else part)
    return made


def conversation(tokenizer: Any, system: str, messages: Sequence[Message]) -> Framed:
    """All of a conversation, up to where an answer begins; arguments as for `message_parts` and `system_part`."""
    parts = message_parts(tokenizer, messages, system=bool(system))
    return reduce(Framed.__add__, parts, system_part(tokenizer, system) if system else ours(""))


def system_part(tokenizer: Any, system: str) -> Framed:
    """What the system says, as it stands before a conversation; plain, where the template knows no such role."""
    frame = _system_frame(tokenizer)
    if frame is None:
        return Framed((f"{system}\n\n", False))
    return ours(frame[0]) + system + ours(frame[1])


def _system_frame(tokenizer: Any) -> tuple[str, str] | None:
    """What stands before and after what the system says; None if that is not apart from what comes next."""
    try:
        alone, with_more = (
            _frames(tokenizer, [Message("system", ""), *more], answer=False) for more in ((), [Message("user", "")])
        )
    except OptionError:
        return None
    apart = alone[0] == with_more[0] and bool(alone[1]) and with_more[1].startswith(alone[1])
    return (alone[0], alone[1]) if apart else None


def _frames(tokenizer: Any, messages: Sequence[Message], *, answer: bool | None = None) -> list[str]:
    """What stands before the first message, between each two, and after the last; there, unless told otherwise, what an
    answer begins with, if the last is none."""
    if answer is None:
        answer = bool(messages) and messages[-1].role != "assistant"
    holes = [f"{_HOLE}{i}x" for i in range(len(messages))]
    said = [{"role": message.role, "content": hole} for message, hole in zip(messages, holes, strict=True)]
    text, frames = _without_opening(tokenizer, _render(tokenizer, said, answer)), []
    for hole in holes:
        before, found, text = text.partition(hole)
        if not found:
            raise OptionError("messages", "this model's chat template leaves some of them out, or changes their order")
        frames.append(before)
    return [*frames, text]


def _render(tokenizer: Any, said: Sequence[dict[str, str]], answer: bool) -> str:
    if not getattr(tokenizer, "chat_template", None):
        raise OptionError("messages", "this model has no chat template; use completions, with a prompt")
    try:
        return str(tokenizer.apply_chat_template(list(said), tokenize=False, add_generation_prompt=answer))
    except Exception as error:  # a template is a program of the model's, which may refuse what it likes
        why = str(error) or type(error).__name__
        raise OptionError("messages", f"this model's chat template does not take them: {why:.200}") from error


def _without_opening(tokenizer: Any, text: str) -> str:
    """Templates write BOS themselves, which every text has already."""
    names = control_tokens(tokenizer)
    return text.removeprefix("".join(names.get(i, "") for i in opening_ids(tokenizer)))
