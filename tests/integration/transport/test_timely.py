"""Callers who begin a call and do not send what they have to say."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from sidecar.config import ServerSettings
from sidecar.transport import timely
from sidecar.transport.server import GrpcServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

HANG_GUARD = 30.0
CHECK = "/grpc.health.v1.Health/Check"


async def _pieces(request: bytes, _context: Any) -> AsyncIterator[bytes]:
    yield request
    yield request


@pytest.fixture
async def channel() -> AsyncIterator[grpc.aio.Channel]:
    """To a server that takes two calls at once, and has a method /tests.Probe/Pieces."""
    method = grpc.unary_stream_rpc_method_handler(_pieces)
    probe = grpc.method_handlers_generic_handler("tests.Probe", {"Pieces": method})
    settings = ServerSettings(address="127.0.0.1:0", max_calls=2, drain_delay=0)
    server = GrpcServer(settings, [probe])
    await server.start()
    async with grpc.aio.insecure_channel(server.addresses[0]) as opened:
        yield opened
    await server.drain()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timely, "MESSAGE_SECONDS", 0.05)


@pytest.mark.usefixtures("impatient")
@pytest.mark.threat("A stranger takes every call there may be at once")
@pytest.mark.parametrize("path", [CHECK, "/tests.Probe/Pieces"])
async def test_who_sends_no_message_has_to_give_his_place_to_others(
    channel: grpc.aio.Channel, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    silent = [channel.stream_unary(path)() for _ in range(2)]
    for call in silent:
        async with asyncio.timeout(HANG_GUARD):
            assert await call.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert await call.details() == "the message of this call has not come within 0.05 seconds"
    monkeypatch.undo()
    await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())


@pytest.mark.usefixtures("impatient")
async def test_a_stream_of_messages_may_be_silent_for_long(channel: grpc.aio.Channel) -> None:
    stream = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo()
    silent = channel.stream_unary(CHECK)()
    assert await silent.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await stream.write(reflection_pb2.ServerReflectionRequest(list_services=""))
    async with asyncio.timeout(HANG_GUARD):
        assert (await stream.read()).list_services_response.service
    stream.cancel()


async def test_a_call_that_ends_without_its_message_is_told_so(channel: grpc.aio.Channel) -> None:
    call = channel.stream_unary(CHECK)()
    await call.done_writing()
    assert await call.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert await call.details() == "this call needs a message"


async def test_who_leaves_before_his_message_leaves_nothing_behind(
    channel: grpc.aio.Channel,
) -> None:
    for _ in range(20):
        call = channel.stream_unary(CHECK)()
        await call.wait_for_connection()
        call.cancel()
    async with asyncio.timeout(HANG_GUARD):
        while True:
            with contextlib.suppress(grpc.aio.AioRpcError):
                await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
                break


async def test_a_method_of_many_responses_gives_them(channel: grpc.aio.Channel) -> None:
    call = channel.unary_stream("/tests.Probe/Pieces")(b"one")
    assert [piece async for piece in call] == [b"one", b"one"]
