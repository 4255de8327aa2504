"""The gRPC server as it starts and ends."""

from __future__ import annotations

import pytest

from sidecar.config import ServerSettings
from sidecar.transport import server
from sidecar.transport.server import GrpcServer


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
