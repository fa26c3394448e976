from __future__ import annotations

from hypothesis import given, strategies as st

from templora.chunks import Chunk


@given(st.lists(st.integers(1, 40), min_size=1, max_size=12))
def test_chunks_that_lie_back_to_back_predict_each_token_once(sizes: list[int]) -> None:
    """All but the first token, which has nothing before it; ragged chunks included."""
    targets: list[int] = []
    at = 0
    for index, size in enumerate(sizes):
        chunk = Chunk(index, max(0, at - 64), at, at + size)
        assert chunk.targets == chunk.end - chunk.first_target
        targets.extend(range(chunk.first_target, chunk.end))
        at += size
    assert targets == list(range(1, at))


def test_a_single_first_token_is_nobodys_target() -> None:
    assert Chunk(0, 0, 0, 1).targets == 0
    assert Chunk(0, 0, 0, 32).targets == 31
    assert Chunk(3, 32, 96, 100).targets == 4
