"""The socket between the front door and the server behind it, for those who find it."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from sidecar.config import ServerSettings
from sidecar.telemetry.metrics import BUCKETS
from sidecar.transport.front_door import FrontDoor
from sidecar.transport.handed_over import SECRET
from sidecar.transport.private_socket import PrivateSocket

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

SERVICE = "test.Service"


@pytest.fixture
async def private() -> AsyncIterator[PrivateSocket]:
    """The socket."""
    private = PrivateSocket()
    yield private
    private.close()


@pytest.fixture
async def door(private: PrivateSocket) -> AsyncIterator[FrontDoor]:
    """A front door, with a server behind it that says who calls."""

    async def who(_request: bytes, context: Any) -> bytes:
        metadata = dict(context.invocation_metadata())
        return str(metadata["embercache-peer"]).encode()

    native = pytest.importorskip("embercache_native")
    front = native.Front(
        native.HotTier(0, time.monotonic),
        private.address,
        {},
        secret=private.secret,
        bounds=BUCKETS,
        most_connections=10,
    )
    handlers = grpc.method_handlers_generic_handler(
        SERVICE, {"Who": grpc.unary_unary_rpc_method_handler(who)}
    )
    settings = ServerSettings(address="127.0.0.1:0", drain_timeout=0.0)
    door = FrontDoor(settings, [handlers], front, private, is_encrypted=False, drained=lambda: None)
    await door.start()
    yield door
    await door.drain()


async def call(address: str, *metadata: tuple[str, str]) -> bytes:
    async with grpc.aio.insecure_channel(address) as channel:
        answer: bytes = await channel.unary_unary(f"/{SERVICE}/Who")(
            b"", metadata=metadata, timeout=30
        )
        return answer


@pytest.mark.threat("A caller without a token calls")
@pytest.mark.parametrize(
    "shown", [(), ("",), ("0" * 64,), ("real", "real")], ids=["nothing", "empty", "another", "two"]
)
async def test_who_connects_there_is_not_believed_who_he_says_he_is(
    door: FrontDoor, private: PrivateSocket, shown: tuple[str, ...]
) -> None:
    known = {"real": private.secret}
    metadata = [(SECRET, known.get(each, each)) for each in shown]
    # As another process of this user would.
    found = private.address.replace("self", str(os.getpid()))
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call(f"unix:{found}", ("embercache-peer", "unix"), *metadata)
    assert error.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert "call on server.address" in str(error.value.details())


async def test_each_call_is_looked_at_by_itself(door: FrontDoor, private: PrivateSocket) -> None:
    for _ in range(2):
        assert await call(door.addresses[0], ("embercache-peer", "unix")) == b"tcp"
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await call(f"unix:{private.address}")
        assert error.value.code() is grpc.StatusCode.UNAUTHENTICATED
