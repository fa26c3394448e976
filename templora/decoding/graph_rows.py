"""`GraphRows`: a token of each of several texts on CUDA in one pass, as one recorded graph.

Read token by token, a model on a GPU waits for Python: hundreds of small kernels, each launched by hand. Here they are
recorded once and replayed with one launch. What a graph reads stays where it was recorded:

    token, position, entry    int64 [3, rows] on the device, rewritten before each replay
    active                    bool [rows]: whose token this replay reads; the others' caches stay as they are
    keys and values           each text's own `WindowCache` buffers, at full capacity under a mask
    adapters                  what serves of each slot, which commits rewrite in place

so evictions, window moves and commits need no new recording. A recording is of some texts, of which each replay reads
any; one that is not among them is another recording, of it and as many of the last ones as there is room for. The bits
of a row depend on `most_rows`, and on nothing else of this.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch

from templora.decoding.module_rows import agrees, can_have_rows
from templora.decoding.row_pass import RowPass, RowReader
from templora.errors import ModelError
from templora.kvcache.window import WindowCache
from templora.lora.slot import Route
from templora.models.causal import CausalModel
from templora.models.runner import Row

_RECORDINGS = 4  # that are kept
# Rotary embeddings that look at the positions' values to choose their frequencies: a replay cannot.
_VALUE_DEPENDENT_ROPE = ("dynamic", "longrope")

_Found: TypeAlias = tuple[torch.Tensor, torch.Tensor]  # fp32 logits [rows, V], last hidden states [rows, H]
_Step: TypeAlias = Callable[[], _Found]


def can_be_recorded(model: CausalModel) -> bool:
    """Whether nothing in this model's step depends on values that a recording would freeze."""
    rope = getattr(model.config, "rope_parameters", None) or {}
    kinds = [rope, *(r for r in rope.values() if isinstance(r, dict))]
    return not any(kind.get("rope_type") in _VALUE_DEPENDENT_ROPE for kind in kinds)


def cuda_graph(step: _Step) -> _Step:
    """Records `step` as a CUDA graph; it is run a few times first, which must do no harm."""
    aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):  # libraries set themselves up at first use, which cannot be recorded
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    # Other threads may be learning on streams of their own meanwhile.
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        found = step()

    def replay() -> _Found:
        graph.replay()
        return found

    return replay


class _Pass(RowPass):
    """Of texts in memory that stays where it is, by operations that are the same for every token.

    Args:
        entries: int64 [rows], that the tokens become.
        active: bool [rows]; None: all of them are.
    """

    def __init__(
        self,
        caches: Sequence[WindowCache],
        routes: Sequence[Route | None],
        entries: torch.Tensor,
        active: torch.Tensor | None,
    ) -> None:
        super().__init__(caches, routes)
        self._entries, self._active = entries, active
        self._masks: dict[tuple[int, int], torch.Tensor] = {}

    def _put(self, row: int, held: Any, key: torch.Tensor, value: torch.Tensor) -> None:
        at = self._entries[row : row + 1]
        for entries, new in ((held.keys, key), (held.values, value)):
            if self._active is not None:
                new = torch.where(self._active[row], new, entries.index_select(2, at))
            entries.index_copy_(2, at, new)

    def _seen(self, row: int, held: Any, window: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        if (row, window) not in self._masks:  # the same for all layers
            at, where = self._entries[row], torch.arange(held.keys.shape[2], device=held.keys.device)
            hidden = (where > at) | (where <= at - window) if window else where > at
            mask = torch.zeros_like(where, dtype=held.keys.dtype).masked_fill(hidden, torch.finfo(held.keys.dtype).min)
            self._masks[row, window] = mask[None, None, None]
        return held.keys, held.values, self._masks[row, window]


@dataclass(frozen=True)
class _Recording:
    """Of some texts, each by the ids of its cache and its adapter."""

    texts: tuple[tuple[int, int], ...]
    replay: _Step

    def places(self, texts: Sequence[tuple[int, int]]) -> list[int] | None:
        """Where texts stand in it, one of two that are the same beside the other; None: not all of them do."""
        free, places = list(range(len(self.texts))), list[int]()
        for text in texts:
            place = next((i for i in free if self.texts[i] == text), None)
            if place is None:
                return None
            free.remove(place)
            places.append(place)
        return places


class GraphRows:
    """Rows of one model on CUDA.

    Args:
        model: it.
        most_rows: of a pass, which always has so many.
        record: what turns a step into a replay of it, which may not hold on to it; a CUDA graph unless a test wants
            otherwise.

    Attributes:
        attended: layers whose attention was that of rows when it was recorded last.
    """

    is_apart = False

    def __init__(self, model: CausalModel, most_rows: int, record: Callable[[_Step], _Step] = cuda_graph) -> None:
        self.most_rows, self.attended = most_rows, 0
        self._model, self._reader, self._record = model, RowReader(model), record
        self._inputs = torch.zeros(3, most_rows, dtype=torch.long, device=model.device)
        self._active = torch.zeros(most_rows, dtype=torch.bool, device=model.device)
        self._recordings: list[_Recording] = []  # that replayed last stands first
        self._texts: dict[tuple[int, int], tuple[weakref.ref[WindowCache], weakref.ref[Route] | None]] = {}
        self._hidden = torch.zeros(0)

    @torch.no_grad()
    def __call__(self, rows: Sequence[Row]) -> list[torch.Tensor]:
        """As `ModuleRows`."""
        texts, at = [(id(row.cache), id(row.route)) for row in rows], list[int]()
        for i, row in enumerate(rows):  # those of one cache are tokens that follow each other
            at.append(row.cache.length + texts[:i].count(texts[i]))
            if not 0 < at[i] < row.cache.capacity:
                raise ModelError(
                    f"the window's cache holds {at[i]} of {row.cache.capacity} entries: no room for a token"
                )
        inputs = [[row.token, row.cache.shift + entry, entry] for row, entry in zip(rows, at, strict=True)]
        recording, places = self._recorded(rows, texts, inputs)
        self._set(inputs, places)
        logits, hidden = recording.replay()
        self._hidden = hidden[places]  # a copy, as that of the logits: the next replay overwrites them
        return list(logits[places])

    def state(self, row: int) -> torch.Tensor:
        """The last hidden state [hidden size] of a row of the last pass."""
        return self._hidden[row]

    def _set(self, inputs: Sequence[Sequence[int]], places: Sequence[int]) -> None:
        """Says which tokens are read by which rows; the others are idle."""
        every, active = [[0, 0, 0]] * self.most_rows, [False] * self.most_rows
        for place, given in zip(places, inputs, strict=True):
            every[place], active[place] = list(given), True
        self._inputs.copy_(torch.tensor(every).t())
        self._active.copy_(torch.tensor(active))

    def _recorded(
        self, rows: Sequence[Row], texts: Sequence[tuple[int, int]], inputs: Sequence[Sequence[int]]
    ) -> tuple[_Recording, list[int]]:
        """A recording that these texts stand in, and where."""
        for recording in self._recordings:
            places = recording.places(texts)
            if places is not None:
                self._recordings.remove(recording)
                break
        else:
            places = list(range(len(rows)))
            self._set(inputs, places)  # its first runs read the same tokens as the replay that follows
            recording = self._record_new(rows, texts)
        self._recordings = [recording, *self._recordings][:_RECORDINGS]
        return recording, places

    def _record_new(self, rows: Sequence[Row], texts: Sequence[tuple[int, int]]) -> _Recording:
        together = [(row.cache, row.route) for row in rows]
        for row, text in zip(rows, texts, strict=True):
            if text not in self._texts:
                forget = weakref.WeakMethod(self._forget)

                def gone(_: Any, text: tuple[int, int] = text, forget: Any = forget) -> None:
                    if found := forget():
                        found(text)

                route = weakref.ref(row.route, gone) if row.route else None
                self._texts[text] = weakref.ref(row.cache, gone), route
        for text in self._recordings[0].texts if self._recordings else ():
            if len(together) < self.most_rows and text not in texts:
                cache, of = self._texts[text][0](), self._texts[text][1]
                if cache is not None:
                    together.append((cache, of() if of else None))
        caches, routes = [cache for cache, _ in together], [route for _, route in together]
        active = self._active if self.most_rows > 1 else None

        def step() -> _Found:
            going = _Pass(caches, routes, self._inputs[2], active)
            hidden = self._reader.read(going, self._inputs[0], self._inputs[1])
            self.attended = going.attended
            return self._model.logits(hidden), hidden

        return _Recording(tuple((id(cache), id(route)) for cache, route in together), self._record(step))

    def _forget(self, text: tuple[int, int]) -> None:
        """Forgets the recordings of a text that is gone: another may come to lie where it did."""
        self._texts.pop(text, None)
        self._recordings = [r for r in self._recordings if text not in r.texts]


def graph_rows(model: CausalModel, most_rows: int) -> GraphRows | None:
    """Rows of `model`, recorded, or None where that cannot be, or one's would depend on others."""
    if model.device.type != "cuda" or not can_be_recorded(model) or not can_have_rows(model):
        return None
    rows = GraphRows(model, most_rows)
    try:
        return rows if agrees(rows, model) and rows.attended == model.layers else None
    except Exception:  # what cannot be recorded
        return None
