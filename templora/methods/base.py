"""`Method`: how the text before a chunk is kept and seen. The base class is the plain way, a sliding window.

A method is a frozen dataclass of options; what belongs to one text is in the `MethodState` that it begins. The loop
(`Session`) knows these two and no concrete method.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from templora.chunks import Chunk
from templora.config import TempLoraConfig

if TYPE_CHECKING:
    import torch

    from templora.decoding.reader import Reader
    from templora.models.causal import CausalModel
    from templora.runtime.metering import Meter


class MethodState:
    """What a method holds while one text is read.

    Attributes:
        version: grows whenever the model itself has changed, so that what was read before is stale.
        rereads: caches are computed anew when the adapter has changed; so the pass that scores a chunk need not write
            into them.
        is_plain: `prepare` reads the window and does nothing else, so that what a draft has read of it will do.
    """

    version: int = 0
    rereads: bool = True
    is_plain: bool = False

    def prepare(self, reader: Reader, tokens: Sequence[int], chunk_start: int, version: int) -> None:
        """Makes the reader's cache hold what the next token may see, up to the newest token exclusively.

        Called again when `chunk_start` or `version` is another, or the cache lacks more than the newest token.
        """
        reader.prepare(tokens, chunk_start, version)

    def learn(self, tokens: Sequence[int], chunk: Chunk, meter: Meter) -> None:
        """Takes in a chunk that is complete, after the adapter has learnt it."""

    def tensors(self) -> dict[str, torch.Tensor]:
        """What it takes to go on from here in another process."""
        return {}

    def fits(self, tensors: Mapping[str, torch.Tensor]) -> bool:
        """Whether these are such that `restore` can go on from them."""
        return all(alike(tensors.get(name), own) for name, own in self.tensors().items())

    def restore(self, tensors: Mapping[str, torch.Tensor], version: int) -> None:
        """Goes on from `tensors` of a memory of the same method, which had this `version`."""
        self.version = version

    def end(self) -> None:
        """Leaves the model as it was found. May be called twice."""


class _Window(MethodState):
    is_plain = True


def alike(found: torch.Tensor | None, own: torch.Tensor) -> bool:
    """Whether a tensor of a file can take the place of our own."""
    return found is not None and found.dtype == own.dtype and found.shape == own.shape and bool(found.isfinite().all())


@dataclass(frozen=True)
class Method:
    """How the text before a chunk is kept. Options are fields; their checks are in `__post_init__`."""

    name: ClassVar[str] = "sliding_window"
    # Whether it keeps all of `WindowCache.opening` in every window, however long: notes are there. Each class says so.
    takes_notes: ClassVar[bool] = True

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        cls.takes_notes = cls.__dict__.get("takes_notes", False)
        if "name" not in cls.__dict__:  # what messages call it
            cls.name = cls.__name__

    def options(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def changes_model(self) -> bool:
        """Whether the model computes something else from `begin` on, or in some of its passes, until `MethodState.end`:
        so no other session may be beside it."""
        return False

    @property
    def changes_passes(self) -> bool:
        """Whether it changes the model while passes run, so that learning one chunk later would meet that."""
        return self.changes_model

    def missing(self) -> str | None:
        """What it needs that is not installed; None if nothing."""
        return None

    def problem(self, model: CausalModel, config: TempLoraConfig) -> str | None:
        """Why this model cannot do it with this config; None if it can."""
        if config.window > self.positions(model):
            return f"the window of {config.window:,} is beyond this model's {self.positions(model):,} positions"
        if self.changes_passes and config.learning == "parallel":
            return "it changes the model that learning one chunk later goes through; use --learning cascaded"
        return None

    def positions(self, model: CausalModel) -> int:
        """Most tokens that may be attended to at once."""
        return model.max_positions

    def begin(self, model: CausalModel, config: TempLoraConfig, opening: int = 0) -> MethodState:
        """What is held of one text, whose first `opening` tokens stay in every window; may change the model until
        `MethodState.end`."""
        return _Window()
