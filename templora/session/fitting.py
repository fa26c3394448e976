"""Whether a snapshot is one of this session: everything in it, before anything of it is held.

A snapshot is a file, and may be anybody's. Keys and values are read and written by address while a text is decoded, so
their shapes and types must be the model's, and every count must lie where a session's own can lie. What passes here can
be garbage, as any adapter can, but nothing that is not memory of ours, and nothing that raises later on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from templora.arguments import SEEDS
from templora.chunks import Chunk
from templora.errors import OptionError, TextError
from templora.lora.slot import STATE
from templora.models.neural_cache import EVIDENCE
from templora.runtime.metering import PHASES
from templora.session.mixture import EXPERTS
from templora.session.notes import Notes
from templora.session.snapshot import NUMBERS, Snapshot
from templora.text import framed

_MAX = 2**53  # of a count
_ROUNDED = 1e-6  # by which weights that sum to 1 may miss it
_META_BYTES = 1 << 24


class _Unfit(ValueError):
    """What does not fit."""


@dataclass(frozen=True)
class Like:
    """What a session's own snapshots are like.

    Args:
        tokens: of its text.
        notes: that stand in its windows.
        chunk_size, window: of its config.
        positions: most that an entry's position may be.
        weights: of the adapter.
        entries: keys and values [1, heads, 1, head size] of one entry in each layer.
        memory: whether tensors are such as the method holds.
        context: whether an update under way needs a copy of the entries before it.
        neural_cache: tokens that one holds at most, and numbers of each one's state.
        vocabulary: of the model.
    """

    tokens: int
    notes: Notes
    chunk_size: int
    window: int
    positions: int
    weights: int
    entries: Sequence[tuple[torch.Tensor, torch.Tensor]]
    memory: Callable[[Mapping[str, torch.Tensor]], bool]
    context: bool
    neural_cache: tuple[int, int]
    vocabulary: int


def check(snapshot: Snapshot, like: Like) -> None:
    """Finds out that a session can become what a snapshot says.

    Raises:
        TextError: it cannot.
    """
    try:
        _check(snapshot.meta, snapshot.tensors, like)
    except _Unfit as error:
        raise TextError(f"the snapshot is of another session, or damaged: {error}") from error


def notes_of(snapshot: Snapshot, make: Callable[[object], Notes]) -> Notes:
    """The notes that a snapshot says. Raises TextError if they cannot be this session's."""
    try:
        meta = _table("meta", snapshot.meta)
        return make(framed(meta.get("notes", ""), meta.get("notes_parts")))
    except (_Unfit, OptionError, TypeError, ValueError) as error:
        raise TextError(f"the snapshot is of another session, or damaged: {error}") from error


def check_weights(weights: torch.Tensor | None, count: int) -> torch.Tensor:
    """An adapter's weights. Raises TextError if these are none, fp32 [count]."""
    try:
        return _vector("the adapter", weights, count)
    except _Unfit as error:
        raise TextError(f"no adapter of this session: {error}") from error


def most_bytes(like: Like, memory: Mapping[str, torch.Tensor]) -> int:
    """What no snapshot of such a session takes more than, in bytes, with `memory` of its method."""
    entry = sum(t.numel() * t.element_size() for pair in like.entries for t in pair)
    held = sum(t.numel() * t.element_size() for t in memory.values())
    most, size = like.neural_cache
    looked_up = most * (2 * size + 8) + 8 * size
    return _META_BYTES + 4 * len(STATE) * like.weights + 3 * like.window * entry + len(STATE) * held + looked_up


def _check(meta: Any, tensors: Mapping[str, torch.Tensor], like: Like) -> None:
    meta = _table("meta", meta)
    if meta.get("tokens") != like.tokens:
        raise _Unfit(f"its text has another size, {meta.get('tokens')!r} tokens")
    version = _whole("version", meta.get("version"))
    for name in ("steps", "memory_version"):
        _whole(name, meta.get(name))
    _whole("scored_to", meta.get("scored_to"), like.tokens)
    if version:
        for name in STATE:
            _vector(name, tensors.get(name), like.weights)
        if bool((tensors["exp_avg_sq"] < 0).any()):
            raise _Unfit("exp_avg_sq has a negative square")
    seed = meta.get("seed", 0)
    if type(seed) is not int or not SEEDS[0] <= seed <= SEEDS[1]:
        raise _Unfit("random numbers cannot begin from its seed")
    for name in ("ends", "unshown"):
        for number in _list(name, meta.get(name, (0, 0)), 2):
            _whole(name, number, like.tokens)
    if not like.memory(tensors):
        raise _Unfit("what the method held has other shapes")
    index, start = (_whole("chunk", n, like.tokens) for n in _list("chunk", meta.get("chunk"), 2))
    if index > start or like.tokens - start > like.chunk_size:
        raise _Unfit("its chunk is none of this text")
    _spans("masked", meta.get("masked", []), start, like.tokens)
    _guards(_table("guards", meta.get("guards")), start, like.tokens)
    mixture = [_number("mixture", w) for w in _list("mixture", meta.get("mixture"), len(EXPERTS))]
    if min(mixture) < 0 or abs(sum(mixture) - 1) > _ROUNDED:
        raise _Unfit("the weights of its mixture do not sum to 1")
    for part in _list("meter", meta.get("meter"), 2):
        held = _table("meter", part)
        if set(held) != set(PHASES) or any(_number("meter", n) < 0 for n in held.values()):
            raise _Unfit("its meter is none")
    caches = _table("caches", meta.get("caches"))
    for name in ("adapted", "base"):
        _cache(name, caches.get(name), tensors, like)
    _under_way(meta.get("under_way"), caches, tensors, like, start)
    if "neural_cache" in meta and like.neural_cache[0]:
        _neural_cache(meta["neural_cache"], tensors, like)


def _neural_cache(said: Any, tensors: Mapping[str, torch.Tensor], like: Like) -> None:
    """What is looked up: tokens are places in memory, and shares are worked out from the table."""
    (most, size), name = like.neural_cache, "neural_cache"
    for row in _list(name, said, EVIDENCE[0]):
        for nats in _list(name, row, EVIDENCE[1]):
            _number(name, nats)
    tokens = tensors.get(f"{name}.tokens")
    held = 0 if tokens is None else len(tokens)
    if not 0 < held <= min(most, like.tokens):
        raise _Unfit(f"{name} holds nothing, or more than there is")
    tokens = _tensor(f"{name}.tokens", tokens, torch.int64, (held,))
    if not 0 <= int(tokens.min()) <= int(tokens.max()) < like.vocabulary:
        raise _Unfit(f"{name} holds tokens that the model does not have")
    _tensor(f"{name}.keys", tensors.get(f"{name}.keys"), torch.bfloat16, (held * size,))
    scale = _tensor(f"{name}.scale", tensors.get(f"{name}.scale"), torch.float32, (2, size))
    if not bool((scale[1] > 0).all()):
        raise _Unfit(f"{name} has a spread that is not above 0")


def _under_way(said: Any, caches: Mapping[str, Any], tensors: Mapping[str, torch.Tensor], like: Like, now: int) -> None:
    """An update that was being trained: of the chunk before the open one, which begins at token `now`."""
    if said is None:
        return
    *numbers, masked = _list("under_way", said, 5)
    index, start, middle, end = (_whole("under_way", n, now) for n in numbers)
    if not (start <= middle < end) or end - middle > like.chunk_size or end - start > like.window or index > middle:
        raise _Unfit("the chunk that it learns is none of this text")
    _spans("under_way", masked, middle, end)
    chunk = Chunk.from_json([index, start, middle, end, masked])
    if not chunk.targets:
        raise _Unfit("the chunk that it learns has nothing to learn")
    if like.context:
        held = _cache("context", caches.get("context"), tensors, like)
        seen = like.notes.chunk(chunk, like.window - like.chunk_size)
        if held["first_token"] + len(held["versions"]) != seen.first_target - 1:
            raise _Unfit("the context of the chunk that it learns is another's")


def _cache(name: str, said: Any, tensors: Mapping[str, torch.Tensor], like: Like) -> Mapping[str, Any]:
    held = _table(name, said)
    if set(held) != set(NUMBERS):
        raise _Unfit(f"the cache {name} lacks something")
    versions = _list(name, held["versions"])
    for number in (*versions, held["served_version"], held["reused"]):
        _whole(name, number)
    entries, tokens = len(versions), like.tokens + len(like.notes)
    first, shift = (_whole(name, held[key], tokens) for key in ("first_token", "shift"))
    # A compressed context may end one position further on than a window does.
    beyond = shift > 0 and shift + like.window > like.positions + 1
    if entries > like.window or first + entries > tokens or shift > first or beyond:
        raise _Unfit(f"the cache {name} holds entries beyond the text, or beyond the window")
    for i, pair in enumerate(like.entries if entries else ()):
        for kind, one in zip(("keys", "values"), pair, strict=True):
            key = f"{name}.{kind}.{i}"
            _tensor(key, tensors.get(key), one.dtype, (*one.shape[:2], entries, *one.shape[3:]))
    return held


def _guards(held: Mapping[str, Any], start: int, end: int) -> None:
    _spans("guards", held.get("spans"), start, end)
    tokens = sum(last - first for first, last in held["spans"])
    entropies = _list("guards", held["entropies"], tokens) if "entropies" in held else [held.get("entropy")]
    for nats in entropies:
        _number("guards", nats)
    entropy, tokens = _list("guards", held.get("brake"), 2)
    _number("guards", entropy)
    for count in (tokens, *_list("guards", held.get("patience"), 2)):
        _whole("guards", count)


def _vector(name: str, found: torch.Tensor | None, count: int) -> torch.Tensor:
    return _tensor(name, found, torch.float32, (count,))


def _tensor(name: str, found: torch.Tensor | None, dtype: torch.dtype, shape: tuple[int, ...]) -> torch.Tensor:
    if found is None or found.dtype != dtype or tuple(found.shape) != shape:
        what = "nothing" if found is None else f"{found.dtype} {list(found.shape)}"
        raise _Unfit(f"{name} has another size or type: {what}, not {dtype} {list(shape)}")
    if not bool(found.isfinite().all()):
        raise _Unfit(f"{name} holds what is no number")
    return found


def _table(name: str, said: Any) -> Mapping[str, Any]:
    if not isinstance(said, dict):
        raise _Unfit(f"{name} is no table")
    return said


def _list(name: str, said: Any, length: int | None = None) -> Sequence[Any]:
    if not isinstance(said, list | tuple) or (length is not None and len(said) != length):
        raise _Unfit(f"{name} is no list of such a length")
    return said


def _whole(name: str, said: Any, most: int = _MAX) -> int:
    if type(said) is not int or not 0 <= said <= most:
        raise _Unfit(f"{name} is no whole number from 0 to {most}")
    return said


def _number(name: str, said: Any) -> float:
    if type(said) not in (int, float) or not -(_MAX**4) < said < _MAX**4 or not math.isfinite(said):
        raise _Unfit(f"{name} is no number")
    return float(said)


def _spans(name: str, said: Any, start: int, end: int) -> None:
    """Pairs of tokens [first, last), in order, within [start, end)."""
    at = start
    for pair in _list(name, said):
        first, last = (_whole(name, n, end) for n in _list(name, pair, 2))
        if not at <= first < last:
            raise _Unfit(f"{name} has spans that are none of the chunk's")
        at = last
