"""`ModuleRows`: a token of each of several texts in one pass through a model's own modules, as they come.

For families that no compiled step knows. That the bits of a row are the same in every place and company is tried on the
model itself (`rows_of`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from templora.decoding.row_pass import RowPass, RowReader, place_of
from templora.kvcache.window import WindowCache
from templora.lora.bank import AdapterBank
from templora.lora.slot import Layout, Route
from templora.lora.targets import linear_layers
from templora.models.causal import CausalModel
from templora.models.runner import Row, Runner, Step
from templora.runtime.metering import Meter


class _Pass(RowPass):
    """Of texts whose caches are as long as they are."""

    def __init__(self, caches: Sequence[WindowCache], routes: Sequence[Route | None], entries: Sequence[int]) -> None:
        super().__init__(caches, routes)
        self._entries = entries  # that the tokens become

    def _put(self, row: int, held: Any, key: torch.Tensor, value: torch.Tensor) -> None:
        at = self._entries[row]
        held.keys[:, :, at : at + 1], held.values[:, :, at : at + 1] = key, value

    def _seen(self, row: int, held: Any, window: int) -> tuple[torch.Tensor, torch.Tensor, None]:
        end = self._entries[row] + 1
        begin = max(0, end - window) if window else 0
        return held.keys[:, :, begin:end], held.values[:, :, begin:end], None


class ModuleRows:
    """Rows of one model.

    Args:
        model: it.
        most_rows: of a pass, which always has so many: the last ones are copies of the first, if there are fewer texts.

    Attributes:
        attended: layers whose attention was that of rows in the last pass.
    """

    is_apart = False

    def __init__(self, model: CausalModel, most_rows: int = 4) -> None:
        self.most_rows, self.attended = most_rows, 0
        self._model, self._reader = model, RowReader(model)
        self._hidden = torch.zeros(0)

    @torch.no_grad()
    def __call__(self, rows: Sequence[Row]) -> list[torch.Tensor]:
        """fp32 logits [vocabulary] after each row's token, whose key and value are written behind what the row's cache
        holds, at least one entry; rows of one cache are tokens that follow each other. The caller counts the entries
        (`cache.advance`)."""
        caches = [row.cache for row in rows]
        entries = [place_of(caches, i) for i in range(len(rows))]
        inputs = [(row.token, cache.shift + at) for row, cache, at in zip(rows, caches, entries, strict=True)]
        inputs += (self.most_rows - len(rows)) * inputs[:1]
        going = _Pass(caches, [row.route for row in rows], entries)
        with self._model.passes():
            self._hidden = self._reader.read(going, *torch.tensor(inputs, device=self._model.device).t())
        self.attended = going.attended
        return list(self._model.logits(self._hidden)[: len(rows)])

    def state(self, row: int) -> torch.Tensor:
        """The last hidden state [hidden size] of a row of the last pass."""
        return self._hidden[row]


def rows_of(model: CausalModel, most_rows: int = 4) -> ModuleRows | None:
    """Rows of `model`, or None where one's would depend on others, or not be what the model predicts alone."""
    if not can_have_rows(model):
        return None
    try:
        rows = ModuleRows(model, most_rows)
        return rows if agrees(rows, model) and rows.attended == model.layers else None
    except Exception:  # whatever an unknown architecture trips over
        return None


def can_have_rows(model: CausalModel) -> bool:
    """Whether nothing that is known of a model speaks against rows."""
    kinds = set(getattr(model.config, "layer_types", None) or ["full_attention"])
    return kinds <= {"full_attention", "sliding_attention"} and not model.rewrites_itself


@torch.no_grad()
def agrees(step: Step, model: CausalModel) -> bool:
    """Tries texts of several lengths, with adapters and without, alone and together, in several places: equal to the
    bit, and near what a pass of one text makes of them."""
    runner, meter = Runner(model), Meter()

    def row(number: int, route: Route | None) -> Row:
        ids = [(31 * i + number) % model.vocabulary for i in range(1, 4 + 3 * (number % 4))]
        cache = WindowCache(model.layers, len(ids))
        runner.read(ids[:-1], cache, 0, route, meter)
        cache.advance(len(ids) - 1, 0)
        return Row(ids[-1], cache, route, step, meter)

    with _adapters(model, 2) as (one, other):
        each = [row(i, (one, None, other, None)[i % 4]) for i in range(step.most_rows)]
        alone = [step([text])[0] for text in each]
        for text, found in zip(each, alone, strict=True):
            wanted = model.logits(runner.read([text.token], text.cache, text.cache.next_position, text.route, meter))[0]
            # Loose enough for bf16, where a product of more rows may round differently.
            if not (found - wanted).norm() <= 0.05 * wanted.norm():
                return False
        for order in (range(len(each)), range(len(each))[::-1], range(len(each) // 2, len(each))):
            together = step([each[i] for i in order])
            if not all(torch.equal(found, alone[i]) for i, found in zip(order, together, strict=True)):
                return False
        return True


@contextmanager
def _adapters(model: CausalModel, many: int) -> Iterator[list[Route]]:
    """Some adapters that do something, while inside."""
    bank = AdapterBank(model.module, Layout(tuple(linear_layers(model.module)), 1), model.dtype)
    try:
        generator = torch.Generator().manual_seed(0)
        drawn = (torch.randn(bank.layout.weights, generator=generator) for _ in range(many))
        yield [bank.allocate(0.1 * weights, 1.0).route for weights in drawn]
    finally:
        bank.detach()
