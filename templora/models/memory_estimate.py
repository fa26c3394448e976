"""What a run needs in memory, known before any weight is read, and what the machine has left.

    weights       numbers × bytes of the compute dtype; in int8 one byte; in int4 what a GGUF's blocks take, else 5/8
                  of a byte (20 bytes a block of 32) for the linear layers and one for embedding and head
                  (a model that is quantised here is first read whole)
    adapter       16 bytes a weight in bfloat16, see below; 6 where nothing is learnt
    cache         keys and values of the window, for the base and for the adapted model
    activations   for each token of a chunk (of window, with context_gradients) what autograd keeps: measured at
                  about _KEPT times the inputs and outputs of the adapted layers, the heap's holes included; a tenth of
                  them where nothing is kept (nothing learnt, or checkpointing)
    logits        a block of rows over the vocabulary, about three times

Per adapter weight: master and two moments in fp32 (12 bytes; the moments come with the first step); in compute dtype
(2 each) what serves and a gradient, and with several epochs a gradient for each and the weights between two of them. An
update that is tried and committed takes another 6, when the activations have gone.
Checked against the measured peak in tests/models/test_memory_estimate.py.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from templora.config import TempLoraConfig
from templora.errors import ModelError

_KEPT, _NOT_KEPT = 2.0, 0.1
# Most rows of logits computed at once, and most logits: 13 MB in bf16. A large vocabulary's take more, Gemma's 50 MB:
# with fewer rows reading the head takes longer than the product.
_LOGIT_ROWS, _MIN_LOGIT_ROWS = 256, 96
_LOGITS = 128 * 49152


def logit_rows(vocabulary: int) -> int:
    """Rows of logits that may exist at one time."""
    return min(_LOGIT_ROWS, max(_MIN_LOGIT_ROWS, _LOGITS // vocabulary))


@dataclass(frozen=True)
class Sizes:
    """What a model's memory depends on; numbers, not bytes.

    Args:
        linear: weights of the decoder's linear layers.
        ends: weights of embedding and head, once if they are tied.
        other: all others.
        adapter: sum of inputs and outputs of the linear layers: adapter weights for each unit of rank.
        cache: keys and values of one token.
        vocabulary, positions: ids, and positions that the model knows.
    """

    linear: int
    ends: int
    other: int
    adapter: int
    cache: int
    vocabulary: int
    positions: int

    @classmethod
    def of(cls, config: Any, trust_remote_code: bool = False) -> Sizes:
        """Those of a transformers config, from a model without weights."""
        import torch
        from transformers import AutoModelForCausalLM

        from templora.lora.targets import linear_layers

        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
        text = config.get_text_config()
        layers = linear_layers(model)
        linear = sum(t.inputs * t.outputs for t in layers)
        embedding, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
        ends = embedding.numel() + (0 if text.tie_word_embeddings else head.numel())
        total = sum(p.numel() for p in model.parameters())
        heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
        size = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        return cls(
            linear=linear,
            ends=ends,
            other=max(0, total - linear - ends),
            adapter=sum(t.inputs + t.outputs for t in layers),
            cache=2 * text.num_hidden_layers * heads * size,
            vocabulary=embedding.shape[0],
            positions=int(getattr(text, "max_position_embeddings", None) or 2**31),
        )


class Need(NamedTuple):
    """Bytes by what they are for."""

    weights: float
    adapter: float = 0.0
    cache: float = 0.0
    learning: float = 0.0

    @property
    def total(self) -> float:
        return sum(self)


def needed(sizes: Sizes, weights: str, item: int, config: TempLoraConfig | None, blocks: float | None = None) -> Need:
    """What loading a model, and one session on it, needs beside the program itself.

    Args:
        weights: as `--weights` (unpacked, bf16, int8, int4).
        item: bytes of a number in the compute dtype.
        config: of the session; None counts the weights alone.
        blocks: bytes of its weights in int4, if they are a file's blocks; else they are made here of the whole model.
    """
    linear, ends = {"int8": (1.0, 1.0), "int4": (20 / 32, 1.0)}.get(weights, (float(item), float(item)))
    held = sizes.linear * linear + sizes.ends * ends + sizes.other * item
    if weights == "int4" and blocks is not None:
        held = blocks
    elif weights in ("int8", "int4"):
        held = max(held, (sizes.linear + sizes.ends + sizes.other) * item)
    if config is None:
        return Need(held)
    learning = config.learning != "off"
    share = 1.0 if config.target_modules == ("all",) and config.layers == "all" else 0.0  # at least nothing
    copies = (1 + config.epochs + (config.epochs > 1)) if learning else 1
    adapter = share * sizes.adapter * config.rank * ((12 if learning else 4) + copies * item)
    window = min(config.window, sizes.positions)
    tokens = window if config.context_gradients else min(config.chunk_size, window)
    all_kept = learning and not config.checkpointing
    kept = tokens * sizes.adapter * item * (_KEPT if all_kept else _NOT_KEPT)
    if learning:  # what is kept has gone when the update is tried, and committed beside the weights that it began with
        kept = max(kept, share * sizes.adapter * config.rank * (4 + item))
    logits = 3.0 * item * sizes.vocabulary * min(logit_rows(sizes.vocabulary), tokens)
    return Need(held, adapter, 2.0 * window * sizes.cache * item, kept + logits)


def available(proc: Path = Path("/proc"), cgroup: Path = Path("/sys/fs/cgroup")) -> float | None:
    """Bytes that can still be had: of the machine, or of the container if that has less. None if nobody says."""
    found = []
    with contextlib.suppress(OSError, ValueError):
        for line in (proc / "meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                found.append(float(line.split()[1]) * 1024)
    with contextlib.suppress(OSError, ValueError):
        limit = (cgroup / "memory.max").read_text().strip()
        if limit != "max":
            used = float((cgroup / "memory.current").read_text())
            # Files that are cached give way.
            stat = dict(line.split() for line in (cgroup / "memory.stat").read_text().splitlines())
            found.append(float(limit) - used + float(stat.get("inactive_file", 0)) + float(stat.get("active_file", 0)))
    return min(found, default=None)


def check(name: str, need: Need, free: float | None, others: dict[str, Need]) -> None:
    """Refuses to load what does not fit.

    Args:
        name: the model.
        need: what is asked for.
        free: what there is; None = unknown, which lets everything pass.
        others: the same run in other formats, the best first.

    Raises:
        ModelError: too little memory; says how much is needed, how much there is, and what would fit.
    """
    if free is None or need.total <= free:
        return
    fitting = [f"--weights {weights} needs {_gigabytes(n.total)}" for weights, n in others.items() if n.total <= free]
    if fitting:
        hint = fitting[0]
    elif need.total - need.weights > 0 and min(n.weights for n in [need, *others.values()]) < free:
        hint = "--checkpointing, or a smaller --rank, --window or --chunk-size, needs less"
    else:
        hint = "take a smaller model (see `templora models`)"
    said = ", ".join(f"{part} {_gigabytes(size)}" for part, size in need._asdict().items() if size)
    raise ModelError(
        f"{name}: too little memory: this run needs {_gigabytes(need.total)} ({said}) and {_gigabytes(free)} are free; "
        f"{hint}"
    )


def _gigabytes(size: float) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.0f} MB"
