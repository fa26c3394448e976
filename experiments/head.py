#!/usr/bin/env python3
"""What a head that learns too would bring (docs/recipe.md); the package's head is frozen.

    experiments/head.py --books FOLDER [--texts 1684,9096] [--tokens 24000]

Each book is scored once with the default recipe. The hidden states before the head are kept, and heads that learn after
each chunk are put on them: the adapter does not notice, so this is what they bring on top of it.

    counts-K    a bias on the logits: ln((c + K) / (e + K)), c how often a token came so far, e how often the model
                expected it to
    lora-R      a low-rank adapter of the head, rank 64, one AdamW step a chunk at rate R, the recipe's decays
    both        a low-rank adapter at 1e-3 over the counts with K = 4

Leaves a file a book in results/head/; books that are there are not repeated. Prints a table in Markdown: change of
perplexity against the base, of the adapter alone and of the mixture.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F

import templora
from templora.evals.measuring.texts import find_texts
from templora.models.causal import CausalModel
from templora.reports.run_report import describe_device, source_commit, write_json
from templora.session.mixture import Mixture

RESULTS = Path(__file__).parent.parent / "results" / "head"
RANK = 64


class Frozen:
    """The head as it is."""

    def nll(self, hidden: torch.Tensor, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """NLL [T] of a chunk's targets, from hidden states [T, H] and the frozen head's logits [T, V]; then learns."""
        return F.cross_entropy(logits, targets, reduction="none")


class Counts(Frozen):
    """A bias on the logits, from counts."""

    def __init__(self, head: torch.Tensor, doubt: float) -> None:
        self.doubt = doubt
        self.seen, self.expected = torch.zeros(2, len(head))

    def logits(self, logits: torch.Tensor) -> torch.Tensor:
        return logits + torch.log((self.seen + self.doubt) / (self.expected + self.doubt))

    def nll(self, hidden: torch.Tensor, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        biased = self.logits(logits)
        self.expected += biased.softmax(-1).sum(0)
        self.seen += torch.bincount(targets, minlength=len(self.seen))
        return F.cross_entropy(biased, targets, reduction="none")


class LowRank(Frozen):
    """An adapter of the head, over its logits or biased ones."""

    def __init__(self, head: torch.Tensor, rate: float, under: Counts | None = None) -> None:
        self.a = torch.empty(RANK, head.shape[1])
        torch.nn.init.kaiming_uniform_(self.a, a=5**0.5, generator=torch.Generator().manual_seed(42))
        self.b = torch.zeros(len(head), RANK)
        self.under = under
        weights = [self.a.requires_grad_(), self.b.requires_grad_()]
        self.optimizer = torch.optim.AdamW(weights, lr=rate, betas=(0.7, 0.99), weight_decay=0.0)

    def nll(self, hidden: torch.Tensor, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        if self.under:
            logits, frozen = self.under.logits(logits), logits
            self.under.nll(hidden, frozen, targets)
        nll = F.cross_entropy(logits + hidden @ self.a.T @ self.b.T, targets, reduction="none")
        self.optimizer.zero_grad()
        nll.mean().backward()
        torch.nn.utils.clip_grad_norm_([self.a, self.b], 1.0)
        self.optimizer.step()
        return nll.detach()


HEADS: dict[str, Callable[[torch.Tensor], Frozen]] = {
    "frozen": lambda head: Frozen(),
    "counts-2": lambda head: Counts(head, 2),
    "counts-4": lambda head: Counts(head, 4),
    "counts-8": lambda head: Counts(head, 8),
    "lora-5e-4": lambda head: LowRank(head, 5e-4),
    "lora-1e-3": lambda head: LowRank(head, 1e-3),
    "lora-2e-3": lambda head: LowRank(head, 2e-3),
    "both": lambda head: LowRank(head, 1e-3, Counts(head, 4)),
}


def run(text: Any, tokens: int, threads: str) -> dict[str, Any]:
    path = RESULTS / f"{text.name}.json"
    if path.exists():
        return json.loads(path.read_text())
    engine = templora.load(threads=threads)
    config = engine.config()
    ids = engine.tokenizer(text.content, verbose=False)["input_ids"][:tokens]
    chunks: list[tuple[torch.Tensor, list[int]]] = []
    base: list[list[float]] = []
    nll_gradient, mixed_nll = CausalModel.nll_gradient, Mixture.nll

    def keep_hidden(self: CausalModel, hidden: torch.Tensor, targets: list[int]) -> Any:
        chunks.append((hidden.detach().clone(), targets))
        return nll_gradient(self, hidden, targets)

    def keep_base(self: Mixture, by_base: list[float], by_adapter: list[float]) -> list[float]:
        base.append(by_base)
        return mixed_nll(self, by_base, by_adapter)

    with (
        engine.session(config) as session,
        mock.patch.object(CausalModel, "nll_gradient", keep_hidden),
        mock.patch.object(Mixture, "nll", keep_base),
    ):
        for _ in session.score_ids(ids):
            pass
    del base[len(chunks) :]  # the last chunk, if it was not full: nothing was learnt from it
    total = math.fsum(math.fsum(nll) for nll in base)
    targets = sum(len(t) for _, t in chunks)
    found = {}
    weight = engine.model.head.weight.detach().float()
    for name, make in HEADS.items():
        head, mixture = make(weight), Mixture()
        alone, mixed = [], []
        for (hidden, following), by_base in zip(chunks, base, strict=True):
            h = hidden.float()
            nll = head.nll(h, h @ weight.T, torch.tensor(following)).tolist()
            alone.append(math.fsum(nll))
            mixed.append(math.fsum(mixture.nll(by_base, nll)))
        found[name] = {"adapted_nll": math.fsum(alone), "mixed_nll": math.fsum(mixed)}
    document = {
        "text": text.name, "tokens": tokens, "targets": targets, "base_nll": total, "heads": found,
        "config": config.to_dict(), "versions": engine.versions() | {"commit": source_commit()},
        "device": describe_device(engine.model.device),
    }  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, document)
    return document


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--books", required=True)
    parser.add_argument("--texts", default="1684,9096")
    parser.add_argument("--tokens", type=int, default=24_000)
    parser.add_argument("--threads", default="auto")
    arguments = parser.parse_args()
    texts = find_texts(arguments.books, arguments.texts.split(","))
    documents = [run(text, arguments.tokens, arguments.threads) for text in texts]
    print(f"| head | {' | '.join(d['text'] + ', alone | mixture' for d in documents)} |")
    print(f"|---|{'---:|---:|' * len(documents)}")
    for name in HEADS:
        cells = []
        for d in documents:
            for key in ("adapted_nll", "mixed_nll"):
                cells.append(f"{100 * math.expm1((d['heads'][name][key] - d['base_nll']) / d['targets']):+.2f} %")
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
