"""Causal attention of many queries at once, on the CPU, for any family that asks transformers for its attention.

torch's own operator for this takes longer than the products it consists of (docs/log.md), and wants a dense mask.
This one knows what is visible:

    keys      0 ─── context ─── first │ the queries' own ─── K       query i sees keys [.., first + i], or the last
              all visible             │ causal                       `window` of them

In bf16 this is `kernels.flash_attention`. What follows here is for fp32: queries go in tiles of rows; keys right of a
tile's last query, or left of its first one's window, are left out. The query heads of one key head are rows of one
product, so keys and values are never repeated.

Shapes: H heads, G key heads, Q queries, K keys, D head size.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from templora.kernels import flash_attention

NAME = "templora"
# Rows of a tile: fewer leave less above the diagonal, more make better products.
_TILE = 256
# Most scores of a tile, all heads together; a tile of a large model has fewer rows.
_SCORES = 1 << 24


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
        ctx.scale, ctx.window = scale, window
        ctx.compiled = _compiled(query, key, value)
        if ctx.compiled:
            learnt = any(ctx.needs_input_grad)
            out, *more = flash_attention.attend(query, key, value, scale, window, learnt)
            if learnt:
                ctx.save_for_backward(query, key, value, out, *more)
            return out
        (heads, queries, size), groups = query.shape, key.shape[0]
        found = query.new_empty(queries, groups, heads // groups, value.shape[2])
        ctx.save_for_backward(query, key, value)
        query, key, value = query.float().reshape(groups, -1, queries, size), key.float(), value.float()
        for begin, end, left, right in _Tiles(heads, queries, key.shape[1], window):
            q = query[:, :, begin:end].flatten(1, 2)
            p = _probabilities(q, key[:, left:right], scale, end - begin, window)
            o = torch.bmm(p, value[:, left:right])
            found[begin:end] = o.view(groups, -1, end - begin, o.shape[2]).permute(2, 0, 1, 3)
        return found.flatten(1, 2)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        if ctx.compiled:
            query, key, value, out, rest, norm = ctx.saved_tensors
            found = flash_attention.gradients(query, key, value, out, rest, norm, grads[0], ctx.scale, ctx.window)
            return *found, None, None
        query, key, value = ctx.saved_tensors  # [H, Q, D], [G, K, D], [G, K, D]
        dtype, queries, size = query.dtype, query.shape[1], query.shape[2]
        groups, keys = key.shape[:2]
        query, key, value = query.float().reshape(groups, -1, queries, size), key.float(), value.float()
        grad = grads[0].float().reshape(queries, groups, -1, value.shape[2])
        grad = grad.permute(1, 2, 0, 3)  # [G, H / G, Q, D]
        d_query, d_key, d_value = (torch.zeros_like(x) for x in (query, key, value))
        own = keys - queries  # the context, before it, stays zero
        for begin, end, left, right in _Tiles(groups * query.shape[1], queries, keys, ctx.window):
            q, g = query[:, :, begin:end].flatten(1, 2), grad[:, :, begin:end].flatten(1, 2)
            k, v = key[:, left:right], value[:, left:right]
            p = _probabilities(q, k, ctx.scale, end - begin, ctx.window)
            d = torch.bmm(g, v.transpose(1, 2))
            d.sub_((p * d).sum(-1, keepdim=True)).mul_(p).mul_(ctx.scale)  # the gradient of scores
            cut = max(0, own - left)  # of the keys seen, those of the context
            d_query[:, :, begin:end] = torch.bmm(d, k).view(groups, -1, end - begin, size)
            d_key[:, left + cut : right] += torch.bmm(d[:, :, cut:].transpose(1, 2), q)
            d_value[:, left + cut : right] += torch.bmm(p[:, :, cut:].transpose(1, 2), g)
        return d_query.to(dtype).flatten(0, 1), d_key.to(dtype), d_value.to(dtype), None, None


def _compiled(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> bool:
    """Whether it is worked out by `kernels.flash_attention`."""
    dtypes = {x.dtype for x in (query, key, value)}
    return dtypes == {torch.bfloat16} and not query.shape[2] % 4 and not value.shape[2] % 4


def _probabilities(q: torch.Tensor, k: torch.Tensor, scale: float, tile: int, window: int) -> torch.Tensor:
    """Softmax of the scores of q [G, rows, D] and k [G, keys, D]: the last key is that of row `tile` − 1."""
    keys = k.shape[1]
    end = keys - tile + 1  # of what row 0 sees
    scores = torch.bmm(q, k.transpose(1, 2))
    visible = torch.ones(tile, keys, dtype=torch.bool, device=k.device).tril(end - 1).triu(end - window)
    by_query = scores.view(len(k), -1, tile, keys).mul_(scale).masked_fill_(~visible, -torch.inf)
    return torch.softmax(by_query, -1).view(scores.shape)
