"""`InMemory`: a session that is not on disk, as a translator wants it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from templora.events import Event

if TYPE_CHECKING:
    from templora.decoding.preview import Preview
    from templora.session.session import Session


class InMemory:
    """A text of which nothing is kept.

    Args:
        session: it goes through.
    """

    def __init__(self, session: Session) -> None:
        self.session = session
        self.close_chunk, self.likelihood = session.close_chunk, session.likelihood

    @property
    def open_tokens(self) -> int:
        return self.session.open_tokens

    def preview(self, prompt: str = "", *, base: bool = False, **how: Any) -> Preview:
        return self.session.preview(prompt, base=base, **how)

    def absorb_parts(
        self, parts: Sequence[tuple[str, bool]], *, mark: Mapping[str, Any] | None = None
    ) -> Iterator[Event]:
        for text, learn in parts:
            yield from self.session.absorb_events(text, learn=learn)

    def mark(self, data: Mapping[str, Any]) -> None:
        pass  # there is no log
