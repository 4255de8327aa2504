"""Between gRPC and the services: bytes in, bytes out; errors become statuses, calls are counted."""

from __future__ import annotations

import asyncio
from time import perf_counter
from typing import TYPE_CHECKING, Any, TypeVar

import grpc

from sidecar.services.errors import as_call_error

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

    from sidecar.telemetry.metrics import CallMetrics

    Context = grpc.aio.ServicerContext[bytes, bytes]
    Unary = Callable[[bytes], Awaitable[bytes]]
    Stored = Callable[[bytes], bytes | None]
    Stream = Callable[[AsyncIterator[bytes]], AsyncIterator[bytes]]
    ServerStream = Callable[[bytes], AsyncIterator[bytes]]

R = TypeVar("R")

# The caller went away or its deadline passed: the server is not told which.
_CANCELLED = grpc.StatusCode.CANCELLED.name


def unary(
    method: Unary, name: str, metrics: CallMetrics, stored: Stored | None = None
) -> grpc.RpcMethodHandler[Any, Any]:
    """A handler for one request and one response.

    ``stored`` is asked first for a response that is ready. It is a plain function, because a
    coroutine more is felt on the hot path.
    """
    observe = metrics.duration(name).observe
    lookup = stored or _nothing

    async def handle(request: bytes, context: Context) -> bytes:
        started = perf_counter()
        response = lookup(request)
        if response is None:
            try:
                response = await method(request)
            except Exception as error:
                await _end(error, name, context, metrics)
                raise  # not reached: ending a call raises
            except asyncio.CancelledError:
                metrics.failed(name, _CANCELLED)
                raise
        observe(perf_counter() - started)
        return response

    return grpc.unary_unary_rpc_method_handler(handle)


def stream(method: Stream, name: str, metrics: CallMetrics) -> grpc.RpcMethodHandler[Any, Any]:
    """A handler for a stream of requests and a stream of responses."""
    return grpc.stream_stream_rpc_method_handler(_answers(method, name, metrics))


def server_stream(
    method: ServerStream, name: str, metrics: CallMetrics
) -> grpc.RpcMethodHandler[Any, Any]:
    """A handler for one request and a stream of responses."""
    return grpc.unary_stream_rpc_method_handler(_answers(method, name, metrics))


def _answers(
    method: Callable[[R], AsyncIterator[bytes]], name: str, metrics: CallMetrics
) -> Callable[[R, Context], AsyncIterator[bytes]]:
    observe = metrics.duration(name).observe

    async def handle(request: R, context: Context) -> AsyncIterator[bytes]:
        started = perf_counter()
        responses = method(request)
        try:
            async for response in responses:
                yield response
        except Exception as error:
            await _end(error, name, context, metrics)
        except (asyncio.CancelledError, GeneratorExit):
            metrics.failed(name, _CANCELLED)
            raise
        finally:
            await responses.aclose()  # type: ignore[attr-defined]
        observe(perf_counter() - started)

    return handle


def service(
    name: str, methods: Mapping[str, grpc.RpcMethodHandler[Any, Any]]
) -> grpc.GenericRpcHandler:
    """The handlers of one service."""
    return grpc.method_handlers_generic_handler(name, dict(methods))


def _nothing(_request: bytes) -> None:
    """What a method without stored responses has ready."""


async def _end(error: Exception, name: str, context: Context, metrics: CallMetrics) -> None:
    if isinstance(error, grpc.aio.AbortError):
        raise error
    failure = as_call_error(error)
    metrics.failed(name, failure.code.name)
    await context.abort(failure.code, failure.message)
