"""Streams: both ways at once, ended on one side, many of them, and slow ones."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from embercache.v1 import embed_pb2

from tests.integration.transport.interop.http2 import DATA, call_headers, message

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

EMBED = "/embercache.v1.EmbedService/Embed"
EMBED_STREAM = "/embercache.v1.EmbedService/EmbedStream"
AFTERWARDS = [b"after the end: %d" % number for number in range(3)]


async def converse(call: Any, said: list[bytes]) -> list[bytes]:
    """What was answered to each message, one after the other."""
    answers = []
    for each in said:
        await call.write(each)
        answers.append(await call.read())
    return answers


async def rest(call: Any) -> list[bytes]:
    answers = []
    while (answer := await call.read()) is not grpc.aio.EOF:
        answers.append(answer)
    return answers


async def test_a_server_goes_on_when_its_caller_has_said_all(client: Any) -> None:
    call = client.chat()
    assert await converse(call, [b"a", b"", b"c" * 100_000]) == [b"a", b"", b"c" * 100_000]
    await call.done_writing()
    assert await rest(call) == AFTERWARDS
    assert await call.code() is grpc.StatusCode.OK


async def test_a_caller_may_say_nothing_at_all(client: Any) -> None:
    call = client.chat()
    await call.done_writing()
    assert await rest(call) == AFTERWARDS


async def test_an_answer_may_end_while_its_caller_still_speaks(client: Any) -> None:
    call = client.chat("EndEarly")
    await call.write(b"first")
    assert await rest(call) == [b"first"]
    assert await call.code() is grpc.StatusCode.OK
    assert await client.unary("Echo", b"still here") == b"still here"


async def test_a_server_that_has_ended_asks_its_caller_to_end_or_takes_what_he_sends(
    server: Any, open_raw: Callable[..., Awaitable[Any]]
) -> None:
    connection = await open_raw(server.address)
    stream = connection.open_stream(*call_headers("/interop.Probe/EndEarly"))
    connection.send_data(stream, message(b"first"))
    answer = await connection.answer(stream)
    assert (answer.data, answer.grpc_status, answer.reset) == (message(b"first"), 0, None)
    for _ in range(100):
        connection.send_data(stream, message(bytes(600)))
    answer = await connection.answer(connection.call("/interop.Probe/Echo", message(b"a")))
    assert answer.grpc_status == 0


async def test_what_a_caller_uploads_arrives_whole(client: Any) -> None:
    call = client.upload("Collect")
    for _ in range(200):
        await call.write(bytes(50_000))
    await call.done_writing()
    assert json.loads(await call) == [200, 10_000_000]


async def test_thousands_of_calls_at_once_on_one_connection(client: Any) -> None:
    calls = [client.unary("Echo", b"%d" % number) for number in range(4000)]
    answers = await asyncio.gather(*calls)
    assert answers == [b"%d" % number for number in range(4000)]


async def test_thousands_of_hits_at_once_on_one_connection(
    client: Any, embed_request: Callable[..., bytes], name: str
) -> None:
    request = embed_request("a text", namespace=name)
    first = embed_pb2.EmbedResponse.FromString(await client.unary(EMBED, request))
    answers = await asyncio.gather(*(client.unary(EMBED, request) for _ in range(4000)))
    vectors = {embed_pb2.EmbedResponse.FromString(each).embeddings[0].vector for each in answers}
    assert vectors == {first.embeddings[0].vector}


async def test_a_thousand_conversations_at_once_on_one_connection(client: Any, name: str) -> None:
    calls = [client.chat(metadata=[("name", name)]) for _ in range(1000)]
    said = [[b"%d" % number] for number in range(1000)]
    answers = await asyncio.gather(*map(converse, calls, said))
    assert answers == said
    # All of them are open now.
    assert await client.counts(name) == (1000, 1000)
    for call in calls:
        await call.done_writing()
    assert await asyncio.gather(*map(rest, calls)) == [AFTERWARDS] * 1000
    await client.until(name, started=1000, running=0)


async def test_a_conversation_with_the_cache(
    client: Any, embed_request: Callable[..., bytes], name: str
) -> None:
    call = client.chat(EMBED_STREAM)
    request = embed_pb2.EmbedStreamRequest(
        id=1, request=embed_pb2.EmbedRequest.FromString(embed_request("a text", namespace=name))
    )
    await call.write(request.SerializeToString())
    answer = embed_pb2.EmbedStreamResponse.FromString(await call.read())
    assert answer.id == 1
    await call.done_writing()
    assert await rest(call) == []
    assert await call.code() is grpc.StatusCode.OK


async def test_who_does_not_read_holds_up_his_own_stream_only(
    server: Any, open_raw: Callable[..., Awaitable[Any]], client: Any, name: str
) -> None:
    connection = await open_raw(server.address, window=2**20)
    asked = json.dumps({"count": 100, "size": 10**6, "name": name}).encode()
    connection.call("/interop.Probe/Pieces", message(asked))
    # Until the stream's window is used up; that of the connection has room for another.
    received = 0
    async with asyncio.timeout(60):
        while received < 2**20:
            each = await connection.read()
            received += len(each.payload) if each.kind == DATA else 0
    answer = await connection.answer(connection.call("/interop.Probe/Echo", message(b"a")))
    assert answer.grpc_status == 0
    assert await client.counts(name) == (1, 1)


@pytest.mark.parametrize("pieces", [1, 3, 1000])
async def test_frames_need_not_be_messages(
    server: Any,
    open_raw: Callable[..., Awaitable[Any]],
    embed_request: Callable[..., bytes],
    name: str,
    pieces: int,
) -> None:
    """Bytes of a message may come one by one, with empty frames between, and the end alone."""
    connection = await open_raw(server.address)
    request = message(embed_request("a text" * 20, namespace=name))
    step = -(-len(request) // pieces)
    for _ in range(3):
        stream = connection.open_stream(*call_headers(EMBED))
        for start in range(0, len(request), step):
            connection.send_data(stream, request[start : start + step])
            if not start % 16:
                connection.send_data(stream, b"")
        connection.send_data(stream, b"", ends=True)
        answer = await connection.answer(stream)
        assert (answer.http_status, answer.grpc_status) == ("200", 0)
