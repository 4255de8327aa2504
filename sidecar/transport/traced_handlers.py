"""Handlers of calls that may be traced: see `sidecar.transport.handlers`."""

from __future__ import annotations

import asyncio
import time
from time import perf_counter
from typing import TYPE_CHECKING, TypeVar

import grpc

from sidecar.demand import within
from sidecar.spans import enter
from sidecar.telemetry.tracing import CallSpan
from sidecar.transport.handlers import CANCELLED, Handlers, abort, failure_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from sidecar.spans import Span
    from sidecar.telemetry.metrics import CallMetrics
    from sidecar.telemetry.tracing import Tracing
    from sidecar.transport.handlers import Context, Unary

R = TypeVar("R")

_OK = grpc.StatusCode.OK


class TracedHandlers(Handlers):
    """Makes handlers that also trace calls. Those that are not traced go to the plain handlers."""

    def __init__(self, metrics: CallMetrics, tracing: Tracing) -> None:
        super().__init__(metrics)
        self._tracing = tracing

    def unary(
        self, service: str, name: str, method: Unary
    ) -> Callable[[bytes, Context], Awaitable[bytes]]:
        """See `Handlers.unary`."""
        metrics, durations = self.metrics, self.metrics.duration(name)
        lookup, answer = method.stored, method.answer
        plain, begin = super().unary(service, name, method), self._begin(service, name)

        async def handle(request: bytes, context: Context) -> bytes:
            span = begin(context)
            if not isinstance(span, CallSpan):
                return await plain(request, context)
            status, started, began_ns = _OK, perf_counter(), time.time_ns()
            try:
                response = lookup(request)
                if response is None:
                    within(context.time_remaining())
                    response = await answer(request)
                else:
                    span.stored(began_ns)
            except Exception as error:
                failure = failure_of(error, name, metrics)
                status = failure.code
                await abort(context, failure)
            except asyncio.CancelledError:
                status = CANCELLED
                metrics.failed(name, CANCELLED.name)
                raise
            finally:
                _finish(span, status)
            durations.observe_traced(perf_counter() - started, span.trace_id)
            return response

        return handle

    def streaming(
        self, service: str, name: str, answer: Callable[[R], AsyncIterator[bytes]]
    ) -> Callable[[R, Context], AsyncIterator[bytes]]:
        """See `Handlers.streaming`."""
        metrics, durations = self.metrics, self.metrics.duration(name)
        begin = self._begin(service, name)

        async def handle(request: R, context: Context) -> AsyncIterator[bytes]:
            span = begin(context)
            status, started = _OK, perf_counter()
            within(context.time_remaining())
            responses = answer(request)
            try:
                async for response in responses:
                    yield response
            except Exception as error:
                failure = failure_of(error, name, metrics)
                status = failure.code
                await abort(context, failure)
            except (asyncio.CancelledError, GeneratorExit):
                status = CANCELLED
                metrics.failed(name, CANCELLED.name)
                raise
            finally:
                try:
                    await responses.aclose()  # type: ignore[attr-defined]
                finally:
                    if isinstance(span, CallSpan):
                        _finish(span, status)
            durations.observe_traced(perf_counter() - started, span.trace_id)

        return handle

    def _begin(self, service: str, name: str) -> Callable[[Context], Span]:
        """What begins the span of a call of a method, for all of its task."""
        method, begin = f"{service}/{name}", self._tracing.begin
        attributes = {"rpc.system.name": "grpc", "rpc.method": method}

        def begin_call(context: Context) -> Span:
            parent = state = ""
            for key, value in context.invocation_metadata() or ():
                if key == "traceparent":
                    parent = str(value)
                elif key == "tracestate":
                    state = f"{state},{value!s}" if state else str(value)
            span = begin(method, attributes, parent, state)
            # gRPC runs each call in a task of its own, which this is the span of.
            enter(span)
            return span

        return begin_call


def _finish(span: CallSpan, status: grpc.StatusCode) -> None:
    span.note("rpc.response.status_code", status.name)
    span.blame(status.name)
    span.finish()
