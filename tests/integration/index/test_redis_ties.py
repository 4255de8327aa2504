"""What chunks with equal vectors cost in Redis: boilerplate that many documents have."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from redis import Redis

from sidecar.index.filters import In, Range
from sidecar.index.redis import RedisIndex
from sidecar.index.types import MAX_TIES

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from sidecar.dev_redis import DevRedis
    from sidecar.index.filters import Filter
    from sidecar.index.types import Collection, Document, Index

QUERY = np.array([1, 0, 0, 0], np.float32)
COPIES = 1500
BOILERPLATE = "All rights reserved. " * 100
FILTERS = [None, In("a", ("x",)), Range("n", least=0.0)]


@pytest.fixture
async def index(redis_server: DevRedis) -> AsyncIterator[Index]:
    opened = RedisIndex(redis_server.url, "embercache")
    await opened.start()
    yield opened
    await opened.close()


def copies(document: Callable[..., Document], count: int) -> list[Document]:
    one = document("x", QUERY, metadata={"a": "x", "n": 1.0})
    chunks = (replace(one.chunks[0], text=BOILERPLATE),)
    return [replace(one, id=f"d{number:04}", chunks=chunks) for number in range(count)]


@pytest.mark.parametrize("where", FILTERS)
async def test_texts_of_chunks_that_are_no_hits_are_not_read(
    index: Index,
    collection: Collection,
    document: Callable[..., Document],
    redis_server: DevRedis,
    where: Filter | None,
) -> None:
    await index.upsert(collection, copies(document, COPIES))
    with Redis.from_url(redis_server.url) as client:
        before = client.info("stats")["total_net_output_bytes"]
        hits = await index.search(collection, QUERY, 5, where)
        read = client.info("stats")["total_net_output_bytes"] - before
    assert len({hit.document for hit in hits}) == 5
    # All texts together are 3 MB.
    assert read < 150 * len(BOILERPLATE)


@pytest.mark.parametrize("where", FILTERS)
async def test_as_many_as_are_put_in_order_are_in_order(
    index: Index, collection: Collection, document: Callable[..., Document], where: Filter | None
) -> None:
    far = document("a", [1, 1, 0, 0], metadata={"a": "x", "n": 1.0})
    others = copies(document, MAX_TIES // 2)
    await index.upsert(collection, [far, *reversed(others)])
    hits = await index.search(collection, QUERY, 3, where)
    assert [hit.document for hit in hits] == ["d0000", "d0001", "d0002"]
