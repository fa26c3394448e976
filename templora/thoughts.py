"""What a model thinks aloud before it answers, between tags: known by them, and left out.

<think>The user wants …</think> Der Leuchtturm.            ─► Der Leuchtturm.
The user wants …</think> Der Leuchtturm.                   ─► the same: the template had opened it
<think>The user wants …                                    ─► nothing: it never came to an answer
"""

from __future__ import annotations

import re
from typing import Any

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
_TAG = re.compile("|".join(tag for pair in _PAIRS for tag in pair))
_END = re.compile("|".join(end for _, end in _PAIRS))
# From the tag that opens them to the one that closes them, or to the end of the text (`n`: never closed).
_THOUGHTS = re.compile(
    "|".join(rf"(?P<o{i}>{opening})[\s\S]*?(?:{end}|(?P<n{i}>\Z))" for i, (opening, end) in enumerate(_PAIRS))
)
# What stands around the answer, once there were thoughts before it.
_AROUND = re.compile(r"\s*</?(?:answer|output|response|final)>\s*|<\|(?:begin|end)_of_solution\|>", re.I)
_TOKEN = re.compile(_TAG.pattern + r"|<\|(?:channel|message)\|>|<\|channel>")


def without_thoughts(text: str, source: str = "") -> str:
    """The answer alone.

    Args:
        text: that a model wrote.
        source: what it was asked about. Tags that stand there are no thoughts.
    """
    if _TAG.search(source) or not _TAG.search(text):
        return text
    # What an end without a beginning ends began before the text.
    return _AROUND.sub("", _END.split(_THOUGHTS.sub("", text))[-1])


def closed(text: str) -> str:
    """A prompt that opens thoughts at its end, with these closed at once: the answer comes next."""
    for found in _THOUGHTS.finditer(text):
        kind, pair = str(found.lastgroup)[0], int(str(found.lastgroup)[1:])
        if kind == "n":
            name = re.sub(r"[<>|]", "", found[f"o{pair}"]).split()[0]
            return text.rstrip() + "\n\n" + _CLOSED[pair].format(name) + "\n\n"
    return text


def tag_tokens(tokenizer: Any) -> dict[int, str]:
    """Control tokens of a tokenizer that are such tags: its `decode` leaves them out, and their thoughts stay."""
    added = getattr(tokenizer, "added_tokens_decoder", None) or {}
    return {i: str(t.content) for i, t in added.items() if t.special and _TOKEN.fullmatch(str(t.content))}
