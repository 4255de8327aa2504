"""What every server of gRPC has beside its own services, and calls that are none."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc
import pytest
from google.protobuf import descriptor_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

from tests.integration.transport.interop.http2 import call_headers, message

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

EMBED = "/embercache.v1.EmbedService/Embed"
ECHO = "/interop.Probe/Echo"
SERVING = health_pb2.HealthCheckResponse.SERVING


def test_a_client_finds_out_the_schema(server: Any) -> None:
    with grpc.insecure_channel(server.address) as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        services = set(database.get_services())
        file = database.FindFileContainingSymbol("embercache.v1.EmbedService")
    assert {"embercache.v1.EmbedService", "grpc.health.v1.Health"} <= services
    assert isinstance(file, descriptor_pb2.FileDescriptorProto)
    assert [service.name for service in file.service] == ["EmbedService"]


async def test_a_client_may_ask_for_the_schema_bit_by_bit(client: Any) -> None:
    call = reflection_pb2_grpc.ServerReflectionStub(client.channel).ServerReflectionInfo()
    for _ in range(3):
        await call.write(reflection_pb2.ServerReflectionRequest(list_services=""))
        answer = await call.read()
        assert answer.list_services_response.service
    await call.done_writing()
    assert await call.read() is grpc.aio.EOF


async def test_health_is_told_and_watched(client: Any) -> None:
    health = health_pb2_grpc.HealthStub(client.channel)
    assert (await health.Check(health_pb2.HealthCheckRequest())).status == SERVING
    watch = health.Watch(health_pb2.HealthCheckRequest(service="embercache.v1.EmbedService"))
    assert (await watch.read()).status == SERVING
    watch.cancel()
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await health.Check(health_pb2.HealthCheckRequest(service="none"))
    assert error.value.code() is grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize(
    "path", ["/interop.Probe/None", "/none/None", "/embercache.v1/", "/", "/a"]
)
async def test_a_method_that_is_not_there_is_unimplemented(client: Any, path: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await client.unary(path, b"")
    assert error.value.code() is grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize("path", [EMBED, ECHO])
async def test_a_stream_to_a_method_of_one_message_has_one_answer(
    client: Any, embed_request: Callable[..., bytes], name: str, path: str
) -> None:
    for _ in range(3):
        call = client.chat(path)
        await call.write(embed_request("a text", namespace=name))
        await call.done_writing()
        assert await call.read()
        assert await call.read() is grpc.aio.EOF
        assert await call.code() is grpc.StatusCode.OK


# A call that is none: the headers that differ, what is sent, and the statuses that are right. None
# stands for a stream that was reset or a connection that was closed.
REFUSED: dict[str, tuple[list[tuple[str, str]], bytes, set[int | None]]] = {
    "a GET": ([(":method", "GET")], b"", {None, 12, 13}),
    "a PUT": ([(":method", "PUT")], message(b""), {None, 12, 13}),
    "no method": ([(":method", "")], message(b""), {None, 12, 13}),
    "a length of 4 GiB": ([], b"\0\xff\xff\xff\xffabc", {None, 8}),
    "a length past the limit": ([], b"\0\x02\0\0\x01abc", {None, 8}),
    "compressed by nobody says what": ([], message(b"abc", 1), {None, 12, 13}),
    "compressed, but not": ([("grpc-encoding", "gzip")], message(b"abc", 1), {None, 13}),
    "no such time limit": ([("grpc-timeout", "soon")], message(b""), {None, 13}),
}
# Where gRPC's own server reads on for ever, or takes the first message.
ODD: dict[str, tuple[list[tuple[str, str]], bytes]] = {
    "no body": ([], b""),
    "half a prefix": ([], b"\0\0\0"),
    "half a message": ([], message(b"abcdef")[:-3]),
    "JSON": ([("content-type", "application/json")], b"{}"),
    "a message of JSON": ([("content-type", "application/json")], message(b"{}")),
    "an unknown flag": ([], message(b"abc", 0x80)),
    "bytes behind the message": ([], message(b"") + b"\0\0"),
    "two messages": ([], message(b"\x08\x01") * 2),
}


async def echoes(connection: Any) -> bool:
    """Whether calls are answered on a connection."""
    answer = await connection.answer(connection.call(ECHO, message(b"a")))
    return (answer.data, answer.grpc_status) == (message(b"a"), 0)


@pytest.mark.threat("A caller sends hostile bytes")
@pytest.mark.parametrize("path", [EMBED, ECHO])
@pytest.mark.parametrize("kind", REFUSED)
async def test_what_is_no_call_is_refused_and_nobody_else_notices(
    server: Any, client: Any, open_raw: Callable[..., Awaitable[Any]], kind: str, path: str
) -> None:
    headers, sent, allowed = REFUSED[kind]
    connection = await open_raw(server.address)
    stream = connection.open_stream(*call_headers(path, *headers))
    connection.send_data(stream, sent, ends=True)
    answer = await connection.answer(stream)
    assert answer.grpc_status in allowed
    assert answer.grpc_status or answer.reset is not None or answer.closed or answer.http_status
    assert await client.unary("Echo", b"still here") == b"still here"
    assert await echoes(await open_raw(server.address))


@pytest.mark.parametrize("path", [EMBED, ECHO])
@pytest.mark.parametrize("kind", ODD)
async def test_odd_calls_harm_nobody_else(
    server: Any, client: Any, open_raw: Callable[..., Awaitable[Any]], kind: str, path: str
) -> None:
    headers, sent = ODD[kind]
    connection = await open_raw(server.address)
    for _ in range(20):
        stream = connection.open_stream(*call_headers(path, *headers))
        connection.send_data(stream, sent, ends=True)
    assert await echoes(connection)
    assert await client.unary("Echo", b"still here") == b"still here"
    assert await echoes(await open_raw(server.address))
