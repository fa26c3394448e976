from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest
from hypothesis import assume, given, settings, strategies as st

from templora.testing import END, byte_tokenizer
from templora.text import TextStream, decode, encode, end_ids, opening_ids, text_pieces

TOKENIZER = byte_tokenizer()


@settings(max_examples=60, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=40))
def test_streamed_text_is_the_text(text: str) -> None:
    """Characters of two to four bytes arrive whole, nothing is lost or doubled."""
    assume(END not in text)  # hypothesis tries the strings that it finds in our code; this one is a single token
    stream = TextStream(TOKENIZER)
    ids = encode(TOKENIZER, text, special=False)
    assert len(ids) == len(text.encode())
    pieces = [stream.push(i) for i in ids]
    assert "".join(pieces) + stream.flush() == decode(TOKENIZER, ids) == text
    assert "\ufffd" in text or not any("\ufffd" in p for p in pieces)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.sampled_from(["a", "é", "€", "😀", "\ufffd", "e\u0301"]), max_size=40),
    st.lists(st.integers(1, 3), max_size=60),
    st.integers(0, 20),
)
def test_pieces_are_the_text(text: list[str], gaps: list[int], before: int) -> None:
    """Wherever it is cut, also where the text has the sign that stands for what cannot be decoded."""
    ids = encode(TOKENIZER, "".join(text), special=False)
    given, ids = ids[:before], ids[before:]
    cuts = [cut for cut in itertools.accumulate(gaps) if cut < len(ids)]
    pieces = text_pieces(TOKENIZER, given, ids, cuts)
    assert len(pieces) == len(cuts) + 1
    assert "".join(pieces) == decode(TOKENIZER, given + ids)[len(decode(TOKENIZER, given)) :]
    if "\ufffd" not in text and not decode(TOKENIZER, given).endswith("\ufffd"):
        assert "\ufffd" not in "".join(pieces)


def test_broken_bytes_are_shown_as_such_and_do_not_block() -> None:
    stream = TextStream(TOKENIZER)
    shown = "".join(stream.push(i) for i in [*b"a", 0xC3, *b"bcd"]) + stream.flush()
    assert shown == "a\ufffdbcd"
    assert len("".join(stream.push(0xFF) for _ in range(100))) > 50


def test_what_a_token_says_may_depend_on_the_one_before() -> None:
    """SentencePiece drops the space before the first word it decodes: decoded alone, every word would lose it."""

    class Words:
        def decode(self, ids: Sequence[int], **_: object) -> str:
            return " ".join(["of", "times", "wisdom"][i] for i in ids)

    stream, ids = TextStream(Words()), [1, 0, 2, 0, 1, 1, 2, 0]
    pieces = [stream.push(i) for i in ids]
    assert pieces == ["times", " of", " wisdom", " of", " times", " times", " wisdom", " of"]
    assert stream.flush() == ""


def test_half_a_character_at_the_end_is_shown_by_flush() -> None:
    stream = TextStream(TOKENIZER)
    assert [stream.push(i) for i in [97, 0xE2, 0x82]] == ["a", "", ""]
    assert stream.flush() == "\ufffd"
    assert stream.push(98) == "b"


def test_special_tokens_are_not_text() -> None:
    stream = TextStream(TOKENIZER)
    assert "".join(stream.push(i) for i in [97, 256, 98]) + stream.flush() == "ab"
    assert decode(TOKENIZER, [97, 256, 98]) == "ab"


@pytest.mark.parametrize("bos", [False, True])
def test_what_a_tokenizer_puts_before_a_text(bos: bool) -> None:
    assert opening_ids(byte_tokenizer(bos)) == ([257] if bos else [])
    assert encode(byte_tokenizer(bos), "a", special=False) == [97]


def test_ends() -> None:
    class Config:
        eos_token_id = [7, 256]  # noqa: RUF012

    assert TOKENIZER.convert_tokens_to_ids(END) == 256
    assert end_ids(TOKENIZER, Config) == [7, 256]
    assert end_ids(TOKENIZER, None) == [256]


def test_the_first_space_of_what_is_gone_on_with() -> None:
    """Decoders that mark the start of a word drop the space before the first token they are given."""
    from tokenizers import Tokenizer, decoders, models
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordLevel({"▁the": 0, "▁cat": 1, "▁sat": 2, "?": 3}, unk_token="?"))
    tokenizer.decoder = decoders.Metaspace()
    words = PreTrainedTokenizerFast(tokenizer_object=tokenizer)
    assert decode(words, [0, 1, 2]) == "the cat sat"
    assert TextStream(words, [0, 1]).push(2) == " sat"
    assert TextStream(words).push(0) == "the"


def test_family_end_tokens_count_only_if_they_are_special() -> None:
    """A chat model's <|im_end|> ends a text even where the tokenizer names another token; a literal one does not."""
    tokenizer = byte_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_end|>"]})
    tokenizer.add_tokens(["<eos>"])
    assert end_ids(tokenizer, None) == [256, tokenizer.convert_tokens_to_ids("<|im_end|>")]
