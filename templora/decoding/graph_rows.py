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

import functools
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch

from templora.decoding.module_rows import agrees, can_have_rows
from templora.decoding.row_pass import RowPass, RowReader, place_of
from templora.kvcache.window import WindowCache
from templora.lora.slot import Route
from templora.models.causal import CausalModel
from templora.models.runner import Row
from templora.runtime.signals import deferred

_RECORDINGS = 8  # that are kept
# Rotary embeddings that look at the positions' values to choose their frequencies: a replay cannot.
_VALUE_DEPENDENT_ROPE = ("dynamic", "longrope")

_Found: TypeAlias = tuple[torch.Tensor, torch.Tensor]  # fp32 logits [rows, V], last hidden states [rows, H]
_Step: TypeAlias = Callable[[], _Found]
_Text: TypeAlias = tuple[WindowCache, Route | None]


def can_be_recorded(model: CausalModel) -> bool:
    """Whether nothing in this model's step depends on values that a recording would freeze."""
    rope = getattr(model.config, "rope_parameters", None) or {}
    kinds = [rope, *(r for r in rope.values() if isinstance(r, dict))]
    return not any(kind.get("rope_type") in _VALUE_DEPENDENT_ROPE for kind in kinds)


@functools.cache
def _aside() -> torch.cuda.Stream:
    """Where steps are run first: one stream for all, since libraries keep memory for each."""
    return torch.cuda.Stream()  # type: ignore[no-untyped-call]


def cuda_graph(step: _Step) -> _Step:
    """Records `step` as a CUDA graph; it is run a few times first, which must do no harm."""
    aside = _aside()
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
        self._texts: dict[tuple[int, int], Callable[[], _Text | None]] = {}
        self._hidden = torch.zeros(0)

    @torch.no_grad()
    def __call__(self, rows: Sequence[Row]) -> list[torch.Tensor]:
        """As `ModuleRows`."""
        caches, inputs = [row.cache for row in rows], list[list[int]]()
        for i, row in enumerate(rows):
            at = place_of(caches, i)
            inputs.append([row.token, row.cache.shift + at, at])
        recording, places, _held = self._recorded([(row.cache, row.route) for row in rows], inputs)
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
        self, texts: Sequence[_Text], inputs: Sequence[Sequence[int]]
    ) -> tuple[_Recording, list[int], Sequence[_Text]]:
        """A recording that these texts stand in, where they do, and its texts, to be held while it is replayed."""
        ids = [_ids(text) for text in texts]
        for recording in self._recordings:
            places, held = recording.places(ids), [self._texts.get(each, lambda: None)() for each in recording.texts]
            if places is not None and None not in held:
                break
        else:
            places = list(range(len(texts)))
            self._set(inputs, places)  # its first runs read the same tokens as the replay that follows
            recording, held = self._record_new(texts)
        # One of whom somebody has gone meanwhile is not among them any more.
        others = [each for each in self._recordings if each is not recording]
        self._recordings = [recording, *others][:_RECORDINGS]
        return recording, places, [text for text in held if text is not None]

    def _record_new(self, texts: Sequence[_Text]) -> tuple[_Recording, list[_Text | None]]:
        together, ids = list(texts), [_ids(text) for text in texts]
        for text, each in zip(texts, ids, strict=True):
            self._texts[each] = self._weak(text)
        for each in self._recordings[0].texts if self._recordings else ():
            other = self._texts.get(each, lambda: None)()
            if len(together) < self.most_rows and each not in ids and other is not None:
                together.append(other)
        caches, routes = [cache for cache, _ in together], [route for _, route in together]
        active = self._active if self.most_rows > 1 else None

        def step() -> _Found:
            going = _Pass(caches, routes, self._inputs[2], active)
            hidden = self._reader.read(going, self._inputs[0], self._inputs[1])
            self.attended = going.attended
            return self._model.logits(hidden), hidden

        with deferred():
            return _Recording(tuple(map(_ids, together)), self._record(step)), list(together)

    def _weak(self, text: _Text) -> Callable[[], _Text | None]:
        """Gives a text while it lives; when it goes, so do its recordings: another may come to lie where it did."""
        (cache, route), ids, forget = text, _ids(text), weakref.WeakMethod(self._forget)

        def gone(_: Any) -> None:
            if found := forget():
                found(ids)

        of_cache, of_route = weakref.ref(cache, gone), weakref.ref(route, gone) if route else None

        def found() -> _Text | None:
            cache, route = of_cache(), of_route() if of_route else None
            return None if cache is None or (of_route and route is None) else (cache, route)

        return found

    def _forget(self, ids: tuple[int, int]) -> None:
        self._texts.pop(ids, None)
        self._recordings = [r for r in self._recordings if ids not in r.texts]


def _ids(text: _Text) -> tuple[int, int]:
    return id(text[0]), id(text[1])


def graph_rows(model: CausalModel, most_rows: int) -> GraphRows | None:
    """Rows of `model`, recorded, or None where that cannot be, or one's would depend on others."""
    if model.device.type != "cuda" or not can_be_recorded(model) or not can_have_rows(model):
        return None
    try:
        rows = GraphRows(model, most_rows)
        return rows if agrees(rows, model) and rows.attended == model.layers else None
    except Exception:  # what cannot be recorded
        return None
