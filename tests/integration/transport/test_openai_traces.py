"""Traces of calls of the HTTP front."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from embercache.v1 import embed_pb2
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from prometheus_client import CollectorRegistry

from sidecar.config import ServerSettings
from sidecar.models.types import ModelError, ModelUnavailableError
from sidecar.telemetry.metrics import CallMetrics
from sidecar.telemetry.tracing import Tracing
from sidecar.transport.openai.front import OpenAIFront
from sidecar.transport.openai.traced import TracedCalls

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
UNSAMPLED = {"traceparent": f"00-{TRACE}-{PARENT}-00"}
EMBEDDINGS = {"model": "tiny", "input": "a text"}
CHAT = {"model": "small", "messages": [{"role": "user", "content": "a text"}]}


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
async def http(services: Any, exporter: InMemorySpanExporter) -> AsyncIterator[Any]:
    """A client of a front that traces calls of callers who are traced."""
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracing = Tracing(provider.get_tracer("test"), 0)
    settings = ServerSettings(openai_address="127.0.0.1:0", drain_delay=0, drain_timeout=1)
    calls = TracedCalls(CallMetrics(CollectorRegistry()), tracing)
    front = OpenAIFront(settings, services.methods(), calls)
    await front.start()
    async with aiohttp.ClientSession(f"{front.url}/") as session:
        yield session
    await front.drain()


async def post(http: Any, path: str, body: Any, headers: dict[str, str] = SAMPLED) -> int:
    async with http.post(path, json=body, headers=headers) as response:
        await response.read()
        status: int = response.status
        return status


def spans(exporter: InMemorySpanExporter) -> list[tuple[str, dict[str, Any]]]:
    """Names and attributes of the spans, in the order in which they ended."""
    return [(span.name, dict(span.attributes or {})) for span in exporter.get_finished_spans()]


def one(exporter: InMemorySpanExporter) -> ReadableSpan:
    (span,) = exporter.get_finished_spans()
    return span


async def test_a_call_goes_on_with_the_trace_of_its_caller(
    http: Any, exporter: InMemorySpanExporter
) -> None:
    assert await post(http, "embeddings", EMBEDDINGS) == 200
    span = one(exporter)
    assert (span.name, span.kind) == ("POST /v1/embeddings", SpanKind.SERVER)
    assert span.context is not None
    assert f"{span.context.trace_id:032x}" == TRACE
    assert span.parent is not None
    assert f"{span.parent.span_id:016x}" == PARENT
    assert dict(span.attributes or {}) == {
        "http.request.method": "POST",
        "http.route": "/v1/embeddings",
        "url.scheme": "http",
        "http.response.status_code": 200,
    }


async def test_a_caller_that_is_not_traced_has_no_span(
    http: Any, exporter: InMemorySpanExporter
) -> None:
    assert await post(http, "embeddings", EMBEDDINGS, UNSAMPLED) == 200
    assert await post(http, "embeddings", EMBEDDINGS, {}) == 200
    assert spans(exporter) == []


async def test_a_response_found_whole_in_memory_says_so(
    http: Any, exporter: InMemorySpanExporter, services: Any
) -> None:
    services.stored = embed_pb2.EmbedResponse(
        model="tiny", dimensions=2, embeddings=[embed_pb2.Embedding(vector=bytes(8), tier=1)]
    ).SerializeToString()
    assert await post(http, "embeddings", EMBEDDINGS) == 200
    assert [name for name, _ in spans(exporter)] == ["hot response", "POST /v1/embeddings"]


async def test_a_stream_is_one_span(http: Any, exporter: InMemorySpanExporter) -> None:
    assert await post(http, "chat/completions", CHAT | {"stream": True}) == 200
    assert one(exporter).name == "POST /v1/chat/completions"


async def test_a_refused_call_is_no_error_of_ours(
    http: Any, exporter: InMemorySpanExporter
) -> None:
    assert await post(http, "embeddings", {"model": "tiny"}) == 400
    span = one(exporter)
    assert (span.attributes or {})["http.response.status_code"] == 400
    assert span.status.status_code is StatusCode.UNSET


async def test_a_call_that_fails_by_our_fault_is_an_error(
    http: Any, exporter: InMemorySpanExporter, services: Any
) -> None:
    services.error = ModelUnavailableError("a message that may quote the text")
    assert await post(http, "embeddings", EMBEDDINGS) == 503
    span = one(exporter)
    attributes = span.attributes or {}
    assert (attributes["http.response.status_code"], attributes["error.type"]) == (
        503,
        "UNAVAILABLE",
    )
    assert span.status.status_code is StatusCode.ERROR


async def test_a_stream_that_breaks_off_is_an_error_though_its_status_was_good(
    http: Any, exporter: InMemorySpanExporter, services: Any
) -> None:
    services.error = ModelError("a message that may quote the text")
    assert await post(http, "chat/completions", CHAT | {"stream": True}) == 200
    span = one(exporter)
    assert (span.attributes or {})["error.type"] == "INTERNAL"
    assert span.status.status_code is StatusCode.ERROR


async def test_the_name_of_a_model_in_the_path_is_not_shown(
    http: Any, exporter: InMemorySpanExporter
) -> None:
    async with http.get("models/a-secret-name", headers=SAMPLED) as response:
        assert response.status == 404
    span = one(exporter)
    assert span.name == "GET /v1/models/{name}"
    assert "a-secret-name" not in str(spans(exporter))


async def test_a_call_whose_client_has_gone_says_so_and_is_no_error(
    http: Any, exporter: InMemorySpanExporter, services: Any, eventually: Any
) -> None:
    services.hangs_on = {"a text"}
    request = {"model": "small", "prompt": "a text"}
    call = asyncio.create_task(post(http, "completions", request))
    await eventually(lambda: services.generates)
    call.cancel()
    await asyncio.wait({call})
    await eventually(exporter.get_finished_spans)
    span = one(exporter)
    assert (span.attributes or {})["error.type"] == "CANCELLED"
    assert span.status.status_code is StatusCode.UNSET
