"""`Unit`: what is translated in one go, a paragraph or a part of one that is too long."""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass

from templora.translation.sentences import pieces


@dataclass(frozen=True)
class Unit:
    """A paragraph, or a part of one.

    Args:
        segment: number of the paragraph, from 0.
        part: number within it, from 0.
        source: its text, without white space around it.
        last: whether the paragraph ends with it.
    """

    segment: int
    part: int
    source: str
    last: bool


def units(sources: Sequence[str], fits: Callable[[str], bool], whole: Container[int] = ()) -> list[Unit]:
    """The paragraphs in order, in parts where they do not fit, but for those that are to stay `whole`."""
    found = []
    for segment, source in enumerate(sources):
        parts = [source] if segment in whole else pieces(source, fits)
        parts = [part.strip() for part in parts if part.strip()] or [source]
        found += [Unit(segment, i, part, i == len(parts) - 1) for i, part in enumerate(parts)]
    return found
