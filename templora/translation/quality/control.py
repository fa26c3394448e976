"""`Control`: whether what the adapter translates still says what its source says, found out every few paragraphs.

A model that learns its own translations makes them more alike, and in the end alike whatever the source is. Nobody
knows the right ones, but the bare base can say how well a source could be told from a translation of it:
−log p(source | translation), in nats a token. Now and then it translates too, and the better one of the two is taken.
Where the adapter's lose more of their sources than the base's, learning does harm. (A source as the output of a noisy
channel: Brown et al. 1993; translations chosen by it: Yu et al. 2017, "The Neural Noisy Channel".)
"""

from __future__ import annotations

from collections import deque

# One of so many paragraphs is translated twice.
EVERY = 4
# Of so many of them the mean difference counts, each bounded, so that one heading does not decide; nats a token.
_LAST, _BOUND, _HARM = 8, 1.0, 0.1


class Control:
    """What is known of one translation."""

    def __init__(self) -> None:
        self._found: deque[float] = deque(maxlen=_LAST)

    def add(self, difference: float) -> None:
        """Takes note of how much more of a source the model's own translation lost than the base's: nats a token."""
        self._found.append(max(-_BOUND, min(_BOUND, difference)))

    @property
    def harm(self) -> bool:
        """Whether the adapter's translations lose more."""
        return len(self._found) == _LAST and sum(self._found) > _HARM * _LAST
