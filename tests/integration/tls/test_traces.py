"""Traces that go to a collector over TLS, as the variables of OpenTelemetry say."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc

from sidecar.models.errors import SetupError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    Collector = Any
    Party = Any
    Start = Callable[..., Awaitable[Any]]


@pytest.fixture
async def endpoint(collector: Collector, server: Party) -> AsyncIterator[str]:
    """Where the collector listens that wants a certificate."""
    certificate, key = (path.read_bytes() for path in server.files)
    credentials = grpc.ssl_server_credentials(
        [(key, certificate)], server.ca.read_bytes(), require_client_auth=True
    )
    running = grpc.aio.server()
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(collector, running)
    port = running.add_secure_port("127.0.0.1:0", credentials)
    await running.start()
    yield f"https://localhost:{port}"
    await running.stop(0)


@pytest.fixture
def variables(caller: Party, monkeypatch: pytest.MonkeyPatch) -> None:
    """The variables that say what is shown to the collector, and who vouches for it."""
    certificate, key = caller.files
    for name, path in (
        ("CERTIFICATE", caller.ca),
        ("CLIENT_CERTIFICATE", certificate),
        ("CLIENT_KEY", key),
    ):
        monkeypatch.setenv(f"OTEL_EXPORTER_OTLP_{name}", str(path))


@pytest.mark.usefixtures("variables")
async def test_spans_go_to_a_collector_over_mutual_tls(
    start: Start,
    collector: Collector,
    endpoint: str,
    connect: Callable[..., Any],
    eventually: Callable[..., Awaitable[None]],
) -> None:
    sidecar = await start(tracing={"endpoint": endpoint, "sample": 1})
    await connect(sidecar.address).embed()
    await eventually(lambda: collector.spans)


@pytest.mark.usefixtures("variables")
async def test_a_file_that_is_not_there_is_named_at_start(
    start: Start, endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_CLIENT_KEY", "/nowhere/tls.key")
    with pytest.raises(SetupError, match=r"No such file or directory: ./nowhere/tls"):
        await start(tracing={"endpoint": endpoint})
