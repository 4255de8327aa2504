"""Messages of all sizes, compressed or not."""

from __future__ import annotations

import gzip
import json
import os
import zlib
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from tests.integration.transport.interop.http2 import message

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

EMBED = "/embercache.v1.EmbedService/Embed"
OURS = 16 * 2**20
ENCODINGS = {"gzip": gzip.compress, "deflate": zlib.compress}


def with_unknown_model(embed_request: Callable[..., bytes], size: int) -> bytes:
    """A request of just so many bytes, which is refused for its model if it is read at all."""
    text = "a" * (size - len(embed_request("", model="none")) - 3)
    while len(made := embed_request(text, model="none")) != size:
        text = text[: size - len(made)] if len(made) > size else text + "a"
    return made


async def status(call: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call
    return error.value.code(), error.value.details() or ""


@pytest.mark.parametrize("size", [0, 1, 2**14 - 5, 2**16 - 6, 2**16, 2**20 + 1])
async def test_a_message_comes_back_as_it_went(client: Any, size: int) -> None:
    sent = os.urandom(size)
    assert await client.unary("Echo", sent) == sent


@pytest.mark.parametrize("size", [OURS, 2 * OURS])
async def test_a_large_message_goes_both_ways(client: Any, size: int) -> None:
    sent = os.urandom(2**20) * (size // 2**20)
    assert await client.unary("Echo", sent) == sent


async def test_a_message_above_what_grpc_takes_is_refused(client: Any) -> None:
    code, said = await status(client.unary("Echo", bytes(2 * OURS + 1)))
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "larger than max" in said


@pytest.mark.parametrize(
    ("size", "says"),
    [
        (OURS - 1, "no such model"),
        (OURS, "no such model"),
        (OURS + 1, "more than the 16777216 allowed"),
        (2 * OURS, "more than the 16777216 allowed"),
        (2 * OURS + 1, "larger than max"),
    ],
)
async def test_a_request_may_be_as_large_as_is_set_and_no_larger(
    client: Any, embed_request: Callable[..., bytes], size: int, says: str
) -> None:
    request = with_unknown_model(embed_request, size)
    assert len(request) == size
    _, said = await status(client.unary(EMBED, request))
    assert says in said


async def test_large_messages_of_a_stream_keep_their_order_and_number(
    client: Any, name: str
) -> None:
    asked = json.dumps({"count": 8, "size": 3 * 2**20 + 1, "name": name}).encode()
    sizes = [len(piece) async for piece in client.stream("Pieces", asked)]
    assert sizes == [3 * 2**20 + 1] * 8


async def test_an_answer_larger_than_what_its_caller_takes_is_refused_by_him(
    connect: Callable[..., Any], server: Any
) -> None:
    client = connect(server.address, **{"grpc.max_receive_message_length": 1000})
    assert len(await client.unary("Echo", bytes(1000))) == 1000
    code, said = await status(client.unary("Echo", bytes(1001)))
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "larger than max" in said


@pytest.mark.parametrize("size", [0, 10, 100_000])
@pytest.mark.parametrize("back", ["gzip", "deflate", "identity"])
@pytest.mark.parametrize("forth", list(grpc.Compression))
async def test_messages_are_compressed_both_ways_as_each_side_likes(
    client: Any, forth: grpc.Compression, back: str, size: int
) -> None:
    sent = b"abcd" * (size // 4)
    call = client.unary("Echo", sent, compression=forth, metadata=[("compress", back)])
    assert await call == sent


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
async def test_an_answer_is_compressed_on_the_wire(
    server: Any, open_raw: Callable[..., Awaitable[Any]], encoding: str
) -> None:
    connection = await open_raw(server.address)
    stream = connection.call(
        "/interop.Probe/Echo",
        message(b"a" * 10_000),
        ("grpc-accept-encoding", f"identity,{encoding}"),
        ("compress", encoding),
    )
    answer = await connection.answer(stream)
    assert dict(answer.headers)["grpc-encoding"] == encoding
    assert answer.data[0] == 1
    assert len(answer.data) < 200
    assert zlib.decompress(answer.data[5:], 47) == b"a" * 10_000
    assert answer.grpc_status == 0


@pytest.mark.parametrize("encoding", [*ENCODINGS, "identity"])
async def test_a_compressed_request_of_the_cache_is_read(
    server: Any,
    open_raw: Callable[..., Awaitable[Any]],
    embed_request: Callable[..., bytes],
    name: str,
    encoding: str,
) -> None:
    connection = await open_raw(server.address)
    request = embed_request("a text", namespace=name)
    for _ in range(3):
        compress = ENCODINGS.get(encoding)
        sent = message(compress(request), 1) if compress else message(request)
        stream = connection.call(EMBED, sent, ("grpc-encoding", encoding))
        answer = await connection.answer(stream)
        assert (answer.http_status, answer.grpc_status) == ("200", 0)


async def test_a_compression_that_nobody_knows_is_refused(
    server: Any, open_raw: Callable[..., Awaitable[Any]], embed_request: Callable[..., bytes]
) -> None:
    connection = await open_raw(server.address)
    for flag in (0, 1):
        sent = message(embed_request("a text"), flag)
        stream = connection.call(EMBED, sent, ("grpc-encoding", "snappy"))
        answer = await connection.answer(stream)
        assert answer.grpc_status == grpc.StatusCode.INTERNAL.value[0]
