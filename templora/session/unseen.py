"""`Unseen`: the end of a text that nobody has seen yet, since it may be the beginning of a stop text.

… he said: │ THE E           nobody was told of it: it may be taken back
           └ since           and with it what became of chunks that ended in it
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

from templora.events import ChunkLearned, ChunkScored
from templora.session.snapshot import Snapshot


class Unseen:
    """What of one text waits to be seen.

    Attributes:
        since: where it begins; None: everything was seen.
        taken_back: how often it was taken back.
        character: where the text ended, and how many of its last tokens are of a character that is not complete and was
            not shown.
    """

    def __init__(self) -> None:
        self.since: int | None = None
        self.taken_back = 0
        self.character = 0, 0
        self._waiting: deque[tuple[int, ChunkLearned | ChunkScored]] = deque()  # events, and where the text ended
        self._crossed: list[tuple[int, Snapshot]] = []  # ends of chunks in it, and the session before they closed

    def begin(self, at: int) -> None:
        """What is written from `at` on waits, unless something before it does."""
        if self.since is None:
            self.since = at

    def crossing(self, at: int, before: Snapshot) -> None:
        """A chunk is about to close at `at`, within what waits."""
        self._crossed.append((at, before))

    def wait(self, at: int, event: ChunkLearned | ChunkScored, *, first: bool = False) -> None:
        """An event is told of when the text before `at` was shown; `first` of those that wait, or last."""
        self._waiting.insert(0 if first else len(self._waiting), (at, event))

    def tell(self, event: ChunkLearned | ChunkScored) -> bool:
        """Whether it is to be told now; not if it was put back meanwhile."""
        if self._waiting and self._waiting[0][1] is event:
            self._waiting.popleft()
            return True
        return False

    def put_back(self) -> list[ChunkLearned | ChunkScored]:
        """The events that waited and are to be told by somebody else."""
        events = [event for _, event in self._waiting]
        self._waiting.clear()
        return events

    def seen(self, to: int, unshown: int) -> None:
        """Everything before `to` was shown, but for the last `unshown` tokens."""
        self.character = to, unshown
        if self.since is not None:
            self.since = to

    def catch_up(self, end: int) -> None:
        """Nothing waits any more, if the text ends where what waits begins."""
        if self.since == end:
            self.since = None
        since = self.since
        self._crossed = [c for c in self._crossed if since is not None and c[0] > since]

    def all_seen(self) -> None:
        """Nothing waits any more."""
        self.since, self._crossed = None, []

    def whole(self) -> None:
        """No character is incomplete."""
        self.character = 0, 0

    def unshown(self, end: int) -> int:
        """How many of the last tokens of a text that ends at `end` are of a character that was not shown."""
        at, count = self.character
        return count if at == end else 0

    def take_back(self, to: int) -> tuple[int, Snapshot] | None:
        """What waits from `to` on is taken back; the first chunk that closed in it, if one did: where it ends, and the
        session before."""
        self.taken_back += 1
        self._waiting = deque(w for w in self._waiting if w[0] <= to)
        crossed = next((c for c in self._crossed if c[0] > to), None)
        self._crossed = [c for c in self._crossed if c[0] <= to]
        return crossed

    def state(self) -> dict[str, Any]:
        """What a snapshot has to say of it, made where everything that can be seen was."""
        return {"unshown": self.character}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Becomes what `state` was given; older versions said nothing."""
        at, count = state.get("unshown", (0, 0))
        self.character = at, count
