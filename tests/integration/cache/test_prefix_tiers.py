"""Blocks of prompts in a real Redis and on a real disk, shared by sidecars."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from bench.proxy import Proxy
from sidecar.cache.disk import DiskTier
from sidecar.cache.disk_store import MIN_BYTES
from sidecar.cache.prefix_tiers import QUEUE_SHARE, DiskBlocks, WarmBlocks
from sidecar.cache.redis_connect import connect
from sidecar.models.prefix_bandwidth import RETRY_SECONDS
from sidecar.models.prefix_codec import stored_name
from sidecar.models.prefix_store import BlockLayout
from sidecar.models.prefixes import Prefixes

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
    from pathlib import Path

    from sidecar.cache.warm import WarmTier
    from sidecar.dev_redis import DevRedis
    from sidecar.models.generation import PrefixTier
    from sidecar.models.prefix_loads import LowerBlocks
    from sidecar.models.prefix_store import Block

    OpenWarm = Callable[..., Awaitable[WarmTier]]
    OpenDisk = Callable[..., Awaitable[DiskTier]]
    Eventually = Callable[[Callable[[], object]], Awaitable[None]]

KEYS = [b"block %d" % number for number in range(20)]
SHAPE = (60, 3, 16, 8)
LAYOUT = BlockLayout(SHAPE, np.dtype(np.float32))
BLOCK_BYTES = LAYOUT.n_bytes


class Clock:
    """Real time, of which some can be skipped."""

    def __init__(self) -> None:
        self.skipped = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.skipped


@pytest.fixture
async def open_disk(tmp_path: Path) -> AsyncIterator[OpenDisk]:
    tiers: list[DiskTier] = []

    async def open_tier(kind: type[DiskTier] = DiskTier) -> DiskTier:
        tier = kind(tmp_path / "disk", 2 * MIN_BYTES, timeout=20)
        tiers.append(tier)
        await tier.start()
        return tier

    yield open_tier
    for tier in tiers:
        await tier.close()


def over(
    *tiers: tuple[PrefixTier, LowerBlocks], clock: Callable[[], float] = time.monotonic
) -> Prefixes:
    return Prefixes(2**30, tiers, ttl=3600.0, clock=clock)


def blocks(dtype: type = np.float32) -> list[Block]:
    rng = np.random.default_rng(0)
    return [rng.standard_normal(SHAPE).astype(dtype) for _ in KEYS]


async def share(prefixes: Prefixes, values: Sequence[Block], tier: WarmTier | DiskTier) -> None:
    prefixes.keep(KEYS, 0, values)
    assert await prefixes.flush(20)
    assert await tier.flush(20)


async def taken(prefixes: Prefixes, compute_seconds: float = 0.0) -> tuple[int, float]:
    """How many blocks were taken, and for how long they were loaded."""
    with await prefixes.take(KEYS, LAYOUT, compute_seconds) as lease:
        return len(lease.blocks), lease.seconds


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
async def test_blocks_of_one_sidecar_are_read_by_another_bit_by_bit_from_redis(
    redis_server: DevRedis, open_warm: OpenWarm, dtype: type
) -> None:
    values = blocks(dtype)
    one, other = await open_warm(redis_server.url), await open_warm(redis_server.url)
    await share(over(("warm", WarmBlocks(one))), values, one)
    layout = BlockLayout(SHAPE, np.dtype(dtype))
    with await over(("warm", WarmBlocks(other))).take(KEYS, layout, 0) as lease:
        assert lease.reused == {"warm": len(KEYS)}
        assert [found.tobytes() for found in lease.blocks] == [each.tobytes() for each in values]
        assert {found.dtype for found in lease.blocks} == {np.dtype(dtype)}


async def test_blocks_are_read_bit_by_bit_from_disk_after_a_restart(open_disk: OpenDisk) -> None:
    values = blocks()
    disk = await open_disk()
    await share(over(("disk", DiskBlocks(disk))), values, disk)
    await disk.close()
    prefixes = over(("disk", DiskBlocks(await open_disk())))
    with await prefixes.take(KEYS, LAYOUT, 0) as lease:
        assert lease.reused == {"disk": len(KEYS)}
        assert [found.tobytes() for found in lease.blocks] == [each.tobytes() for each in values]


async def test_blocks_that_came_from_redis_are_on_disk_then(
    redis_server: DevRedis, open_warm: OpenWarm, open_disk: OpenDisk
) -> None:
    warm, disk = await open_warm(redis_server.url), await open_disk()
    await share(over(("warm", WarmBlocks(warm))), blocks(), warm)
    prefixes = over(("disk", DiskBlocks(disk)), ("warm", WarmBlocks(warm)))
    assert (await taken(prefixes))[0] == len(KEYS)
    assert await prefixes.flush(20)
    assert await disk.flush(20)
    assert (await taken(over(("disk", DiskBlocks(disk)))))[0] == len(KEYS)


async def test_blocks_in_redis_have_their_lifetime(
    redis_server: DevRedis, open_warm: OpenWarm
) -> None:
    warm = await open_warm(redis_server.url)
    await share(over(("warm", WarmBlocks(warm))), blocks(), warm)
    client = connect(redis_server.url, connect_timeout=5)
    left = await client.pttl(stored_name(KEYS[0], "exact"))
    await client.aclose()
    assert 0 < left <= 3_600_000


async def test_a_corrupt_value_is_a_miss_and_is_gone_then(
    redis_server: DevRedis, open_warm: OpenWarm
) -> None:
    warm = await open_warm(redis_server.url)
    await share(over(("warm", WarmBlocks(warm))), blocks(), warm)
    client = connect(redis_server.url, connect_timeout=5)
    name = stored_name(KEYS[7], "exact")
    await client.setrange(name, 5000, b"else")
    assert (await taken(over(("warm", WarmBlocks(warm)))))[0] == 7
    assert await warm.flush(20)
    assert not await client.exists(name)
    await client.aclose()


async def test_a_value_of_another_type_is_a_miss(
    redis_server: DevRedis, open_warm: OpenWarm
) -> None:
    warm = await open_warm(redis_server.url)
    client = connect(redis_server.url, connect_timeout=5)
    await client.lpush(stored_name(KEYS[0], "exact"), "not a block")
    assert (await taken(over(("warm", WarmBlocks(warm)))))[0] == 0
    await client.aclose()


async def test_a_redis_that_is_down_has_no_blocks_and_takes_none(
    own_redis: DevRedis, open_warm: OpenWarm, eventually: Eventually
) -> None:
    warm = await open_warm(own_redis.url)
    own_redis.kill()
    prefixes = over(("warm", WarmBlocks(warm)))
    for _ in range(5):
        assert (await taken(prefixes))[0] == 0
    await eventually(lambda: warm.state == "down")
    await share(prefixes, blocks(), warm)
    assert (await taken(prefixes))[0] == len(KEYS)


async def test_loads_that_are_given_up_do_not_make_others_believe_that_redis_is_down(
    redis_server: DevRedis, open_warm: OpenWarm
) -> None:
    async with Proxy(redis_server.socket_path) as proxy:
        warm = await open_warm(proxy.url)
        proxy.swallow()
        tier = WarmBlocks(warm)
        for _ in range(10):
            assert await tier.get_many(KEYS, 0.01) == [None] * len(KEYS)
        assert warm.state == "up"
        await warm.close()


async def test_blocks_for_a_redis_that_is_down_are_refused_and_so_offered_again(
    own_redis: DevRedis, open_warm: OpenWarm, eventually: Eventually
) -> None:
    warm = await open_warm(own_redis.url)
    assert await WarmBlocks(warm).put(b"one", b"value", 0)
    own_redis.kill()
    for _ in range(5):
        await warm.get_many([b"key"])
    await eventually(lambda: warm.state == "down")
    assert not await WarmBlocks(warm).put(b"other", b"value", 0)


async def test_loads_leave_connections_to_redis_for_lookups(
    redis_server: DevRedis, open_warm: OpenWarm, monkeypatch: pytest.MonkeyPatch
) -> None:
    warm = await open_warm(redis_server.url)
    run, at_work, most = warm.run, 0, 0

    async def counted(*args: Any) -> Any:
        nonlocal at_work, most
        at_work += 1
        most = max(most, at_work)
        try:
            return await run(*args)
        finally:
            at_work -= 1

    monkeypatch.setattr(warm, "run", counted)
    tier = WarmBlocks(warm)
    await asyncio.gather(*(tier.get_many(KEYS, 20) for _ in range(8)))
    assert most == 2


async def test_a_redis_that_became_slow_is_left_alone_and_is_found_again_when_it_is_fast(
    redis_server: DevRedis, open_warm: OpenWarm, eventually: Eventually
) -> None:
    clock = Clock()
    async with Proxy(redis_server.socket_path) as proxy:
        warm = await open_warm(proxy.url)
        prefixes = over(("warm", WarmBlocks(warm)), clock=clock)
        await share(prefixes, blocks(), warm)
        prefixes.clear()
        proxy.swallow()
        assert (await taken(prefixes, compute_seconds=0.01))[0] == 0
        assert prefixes.report(16).bandwidths == {"warm": 0.0}
        assert (await taken(prefixes, compute_seconds=0.01))[0] == 0
        assert prefixes.report(16).not_worth_loading == 2
        await proxy.restore()
        # Whatever was connected has to notice first.
        await warm.get_many([b"key"])
        await eventually(lambda: warm.state == "up")
        clock.skipped += RETRY_SECONDS
        assert (await taken(prefixes, compute_seconds=10.0))[0] == len(KEYS)
        assert prefixes.report(16).bandwidths["warm"] > 0
        await warm.close()


async def test_blocks_leave_room_in_the_queue_for_other_writes(
    own_redis: DevRedis, open_warm: OpenWarm
) -> None:
    warm = await open_warm(own_redis.url, queue_bytes=1024 * 1024)
    own_redis.freeze()
    prefixes = over(("warm", WarmBlocks(warm)))
    prefixes.keep(KEYS, 0, blocks())
    assert await prefixes.flush(20)
    assert QUEUE_SHARE < warm.queue_fullness < QUEUE_SHARE + 0.1 + BLOCK_BYTES / 2**20
    warm.put(b"key", b"value", 0, replace=False)
    assert warm.counters.writes_dropped == 0
    own_redis.thaw()
    assert await warm.flush(20)
    assert await warm.get_many([b"key"]) == [b"value"]


@pytest.mark.parametrize("name", ["disk", "warm"])
async def test_more_blocks_than_the_queue_takes_at_once_are_written_one_after_the_other(
    redis_server: DevRedis, open_warm: OpenWarm, open_disk: OpenDisk, name: PrefixTier
) -> None:
    tier: LowerBlocks
    if name == "warm":
        tier = WarmBlocks(await open_warm(redis_server.url, queue_bytes=1024 * 1024))
    else:
        tier = DiskBlocks(await open_disk())
    values = [b"%d" % number * 300_000 for number in range(10)] * 6
    names = [b"value %d" % number for number in range(60)]
    for key, value in zip(names, values, strict=True):
        assert await tier.put(key, value, 0)
    # The last ones may still be on their way.
    assert await tier.get_many(names[:50], 20) == values[:50]


async def test_after_a_block_that_is_missing_nothing_is_looked_up(
    redis_server: DevRedis, open_warm: OpenWarm
) -> None:
    warm = await open_warm(redis_server.url)
    names = [b"%d" % number for number in range(20)]
    for name in names:
        if name != b"5":
            warm.put(name, name, 0, replace=False)
    assert await warm.flush(20)
    found = await WarmBlocks(warm).get_many(names, 20)
    assert found[:6] == [*names[:5], None]
    assert found[8:] == [None] * 12


class Stuck(DiskTier):
    """A disk that never answers for one of the names."""

    async def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        if b"9" in keys:
            await asyncio.Event().wait()
        return await super().get_many(keys)


async def test_what_came_before_time_ran_out_is_found(open_disk: OpenDisk) -> None:
    disk = await open_disk(Stuck)
    names = [b"%d" % number for number in range(20)]
    for name in names:
        disk.put(name, name, 0, replace=False)
    assert await disk.flush(20)
    assert await DiskBlocks(disk).get_many(names, 0.5) == [*names[:8], *[None] * 12]
