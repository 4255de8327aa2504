"""Connections to Redis: few where little is asked, and more of them before they are needed."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
import redis

from sidecar.cache import redis_link, warm_lookups

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    from sidecar.cache.warm import WarmTier
    from sidecar.dev_redis import DevRedis

    OpenWarm = Callable[..., Awaitable[WarmTier]]
    Eventually = Callable[[Callable[[], object]], Awaitable[None]]

KEYS = [b"key %d" % number for number in range(100)]


class Server:
    """A Redis as it sees its clients, this one left out."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client

    def connections(self) -> int:
        return len(self._client.client_list()) - 1

    def take_no_more(self) -> None:
        self._client.config_set("maxclients", self.connections() + 1)

    def take_more(self) -> None:
        self._client.config_set("maxclients", 1000)


@pytest.fixture
def server(own_redis: DevRedis) -> Iterator[Server]:
    with redis.Redis.from_url(own_redis.url, single_connection_client=True) as client:
        yield Server(client)


@pytest.fixture
async def hold() -> AsyncIterator[Callable[[WarmTier, int], None]]:
    """Keeps so many connections of a tier in use until the test ends."""
    held: list[asyncio.Task[object]] = []

    def begin(warm: WarmTier, count: int) -> None:
        for _ in range(count):
            read = warm.run(lambda client: client.blpop([b"never"], timeout=60), 60)
            held.append(asyncio.create_task(read))

    yield begin
    for task in held:
        task.cancel()
    await asyncio.gather(*held, return_exceptions=True)


async def test_few_are_open_at_start(
    own_redis: DevRedis, server: Server, open_warm: OpenWarm
) -> None:
    await open_warm(own_redis.url)
    assert server.connections() == 6


async def test_calls_one_after_the_other_open_no_more(
    own_redis: DevRedis, server: Server, open_warm: OpenWarm
) -> None:
    warm = await open_warm(own_redis.url)
    for key in KEYS:
        warm.put(key, b"value", 0, replace=True)
        await warm.get_many([key])
        await warm.run(lambda client: client.ping())
    assert await warm.flush(20)
    assert server.connections() == 6


async def test_when_all_are_in_use_another_is_opened_for_whoever_comes_next(
    own_redis: DevRedis,
    server: Server,
    open_warm: OpenWarm,
    hold: Callable[[WarmTier, int], None],
    eventually: Eventually,
) -> None:
    warm = await open_warm(own_redis.url)
    hold(warm, 6)
    for count in range(7, 32):
        await eventually(lambda count=count: server.connections() == count)
        hold(warm, 1)
    # One operation more would have to wait.
    await eventually(lambda: server.connections() == 32)
    for _ in range(20):
        await asyncio.sleep(0)
    assert server.connections() == 32


async def test_lookups_never_wait_for_a_connection_to_be_opened(
    own_redis: DevRedis,
    server: Server,
    open_warm: OpenWarm,
    hold: Callable[[WarmTier, int], None],
    monkeypatch: pytest.MonkeyPatch,
    eventually: Eventually,
) -> None:
    """They are gathered until one is free, and none fails where Redis takes no more clients."""
    monkeypatch.setattr(redis_link, "_RETRY_SECONDS", 0.01)
    warm = await open_warm(own_redis.url)
    for key in KEYS:
        warm.put(key, b"value of " + key, 0, replace=True)
    assert await warm.flush(20)
    server.take_no_more()
    hold(warm, 5)
    lookups = []
    for key in KEYS:
        lookups.append(asyncio.create_task(warm.get_many([key])))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    assert await asyncio.gather(*lookups) == [[b"value of " + key] for key in KEYS]
    assert (warm.counters.errors, warm.state) == (0, "up")
    # And more are opened once that is possible.
    hold(warm, 1)
    server.take_more()
    await eventually(lambda: server.connections() == 7)


async def test_no_lookup_is_left_behind_when_a_flight_ends(
    own_redis: DevRedis, open_warm: OpenWarm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(warm_lookups, "MAX_FLIGHTS", 1)
    warm = await open_warm(own_redis.url)

    async def call() -> None:
        for key in KEYS:
            await warm.get_many([key])

    async with asyncio.timeout(20):
        await asyncio.gather(*(call() for _ in range(4)))
    assert warm.counters.lookups == 4 * len(KEYS)
    assert warm.counters.errors == 0


async def test_after_an_outage_few_are_open_again(
    own_redis: DevRedis,
    open_warm: OpenWarm,
    eventually: Eventually,
) -> None:
    warm = await open_warm(own_redis.url)
    await asyncio.gather(*(warm.run(lambda client: client.ping()) for _ in range(100)))
    own_redis.kill()
    while warm.state == "up":
        await warm.get_many([b"a"])
    own_redis.start()
    await eventually(lambda: warm.state == "up")
    with redis.Redis.from_url(own_redis.url, single_connection_client=True) as client:
        assert Server(client).connections() == 6
