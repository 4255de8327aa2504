"""The connection of the asyncio client: every call and its errors."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable
from typing import TYPE_CHECKING, Any, TypeVar, cast

import grpc
import grpc.aio
from google.protobuf.message import Message

from embercache import _admin, _batches, _channel
from embercache._exchange import bulk_calls
from embercache._stream import FINISH_SECONDS, StreamWindow, ended_error, no_answer_error
from embercache.errors import CALL_CLASSES, JOB_CLASSES, EmbercacheError, closed_error, from_rpc
from embercache.v1.cache_pb2_grpc import CacheServiceStub
from embercache.v1.embed_pb2_grpc import EmbedServiceStub
from embercache.v1.generate_pb2_grpc import GenerateServiceStub
from embercache.v1.search_pb2_grpc import SearchServiceStub

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Sequence

    from embercache._answers import Answer
    from embercache._batches import Bulk
    from embercache._credentials import Credentials
    from embercache._embed_requests import EmbedBatch, EmbedBatcher
    from embercache.errors import Classes
    from embercache.results import EmbedResult
    from embercache.types import EmbedInput
    from embercache.v1 import embed_pb2
    from embercache.v1.cache_pb2_grpc import CacheServiceAsyncStub
    from embercache.v1.embed_pb2_grpc import EmbedServiceAsyncStub
    from embercache.v1.generate_pb2_grpc import GenerateServiceAsyncStub
    from embercache.v1.search_pb2_grpc import SearchServiceAsyncStub

_Request = TypeVar("_Request")
_Response = TypeVar("_Response")
_Sent = TypeVar("_Sent", bound=Message)
_Received = TypeVar("_Received", bound=Message)
_Item = TypeVar("_Item")
_Plain = TypeVar("_Plain")


class Connection:
    """As `_blocking.Connection`. The channel is made when it is first needed."""

    def __init__(self, place: _channel.Place, timeout: float, credentials: Credentials) -> None:
        self._place = place
        self._timeout = timeout
        self._credentials = credentials
        self._closed = False
        self._stubs: _Stubs | None = None

    @property
    def stubs(self) -> _Stubs:
        """What calls go through. Raises `RuntimeError` in another loop than that of the first."""
        if self._closed:
            raise closed_error()
        if self._stubs is None:
            self._stubs = _Stubs(self._place, self._credentials)
        if self._stubs.loop is not asyncio.get_running_loop():
            raise RuntimeError(
                "this AsyncClient belongs to another event loop; make one for each loop"
            )
        return self._stubs

    async def close(self) -> None:
        """Calls under way are cancelled, and those to come fail."""
        self._closed = True
        if self._stubs is not None:
            await self._stubs.channel.close()

    async def call(
        self,
        method: grpc.aio.UnaryUnaryMultiCallable[_Request, _Response],
        request: _Request,
        timeout: float | None,
        classes: Classes = CALL_CLASSES,
    ) -> _Response:
        """One request and its answer."""
        try:
            return await method(
                request, timeout=self._seconds(timeout), metadata=self._credentials.metadata()
            )
        except grpc.RpcError as error:
            raise from_rpc(error, classes) from error

    async def bulk(
        self,
        bulk: Bulk[Any, _Sent, _Received, _Item],
        method: grpc.aio.UnaryUnaryMultiCallable[_Sent, _Received],
        requests: Sequence[_Sent],
        timeout: float | None,
    ) -> list[Answer[_Received, _Item]]:
        """The answers to all the requests."""
        exchange = bulk_calls(bulk, requests, self._seconds(timeout))
        try:
            send = next(exchange)
            while True:
                if send.delay:
                    await asyncio.sleep(send.delay)
                try:
                    response = await self.call(method, send.request, send.timeout)
                except EmbercacheError as error:
                    send = exchange.throw(error)
                else:
                    send = exchange.send(response)
        except StopIteration as end:
            answers: list[Answer[_Received, _Item]] = end.value
            return answers

    async def follow(
        self,
        method: Callable[[_Stubs], grpc.aio.UnaryStreamMultiCallable[_Sent, _Received]],
        requests: Sequence[_Sent],
        timeout: float,
        read: Callable[[int, _Received], _Plain],
        classes: Classes = JOB_CLASSES,
    ) -> AsyncGenerator[_Plain, None]:
        """As there."""
        for number, request in enumerate(requests):
            call = method(self.stubs)(request, metadata=self._credentials.metadata())
            try:
                while (message := await _receive(call, timeout, classes)) is not None:
                    yield read(number, message)
            finally:
                call.cancel()

    async def embed_stream(
        self,
        window: StreamWindow,
        batches: AsyncIterator[EmbedBatch],
        timeout: float,
    ) -> AsyncIterator[EmbedResult]:
        """The results of a bulk job, over as many streams as it takes."""
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

    def _seconds(self, timeout: float | None) -> float:
        return self._timeout if timeout is None else timeout

    def _open(self, window: StreamWindow) -> _EmbedStream:
        stream = _EmbedStream(self.stubs.embed.EmbedStream, self._credentials)
        for request in window.unanswered():
            stream.send(request)
        return stream


class _Stubs:
    """A channel and its stubs. gRPC ties a channel to the loop that runs when it is made."""

    def __init__(self, place: _channel.Place, credentials: Credentials) -> None:
        self.loop = asyncio.get_running_loop()
        if credentials.channel is None:
            self.channel = grpc.aio.insecure_channel(place.target, _channel.OPTIONS)
        else:
            self.channel = grpc.aio.secure_channel(
                place.target, credentials.channel, _channel.OPTIONS
            )
        self.embed: EmbedServiceAsyncStub = EmbedServiceStub(self.channel)
        self.search: SearchServiceAsyncStub = SearchServiceStub(self.channel)
        self.generate: GenerateServiceAsyncStub = GenerateServiceStub(self.channel)
        self.cache: CacheServiceAsyncStub = CacheServiceStub(self.channel)
        self.health: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = self.channel.unary_unary(
            _admin.HEALTH_METHOD
        )


async def batches(
    inputs: Iterable[EmbedInput] | AsyncIterable[EmbedInput], batcher: EmbedBatcher
) -> AsyncIterator[EmbedBatch]:
    """As `_batches.batches`, for both kinds of iterable."""
    if not isinstance(inputs, AsyncIterable):
        for batch in _batches.batches(inputs, batcher):
            yield batch
        return
    async for item in inputs:
        if ended := batcher.add(item):
            yield ended
    if ended := batcher.rest():
        yield ended


async def _receive(
    call: grpc.aio.UnaryStreamCall[_Sent, _Received] | grpc.aio.StreamStreamCall[_Sent, _Received],
    timeout: float,
    classes: Classes,
) -> _Received | None:
    """The next message of a stream, None at its end.

    Raises the error that ended the stream, or `DeadlineExceededError`.
    """
    try:
        message = await asyncio.wait_for(call.read(), timeout)
    except asyncio.TimeoutError:
        raise no_answer_error(timeout) from None
    except grpc.RpcError as error:
        # All that gRPC says if it was sending when the stream ended. It has lost the reason,
        # which a new stream will tell.
        if error.details() == "Internal error from Core":
            raise ended_error() from error
        raise from_rpc(error, classes) from error
    return None if message is grpc.aio.EOF else cast("_Received", message)


class _EmbedStream:
    """One EmbedStream call. gRPC takes requests in a task, so that sending never blocks reading."""

    def __init__(
        self,
        method: grpc.aio.StreamStreamMultiCallable[
            embed_pb2.EmbedStreamRequest, embed_pb2.EmbedStreamResponse
        ],
        credentials: Credentials,
    ) -> None:
        self._outbox: asyncio.Queue[embed_pb2.EmbedStreamRequest | None] = asyncio.Queue()
        self._call = method(self._requests(), metadata=credentials.metadata())

    def send(self, request: embed_pb2.EmbedStreamRequest) -> None:
        self._outbox.put_nowait(request)

    async def receive(self, timeout: float) -> embed_pb2.EmbedStreamResponse:
        """Raises the error that ended the stream, or `DeadlineExceededError`."""
        answer = await _receive(self._call, timeout, CALL_CLASSES)
        if answer is None:
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
