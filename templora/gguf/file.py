"""GGUF files: their blocks of 4, 5, 6 and 8 bits taken as they are, or unpacked.

For Llama (Mistral too), Qwen 2 and 3 and Gemma 3 everything is read here, once: what its keys mean (`config`), its
`tokenizer` and its tensors. Other families go through transformers' reader, which unpacks everything. Either way a
tensor that nothing takes is refused.

    in the file        held in int4                                              unpacked
    Q4_1, Q8_0         the same blocks                                           exactly
    Q5_0, Q5_1         5 bit blocks, the minimum as below                        exactly
    Q4_0               4 bit, minimum = −8 · scale, which a half holds exactly   exactly
    Q4_K, Q5_K         4 or 5 bit; scale and minimum, a half times a 6 bit       exactly
                       integer each, rounded to a half: off by at most 2⁻¹¹
                       of themselves
    Q6_K               8 bit; the scale of each 16, likewise                     exactly
    all others         8 bit by row, from what they unpack to                    exactly
"""

from __future__ import annotations

import contextlib
import io
import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from templora.errors import ModelError
from templora.gguf.config import FAMILIES, ROPE_FACTORS, know_frequency_factors, model_config
from templora.gguf.foreign import foreign_config, foreign_tensors
from templora.gguf.header import GgufHeader, Stored
from templora.gguf.tokenizer import tokenizer_of
from templora.layers.quantized import BLOCK, NIBBLES, put, quantize_model, quantize_rows, unpack
from templora.runtime.files import said

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
    def header(self) -> GgufHeader:
        """Keys and tensors, checked."""
        header = GgufHeader(self.path)
        kind = header.text("general.type", "model")
        if kind != "model":
            hint = "; give it as --adapter, and its base as --model" if kind == "adapter" else ""
            raise ModelError(f"{self.path}: this GGUF holds no model, it is of type {kind[:40]!r}{hint}")
        if not header.text("general.architecture"):
            raise ModelError(f"{self.path}: this GGUF is damaged: it does not say its general.architecture")
        return header

    @property
    def known(self) -> bool:
        """Whether it is of a family that is read here."""
        return self.header.text("general.architecture") in FAMILIES

    @cached_property
    def config(self) -> Any:
        """The transformers config that its metadata amounts to."""
        with _reading(self.path):
            if self.known:
                know_frequency_factors()
                return model_config(self.header)
            return foreign_config(self.header)

    @property
    def blocks_bytes(self) -> float:
        """Bytes that its weights take in int4, embedding and head held once if the file has one of them."""
        from gguf import GGMLQuantizationType as Kind

        # Of a block of 32, codes and halves; what is no such block gets a byte a weight.
        taken = {"Q4": 20, "Q5": 24, "Q6": 36, "Q8": 34}
        tensors = [(t.shape, taken.get(Kind(t.kind).name[:2], BLOCK) / BLOCK) for t in self.header.tensors.values()]
        matrices = (math.prod(shape) * size for shape, size in tensors if len(shape) > 1)
        return sum(matrices) + sum(self.dtype.itemsize * shape[0] for shape, _ in tensors if len(shape) == 1)

    @cached_property
    def tokenizer(self) -> Any:
        with _reading(self.path):
            return tokenizer_of(self.header)

    @cached_property
    def _tensors(self) -> dict[str, Stored] | None:
        """What the file holds for each parameter of the model; None if it is of a family that is not read here."""
        from gguf import MODEL_ARCH_NAMES, get_tensor_name_map

        header = self.header
        if not self.known:
            return None
        family = header.text("general.architecture")
        arch = next(key for key, name in MODEL_ARCH_NAMES.items() if name == family)
        known = get_tensor_name_map(arch, self.config.num_hidden_layers)
        with _reading(self.path), torch.device("meta"):
            model = empty_model(self.config, torch.bfloat16)
        shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
        # A bias is of a layer in a block, whether or not this family has one there.
        layers = {n: m.out_features for n, m in model.named_modules() if isinstance(m, nn.Linear) and "layers." in n}
        left, found = dict(header.tensors), dict[str, Stored]()
        left.pop(ROPE_FACTORS, None)  # is in the config
        for name in [*shapes, *(f"{n}.bias" for n in layers if f"{n}.bias" not in shapes)]:
            layer, _, leaf = name.rpartition(".")
            stored = left.pop(f"{known.get_name(layer)}.{leaf}", None)
            if stored is None and name in shapes:
                raise ModelError(f"{self.path}: the model is incomplete: {known.get_name(layer)}.{leaf} is missing")
            if stored is None:
                continue
            wanted = shapes.get(name, (layers.get(layer),))
            if stored.shape != wanted:
                raise ModelError(
                    f"{self.path}: {stored.name} has the shape {list(stored.shape)}, its metadata says {list(wanted)}"
                )
            found[name] = stored
        if left:
            raise ModelError(f"{self.path}: {min(left)[:80]} is not known in a model of the family {family!r}")
        return found

    def exact(self, name: str) -> list[torch.Tensor]:
        """The parameter `name` exactly, in little room: see `as_asked`."""
        from gguf import GGMLQuantizationType as Kind, dequantize

        assert self._tensors is not None
        tensor, family = self._tensors[name], self.header.text("general.architecture")
        with _reading(self.path):
            data, kind = tensor.read(), Kind(tensor.kind)
            if family == "llama" and (".q_proj." in name or ".k_proj." in name):
                heads = self.config.num_attention_heads if ".q_proj." in name else self.config.num_key_value_heads
                # Rotary halves lie interleaved in the file, one after the other in transformers.
                data = data.reshape(heads, -1, 2, *data.shape[1:]).swapaxes(1, 2).reshape(data.shape)
            if data.ndim == 2 and kind in (Kind.Q4_0, Kind.Q4_1, Kind.Q5_0, Kind.Q5_1, Kind.Q8_0):
                return [torch.from_numpy(part) for part in split_blocks(data, kind)]
            if data.ndim == 2 and kind in (Kind.Q4_K, Kind.Q5_K, Kind.Q6_K):
                return [torch.from_numpy(part) for part in split_super_blocks(data, kind)]
            if kind == Kind.F16 and "norm" not in name:
                return [torch.from_numpy(np.ascontiguousarray(data))]
            if kind == Kind.BF16 and "norm" not in name:
                return [torch.from_numpy(np.ascontiguousarray(data).view(np.int16)).view(torch.bfloat16)]
            weights = torch.from_numpy(dequantize(data, kind).astype(np.float32))
            if family == "gemma3" and "norm" in name:
                weights -= 1
            return [weights]

    def tensors(self) -> Iterator[tuple[str, torch.Tensor]] | None:
        """Everything exactly, to be saved: `NAME.weight` and so on, blocks as `NAME.codes`, `.scale`, `.minimum`."""
        return None if self._tensors is None else itertools.chain.from_iterable(map(self._named, self._tensors))

    def _named(self, name: str) -> Iterator[tuple[str, torch.Tensor]]:
        held = self.exact(name)
        layer = name.removesuffix(".weight")
        return zip([name] if len(held) == 1 else [f"{layer}.{part}" for part in PARTS], held, strict=False)

    def load(self, dtype: torch.dtype, weights: str) -> Any:
        """The model, in `dtype` and with its weights as `--weights` says (unpacked, bf16, int8, int4)."""
        if self._tensors is not None:
            return assemble(self.config, self._tensors, self.exact, dtype, weights)
        if weights == "int4":
            raise ModelError(
                f"{self.path}: the blocks of a GGUF of this family cannot be used as they are (those of "
                f"{', '.join(FAMILIES)} can); --weights int8 and bf16 work"
            )
        model = self._through_transformers(dtype)
        if weights == "int8":
            quantize_model(model, 8)
        return model

    def _through_transformers(self, dtype: torch.dtype) -> Any:
        from transformers import AutoModelForCausalLM

        with _reading(self.path):
            foreign_tensors(self.header, self.config)
            model, loading = AutoModelForCausalLM.from_pretrained(
                str(self.path.parent), gguf_file=self.path.name, dtype=dtype, config=self.config,
                output_loading_info=True,
            )  # fmt: skip
        if loading["missing_keys"]:
            raise ModelError(f"{self.path}: the model is incomplete: {min(loading['missing_keys'])} is missing")
        # It is an ordinary model now; these marks of its origin would keep it from being saved.
        model.hf_quantizer, model.is_quantized = None, False
        if hasattr(model.config, "quantization_config"):
            del model.config.quantization_config
        return model


def split_blocks(data: np.ndarray[Any, Any], kind: Any) -> list[np.ndarray[Any, Any]]:
    """Rows of blocks of 32, uint8 [out, bytes], as (codes, scale, minimum) or, of Q8_0, without the last."""
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType as Kind

    out = data.shape[0]
    blocks = data.reshape(out, -1, GGML_QUANT_SIZES[kind][1])
    scale = np.ascontiguousarray(blocks[..., :2]).view(np.float16)[..., 0]
    if kind == Kind.Q8_0:
        return [np.ascontiguousarray(blocks[..., 2:]).view(np.int8).reshape(out, -1), scale]
    has_minimum, fifth = kind in (Kind.Q4_1, Kind.Q5_1), kind in (Kind.Q5_0, Kind.Q5_1)
    middle = np.float16(-16 if fifth else -8)
    minimum = np.ascontiguousarray(blocks[..., 2:4]).view(np.float16)[..., 0] if has_minimum else scale * middle
    codes = blocks[..., 4 if has_minimum else 2 :]
    # In the file fifth bits come before the others.
    return [np.roll(codes, -BLOCK // 8, axis=-1) if fifth else np.ascontiguousarray(codes), scale, minimum]


def split_super_blocks(data: np.ndarray[Any, Any], kind: Any) -> list[np.ndarray[Any, Any]]:
    """Rows of blocks of 256, uint8 [out, bytes], as (codes, scale, minimum) or, for Q6_K, (codes, scale).

    Scales and minima are exact, in fp32: a half times a small integer each. A scale is for 32 weights, for Q6_K for 16.
    Codes of Q4_K and Q5_K are packed as those of blocks of 32 are; those of Q6_K are int8 [out, in].
    """
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType as Kind
    from gguf.quants import Q4_K

    out = data.shape[0]
    blocks = data.reshape(out, -1, GGML_QUANT_SIZES[kind][1])

    def halves(at: int) -> np.ndarray[Any, Any]:
        return np.ascontiguousarray(blocks[..., at : at + 2]).view(np.float16).astype(np.float32)

    if kind == Kind.Q6_K:
        low, high = blocks[..., :128].reshape(out, -1, 2, 1, 64), blocks[..., 128:192].reshape(out, -1, 2, 1, 32)
        low = (low >> np.array([0, 4], np.uint8)[:, None]) & 15
        high = (high >> np.array([0, 2, 4, 6], np.uint8)[:, None]) & 3
        codes = low.reshape(out, -1, 8, 32) | high.reshape(out, -1, 8, 32) << 4
        scales = np.ascontiguousarray(blocks[..., 192:208]).view(np.int8).astype(np.float32)
        return [codes.astype(np.int8).reshape(out, -1) - np.int8(32), (halves(208) * scales).reshape(out, -1)]
    # Eight blocks of 32 share two halves; the nibbles of 32 bytes belong to two blocks, one after the other.
    scales, minima = (x.reshape(out, -1, 8) for x in Q4_K.get_scale_min(blocks[..., 4:16].reshape(-1, 12)))
    pairs = blocks[..., -128:].reshape(out, -1, 4, 1, BLOCK)
    numbers = np.concatenate([pairs & 15, pairs >> 4], axis=3).reshape(out, -1, BLOCK)
    parts = [numbers[..., :NIBBLES] | numbers[..., NIBBLES:] << 4]
    if kind == Kind.Q5_K:
        fifth = blocks[..., 16:48].reshape(out, -1, 1, BLOCK) >> np.arange(8, dtype=np.uint8)[:, None] & 1
        parts.append(np.packbits(fifth.reshape(out, -1, BLOCK), axis=-1, bitorder="little"))
    return [
        np.concatenate(parts, axis=-1),
        (halves(0) * scales).reshape(out, -1),
        (-halves(2) * minima).reshape(out, -1),
    ]


def as_asked(held: list[torch.Tensor], packed: bool) -> list[torch.Tensor]:
    """What is held of a parameter exactly, as [weights] in fp32, or as blocks.

    Args:
        held: [weights], in any dtype; blocks with scales in fp16; or with scales in fp32, which have to be unpacked.
        packed: the last as blocks too, their scales rounded to halves.
    """
    if len(held) == 1:
        return [held[0].float()]
    codes, scale, *minimum = held
    if scale.dtype == torch.float16:
        return held
    if packed:
        return [codes, scale.half(), *(each.half() for each in minimum)]
    if minimum:
        five = codes[..., NIBBLES:, None] >> torch.arange(8, dtype=torch.uint8) & 1
        codes = torch.cat([codes[..., :NIBBLES] & 15, codes[..., :NIBBLES] >> 4], dim=-1)
        codes = codes | five.flatten(-2) << 4 if five.numel() else codes
    weights = codes.reshape(*scale.shape, -1).float().mul_(scale[..., None])
    if minimum:
        weights.add_(minimum[0][..., None])
    return [weights.flatten(1)]


def empty_model(config: Any, dtype: torch.dtype) -> Any:
    """The model of a config, its weights untouched memory: they cost nothing until they are written to."""
    from transformers import AutoModelForCausalLM
    from transformers.initialization import no_init_weights

    with no_init_weights():
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    model.tie_weights()
    return model.eval()


def assemble(
    config: Any,
    names: Iterable[str],
    exact: Callable[[str], list[torch.Tensor]],
    dtype: torch.dtype,
    weights: str,
) -> Any:
    """The model of a config, its weights read one after the other.

    Args:
        names: of what is held; biases among them that the family does not have are added.
        exact: what is held of a parameter, as `GgufFile.exact`.
        weights: as `--weights`; in int4 blocks stay blocks, and other matrices get 8 bits by row.
    """
    packed = weights == "int4"
    model = empty_model(config, dtype)
    for held_name in names:
        layer, _, leaf = held_name.rpartition(".")
        if leaf == "bias" and model.get_submodule(layer).bias is None:
            module = model.get_submodule(layer)
            module.bias = nn.Parameter(torch.empty(module.out_features, dtype=dtype))
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    called = {id(m): name for name, m in model.named_modules()}
    tied = head.weight is embedding.weight
    layers: dict[str, list[torch.Tensor]] = {}
    for name, parameter in model.named_parameters():
        held = as_asked(exact(name), packed)
        if packed and parameter.dim() == 2:
            layers[name.removesuffix(".weight")] = held if len(held) > 1 else list(quantize_rows(held[0]))
        elif len(held) > 1:
            parameter.data = unpack(held[0], held[1], held[2] if len(held) > 2 else None, dtype)
        else:
            parameter.data = held[0].to(dtype)
    if tied and packed:
        layers[called[id(head)]] = layers[called[id(embedding)]]
    for name, held in layers.items():
        put(model, name, *held, dtype=dtype)
    if weights == "int8":
        quantize_model(model, 8)
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
        problem = "this GGUF cannot be read (truncated, or of a kind not supported)"
        raise ModelError(f"{path}: {problem}: {said(error)}") from error
