"""Popular queries: counted by each sidecar, known to all, in bounded memory."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np
import pytest
import redis

from sidecar.cache import popular as popular_module
from sidecar.cache import redis_popular
from sidecar.cache.popular import MAX_REQUEST_BYTES, PopularQueries
from sidecar.cache.redis_popular import HALF_LIFE_SECONDS, MAX_NAMESPACES, RedisPopular

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from sidecar.cache.warm import WarmTier
    from sidecar.dev_redis import DevRedis

    OpenWarm = Callable[..., Awaitable[WarmTier]]
    Eventually = Callable[[Callable[[], object]], Awaitable[None]]

PREFIX = "test"


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def alone(clock: Clock) -> PopularQueries:
    """A sidecar without Redis."""
    return PopularQueries(20, None, PREFIX, clock)


@pytest.fixture
def client(redis_server: DevRedis) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_server.url) as opened:
        yield opened


async def best(popular: PopularQueries, count: int = 10, namespace: str = "n") -> list[bytes]:
    return [query.request for query in await popular.top(namespace, count)]


def note(popular: PopularQueries, **times: int) -> None:
    for request, count in times.items():
        popular.note("embed", "n", request.encode(), count)


async def test_the_queries_asked_most_come_first(alone: PopularQueries) -> None:
    note(alone, rare=1, common=3)
    note(alone, rare=1)
    (first, second) = await alone.top("n", 5)
    assert (first.kind, first.namespace, first.request, first.count) == ("embed", "n", b"common", 3)
    assert (second.request, second.count) == (b"rare", 2)
    assert await best(alone, 1) == [b"common"]


async def test_namespaces_and_kinds_are_counted_apart(alone: PopularQueries) -> None:
    alone.note("embed", "n", b"q")
    alone.note("search", "n", b"q", 2)
    alone.note("embed", "m", b"other")
    assert [(query.kind, query.count) for query in await alone.top("n", 5)] == [
        ("search", 2),
        ("embed", 1),
    ]
    assert await best(alone, namespace="m") == [b"other"]
    assert await best(alone, namespace="never heard of") == []
    assert await alone.namespaces() == ["m", "n"]


async def test_a_large_request_is_not_tracked(alone: PopularQueries) -> None:
    alone.note("embed", "n", bytes(MAX_REQUEST_BYTES))
    alone.note("embed", "n", bytes(MAX_REQUEST_BYTES + 1), 9)
    assert await best(alone) == [bytes(MAX_REQUEST_BYTES)]


async def test_many_namespaces_do_not_drive_out_one_that_is_in_use(alone: PopularQueries) -> None:
    note(alone, q=50)
    for number in range(3 * MAX_NAMESPACES):
        alone.note("embed", f"scan {number}", b"q")
    assert len(await alone.namespaces()) == MAX_NAMESPACES
    assert await best(alone) == [b"q"]


async def test_yesterdays_queries_fade_without_redis(alone: PopularQueries, clock: Clock) -> None:
    note(alone, old=7, once=1)
    alone.note("embed", "m", b"once")
    clock.now = HALF_LIFE_SECONDS
    await alone.share()
    note(alone, new=4)
    assert await best(alone) == [b"new", b"old"]
    assert await alone.namespaces() == ["n"]


async def test_what_one_sidecar_is_asked_all_of_them_know(
    redis_server: DevRedis, open_warm: OpenWarm
) -> None:
    one, other = [PopularQueries(20, await open_warm(redis_server.url), PREFIX) for _ in range(2)]
    note(one, a=3, b=2)
    note(other, b=2, c=1)
    other.note("search", "m", b"s")
    await one.share()
    await other.share()
    for popular in (one, other):
        assert [(q.request, q.count) for q in await popular.top("n", 9)] == [
            (b"b", 4),
            (b"a", 3),
            (b"c", 1),
        ]
        assert await popular.namespaces() == ["m", "n"]
        assert [q.kind for q in await popular.top("m", 9)] == ["search"]


async def test_what_was_not_shared_yet_counts_too(
    redis_server: DevRedis, open_warm: OpenWarm
) -> None:
    popular = PopularQueries(20, await open_warm(redis_server.url), PREFIX)
    note(popular, a=3, b=2)
    await popular.share()
    note(popular, b=2, c=9)
    assert await best(popular) == [b"c", b"b", b"a"]


async def test_two_sidecars_find_what_is_popular_among_many_queries(
    redis_server: DevRedis, open_warm: OpenWarm, client: redis.Redis
) -> None:
    trackers = [PopularQueries(300, await open_warm(redis_server.url), PREFIX) for _ in range(2)]
    draws = np.random.default_rng(2).zipf(1.3, 40_000).tolist()
    for number, draw in enumerate(draws):
        trackers[number % 2].note("embed", "n", b"%d" % draw)
        if number % 5000 == 4999:
            for tracker in trackers:
                await tracker.share()
    assert client.zcard("test:{state}:popular:n") == 300
    assert client.hlen("test:{state}:popular-requests:n") <= 302
    found = await best(trackers[0], 50)
    true = [b"%d" % key for key, _ in Counter(draws).most_common(10)]
    assert found[:5] == true[:5]
    assert set(true) <= set(found)


async def test_a_request_is_sent_to_redis_once(
    redis_server: DevRedis, open_warm: OpenWarm, client: redis.Redis
) -> None:
    popular = PopularQueries(20, await open_warm(redis_server.url), PREFIX)
    request = b"x" * 4000
    for _ in range(50):
        popular.note("embed", "n", request)
        await popular.share()
    received = client.info("stats")["total_net_input_bytes"]
    popular.note("embed", "n", request)
    await popular.share()
    assert client.info("stats")["total_net_input_bytes"] - received < 3500


async def test_a_new_query_gets_a_place_when_redis_is_full(
    redis_server: DevRedis, open_warm: OpenWarm
) -> None:
    popular = PopularQueries(3, await open_warm(redis_server.url), PREFIX)
    note(popular, a=9, b=8, c=7)
    await popular.share()
    note(popular, new=2)
    await popular.share()
    # Seven of the new one's are those of the query whose place it took.
    assert {(q.request, q.count) for q in await popular.top("n", 9)} == {
        (b"a", 9),
        (b"new", 9),
        (b"b", 8),
    }


async def test_counts_in_redis_are_halved_in_time(
    redis_server: DevRedis, open_warm: OpenWarm, client: redis.Redis
) -> None:
    popular = PopularQueries(20, await open_warm(redis_server.url), PREFIX)
    note(popular, old=40)
    await popular.share()
    hash_ = "test:{state}:popular-requests:n"
    earlier = int(client.hget(hash_, "halved")) - 2 * HALF_LIFE_SECONDS - 1
    client.hset(hash_, "halved", earlier)
    note(popular, new=11)
    await popular.share()
    assert [(q.request, q.count) for q in await popular.top("n", 9)] == [
        (b"new", 11),
        (b"old", 10),
    ]
    assert int(client.hget(hash_, "halved")) == earlier + 2 * HALF_LIFE_SECONDS


async def test_nothing_of_it_stays_in_redis_for_ever(
    redis_server: DevRedis, open_warm: OpenWarm, client: redis.Redis
) -> None:
    popular = PopularQueries(20, await open_warm(redis_server.url), PREFIX)
    note(popular, a=1)
    await popular.share()
    keys = client.keys("*")
    assert len(keys) == 4
    assert all(0 < client.ttl(key) <= 7 * 86400 for key in keys)


async def test_redis_keeps_no_more_than_so_many_namespaces(
    redis_server: DevRedis, open_warm: OpenWarm, client: redis.Redis
) -> None:
    warm = await open_warm(redis_server.url)
    for part in range(2):
        popular = PopularQueries(20, warm, PREFIX)
        for number in range(60):
            popular.note("embed", f"{part}-{number}", b"q")
        await popular.share()
    assert client.zcard("test:{state}:popular-namespaces") == MAX_NAMESPACES
    assert client.hlen("test:{state}:popular-sizes") == MAX_NAMESPACES
    # Two of each, and two of all: the texts of users do not stay behind.
    assert len(client.keys("*")) == 2 * MAX_NAMESPACES + 2
    assert client.exists("test:{state}:popular-requests:1-0")


async def test_a_namespace_that_came_back_while_its_keys_were_to_go_keeps_them(
    redis_server: DevRedis, open_warm: OpenWarm, client: redis.Redis
) -> None:
    shared = RedisPopular(await open_warm(redis_server.url), PREFIX, 20)
    await shared.add("n", [(("embed", b"q"), 3)])
    await shared._drop(b"n")
    assert await shared.top("n", 5) == {("embed", b"q"): 3}


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> int:
    """All queries together may have this many bytes."""
    most = 400_000
    monkeypatch.setattr(redis_popular, "MAX_BYTES", most)
    monkeypatch.setattr(popular_module, "MAX_BYTES", most)
    return most


async def test_the_queries_of_all_namespaces_in_redis_are_bounded_in_bytes(
    small: int, redis_server: DevRedis, open_warm: OpenWarm, client: redis.Redis
) -> None:
    popular = PopularQueries(1000, await open_warm(redis_server.url), PREFIX)
    for turn in range(20):
        for number in range(10):
            popular.note("embed", f"n{turn % 5}", b"%d-%d" % (turn, number) + bytes(4000), 5)
        note(popular, common=5)
        await popular.share()
    stored = sum(
        len(value)
        for key in client.keys("*popular-requests:*")
        for value in client.hvals(key)
        if len(value) > 100
    )
    # Half of the bound, for the last half belongs to namespaces that have little.
    assert small / 4 < stored <= small
    assert sum(map(int, client.hvals("test:{state}:popular-sizes"))) <= small
    assert (await best(popular, 1)) == [b"common"]


async def test_of_a_namespace_that_is_too_large_the_queries_asked_least_go(
    small: int, redis_server: DevRedis, open_warm: OpenWarm
) -> None:
    popular = PopularQueries(1000, await open_warm(redis_server.url), PREFIX)
    for number in range(80):
        popular.note("embed", "n", b"%02d" % number + bytes(4000), 1 + number)
        if number % 20 == 19:
            await popular.share()
    found = [int(request[:2]) for request in await best(popular, 100)]
    assert 40 <= len(found) < 50
    assert found[:5] == [79, 78, 77, 76, 75]


async def test_sizes_stay_right_when_redis_forgets_some_of_it(
    redis_server: DevRedis, open_warm: OpenWarm, client: redis.Redis
) -> None:
    popular = PopularQueries(2, await open_warm(redis_server.url), PREFIX)

    async def size() -> int:
        note(popular, a=3, b=2, c=1)
        await popular.share()
        return int(client.hget("test:{state}:popular-sizes", "n"))

    expected = await size()
    for key in client.keys("*"):
        client.delete(key)
        assert await size() == expected


async def test_what_waits_in_a_sidecar_is_bounded_in_bytes(
    small: int,
) -> None:
    popular = PopularQueries(1000, None, PREFIX)
    for number in range(500):
        popular.note("embed", f"n{number % 3}", b"%d" % number + bytes(4000))
        note(popular, common=1)
    found = [query for n in range(3) for query in await popular.top(f"n{n}", 1000)]
    assert 0 < sum(len(query.request) for query in found) <= small
    assert await best(popular) == [b"common"]


async def test_counts_wait_while_redis_is_down(
    own_redis: DevRedis, open_warm: OpenWarm, eventually: Eventually
) -> None:
    warm = await open_warm(own_redis.url)
    popular = PopularQueries(20, warm, PREFIX)
    note(popular, a=2)
    await popular.share()
    own_redis.kill()
    note(popular, b=1, c=3)
    await popular.share()
    assert (await best(popular))[:1] == [b"c"]
    own_redis.start()
    await eventually(lambda: warm.state == "up")
    await popular.share()
    fresh = PopularQueries(20, warm, PREFIX)
    assert [(q.request, q.count) for q in await fresh.top("n", 9)] == [(b"c", 3), (b"b", 1)]


async def test_what_waits_is_bounded(own_redis: DevRedis, open_warm: OpenWarm) -> None:
    popular = PopularQueries(20, await open_warm(own_redis.url), PREFIX)
    own_redis.kill()
    for number in range(500):
        popular.note("embed", "n", b"%d" % number)
        popular.note("embed", "n", b"again")
        if number % 100 == 0:
            await popular.share()
    assert len(await popular.top("n", 1000)) <= 20
    assert (await best(popular))[0] == b"again"
