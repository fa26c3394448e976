from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from templora.layers import attention
from templora.testing import FAMILIES, tiny_engine

# Queries, keys, window; tiles of 256 rows: one, several, the last one ragged, with and without context.
SHAPES = [(5, 5, None), (3, 8, None), (40, 40, 7), (30, 90, 20), (300, 700, None), (600, 600, 100), (300, 700, 350)]


def given(queries: int, keys: int, heads: int, dtype: torch.dtype, size: int = 16) -> list[torch.Tensor]:
    """Query [1, 4, Q, size] and key, value [1, heads, K, size]; scores to about ±10, where bf16's last bit is 0.06."""
    generator = torch.Generator().manual_seed(queries + keys)
    shapes = [(1, 4, queries, size), (1, heads, keys, size), (1, heads, keys, size)]
    return [(1.6 * torch.randn(*shape, generator=generator)).to(dtype) for shape in shapes]


def plain(inputs: list[torch.Tensor], window: int | None) -> torch.Tensor:
    """In fp64, with a dense mask and repeated heads: [1, Q, H, D]."""
    query, key, value = inputs
    rows, columns = query.shape[2], key.shape[2]
    at = torch.arange(columns - rows, columns)[:, None]
    seen = torch.arange(columns)[None]
    mask = (seen <= at) & (seen > at - (window or columns))
    repeat = query.shape[1] // key.shape[1]
    scores = query @ key.repeat_interleave(repeat, 1).transpose(-1, -2) * query.shape[3] ** -0.5
    weights = scores.masked_fill(~mask, -torch.inf).softmax(-1)
    return (weights @ value.repeat_interleave(repeat, 1)).transpose(1, 2)


def off(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found.double() - wanted).norm() / wanted.norm())


@pytest.mark.parametrize(("queries", "keys", "window"), SHAPES)
@pytest.mark.parametrize("heads", [1, 2, 4])
@pytest.mark.parametrize(
    ("dtype", "size", "most"),
    [(torch.float32, 16, 2e-6), (torch.bfloat16, 16, 6e-3), (torch.bfloat16, 6, 6e-3)],
)
def test_attention_and_its_gradients_are_those_of_fp64(
    queries: int,
    keys: int,
    window: int | None,
    heads: int,
    dtype: torch.dtype,
    size: int,
    most: float,
) -> None:
    """In bf16 by the kernel; heads of sizes that it does not know in fp32."""
    ours = [x.requires_grad_() for x in given(queries, keys, heads, dtype, size)]
    wanted = [x.detach().double().requires_grad_() for x in ours]
    found, _ = attention.attend(None, *ours, None, sliding_window=window)
    whole = plain(wanted, window)
    assert found.shape == whole.shape
    assert off(found.detach(), whole.detach()) < most
    along = torch.randn(whole.shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    found.backward(along)
    whole.backward(along.double())
    assert off(ours[0].grad, wanted[0].grad) < most
    own = keys - queries
    for mine, theirs in zip(ours[1:], wanted[1:], strict=True):
        assert off(mine.grad[:, :, own:], theirs.grad[:, :, own:]) < most
        assert not mine.grad[:, :, :own].any()  # the context is constant


def test_bf16_is_as_exact_as_torchs_own() -> None:
    """Scores rounded to bf16 would be several times further off."""
    query, key, value = given(300, 700, 2, torch.bfloat16)
    query = 4 * query
    wanted = plain([x.double() for x in (query, key, value)], None)
    at = torch.arange(400, 700)[:, None]
    theirs = F.scaled_dot_product_attention(
        query, key.repeat_interleave(2, 1), value.repeat_interleave(2, 1), torch.arange(700)[None] <= at
    ).transpose(1, 2)
    found, _ = attention.attend(None, query, key, value, None)
    rounded = (query @ key.repeat_interleave(2, 1).transpose(-1, -2)).float() * 16**-0.5
    rounded = rounded.masked_fill(torch.arange(700)[None] > at, -torch.inf).softmax(-1)
    naive = (rounded @ value.repeat_interleave(2, 1).float()).transpose(1, 2)
    assert off(found, wanted) < 1.5 * off(theirs, wanted)
    assert off(found, wanted) < 0.5 * off(naive, wanted)


@pytest.mark.parametrize("changed", [{"attention_mask": torch.ones(1, 1, 5, 5)}, {"dropout": 0.1}, {"softcap": 30.0}])
def test_what_it_does_not_know_is_refused(changed: dict[str, object]) -> None:
    mask = changed.pop("attention_mask", None)
    with pytest.raises(NotImplementedError):
        attention.attend(None, *given(5, 5, 2, torch.float32), mask, **changed)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_family_reads_through_it(family: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """One token's pass too; and afterwards the model's own attention is back."""
    engine = tiny_engine(family, dtype)
    model = engine.model
    own = model.config._attn_implementation
    calls: list[int] = []
    real = attention._Attention.forward

    def spy(ctx: object, query: torch.Tensor, *more: object) -> torch.Tensor:
        calls.append(query.shape[1])
        return real(ctx, query, *more)

    monkeypatch.setattr(attention._Attention, "forward", spy)
    with torch.no_grad():
        model.hidden([1, 2, 3], None)
        model.hidden([1], None)
        model.module(torch.tensor([[1, 2, 3]]))
    assert calls == [3] * model.layers + [1] * model.layers
    assert model.config._attn_implementation == own != attention.NAME
