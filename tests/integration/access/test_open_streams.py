"""Callers of streams that are open while the policy changes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc
import pytest
from prometheus_client import CollectorRegistry

from sidecar.access.table import CallerTable
from sidecar.telemetry.metrics import CallMetrics
from sidecar.transport.guarded_handlers import GuardedHandlers
from sidecar.transport.handlers import Handlers, Stream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

SERVICE = "embercache.v1.EmbedService"
TOKEN = "the-token-of-one-caller"  # noqa: S105
HANG_GUARD = 30.0


@pytest.mark.threat("A caller with a withdrawn token goes on")
async def test_a_caller_withdrawn_between_admission_and_his_first_request_is_refused(
    access: Any,
) -> None:
    async def echo(requests: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        access.table = CallerTable()
        async for request in requests:
            yield request

    guarded = GuardedHandlers(Handlers(CallMetrics(CollectorRegistry())), access)
    server = grpc.aio.server()
    server.add_generic_rpc_handlers([guarded.of(SERVICE, EmbedStream=Stream(echo))])
    port = server.add_insecure_port("localhost:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"localhost:{port}") as channel:
            call = channel.stream_stream(f"/{SERVICE}/EmbedStream")(
                iter([b"a request"]),
                metadata=[("authorization", f"Bearer {TOKEN}")],
                timeout=HANG_GUARD,
            )
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await anext(aiter(call))
        assert raised.value.code() is grpc.StatusCode.UNAUTHENTICATED
    finally:
        await server.stop(None)
