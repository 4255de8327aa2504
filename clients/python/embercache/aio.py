"""The asyncio client."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable
from typing import TYPE_CHECKING, TypeVar

import grpc
import grpc.aio

from embercache import _admin, _channel, _requests
from embercache._exchange import embed_calls
from embercache._stream import FINISH_SECONDS, StreamWindow, ended_error, no_answer_error
from embercache.errors import EmbercacheError, closed_error, from_rpc
from embercache.results import decode, finish
from embercache.v1 import cache_pb2, embed_pb2
from embercache.v1.cache_pb2_grpc import CacheServiceStub
from embercache.v1.embed_pb2_grpc import EmbedServiceStub

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Sequence

    from typing_extensions import Self, Unpack

    from embercache._answers import Answer
    from embercache._exchange import Exchange
    from embercache._requests import Batch
    from embercache.results import EmbedResult
    from embercache.types import (
        EmbedInput,
        EmbedOptions,
        FlushableTier,
        InputType,
        Model,
        OnError,
        Stats,
    )
    from embercache.v1.cache_pb2_grpc import CacheServiceAsyncStub
    from embercache.v1.embed_pb2_grpc import EmbedServiceAsyncStub

_Request = TypeVar("_Request")
_Response = TypeVar("_Response")


class AsyncClient:
    """As `Client`, for asyncio. Belongs to the event loop of its first call.

    It may be made where no loop runs yet.
    """

    def __init__(self, address: str | None = None, *, timeout: float = 10.0) -> None:
        self._timeout = timeout
        self._target = _channel.target(address)
        self._closed = False
        self._connection: _Connection | None = None

    async def embed(
        self,
        inputs: Iterable[EmbedInput],
        *,
        timeout: float | None = None,
        on_error: OnError = "raise",
        **options: Unpack[EmbedOptions],
    ) -> EmbedResult:
        """As `Client.embed`."""
        listed = list(_requests.many(inputs))
        requests = _requests.embed_requests(listed, _requests.options(**options))
        exchange = embed_calls(requests, self._timeout if timeout is None else timeout)
        return finish(decode(listed, await self._drive(exchange)), on_error)

    def embed_stream(
        self,
        inputs: Iterable[EmbedInput] | AsyncIterable[EmbedInput],
        *,
        batch_size: int = 256,
        timeout: float = 60.0,
        on_error: OnError = "raise",
        **options: Unpack[EmbedOptions],
    ) -> AsyncIterator[EmbedResult]:
        """As `Client.embed_stream`; ``inputs`` may be an async iterable too."""
        batcher = _requests.Batcher(_requests.options(**options), batch_size)
        return self._stream(
            StreamWindow(on_error, timeout), _batches(_requests.many(inputs), batcher), timeout
        )

    async def models(self, *, timeout: float | None = None) -> list[Model]:
        """As `Client.models`."""
        request = embed_pb2.ListModelsRequest()
        return _admin.models(await self._call(self._connect().embed.ListModels, request, timeout))

    async def stats(self, *, timeout: float | None = None) -> Stats:
        """As `Client.stats`."""
        request = cache_pb2.StatsRequest()
        return _admin.stats(await self._call(self._connect().cache.Stats, request, timeout))

    async def invalidate(
        self,
        *,
        tags: Sequence[str] | None = None,
        inputs: Iterable[EmbedInput] | None = None,
        whole_namespace: bool = False,
        namespace: str = "",
        model: str = "",
        input_type: InputType | None = None,
        timeout: float | None = None,
    ) -> None:
        """As `Client.invalidate`."""
        request = _requests.invalidate_request(
            tags=tags,
            inputs=inputs,
            whole_namespace=whole_namespace,
            namespace=namespace,
            model=model,
            input_type=input_type,
        )
        await self._call(self._connect().cache.Invalidate, request, timeout)

    async def flush(
        self,
        tiers: Sequence[FlushableTier] = (),
        *,
        timeout: float | None = None,
    ) -> int:
        """As `Client.flush`."""
        request = _requests.flush_request(tiers)
        return (await self._call(self._connect().cache.Flush, request, timeout)).entries

    async def health(self, *, timeout: float | None = None) -> bool:
        """As `Client.health`."""
        request = _admin.HEALTH_REQUEST
        answer = await self._call(self._connect().health, request, timeout)
        return answer == _admin.HEALTH_SERVING

    async def close(self) -> None:
        """Closes the connection. Calls under way are cancelled."""
        self._closed = True
        if self._connection is not None:
            await self._connection.channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def _connect(self) -> _Connection:
        if self._closed:
            raise closed_error()
        if self._connection is None:
            self._connection = _Connection(self._target)
        if self._connection.loop is not asyncio.get_running_loop():
            raise RuntimeError(
                "this AsyncClient belongs to another event loop; make one for each loop"
            )
        return self._connection

    async def _call(
        self,
        method: grpc.aio.UnaryUnaryMultiCallable[_Request, _Response],
        request: _Request,
        timeout: float | None,
    ) -> _Response:
        try:
            return await method(request, timeout=self._timeout if timeout is None else timeout)
        except grpc.RpcError as error:
            raise from_rpc(error) from error

    async def _drive(self, exchange: Exchange) -> list[Answer]:
        method = self._connect().embed.Embed
        try:
            send = next(exchange)
            while True:
                if send.delay:
                    await asyncio.sleep(send.delay)
                try:
                    response = await self._call(method, send.request, send.timeout)
                except EmbercacheError as error:
                    send = exchange.throw(error)
                else:
                    send = exchange.send(response)
        except StopIteration as end:
            answers: list[Answer] = end.value
            return answers

    async def _stream(
        self,
        window: StreamWindow,
        batches: AsyncIterator[Batch],
        timeout: float,
    ) -> AsyncIterator[EmbedResult]:
        stream = self._open(window)
        try:
            while True:
                while window.has_room and (batch := await anext(batches, None)):
                    stream.send(window.add(batch))
                if window.is_empty:
                    await stream.finish()
                    return
                try:
                    answer = await stream.receive(timeout)
                except EmbercacheError as error:
                    stream.close()
                    await asyncio.sleep(window.broken(error))
                    stream = self._open(window)
                    continue
                if resend := window.answer(answer):
                    await asyncio.sleep(resend.delay)
                    stream.send(resend.request)
                for result in window.landed():
                    yield result
        finally:
            stream.close()

    def _open(self, window: StreamWindow) -> _Stream:
        stream = _Stream(self._connect().embed.EmbedStream)
        for request in window.unanswered():
            stream.send(request)
        return stream


class _Connection:
    """A channel and its stubs. gRPC ties a channel to the loop that runs when it is made."""

    def __init__(self, target: str) -> None:
        self.loop = asyncio.get_running_loop()
        self.channel = grpc.aio.insecure_channel(target, options=_channel.OPTIONS)
        self.embed: EmbedServiceAsyncStub = EmbedServiceStub(self.channel)
        self.cache: CacheServiceAsyncStub = CacheServiceStub(self.channel)
        self.health: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = self.channel.unary_unary(
            _admin.HEALTH_METHOD
        )


class _Stream:
    """One EmbedStream call. gRPC takes requests in a task, so that sending never blocks reading."""

    def __init__(
        self,
        method: grpc.aio.StreamStreamMultiCallable[
            embed_pb2.EmbedStreamRequest, embed_pb2.EmbedStreamResponse
        ],
    ) -> None:
        self._outbox: asyncio.Queue[embed_pb2.EmbedStreamRequest | None] = asyncio.Queue()
        self._call = method(self._requests())

    def send(self, request: embed_pb2.EmbedStreamRequest) -> None:
        self._outbox.put_nowait(request)

    async def receive(self, timeout: float) -> embed_pb2.EmbedStreamResponse:
        """Raises the error that ended the stream, or `DeadlineExceededError`."""
        try:
            answer = await asyncio.wait_for(self._call.read(), timeout)
        except asyncio.TimeoutError:
            raise no_answer_error(timeout) from None
        except grpc.RpcError as error:
            # All that gRPC says if it was sending when the stream ended. It has lost the reason,
            # which a new stream will tell.
            if error.details() == "Internal error from Core":
                raise ended_error() from error
            raise from_rpc(error) from error
        if not isinstance(answer, embed_pb2.EmbedStreamResponse):
            raise ended_error()
        return answer

    async def finish(self) -> None:
        """Tells the sidecar that all is sent, and lets it end the call."""
        self._outbox.put_nowait(None)
        await asyncio.wait([asyncio.ensure_future(self._call.code())], timeout=FINISH_SECONDS)

    def close(self) -> None:
        self._call.cancel()
        self._outbox.put_nowait(None)

    async def _requests(self) -> AsyncIterator[embed_pb2.EmbedStreamRequest]:
        while (request := await self._outbox.get()) is not None:
            yield request


async def _batches(
    inputs: Iterable[EmbedInput] | AsyncIterable[EmbedInput], batcher: _requests.Batcher
) -> AsyncIterator[Batch]:
    """As `_requests.batches`, for both kinds of iterable."""
    if not isinstance(inputs, AsyncIterable):
        for batch in _requests.batches(inputs, batcher):
            yield batch
        return
    async for item in inputs:
        if ended := batcher.add(item):
            yield ended
    if ended := batcher.rest():
        yield ended
