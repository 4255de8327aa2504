"""A sidecar that is cut off from Redis stops serving what it may not know to be invalid."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from embercache.v1 import common_pb2

from bench.proxy import Proxy

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from sidecar.dev_redis import DevRedis

    Sidecar = Any
    View = Callable[[DevRedis], Any]
    Start = Callable[..., Awaitable[Any]]
    Eventually = Callable[[Callable[[], object]], Awaitable[None]]

HANG_GUARD = 30.0
STALENESS = {"ttl_jitter": 0, "staleness": 1.2}
TAGGED = {"tags": ["a tag"]}
CACHED = {"mode": common_pb2.CACHE_MODE_ONLY_IF_CACHED}


@pytest.fixture
async def proxy(redis_server: DevRedis) -> AsyncIterator[Proxy]:
    """The way to the real Redis, which a test can cut."""
    async with Proxy(redis_server.socket_path) as opened:
        yield opened


@pytest.fixture
async def pair(
    start: Start, redis_server: DevRedis, proxy: Proxy, view: View, eventually: Eventually
) -> tuple[Sidecar, Sidecar]:
    """Two sidecars with "a text" in memory, with and without a tag; the second by the proxy."""
    one = await start(redis=redis_server)
    two = await start(redis=proxy, redis_timeout=0.3, cache=STALENESS)
    await one.embed("a text", **TAGGED)
    await one.embed("a text")
    await eventually(lambda: len(view(redis_server).entries()) == 2)
    for options in (TAGGED, {}):
        assert await two.tiers("a text", **options) == ["WARM"]
        assert await two.tiers("a text", **options) == ["HOT"]
    return one, two


async def cut(proxy: Proxy) -> None:
    await proxy.cut()


async def swallow(proxy: Proxy) -> None:
    proxy.swallow()


HOW = {"reset": cut, "black hole": swallow}


async def stops(sidecar: Sidecar) -> None:
    """Waits until the sidecar serves the tagged entry from no tier."""
    async with asyncio.timeout(HANG_GUARD):
        while await sidecar.tiers("a text", **CACHED, **TAGGED) != ["ERROR"]:
            await asyncio.sleep(0.02)


async def serves(sidecar: Sidecar) -> None:
    """Waits until the sidecar has the tagged entry in memory again."""
    async with asyncio.timeout(HANG_GUARD):
        while await sidecar.tiers("a text", **TAGGED) != ["HOT"]:
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("separate", HOW.values(), ids=HOW.keys())
async def test_who_was_cut_off_before_the_invalidation_stops_serving_the_entry(
    separate: Callable[[Proxy], Awaitable[None]], pair: tuple[Sidecar, Sidecar], proxy: Proxy
) -> None:
    one, two = pair
    await separate(proxy)
    await one.invalidate(**TAGGED)
    await stops(two)


@pytest.mark.parametrize("separate", HOW.values(), ids=HOW.keys())
async def test_it_stays_so_for_as_long_as_the_cut_lasts_and_no_call_fails(
    separate: Callable[[Proxy], Awaitable[None]], pair: tuple[Sidecar, Sidecar], proxy: Proxy
) -> None:
    """What has no tags goes on being served: its key holds all that it depends on."""
    one, two = pair
    await separate(proxy)
    await one.invalidate(**TAGGED)
    await stops(two)
    for _ in range(20):
        assert await two.tiers("a text", **CACHED, **TAGGED) == ["ERROR"]
        assert await two.tiers("a text", **TAGGED) == ["COMPUTED"]
        assert await two.tiers("a text") == ["HOT"]
        await asyncio.sleep(0.02)


@pytest.mark.parametrize("separate", HOW.values(), ids=HOW.keys())
async def test_who_is_cut_off_at_the_moment_of_the_invalidation_stops_serving_the_entry(
    separate: Callable[[Proxy], Awaitable[None]], pair: tuple[Sidecar, Sidecar], proxy: Proxy
) -> None:
    one, two = pair
    await asyncio.gather(one.invalidate(**TAGGED), separate(proxy))
    await stops(two)


@pytest.mark.parametrize("separate", HOW.values(), ids=HOW.keys())
async def test_when_contact_is_back_the_new_entry_is_served_and_the_old_one_never_is(
    separate: Callable[[Proxy], Awaitable[None]],
    pair: tuple[Sidecar, Sidecar],
    proxy: Proxy,
) -> None:
    one, two = pair
    await separate(proxy)
    await one.invalidate(**TAGGED)
    await stops(two)
    await proxy.restore()
    for _ in range(20):
        assert await two.tiers("a text", **CACHED, **TAGGED) == ["ERROR"]
        await asyncio.sleep(0.01)
    await serves(two)
    await one.invalidate(**TAGGED)
    await stops(two)


@pytest.mark.parametrize("separate", HOW.values(), ids=HOW.keys())
async def test_a_cut_shorter_than_the_bound_is_caught_up_on(
    separate: Callable[[Proxy], Awaitable[None]], pair: tuple[Sidecar, Sidecar], proxy: Proxy
) -> None:
    one, two = pair
    await separate(proxy)
    await one.invalidate(**TAGGED)
    await proxy.restore()
    await stops(two)
    assert await two.tiers("a text", **CACHED) == ["HOT"]


async def test_an_entry_that_nobody_invalidated_is_served_again_after_a_cut(
    pair: tuple[Sidecar, Sidecar], proxy: Proxy
) -> None:
    _, two = pair
    proxy.swallow()
    await stops(two)
    await proxy.restore()
    async with asyncio.timeout(HANG_GUARD):
        while await two.tiers("a text", **CACHED, **TAGGED) != ["HOT"]:
            await asyncio.sleep(0.02)


async def test_the_disk_of_who_is_cut_off_does_not_serve_the_entry_either(
    start: Start, redis_server: DevRedis, proxy: Proxy, tmp_path: Path
) -> None:
    one = await start(redis=redis_server)
    two = await start(redis=proxy, redis_timeout=0.3, cache=STALENESS, disk=tmp_path / "disk")
    await two.embed("a text", **TAGGED)
    await two.on_disk(1)
    await two.flush(common_pb2.TIER_HOT)
    assert await two.tiers("a text", **CACHED, **TAGGED) == ["DISK"]
    proxy.swallow()
    await one.invalidate(**TAGGED)
    await stops(two)
