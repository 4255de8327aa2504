"""Sidecars that share Redis and an index share lists of results, and what makes them invalid."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from embercache.v1 import common_pb2

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from sidecar.dev_redis import DevRedis

    Start = Callable[..., Awaitable[Any]]
    View = Callable[[DevRedis], Any]
    Eventually = Callable[[Callable[[], object]], Awaitable[None]]

DOCUMENTS = {"a1": "aaaa", "a2": "aaab", "a3": "aaac", "b1": "zzzz", "b2": "zzzy", "b3": "zzzx"}
CACHED = {"mode": common_pb2.CACHE_MODE_ONLY_IF_CACHED}
QUERIES = ("aaaa", "zzzz")


@pytest.fixture
async def pair(
    start: Start, redis_server: DevRedis, view: View, eventually: Eventually
) -> tuple[Any, Any]:
    """Two sidecars, both with the lists of two queries in memory."""
    shared = {"redis": redis_server, "index": {"url": redis_server.url}}
    one, two = await start(**shared), await start(**shared)
    await one.upsert(DOCUMENTS)
    for query in QUERIES:
        assert (await one.found(query, top_k=2))[0] == "COMPUTED"
    keys = view(redis_server).client.keys
    await eventually(lambda: len(keys("embercache:search:*")) == 2)
    for query in QUERIES:
        assert (await two.found(query, top_k=2))[0] == "WARM"
        assert (await two.found(query, top_k=2))[0] == "HOT"
    return one, two


async def goes(sidecar: Any, query: str) -> None:
    """Waits until the list of a query is served from no tier."""
    async with asyncio.timeout(20):
        while await sidecar.status_of_search(query, top_k=2, **CACHED) != "NOT_FOUND":
            await asyncio.sleep(0.005)


async def test_a_changed_document_invalidates_the_list_everywhere_and_no_other(
    pair: tuple[Any, Any],
) -> None:
    one, two = pair
    await one.upsert({"a1": "aaad"})
    await goes(two, "aaaa")
    for sidecar in pair:
        assert (await sidecar.found("zzzz", top_k=2))[0] == "HOT"
    assert (await two.found("aaaa", top_k=2))[0] == "COMPUTED"


async def test_a_list_that_lived_on_is_still_good_for_a_sidecar_that_has_it_in_redis_only(
    pair: tuple[Any, Any],
) -> None:
    one, two = pair
    await one.upsert({"a1": "aaad"})
    await goes(two, "aaaa")
    await two.flush(common_pb2.TIER_HOT)
    assert (await two.found("zzzz", top_k=2))[0] == "WARM"


async def test_an_event_that_another_program_writes_invalidates_what_depends_on_it(
    pair: tuple[Any, Any], redis_server: DevRedis, view: View
) -> None:
    fields = {"type": "updated", "collection": "default", "id": "b1"}
    view(redis_server).client.xadd("embercache:events", fields)
    for sidecar in pair:
        await goes(sidecar, "zzzz")
        assert (await sidecar.found("aaaa", top_k=2))[0] == "HOT"
    view(redis_server).client.xadd("embercache:events", {"type": "created"})
    for sidecar in pair:
        await goes(sidecar, "aaaa")


async def test_sidecars_with_indexes_of_their_own_share_no_lists(
    start: Start, redis_server: DevRedis
) -> None:
    one, two = await start(redis=redis_server), await start(redis=redis_server)
    await one.upsert({"a": "aaaa"})
    assert await one.found("aaaa") == ("COMPUTED", ["a"])
    assert await two.found("aaaa") == ("COMPUTED", [])
    assert await one.found("aaaa") == ("HOT", ["a"])


async def test_scores_and_vectors_are_shared_between_indexes(
    start: Start, redis_server: DevRedis, eventually: Eventually, view: View
) -> None:
    one, two = await start(redis=redis_server), await start(redis=redis_server)
    for sidecar in (one, two):
        await sidecar.upsert({"a": "aaaa"})
    response = await one.search("aaab", rerank={})
    assert [tier.tier for tier in response.rerank_tiers] == [common_pb2.TIER_COMPUTED]
    keys = view(redis_server).client.keys
    await eventually(lambda: keys("embercache:rerank:*"))
    response = await two.search("aaab", rerank={})
    assert [tier.tier for tier in response.rerank_tiers] == [common_pb2.TIER_WARM]
    assert response.query_tier == common_pb2.TIER_WARM
