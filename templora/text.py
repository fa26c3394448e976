"""The edge between text and token ids. Inside, everything is ids.

A text is text: where the name of a control token stands in it, as in a document about such things, it is spelled like
any other word. Only in what is ours, a chat template's own parts, is it that token (`Framed`).
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import weakref
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from templora.errors import TextError

# Tokens that end a text in one family or another, but that tokenizers do not always name as `eos_token`.
_END_TOKENS = (
    "<|endoftext|>", "<|end_of_text|>", "<|eot_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>", "</s>", "<eos>",
)  # fmt: skip

# Bytes that a character has at most, each of which may be a token.
_CHARACTER = 4

# Stands for what a user says, in a chat template.
_CONTENT = "QpalZm1"

# A little of much: by its tokens one tokenizer is known from another with the same vocabulary.
_SAMPLE = "The  quick Brown fox's 12345 naïve ﬁancées; e\u0301té,\n\n\tif x != 0: 日本語の文章 Привет, мир! 🙂 <b>x</b>"


class Framed(str):
    """A text of which some parts are ours: in those the names of control tokens mean the tokens.

    Attributes:
        parts: of it, in order, each with whether it is ours.
    """

    parts: tuple[tuple[str, bool], ...]

    def __new__(cls, *parts: tuple[str, bool]) -> Framed:
        made = super().__new__(cls, "".join(text for text, _ in parts))
        made.parts = parts
        return made

    def __add__(self, other: str) -> Framed:
        return Framed(*self.parts, *_parts(other))

    def __radd__(self, other: str) -> Framed:
        return Framed(*_parts(other), *self.parts)


def framed(text: str, parts: Sequence[tuple[str, bool]] | None) -> str:
    """The text that was kept with its parts (`parts_of`), as JSON has them; without any, or with others, plain."""
    made = Framed(*((str(part), bool(own)) for part, own in parts or ()))
    return made if parts and made == text else text


def parts_of(text: str) -> tuple[tuple[str, bool], ...] | None:
    """The parts of a text of which some are ours; None if none are."""
    parts = _parts(text)
    return parts if any(own for _, own in parts) else None


def ours(text: str) -> Framed:
    """A text that is ours."""
    return Framed((text, True))


def filled(frame: str, hole: str, value: str) -> Framed:
    """Our text `frame` with `value` in place of each `hole`."""
    first, *rest = frame.split(hole)
    made = ours(first)
    for part in rest:
        made = made + value + ours(part)
    return made


def _parts(text: str) -> tuple[tuple[str, bool], ...]:
    return text.parts if isinstance(text, Framed) else ((text, False),)


# What a tokenizer has of control tokens, and the chat template that it had then.
_controls: weakref.WeakKeyDictionary[Any, tuple[str, dict[int, str]]] = weakref.WeakKeyDictionary()
_CONTROL = re.compile(r"<[|｜].+[|｜]>")
_IN_BRACKETS = re.compile(r"[<\[{].+[>\]}]")
# How the ids of a text are found: (tokenizer, text) -> ids.
_Way: TypeAlias = Callable[[Any, str], list[int]]


def control_tokens(tokenizer: Any) -> dict[int, str]:
    """Every token that is no text, with its name: the special ones, and others that mark the parts of a chat."""
    template = str(getattr(tokenizer, "chat_template", None) or "")
    before, known = _controls.get(tokenizer, (None, {}))
    if before != template:
        known = {}
        for index, token in getattr(tokenizer, "added_tokens_decoder", {}).items():
            name = str(token)
            # White space, tags of HTML and the like may be added tokens, too, and are text.
            marks = _CONTROL.fullmatch(name) or (_IN_BRACKETS.fullmatch(name) and name in template)
            if getattr(token, "special", False) or marks:
                known[index] = name
        special = zip(
            getattr(tokenizer, "all_special_ids", ()), getattr(tokenizer, "all_special_tokens", ()), strict=True
        )
        known |= {index: str(name) for index, name in special}
        _controls[tokenizer] = template, known
    return known


def encode(tokenizer: Any, text: str, *, special: bool) -> list[int]:
    """The ids of `text`; with `special`, what the tokenizer puts before a text (BOS, for models that have one).

    Raises:
        TextError: it is no text, or not one that can be written down.
    """
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
    ids = _raw(tokenizer, str(text), special=special)
    names = control_tokens(tokenizer)
    if special or names.keys().isdisjoint(ids):
        return ids

    def marks(found: Sequence[int]) -> list[int]:
        return [i for i in found if i in names]

    parts = [(part, own) for part, own in _parts(text) if part]
    if marks(ids) == [i for part, own in parts if own for i in marks(_raw(tokenizer, part))]:
        return ids
    made: list[int] = []
    for part, own in parts:
        made += _continued(tokenizer, made, part, _raw if own else _plain)
    return made


def _raw(tokenizer: Any, text: str, *, special: bool = False) -> list[int]:
    # verbose=False: "longer than the model's maximum" does not apply, a session windows its text.
    return list(tokenizer(text, add_special_tokens=special, verbose=False)["input_ids"])


def _split(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False, split_special_tokens=True, verbose=False)["input_ids"])


def _plain(tokenizer: Any, text: str) -> list[int]:
    """The ids of a text in which the names of control tokens are text."""
    ids, names = _split(tokenizer, text), control_tokens(tokenizer)
    found = {names[i] for i in ids if i in names}
    if not found:
        return ids
    # Not one of those that the tokenizer can be told to leave alone: spelled in two parts, which are no tokens.
    made: list[int] = []
    at = 0
    for match in re.finditer("|".join(map(re.escape, sorted(found, key=len, reverse=True))), text):
        made += _continued(tokenizer, made, text[at : match.start() + 1], _split)
        at = match.start() + 1
    return made + _continued(tokenizer, made, text[at:], _split)


def _continued(tokenizer: Any, before: Sequence[int], text: str, way: _Way) -> list[int]:
    """The ids of a text that comes after the ids `before`."""
    return (_after(tokenizer, before, text, way) if before else []) or way(tokenizer, text)


def _after(tokenizer: Any, before: Sequence[int], text: str, way: _Way) -> list[int]:
    """Ids that add `text`, and nothing else, to a text that ends with the ids `before`; none if there are no such."""
    edge = list(before[-4:])
    known = decode(tokenizer, edge, special=True)
    # A tokenizer may put a space before a text, but not within one.
    for anchor in ("", "\n", "x", "."):
        ids, prefix = way(tokenizer, anchor + text), way(tokenizer, anchor) if anchor else []
        added = ids[len(prefix) :]
        if ids[: len(prefix)] == prefix and decode(tokenizer, [*edge, *added], special=True) == known + text:
            return added
    return []


class _Spoken:
    """What the tokens of a tokenizer say, each looked up once.

    A tokenizer may leave out the first space of a text, so each is said after another one.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._before = _raw(tokenizer, "x")
        self._known = len(decode(tokenizer, self._before, special=True))
        self._texts: dict[int, str] = {}
        self.holding: dict[tuple[str, ...], frozenset[int]] = {}

    def text(self, tokenizer: Any, token: int) -> str:
        if token not in self._texts:
            self._texts[token] = decode(tokenizer, [*self._before, token], special=True)[self._known :]
        return self._texts[token]


_spoken: weakref.WeakKeyDictionary[Any, _Spoken] = weakref.WeakKeyDictionary()


def _spoken_of(tokenizer: Any) -> _Spoken:
    if tokenizer not in _spoken:
        _spoken[tokenizer] = _Spoken(tokenizer)
    return _spoken[tokenizer]


def token_text(tokenizer: Any, token: int) -> str:
    """What one token says, with its space; the name of a control token; empty if the tokenizer does not know it."""
    return _spoken_of(tokenizer).text(tokenizer, token)


def tokens_holding(tokenizer: Any, texts: Sequence[str]) -> frozenset[int]:
    """The tokens in whose text one of these stands. The first call goes through the vocabulary."""
    spoken, wanted = _spoken_of(tokenizer), tuple(texts)
    if wanted not in spoken.holding:
        said = [spoken.text(tokenizer, token) for token in range(len(tokenizer))] if wanted else []
        spoken.holding[wanted] = frozenset(i for i, text in enumerate(said) if any(part in text for part in wanted))
    return spoken.holding[wanted]


def first_ids(tokenizer: Any, text: str) -> list[int]:
    """The tokens with which a text begins: as it is, and after a space if it has none of its own.

    Tokens in front that are white space alone do not count, unless all of it is.
    """
    before, found = _raw(tokenizer, "x"), dict[int, None]()
    for form in (text,) if text[:1].isspace() else (text, " " + text):
        ids = spelled(tokenizer, before, form) or _plain(tokenizer, form)
        found |= dict.fromkeys([i for i in ids if token_text(tokenizer, i).strip()][:1] or ids[:1])
    return list(found)


def chat_turn(tokenizer: Any, content: str) -> Framed:
    """What a user says, in the tokenizer's chat template, up to where the answer begins.

    Raises:
        TextError: names of control tokens stand in it, and the template changes what it is given.
    """

    def said(content: str) -> str:
        turns = [{"role": "user", "content": content}]
        return str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))

    text = said(content)
    before, _, after = said(_CONTENT).partition(_CONTENT)
    inside = text[len(before) : len(text) - len(after)]
    # Templates take white space off the ends, as a rule.
    if text == before + inside + after and inside.strip() == content.strip():
        return ours(before) + inside + ours(after)
    if any(name in content for name in control_tokens(tokenizer).values()):
        raise TextError(
            "the text holds names of control tokens, and the model's chat template does not leave it as it is"
        )
    return ours(text)


def opening_ids(tokenizer: Any) -> list[int]:
    """What the tokenizer puts before every text: often nothing, else BOS."""
    ids = encode(tokenizer, "", special=True)
    eos = getattr(tokenizer, "eos_token_id", None)
    return [i for i in ids if i != eos] if eos != getattr(tokenizer, "bos_token_id", None) else ids


def decode(tokenizer: Any, ids: Sequence[int], *, special: bool = False) -> str:
    """The text of these ids, without special tokens, or with their names."""
    return str(tokenizer.decode(list(ids), skip_special_tokens=not special, clean_up_tokenization_spaces=False))


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
    ids = _raw(tokenizer, _SAMPLE)
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
    return _after(tokenizer, before, text, _plain)


def text_pieces(tokenizer: Any, before: Sequence[int], ids: Sequence[int], cuts: Sequence[int]) -> list[str]:
    """The text of `ids`, cut where the tokens are; joined, the pieces are the text that `ids` add.

    A character that is spread over tokens on both sides of a cut belongs to the piece that completes it.

    Args:
        tokenizer: whose ids they are.
        before: ids of the text before them; the last few are looked at.
        ids: what is to be cut.
        cuts: where, each from 1 to below the number of ids.
    """
    edge, at, pieces = list(before[-_CHARACTER:]), 0, []
    for cut in [*cuts, len(ids)]:
        after = decode(tokenizer, [*edge, *ids[at : cut + _CHARACTER]])
        for end in range(cut, max(at - 1, cut - _CHARACTER), -1):
            text = decode(tokenizer, [*edge, *ids[at:end]])
            if end == len(ids) or after.startswith(text):  # what follows changes nothing before it
                break
        pieces.append(text[len(decode(tokenizer, edge)) :])
        edge, at = [*edge, *ids[at:end]][-_CHARACTER:], end
    return pieces
