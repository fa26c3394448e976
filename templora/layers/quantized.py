"""Layers whose frozen weights are held in 4, 5 or 8 bits and unpacked, a piece at a time, when they are used.

                    codes                         scale                   minimum             a weight is
    4 bit           uint8 [out, in/32, 16]        float16 [out, in/32]    float16, the same   scale · code + minimum
    5 bit           uint8 [out, in/32, 20]        float16 [out, in/32]    float16, the same   scale · code + minimum
    8 bit, blocks   int8 [out, in]                float16 [out, in/32]    –                   scale · code
    8 bit, halves   int8 [out, in], −32 to 31     float16 [out, in/16]    –                   scale · code
    8 bit, rows     int8 [out, in]                float32 [out]           –                   scale · code

The first three are GGUF's Q4_1, Q5_1 and Q8_0, byte for byte, with scales and codes apart; `halves` hold what its Q6_K
says. What is unpacked is rounded to the compute dtype, so a product is that of an ordinary layer holding the rounded
weights, forward and back.

They take the place of nn.Linear and nn.Embedding while a model is loaded, before anybody has seen it: the base that
must be left as it was is the model with these layers.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import nn

from templora.errors import ModelError
from templora.runtime.scratch import scratch_memory

BLOCK = 32
Bits = Literal[4, 8]  # that can be asked for; a file may have 5, too
NIBBLES = BLOCK // 2  # bytes of a block's codes in 4 bits; fifth bits come behind them
# Weights unpacked or widened at once. Bounds the scratch memory, also for a head of 262,144 rows; 8 MB stay in a cache.
_PIECE = 1 << 22
# Fewer weights than this, such as a token's embedding, are not worth a second thread.
_FEW = 1 << 15


class Packed(nn.Module):
    """A matrix [rows, columns] of quantised weights. Not trainable: it has buffers, no parameters.

    Args:
        codes, scale, minimum: as in the table above; which of its rows it is follows from their shapes.
        dtype: what it is computed in.

    Raises:
        ModelError: a scale is not finite, or a code of halves is none.
    """

    codes: torch.Tensor
    scale: torch.Tensor
    minimum: torch.Tensor | None

    def __init__(
        self, codes: torch.Tensor, scale: torch.Tensor, minimum: torch.Tensor | None, dtype: torch.dtype
    ) -> None:
        super().__init__()
        if not all(bool(t.isfinite().all()) for t in (scale, minimum) if t is not None):
            raise ModelError("this model's weights are damaged: a block has a scale that is not finite")
        self.bits = 8 if minimum is None else 4 if codes.shape[2] == NIBBLES else 5
        self.rows: int = codes.shape[0]
        self.columns: int = codes.shape[1] * (1 if minimum is None else BLOCK)
        self.group = self.columns // scale.shape[1] if scale.dim() == 2 else None
        if self.group == BLOCK // 2 and not -32 <= codes.min() <= codes.max() <= 31:
            raise ModelError("this model's weights are damaged: a code has more than 6 bits")
        self.dtype = dtype
        self.register_buffer("codes", codes.contiguous())
        self.register_buffer("scale", scale.contiguous())
        self.register_buffer("minimum", None if minimum is None else minimum.contiguous())

    @property
    def weight(self) -> torch.Tensor:
        """All weights [rows, columns], unpacked anew at each call: for tests and tools, not for a loop."""
        return unpack(self.codes, self.scale, self.minimum, self.dtype)


def unpack(
    codes: torch.Tensor,
    scale: torch.Tensor,
    minimum: torch.Tensor | None,
    dtype: torch.dtype,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """Some rows of quantised weights as numbers [rows, columns], exact but for the rounding to `dtype`.

    Args:
        out: where to put them; contiguous, of `dtype`.
    """
    from templora.kernels import dequantize
    from templora.kernels.openmp import run

    codes = codes.contiguous()  # kernels read by address

    kind = dtype if dtype in (torch.bfloat16, torch.float32) else torch.float32
    columns = codes.shape[1] * (1 if minimum is None else BLOCK)
    into = torch.empty(codes.shape[0], columns, dtype=kind) if out is None or out.dtype != kind else out
    groups, half, alone = scale.numel(), int(kind == torch.bfloat16), into.numel() < _FEW
    if minimum is None:
        factors = scale.float().contiguous()
        run(dequantize.eight_bit, groups, codes, factors, into, half, into.numel() // max(1, groups), alone=alone)
    else:
        scale, minimum = scale.half().contiguous(), minimum.half().contiguous()
        kernel = dequantize.four_bit if codes.shape[2] == NIBBLES else dequantize.five_bit
        run(kernel, groups, codes, scale, minimum, into, half, alone=alone)
    if out is not None and out is not into:
        return out.copy_(into)
    return into.to(dtype)


def pieces(rows: int, columns: int) -> Iterator[slice]:
    """The rows of a matrix, as many at once as may be unpacked or widened."""
    step = max(1, _PIECE // columns)
    return (slice(first, min(first + step, rows)) for first in range(0, rows, step))


class QuantLinear(Packed):
    """y = W x + b with a quantised W. Gradients go to x alone.

    Attributes:
        in_features, out_features: the sizes of x and y.
        bits: 4, 5 or 8.
        group: so many columns have a scale, 16 or 32; None: a row has one.
    """

    def __init__(
        self,
        codes: torch.Tensor,
        scale: torch.Tensor,
        minimum: torch.Tensor | None = None,
        bias: torch.Tensor | None = None,
        dtype: torch.dtype = torch.bfloat16,
    ) -> None:
        super().__init__(codes, scale, minimum, dtype)
        self.out_features, self.in_features = self.rows, self.columns
        self.bias = None if bias is None else nn.Parameter(bias.detach(), requires_grad=False)

    def extra_repr(self) -> str:
        kind = "rows" if self.group is None else f"blocks of {self.group}"
        return f"in_features={self.in_features}, out_features={self.out_features}, {self.bits} bit by {kind}"

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = _Product.apply(x, self)  # type: ignore[no-untyped-call]
        return result

    def pieces(self, dtype: torch.dtype) -> Iterator[tuple[slice, torch.Tensor]]:
        """(rows, their weights [rows, in]) one piece after the other, in scratch memory that the next overwrites."""
        for part in pieces(self.out_features, self.in_features):
            out = scratch_memory((part.stop - part.start) * self.in_features, dtype).view(-1, self.in_features)
            minimum = None if self.minimum is None else self.minimum[part]
            yield part, unpack(self.codes[part], self.scale[part], minimum, dtype, out)

    def product(self, x: torch.Tensor) -> torch.Tensor:
        """y [..., out] of x [..., in]."""
        y: torch.Tensor | None = None
        for part, weights in self.pieces(x.dtype):
            found = F.linear(x, weights, None if self.bias is None else self.bias[part])
            if part.stop - part.start == self.out_features:
                return found
            y = x.new_empty(*x.shape[:-1], self.out_features) if y is None else y
            y[..., part] = found
        assert y is not None
        return y

    def product_backward(self, gradient: torch.Tensor) -> torch.Tensor:
        """The gradient with respect to x [..., in], from that with respect to y [..., out]."""
        total: torch.Tensor | None = None
        for part, weights in self.pieces(gradient.dtype):
            found = gradient[..., part] @ weights
            if part.stop - part.start == self.out_features:
                return found
            total = found.float() if total is None else total.add_(found)
        assert total is not None
        return total.to(gradient.dtype)


class _Product(torch.autograd.Function):
    """Keeps nothing for the backward pass but the layer: the weights are unpacked a second time."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, layer: QuantLinear) -> torch.Tensor:
        ctx.layer = layer
        return layer.product(x)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        return ctx.layer.product_backward(gradients[0]), None


class QuantEmbedding(Packed):
    """Rows of a quantised matrix by id; the output head may hold the same tensors.

    Args:
        factor: what Gemma multiplies its embeddings with.
    """

    factor: torch.Tensor | None

    def __init__(
        self,
        codes: torch.Tensor,
        scale: torch.Tensor,
        minimum: torch.Tensor | None = None,
        factor: torch.Tensor | None = None,
        dtype: torch.dtype = torch.bfloat16,
    ) -> None:
        super().__init__(codes, scale, minimum, dtype)
        self.num_embeddings, self.embedding_dim = self.rows, self.columns
        self.register_buffer("factor", factor, persistent=False)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        at = ids.reshape(-1)
        minimum = None if self.minimum is None else self.minimum[at]
        found = unpack(self.codes[at], self.scale[at], minimum, self.dtype).view(*ids.shape, -1)
        return found if self.factor is None else found * self.factor.to(found.dtype)


@torch.no_grad()
def quantize_rows(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """8 bit by row: (codes int8 [out, in], scale float32 [out]). Symmetric, to nearest: off by at most scale / 2."""
    scale = weight.abs().amax(1).float() / 127
    scale[scale == 0] = 1
    codes = torch.empty(weight.shape, dtype=torch.int8)
    rows = max(1, _PIECE // weight.shape[1])  # a head in fp32 would be the most that loading needs
    for c, w, s in zip(*(torch.split(t, rows) for t in (codes, weight, scale)), strict=True):
        c.copy_((w.float() / s[:, None]).round_())
    return codes, scale


@torch.no_grad()
def quantize_blocks(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """4 bit: (codes, scale, minimum) of each block of 32, from its smallest to its largest weight, to nearest."""
    blocks = weight.float().view(weight.shape[0], -1, BLOCK)
    low, high = blocks.aminmax(dim=-1)
    scale, minimum = ((high - low) / 15).half(), low.half()
    steps = torch.where(scale == 0, 1, scale.float())[..., None]
    codes = ((blocks - minimum.float()[..., None]) / steps).round().clamp(0, 15).to(torch.uint8)
    return codes[..., : BLOCK // 2] | codes[..., BLOCK // 2 :] << 4, scale, minimum


def count_weights(model: nn.Module) -> int:
    """Weights of a model, quantised ones included; shared ones once."""
    packed = {m.codes.data_ptr(): m.rows * m.columns for m in model.modules() if isinstance(m, Packed)}
    return sum(p.numel() for p in model.parameters()) + sum(packed.values())


def quantize_model(model: Any, bits: Bits) -> None:
    """Quantises a loaded transformers model in place: decoder, embedding and head; layer by layer, to nearest.

    Embedding and head get 8 bits either way, as in GGUF files. A layer whose rows are no whole blocks keeps its
    weights, as does everything that is no nn.Linear.

    Raises:
        ModelError: no layer of the decoder can be quantised.
    """
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    inside = {id(m) for m in model.get_decoder().modules()}
    layers = [
        (name, m)
        for name, m in model.named_modules()
        if type(m) is nn.Linear and id(m) in inside and (bits == 8 or m.in_features % BLOCK == 0)
    ]
    if not layers:
        raise ModelError(
            f"{type(model).__name__} has no linear layer that int{bits} could hold (GPT-2's are transposed); "
            "--weights bf16 works"
        )
    for name, layer in layers:
        parts = quantize_rows(layer.weight) if bits == 8 else quantize_blocks(layer.weight)
        put(model, name, *parts, dtype=layer.weight.dtype)
    names = {id(m): name for name, m in model.named_modules()}
    held: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}  # a tied head and embedding share what they hold
    for end in (embedding, head):
        if isinstance(end, nn.Embedding) or type(end) is nn.Linear:
            parts = held.setdefault(id(end.weight), quantize_rows(end.weight))
            put(model, names[id(end)], *parts, dtype=end.weight.dtype)


def put(
    model: nn.Module,
    name: str,
    codes: torch.Tensor,
    scale: torch.Tensor,
    minimum: torch.Tensor | None = None,
    *,
    dtype: torch.dtype,
) -> None:
    """Puts quantised weights in the place of those of the nn.Linear or nn.Embedding `name`."""
    layer = model.get_submodule(name)
    new: Packed
    if isinstance(layer, nn.Embedding):
        new = QuantEmbedding(codes, scale, minimum, getattr(layer, "embed_scale", None), dtype)
    else:
        assert isinstance(layer, nn.Linear)
        new = QuantLinear(codes, scale, minimum, layer.bias, dtype)
    model.set_submodule(name, new.train(layer.training))
