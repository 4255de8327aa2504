"""The connection of the blocking client: every call and its errors."""

from __future__ import annotations

import queue
import threading
import time
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import grpc
from google.protobuf.message import Message

from embercache import _admin, _channel
from embercache._exchange import bulk_calls
from embercache._stream import FINISH_SECONDS, StreamWindow, ended_error, no_answer_error
from embercache.errors import CALL_CLASSES, JOB_CLASSES, EmbercacheError, closed_error, from_rpc
from embercache.v1.cache_pb2_grpc import CacheServiceStub
from embercache.v1.embed_pb2_grpc import EmbedServiceStub
from embercache.v1.generate_pb2_grpc import GenerateServiceStub
from embercache.v1.search_pb2_grpc import SearchServiceStub

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Sequence

    from grpc import _CallIterator

    from embercache._answers import Answer
    from embercache._batches import Bulk
    from embercache._credentials import Credentials
    from embercache._embed_requests import EmbedBatch
    from embercache.errors import Classes
    from embercache.results import EmbedResult
    from embercache.v1 import embed_pb2

_Request = TypeVar("_Request")
_Response = TypeVar("_Response")
_Sent = TypeVar("_Sent", bound=Message)
_Received = TypeVar("_Received", bound=Message)
_Item = TypeVar("_Item")
_Plain = TypeVar("_Plain")


class Connection:
    """A channel and its stubs. ``timeout`` is in seconds, and for calls that have none."""

    def __init__(self, place: _channel.Place, timeout: float, credentials: Credentials) -> None:
        self._timeout = timeout
        self._closed = False
        self._credentials = credentials
        if credentials.channel is None:
            self._channel = grpc.insecure_channel(place.target, _channel.OPTIONS)
        else:
            self._channel = grpc.secure_channel(place.target, credentials.channel, _channel.OPTIONS)
        self._stubs = _Stubs(self._channel)

    @property
    def stubs(self) -> _Stubs:
        """What calls go through."""
        if self._closed:
            raise closed_error()
        return self._stubs

    def close(self) -> None:
        """Calls under way fail, and so do those to come."""
        self._closed = True
        self._channel.close()

    def call(
        self,
        method: grpc.UnaryUnaryMultiCallable[_Request, _Response],
        request: _Request,
        timeout: float | None,
        classes: Classes = CALL_CLASSES,
    ) -> _Response:
        """One request and its answer."""
        try:
            return method(
                request, timeout=self._seconds(timeout), metadata=self._credentials.metadata()
            )
        except grpc.RpcError as error:
            raise from_rpc(error, classes) from error

    def bulk(
        self,
        bulk: Bulk[Any, _Sent, _Received, _Item],
        method: grpc.UnaryUnaryMultiCallable[_Sent, _Received],
        requests: Sequence[_Sent],
        timeout: float | None,
    ) -> list[Answer[_Received, _Item]]:
        """The answers to all the requests."""
        exchange = bulk_calls(bulk, requests, self._seconds(timeout))
        try:
            send = next(exchange)
            while True:
                if send.delay:
                    time.sleep(send.delay)
                try:
                    response = self.call(method, send.request, send.timeout)
                except EmbercacheError as error:
                    send = exchange.throw(error)
                else:
                    send = exchange.send(response)
        except StopIteration as end:
            answers: list[Answer[_Received, _Item]] = end.value
            return answers

    def follow(
        self,
        method: Callable[[_Stubs], grpc.UnaryStreamMultiCallable[_Request, _Response]],
        requests: Sequence[_Request],
        timeout: float,
        read: Callable[[int, _Response], _Plain],
        classes: Classes = JOB_CLASSES,
    ) -> Generator[_Plain, None, None]:
        """What is read from all messages that answer the requests, one after the other.

        ``method`` chooses the stub, ``read`` takes the place of a request and a message.
        """
        for number, request in enumerate(requests):
            messages = _Messages(
                method(self.stubs)(request, metadata=self._credentials.metadata()), classes
            )
            try:
                while (message := messages.receive(timeout)) is not None:
                    yield read(number, message)
            finally:
                messages.close()

    def embed_stream(
        self, window: StreamWindow, batches: Iterator[EmbedBatch], timeout: float
    ) -> Iterator[EmbedResult]:
        """The results of a bulk job, over as many streams as it takes."""
        stream = self._open(window)
        try:
            while True:
                while window.has_room and (batch := next(batches, None)):
                    stream.send(window.add(batch))
                if window.is_empty:
                    stream.finish()
                    return
                try:
                    answer = stream.receive(timeout)
                except EmbercacheError as error:
                    stream.close()
                    time.sleep(window.broken(error))
                    stream = self._open(window)
                    continue
                if resend := window.answer(answer):
                    time.sleep(resend.delay)
                    stream.send(resend.request)
                yield from window.landed()
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
    def __init__(self, channel: grpc.Channel) -> None:
        self.embed = EmbedServiceStub(channel)
        self.search = SearchServiceStub(channel)
        self.generate = GenerateServiceStub(channel)
        self.cache = CacheServiceStub(channel)
        self.health: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(
            _admin.HEALTH_METHOD
        )


class _Messages(Generic[_Response]):
    """What a stream brings. It is read in a thread, so that no wait is for ever."""

    def __init__(self, call: _CallIterator[_Response], classes: Classes) -> None:
        self._call = call
        self._classes = classes
        self._inbox: queue.SimpleQueue[_Response | EmbercacheError | None] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, name="embercache-stream", daemon=True)
        self._reader.start()

    def receive(self, timeout: float) -> _Response | None:
        """None at the end. Raises the error that ended the stream, or `DeadlineExceededError`."""
        try:
            message = self._inbox.get(timeout=timeout)
        except queue.Empty:
            raise no_answer_error(timeout) from None
        if isinstance(message, EmbercacheError):
            raise message
        return message

    def join(self, timeout: float | None = None) -> None:
        """Waits for the end of the stream."""
        self._reader.join(timeout)

    def close(self) -> None:
        self._call.cancel()
        self._reader.join()

    def _read(self) -> None:
        try:
            for message in self._call:
                self._inbox.put(message)
            self._inbox.put(None)
        except grpc.RpcError as error:
            ended = from_rpc(error, self._classes)
            ended.__cause__ = error
            self._inbox.put(ended)


class _EmbedStream:
    """One EmbedStream call. gRPC takes requests in a thread, so that nothing here blocks."""

    def __init__(
        self,
        method: grpc.StreamStreamMultiCallable[
            embed_pb2.EmbedStreamRequest, embed_pb2.EmbedStreamResponse
        ],
        credentials: Credentials,
    ) -> None:
        self._outbox: queue.SimpleQueue[embed_pb2.EmbedStreamRequest | None] = queue.SimpleQueue()
        requests = iter(self._outbox.get, None)
        self._messages = _Messages(method(requests, metadata=credentials.metadata()), CALL_CLASSES)

    def send(self, request: embed_pb2.EmbedStreamRequest) -> None:
        self._outbox.put(request)

    def receive(self, timeout: float) -> embed_pb2.EmbedStreamResponse:
        """Raises the error that ended the stream, or `DeadlineExceededError`."""
        answer = self._messages.receive(timeout)
        if answer is None:
            raise ended_error()
        return answer

    def finish(self) -> None:
        """Tells the sidecar that all is sent, and lets it end the call."""
        self._outbox.put(None)
        self._messages.join(FINISH_SECONDS)

    def close(self) -> None:
        self._outbox.put(None)  # frees the thread in which gRPC waits for requests
        self._messages.close()
