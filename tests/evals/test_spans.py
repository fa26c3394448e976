"""Words and bytes of parts of a text add up to those of the whole."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given, settings, strategies as st

from templora.evals.measuring.spans import Spans
from templora.testing import byte_tokenizer

TOKENIZER = byte_tokenizer()
TEXTS = st.text(st.sampled_from("ab é你 \n\t."), min_size=1, max_size=60)


@settings(deadline=None)
@given(TEXTS, st.lists(st.integers(1, 30), max_size=6))
def test_parts_add_up(text: str, cuts: list[int]) -> None:
    spans = Spans(TOKENIZER, text)
    edges = sorted({0, len(spans.ids), *(c for c in cuts if c < len(spans.ids))})
    parts = [spans.of(a, b, b - a) for a, b in pairwise(edges)]
    assert sum(p["words"] for p in parts) == len(text.split())
    assert sum(p["bytes"] for p in parts) == len(text.encode())


def test_the_first_token_may_not_be_a_target() -> None:
    spans = Spans(TOKENIZER, "ab cd")
    assert spans.of(0, 5, 4) == {"words": 1, "bytes": 4}  # "b cd": the word that began before is not counted
    assert spans.of(0, 5, 5) == {"words": 2, "bytes": 5}


def test_a_tokenizer_without_offsets() -> None:
    class Slow:
        def __call__(self, *args: object, **kwargs: object) -> object:
            kwargs.pop("return_offsets_mapping", None)
            return TOKENIZER(*args, **kwargs)

        def decode(self, *args: object, **kwargs: object) -> str:
            return str(TOKENIZER.decode(*args, **kwargs))

    assert Spans(Slow(), "ab cd").of(0, 5, 5) == {"words": 2, "bytes": 5}
