"""What a text's adapter has learnt: nothing, the text itself (Temp-LoRA), or, as controls, something else.

Any of them goes with any way to keep the context (`Method`).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from templora.chunks import Chunk
from templora.errors import OptionError, nearest

Lesson = Callable[[Sequence[int], Chunk], Sequence[int]]


@dataclass(frozen=True)
class AdapterSource:
    """Where an adapter's weights come from.

    Args:
        label: in tables.
        summary: one line for people.
        reads: whether the text is read through an adapter at all.
        learns: whether it learns the text as it is read.
        other: whether it learnt another text before.
        lesson: (tokenizer, seed) -> what is learnt of a chunk; None: the chunk.
    """

    label: str
    summary: str
    reads: bool = True
    learns: bool = True
    other: bool = False
    lesson: Callable[[Any, int], Lesson] | None = None


def shuffled_sentences(tokenizer: Any, seed: int) -> Lesson:
    """Learns the sentences of each chunk in another order: the same words in the same sentences, but no thread."""

    def lesson(tokens: Sequence[int], chunk: Chunk) -> list[int]:
        sentences: list[list[int]] = [[]]
        read = ""
        for token in tokens[chunk.middle : chunk.end]:
            sentences[-1].append(token)
            text = tokenizer.decode([token])
            # A line may end within a sentence, as in wrapped text; an empty one ends it.
            if any(mark in text for mark in ".!?。！？") or "\n\n" in read[-1:] + text:
                sentences.append([])
            read = text
        random.Random(f"{seed} {chunk.index}").shuffle(sentences)
        return [*tokens[: chunk.middle], *(token for sentence in sentences for token in sentence)]

    return lesson


def shuffled_tokens(tokenizer: Any, seed: int) -> Lesson:
    """Learns the tokens of each chunk in another order: nothing but how often each occurs."""

    def lesson(tokens: Sequence[int], chunk: Chunk) -> list[int]:
        ids = list(tokens[chunk.middle : chunk.end])
        random.Random(f"{seed} {chunk.index}").shuffle(ids)
        return [*tokens[: chunk.middle], *ids]

    return lesson


SOURCES = {
    "none": AdapterSource("no adapter", "no adapter: the bare model", reads=False, learns=False),
    "own": AdapterSource("own adapter", "Temp-LoRA: it learns each chunk of the text after it was scored"),
    "other": AdapterSource(
        "adapter of another text (control)",
        "control: it has learnt another text, and nothing of this one",
        learns=False,
        other=True,
    ),
    "other-then-own": AdapterSource(
        "adapter of another text, then own", "it has learnt another text, and goes on with this one", other=True
    ),
    "shuffled": AdapterSource(
        "own, its sentences shuffled (control)",
        "control: it learns each chunk with its sentences in another order",
        lesson=shuffled_sentences,
    ),
    "bag": AdapterSource(
        "own, its tokens shuffled (control)",
        "control: it learns each chunk with its tokens in another order",
        lesson=shuffled_tokens,
    ),
}


def adapter_source(name: str) -> AdapterSource:
    """Raises `OptionError` for an unknown name; says which is nearest."""
    if name not in SOURCES:
        raise OptionError("adapters", f"unknown {name!r}; {nearest(name, SOURCES)}")
    return SOURCES[name]
