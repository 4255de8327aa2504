"""Between gRPC and the services: bytes in, bytes out; errors become statuses, calls are counted.

The handlers of calls that may be traced are made in `sidecar.transport.traced_handlers`: which of
the two serve is decided once, at start-up, so that those without tracing do nothing for it.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import grpc

from sidecar.demand import within
from sidecar.services.errors import as_call_error
from sidecar.trailers import DEADLINE, PUSHBACK, REASON

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from sidecar.services.errors import CallError
    from sidecar.telemetry.metrics import CallMetrics

    Context = grpc.aio.ServicerContext[bytes, bytes]

R = TypeVar("R")

# The caller went away or its deadline passed: the server is not told which.
CANCELLED = grpc.StatusCode.CANCELLED


def nothing_stored(_request: bytes) -> None:
    """What a method without stored responses has ready."""


@dataclass(frozen=True, slots=True)
class Unary:
    """A method of one request and one response.

    ``stored`` is asked first for a response that is ready. It is a plain function, because a
    coroutine more is felt on the hot path.
    """

    answer: Callable[[bytes], Awaitable[bytes]]
    stored: Callable[[bytes], bytes | None] = nothing_stored


@dataclass(frozen=True, slots=True)
class ServerStream:
    """A method of one request and a stream of responses."""

    answer: Callable[[bytes], AsyncIterator[bytes]]


@dataclass(frozen=True, slots=True)
class Stream:
    """A method of a stream of requests and a stream of responses."""

    answer: Callable[[AsyncIterator[bytes]], AsyncIterator[bytes]]


class Handlers:
    """Makes handlers whose calls are counted in ``metrics``."""

    def __init__(self, metrics: CallMetrics) -> None:
        self.metrics = metrics

    def of(self, service: str, **methods: Unary | ServerStream | Stream) -> grpc.GenericRpcHandler:
        """The handlers of a service, by the names of its methods."""
        return grpc.method_handlers_generic_handler(
            service, {name: self._handler(service, name, each) for name, each in methods.items()}
        )

    def unary(
        self, _service: str, name: str, method: Unary
    ) -> Callable[[bytes, Context], Awaitable[bytes]]:
        """What answers the calls of a method."""
        metrics, observe = self.metrics, self.metrics.duration(name).observe
        lookup, answer = method.stored, method.answer

        async def handle(request: bytes, context: Context) -> bytes:
            started = perf_counter()
            try:
                response = lookup(request)
                if response is None:
                    within(context.time_remaining())
                    response = await answer(request)
            except Exception as error:
                await abort(context, failure_of(error, name, metrics))
            except asyncio.CancelledError:
                metrics.failed(name, CANCELLED.name)
                raise
            observe(perf_counter() - started)
            return response

        return handle

    def streaming(
        self, _service: str, name: str, answer: Callable[[R], AsyncIterator[bytes]]
    ) -> Callable[[R, Context], AsyncIterator[bytes]]:
        """What answers the calls of a method whose responses are a stream."""
        metrics, observe = self.metrics, self.metrics.duration(name).observe

        async def handle(request: R, context: Context) -> AsyncIterator[bytes]:
            started = perf_counter()
            within(context.time_remaining())
            responses = answer(request)
            try:
                async for response in responses:
                    yield response
            except Exception as error:
                await abort(context, failure_of(error, name, metrics))
            except (asyncio.CancelledError, GeneratorExit):
                metrics.failed(name, CANCELLED.name)
                raise
            finally:
                await responses.aclose()  # type: ignore[attr-defined]
            observe(perf_counter() - started)

        return handle

    def _handler(
        self, service: str, name: str, method: Unary | ServerStream | Stream
    ) -> grpc.RpcMethodHandler[Any, Any]:
        match method:
            case Unary():
                return grpc.unary_unary_rpc_method_handler(self.unary(service, name, method))
            case ServerStream():
                return grpc.unary_stream_rpc_method_handler(
                    self.streaming(service, name, method.answer)
                )
            case Stream():
                return grpc.stream_stream_rpc_method_handler(
                    self.streaming(service, name, method.answer)
                )


async def abort(context: Context, failure: CallError) -> NoReturn:
    """Ends a call with an error, and tells programs what they can do about it."""
    trailers = [(REASON, DEADLINE)] if failure.is_late else []
    if failure.retry_after is not None:
        trailers.append((PUSHBACK, str(max(1, round(failure.retry_after * 1000)))))
    await context.abort(failure.code, failure.message, tuple(trailers))


def failure_of(error: Exception, name: str, metrics: CallMetrics) -> CallError:
    """The status that an error means; it is counted."""
    failure = as_call_error(error)
    metrics.failed(name, failure.code.name)
    return failure
