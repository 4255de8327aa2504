"""Calls of the front that may be traced: see `sidecar.transport.openai.counted`."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

from sidecar.spans import current, enter, leave
from sidecar.telemetry.tracing import CallSpan
from sidecar.transport.openai.counted import CANCELLED, CountedCalls, ending

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiohttp import web
    from aiohttp.typedefs import Handler

    from sidecar.telemetry.metrics import CallMetrics
    from sidecar.telemetry.tracing import Tracing
    from sidecar.transport.openai.methods import Methods

    Stored = Callable[[bytes], bytes | None]


class TracedCalls(CountedCalls):
    """Makes handlers that also trace calls."""

    def __init__(self, metrics: CallMetrics, tracing: Tracing) -> None:
        super().__init__(metrics)
        self._tracing = tracing

    def methods(self, methods: Methods) -> Methods:
        """See `CountedCalls.methods`."""
        return replace(
            methods,
            stored_embed=_shown(methods.stored_embed),
            stored_generate=_shown(methods.stored_generate),
        )

    def of(self, name: str, route: str, handle: Handler) -> Handler:
        """See `CountedCalls.of`."""
        verb, _, path = route.partition(" ")
        begin = self._tracing.begin
        attributes = {"http.request.method": verb, "http.route": path, "url.scheme": "http"}
        durations, metrics = self.metrics.duration(name), self.metrics

        def observe(seconds: float) -> None:
            durations.observe_traced(seconds, current().trace_id)

        def failed(reason: str) -> None:
            metrics.failed(name, reason)
            span = current()
            if isinstance(span, CallSpan):
                if reason == CANCELLED:
                    # There may be no response to tell of it.
                    span.note("error.type", reason)
                span.blame(reason)

        run = ending(handle, observe, failed)

        async def trace(request: web.Request) -> web.StreamResponse:
            headers = request.headers
            state = ",".join(headers.getall("tracestate", ()))
            span = begin(route, attributes, headers.get("traceparent", ""), state)
            token = enter(span)
            try:
                response = await run(request)
                if isinstance(span, CallSpan):
                    span.note("http.response.status_code", response.status)
                return response
            finally:
                leave(token)
                if isinstance(span, CallSpan):
                    span.finish()

        return trace


def _shown(stored: Stored) -> Stored:
    """Shows responses that were found whole in memory."""

    def look_up(request: bytes) -> bytes | None:
        began_ns = time.time_ns()
        response = stored(request)
        if response is not None:
            span = current()
            if isinstance(span, CallSpan):
                span.stored(began_ns)
        return response

    return look_up
