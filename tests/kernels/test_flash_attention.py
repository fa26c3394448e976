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
    window = key.shape[1]
    found = flash_attention.attend(query, key, value, 0.2, window, True)
    return [found[0], *flash_attention.gradients(query, key, value, *found, grad, 0.2, window)]


def off(inputs: list[torch.Tensor]) -> float:
    """Of the output and its gradients, the one furthest from fp64's: by how much of its size."""
    (heads, queries, _), (groups, many, _) = inputs[0].shape, inputs[1].shape
    own = many - queries
    leaves = [x.double().requires_grad_() for x in inputs[:3]]
    keys, values = (x.repeat_interleave(heads // groups, 0) for x in leaves[1:])
    mask = torch.ones(queries, many, dtype=torch.bool).tril(own)
    out = F.scaled_dot_product_attention(leaves[0], keys, values, mask, scale=0.2).transpose(0, 1)
    out.backward(inputs[3].double())
    gradients = [leaf.grad for leaf in leaves if leaf.grad is not None]
    found, wanted = ([*x[:2], *(y[:, own:] for y in x[2:])] for x in (worked_out(*inputs), [out.detach(), *gradients]))
    return max(float((f - w).norm() / w.norm()) for f, w in zip(found, wanted, strict=True))


@pytest.mark.parametrize(("size", "width"), [(64, 64), (80, 80), (4, 68), (128, 96), (256, 256)])
@pytest.mark.parametrize(("heads", "groups"), [(3, 1), (16, 8)])
def test_heads_of_every_size(size: int, width: int, heads: int, groups: int) -> None:
    """Of those that are no multiple of a panel, too; few heads are worked on in two parts."""
    inputs = given(heads, groups, 130, 200, size, width)
    assert off(inputs) < 6e-3


def test_a_key_that_takes_most_of_the_attention_and_values_that_are_alike() -> None:
    """As the first token of a text does, in most models: what gradients are made of then is small differences of large
    numbers."""
    inputs = given(4, 2, 200, 200, 64, 64)
    inputs[0] += 1
    inputs[1][:, 0] = 0.5  # its scores are near 6
    inputs[2] += 5
    assert off(inputs) < 6e-3


def test_keys_that_do_not_begin_with_a_whole_word() -> None:
    inputs = given(2, 1, 64, 64, 16, 16)
    moved = [torch.cat([x.new_zeros(1), x.flatten()])[1:].view(x.shape) for x in inputs]
    assert all(torch.equal(one, other) for one, other in zip(worked_out(*moved), worked_out(*inputs), strict=True))


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
    whole = flash_attention.attend(query, key, value, 0.2, 90, False)[0]
    for begin, end in ((0, 1), (1, 66), (66, 100)):
        some = query[:, begin:end], key[:, : 50 + end], value[:, : 50 + end]
        assert torch.equal(flash_attention.attend(*some, 0.2, 90, False)[0], whole[begin:end])
