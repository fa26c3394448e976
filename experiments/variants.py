#!/usr/bin/env python3
"""Ways to learn a chunk that were tried for the default recipe, most of which did not help (docs/recipe.md).

    experiments/variants.py --books FOLDER [--texts 1684,9096] [--tokens 24000] [--variants NAME ...]

Each run scores the beginning of one book through the adapter alone (window 1,024, chunk 512) and leaves a file in
results/variants/; runs that are there are not repeated. What is an option of `TempLoraConfig` is set as such; the rest
is done here, over the optimiser and the learner of the package. Prints a table in Markdown.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch

import templora
from templora.evals.measuring.texts import find_texts
from templora.events import ChunkScored
from templora.learning.learner import Learner, Update, _TrainingCopy
from templora.learning.optimizer import Staged, Step
from templora.lora.slot import AdapterState, Layout, Slot
from templora.metrics import perplexity
from templora.reports.run_report import describe_device, source_commit, write_json

RESULTS = Path(__file__).parent.parent / "results" / "variants"
OLD = {"adam_beta1": 0.9, "adam_beta2": 0.999, "learning_rate": 1e-3}  # the default before these runs
# name: (options, what is done here)
VARIANTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "before": (OLD, {}),
    "beta2-0.99": (OLD | {"adam_beta2": 0.99}, {}),
    "beta2-0.95": (OLD | {"adam_beta2": 0.95}, {}),
    "beta1-0.8": (OLD | {"adam_beta1": 0.8, "adam_beta2": 0.99}, {}),
    "beta1-0.5": (OLD | {"adam_beta1": 0.5, "adam_beta2": 0.99}, {}),
    "beta1-0": (OLD | {"adam_beta1": 0.0, "adam_beta2": 0.99}, {}),
    # What serves is a running mean of what is trained.
    "average-0.5": (OLD | {"learning_rate": 1.5e-3}, {"average": 0.5}),
    "average-0.8": (OLD | {"learning_rate": 2e-3}, {"average": 0.8}),
    # Two or four steps, each on a part of the chunk: as many tokens learnt, more steps.
    "parts-2": (OLD | {"learning_rate": 7e-4}, {"parts": 2}),
    "parts-2-beta1-0.8": (OLD | {"learning_rate": 7e-4, "adam_beta1": 0.8, "adam_beta2": 0.99}, {"parts": 2}),
    "parts-4": (OLD | {"learning_rate": 5e-4}, {"parts": 4}),
    # LoRA+ (Hayou et al., arXiv 2402.12354): B at four times the rate of A.
    "lora-plus-5e-4": (OLD | {"learning_rate": 5e-4}, {"ratio": 4.0}),
    "lora-plus-2.5e-4": (OLD | {"learning_rate": 2.5e-4}, {"ratio": 4.0}),
    "chunk-256": ({"chunk_size": 256, "learning_rate": 5e-4}, {}),
    "alpha-128": (OLD | {"alpha": 128.0}, {}),
    # The rate falls with the square root of the chunks.
    "falling-rate": (OLD | {"learning_rate": 2e-3}, {"falling": 16.0}),
    # Orthogonalised momentum (Muon; Jordan et al. 2024) for A and B.
    "muon": (OLD, {"muon": True}),
}


@contextmanager
def variant(layout: Layout, average: float = 0.0, parts: int = 1, **step: Any) -> Iterator[None]:
    """Inside, sessions learn in another way."""
    with ExitStack() as stack:
        change = lambda owner, name, new: stack.enter_context(mock.patch.object(owner, name, new))  # noqa: E731
        if step:
            change(Staged, "_blocks", lambda self: blocks(self, layout, **step))
        if average or parts > 1:
            change(Learner, "reads", property(lambda self: False))
        if average:
            change(Slot, "_write", lambda self, state: serve_average(self, state, average))
            change(_TrainingCopy, "__init__", train_from_master)
        if parts > 1:
            change(Learner, "stage", lambda self, before, tokens, chunk, cache, **_: stage_parts(
                self, before, tokens, chunk, cache, parts))  # fmt: skip
        yield


def blocks(
    staged: Staged, layout: Layout, ratio: float = 1.0, falling: float = 0.0, muon: bool = False
) -> Iterator[tuple[slice, torch.Tensor, torch.Tensor, torch.Tensor]]:
    """`Staged._blocks`, all of it at once, with another rule for the step."""
    state, config = staged.state, staged.config
    w, m, v = state.weights.clone(), state.exp_avg.clone(), state.exp_avg_sq.clone()
    b1, b2 = config.adam_beta1, config.adam_beta2
    for taken, step in enumerate(staged.steps, state.steps):
        g = step.gradient.float() * step.factor
        m.mul_(b1).add_(g, alpha=1 - b1)
        v.mul_(b2).addcmul_(g, g, value=1 - b2)
        rate = config.learning_rate_at(taken) / (math.sqrt(1 + taken / falling) if falling else 1)
        up = (m / (1 - b1 ** (taken + 1))) / ((v / (1 - b2 ** (taken + 1))).sqrt() + config.adam_epsilon)
        if muon:
            for (a_from, b_from), (a_to, b_to) in zip(layout.views(m), layout.views(up), strict=True):
                a_to.copy_(orthogonal(a_from))
                b_to.copy_(orthogonal(b_from))
        if ratio != 1:
            for _, b in layout.views(up):
                b.mul_(ratio)
        w.add_(up, alpha=-rate)
    yield slice(0, len(w)), w, m, v


def orthogonal(matrix: torch.Tensor) -> torch.Tensor:
    """By five Newton-Schulz steps, then scaled to steps as large as Adam's."""
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.t()
    y = (wide / (wide.norm() + 1e-12)).bfloat16()
    for _ in range(5):
        square = y @ y.t()
        y = 3.4445 * y + (-4.7750 * square + 2.0315 * (square @ square)) @ y
    y = y.float() * math.sqrt(max(matrix.shape)) * 0.2
    return y if matrix.shape[0] <= matrix.shape[1] else y.t()


def serve_average(slot: Slot, state: AdapterState, decay: float) -> None:
    held = getattr(slot, "average", None)
    if held is None or state.version == 0:
        held = slot.average = state.weights.clone()  # type: ignore[attr-defined]
    else:
        kept = min(decay, state.version / (state.version + 2))
        held.mul_(kept).add_(state.weights, alpha=1 - kept)
    slot._serving.copy_(held)
    slot._state = state


def train_from_master(copy: _TrainingCopy, slot: Slot) -> None:
    copy._slot, copy._own, copy._gradient = slot, True, None
    copy.weights = slot.state.weights.to(slot.serving.dtype)


def stage_parts(learner: Learner, before: AdapterState, tokens: Any, chunk: Any, cache: Any, parts: int) -> Any:
    copy, steps = _TrainingCopy(learner._slot), []
    staged, size = Staged(before, steps, learner._config), (chunk.end - chunk.middle) // parts
    for part in range(parts):
        if part:
            copy.take(staged)
        end = chunk.middle + size * (part + 1)
        first = chunk.first_target - 1 if part == 0 else end - size - 1
        with ExitStack() as during:
            during.enter_context(torch.enable_grad())
            during.enter_context(learner._model.passes())
            _, position = during.enter_context(cache.as_context(first, learner._config.window))
            route = copy.route(learner._config, 0)
            hidden = learner._runner.read(list(tokens[first : end - 1]), cache, position, route, learner.meter)
            loss = float(learner._model.nll_backward(hidden, list(tokens[first + 1 : end])).mean())
        steps.append(Step.clipped(copy.take_gradient(), learner._config.max_grad_norm))
    return staged, Update(True, "", loss, steps[-1].norm, 0.0)


def run(name: str, text: Any, tokens: int, threads: str) -> dict[str, Any]:
    path = RESULTS / f"{name}--{text.name}.json"
    if path.exists():
        return json.loads(path.read_text())
    options, rule = VARIANTS[name]
    engine = templora.load(threads=threads)
    config = engine.config(mixture=False, **options)
    ids = engine.tokenizer(text.content, verbose=False)["input_ids"][:tokens]
    with engine.session(config) as session, variant(session.slot.layout, **rule):
        rows = [
            {"start": e.start, "targets": e.targets, "nll": e.adapted_nll}
            for e in session.score_ids(ids, base=False)
            if isinstance(e, ChunkScored)
        ]
    document = {
        "variant": name, "text": text.name, "tokens": tokens, "rule": rule, "config": config.to_dict(), "chunks": rows,
        "versions": engine.versions() | {"commit": source_commit()}, "device": describe_device(engine.model.device),
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
    parser.add_argument("--variants", nargs="*", default=list(VARIANTS), choices=VARIANTS)
    arguments = parser.parse_args()
    texts = find_texts(arguments.books, arguments.texts.split(","))
    print(f"| variant | {' | '.join(t.name for t in texts)} |")
    print(f"|---|{'---:|' * len(texts)}")
    for name in arguments.variants:
        cells = []
        for text in texts:
            chunks = run(name, text, arguments.tokens, arguments.threads)["chunks"]
            cells.append(f"{perplexity(sum(c['nll'] for c in chunks), sum(c['targets'] for c in chunks)):.3f}")
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
