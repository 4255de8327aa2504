"""What calls cost Redis: no call walks its keys, however many there are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from embercache.v1 import cache_pb2, search_pb2

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from sidecar.dev_redis import DevRedis

    Sidecar = Any
    View = Callable[[DevRedis], Any]
    Start = Callable[..., Awaitable[Any]]
    Eventually = Callable[[Callable[[], object]], Awaitable[None]]

HANG_GUARD = 30.0
WALKING = ("keys", "scan", "sscan", "hscan", "zscan", "randomkey", "flushdb", "flushall")
NAMESPACE = {"namespace": "n"}


async def embeds(sidecar: Sidecar) -> None:
    for _ in range(3):
        await sidecar.embed("one", "two", tags=["a tag"], **NAMESPACE)
    await sidecar.embed("three", ttl={"seconds": 60})


async def searches(sidecar: Sidecar) -> None:
    await sidecar.upsert({"a": "apples", "b": "pears"}, tags=["fruit"], metadata={"year": 1})
    for _ in range(3):
        await sidecar.search("apples", top_k=2, rerank=search_pb2.Rerank())
    await sidecar.upsert({"a": "plums"})
    await sidecar.search("apples", top_k=2)
    await sidecar.delete("b")
    await sidecar.search("apples", top_k=2)


async def invalidates(sidecar: Sidecar) -> None:
    await sidecar.invalidate(tags=["a tag"], **NAMESPACE)
    await sidecar.invalidate(inputs=["one"], input_tags=["a tag"], **NAMESPACE)
    await sidecar.invalidate(**NAMESPACE)
    searched = cache_pb2.InvalidateRequest.Searches(requests=[sidecar.search_request("apples")])
    for target in (
        {"documents": cache_pb2.InvalidateRequest.Documents(ids=["a"])},
        {"kind": "search"},
        {"model_version": cache_pb2.InvalidateRequest.ModelVersion()},
        {"searches": searched},
    ):
        request = cache_pb2.InvalidateRequest(**target)
        await sidecar.caches.Invalidate(request, timeout=HANG_GUARD)
    event = cache_pb2.Event(type=cache_pb2.Event.TYPE_UPDATED, ids=["a"], tags=["fruit"])
    request = cache_pb2.PublishEventsRequest(events=[event])
    await sidecar.caches.PublishEvents(request, timeout=HANG_GUARD)


async def looks(sidecar: Sidecar) -> None:
    await sidecar.stats()
    await sidecar.flush()
    await embeds(sidecar)


async def test_an_idle_sidecar_keeps_few_connections(
    start: Start, own_redis: DevRedis, view: View
) -> None:
    """Redis takes 10,000 by default, and a fleet has one sidecar in each pod."""
    sidecar = await start(redis=own_redis, index={"url": ""})
    for text in ("one", "two", "one"):
        await sidecar.embed(text)
    await sidecar.upsert({"a": "apples"})
    await sidecar.search("apples", top_k=1)
    assert len(view(own_redis).client.client_list()) - 1 <= 8


WORK = {"embed": embeds, "search": searches, "invalidate": invalidates, "administer": looks}


@pytest.mark.parametrize("work", WORK.values(), ids=WORK.keys())
async def test_no_call_walks_the_keys_of_redis(
    work: Callable[[Sidecar], Awaitable[None]],
    start: Start,
    redis_server: DevRedis,
    view: View,
    eventually: Eventually,
) -> None:
    one, two = await start(redis=redis_server), await start(redis=redis_server)
    await embeds(one)
    await searches(one)
    await eventually(view(redis_server).entries)
    view(redis_server).client.config_resetstat()
    await work(one)
    await work(two)
    # The stream of events is read all the while, and what is written there has its effect.
    view(redis_server).client.xadd("embercache:events", {"type": "updated", "id": "a"})
    await eventually(lambda: view(redis_server).calls("xack"))
    stats = view(redis_server).client.info("commandstats")
    assert "cmdstat_xreadgroup" in stats
    walked = [name for name in WALKING if f"cmdstat_{name}" in stats]
    assert walked == []
