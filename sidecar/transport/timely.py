"""Ends calls whose callers do not send their message: each holds a place that others may want.

grpcio calls a handler of one message when that is there, and until then nobody asks who calls, or
for how long he has. So such methods are served as ones of streams, whose handlers read for
themselves; on the wire they are the same.
"""

from __future__ import annotations

import asyncio
import inspect
from time import monotonic
from typing import TYPE_CHECKING, Any

import grpc

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    Handler = grpc.RpcMethodHandler[Any, Any]
    Context = grpc.aio.ServicerContext[Any, Any]

MESSAGE_SECONDS = 30.0
"""How long a caller may take to send the message of a call that has one."""


class Messages:
    """Reads the messages of calls; ends those that have none in time, while `watch` runs.

    A time limit of asyncio's on each read would cost a call 20 us.
    """

    def __init__(self) -> None:
        # The tasks that wait for a message, the oldest first, and since when.
        self._waiting: dict[asyncio.Task[Any] | None, float] = {}

    async def watch(self) -> None:
        """Looks again and again who is too late, until cancelled."""
        while True:
            await asyncio.sleep(MESSAGE_SECONDS / 10)
            last = monotonic() - MESSAGE_SECONDS
            late = [task for task, since in self._waiting.items() if since < last]
            for task in late:
                del self._waiting[task]
                if task is not None:
                    task.cancel()

    async def read(self, context: Context) -> Any:
        """The message of a call; ends a call without one."""
        task = asyncio.current_task()
        self._waiting[task] = monotonic()
        try:
            message = await context.read()
        except asyncio.CancelledError:
            if task is None or task in self._waiting:
                raise
            task.uncancel()
            await context.abort(
                grpc.StatusCode.DEADLINE_EXCEEDED,
                f"the message of this call has not come within {MESSAGE_SECONDS:g} seconds",
            )
        finally:
            self._waiting.pop(task, None)
        if message is grpc.aio.EOF:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "this call needs a message")
        return message


class TimelyHandlers(grpc.GenericRpcHandler):
    """The methods of ``inner``, whose handlers read by ``messages``."""

    def __init__(self, inner: grpc.GenericRpcHandler, messages: Messages) -> None:
        self._inner = inner
        self._messages = messages
        self._methods: dict[str, Handler] = {}

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Handler | None:
        """See `grpc.GenericRpcHandler`."""
        name = handler_call_details.method
        found = self._methods.get(name)
        if found is None:
            found = self._inner.service(handler_call_details)
            if found is None:
                return None
            if not found.request_streaming:
                found = self._reading(found)
            self._methods[name] = found
        return found

    def _reading(self, method: Handler) -> Handler:
        codec = (method.request_deserializer, method.response_serializer)
        one: Any = method.unary_unary
        many: Any = method.unary_stream
        if one is not None:
            return grpc.stream_unary_rpc_method_handler(self._of_response(one), *codec)
        of = self._of_stream if inspect.isasyncgenfunction(many) else self._of_response
        return grpc.stream_stream_rpc_method_handler(of(many), *codec)

    def _of_response(self, answer: Callable[..., Any]) -> Callable[..., Any]:
        read = self._messages.read

        async def handle(_messages: object, context: Context) -> Any:
            return await answer(await read(context), context)

        return handle

    def _of_stream(self, answer: Callable[..., Any]) -> Callable[..., Any]:
        read = self._messages.read

        async def handle(_messages: object, context: Context) -> AsyncIterator[Any]:
            responses = answer(await read(context), context)
            try:
                async for response in responses:
                    yield response
            finally:
                await responses.aclose()

        return handle
