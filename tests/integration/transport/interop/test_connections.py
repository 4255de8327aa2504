"""Connections: kept alive, ended for their age, drained, and waited for."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from embercache.v1 import common_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.integration.transport.interop.http2 import (
    ACK,
    DATA,
    END_STREAM,
    GOAWAY,
    HEADERS,
    PING,
    RST_STREAM,
    ClosedError,
    call_headers,
    decode_block,
    frame,
    message,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

# Of servers that say of themselves that they serve.
ONE_OF_SEVERAL = {
    "grpc.service_config": json.dumps(
        {"loadBalancingConfig": [{"round_robin": {}}], "healthCheckConfig": {"serviceName": ""}}
    ),
    "grpc.enable_retries": 1,
}
EMBED = "/embercache.v1.EmbedService/Embed"
ECHO = "/interop.Probe/Echo"
NO_FRAME = -1
AFTERWARDS = [b"after the end: %d" % number for number in range(3)]
# What the server lets clients do as often as they like; a little more, as clocks differ.
PING_SECONDS = 1.1
KEPT_ALIVE = {
    "grpc.keepalive_time_ms": int(PING_SECONDS * 1000),
    "grpc.keepalive_permit_without_calls": 1,
    "grpc.http2.max_pings_without_data": 0,
}


async def finish(call: Any) -> list[bytes]:
    """Says the last to a conversation; what is answered then."""
    await call.done_writing()
    return await rest(call)


async def rest(call: Any) -> list[bytes]:
    """What is answered until the end."""
    answers = []
    while (answer := await call.read()) is not grpc.aio.EOF:
        answers.append(answer)
    return answers


@contextlib.asynccontextmanager
async def load(client: Any, requests: list[tuple[str, bytes]]) -> AsyncIterator[list[int]]:
    """Calls without a pause, each of which has to end well; their number so far is in the list."""
    done = [0]
    is_over = asyncio.Event()

    async def call(method: str, request: bytes) -> None:
        while not is_over.is_set():
            assert await client.unary(method, request) is not None
            done[0] += 1

    async with asyncio.TaskGroup() as group:
        for method, request in requests:
            group.create_task(call(method, request))
        yield done
        is_over.set()


async def ping(connection: Any, payload: bytes) -> None:
    connection.send(frame(PING, payload=payload))
    assert (await connection.until(PING, ACK)).payload == payload


async def test_pings_are_answered_while_a_call_waits(
    server: Any,
    client: Any,
    connect: Callable[..., Any],
    open_raw: Callable[..., Awaitable[Any]],
    name: str,
) -> None:
    """As often as the server allows: one client pings by hand, one leaves it to grpcio.

    Meanwhile a third pings without a call, and can call afterwards.
    """
    kept, idle = (connect(server.address, **KEPT_ALIVE) for _ in range(2))
    assert await idle.unary("Echo", b"a") == b"a"
    held = kept.unary("Hold", name.encode())
    await client.until(name, started=1, running=1)
    connection = await open_raw(server.address)
    connection.call("/interop.Probe/Hold", message(name.encode()))
    await client.until(name, started=2, running=2)
    for number in range(4):
        await ping(connection, bytes([number] * 8))
        await asyncio.sleep(PING_SECONDS)
    assert await client.counts(name) == (2, 2)
    assert not held.done()
    answer = await connection.answer(connection.call(ECHO, message(b"a")))
    assert answer.grpc_status == 0
    assert await idle.unary("Echo", b"a") == b"a"
    held.cancel()


async def test_a_connection_of_great_age_ends_when_its_calls_have_ended(
    short_lived: Any, open_raw: Callable[..., Awaitable[Any]], transport: str
) -> None:
    connection = await open_raw(short_lived.address)
    stream = connection.open_stream(*call_headers("/interop.Probe/Chat"))
    connection.send_data(stream, message(b"before"))
    assert (await connection.until(DATA)).payload == message(b"before")
    assert not int.from_bytes((await connection.until(GOAWAY)).payload[4:8], "big")  # no error
    connection.send_data(stream, message(b"after"))
    assert (await connection.until(DATA)).payload == message(b"after")
    connection.send_data(stream, b"", ends=True)
    answer = await connection.answer(stream)
    assert answer.data == b"".join(map(message, AFTERWARDS))
    # gRPC's own server may close the connection before its last trailers are read.
    assert answer.grpc_status == 0 or (transport == "grpcio" and answer.closed)
    with pytest.raises(ClosedError):
        await connection.until(NO_FRAME)


async def call_until_it_goes_away(connection: Any, request: bytes) -> int:
    """Calls until the server says that it goes away; how many calls were answered.

    All those that were begun until then have to be, and well.
    """
    begun, ended, is_going = set(), set(), False
    with contextlib.suppress(ClosedError):
        while True:
            if not is_going and len(begun) - len(ended) < 8:
                begun.add(connection.call(EMBED, message(request)))
            each = await connection.read()
            assert each.kind != RST_STREAM
            if each.kind == GOAWAY:
                is_going = True
                assert int.from_bytes(each.payload[:4], "big") >= max(begun)
            if each.kind == HEADERS and each.flags & END_STREAM:
                assert ("grpc-status", "0") in decode_block(each.payload)
                ended.add(each.stream)
    assert is_going
    assert ended == begun
    return len(ended)


@pytest.mark.parametrize("mode", [common_pb2.CACHE_MODE_DEFAULT, common_pb2.CACHE_MODE_BYPASS])
async def test_no_call_is_lost_to_the_age_of_its_connection(
    short_lived: Any,
    open_raw: Callable[..., Awaitable[Any]],
    embed_request: Callable[..., bytes],
    mode: common_pb2.CacheMode.ValueType,
) -> None:
    request = embed_request("a text", cache=common_pb2.CacheOptions(mode=mode))
    for _ in range(3):
        assert await call_until_it_goes_away(await open_raw(short_lived.address), request) > 8


async def test_no_call_is_lost_to_the_end_of_the_server(
    launch: Callable[..., Any],
    transport: str,
    open_raw: Callable[..., Awaitable[Any]],
    embed_request: Callable[..., bytes],
) -> None:
    if transport == "grpcio":
        pytest.skip("gRPC's own server cancels calls that come in the moment in which it ends")
    requests = [
        embed_request("a text", cache=common_pb2.CacheOptions(mode=mode))
        for mode in (common_pb2.CACHE_MODE_DEFAULT, common_pb2.CACHE_MODE_BYPASS)
    ] * 2
    with launch() as ending:
        connections = [await open_raw(ending.address) for _ in requests]
        for connection, request in zip(connections, requests, strict=True):
            answer = await connection.answer(connection.call(EMBED, message(request)))
            assert answer.grpc_status == 0
        calling = asyncio.gather(*map(call_until_it_goes_away, connections, requests))
        ending.terminate()
        await calling


async def test_no_call_of_a_client_under_load_fails_over_many_ages(
    short_lived: Any,
    connect: Callable[..., Any],
    open_raw: Callable[..., Awaitable[Any]],
    embed_request: Callable[..., bytes],
) -> None:
    hit, miss = embed_request("a text"), embed_request("a text", cache={"mode": 3})
    client = connect(short_lived.address, **{"grpc.enable_retries": 1})
    async with load(
        client, [(EMBED, hit)] * 4 + [(EMBED, miss)] * 2 + [("Echo", b"a")] * 4
    ) as done:
        for _ in range(4):
            witness = await open_raw(short_lived.address)
            before = done[0]
            await witness.until(GOAWAY)
            assert done[0] > before


async def test_calls_in_progress_end_well_when_the_server_is_told_to_end(
    launch: Callable[..., Any],
    connect: Callable[..., Any],
    embed_request: Callable[..., bytes],
    server: Any,
    name: str,
) -> None:
    """Nor does any other call fail, where there is another server to go to."""
    with launch(server_drain_delay="500ms") as ending:
        both = f"ipv4:{ending.address},{server.address}"
        client = connect(both, **ONE_OF_SEVERAL)
        here = connect(ending.address)
        chat = here.chat(metadata=[("name", name)])
        await chat.write(b"before")
        assert await chat.read() == b"before"
        asked = json.dumps({"count": 300, "size": 10**5, "name": "pieces" + name}).encode()
        pieces = here.stream("Pieces", asked)
        assert len(await pieces.read()) == 10**5
        watch = health_pb2_grpc.HealthStub(here.channel).Watch(health_pb2.HealthCheckRequest())
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        request = embed_request("a text", namespace=name)
        async with load(client, [(EMBED, request)] * 4 + [("Echo", b"a")] * 4):
            ending.terminate()
            assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
            assert await watch.read() is grpc.aio.EOF  # it takes no more calls soon
            await chat.write(b"after")
            assert await chat.read() == b"after"
            assert len(await rest(pieces)) == 299
            assert await finish(chat) == AFTERWARDS
            assert await asyncio.to_thread(ending.process.wait, 60) == 0


async def test_a_client_that_waits_for_its_server_is_answered_when_that_is_there(
    launch: Callable[..., Any], connect: Callable[..., Any], tmp_path: Path
) -> None:
    path = tmp_path / "socket"
    client = connect(f"unix:{path}", **{"grpc.max_reconnect_backoff_ms": 200})
    call = client.unary("Echo", b"a", wait_for_ready=True)
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await client.unary("Echo", b"b")
    assert error.value.code() is grpc.StatusCode.UNAVAILABLE
    assert not call.done()
    with launch(server_socket=path):
        assert await call == b"a"
