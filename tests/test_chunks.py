from __future__ import annotations

from hypothesis import given, strategies as st

from templora.chunks import Chunk, chunk_spans


@given(st.integers(0, 500), st.integers(2, 60), st.integers(1, 90))
def test_every_token_is_a_target_exactly_once(tokens: int, chunk_size: int, context: int) -> None:
    chunks = list(chunk_spans(tokens, chunk_size, context))
    targets = [t for c in chunks for t in range(c.first_target, c.end)]
    assert targets == list(range(1, tokens))
    assert sum(c.targets for c in chunks) == len(targets)
    assert [t for c in chunks for t in range(c.middle, c.end)] == list(range(tokens))
    for chunk in chunks:
        assert chunk.tokens <= chunk_size
        assert chunk.end - chunk.start <= context + chunk_size
        assert chunk.middle - chunk.start == min(context, chunk.middle)


def test_a_ragged_last_chunk() -> None:
    *_, last = chunk_spans(100, 32, 64)
    assert last == Chunk(index=3, start=32, middle=96, end=100)


def test_the_first_chunk_has_one_target_fewer() -> None:
    first = next(chunk_spans(100, 32, 64))
    assert (first.tokens, first.targets) == (32, 31)
