"""Spans on their way to a collector that is there, or is not."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest
import structlog
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from prometheus_client import CollectorRegistry

from sidecar.config_telemetry import TracingSettings
from sidecar.models.errors import SetupError
from sidecar.open_watch import open_watch
from sidecar.telemetry import trace_export
from sidecar.telemetry.trace_export import TraceExport
from sidecar.telemetry.tracing import Tracing
from sidecar.transport.handlers import Handlers
from sidecar.transport.openai.counted import CountedCalls

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence

    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.trace.export import SpanExportResult

    Collector = Any
    Eventually = Callable[[Callable[[], object]], Awaitable[None]]

HANG_GUARD = 30.0


@pytest.fixture
def silent() -> Iterator[str]:
    """The endpoint of a collector that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Has exporters wait for a collector far longer than a test may take."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "600")


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Has exporters give a collector up at once."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "0.5")


def record(export: TraceExport, count: int = 1) -> None:
    """Has calls traced."""
    traces = Tracing(export.tracer(), 1)
    for _ in range(count):
        call = traces.begin("a call", {}, "", "")
        assert call.is_recorded
        call.finish()  # type: ignore[union-attr]


def threads() -> list[str]:
    """The threads of exporters that have not ended."""
    return [thread.name for thread in threading.enumerate() if "Otel" in thread.name]


def counts(export: TraceExport) -> tuple[float, float]:
    """Spans recorded, and sent."""
    recorded, sent = (family.samples[0].value for family in export.collect())
    return recorded, sent


async def test_what_is_left_is_sent_at_the_end(collector: Collector) -> None:
    export = TraceExport(collector.endpoint)
    record(export, 100)
    await export.close()
    assert len(collector.spans) == 100
    assert counts(export) == (100, 100)


async def test_spans_are_sent_meanwhile(collector: Collector, eventually: Eventually) -> None:
    export = TraceExport(collector.endpoint)
    record(export)
    await eventually(lambda: collector.spans)
    await export.close()


@pytest.mark.usefixtures("patient")
async def test_a_collector_that_says_nothing_does_not_delay_the_end(silent: str) -> None:
    export = TraceExport(silent)
    record(export, 100)
    async with asyncio.timeout(HANG_GUARD):
        await export.close()
    assert counts(export) == (100, 0)
    assert not threads()


@pytest.mark.usefixtures("patient")
async def test_a_collector_that_is_not_there_does_not_delay_the_end() -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        export = TraceExport(f"http://127.0.0.1:{nobody.getsockname()[1]}")
        record(export, 100)
        async with asyncio.timeout(HANG_GUARD):
            await export.close()
    assert counts(export) == (100, 0)
    assert not threads()


async def test_only_so_many_spans_wait_for_a_collector(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trace_export, "QUEUE_SPANS", 64)
    export = TraceExport(collector.endpoint)
    # Meanwhile the collector, which runs in the same loop, does not answer.
    record(export, 1000)
    await export.close()
    assert 64 <= len(collector.spans) <= 64 + 32
    assert counts(export) == (1000, len(collector.spans))


@pytest.mark.usefixtures("impatient")
async def test_that_traces_are_lost_is_logged_when_that_begins_and_ends(
    collector: Collector, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = []

    class Watched(OTLPSpanExporter):
        def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
            results.append(super().export(spans))
            return results[-1]

    monkeypatch.setattr(trace_export, "OTLPSpanExporter", Watched)
    address = collector.endpoint.removeprefix("http://")
    await collector.stop()
    with structlog.testing.capture_logs() as logs:
        export = TraceExport(collector.endpoint)
        record(export, 100)
        await eventually(lambda: len(results) == 4)
        assert [log["log_level"] for log in logs] == ["warning"]
        await collector.start(address)
        record(export, 100)
        await eventually(lambda: len(results) == 8)
        await export.close()
    assert [log["log_level"] for log in logs] == ["warning", "info"]
    assert [log["endpoint"] for log in logs] == [collector.endpoint] * 2
    assert counts(export) == (200, 100)


async def resource(collector: Collector) -> dict[str, str]:
    """What spans are said to be of."""
    export = TraceExport(collector.endpoint)
    record(export)
    await export.close()
    found: dict[str, str] = collector.resource
    return found


async def test_spans_are_of_embercache(collector: Collector) -> None:
    found = await resource(collector)
    assert found["service.name"] == "embercache"
    assert found["service.version"]
    assert found["service.instance.id"]


async def test_the_environment_says_better_what_they_are_of(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_SERVICE_NAME", "search-cache")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "k8s.pod.name=search-7,service.version=9")
    found = await resource(collector)
    assert found["service.name"] == "search-cache"
    assert found["service.version"] == "9"
    assert found["k8s.pod.name"] == "search-7"


async def test_without_the_packages_the_message_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delitem(sys.modules, "sidecar.telemetry.trace_export")
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.grpc.trace_exporter", None)
    settings = TracingSettings(endpoint="http://127.0.0.1:4317")
    with pytest.raises(SetupError, match=r"install embercache-sidecar\[tracing\]"):
        open_watch(settings, CollectorRegistry(), None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "10s", "could not convert string to float: '10s'"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "zstd", 'Invalid value "zstd"'),
        ("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "x", "must be a non-negative integer"),
    ],
)
async def test_a_variable_that_opentelemetry_does_not_take_is_named(
    name: str, value: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    settings = TracingSettings(endpoint="http://127.0.0.1:4317")
    async with contextlib.AsyncExitStack() as exits:
        with pytest.raises(SetupError, match=f"{re.escape(reason)}.*{name}"):
            open_watch(settings, CollectorRegistry(), exits)


async def test_no_call_is_traced_where_the_environment_turns_opentelemetry_off(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OTEL_SDK_DISABLED", "True")
    settings = TracingSettings(endpoint="http://127.0.0.1:4317")
    async with contextlib.AsyncExitStack() as exits:
        with structlog.testing.capture_logs() as logs:
            watch = open_watch(settings, CollectorRegistry(), exits)
        assert type(watch.grpc) is Handlers
        assert type(watch.openai) is CountedCalls
    assert [log["log_level"] for log in logs] == ["warning"]
