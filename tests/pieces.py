"""A tokenizer whose tokens are pieces of several characters, and characters of several tokens."""

from __future__ import annotations

from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import bytes_to_unicode

from templora.testing import END


def piece_tokenizer() -> Any:
    """255 ids: ASCII, the bytes of a few other characters, and pieces of several characters, some of which hold a line
    break, or the end of a character, further in; then the end-of-text token (255)."""
    symbol = bytes_to_unicode()
    others = "é☃😀"
    pieces = [
        "in",
        "ing",
        "the",
        " the",
        ".\n",
        "a.\n",
        "\n\n",
        "\n.",
        "s.",
        "TH",
        "THE",
        " END",
        "E E",
        "xyz",
        "b☃",
        "☃☃",
        "☃a",
    ]
    vocab = {symbol[byte]: i for i, byte in enumerate([10, *range(32, 127), *sorted(set(others.encode()))])}
    merges = []
    for piece in pieces:
        spelled = "".join(symbol[byte] for byte in piece.encode())
        for end in range(2, len(spelled) + 1):
            if spelled[:end] not in vocab:
                vocab[spelled[:end]] = len(vocab)
                merges.append((spelled[: end - 1], spelled[end - 1]))
    for filler in range(len(vocab), 255):
        vocab[f"@{filler}"] = filler
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([END])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END)
