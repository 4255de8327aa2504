"""Lookups in a real Redis: right values, few round trips, and callers that go away."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sidecar.cache.warm_lookups import MAX_FLIGHTS

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from sidecar.cache.warm import WarmTier
    from sidecar.dev_redis import DevRedis


@pytest.fixture
async def warm(redis_server: DevRedis, open_warm: Callable[..., Awaitable[WarmTier]]) -> WarmTier:
    return await open_warm(redis_server.url)


def value_of(key: bytes) -> bytes:
    return b"value of " + key + b"." * 3000


async def store(warm: WarmTier, keys: list[bytes]) -> None:
    for key in keys:
        warm.put(key, value_of(key), 0, replace=True)
    assert await warm.flush(10)


async def calls(warm: WarmTier, command: str) -> int:
    stats: dict[str, Any] = await warm.run(lambda redis: redis.info("commandstats"))
    return int(stats.get(f"cmdstat_{command}", {"calls": 0})["calls"])


async def test_values_come_in_the_order_of_the_keys_with_none_for_a_miss(warm: WarmTier) -> None:
    await store(warm, [b"a", b"b"])
    got = await warm.get_many([b"b", b"missing", b"a", b"b"])
    assert got == [value_of(b"b"), None, value_of(b"a"), value_of(b"b")]


async def test_no_keys_no_values(warm: WarmTier) -> None:
    assert await warm.get_many([]) == []
    assert warm.counters.lookups == 0


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
@given(entries=st.dictionaries(st.binary(min_size=1), st.binary(), max_size=20))
async def test_any_bytes_are_a_key_and_any_bytes_a_value(
    entries: dict[bytes, bytes], warm: WarmTier
) -> None:
    for key, value in entries.items():
        warm.put(key, value, 0, replace=True)
    assert await warm.flush(10)
    assert await warm.get_many(list(entries)) == list(entries.values())


async def test_one_call_is_one_round_trip(warm: WarmTier) -> None:
    keys = [b"key %d" % i for i in range(100)]
    await store(warm, keys)
    assert await warm.get_many(keys) == [value_of(key) for key in keys]
    assert await calls(warm, "mget") == 1
    assert await calls(warm, "get") == 0


async def test_calls_made_at_the_same_time_share_a_round_trip(warm: WarmTier) -> None:
    keys = [b"key %d" % i for i in range(60)]
    await store(warm, keys)
    got = await asyncio.gather(*(warm.get_many(keys[i : i + 2]) for i in range(0, 60, 2)))
    assert [value for values in got for value in values] == [value_of(key) for key in keys]
    assert await calls(warm, "mget") == 1


async def test_calls_made_while_all_connections_wait_are_gathered(
    own_redis: DevRedis, open_warm: Callable[..., Awaitable[WarmTier]]
) -> None:
    warm = await open_warm(own_redis.url, timeout=60)
    keys = [b"key %d" % i for i in range(400)]
    await store(warm, keys)
    # So that there are connections enough for all flights.
    wait = [warm.run(lambda redis: redis.blpop([b"never"], timeout=0.2)) for _ in range(9)]
    await asyncio.gather(*wait)
    own_redis.freeze()
    waiting = []
    for key in keys:
        waiting.append(asyncio.create_task(warm.get_many([key])))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    own_redis.thaw()
    assert await asyncio.gather(*waiting) == [[value_of(key)] for key in keys]
    assert await calls(warm, "mget") == MAX_FLIGHTS + 1


async def test_a_call_may_have_more_keys_than_are_gathered_at_most(warm: WarmTier) -> None:
    keys = [b"key %d" % i for i in range(2000)]
    await store(warm, keys[::7])
    stored = set(keys[::7])
    small, large = await asyncio.gather(warm.get_many([keys[7]]), warm.get_many(keys))
    assert small == [value_of(keys[7])]
    assert large == [value_of(key) if key in stored else None for key in keys]


async def test_a_large_call_is_made_in_chunks(warm: WarmTier) -> None:
    await warm.get_many([b"key %d" % i for i in range(1500)])
    assert await calls(warm, "mget") == 3


async def test_large_values_come_back_whole(warm: WarmTier) -> None:
    value = random.Random(1).randbytes(5_000_000)
    warm.put(b"large", value, 0, replace=True)
    assert await warm.flush(20)
    assert await warm.get_many([b"large"]) == [value]


async def test_counts_hits_and_misses_and_no_errors(warm: WarmTier) -> None:
    await store(warm, [b"a", b"b"])
    await warm.get_many([b"a", b"b", b"c"])
    await warm.get_many([b"d"])
    counters = warm.counters
    assert (counters.lookups, counters.found) == (4, 2)
    assert (counters.errors, counters.skipped) == (0, 0)
    assert warm.state == "up"


async def test_a_key_that_holds_no_string_is_a_miss(warm: WarmTier) -> None:
    await warm.run(lambda redis: redis.rpush(b"list", b"x"))
    assert await warm.get_many([b"list"]) == [None]
    assert warm.counters.errors == 0


async def test_lookups_that_were_cancelled_leave_no_reply_to_others(warm: WarmTier) -> None:
    rng = random.Random(7)
    keys = [b"key %d" % i for i in range(50)]
    await store(warm, keys)
    for _ in range(400):
        doomed = [asyncio.create_task(warm.get_many([rng.choice(keys)])) for _ in range(3)]
        for _ in range(rng.randrange(12)):
            await asyncio.sleep(0)
        for task in doomed:
            task.cancel()
        asked = rng.sample(keys, 2)
        assert await warm.get_many(asked) == [value_of(key) for key in asked]
        await asyncio.gather(*doomed, return_exceptions=True)


async def test_lookups_that_were_cancelled_cost_no_connection(warm: WarmTier) -> None:
    async def connections_made() -> int:
        stats: dict[str, Any] = await warm.run(lambda redis: redis.info("stats"))
        return int(stats["total_connections_received"])

    await store(warm, [b"a"])
    before = await connections_made()
    for turns in range(200):
        task = asyncio.create_task(warm.get_many([b"a"]))
        for _ in range(turns % 10):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    # Some are opened ahead, but none in the place of another.
    assert await connections_made() <= before + MAX_FLIGHTS


async def test_a_cancelled_lookup_does_not_cancel_those_it_travels_with(warm: WarmTier) -> None:
    await store(warm, [b"a", b"b"])
    doomed = asyncio.create_task(warm.get_many([b"a"]))
    other = asyncio.create_task(warm.get_many([b"b"]))
    await asyncio.sleep(0)
    doomed.cancel()
    assert await other == [value_of(b"b")]
    assert doomed.cancelled()
    assert await calls(warm, "mget") == 1


async def test_a_lookup_cancelled_on_its_way_does_not_shift_the_values_of_the_others(
    own_redis: DevRedis, open_warm: Callable[..., Awaitable[WarmTier]]
) -> None:
    warm = await open_warm(own_redis.url, timeout=60)
    keys = [b"a", b"b", b"c", b"d"]
    await store(warm, keys)
    own_redis.freeze()
    first, doomed, last = (
        asyncio.create_task(warm.get_many(part)) for part in ([b"a"], [b"b", b"c"], [b"d"])
    )
    for _ in range(20):
        await asyncio.sleep(0)
    doomed.cancel()
    own_redis.thaw()
    assert await first == [value_of(b"a")]
    assert await last == [value_of(b"d")]
    assert (warm.counters.lookups, warm.counters.found) == (2, 2)


async def test_operations_of_others_that_were_cancelled_leave_no_reply_behind(
    warm: WarmTier,
) -> None:
    rng = random.Random(8)
    keys = [b"key %d" % i for i in range(50)]
    await store(warm, keys)
    for _ in range(300):
        doomed = asyncio.create_task(warm.run(lambda redis: redis.get(keys[0])))
        for _ in range(rng.randrange(12)):
            await asyncio.sleep(0)
        doomed.cancel()
        key = rng.choice(keys)
        assert await warm.run(lambda redis, key=key: redis.get(key)) == value_of(key)
        await asyncio.gather(doomed, return_exceptions=True)
    assert warm.state == "up"


async def test_very_many_operations_at_once_share_some_connections(
    own_redis: DevRedis, open_warm: Callable[..., Awaitable[WarmTier]]
) -> None:
    warm = await open_warm(own_redis.url)
    await store(warm, [b"a"])
    got = await asyncio.gather(
        *(warm.run(lambda redis: redis.get(b"a")) for _ in range(500)),
        *(warm.get_many([b"a"]) for _ in range(500)),
    )
    assert got == [value_of(b"a")] * 500 + [[value_of(b"a")]] * 500
    assert len(await warm.run(lambda redis: redis.client_list())) <= 32
    assert warm.counters.errors == 0


async def test_closing_ends_lookups_that_wait(
    own_redis: DevRedis, open_warm: Callable[..., Awaitable[WarmTier]]
) -> None:
    warm = await open_warm(own_redis.url, timeout=60)
    own_redis.freeze()
    waiting = asyncio.create_task(warm.get_many([b"a"]))
    await asyncio.sleep(0)
    async with asyncio.timeout(20):
        await warm.close()
        assert await waiting == [None]
