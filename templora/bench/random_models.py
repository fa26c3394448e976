"""Models of a known shape with random weights: speed can be measured where no weights are at hand.

How fast a model runs depends on its sizes, not on what it has learnt.
"""

from __future__ import annotations

import time
from typing import Any

import torch

from templora.engine.engine import Engine
from templora.errors import OptionError, nearest
from templora.loading import DTYPES, find_device
from templora.testing import byte_tokenizer

# Sizes as in the models' own config.json.
SHAPES: dict[str, dict[str, Any]] = {
    "llama-2-7b": {
        "vocab_size": 32000,
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "max_position_embeddings": 4096,
    },
    "smollm2-135m": {
        "vocab_size": 49152,
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "max_position_embeddings": 8192,
        "tie_word_embeddings": True,
    },
    "tiny": {
        "vocab_size": 512,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 2048,
    },
}


def random_engine(shape: str, device: str = "auto", dtype: str = "auto", rows: int = 1) -> Engine:
    """An engine on a Llama of this shape, its weights random, made on the device itself.

    Args:
        shape: a key of `SHAPES`.
        device, dtype, rows: as for `templora.load`; `auto` is bfloat16.

    Raises:
        OptionError: a shape, device or dtype that is unknown or absent.
    """
    from transformers import AutoModelForCausalLM, LlamaConfig

    if shape not in SHAPES:
        raise OptionError("shape", f"unknown shape {shape!r}; {nearest(shape, SHAPES)}")
    if dtype not in DTYPES:
        raise OptionError("dtype", f"unknown {dtype!r}; {nearest(dtype, DTYPES)}")
    began = time.perf_counter()
    kind = torch.bfloat16 if dtype == "auto" else getattr(torch, dtype)
    config = LlamaConfig(**SHAPES[shape], bos_token_id=None, eos_token_id=256, pad_token_id=None)
    with torch.random.fork_rng(), find_device(device):
        torch.manual_seed(0)
        module = AutoModelForCausalLM.from_config(config, dtype=kind)
    engine = Engine(module.eval(), byte_tokenizer(), name=f"{shape} (random weights)", rows=rows)
    engine.load_seconds = time.perf_counter() - began
    return engine
