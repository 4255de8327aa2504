"""How calls that are traced end."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import CollectorRegistry

from sidecar.telemetry.metrics import CallMetrics
from sidecar.telemetry.tracing import Tracing
from sidecar.transport.traced_handlers import TracedHandlers

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class Context:
    """A call without metadata and deadline."""

    def invocation_metadata(self) -> tuple[()]:
        return ()

    def time_remaining(self) -> None:
        return None


async def test_a_stream_that_is_cancelled_while_it_ends_has_its_span() -> None:
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracing = Tracing(provider.get_tracer("test"), 1)
    ending = asyncio.Event()

    async def answer(_: bytes) -> AsyncIterator[bytes]:
        try:
            yield b"a response"
        finally:
            ending.set()
            await asyncio.Event().wait()

    handle = TracedHandlers(CallMetrics(CollectorRegistry()), tracing).streaming("s", "m", answer)

    async def call() -> None:
        responses = handle(b"", Context())  # type: ignore[arg-type]
        await anext(responses)
        await responses.aclose()  # type: ignore[attr-defined]

    running = asyncio.create_task(call())
    await ending.wait()
    running.cancel()
    await asyncio.wait({running})
    assert running.cancelled()
    (span,) = exporter.get_finished_spans()
    assert (span.attributes or {})["rpc.response.status_code"] == "CANCELLED"
