"""Warm, over real gRPC and with real models."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from embercache.v1 import cache_pb2

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from sidecar.dev_redis import DevRedis

    HeldModel = Any
    Sidecar = Any
    Start = Callable[..., Awaitable[Any]]

HANG_GUARD = 30.0


async def warm(client: Sidecar, **fields: Any) -> tuple[int, int, int, int]:
    """Total, cached, computed and failed, at the end."""
    call = client.caches.Warm(cache_pb2.WarmRequest(**fields), timeout=HANG_GUARD)
    last = [message async for message in call][-1]
    return last.total, last.cached, last.computed, last.failed


async def test_what_was_warmed_is_answered_from_memory(start: Start) -> None:
    client = await start()
    texts = [f"text {number}" for number in range(150)]
    assert await warm(client, embed=client.request(*texts)) == (150, 0, 150, 0)
    assert set(await client.tiers(*texts)) == {"HOT"}
    assert await warm(client, embed=client.request(*texts)) == (150, 150, 0, 0)


async def test_what_one_sidecar_warms_all_have(start: Start, redis_server: DevRedis) -> None:
    one, other = [await start(redis=redis_server) for _ in range(2)]
    await warm(one, embed=one.request("a", "b"))
    async with asyncio.timeout(HANG_GUARD):
        while (await warm(other, embed=other.request("a", "b"))) != (2, 2, 0, 0):
            pass
    assert (await other.answered())["WARM"] == 2


async def test_searches_are_warmed(start: Start) -> None:
    client = await start()
    await client.upsert({"a": "ants", "b": "bees"})
    requests = [client.search_request(text) for text in ("ant", "bee")]
    requests.append(client.search_request("bad", namespace="a b"))
    searches = cache_pb2.WarmRequest.Searches(requests=requests)
    assert await warm(client, searches=searches) == (3, 0, 2, 1)
    assert (await client.found("ant"))[0] == "HOT"


async def test_popular_queries_are_warmed_for_the_namespace_that_asked_them(
    start: Start, redis_server: DevRedis
) -> None:
    tracked: dict[str, Any] = {"redis": redis_server, "popular": {"queries": 100}}
    orders = await start(cache={"namespace": "orders"}, **tracked)
    await orders.embed("popular")
    await orders.stop()  # what it counted is shared at the latest then
    carts = await start(cache={"namespace": "carts"}, **tracked)
    popular = cache_pb2.WarmRequest.Popular(namespace="orders", count=100)
    assert (await warm(carts, popular=popular))[0] == 1
    assert await carts.tiers("popular", namespace="orders") == ["HOT"]
    assert await carts.tiers("popular") == ["COMPUTED"]


async def test_popular_queries_are_warmed_after_they_were_lost(start: Start) -> None:
    client = await start(popular={"queries": 100})
    for _ in range(3):
        await client.embed("popular")
    await client.embed("rare")
    await client.embed("of", "a", "batch")
    await client.upsert({"a": "ants"})
    await client.search("query")
    await client.flush()
    popular = cache_pb2.WarmRequest.Popular(count=100)
    total, cached, computed, failed = await warm(client, popular=popular)
    assert (total, failed) == (3, 0)
    assert cached + computed == 3
    assert await client.tiers("popular", "rare") == ["HOT", "HOT"]
    assert (await client.found("query"))[0] == "HOT"


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"popular": cache_pb2.WarmRequest.Popular(count=1)}, "FAILED_PRECONDITION"),
        ({}, "INVALID_ARGUMENT"),
        ({"embed": {"model": "none", "inputs": [{"text": "a"}]}}, "NOT_FOUND"),
    ],
)
async def test_what_cannot_be_warmed_is_refused(
    start: Start, fields: dict[str, Any], code: str
) -> None:
    client = await start()
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await warm(client, **fields)
    assert error.value.code().name == code


async def test_a_caller_who_is_not_a_warming_does_not_wait_for_all_of_it(
    start: Start, held_model: HeldModel
) -> None:
    client = await start()
    texts = [f"text {number}" for number in range(1000)]
    warming = asyncio.create_task(warm(client, embed=client.request(*texts)))
    queued: list[int] = []
    async with asyncio.timeout(HANG_GUARD):
        while not held_model.sizes or len(queued) < 50:
            queued.append((await client.stats()).models[0].queued)
    assert 0 < max(queued) <= 128
    held_model.let_go()
    assert await warming == (1000, 0, 1000, 0)


async def test_the_warming_ends_when_the_caller_goes_away(
    start: Start, held_model: HeldModel
) -> None:
    client = await start()
    texts = [f"text {number}" for number in range(1000)]
    call = client.caches.Warm(cache_pb2.WarmRequest(embed=client.request(*texts)))
    async with asyncio.timeout(HANG_GUARD):
        while not (await client.stats()).models[0].queued:
            pass
    call.cancel()
    for _ in range(10):  # what was sent before has arrived when these are answered
        await client.stats()
    held_model.let_go()
    assert await client.tiers("another") == ["COMPUTED"]
    model = (await client.stats()).models[0]
    assert model.abandoned > 0
    assert model.computed + model.abandoned <= 128 + 1
