"""Counting the most frequent of many keys in bounded memory."""

from __future__ import annotations

from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from sidecar.cache.heavy_hitters import HeavyHitters

streams = st.lists(
    st.tuples(st.integers(0, 30), st.integers(1, 16)), max_size=300
)  # few keys, so that they come again
capacities = st.integers(1, 20)


def size_of(key: int) -> int:
    return 100 + key


def assert_size_is_right(hitters: HeavyHitters[int]) -> None:
    assert hitters.size == sum(size_of(key) for key, _ in hitters.top(len(hitters)))


def counted(stream: list[tuple[int, int]], capacity: int) -> HeavyHitters[int]:
    hitters: HeavyHitters[int] = HeavyHitters(capacity, size_of)
    for key, weight in stream:
        hitters.add(key, weight)
        assert len(hitters) <= capacity
        assert_size_is_right(hitters)
    return hitters


def truth(stream: list[tuple[int, int]]) -> Counter[int]:
    total: Counter[int] = Counter()
    for key, weight in stream:
        total[key] += weight
    return total


@given(streams, capacities)
def test_never_keeps_more_keys_than_its_capacity(
    stream: list[tuple[int, int]], capacity: int
) -> None:
    counted(stream, capacity)  # looks after every key


@given(streams, capacities)
def test_a_count_is_never_too_large_and_too_small_by_a_bound(
    stream: list[tuple[int, int]], capacity: int
) -> None:
    hitters = counted(stream, capacity)
    found = dict(hitters.top(capacity))
    for key, times in truth(stream).items():
        assert times - 2 * hitters.total / capacity <= found.get(key, 0) <= times


@given(streams)
def test_counts_are_exact_while_there_is_room(stream: list[tuple[int, int]]) -> None:
    assert dict(counted(stream, 31).top(31)) == truth(stream)


def test_finds_the_most_frequent_keys_of_a_long_stream() -> None:
    draws = np.random.default_rng(1).zipf(1.3, 200_000).tolist()
    hitters = counted([(key, 1) for key in draws], 200)
    best = [key for key, _ in hitters.top(10)]
    assert best == [key for key, _ in Counter(draws).most_common(10)]


def test_what_comes_first_stays_first_among_equals() -> None:
    assert counted([(3, 1), (1, 1), (2, 1)], 3).top(2) == [(3, 1), (1, 1)]


def test_what_is_taken_is_forgotten() -> None:
    hitters = counted([(1, 5), (2, 3), (3, 1)], 5)
    assert hitters.take(2) == [(1, 5), (2, 3)]
    assert hitters.top(5) == [(3, 1)]
    assert hitters.total == 1
    assert_size_is_right(hitters)


def test_halving_fades_old_counts_out() -> None:
    hitters = counted([(1, 8), (2, 1)], 5)
    hitters.halve()
    assert_size_is_right(hitters)
    hitters.add(3, 5)
    assert hitters.top(5) == [(3, 5), (1, 4)]


def test_half_of_the_keys_can_be_made_to_go_before_it_is_full() -> None:
    hitters = counted([(1, 8), (2, 1), (3, 2), (4, 9)], 10)
    hitters.shrink()
    assert hitters.top(5) == [(4, 1)]
    assert_size_is_right(hitters)
