"""What the keys of a GGUF mean for transformers: each one is applied, known to change nothing, or refused by name.

llama.cpp's own reading of them is the measure (`test_llama_cpp`): what a key means, and what is meant where it is
missing.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from templora.errors import ModelError
from templora.gguf.header import GgufHeader

# GGUF's name of each family that is read here: what transformers calls it.
FAMILIES = {"llama": "llama", "qwen2": "qwen2", "qwen3": "qwen3", "gemma3": "gemma3_text"}
ROPE_FACTORS = "rope_freqs.weight"
# Each of a file's keys but those of its tokenizer, without the name of the family in front:
# Sizes: the config's name of it.
_SIZES = {
    "context_length": "max_position_embeddings",
    "block_count": "num_hidden_layers",
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
}
# Must be the size of a head, if they are there: other sizes are for other kinds of attention.
_HEAD_SIZES = (
    "attention.key_length", "attention.value_length", "rope.dimension_count", "attention.key_length_swa",
    "attention.value_length_swa", "rope.dimension_count_swa",
)  # fmt: skip
# Read below.
_ROPE = (
    "rope.freq_base", "rope.scaling.type", "rope.scaling.factor", "rope.scale_linear",
    "rope.scaling.original_context_length",
)  # fmt: skip
_READ = (*_SIZES, *_HEAD_SIZES, *_ROPE, "attention.head_count_kv", "attention.layer_norm_rms_epsilon", "vocab_size")
_READ_GEMMA = ("attention.sliding_window", "attention.sliding_window_pattern", "rope.freq_base_swa",
               "final_logit_softcapping")  # fmt: skip
# Say nothing of what is computed.
_HARMLESS = ("tensor_data_layout", "rope.scaling.finetuned", "pooling_type")
# Ask for nothing at these values, and are refused at all others.
_NEUTRAL: dict[str, tuple[float, ...]] = {
    "attention.causal": (1,), "attention.scale": (0,), "attention.clamp_kqv": (0,), "attention.max_alibi_bias": (0,),
    "attention.temperature_scale": (0,), "attention.temperature_length": (0,), "attention.output_scale": (0, 1),
    "attention.shared_kv_layers": (0,), "attention.sliding_window": (0,), "attention.sliding_window_pattern": (0, 1),
    "attn_logit_softcapping": (0,), "final_logit_softcapping": (0,), "router_logit_softcapping": (0,),
    "logit_scale": (0, 1), "residual_scale": (0, 1), "embedding_scale": (0, 1), "swin_norm": (0,),
    "use_parallel_residual": (0,), "expert_count": (0,), "expert_used_count": (0,), "expert_shared_count": (0,),
    "expert_feed_forward_length": (0,), "leading_dense_block_count": (0,), "nextn_predict_layers": (0,),
    "embedding_length_per_layer_input": (0,), "rope.scaling.attn_factor": (1,), "rope.scaling.yarn_attn_factor": (1,),
    "rope.scaling.yarn_ext_factor": (1, -1), "rope.scaling.yarn_beta_fast": (32, -1),
    "rope.scaling.yarn_beta_slow": (1, -1), "rope.scaling.yarn_log_multiplier": (0,),
}  # fmt: skip
# Layers of Gemma 3 whose attention slides, where the file does not say: all but each sixth.
_PERIOD = 6
_GEMMA_27B_BLOCKS = 62
_NONE = 2**32 - 1  # how some writers say that there is no such token


def model_config(header: GgufHeader) -> Any:
    """The transformers config of a file of one of `FAMILIES`.

    Raises:
        ModelError: a key that is missing, of no use, or not known here; a size that its tensors contradict.
    """
    from transformers import AutoConfig

    keys = Keys(header)
    family = keys.family
    keys.refuse({*_READ, *(_READ_GEMMA if family == "gemma3" else ())})
    sizes = {name: keys.size(key) for key, name in _SIZES.items()}
    heads, blocks = sizes["num_attention_heads"], sizes["num_hidden_layers"]
    groups = keys.size("attention.head_count_kv", heads)
    vocabulary, hidden = keys.matrix("token_embd.weight")
    if hidden != sizes["hidden_size"]:
        keys.contradict("embedding_length", hidden)
    if keys.size("vocab_size", vocabulary) != vocabulary:
        keys.contradict("vocab_size", vocabulary)
    if blocks > len(header.tensors):
        keys.contradict("block_count", len(header.tensors))
    rows, _ = keys.matrix("blk.0.attn_q.weight")
    if rows % heads or heads % groups:
        keys.contradict("attention.head_count", rows)
    head = rows // heads
    for key in _HEAD_SIZES:
        if keys.size(key, head) != head:
            raise ModelError(
                f"{header.path}: {keys.full(key)} is {keys.size(key)}, and its heads are of size {head}: attention of "
                "that kind is not known here"
            )
    ends = end_tokens(header)
    options: dict[str, Any] = {
        **sizes,
        "num_key_value_heads": groups,
        "head_dim": head,
        "vocab_size": vocabulary,
        "rms_norm_eps": keys.number("attention.layer_norm_rms_epsilon"),
        "tie_word_embeddings": "output.weight" not in header.tensors,
        "rope_parameters": _rope(keys, head),
        "bos_token_id": token_id(header, "bos"),
        "pad_token_id": token_id(header, "padding"),
        "eos_token_id": ends if len(ends) > 1 else ends[0] if ends else None,
    }
    if header.text("general.name"):
        options["_model_name_or_path"] = header.text("general.name")
    if family == "gemma3":
        options |= _gemma(keys, options)
    if family == "qwen2" and head * heads == hidden:
        del options["head_dim"]  # its config has no such field of its own
    return AutoConfig.for_model(FAMILIES[family], **options)


def _gemma(keys: Keys, options: dict[str, Any]) -> dict[str, Any]:
    """What a Gemma 3 has beside."""
    blocks, head = options["num_hidden_layers"], options["head_dim"]
    window = keys.size("attention.sliding_window", 0, least=0)
    pattern = keys.value("attention.sliding_window_pattern", _PERIOD)
    if isinstance(pattern, np.ndarray):
        if len(pattern) != blocks:
            keys.contradict("attention.sliding_window_pattern", blocks)
        slides = [bool(p) for p in pattern]
    else:
        period = keys.size("attention.sliding_window_pattern", _PERIOD, least=0)
        slides = [period == 0 or i % period < period - 1 for i in range(blocks)]
    cap = keys.number("final_logit_softcapping", 0.0)
    kinds = {True: "sliding_attention", False: "full_attention"}
    # The largest one is scaled by the width of all heads together, and the file does not say so.
    scale = options["hidden_size"] // options["num_attention_heads"] if blocks == _GEMMA_27B_BLOCKS else head
    return {
        "sliding_window": window or options["max_position_embeddings"],
        "layer_types": [kinds[bool(window) and slide] for slide in slides],
        "query_pre_attn_scalar": scale,
        "final_logit_softcapping": cap or None,
        "rope_parameters": {
            "full_attention": options["rope_parameters"],
            "sliding_attention": {"rope_type": "default", "rope_theta": keys.number("rope.freq_base_swa", 10_000.0)},
        },
    }


def _rope(keys: Keys, head: int) -> dict[str, Any]:
    """transformers' `rope_parameters`."""
    found: dict[str, Any] = {"rope_type": "default", "rope_theta": keys.number("rope.freq_base", 10_000.0)}
    factor = keys.number("rope.scaling.factor", 0.0) or keys.number("rope.scale_linear", 0.0) or 1.0
    kind = keys.text("rope.scaling.type", "linear")
    if kind not in ("none", "linear", "yarn"):
        raise ModelError(f"{keys.path}: {keys.full('rope.scaling.type')} is {kind[:40]!r}, which is not known here")
    if kind == "yarn":
        context = keys.size("context_length")
        found |= {
            "rope_type": "yarn",
            "factor": factor,
            "original_max_position_embeddings": keys.size("rope.scaling.original_context_length", context),
        }
    elif kind == "linear" and factor != 1:
        found |= {"rope_type": "linear", "factor": factor}
    stored = keys.header.tensors.get(ROPE_FACTORS)
    if stored is None:
        return found
    if keys.family != "llama" or kind == "yarn":
        raise ModelError(f"{keys.path}: {ROPE_FACTORS} is not known in a model of this kind")
    factors = stored.read()
    if factors.shape != (head // 2,) or factors.dtype != np.float32:
        raise ModelError(f"{keys.path}: {ROPE_FACTORS} has another shape than its heads ask for")
    if not (np.isfinite(factors).all() and (factors > 0).all()):
        raise ModelError(f"{keys.path}: {ROPE_FACTORS} holds numbers that are no factors")
    scale = found.pop("factor", 1.0)
    return found | {"rope_type": "frequency_factors", "factors": [float(f) * scale for f in factors]}


def frequency_factors(
    config: Any, device: torch.device | None = None, seq_len: int | None = None, layer_type: str | None = None
) -> tuple[torch.Tensor, float]:
    """transformers' way to ask for a rotary embedding's frequencies; here each is divided by a number of its own."""
    table = config.rope_parameters if layer_type is None else config.rope_parameters[layer_type]
    size = config.head_dim
    plain = 1.0 / (table["rope_theta"] ** (torch.arange(0, size, 2, dtype=torch.float, device=device) / size))
    return plain / torch.tensor(table["factors"], dtype=torch.float, device=plain.device), 1.0


def know_frequency_factors() -> None:
    """Makes transformers know configs with them. They are Llama 3.1's own scaling, given as numbers."""
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    ROPE_INIT_FUNCTIONS.setdefault("frequency_factors", frequency_factors)


# Tokens --------------------------------------------------------------------------------------------------------------

# Keys of tokens that end a text: llama.cpp's.
_ENDS = ("eos", "eot", "eom", "fim_pad", "fim_rep", "fim_sep")
# Tokens that end a text by what they are called; the second ones only if the file marks them as control tokens.
_END_NAMES = {
    "<|eot_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>", "<|endoftext|>", "<|end_of_text|>", "<|eom_id|>", "<EOT>",
    "_<EOT>", "[EOT]", "<｜end▁of▁sentence｜>", "<end_of_utterance>", "<|return|>", "<|call|>", "<turn|>",
    "<|endofturn|>", "<|turn_end|>",
}  # fmt: skip
_CONTROL_END_NAMES = {"</s>", "<eos>", "[EOS]", "<|eos|>"}
_CONTROL = 3


def token_id(header: GgufHeader, name: str) -> int | None:
    """The token that a file names as its `bos`, `eos`, `eot`, ...; None where it names none.

    Raises:
        ModelError: it has no such token.
    """
    value = header.fields.get(f"tokenizer.ggml.{name}_token_id")
    return None if value is None or value in (_NONE, -1) else _token(header, f"tokenizer.ggml.{name}_token_id", value)


def _token(header: GgufHeader, key: str, value: Any) -> int:
    tokens = header.fields.get("tokenizer.ggml.tokens")
    if type(value) is not int or not isinstance(tokens, list) or not 0 <= value < len(tokens):
        raise ModelError(f"{header.path}: {key} is {str(value)[:40]}, and it has no such token")
    return value


def end_tokens(header: GgufHeader) -> list[int]:
    """Every token that ends a text, sorted.

    Raises:
        ModelError: a key names one that there is not.
    """
    found = {index for name in _ENDS if (index := token_id(header, name)) is not None}
    key = "tokenizer.ggml.eos_token_ids"
    listed = header.fields.get(key, ())
    if not isinstance(listed, np.ndarray | tuple):
        raise ModelError(f"{header.path}: {key} is no list of tokens")
    found |= {_token(header, key, int(i)) for i in listed}
    tokens, kinds = header.fields.get("tokenizer.ggml.tokens"), header.fields.get("tokenizer.ggml.token_type", ())
    for index, token in enumerate(tokens if isinstance(tokens, list) else ()):
        if token in _END_NAMES or (token in _CONTROL_END_NAMES and index < len(kinds) and kinds[index] == _CONTROL):
            found.add(index)
    return sorted(found)


# Keys ----------------------------------------------------------------------------------------------------------------


class Keys:
    """The keys of a file that have its family's name in front."""

    def __init__(self, header: GgufHeader) -> None:
        self.header, self.path = header, header.path
        self.family = header.text("general.architecture")

    def full(self, key: str) -> str:
        return f"{self.family}.{key}"

    def refuse(self, read: set[str]) -> None:
        """Raises `ModelError` where there is a key that is not read and asks for something."""
        for full in self.header.fields:
            if not full.startswith(self.full("")):
                continue
            key = full.removeprefix(self.full(""))
            value = self.value(key)
            if key in read or key in _HARMLESS or (isinstance(value, int | float) and value in _NEUTRAL.get(key, ())):
                continue
            if key == "attention.sliding_window" and isinstance(value, int) and value >= self.size("context_length"):
                continue
            raise ModelError(
                f"{self.path}: {full} is {str(value)[:40]}, which is not known here; the model would not predict as it "
                "was meant to"
            )

    def value(self, key: str, default: Any = None) -> Any:
        """As it is; an array of one number over and over is that number."""
        value = self.header.fields.get(self.full(key), default)
        if isinstance(value, np.ndarray) and len(value) and value.dtype != bool and (value == value[0]).all():
            return value[0].item()
        return value

    def number(self, key: str, default: float | None = None) -> float:
        value = self.value(key, default)
        if type(value) not in (int, float) or not math.isfinite(value) or value < 0:
            raise self._wrong(key, value)
        return float(value)

    def size(self, key: str, default: int | None = None, least: int = 1) -> int:
        value = self.value(key, default)
        if type(value) is not int or not least <= value < 2**31:
            raise self._wrong(key, value)
        return int(value)

    def text(self, key: str, default: str) -> str:
        return self.header.text(self.full(key), default)

    def matrix(self, name: str) -> tuple[int, int]:
        """The shape of a tensor of two dimensions."""
        stored = self.header.tensors.get(name)
        if stored is None:
            raise ModelError(f"{self.path}: the model is incomplete: {name} is missing")
        if len(stored.shape) != 2:
            raise ModelError(f"{self.path}: this GGUF is damaged: {name} is no matrix")
        return stored.shape[0], stored.shape[1]

    def contradict(self, key: str, found: int) -> None:
        raise ModelError(f"{self.path}: {self.full(key)} is {str(self.value(key))[:40]}, its tensors say {found}")

    def _wrong(self, key: str, value: Any) -> ModelError:
        said = "missing" if value is None else f"{str(value)[:40]}, which is no value for it"
        return ModelError(f"{self.path}: {self.full(key)} is {said}")
