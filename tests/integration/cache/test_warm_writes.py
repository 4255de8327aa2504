"""Writes to a real Redis: first writer wins, in order, bounded, and never in anybody's way."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import pytest
import structlog

from sidecar.cache.warm import WarmUnavailableError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from sidecar.cache.warm import WarmTier
    from sidecar.dev_redis import DevRedis

    OpenWarm = Callable[..., Awaitable[WarmTier]]


@pytest.fixture
async def warm(redis_server: DevRedis, open_warm: OpenWarm) -> WarmTier:
    return await open_warm(redis_server.url)


def in_ms(milliseconds: int) -> int:
    return int(time.time() * 1000) + milliseconds


async def test_the_first_writer_wins(warm: WarmTier) -> None:
    warm.put(b"k", b"first", 0, replace=False)
    warm.put(b"k", b"second", 0, replace=False)
    assert await warm.flush(10)
    warm.put(b"k", b"third", 0, replace=False)
    assert await warm.flush(10)
    assert await warm.get_many([b"k"]) == [b"first"]


async def test_the_first_writer_wins_across_sidecars(
    redis_server: DevRedis, open_warm: OpenWarm
) -> None:
    one, two = await open_warm(redis_server.url), await open_warm(redis_server.url)
    one.put(b"k", b"one", 0, replace=False)
    assert await one.flush(10)
    two.put(b"k", b"two", 0, replace=False)
    assert await two.flush(10)
    assert await one.get_many([b"k"]) == await two.get_many([b"k"]) == [b"one"]


async def test_replacing_replaces_the_value_and_its_lifetime(warm: WarmTier) -> None:
    warm.put(b"k", b"first", in_ms(60_000), replace=False)
    warm.put(b"k", b"second", 0, replace=True)
    assert await warm.flush(10)
    assert await warm.get_many([b"k"]) == [b"second"]
    assert await warm.run(lambda redis: redis.pttl(b"k")) == -1


async def test_an_entry_expires_when_it_should(warm: WarmTier) -> None:
    warm.put(b"timed", b"x", in_ms(60_000), replace=False)
    warm.put(b"for ever", b"x", 0, replace=False)
    assert await warm.flush(10)
    assert 50_000 < await warm.run(lambda redis: redis.pttl(b"timed")) <= 60_000
    assert await warm.run(lambda redis: redis.pttl(b"for ever")) == -1


async def test_an_entry_that_expired_in_the_queue_still_replaces_the_one_before(
    warm: WarmTier,
) -> None:
    warm.put(b"k", b"old", 0, replace=False)
    warm.put(b"k", b"new", in_ms(-1000), replace=True)
    assert await warm.flush(10)
    # Gone, or about to be; the one before would live for ever (-1).
    assert await warm.run(lambda redis: redis.pttl(b"k")) in (-2, 0, 1)


async def test_puts_and_deletes_of_a_key_take_effect_in_order(warm: WarmTier) -> None:
    for turn in range(100):
        warm.put(b"stays", b"%d" % turn, 0, replace=False)
        warm.put(b"goes", b"%d" % turn, 0, replace=False)
        if turn < 99:
            warm.delete([b"stays", b"goes"])
    warm.delete([b"goes"])
    assert await warm.flush(10)
    assert await warm.get_many([b"stays", b"goes"]) == [b"99", None]


async def test_what_gathered_is_written_in_few_round_trips(
    own_redis: DevRedis, open_warm: OpenWarm
) -> None:
    warm = await open_warm(own_redis.url)

    async def reads() -> int:
        stats: dict[str, Any] = await warm.run(lambda redis: redis.info("stats"))
        return int(stats["total_reads_processed"])

    before = await reads()
    for turn in range(64):
        warm.put(b"%d" % turn, b"x", 0, replace=False)
    assert await warm.flush(10)
    assert warm.counters.writes == 64
    # The INFO itself is the second.
    assert await reads() - before == 2


async def test_putting_neither_waits_nor_sends(warm: WarmTier) -> None:
    warm.put(b"k", b"x", 0, replace=False)
    assert warm.counters.writes == 0
    assert await warm.flush(10)
    assert warm.counters.writes == 1


async def test_what_does_not_fit_the_queue_is_dropped_and_counted(
    own_redis: DevRedis, open_warm: OpenWarm
) -> None:
    warm = await open_warm(own_redis.url, queue_bytes=100_000)
    for turn in range(200):
        warm.put(b"%03d" % turn, b"x" * 1000, 0, replace=False)
    assert await warm.flush(10)
    counters = warm.counters
    assert 0 < counters.writes < 100
    assert counters.writes + counters.writes_dropped == 200
    stored = await warm.get_many([b"%03d" % turn for turn in range(200)])
    assert sum(value is not None for value in stored) == counters.writes
    # What was written made room.
    warm.put(b"later", b"x" * 1000, 0, replace=False)
    assert await warm.flush(10)
    assert await warm.get_many([b"later"]) == [b"x" * 1000]


async def test_a_value_larger_than_the_queue_is_dropped(
    own_redis: DevRedis, open_warm: OpenWarm
) -> None:
    warm = await open_warm(own_redis.url, queue_bytes=10_000)
    warm.put(b"k", b"x" * 10_000, 0, replace=False)
    assert warm.counters.writes_dropped == 1
    assert await warm.flush(0)


async def test_flushing_says_when_something_is_left(
    own_redis: DevRedis, open_warm: OpenWarm
) -> None:
    warm = await open_warm(own_redis.url)
    own_redis.freeze()
    warm.put(b"k", b"x", 0, replace=False)
    assert not await warm.flush(0.01)
    own_redis.thaw()
    assert await warm.flush(20)
    assert await warm.get_many([b"k"]) == [b"x"]


async def test_a_redis_that_is_full_refuses_writes_and_still_answers_lookups(
    own_redis: DevRedis, open_warm: OpenWarm
) -> None:
    warm = await open_warm(own_redis.url)
    warm.put(b"before", b"x", 0, replace=False)
    assert await warm.flush(10)
    with structlog.testing.capture_logs() as logs:
        await warm.run(lambda redis: redis.config_set("maxmemory", "1"))
        for turn in range(20):
            warm.put(b"%d" % turn, b"x", 0, replace=False)
            assert await warm.flush(10)
        assert warm.counters.writes_dropped == 20
        assert await warm.get_many([b"before"]) == [b"x"]
        assert warm.state == "up"
        await warm.run(lambda redis: redis.config_set("maxmemory", "0"))
        warm.put(b"after", b"x", 0, replace=False)
        assert await warm.flush(10)
    assert await warm.get_many([b"after"]) == [b"x"]
    events = [log["event"] for log in logs]
    assert events == ["Redis refuses writes", "Redis takes writes again"]


async def test_removing_and_waiting_comes_after_the_puts_that_were_queued(warm: WarmTier) -> None:
    for turn in range(300):
        warm.put(b"%d" % turn, b"x" * 1000, 0, replace=False)
    await warm.delete_many([b"%d" % turn for turn in range(300)])
    assert await warm.run(lambda redis: redis.dbsize()) == 0


async def test_removing_nothing_or_what_is_not_there_is_fine(warm: WarmTier) -> None:
    await warm.delete_many([])
    await warm.delete_many([b"missing"])


async def test_removing_has_room_where_puts_have_none(
    own_redis: DevRedis, open_warm: OpenWarm
) -> None:
    warm = await open_warm(own_redis.url, queue_bytes=1000)
    warm.put(b"k", b"x" * 700, 0, replace=False)
    await warm.delete_many([b"k"] + [b"%d" % turn for turn in range(100)])
    assert await warm.get_many([b"k"]) == [None]


async def test_removing_fails_loudly_when_redis_is_down(
    own_redis: DevRedis, open_warm: OpenWarm
) -> None:
    warm = await open_warm(own_redis.url)
    own_redis.kill()
    for _ in range(10):
        with pytest.raises(WarmUnavailableError):
            await warm.delete_many([b"a", b"b"])
    assert warm.state == "down"


async def test_removing_fails_loudly_when_redis_refuses(
    own_redis: DevRedis, open_warm: OpenWarm
) -> None:
    warm = await open_warm(own_redis.url)
    await warm.run(lambda redis: redis.acl_setuser("default", commands=["-del"]))
    with pytest.raises(WarmUnavailableError, match="repeat"):
        await warm.delete_many([b"a"])


async def test_closing_drops_what_is_queued_and_counts_it(
    own_redis: DevRedis, open_warm: OpenWarm
) -> None:
    warm = await open_warm(own_redis.url)
    own_redis.freeze()
    for turn in range(100):
        warm.put(b"%d" % turn, b"x", 0, replace=False)
    async with asyncio.timeout(20):
        await warm.close()
    assert warm.counters.writes_dropped == 100


async def test_what_was_removed_elsewhere_is_removed_behind_what_is_queued_here(
    open_warm: OpenWarm, redis_server: DevRedis
) -> None:
    warm = await open_warm(redis_server.url)
    warm.put(b"key", b"old", 0, replace=False)
    warm.withdraw([b"key"])
    assert await warm.flush(5)
    assert await warm.get_many([b"key"]) == [None]


async def test_where_nothing_is_queued_what_was_removed_elsewhere_may_be_new_again(
    open_warm: OpenWarm, redis_server: DevRedis
) -> None:
    warm = await open_warm(redis_server.url)
    warm.put(b"key", b"new", 0, replace=False)
    assert await warm.flush(5)
    warm.withdraw([b"key"])
    assert await warm.flush(5)
    assert await warm.get_many([b"key"]) == [b"new"]
