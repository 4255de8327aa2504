"""What the index in Redis does when Redis has removed some of its keys to make room."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from redis import Redis
from structlog.testing import capture_logs

from sidecar.index.redis import RedisIndex
from sidecar.index.redis_layout import Layout
from sidecar.index.types import IndexUnavailableError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from sidecar.dev_redis import DevRedis
    from sidecar.index.types import Collection, Document

    MakeDocument = Callable[..., Document]

QUERY = np.array([1, 0, 0, 0], np.float32)
NAMES = ["a", "b", "c"]


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[RedisIndex]:
    index = RedisIndex(url, "embercache")
    try:
        await index.start()
        yield index
    finally:
        await index.close()


def evict(server: DevRedis, collection: Collection, *names: str) -> None:
    keys = Layout("embercache").keys(collection)
    with Redis.from_url(server.url) as client:
        assert client.delete(*(getattr(keys, name) for name in names)) == len(names)


async def found(index: RedisIndex, collection: Collection) -> set[str]:
    return {hit.document for hit in await index.search(collection, QUERY, 10, None)}


LOSSES = [
    ("vectors",),
    ("documents",),
    ("raw",),
    ("ids",),
    ("vectors", "raw"),
    ("documents", "ids"),
    ("vectors", "documents", "raw", "ids"),
]


@pytest.mark.parametrize("names", LOSSES, ids="-".join)
async def test_a_collection_that_lost_a_part_is_no_empty_one_until_all_is_stored_again(
    redis_server: DevRedis, collection: Collection, document: MakeDocument, names: tuple[str, ...]
) -> None:
    documents = [document(name, [1, i, 0, 0], [0, 1, i, 0]) for i, name in enumerate(NAMES)]
    async with opened(redis_server.url) as index:
        await index.upsert(collection, documents)
        evict(redis_server, collection, *names)
        for number, one in enumerate(documents):
            with pytest.raises(IndexUnavailableError, match="lost part of this collection"):
                await found(index, collection)
            with pytest.raises(IndexUnavailableError, match="does not evict"):
                await index.documents(collection, "", 10)
            assert await index.collections() == [collection]
            # So that whoever compares revisions stores all of them.
            assert await index.revisions(collection, NAMES) == [None] * 3, number
            await index.upsert(collection, [one])
        assert await found(index, collection) == set(NAMES)
        assert await index.documents(collection, "", 10)
        assert None not in await index.revisions(collection, NAMES)
        with Redis.from_url(redis_server.url) as client:
            keys = Layout("embercache").keys(collection)
            # Nothing is left of what nobody could find any more.
            assert client.execute_command("VCARD", keys.vectors) == client.hlen(keys.raw) == 6
            assert client.zcard(keys.garbage) == 0


async def test_documents_that_are_gone_for_good_need_not_be_stored_again(
    redis_server: DevRedis, collection: Collection, document: MakeDocument
) -> None:
    async with opened(redis_server.url) as index:
        await index.upsert(collection, [document(name, QUERY) for name in NAMES])
        evict(redis_server, collection, "documents")
        await index.upsert(collection, [document("a", QUERY), document("b", QUERY)])
        with pytest.raises(IndexUnavailableError):
            await found(index, collection)
        assert await index.delete(collection, ["c"]) == [False]
        assert await found(index, collection) == {"a", "b"}
        await index.delete(collection, ["a", "b"])
        assert await found(index, collection) == set()
        assert await index.collections() == []


async def test_a_document_of_which_a_part_is_gone_is_not_given_new_metadata(
    redis_server: DevRedis, collection: Collection, document: MakeDocument
) -> None:
    one = document("a", QUERY)
    bare = replace(one, chunks=(replace(one.chunks[0], vector=None),))
    async with opened(redis_server.url) as index:
        await index.upsert(collection, [one])
        evict(redis_server, collection, "raw")
        with pytest.raises(IndexUnavailableError, match="lost part of this collection"):
            await index.upsert(collection, [bare])


async def test_without_the_count_of_documents_they_are_still_found(
    redis_server: DevRedis, collection: Collection, document: MakeDocument
) -> None:
    async with opened(redis_server.url) as index:
        await index.upsert(collection, [document(name, QUERY, [0, 1, 0, 0]) for name in NAMES])
        evict(redis_server, collection, "state")
        assert await found(index, collection) == set(NAMES)
        await index.upsert(collection, [document("b", [0, 0, 1, 0]), document("d", QUERY)])
        assert await found(index, collection) == {*NAMES, "d"}
        evict(redis_server, collection, "vectors")
        with pytest.raises(IndexUnavailableError):
            await found(index, collection)


async def test_what_others_are_storing_now_is_no_loss(
    redis_server: DevRedis,
    collection: Collection,
    document: MakeDocument,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with opened(redis_server.url) as index:
        with pytest.MonkeyPatch.context() as crash:
            crash.setattr("sidecar.index.redis_writes.RedisWriter._commit", fail)
            with pytest.raises(RuntimeError):
                await index.upsert(collection, [document("a", QUERY)])
        assert await found(index, collection) == set()
        # Nor does the next writer remove it before its time.
        await index.upsert(collection, [document("b", QUERY)])
        with Redis.from_url(redis_server.url) as client:
            keys = Layout("embercache").keys(collection)
            assert client.execute_command("VCARD", keys.vectors) == 2


async def fail(*_: object) -> None:
    raise RuntimeError


@pytest.mark.parametrize("policy", ["allkeys-lru", "allkeys-random"])
async def test_a_redis_that_would_remove_documents_is_warned_of_once(
    own_redis: DevRedis, policy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sidecar.index.redis._LOOK_FOR_EVICTION_SECONDS", 0)
    with Redis.from_url(own_redis.url) as client, capture_logs() as logs:
        client.config_set("maxmemory-policy", policy)
        async with opened(own_redis.url) as index:
            # There is no limit yet.
            assert warnings(logs) == []
            client.config_set("maxmemory", 2**30)
            for _ in range(3):
                await index.start()
            [warning] = warnings(logs)
            assert warning["maxmemory_policy"] == policy
            assert "noeviction" in warning["remedy"]
            client.config_set("maxmemory-policy", "volatile-lru")
            await index.start()
            client.config_set("maxmemory-policy", policy)
            await index.start()
            assert len(warnings(logs)) == 2


@pytest.mark.parametrize("policy", ["noeviction", "volatile-lru"])
async def test_a_redis_that_keeps_documents_is_not_warned_of(
    own_redis: DevRedis, policy: str
) -> None:
    with Redis.from_url(own_redis.url) as client, capture_logs() as logs:
        client.config_set("maxmemory", 2**30)
        client.config_set("maxmemory-policy", policy)
        async with opened(own_redis.url):
            assert warnings(logs) == []


def warnings(logs: list[dict[str, str]]) -> list[dict[str, str]]:
    return [entry for entry in logs if "will lose documents" in entry["event"]]


async def test_an_index_starts_where_nobody_may_ask_about_memory(own_redis: DevRedis) -> None:
    with Redis.from_url(own_redis.url) as client:
        client.execute_command("ACL", "SETUSER", "default", "-info")
        async with opened(own_redis.url) as index:
            assert index.identity


async def test_an_index_that_is_there_is_not_tried_out_again(own_redis: DevRedis) -> None:
    """Every sidecar of a fleet looks for its index all the time, so looking must be cheap."""
    with Redis.from_url(own_redis.url) as client:
        async with opened(own_redis.url) as index:
            identity = index.identity
            client.config_resetstat()
            for _ in range(5):
                await index.start()
            stats = client.info("commandstats")
            assert stats["cmdstat_get"]["calls"] == 5
            assert not stats.keys() & {"cmdstat_eval", "cmdstat_vadd"}
            # Until it is lost, without a connection being lost.
            client.flushall()
            await index.start()
            assert index.identity != identity


async def test_every_prefix_has_documents_of_its_own(
    redis_server: DevRedis, collection: Collection, document: MakeDocument
) -> None:
    one, two = RedisIndex(redis_server.url, "one"), RedisIndex(redis_server.url, "two")
    for index in (one, two):
        await index.start()
    assert one.identity != two.identity
    await one.upsert(collection, [document("a", QUERY)])
    assert await found(one, collection) == {"a"}
    assert await found(two, collection) == set()
    assert await two.collections() == []
    with Redis.from_url(redis_server.url) as client:
        assert all(key.startswith((b"one:", b"two:")) for key in client.keys("*"))
    for index in (one, two):
        await index.close()
