#!/usr/bin/env python3
"""What a neural cache adds to adapter and mixture, on given text, and what a warm start does.

    experiments/neural_cache.py --books DIR --texts A,B [--tokens 16384] [--neural-cache 65536] [--adapter DIR]
                                [--threads N] [--out FILE]

Each book's beginning is scored once. The cache changes nothing of what is learnt, so one run says both: what the model
predicts by itself, and with the cache. Prints changes of perplexity against the base in Markdown, over all tokens and
over the last quarter. Books that are in FILE already are left out.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any
from unittest import mock

import torch

import templora
from templora.decoding.reader import Reader
from templora.evals.measuring.texts import find_texts
from templora.events import ChunkScored
from templora.metrics import perplexity
from templora.reports.run_report import describe_device, source_commit, write_json
from templora.runtime.files import sha256
from templora.session.mixture import Mixture
from templora.text import encode

KINDS = ("base", "adapter", "adapter, cache", "mixture", "mixture, cache")


def run(engine: Any, config: Any, text: Any, tokens: int | None, adapter: str | None = None) -> dict[str, Any]:
    """NLL of each token in all kinds, summed by chunk."""
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    real = Reader.predicted

    def predicted(reader: Reader, hidden: torch.Tensor, targets: Any, by_model: Any = None) -> torch.Tensor:
        alone = engine.model.nll(hidden, list(targets)) if by_model is None else by_model
        seen.append((alone, real(reader, hidden, targets, alone)))
        return seen[-1][1]

    ids = encode(engine.tokenizer, text.content, special=False)[:tokens]
    without, together, rows = Mixture(), Mixture(), []
    began = time.process_time()
    with engine.session(config) as session, mock.patch.object(Reader, "predicted", predicted):
        if adapter:
            session.load_adapter(adapter)
        for event in session.score_ids(ids):
            if isinstance(event, ChunkScored):
                (base, _), (adapter, cached) = seen
                seen.clear()
                kinds = [base, adapter, cached, without.nll(base.tolist(), adapter.tolist())]
                kinds.append(together.nll(base.tolist(), cached.tolist()))
                nll = {name: float(torch.as_tensor(k).double().sum()) for name, k in zip(KINDS, kinds, strict=True)}
                rows.append({"start": event.start, "targets": event.targets, "nll": nll})
        cache = session.loop.neural_cache
        assert cache is not None
        spent = {"bytes": cache.bytes, "cpu_seconds": time.process_time() - began}
    return {"text": text.name, "sha256": text.sha256, "chunks": rows, **spent}


def changes(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Change of perplexity against the base, of each kind."""
    targets = sum(row["targets"] for row in rows)
    found = {kind: perplexity(sum(row["nll"][kind] for row in rows), targets) for kind in KINDS}
    return {kind: found[kind] / found["base"] - 1 for kind in KINDS[1:]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--books", required=True)
    parser.add_argument("--texts", required=True)
    parser.add_argument("--tokens", type=lambda given: None if given == "all" else int(given), default=16_384)
    parser.add_argument("--neural-cache", type=int, default=65_536)
    parser.add_argument("--adapter")
    parser.add_argument("--threads", default="auto")
    parser.add_argument("--out", default="results/neural-cache.json")
    arguments = parser.parse_args()
    engine, path = templora.load(threads=arguments.threads), Path(arguments.out)
    config = engine.config(neural_cache=arguments.neural_cache)
    runs: list[dict[str, Any]] = json.loads(path.read_text())["runs"] if path.exists() else []
    start = sha256(*sorted(Path(arguments.adapter).iterdir())) if arguments.adapter else None
    for text in find_texts(arguments.books, arguments.texts.split(",")):
        if any(text.name == done["text"] for done in runs):
            continue
        runs.append(run(engine, config, text, arguments.tokens, arguments.adapter) | {"adapter": start})
        rows = runs[-1]["chunks"]
        runs[-1]["change"], runs[-1]["last_quarter"] = changes(rows), changes(rows[-len(rows) // 4 :])
        for name in ("change", "last_quarter"):
            said = " | ".join(f"{100 * runs[-1][name][kind]:.2f} %" for kind in KINDS[1:])
            print(f"| {text.name}, {name} | {said} |", flush=True)
        runs[-1]["device"] = describe_device(engine.model.device, engine.threads)
        runs[-1]["versions"] = engine.versions() | {"commit": source_commit()}
        write_json(path, {"config": config.to_dict(), "runs": runs})


if __name__ == "__main__":
    main()
