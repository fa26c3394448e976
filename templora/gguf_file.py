"""GGUF files: their 4 and 8 bit blocks taken as they are, or unpacked.

For Llama (Mistral too), Qwen 2 and 3 and Gemma 3 the tensors are read here, once. Other families go through
transformers' reader, which unpacks everything.

    in the file        held in int4                                              unpacked
    Q4_1, Q8_0         the same blocks                                           exactly
    Q4_0               4 bit, minimum = −8 · scale, which a half holds exactly   exactly
    Q4_K               4 bit; scale and minimum, a half times a 6 bit integer    exactly
                       each, rounded to a half: off by at most 2⁻¹¹ of themselves
    all others         8 bit by row, from what they unpack to                    exactly
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from templora.errors import ModelError
from templora.quantized import BLOCK, put, quantize_model, quantize_rows, unpack

# GGUF's name of each family that is read here. Their tensors are those of transformers but for Llama's queries and
# keys, whose rows are in another order, and Gemma's norms, to which 1 was added.
FAMILIES = ("llama", "qwen2", "qwen3", "gemma3")
PARTS = ("codes", "scale", "minimum")


class GgufFile:
    """A GGUF, with its metadata read and its weights not yet.

    Raises:
        ModelError: the file is damaged or of a kind that cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()  # not resolved: a link keeps its own name

    dtype = torch.bfloat16

    @cached_property
    def config(self) -> Any:
        """The transformers config that its metadata amounts to."""
        from transformers import AutoConfig

        with _reading(self.path):
            return AutoConfig.from_pretrained(str(self.path.parent), gguf_file=self.path.name)

    @cached_property
    def tokenizer(self) -> Any:
        from transformers import AutoTokenizer

        with _reading(self.path):
            return AutoTokenizer.from_pretrained(str(self.path.parent), gguf_file=self.path.name)

    @cached_property
    def _tensors(self) -> dict[str, Any] | None:
        """What the file holds for each parameter of the model; None if it is of a family that is not read here."""
        from gguf import MODEL_ARCH_NAMES, GGUFReader, get_tensor_name_map

        with _reading(self.path):
            reader = GGUFReader(self.path)
            family = reader.fields["general.architecture"].contents()
            if family not in FAMILIES:
                return None
            self._family = str(family)
            arch = next(key for key, name in MODEL_ARCH_NAMES.items() if name == family)
            known = get_tensor_name_map(arch, self.config.num_hidden_layers)
            held = {tensor.name: tensor for tensor in reader.tensors}
        found: dict[str, Any] = {}
        for name, _ in empty_model(self.config, torch.bfloat16).named_parameters():
            layer, _, leaf = name.rpartition(".")
            stored = f"{known.get_name(layer)}.{leaf}"
            if stored.startswith("None."):  # a mixture of experts, say
                return None
            if stored not in held:
                raise ModelError(f"{self.path}: the model is incomplete: {stored} is missing")
            found[name] = held[stored]
        return found

    def stored(self, name: str, packed: bool) -> list[torch.Tensor]:
        """What is held of the parameter `name`: [weights] in fp32, or [codes, scale] and perhaps minimum.

        Args:
            packed: also as blocks what does not unpack to exactly the same weights.
        """
        from gguf import GGMLQuantizationType as Kind, dequantize

        assert self._tensors is not None
        tensor = self._tensors[name]
        with _reading(self.path):
            data, kind = np.asarray(tensor.data), tensor.tensor_type
            if self._family == "llama" and (".q_proj." in name or ".k_proj." in name):
                heads = self.config.num_attention_heads if ".q_proj." in name else self.config.num_key_value_heads
                # Rotary halves lie interleaved in the file, one after the other in transformers.
                data = data.reshape(heads, -1, 2, *data.shape[1:]).swapaxes(1, 2).reshape(data.shape)
            if data.ndim == 2 and (kind in (Kind.Q4_0, Kind.Q4_1, Kind.Q8_0) or (packed and kind == Kind.Q4_K)):
                return [torch.from_numpy(part) for part in split_blocks(data, kind)]
            weights = torch.from_numpy(dequantize(data, kind).astype(np.float32))
            if self._family == "gemma3" and weights.dim() == 1:
                weights -= 1
            return [weights]

    def tensors(self) -> dict[str, torch.Tensor] | None:
        """Everything exactly, to be saved: `NAME.weight` and so on, blocks as `NAME.codes`, `.scale`, `.minimum`."""
        if self._tensors is None:
            return None
        found: dict[str, torch.Tensor] = {}
        for name in self._tensors:
            held = self.stored(name, packed=False)
            layer = name.removesuffix(".weight")
            keys = [name] if len(held) == 1 else [f"{layer}.{part}" for part in PARTS]
            found.update(zip(keys, held, strict=False))
        return found

    def load(self, dtype: torch.dtype, weights: str) -> Any:
        """The model, in `dtype` and with its weights as `--weights` says (auto, bf16, int8, int4)."""
        packed = weights == "int4"
        if self._tensors is None and packed:
            raise ModelError(
                f"{self.path}: the blocks of a GGUF of this family cannot be used as they are (those of "
                f"{', '.join(FAMILIES)} can); --weights int8 and bf16 work"
            )
        if self._tensors is None:
            model = self._through_transformers(dtype)
        else:
            model = assemble(self.config, lambda name: self.stored(name, packed), dtype, packed)
        if weights == "int8":
            quantize_model(model, 8)
        return model

    def _through_transformers(self, dtype: torch.dtype) -> Any:
        from transformers import AutoModelForCausalLM

        with _reading(self.path):
            model = AutoModelForCausalLM.from_pretrained(
                str(self.path.parent), gguf_file=self.path.name, dtype=dtype, config=self.config
            )
        # It is an ordinary model now; these marks of its origin would keep it from being saved.
        model.hf_quantizer, model.is_quantized = None, False
        if hasattr(model.config, "quantization_config"):
            del model.config.quantization_config
        return model


def split_blocks(data: np.ndarray[Any, Any], kind: Any) -> list[np.ndarray[Any, Any]]:
    """A GGUF's rows of blocks, uint8 [out, bytes], as (codes, scale, minimum) or, for Q8_0, (codes, scale)."""
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType as Kind
    from gguf.quants import Q4_K

    out = data.shape[0]
    blocks = data.reshape(out, -1, GGML_QUANT_SIZES[kind][1])
    scale = np.ascontiguousarray(blocks[..., :2]).view(np.float16)[..., 0]
    if kind == Kind.Q8_0:
        return [np.ascontiguousarray(blocks[..., 2:]).view(np.int8).reshape(out, -1), scale]
    if kind == Kind.Q4_0:
        return [np.ascontiguousarray(blocks[..., 2:]), scale, scale * np.float16(-8)]
    if kind == Kind.Q4_1:
        minimum = np.ascontiguousarray(blocks[..., 2:4]).view(np.float16)[..., 0]
        return [np.ascontiguousarray(blocks[..., 4:]), scale, minimum]
    assert kind == Kind.Q4_K
    # Eight blocks of 32 share two halves; the nibbles of 32 bytes belong to two blocks, one after the other.
    factor = np.ascontiguousarray(blocks[..., 2:4]).view(np.float16)[..., 0]
    scales, minima = (x.reshape(out, -1, 8) for x in Q4_K.get_scale_min(blocks[..., 4:16].reshape(-1, 12)))
    pairs = blocks[..., 16:].reshape(out, -1, 4, 1, BLOCK)
    codes = np.concatenate([pairs & 15, pairs >> 4], axis=3).reshape(out, -1, BLOCK)
    half = BLOCK // 2
    return [
        codes[..., :half] | codes[..., half:] << 4,
        (scale.astype(np.float32)[..., None] * scales).astype(np.float16).reshape(out, -1),
        (-factor.astype(np.float32)[..., None] * minima).astype(np.float16).reshape(out, -1),
    ]


def empty_model(config: Any, dtype: torch.dtype) -> Any:
    """The model of a config, its weights untouched memory: they cost nothing until they are written to."""
    from transformers import AutoModelForCausalLM
    from transformers.initialization import no_init_weights

    with no_init_weights():
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    model.tie_weights()
    return model.eval()


def assemble(config: Any, stored: Callable[[str], list[torch.Tensor]], dtype: torch.dtype, packed: bool) -> Any:
    """The model of a config, its weights read one after the other.

    Args:
        stored: what is held of a parameter, as `GgufFile.stored`.
        packed: whether blocks stay blocks, and other matrices get 8 bits by row.
    """
    model = empty_model(config, dtype)
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    names = {id(m): name for name, m in model.named_modules()}
    tied = head.weight is embedding.weight
    layers: dict[str, list[torch.Tensor]] = {}
    for name, parameter in model.named_parameters():
        held = stored(name)
        if packed and parameter.dim() == 2:
            layers[name.removesuffix(".weight")] = held if len(held) > 1 else list(quantize_rows(held[0]))
        elif len(held) > 1:
            parameter.data = unpack(held[0], held[1], held[2] if len(held) > 2 else None, dtype)
        else:
            parameter.data = held[0].to(dtype)
    if tied and packed:
        layers[names[id(head)]] = layers[names[id(embedding)]]
    for name, held in layers.items():
        put(model, name, *held, dtype=dtype)
    return model


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turns what the readers stumble over, whatever it is, into one line, and hides their progress bars."""
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    except ModelError:
        raise
    except Exception as error:
        said = " ".join(str(error).split())[:200] or type(error).__name__
        raise ModelError(f"{path}: this GGUF cannot be read (truncated, or of a kind not supported): {said}") from error
