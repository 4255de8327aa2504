"""Opens what counts calls, and what traces them if that is set."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from sidecar.models.errors import SetupError
from sidecar.telemetry.metrics import CallMetrics
from sidecar.transport.handlers import Handlers
from sidecar.transport.openai.counted import CountedCalls

if TYPE_CHECKING:
    import contextlib

    from prometheus_client import CollectorRegistry

    from sidecar.config_telemetry import TracingSettings

_DISABLED = "OTEL_SDK_DISABLED"

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Watch:
    """What makes the handlers of both listeners, which trace calls if ``is_traced``."""

    grpc: Handlers
    openai: CountedCalls
    is_traced: bool = False


def open_watch(
    settings: TracingSettings, registry: CollectorRegistry, exits: contextlib.AsyncExitStack
) -> Watch:
    """Handlers that count calls, and that trace them if it is set. Raises `SetupError`."""
    metrics = CallMetrics(registry)
    if not settings.endpoint:
        return Watch(Handlers(metrics), CountedCalls(metrics))
    if os.environ.get(_DISABLED, "").strip().lower() == "true":
        # Its spans would be of no trace, and others would be told of it.
        _log.warning(f"{_DISABLED} is set: calls are not traced")
        return Watch(Handlers(metrics), CountedCalls(metrics))
    try:
        from sidecar.telemetry.trace_export import TraceExport
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith("opentelemetry"):
            raise
        raise SetupError(
            "tracing.endpoint: OpenTelemetry's packages are missing; install"
            " embercache-sidecar[tracing]"
        ) from None
    from sidecar.telemetry.tracing import Tracing
    from sidecar.transport.openai.traced import TracedCalls
    from sidecar.transport.traced_handlers import TracedHandlers

    try:
        export = TraceExport(settings.endpoint)
    except Exception as error:
        # Each of its variables is read in another way, and some errors do not say which.
        names = sorted(name for name in os.environ if name.startswith("OTEL_"))
        raise SetupError(
            f"tracing.endpoint: OpenTelemetry does not start ({error}): check its"
            f" environment variables: {', '.join(names) or 'none is set'}"
        ) from None
    exits.push_async_callback(export.close)
    registry.register(export)
    tracing = Tracing(export.tracer(), settings.sample)
    return Watch(TracedHandlers(metrics, tracing), TracedCalls(metrics, tracing), is_traced=True)
