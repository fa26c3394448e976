"""The words and bytes that the tokens of a text stand for, so that any run of chunks can be measured in them."""

from __future__ import annotations

from typing import Any

from templora.text import decode, encode


class Spans:
    """A text as ids, and the characters of each.

    Attributes:
        ids: without what the tokenizer puts before a text.
    """

    def __init__(self, tokenizer: Any, text: str) -> None:
        self.ids = encode(tokenizer, text, special=False)
        self._tokenizer, self._text = tokenizer, text
        self._starts: list[int] | None = None
        if getattr(tokenizer, "is_fast", False):
            found = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
            if list(found["input_ids"]) != self.ids:  # the names of control tokens are spelled out
                return
            self._starts = [start for start, _ in found["offset_mapping"]] + [len(text)]

    def of(self, start: int, end: int, targets: int) -> dict[str, int]:
        """Words and UTF-8 bytes of the last `targets` of the ids [start, end).

        Words are separated by white space, and each belongs to the token that it begins in; so the parts of a text have
        as many together as the whole.
        """
        first = end - targets
        if self._starts is None:
            text = decode(self._tokenizer, self.ids[first:end])
            return {"words": len(text.split()), "bytes": len(text.encode())}
        begin, stop = self._starts[first], self._starts[end]
        part, before = self._text[begin:stop], self._text[max(0, begin - 1) : begin]
        words = len(part.split())
        if before and not before.isspace() and part and not part[0].isspace():
            words -= 1  # it goes on with a word that began earlier
        return {"words": words, "bytes": len(part.encode())}
