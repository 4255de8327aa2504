"""Sends spans to a collector, with OpenTelemetry's SDK."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from typing import TYPE_CHECKING

import structlog
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import (
    SERVICE_NAME,
    SERVICE_VERSION,
    OTELResourceDetector,
    Resource,
)
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, ParentBased
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from sidecar import __version__

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.trace import Tracer
    from prometheus_client.metrics_core import Metric

QUEUE_SPANS = 4096
# Encoding a span takes some 50 us, in which nothing else runs: with the interpreter's lock held,
# a batch must not keep calls waiting for long.
_BATCH_SPANS = 32
_EVERY_SECONDS = 1.0
_LAST_SECONDS = 1.0
_FILES = tuple(
    f"OTEL_EXPORTER_OTLP_{kind}{what}"
    for kind in ("", "TRACES_")
    for what in ("CERTIFICATE", "CLIENT_CERTIFICATE", "CLIENT_KEY")
)

_log = structlog.get_logger()


class TraceExport(Collector):
    """Sends spans from a thread of its own, as many at most as `QUEUE_SPANS` wait.

    What the collector does not take is lost. ``endpoint`` is ``http://HOST:PORT``, or ``https://``.
    The environment variables of OpenTelemetry's exporter count for all else: for headers with
    credentials, certificates, compression and timeouts; and those of its SDK for the resource.
    Raises `OSError` if a file that one of them names cannot be read.
    """

    def __init__(self, endpoint: str) -> None:
        # It logs every batch that is lost, and quotes headers of callers.
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL + 1)
        if logging.getLogger().isEnabledFor(logging.DEBUG):
            logging.getLogger("opentelemetry.exporter").setLevel(logging.DEBUG)
        _check_files()
        self._exporter = _Exporter(endpoint)
        self._processor = _Processor(
            self._exporter,
            max_queue_size=QUEUE_SPANS,
            max_export_batch_size=_BATCH_SPANS,
            schedule_delay_millis=_EVERY_SECONDS * 1000,
        )
        # Which calls are traced is decided before: see `sidecar.telemetry.tracing`.
        self._provider = TracerProvider(
            sampler=ParentBased(ALWAYS_ON), resource=_resource(), shutdown_on_exit=False
        )
        self._provider.add_span_processor(self._processor)

    def tracer(self) -> Tracer:
        """What makes the spans that are sent."""
        return self._provider.get_tracer("embercache", __version__)

    async def close(self) -> None:
        """Sends what is left, for which it takes two seconds at most."""
        end = threading.Thread(target=self._provider.shutdown, daemon=True)
        end.start()
        await asyncio.to_thread(end.join, _LAST_SECONDS)
        if end.is_alive():
            # The collector does not answer: what is under way is broken off.
            self._exporter.shutdown()
            await asyncio.to_thread(end.join, _LAST_SECONDS)

    def collect(self) -> Iterator[Metric]:
        """See `prometheus_client.registry.Collector`."""
        yield CounterMetricFamily(
            "embercache_spans_recorded", "Spans of calls that were traced.", self._processor.ended
        )
        yield CounterMetricFamily(
            "embercache_spans_sent",
            "Spans that the collector took; those that it did not are lost.",
            self._exporter.sent,
        )


class _Processor(BatchSpanProcessor):
    """Counts the spans, also those for which the queue has no room."""

    ended = 0

    def on_end(self, span: ReadableSpan) -> None:
        self.ended += 1
        super().on_end(span)


class _Exporter(SpanExporter):
    """Says when the collector begins or ceases to take spans."""

    def __init__(self, endpoint: str) -> None:
        self.sent = 0
        self._endpoint = endpoint
        self._otlp = OTLPSpanExporter(endpoint=endpoint, insecure=endpoint.startswith("http:"))
        self._takes: bool | None = None

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = self._otlp.export(spans)
        takes = result is SpanExportResult.SUCCESS
        self.sent += len(spans) if takes else 0
        if takes is not self._takes:
            self._takes = takes
            if takes:
                _log.info("traces are sent", endpoint=self._endpoint)
            else:
                _log.warning(
                    "traces are lost: the collector does not take them; log.level debug shows why",
                    endpoint=self._endpoint,
                )
        return result

    def shutdown(self) -> None:
        self._otlp.shutdown()


def _check_files() -> None:
    """Raises `OSError` for a file that is not there: the exporter would go on without it."""
    for name in _FILES:
        if path := os.environ.get(name):
            with open(path, "rb"):
                pass


def _resource() -> Resource:
    """What the spans are of; the environment says it better than we do."""
    ours = {SERVICE_NAME: "embercache", SERVICE_VERSION: __version__}
    theirs = OTELResourceDetector().detect().attributes
    return Resource.create({name: value for name, value in ours.items() if name not in theirs})
