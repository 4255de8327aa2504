"""Calls that are traced and guarded."""

from __future__ import annotations

import contextlib
import secrets
import socket
from typing import TYPE_CHECKING, Any

import aiohttp
import grpc

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    Start = Callable[..., Awaitable[Any]]


def traceparent() -> str:
    return f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-01"


async def test_calls_of_callers_are_traced_and_a_stranger_begins_no_span(
    start: Start, policy: Any, collector: Any
) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        front = f"127.0.0.1:{probe.getsockname()[1]}"
    sidecar = await start(
        access=policy.section,
        tracing={"endpoint": collector.endpoint, "sample": 0},
        server={"address": "127.0.0.1:0", "openai_address": front, "drain_delay": 0},
    )
    known = ("authorization", f"Bearer {policy.token('shop')}")
    for shown in ((), (known,)):
        metadata = (*shown, ("traceparent", traceparent()))
        with contextlib.suppress(grpc.aio.AioRpcError):
            await sidecar.embeds.Embed(sidecar.request("a text"), metadata=metadata)
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"http://{front}/v1/models", headers=metadata) as response,
        ):
            assert response.status == (200 if shown else 401)
    await sidecar.stop()
    servers = [span.name for span in collector.spans if span.kind == span.SPAN_KIND_SERVER]
    assert sorted(servers) == ["GET /v1/models", "embercache.v1.EmbedService/Embed"]
