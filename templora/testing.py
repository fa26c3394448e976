"""Fakes that ship: a byte tokenizer and tiny models of every tested family, made from configs without any download.

They are real transformers objects, so code under test takes no special path.
"""

from __future__ import annotations

import copy
import functools
from typing import Any

import torch

from templora.engine.engine import Engine

FAMILIES = ("llama", "qwen2", "qwen3", "gemma3", "mistral", "phi", "gpt2")
END = "<|endoftext|>"


def byte_tokenizer(bos: bool = False) -> Any:
    """One id a byte (0-255), then the end-of-text token (256) and, with `bos`, `<s>` (257) before every text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    symbols = {symbol: byte for byte, symbol in bytes_to_unicode().items()}
    tokenizer = Tokenizer(models.BPE(vocab=symbols, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([END] + (["<s>"] if bos else []))
    special: dict[str, str] = {"eos_token": END}
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 257)])
        special["bos_token"] = "<s>"
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)


def tiny_model(family: str = "llama", dtype: torch.dtype = torch.float32, seed: int = 0, positions: int = 256) -> Any:
    """A two-layer causal LM of a family (`FAMILIES`) with random weights, 260 ids and `positions` positions."""
    return copy.deepcopy(_made(family, dtype, seed, positions))


@functools.lru_cache(maxsize=64)
def _made(family: str, dtype: torch.dtype, seed: int, positions: int) -> Any:
    """Of which others are copies: that takes a third of the time of making one."""
    import transformers as hf

    sizes: dict[str, Any] = {
        "vocab_size": 260,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": positions,
        "bos_token_id": None,
        "eos_token_id": 256,
        "pad_token_id": None,
    }
    if family == "gpt2":
        config = hf.GPT2Config(
            vocab_size=260, n_embd=32, n_layer=2, n_head=4, n_positions=positions, bos_token_id=None, eos_token_id=256
        )
    else:
        own: dict[str, dict[str, Any]] = {
            "gemma3": {
                "head_dim": 8,
                "sliding_window": 24,
                "layer_types": ["sliding_attention", "full_attention"],
                "final_logit_softcapping": 30.0,
            },
            "mistral": {"sliding_window": 24},
        }
        kind = "gemma3_text" if family == "gemma3" else family
        config = hf.AutoConfig.for_model(kind, **sizes, **own.get(family, {}))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = hf.AutoModelForCausalLM.from_config(config)
    for parameter in model.parameters():
        # Larger than the usual first weights, so that predictions differ and gradients are not tiny.
        parameter.data.mul_(3.0) if parameter.dim() > 1 else None
    return model.to(dtype).eval()


def tiny_engine(family: str = "llama", dtype: torch.dtype = torch.float32, bos: bool = False, **options: Any) -> Engine:
    """An engine on a tiny model; options as for `tiny_model`."""
    return Engine(tiny_model(family, dtype, **options), byte_tokenizer(bos), name=f"tiny-{family}")
