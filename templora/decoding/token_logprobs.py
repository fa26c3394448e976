"""How likely each token of a text is: read in windows, nothing kept, nothing learnt.

pass 1   [══ window − chunk ══│── chunk ──]        every token is predicted once, from as much before it as a
pass 2              [═══════════════│── chunk ──]  session's chunk has at its left
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from templora.events import TokenLogprobs, TopLogprob
from templora.lora.slot import Route
from templora.models.runner import Runner
from templora.runtime.metering import Meter
from templora.text import token_text


@torch.no_grad()
def token_logprobs(
    runner: Runner,
    before: Sequence[int],
    ids: Sequence[int],
    *,
    opening: int,
    window: int,
    chunk_size: int,
    top: int,
    tokenizer: Any,
    meter: Meter,
    route: Route | None = None,
) -> Iterator[list[TokenLogprobs]]:
    """How likely each of `ids` is after `before` and those before it, a chunk of them at a time.

    Args:
        runner: of the model.
        before: what the first of them comes after, at least one token.
        ids: they.
        opening: tokens of `before` that stand in every window.
        window, chunk_size: as of `TempLoraConfig`.
        top: how many of the likeliest to name.
        tokenizer: of the model, to name them.
        meter: where FLOPs are counted.
        route: the adapter to read through; None: the bare base.
    """
    tokens = [*before, *ids]
    for start in range(len(before), len(tokens), chunk_size):
        end = min(start + chunk_size, len(tokens))
        first = max(0, start - (window - chunk_size))
        # The window's first tokens make room for what opens every text.
        seen = [*tokens[:opening], *tokens[first + opening : end - 1]]
        with meter.phase("score"):
            hidden = runner.read(seen, None, 0, route, meter, logits=end - start)[-(end - start) :]
            own, ids_there, values = runner.model.logprobs(hidden, tokens[start:end], top)
        yield [
            TokenLogprobs(
                logprob,
                tuple(
                    TopLogprob(token, token_text(tokenizer, token), value)
                    for token, value in zip(likeliest, theirs, strict=True)
                ),
            )
            for logprob, likeliest, theirs in zip(own, ids_there, values, strict=True)
        ]
