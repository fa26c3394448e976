"""Causal attention of many queries at once, on the CPU, for any family that asks transformers for its attention.

torch's own operator for this takes longer than the products it consists of (docs/log.md), and wants a dense mask.
This one knows what is visible:

    keys      0 ─── context ─── first │ the queries' own ─── K       query i sees keys [.., first + i], or the last
              all visible             │ causal                       `window` of them

Queries go in tiles of rows; keys right of a tile's last query, or left of its first one's window, are left out. The
query heads of one key head are rows of one product, so keys and values are never repeated. Scores have fp32's accuracy
or nearly so: in bf16 a product's rounded result and, by a second product that starts from it, the remainder. Where bf16
is slow all of it is fp32 (`templora.layers.upcast`).

Shapes: H heads, G key heads, Q queries, K keys, D head size.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch

from templora.kernels import rowwise
from templora.kernels.openmp import run
from templora.layers import upcast
from templora.runtime.scratch import scratch_memory

NAME = "templora"
# Rows of a tile: fewer leave less above the diagonal, more make better products.
_TILE = 256
# Most scores of a tile, all heads together; a tile of a large model has fewer rows.
_SCORES = 1 << 24


def _scratch(name: str, like: torch.Tensor, *shape: int) -> torch.Tensor:
    """Memory for one tile's scores, used again for the next."""
    return scratch_memory(math.prod(shape), like.dtype, name).view(shape)


def supported(model: Any) -> bool:
    """Whether a transformers model takes its attention by name, and every layer sees what `attend` knows of."""
    config = model.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    return (
        bool(getattr(model, "_supports_attention_backend", False))
        and kinds <= {"full_attention", "sliding_attention"}
        and not getattr(config, "use_bidirectional_attention", False)
    )


def register() -> None:
    """Makes `attend` known to transformers. No mask function goes with it: models then make none."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, attend)


def window_of(module: Any, told: int | None) -> int:
    """How many of the last keys a layer sees; 0: all.

    Args:
        module: the layer's attention.
        told: the window that it hands over.

    Raises:
        NotImplementedError: its config says that there is one, and it hands none over.
    """
    kinds, index = getattr(getattr(module, "config", None), "layer_types", None), getattr(module, "layer_idx", None)
    if not told and kinds and index is not None and kinds[index] == "sliding_attention":
        raise NotImplementedError("attention whose window is in a mask alone")
    return told or 0


def attend(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """transformers' attention interface: query [B, H, Q, D], key and value [B, G, K, D] → ([B, Q, H, D], None), of B
    texts one after another.

    Where K > Q, the first K − Q keys and values are a context of constants: their gradient is left at zero.

    Raises:
        NotImplementedError: a mask, dropout, or something else that changes scores.
    """
    unknown = [name for name in ("softcap", "s_aux", "position_bias") if kwargs.get(name) is not None]
    if attention_mask is not None or dropout or unknown:
        raise NotImplementedError(f"attention with {unknown or 'a mask or dropout'}")
    scale = query.shape[-1] ** -0.5 if scaling is None else float(scaling)
    window = window_of(module, sliding_window) or key.shape[2]
    texts = zip(query, key, value, strict=True)
    out = [_Attention.apply(*text, scale, window) for text in texts]  # type: ignore[no-untyped-call]
    return torch.stack(out) if len(out) > 1 else out[0][None], None


class _Tiles:
    """Which keys each tile of queries sees."""

    def __init__(self, heads: int, queries: int, keys: int, window: int) -> None:
        self.rows = min(_TILE, max(16, _SCORES // (heads * keys)))
        self.queries = queries
        self.first = keys - queries  # the key of query 0
        self.window = window

    def __iter__(self) -> Iterator[tuple[int, int, int, int]]:
        """(first query, end, first key, end) of each tile."""
        for begin in range(0, self.queries, self.rows):
            end = min(self.queries, begin + self.rows)
            yield begin, end, max(0, self.first + begin + 1 - self.window), self.first + end


class _Attention(torch.autograd.Function):
    """query [H, Q, D], key and value [G, K, D] → [Q, H, D]."""

    @staticmethod
    def forward(
        ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float, window: int
    ) -> torch.Tensor:
        (heads, queries, size), groups = query.shape, key.shape[0]
        out = query.new_empty(queries, groups, heads // groups, value.shape[2])
        ctx.scale, ctx.window, ctx.wide = scale, window, upcast.applies(query)
        query, key, value = query.reshape(groups, -1, queries, size), key.contiguous(), value.contiguous()
        ctx.save_for_backward(query, key, value)
        if ctx.wide:
            query, key, value = query.float(), key.float(), value.float()
        for begin, end, left, right in _Tiles(heads, queries, key.shape[1], window):
            q = query[:, :, begin:end].flatten(1, 2)
            p = _probabilities(q, key[:, left:right].contiguous(), scale, end - begin, window, ctx.wide)
            o = _product(p, value[:, left:right], ctx.wide)
            out[begin:end] = o.view(groups, -1, end - begin, o.shape[2]).permute(2, 0, 1, 3)
        return out.flatten(1, 2)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        query, key, value = ctx.saved_tensors  # [G, H / G, Q, D], [G, K, D], [G, K, D]
        dtype, wide = query.dtype, ctx.wide
        if wide:
            query, key, value = query.float(), key.float(), value.float()
        (groups, shared, queries, size), keys = query.shape, key.shape[1]
        grad = grads[0].to(query.dtype).reshape(queries, groups, -1, value.shape[2])
        grad = grad.permute(1, 2, 0, 3)  # [G, H / G, Q, D]
        d_query = torch.empty_like(query)
        # Sums over tiles are kept in fp32; the context, to the left, stays zero.
        d_key = torch.zeros(key.shape, dtype=torch.float32, device=key.device)
        d_value = torch.zeros(value.shape, dtype=torch.float32, device=key.device)
        own = keys - queries
        for begin, end, left, right in _Tiles(groups * shared, queries, keys, ctx.window):
            q, g = query[:, :, begin:end].flatten(1, 2), grad[:, :, begin:end].flatten(1, 2)
            k, v = key[:, left:right].contiguous(), value[:, left:right]
            p = _probabilities(q, k, ctx.scale, end - begin, ctx.window, wide)
            d = _product(g, v.transpose(1, 2), wide, out="d")
            cut = max(0, own - left)  # of the keys seen, those of the context
            p_own, d_own = _scores_gradient(p, d, ctx.scale, cut)
            d_query[:, :, begin:end] = _product(d, k, wide).view(groups, -1, end - begin, size)
            d_key[:, left + cut : right] += _product(d_own.transpose(1, 2), q, wide)
            d_value[:, left + cut : right] += _product(p_own.transpose(1, 2), g, wide)
        return d_query.to(dtype).flatten(0, 1), d_key.to(dtype), d_value.to(dtype), None, None


def _product(a: torch.Tensor, b: torch.Tensor, wide: bool, out: str = "") -> torch.Tensor:
    """a b [G, M, N] of a [G, M, K] and b [G, K, N]; `out` names the scratch memory to put it into."""
    into = _scratch(out, a, len(a), a.shape[1], b.shape[2]) if out else None
    if not wide:
        return torch.bmm(a, b, out=into)
    return torch.stack([upcast.product(x, y.t()) for x, y in zip(a, b, strict=True)], out=into)


def _probabilities(q: torch.Tensor, k: torch.Tensor, scale: float, tile: int, window: int, wide: bool) -> torch.Tensor:
    """Softmax, in scratch memory, of the scores of q [G, rows, D] and k [G, keys, D].

    The last key is that of row `tile` − 1.
    """
    keys = k.shape[1]
    end = keys - tile + 1  # of what row 0 sees
    shape = (q.shape[0], q.shape[1], keys)
    scores = _product(q, k.transpose(1, 2), wide, out="scores")
    if scores.dtype == torch.bfloat16:
        remainder = torch.baddbmm(scores, q, k.transpose(1, 2), beta=-1, out=_scratch("remainder", q, *shape))
        rows = scores.shape[0] * scores.shape[1]
        run(rowwise.softmax, rows, scores, remainder, keys, tile, end, window, scale)
        return scores
    visible = torch.ones(tile, keys, dtype=torch.bool, device=k.device).tril(end - 1).triu(end - window)
    by_query = scores.view(len(k), -1, tile, keys).mul_(scale).masked_fill_(~visible, -torch.inf)
    return torch.softmax(by_query, -1).view(shape)


def _scores_gradient(p: torch.Tensor, d: torch.Tensor, scale: float, cut: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Turns d, the gradient of p, into that of the scores: scale · p (d − Σ p d).

    Returns p and d of the keys from `cut` on.
    """
    if p.dtype == torch.bfloat16:
        keys = p.shape[2]
        shape = (*p.shape[:2], keys - cut)
        p_own = _scratch("p_own", p, *shape) if cut else p
        d_own = _scratch("d_own", d, *shape) if cut else d
        run(rowwise.softmax_gradient, p.shape[0] * p.shape[1], p, d, keys, scale, cut, p_own, d_own)
        return p_own, d_own
    d.sub_((p * d).sum(-1, keepdim=True)).mul_(p).mul_(scale)
    return p[:, :, cut:], d[:, :, cut:]
