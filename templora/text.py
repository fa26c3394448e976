"""The edge between text and token ids. Inside, everything is ids."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from typing import Any

from templora.errors import TextError

# Tokens that end a text in one family or another, but that tokenizers do not always name as `eos_token`.
_END_TOKENS = (
    "<|endoftext|>", "<|end_of_text|>", "<|eot_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>", "</s>", "<eos>",
)  # fmt: skip

# A little of much: by its tokens one tokenizer is known from another with the same vocabulary.
_SAMPLE = "The  quick Brown fox's 12345 naïve ﬁancées; e\u0301té,\n\n\tif x != 0: 日本語の文章 Привет, мир! 🙂 <b>x</b>"


def encode(tokenizer: Any, text: str, *, special: bool) -> list[int]:
    """The ids of `text`; with `special`, what the tokenizer puts before a text (BOS, for models that have one)."""
    if not isinstance(text, str):
        instead = {bytes: ": decode it first, as in data.decode('utf-8')", list: "; tokens are given to absorb_ids"}
        hint = (
            ": read it first, as in path.read_text()" if isinstance(text, os.PathLike) else instead.get(type(text), "")
        )
        raise TextError(f"a text must be a str, not {type(text).__name__}{hint}")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise TextError(f"character {error.start} of the text is half a character (a lone surrogate)") from error
    # verbose=False: "longer than the model's maximum" does not apply, a session windows its text.
    return list(tokenizer(text, add_special_tokens=special, verbose=False)["input_ids"])


def opening_ids(tokenizer: Any) -> list[int]:
    """What the tokenizer puts before every text: often nothing, else BOS."""
    ids = encode(tokenizer, "", special=True)
    eos = getattr(tokenizer, "eos_token_id", None)
    return [i for i in ids if i != eos] if eos != getattr(tokenizer, "bos_token_id", None) else ids


def decode(tokenizer: Any, ids: Sequence[int]) -> str:
    """The text of these ids, special tokens left out."""
    return str(tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False))


def end_ids(tokenizer: Any, generation_config: Any) -> list[int]:
    """Every id that ends a text for this model."""
    found: set[int] = set()
    for source in (tokenizer, generation_config):
        value = getattr(source, "eos_token_id", None)
        found.update(value if isinstance(value, list) else [] if value is None else [value])
    special = set(getattr(tokenizer, "all_special_ids", []))
    for token in _END_TOKENS:
        index = tokenizer.convert_tokens_to_ids(token)
        if isinstance(index, int) and index in special and tokenizer.convert_ids_to_tokens(index) == token:
            found.add(index)
    return sorted(found)


def tokenizer_fingerprint(tokenizer: Any) -> str:
    """SHA-256 over what a tokenizer makes of texts: its vocabulary, what it puts before a text, and one text's ids."""
    vocabulary = sorted(tokenizer.get_vocab().items(), key=lambda item: (item[1], item[0]))
    ids = list(tokenizer(_SAMPLE, add_special_tokens=False, verbose=False)["input_ids"])
    said = json.dumps([vocabulary, opening_ids(tokenizer), ids, decode(tokenizer, ids)])
    return hashlib.sha256(said.encode("utf-8", "surrogatepass")).hexdigest()


class TextStream:
    """Turns ids into text as they come.

    Tokenizers may spread one character over several tokens and may write a token differently after another, so a
    few earlier ids are decoded again with each new one and text is held back while its last character is incomplete.

    Args:
        tokenizer: whose ids they are.
        before: the last few ids of the text that is gone on from; without them its first space may be lost.

    Attributes:
        incomplete: the last character is, so that its text is held back.
    """

    def __init__(self, tokenizer: Any, before: Sequence[int] = ()) -> None:
        self._tokenizer = tokenizer
        self._ids = list(before)
        self._shown = decode(tokenizer, self._ids)
        self.incomplete = False

    def push(self, token: int) -> str:
        """The text that this id completes; may be empty."""
        self._ids.append(token)
        text = decode(self._tokenizer, self._ids)
        self.incomplete = text.endswith("\ufffd") and len(self._ids) < 16
        if self.incomplete:
            return ""
        new = text[len(self._shown) :]
        # Keep one word's worth of ids as left context, so that leading spaces are decoded right.
        self._ids = self._ids[-4:]
        self._shown = decode(self._tokenizer, self._ids)
        return new

    def flush(self) -> str:
        """Whatever was held back."""
        rest = decode(self._tokenizer, self._ids)[len(self._shown) :]
        self._ids, self._shown = [], ""
        return rest


def spelled(tokenizer: Any, before: Sequence[int], text: str) -> list[int]:
    """Ids that add `text` to a text that ends with the ids `before`; none if there are no such."""
    edge = list(before[-4:])
    known = decode(tokenizer, edge)
    # A tokenizer may put a space before a text, but not within one.
    for anchor in ("", "\n", "x", "."):
        ids, prefix = encode(tokenizer, anchor + text, special=False), encode(tokenizer, anchor, special=False)
        if ids[: len(prefix)] == prefix and decode(tokenizer, edge + ids[len(prefix) :]) == known + text:
            return ids[len(prefix) :]
    return []


def text_pieces(tokenizer: Any, before: Sequence[int], ids: Sequence[int], cuts: Sequence[int]) -> list[str]:
    """The text of `ids`, cut where the tokens are; joined, the pieces are the text that `ids` add.

    A character that is spread over tokens on both sides of a cut belongs to the piece that completes it.

    Args:
        tokenizer: whose ids they are.
        before: ids of the text before them; the last few are looked at.
        ids: what is to be cut.
        cuts: where, each from 1 to below the number of ids.
    """
    edge = list(before[-4:])
    known, pieces = decode(tokenizer, edge), []
    for start, end in zip([0, *cuts], [*cuts, len(ids)], strict=True):
        edge += ids[start:end]
        text = decode(tokenizer, edge)
        # What is cut off is shown with the next piece; at the very end there is none.
        broken = len(text) - len(text.rstrip("\ufffd")) if end < len(ids) else 0
        pieces.append(text[len(known) : len(text) - broken])
        if not broken:
            edge = edge[-4:]
            known = decode(tokenizer, edge)
        else:
            edge = edge[-8:]
            known = decode(tokenizer, edge).rstrip("\ufffd")
    return pieces
