"""Calls that are answered from what is stored: the same bytes, whoever answers, and however."""

from __future__ import annotations

import asyncio
import gzip
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from embercache.v1 import cache_pb2, common_pb2, embed_pb2, search_pb2

from tests.integration.transport.interop.http2 import message

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

EMBED = "/embercache.v1.EmbedService/Embed"
SEARCH = "/embercache.v1.SearchService/Search"
UPSERT = "/embercache.v1.SearchService/Upsert"
RERANK = "/embercache.v1.SearchService/Rerank"
STATS = "/embercache.v1.CacheService/Stats"
# What the front door reads whole; a larger message is looked up by the server behind it.
LOOKUP_BYTES = 64 * 1024
HOT = common_pb2.TIER_HOT


def ageless(answer: bytes, kind: Any) -> bytes:
    """The same answer, in which everything is of now."""
    read = kind.FromString(answer)
    for each in getattr(read, "embeddings", [read]):
        each.age_ms = 0
    return bytes(read.SerializeToString(deterministic=True))


async def compressed(connection: Any, path: str, request: bytes) -> bytes:
    """The answer to a request that the front door does not look into."""
    sent = message(gzip.compress(request), 1)
    answer = await connection.answer(connection.call(path, sent, ("grpc-encoding", "gzip")))
    assert answer.grpc_status == 0
    return bytes(answer.data[5:])


async def items_saved(client: Any) -> int:
    stats = cache_pb2.StatsResponse.FromString(await client.unary(STATS, b""))
    return next(tier.answered for tier in stats.tiers if tier.tier == HOT)


@pytest.mark.parametrize("count", [1, 2, 40])
async def test_a_hit_has_the_bytes_that_the_server_behind_gives(
    client: Any,
    server: Any,
    open_raw: Callable[..., Awaitable[Any]],
    embed_request: Callable[..., bytes],
    name: str,
    count: int,
) -> None:
    request = embed_request(*(f"text {n}" for n in range(count)), namespace=name)
    first = await client.unary(EMBED, request)
    answers = [await client.unary(EMBED, request) for _ in range(4)]
    behind = await compressed(await open_raw(server.address), EMBED, request)
    same = {ageless(answer, embed_pb2.EmbedResponse) for answer in (*answers, behind)}
    assert len(same) == 1
    assert {len(answer) for answer in (*answers, behind)} == {len(answers[0])}
    for answer in (*answers, behind):
        read = embed_pb2.EmbedResponse.FromString(answer)
        assert {each.tier for each in read.embeddings} == {HOT}
    vectors = [
        [each.vector for each in embed_pb2.EmbedResponse.FromString(answer).embeddings]
        for answer in (first, *answers)
    ]
    assert all(each == vectors[0] for each in vectors)


async def test_ages_of_a_hit_do_not_go_back(
    client: Any, embed_request: Callable[..., bytes], name: str
) -> None:
    request = embed_request("a text", namespace=name)
    ages = []
    for _ in range(50):
        (each,) = embed_pb2.EmbedResponse.FromString(await client.unary(EMBED, request)).embeddings
        ages.append(each.age_ms)
    assert ages == sorted(ages)
    assert 0 <= ages[0] <= ages[-1] < 60_000


async def test_searches_and_scores_are_answered_from_what_is_stored(
    client: Any, server: Any, open_raw: Callable[..., Awaitable[Any]], name: str
) -> None:
    document = search_pb2.Document(id="1", chunks=[search_pb2.Chunk(content="some text")])
    upsert = search_pb2.UpsertRequest(namespace=name, documents=[document])
    await client.unary(UPSERT, upsert.SerializeToString())
    request = search_pb2.SearchRequest(text="text", namespace=name).SerializeToString()
    answers = [await client.unary(SEARCH, request) for _ in range(4)][1:]
    answers.append(await compressed(await open_raw(server.address), SEARCH, request))
    assert len({ageless(answer, search_pb2.SearchResponse) for answer in answers}) == 1
    tiers = [search_pb2.SearchResponse.FromString(answer).tier for answer in answers]
    assert tiers == [HOT] * 4


@pytest.mark.parametrize("over", [-1, 0, 1, 5000])
async def test_hits_of_requests_about_as_large_as_are_looked_up_at_once(
    client: Any, embed_request: Callable[..., bytes], name: str, over: int
) -> None:
    overhead = len(embed_request("a" * LOOKUP_BYTES, namespace=name)) - LOOKUP_BYTES
    request = embed_request("a" * (LOOKUP_BYTES - overhead + over), namespace=name)
    assert len(request) == LOOKUP_BYTES + over
    answers = [await client.unary(EMBED, request) for _ in range(3)]
    read = [embed_pb2.EmbedResponse.FromString(each).embeddings[0] for each in answers]
    assert [each.tier == HOT for each in read] == [False, True, True]
    assert len({each.vector for each in read}) == 1


async def test_every_hit_is_counted(
    client: Any, embed_request: Callable[..., bytes], name: str
) -> None:
    request = embed_request("one", "two", "three", namespace=name)
    await client.unary(EMBED, request)
    before = await items_saved(client)
    for _ in range(20):
        await client.unary(EMBED, request)
    assert await items_saved(client) - before == 60


async def test_a_hit_is_no_longer_one_when_its_namespace_is_invalidated(
    client: Any, embed_request: Callable[..., bytes], name: str
) -> None:
    request = embed_request("a text", namespace=name)
    invalidate = cache_pb2.InvalidateRequest(namespace=name, whole_namespace={})
    for _ in range(3):
        tiers = []
        for _ in range(3):
            answer = embed_pb2.EmbedResponse.FromString(await client.unary(EMBED, request))
            tiers.append(answer.embeddings[0].tier == HOT)
        assert tiers == [False, True, True]
        await client.unary("/embercache.v1.CacheService/Invalidate", invalidate.SerializeToString())


async def test_what_is_not_to_come_from_the_cache_does_not(
    client: Any, embed_request: Callable[..., bytes], name: str
) -> None:
    cache = common_pb2.CacheOptions(mode=common_pb2.CACHE_MODE_BYPASS)
    await client.unary(EMBED, embed_request("a text", namespace=name))
    request = embed_request("a text", namespace=name, cache=cache)
    for _ in range(3):
        answer = embed_pb2.EmbedResponse.FromString(await client.unary(EMBED, request))
        assert answer.embeddings[0].tier == common_pb2.TIER_COMPUTED


async def test_a_hit_is_the_same_on_both_listeners(
    connect: Callable[..., Any], server: Any, embed_request: Callable[..., bytes], name: str
) -> None:
    request = embed_request("a text", namespace=name)
    answers = [
        await connect(address).unary(EMBED, request)
        for address in (server.address, server.unix, server.address, server.unix)
    ]
    assert len({ageless(each, embed_pb2.EmbedResponse) for each in answers[1:]}) == 1


async def test_a_hit_can_have_metadata_and_a_deadline(
    client: Any, embed_request: Callable[..., bytes], name: str
) -> None:
    request = embed_request("a text", namespace=name)
    answers = []
    for _ in range(4):
        call = client.unary(EMBED, request, metadata=[("x-a", "b"), ("x-b-bin", b"\0\xff")])
        answers.append(await call)
        assert await call.code() is grpc.StatusCode.OK
        assert "grpc-status" not in (await call.trailing_metadata() or ())
    assert len({ageless(each, embed_pb2.EmbedResponse) for each in answers[1:]}) == 1


async def test_hits_are_not_held_up_by_calls_that_wait(
    client: Any, embed_request: Callable[..., bytes], name: str
) -> None:
    request = embed_request("a text", namespace=name)
    await client.unary(EMBED, request)
    waiting = [client.unary("Hold", name.encode()) for _ in range(100)]
    await client.until(name, started=100, running=100)
    for _ in range(100):
        await client.unary(EMBED, request)
    for call in waiting:
        call.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    await client.until(name, started=100, running=0)
