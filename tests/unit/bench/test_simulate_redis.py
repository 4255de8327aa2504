"""The model of Redis: lifetimes, the first writer, and who goes when it is full."""

from __future__ import annotations

import math

import pytest

from bench.simulate_redis import SimulatedRedis


def test_an_entry_is_there_until_its_lifetime_ends() -> None:
    redis = SimulatedRedis(entry_bytes=100)
    redis.set_nx("a", 0.0, 10.0)
    redis.set_nx("b", 0.0, math.inf)

    assert redis.get("a", 9.9) == 10.0
    assert redis.get("a", 10.0) is None
    assert redis.get("b", 1e9) == math.inf
    assert len(redis) == 1


def test_the_first_writer_wins_until_its_entry_expires() -> None:
    redis = SimulatedRedis(entry_bytes=100)

    assert redis.set_nx("a", 0.0, 10.0)
    assert not redis.set_nx("a", 1.0, 20.0)
    assert redis.get("a", 5.0) == 10.0
    assert redis.set_nx("a", 11.0, 30.0)
    assert redis.get("a", 25.0) == 30.0


def test_without_eviction_a_full_one_takes_no_more() -> None:
    redis = SimulatedRedis(100, max_bytes=250, policy="noeviction")

    assert [redis.set_nx(key, 0.0, math.inf) for key in "abc"] == [True, True, False]
    assert len(redis) == 2


@pytest.mark.parametrize("policy", ["allkeys-lru", "allkeys-lfu"])
def test_what_is_used_again_and_again_outlives_what_came_once(policy: str) -> None:
    redis = SimulatedRedis(100, max_bytes=20_000, policy=policy)  # type: ignore[arg-type]
    used = [f"used {number}" for number in range(50)]
    now = 0.0
    for key in used:
        redis.set_nx(key, now, math.inf)
    for number in range(2_000):
        now += 1.0
        redis.set_nx(number, now, math.inf)
        redis.get(used[number % 50], now)
        redis.get(used[(number + 25) % 50], now)

    left = sum(redis.get(key, now) is not None for key in used)

    assert len(redis) == 200
    assert redis.evictions == 2_050 - 200
    assert left >= 40
