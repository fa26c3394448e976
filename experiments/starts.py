#!/usr/bin/env python3
"""Where an adapter begins, and which layers have how much of it (docs/recipe.md).

    experiments/starts.py --books FOLDER [--texts 1684,9096] [--tokens 12288] [--starts NAME ...] [--out FILE]

B begins as zero in all of them, so a fresh adapter is the base model; what differs is A. Each is as large as the random
one, over all its numbers.

    random       as the package does it: uniform (PEFT)
    weights      the first right singular vectors of the layer's weights (the subspace that PiSSA takes; Meng et al.,
                 arXiv 2404.02948)
    inputs       those of the layer's inputs over the first chunk (EVA; Paischer et al., arXiv 2410.07170)
    gradient     those of the gradient of the layer's weights over the first chunk (as LoRA-GA has it; Wang et al.,
                 arXiv 2407.05000)
    upper        random, rank 96 in the upper half of the layers and 32 in the lower
    lower        the other way round

Runs that are in FILE already are left out. Prints a table in Markdown: change of perplexity of the adapter alone
against the base, over all tokens, and over the first 2,048.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

import templora
from templora.evals.measuring.texts import find_texts
from templora.events import ChunkScored
from templora.lora.targets import Target, module_at
from templora.metrics import perplexity
from templora.reports.run_report import describe_device, source_commit, write_json
from templora.text import encode

STARTS = ("random", "weights", "inputs", "gradient", "upper", "lower")
EARLY = 2048
WIDE, NARROW = 96, 32


def vectors(square: torch.Tensor, rank: int) -> torch.Tensor:
    """The `rank` main eigenvectors of a symmetric matrix, as rows."""
    return torch.linalg.eigh(square.double())[1][:, -rank:].flip(1).t().float()


@torch.no_grad()
def weights_of(module: torch.nn.Module, target: Target) -> torch.Tensor:
    """A layer's weights [outputs, inputs], in whatever format they are held."""
    layer = module_at(module, target)
    like = next(module.parameters())
    eye = torch.eye(target.inputs, dtype=like.dtype, device=like.device)
    return (layer(eye).float() - layer(torch.zeros_like(eye)).float()).t()


def seen(module: torch.nn.Module, targets: Sequence[Target], ids: Sequence[int], gradient: bool) -> list[torch.Tensor]:
    """X'X [inputs, inputs] of each target's inputs over a text, or G'G of the gradients of its weights."""
    found: list[torch.Tensor] = [torch.empty(0)] * len(targets)
    handles = [module.get_input_embeddings().register_forward_hook(lambda m, i, out: out.detach().requires_grad_())]

    def watch(index: int) -> Any:
        def hook(_: Any, inputs: tuple[torch.Tensor, ...], out: torch.Tensor) -> None:
            x = inputs[0].detach().float().flatten(0, -2)
            if not gradient:
                found[index] = x.t() @ x
                return

            def back(g: torch.Tensor) -> None:
                full = g.float().flatten(0, -2).t() @ x
                found[index] = full.t() @ full

            out.register_hook(back)

        return hook

    handles += [module_at(module, target).register_forward_hook(watch(n)) for n, target in enumerate(targets)]
    try:
        with torch.enable_grad():
            text = torch.tensor([list(ids)])
            logits = module(input_ids=text, use_cache=False).logits[0, :-1].float()
            if gradient:
                torch.nn.functional.cross_entropy(logits, text[0, 1:], reduction="sum").backward()
    finally:
        for handle in handles:
            handle.remove()
    return found


def begin(start: str, session: Any, module: torch.nn.Module, ids: Sequence[int]) -> None:
    """Puts the session's adapter where it is to begin."""
    layout, flat = session.slot.layout, session.adapter_weights()
    targets, pairs = layout.targets, layout.views(flat)
    if start in ("upper", "lower"):
        half = (1 + max(target.layer for target in targets)) // 2
        for target, (a, _) in zip(targets, pairs, strict=True):
            if (target.layer >= half) != (start == "upper"):
                a[NARROW:] = 0  # with B at zero, nothing ever moves there
    elif start != "random":
        if start == "weights":
            squares = [w.t() @ w for w in (weights_of(module, target) for target in targets)]
        else:
            squares = seen(module, targets, ids, start == "gradient")
        for square, (a, _) in zip(squares, pairs, strict=True):
            rows = vectors(square, layout.rank)
            a.copy_(rows * (a.norm() / rows.norm()))
    session.use_adapter(flat)


def run(start: str, text: Any, tokens: int, threads: str) -> dict[str, Any]:
    engine = templora.load(threads=threads)
    wide = {"rank": WIDE, "alpha": float(WIDE)} if start in ("upper", "lower") else {}
    config = engine.config(mixture=False, **wide)
    ids = encode(engine.tokenizer, text.content, special=False)[:tokens]
    with engine.session(config) as session:
        begin(start, session, engine.model.module, ids[: config.chunk_size])
        rows = [
            {"start": e.start, "targets": e.targets, "base": e.base_nll, "nll": e.adapted_nll}
            for e in session.score_ids(ids, base=start == "random")
            if isinstance(e, ChunkScored)
        ]
    return {
        "start": start, "text": text.name, "sha256": text.sha256, "tokens": tokens, "chunks": rows,
        "config": config.to_dict(), "versions": engine.versions() | {"commit": source_commit()},
        "device": describe_device(engine.model.device, engine.threads),
    }  # fmt: skip


def change(rows: list[dict[str, Any]], base: list[dict[str, Any]]) -> str:
    def of(rows: list[dict[str, Any]], name: str) -> float:
        return perplexity(sum(row[name] for row in rows), sum(row["targets"] for row in rows))

    cells = []
    for part in (rows, [row for row in rows if row["start"] < EARLY]):
        cells.append(f"{100 * (of(part, 'nll') / of(base[: len(part)], 'base') - 1):.2f} %".replace("-", "−"))
    return " | ".join(cells)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--books", required=True)
    parser.add_argument("--texts", default="1684,9096")
    parser.add_argument("--tokens", type=int, default=12_288)
    parser.add_argument("--threads", default="auto")
    parser.add_argument("--starts", nargs="*", default=STARTS, choices=STARTS)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent.parent / "results" / "starts.json")
    a = parser.parse_args()
    texts = find_texts(a.books, a.texts.split(","))
    runs: list[dict[str, Any]] = json.loads(a.out.read_text()) if a.out.exists() else []
    print(
        "| start |" + "".join(f" {t.name} | first {EARLY:,} |" for t in texts) + "\n|---|" + "---:|---:|" * len(texts)
    )
    for start in a.starts:
        cells = []
        for text in texts:
            done = {run["start"]: run for run in runs if (run["text"], run["tokens"]) == (text.name, a.tokens)}
            for name in ("random", start):
                if name not in done:
                    done[name] = run(name, text, a.tokens, a.threads)
                    runs.append(done[name])
                    write_json(a.out, runs)
            cells.append(change(done[start]["chunks"], done["random"]["chunks"]))
        print(f"| {start} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
