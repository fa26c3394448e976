from __future__ import annotations

import pytest
import torch

from templora.kvcache.window import WindowCache


def entries(*values: int) -> torch.Tensor:
    """Keys (or values) of these entries, [1, 1 head, entries, 1]."""
    return torch.tensor(values, dtype=torch.float32).view(1, 1, -1, 1)


@torch.no_grad()
def filled(tokens: int, sinks: int) -> WindowCache:
    """One layer, 16 entries at most; entry i is the key i, computed under version i."""
    cache = WindowCache(1, 16, opening=sinks, sinks=sinks)
    for token in range(tokens):
        cache.update(entries(token), entries(-token), 0)
        cache.advance(1, version=token)
    return cache


def seen(cache: WindowCache, *new: int) -> list[int]:
    keys, values = cache.update(entries(*new), entries(*(-n for n in new)), 0)
    assert torch.equal(keys, -values)
    return [int(k) for k in keys.flatten()]


@pytest.mark.parametrize(("sinks", "left"), [(0, [4, 5, 6, 7]), (1, [0, 5, 6, 7]), (2, [0, 1, 6, 7])])
@torch.no_grad()
def test_eviction_keeps_sinks_and_positions(sinks: int, left: list[int]) -> None:
    cache = filled(8, sinks)
    cache.evict(4)
    assert cache.versions == left
    assert (cache.length, cache.next_token, cache.next_position) == (4, 8, 8)
    assert seen(cache, 8) == [*left, 8]


@pytest.mark.parametrize(("sinks", "shown"), [(0, [6, 7]), (1, [0, 7])])
def test_learning_sees_the_last_entries_and_the_sinks(sinks: int, shown: list[int]) -> None:
    """Also after an eviction: the position that follows is that of the text, not that of the entry."""
    cache = filled(10, sinks)
    cache.evict(4)
    with cache.as_context(8, 2) as (entries_seen, position):
        assert (entries_seen, position) == (len(shown), 8)
        assert cache.get_seq_length() == len(shown)
        assert seen(cache, 8, 9) == [*shown, 8, 9]
    with torch.no_grad():
        assert seen(cache, 10)[-3:] == [8, 9, 10]


def test_a_cleared_cache_starts_at_position_0_with_nothing_reused() -> None:
    cache = filled(8, 1)
    cache.evict(4)
    cache.reused = 3
    cache.clear(6)
    assert (cache.length, cache.next_position, cache.next_token, cache.reused) == (0, 0, 6, 0)


@pytest.mark.parametrize("sinks", [0, 1, 2])
@pytest.mark.parametrize("evicted", [0, 4])
@pytest.mark.parametrize("most", [0, 1, 2, 5, 16])
@pytest.mark.parametrize("end", [4, 8, 10])
def test_a_snapshot_shows_the_context_after_the_cache_has_moved_on(
    sinks: int, evicted: int, most: int, end: int
) -> None:
    cache = filled(10, sinks)
    cache.evict(evicted)
    if end < cache.first_token + sinks:
        return
    with cache.as_context(end, most) as wanted:
        shown = seen(cache, 11, 12)
    versions = shown[:-2]
    copy = cache.snapshot(end, most)
    assert copy.capacity == copy.length == len(versions)
    cache.evict(evicted + 3)
    with torch.no_grad():
        seen(cache, 77)
    with copy.as_context(end, most) as found:
        assert found == wanted
        assert seen(copy, 11, 12) == shown
    assert (copy.versions, copy.opening) == (versions, sinks)


def test_a_snapshot_of_a_cache_that_was_never_used() -> None:
    copy = WindowCache(1, 16).snapshot(0, 8)
    with copy.as_context(0, 8) as found:
        assert found == (0, 0)
        assert seen(copy, 5) == [5]
