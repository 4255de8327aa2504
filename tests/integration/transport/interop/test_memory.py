"""Memory is bounded by what is set, not by who connects and does not read.

Bounds are shares of the bytes that would be needed if nothing held callers back.
"""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest
from embercache.v1 import embed_pb2

from tests.integration.transport.interop.http2 import DATA, message

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

EMBED = "/embercache.v1.EmbedService/Embed"
ECHO = "/interop.Probe/Echo"
IDLE, SLOW = 1000, 200
# What a connection may cost that has had a call and waits for the next: the tables and buffers of
# two connections of HTTP/2, as there is one behind it, too, which has two ends here. So 1,000 of
# them take 150 MB at most. The windows that they have opened would be 1 GB.
IDLE_BYTES = 150_000
# A slow reader may have the window that he has opened, and what was read ahead for him: on each leg
# a window, and a message of the server behind. All answers would be 2 GB; a tenth is 1 MB for each.
SHARE = 0.1
WINDOW = 65535
HANG_GUARD = 60.0


async def first_data(connection: Any) -> None:
    """Waits until an answer has begun, of which no more is read."""
    async with asyncio.timeout(HANG_GUARD):
        await connection.until(DATA)


async def test_connections_that_wait_take_little_each(
    server: Any, open_raw: Callable[..., Awaitable[Any]]
) -> None:
    before = server.memory()
    connections = [await open_raw(server.address) for _ in range(IDLE)]
    for connection in connections:
        answer = await connection.answer(connection.call(ECHO, message(b"a")))
        assert answer.grpc_status == 0
    grown = server.memory() - before
    assert grown < IDLE * IDLE_BYTES


async def test_who_reads_slowly_is_waited_for_without_his_answer_in_memory(
    server: Any, client: Any, open_raw: Callable[..., Awaitable[Any]], name: str
) -> None:
    size, count = 10**5, 100
    asked = json.dumps({"count": count, "size": size, "name": name}).encode()
    assert await client.unary("Echo", b"a") == b"a"
    before = server.memory()
    connections = [await open_raw(server.address, window=WINDOW) for _ in range(SLOW)]
    for connection in connections:
        connection.call("/interop.Probe/Pieces", message(asked))
    await asyncio.gather(*map(first_data, connections))
    # Others are served, and what could be sent ahead has been by then.
    for _ in range(200):
        assert await client.unary("Echo", b"still here") == b"still here"
    assert await client.counts(name) == (SLOW, SLOW)
    grown = server.memory() - before
    assert grown < SHARE * SLOW * count * size


async def test_hits_that_are_not_read_are_no_copies(
    server: Any,
    client: Any,
    transport: str,
    open_raw: Callable[..., Awaitable[Any]],
    embed_request: Callable[..., bytes],
    name: str,
) -> None:
    """200 callers ask 20 times each for an answer of 100 kB, and read none of it."""
    if transport == "grpcio":
        pytest.skip("gRPC's own server has a copy of the answer for each call")
    calls = 20
    request = embed_request(*(f"{number:x}" for number in range(1200)), namespace=name)
    for _ in range(3):
        answer = await client.unary(EMBED, request)
    assert len(embed_pb2.EmbedResponse.FromString(answer).embeddings) == 1200
    assert len(answer) > 90_000
    before = server.memory()
    connections = [await open_raw(server.address, window=WINDOW) for _ in range(SLOW)]
    for connection in connections:
        for _ in range(calls):
            connection.call(EMBED, message(request))
    await asyncio.gather(*map(first_data, connections))
    for _ in range(50):
        assert await client.unary(EMBED, request)
    # Requests have to be read before they are looked up: they are less than a tenth of the answers.
    grown = server.memory() - before
    assert grown < SHARE * SLOW * calls * len(answer)
