"""What a model thinks aloud before it answers, between tags: known by them, and left out.

<think>The user wants …</think> Der Leuchtturm.            ─► Der Leuchtturm.
The user wants …</think> Der Leuchtturm.                   ─► the same: the template had opened it
<think>The user wants …                                    ─► nothing: it never came to an answer
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

_NAMES = r"(?:seed:)?(?:think(?:ing)?|thoughts?|reason(?:ing)?|reflection|scratchpad|analysis)"
# What opens and what closes thoughts, in one family of models or another: DeepSeek, Qwen, Llama's descendants, Seed;
# Mistral; Kimi; Sky-T1; Command; MedGemma; gpt-oss; Gemma.
_PAIRS = (
    (rf"(?i:<\|?{_NAMES}(?:\s[^<>]*)?\|?>)", rf"(?i:<\|?/{_NAMES}\s*\|?>)"),
    (r"\[THINK\]", r"\[/THINK\]"),
    (r"◁think▷", r"◁/think▷"),
    (r"<\|begin_of_thought\|>", r"<\|end_of_thought\|>"),
    (r"<\|START_THINKING\|>", r"<\|END_THINKING\|>"),
    (r"<unused94>(?:thought)?", r"<unused95>"),
    (r"<\|channel\|>\s*(?:analysis|commentary)\s*<\|message\|>", r"<\|channel\|>\s*final\s*<\|message\|>"),
    (r"<\|channel>thought", r"<channel\|>"),
)
# How each is closed where it was opened for nothing.
_CLOSED = ("</{}>", "[/THINK]", "◁/think▷", "<|end_of_thought|>", "<|END_THINKING|>", "<unused95>", "", "<channel|>")
_ENDED = [re.compile(closed) for _, closed in _PAIRS]
_TAG = re.compile("|".join(f"(?P<o{i}>{o})|(?P<c{i}>{c})" for i, (o, c) in enumerate(_PAIRS)))
# What stands around the answer, once there were thoughts before it.
_AROUND = re.compile(r"\s*</?(?:answer|output|response|final)>\s*|<\|(?:begin|end)_of_solution\|>", re.I)
_TOKEN = re.compile(_TAG.pattern + r"|<\|(?:channel|message)\|>|<\|channel>")


class _Tag(NamedTuple):
    pair: int
    opens: bool
    start: int
    end: int


def _next(text: str, at: int) -> _Tag | None:
    found = _TAG.search(text, at)
    if found is None:
        return None
    name = str(found.lastgroup)  # the groups have none within them
    return _Tag(int(name[1:]), name[0] == "o", *found.span())


def without_thoughts(text: str, source: str = "") -> str:
    """The answer alone.

    Args:
        text: that a model wrote.
        source: what it was asked about. Tags that stand there are no thoughts.
    """
    if _TAG.search(source):
        return text
    kept, at, any_tag = "", 0, False
    while (tag := _next(text, at)) is not None:
        any_tag = True
        kept = kept + text[at : tag.start] if tag.opens else ""  # what an end without a beginning ends began before
        closing = _ENDED[tag.pair].search(text, tag.end) if tag.opens else None
        at = closing.end() if closing else len(text) if tag.opens else tag.end
    kept += text[at:]
    return _AROUND.sub("", kept) if any_tag else kept


def closed(text: str) -> str:
    """A prompt that opens thoughts at its end, with these closed at once: the answer comes next."""
    at = 0
    while (tag := _next(text, at)) is not None:
        if not tag.opens:
            at = tag.end
            continue
        closing = _ENDED[tag.pair].search(text, tag.end)
        if closing is None:
            name = re.sub(r"[<>|]", "", text[tag.start : tag.end]).split()[0]
            return text.rstrip() + "\n\n" + _CLOSED[tag.pair].format(name) + "\n\n"
        at = closing.end()
    return text


def tag_tokens(tokenizer: Any) -> dict[int, str]:
    """Control tokens of a tokenizer that are such tags: its `decode` leaves them out, and their thoughts stay."""
    added = getattr(tokenizer, "added_tokens_decoder", None) or {}
    return {i: str(t.content) for i, t in added.items() if t.special and _TOKEN.fullmatch(str(t.content))}
