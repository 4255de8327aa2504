"""The gRPC server as it starts and ends."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import TYPE_CHECKING, Any

import grpc
import pytest
import structlog
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from sidecar.app import App
from sidecar.config import ServerSettings, Settings
from sidecar.transport import server
from sidecar.transport.listening import ListenError
from sidecar.transport.server import GrpcServer

if TYPE_CHECKING:
    from collections.abc import Iterator

HANG_GUARD = 30.0


@pytest.fixture
def taken() -> Iterator[str]:
    """An address on which another process listens."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        yield f"127.0.0.1:{other.getsockname()[1]}"


@pytest.mark.parametrize("age", ["0", "0.1ms", "24d", "25d", "365d"])
async def test_connections_may_have_any_greatest_age_that_can_be_set(age: str) -> None:
    settings = ServerSettings(address="127.0.0.1:0", max_connection_age=age, drain_delay=0)
    grpc_server = GrpcServer(settings, [])
    await grpc_server.start()
    assert grpc_server.is_serving
    await grpc_server.drain()


def test_an_age_below_what_grpc_counts_is_not_for_ever() -> None:
    assert server._milliseconds(0.0001) == 1
    assert server._milliseconds(0) == server._milliseconds(10**9) == 2**31 - 1


@pytest.mark.parametrize("openai_address", ["", "127.0.0.1:0"])
async def test_a_start_that_fails_waits_for_nobody(
    openai_address: str, taken: str, transport: str
) -> None:
    server: dict[str, Any] = {"address": taken, "openai_address": openai_address}
    server |= {"transport": transport, "drain_delay": "1h"}
    settings = Settings.model_validate({"server": server})
    async with asyncio.timeout(HANG_GUARD):
        with pytest.raises(ListenError, match=f"cannot listen on {taken}"):
            await App(settings).__aenter__()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("127.0.0.1:7000", "127.0.0.1:7000"),
        ("127.0.0.1:7000", "0.0.0.0:7000"),
        ("[::]:7000", "[::1]:7000"),
    ],
)
@pytest.mark.parametrize(
    "names", [("address", "metrics_address"), ("openai_address", "metrics_address")]
)
def test_two_listeners_of_one_port_are_named(one: str, other: str, names: tuple[str, str]) -> None:
    reason = "server.{} and server.{} have the same port, 7000: give each".format(*names)
    with pytest.raises(ValueError, match=reason):
        ServerSettings(**{names[0]: one, names[1]: other, "insecure": True})


@pytest.mark.parametrize(
    ("one", "other"), [("127.0.0.1:0", "127.0.0.1:0"), ("127.0.0.1:7000", "127.0.0.2:7000")]
)
def test_listeners_may_have_any_free_port_or_addresses_of_their_own(one: str, other: str) -> None:
    ServerSettings(address=one, metrics_address=other)


async def test_a_front_whose_host_can_be_no_name_is_refused() -> None:
    server = {"address": "127.0.0.1:0", "openai_address": "a..b:0", "insecure": True}
    with pytest.raises(ListenError, match=r"cannot listen on a\.\.b:0: is there such a host"):
        await App(Settings.model_validate({"server": server})).__aenter__()


async def test_where_metrics_are_is_logged() -> None:
    server = {"address": "127.0.0.1:0", "metrics_address": "127.0.0.1:0", "drain_delay": 0}
    with structlog.testing.capture_logs() as logs:
        async with App(Settings.model_validate({"server": server})):
            pass
    (log,) = (log for log in logs if log["event"] == "serving")
    assert int(log["metrics_address"].removeprefix("127.0.0.1:")) > 0


async def test_more_calls_at_once_than_allowed_are_refused_until_some_have_ended() -> None:
    settings = ServerSettings(address="127.0.0.1:0", max_calls=1, drain_delay=0)
    grpc_server = GrpcServer(settings, [])
    await grpc_server.start()
    async with grpc.aio.insecure_channel(grpc_server.addresses[0]) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        watch = health.Watch(health_pb2.HealthCheckRequest())
        await watch.read()
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await health.Check(health_pb2.HealthCheckRequest())
        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        watch.cancel()
        async with asyncio.timeout(HANG_GUARD):
            while True:
                with contextlib.suppress(grpc.aio.AioRpcError):
                    await health.Check(health_pb2.HealthCheckRequest())
                    break
    await grpc_server.drain()


async def test_who_calls_himself_can_send_less_metadata_than_a_front_door_hands_over() -> None:
    settings = ServerSettings(address="127.0.0.1:0", drain_delay=0)
    grpc_server = GrpcServer(settings, [])
    await grpc_server.start()
    async with grpc.aio.insecure_channel(grpc_server.addresses[0]) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        with pytest.raises(grpc.aio.AioRpcError, match="metadata"):
            await health.Check(
                health_pb2.HealthCheckRequest(), metadata=[("much", "x" * 64 * 1024)]
            )
    await grpc_server.drain()


async def test_who_watches_or_reads_the_schema_leaves_the_most_calls_to_others() -> None:
    settings = ServerSettings(address="127.0.0.1:0", max_calls=200, drain_delay=0)
    grpc_server = GrpcServer(settings, [])
    await grpc_server.start()
    async with grpc.aio.insecure_channel(grpc_server.addresses[0]) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        request = health_pb2.HealthCheckRequest()
        watches = [health.Watch(request) for _ in range(64)]
        for watch in watches:
            await watch.read()
        reflection = reflection_pb2_grpc.ServerReflectionStub(channel)
        listing = [reflection_pb2.ServerReflectionRequest(list_services="")]
        for one_more in (health.Watch(request), reflection.ServerReflectionInfo(iter(listing))):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await one_more.read()
            assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        await health.Check(request)
        watches[0].cancel()
        async with asyncio.timeout(HANG_GUARD):
            while True:
                with contextlib.suppress(grpc.aio.AioRpcError):
                    answer = await reflection.ServerReflectionInfo(iter(listing)).read()
                    break
        assert answer.list_services_response.service
    await grpc_server.drain()
