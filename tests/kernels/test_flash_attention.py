"""What `tests/layers/test_attention.py` does not ask of the compiled attention."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from templora.kernels import flash_attention


def given(heads: int, groups: int, queries: int, keys: int, size: int, width: int) -> list[torch.Tensor]:
    """Query [H, Q, D], key [G, K, D], value [G, K, V], and a gradient of the output [Q, H, V]."""
    generator = torch.Generator().manual_seed(keys)
    shapes = (heads, queries, size), (groups, keys, size), (groups, keys, width), (queries, heads, width)
    return [torch.randn(*shape, generator=generator).bfloat16() for shape in shapes]


def worked_out(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, grad: torch.Tensor) -> list[torch.Tensor]:
    out, norm = flash_attention.attend(query, key, value, 0.2, key.shape[1])
    return [out, *flash_attention.gradients(query, key, value, out, norm, grad, 0.2, key.shape[1])]


@pytest.mark.parametrize(("size", "width"), [(64, 64), (80, 80), (4, 68), (128, 96), (256, 256)])
@pytest.mark.parametrize(("heads", "groups"), [(3, 1), (16, 8)])
def test_heads_of_every_size(size: int, width: int, heads: int, groups: int) -> None:
    """Of those that are no multiple of a panel, too; few heads are worked on in two parts."""
    inputs = given(heads, groups, 130, 200, size, width)
    leaves = [x.double().requires_grad_() for x in inputs[:3]]
    keys, values = (x.repeat_interleave(heads // groups, 0) for x in leaves[1:])
    mask = torch.ones(130, 200, dtype=torch.bool).tril(70)
    wanted = F.scaled_dot_product_attention(leaves[0], keys, values, mask, scale=0.2).transpose(0, 1)
    wanted.backward(inputs[3].double())
    found = worked_out(*inputs)
    for mine, theirs in zip(found, [wanted.detach(), *(leaf.grad for leaf in leaves)], strict=True):
        assert theirs is not None
        if mine.shape[:2] == (groups, 200):
            mine, theirs = mine[:, 70:], theirs[:, 70:]
        assert (mine - theirs).norm() < 6e-3 * theirs.norm()


def test_the_same_bits_on_one_thread_and_on_two() -> None:
    inputs, before, found = given(9, 3, 512, 700, 64, 64), torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append(worked_out(*inputs))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def test_a_query_by_itself_is_that_among_others() -> None:
    """So it does not matter where a text is cut into passes."""
    query, key, value, _ = given(4, 2, 100, 150, 32, 32)
    whole, _ = flash_attention.attend(query, key, value, 0.2, 90)
    for begin, end in ((0, 1), (1, 66), (66, 100)):
        part, _ = flash_attention.attend(query[:, begin:end], key[:, : 50 + end], value[:, : 50 + end], 0.2, 90)
        assert torch.equal(part, whole[begin:end])
