"""How calls end before their time: cancelled, too late, refused."""

from __future__ import annotations

import asyncio
import json
import struct
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from tests.integration.transport.interop.http2 import (
    CANCEL,
    RST_STREAM,
    call_headers,
    frame,
    message,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

EMBED = "/embercache.v1.EmbedService/Embed"
CODES = [code for code in grpc.StatusCode if code is not grpc.StatusCode.OK]
# What every byte of a message may be: control characters, percent signs, other scripts.
MESSAGES = [
    "", "plain", '100 % of "it", at /a/b?c=d', "Zażółć 日本語 👩🏽‍🚀", "a\nb\tc\r\n", "%41%",
    "x" * 2000,
]  # fmt: skip


async def error_of(call: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call
    return error.value


async def rest(call: Any) -> list[bytes]:
    return [each async for each in call]


@pytest.mark.parametrize("path", [EMBED, "/interop.Probe/Echo", "/interop.Probe/Chat"])
async def test_a_call_that_is_cancelled_before_its_message_leaves_the_connection_as_it_was(
    client: Any, path: str
) -> None:
    for _ in range(20):
        call = client.chat(path)
        await asyncio.sleep(0)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call.read()
    assert await client.unary("Echo", b"still here") == b"still here"


@pytest.mark.parametrize("sent", [b"", b"\0", b"\0\0\0\0", b"\0\0\0\0\x10", b"\0\0\0\0\x10abc"])
@pytest.mark.parametrize("path", [EMBED, "/interop.Probe/Echo"])
async def test_a_call_that_is_cancelled_within_its_message_leaves_the_connection_as_it_was(
    server: Any, open_raw: Callable[..., Awaitable[Any]], path: str, sent: bytes
) -> None:
    connection = await open_raw(server.address)
    for _ in range(20):
        stream = connection.open_stream(*call_headers(path))
        if sent:
            connection.send_data(stream, sent)
        connection.send(frame(RST_STREAM, stream, struct.pack(">I", CANCEL)))
    answer = await connection.answer(connection.call("/interop.Probe/Echo", message(b"a")))
    assert (answer.data, answer.grpc_status) == (message(b"a"), 0)


async def test_the_server_hears_of_a_caller_who_does_not_wait_for_the_answer(
    client: Any, name: str
) -> None:
    calls = [client.unary("Hold", name.encode()) for _ in range(10)]
    await client.until(name, started=10, running=10)
    for call in calls[:9]:
        call.cancel()
    await client.until(name, started=10, running=1)
    calls[9].cancel()
    await client.until(name, started=10, running=0)


async def test_the_server_hears_of_a_caller_who_has_enough_of_a_stream(
    client: Any, name: str
) -> None:
    asked = json.dumps({"count": 10**9, "size": 1000, "name": name}).encode()
    call = client.stream("Pieces", asked)
    for _ in range(3):
        assert len(await call.read()) == 1000
    call.cancel()
    await client.until(name, started=1, running=0)


async def test_the_server_hears_of_a_caller_who_leaves_a_conversation(
    client: Any, name: str
) -> None:
    call = client.chat(metadata=[("name", name)])
    await call.write(b"hello")
    assert await call.read() == b"hello"
    call.cancel()
    await client.until(name, started=1, running=0)


async def test_the_server_hears_of_a_connection_that_is_gone(
    client: Any, server: Any, open_raw: Callable[..., Awaitable[Any]], name: str
) -> None:
    connection = await open_raw(server.address)
    for _ in range(5):
        connection.call("/interop.Probe/Hold", message(name.encode()))
    await client.until(name, started=5, running=5)
    await connection.close()
    await client.until(name, started=5, running=0)


@pytest.mark.parametrize("timeout", [0, -1])
async def test_a_deadline_that_has_passed_before_the_call_ends_it(
    client: Any, timeout: float
) -> None:
    error = await error_of(client.unary("Hold", b"", timeout=timeout))
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED


@pytest.mark.parametrize("timeout", ["0n", "1n", "1u"])
async def test_a_deadline_that_passes_on_the_way_ends_the_call_at_the_server(
    client: Any, server: Any, open_raw: Callable[..., Awaitable[Any]], name: str, timeout: str
) -> None:
    connection = await open_raw(server.address)
    sent = message(name.encode())
    stream = connection.call("/interop.Probe/Hold", sent, ("grpc-timeout", timeout))
    answer = await connection.answer(stream)
    assert answer.grpc_status in (None, grpc.StatusCode.DEADLINE_EXCEEDED.value[0])
    assert answer.grpc_status or answer.reset is not None
    _, running = await client.counts(name)
    assert not running


async def test_a_deadline_that_passes_while_the_server_works_ends_its_work(
    client: Any, name: str
) -> None:
    error = await error_of(client.unary("Hold", name.encode(), timeout=0.5))
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    async with asyncio.timeout(60):
        while (await client.counts(name))[1]:
            await asyncio.sleep(0.005)


async def test_a_deadline_that_passes_within_a_stream_ends_it_at_both_ends(
    client: Any, name: str
) -> None:
    call = client.chat(metadata=[("name", name)], timeout=0.5)
    error = await error_of(rest(call))
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    async with asyncio.timeout(60):
        while (await client.counts(name))[1]:
            await asyncio.sleep(0.005)


@pytest.mark.parametrize("code", CODES)
async def test_every_status_comes_with_its_message_and_metadata(
    client: Any, code: grpc.StatusCode
) -> None:
    trailing = [
        ("grpc-retry-pushback-ms", "1234"),
        ("trailing-text", "a value"),
        ("trailing-data-bin", bytes(range(256))),
    ]
    sent = [("code", str(code.value[0])), *trailing]
    error = await error_of(client.unary("Fail", b"why", metadata=sent))
    assert error.code() is code
    assert error.details() == "why"
    assert [each for each in error.trailing_metadata() or () if each in trailing] == trailing


@pytest.mark.parametrize("text", MESSAGES)
@pytest.mark.parametrize("method", ["Fail", "FailAfter"])
async def test_any_text_may_be_the_message_of_an_error(client: Any, method: str, text: str) -> None:
    sent = {"metadata": [("code", "9")]}
    if method == "Fail":
        error = await error_of(client.unary(method, text.encode(), **sent))
    else:
        call = client.stream(method, text.encode(), **sent)
        assert await call.read() == text.encode()
        error = await error_of(call.read())
    assert (error.code(), error.details()) == (grpc.StatusCode.FAILED_PRECONDITION, text)


async def test_an_error_without_an_answer_is_one_block_of_headers(
    server: Any, open_raw: Callable[..., Awaitable[Any]]
) -> None:
    connection = await open_raw(server.address)
    stream = connection.call("/interop.Probe/Fail", message(b"no"), ("code", "5"))
    answer = await connection.answer(stream)
    assert answer.data == b""
    assert [name for name, _ in answer.headers].count(":status") == 1
    assert (answer.http_status, answer.grpc_status) == ("200", 5)
    assert dict(answer.headers)["content-type"] == "application/grpc"


async def test_errors_of_the_cache_say_what_was_wrong(client: Any) -> None:
    error = await error_of(client.unary(EMBED, b"no message"))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert error.details()
    error = await error_of(client.unary(EMBED, b""))
    assert error.details() == "the batch is empty: put at least one input into it"
