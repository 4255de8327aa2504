"""The blocking client."""

from __future__ import annotations

import queue
import threading
import time
from typing import TYPE_CHECKING, TypeVar

import grpc

from embercache import _admin, _channel, _requests
from embercache._exchange import embed_calls
from embercache._stream import FINISH_SECONDS, StreamWindow, ended_error, no_answer_error
from embercache.errors import EmbercacheError, closed_error, from_rpc
from embercache.results import decode, finish
from embercache.v1 import cache_pb2, embed_pb2
from embercache.v1.cache_pb2_grpc import CacheServiceStub
from embercache.v1.embed_pb2_grpc import EmbedServiceStub

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

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

_Request = TypeVar("_Request")
_Response = TypeVar("_Response")


class Client:
    """Talks to one sidecar. Safe to share between threads; make it after a fork, not before.

    ``address`` is ``host:port``, ``unix:///absolute/path`` or ``unix:path``; without it
    ``EMBERCACHE_ADDRESS`` from the environment, else ``127.0.0.1:50551``. Nothing is connected
    until the first call. ``timeout`` is the deadline of every call, in seconds, its retries
    included; each call can be given its own.

    A call that fails with `UnavailableError` or `OverloadedError` has been tried five times, with
    exponential backoff, unless the deadline came first. Every method raises `EmbercacheError`.
    """

    def __init__(self, address: str | None = None, *, timeout: float = 10.0) -> None:
        self._timeout = timeout
        self._closed = False
        self._channel = grpc.insecure_channel(_channel.target(address), options=_channel.OPTIONS)
        self._embed = EmbedServiceStub(self._channel)
        self._cache = CacheServiceStub(self._channel)
        self._health: grpc.UnaryUnaryMultiCallable[bytes, bytes] = self._channel.unary_unary(
            _admin.HEALTH_METHOD
        )

    def embed(
        self,
        inputs: Iterable[EmbedInput],
        *,
        timeout: float | None = None,
        on_error: OnError = "raise",
        **options: Unpack[EmbedOptions],
    ) -> EmbedResult:
        """Embeds texts, named texts (`Entity`) or tensors; `EmbedOptions` lists the options.

        The answer is in the order of the inputs. Many or large inputs are sent in several calls,
        one after the other. If some inputs have no vector, `PartialFailureError` is raised, which
        holds the result with all the others; with ``on_error="return"`` that result is returned.
        """
        listed = list(_requests.many(inputs))
        requests = _requests.embed_requests(listed, _requests.options(**options))
        exchange = embed_calls(requests, self._timeout if timeout is None else timeout)
        return finish(decode(listed, self._drive(exchange)), on_error)

    def embed_stream(
        self,
        inputs: Iterable[EmbedInput],
        *,
        batch_size: int = 256,
        timeout: float = 60.0,
        on_error: OnError = "raise",
        **options: Unpack[EmbedOptions],
    ) -> Iterator[EmbedResult]:
        """Embeds any number of inputs; yields results of up to ``batch_size``, in input order.

        Up to eight batches are under way at a time, and no more is read ahead from ``inputs``,
        which may be longer than memory. Batches that could not be answered for the moment are
        sent again, and a stream that broke is opened anew. ``timeout`` is the longest wait, in
        seconds, for the next answer and for a sidecar that went away to come back. ``on_error``
        is as in `embed`; after an error the iterator ends, so give ``"return"`` where a bad input
        must not end the job.
        """
        batcher = _requests.Batcher(_requests.options(**options), batch_size)
        batches = _requests.batches(_requests.many(inputs), batcher)
        return self._stream(StreamWindow(on_error, timeout), batches, timeout)

    def models(self, *, timeout: float | None = None) -> list[Model]:
        """The models that the sidecar answers for, the default one first."""
        request = embed_pb2.ListModelsRequest()
        return _admin.models(self._call(self._embed.ListModels, request, timeout))

    def stats(self, *, timeout: float | None = None) -> Stats:
        """Counters of the sidecar since it started, and the state of its tiers."""
        return _admin.stats(self._call(self._cache.Stats, cache_pb2.StatsRequest(), timeout))

    def invalidate(
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
        """Makes entries invalid on every sidecar that shares the same Redis.

        Give one of ``tags`` (every entry that carries one of them), ``inputs`` (their entries,
        for ``model``, ``input_type`` and ``tags`` as in the calls that stored them) and
        ``whole_namespace=True``. After an `UnavailableError` the sidecar asked obeys, but others
        may not have heard: repeat the call.
        """
        request = _requests.invalidate_request(
            tags=tags,
            inputs=inputs,
            whole_namespace=whole_namespace,
            namespace=namespace,
            model=model,
            input_type=input_type,
        )
        self._call(self._cache.Invalidate, request, timeout)

    def flush(self, tiers: Sequence[FlushableTier] = (), *, timeout: float | None = None) -> int:
        """Empties tiers of this sidecar alone, all if none is named; returns how many entries.

        Nothing becomes invalid: what Redis holds is served again.
        """
        request = _requests.flush_request(tiers)
        return self._call(self._cache.Flush, request, timeout).entries

    def health(self, *, timeout: float | None = None) -> bool:
        """Whether the sidecar says that it is serving. Not retried."""
        answer = self._call(self._health, _admin.HEALTH_REQUEST, timeout)
        return answer == _admin.HEALTH_SERVING

    def close(self) -> None:
        """Closes the connection. Calls under way fail."""
        self._closed = True
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _call(
        self,
        method: grpc.UnaryUnaryMultiCallable[_Request, _Response],
        request: _Request,
        timeout: float | None,
    ) -> _Response:
        if self._closed:
            raise closed_error()
        try:
            return method(request, timeout=self._timeout if timeout is None else timeout)
        except grpc.RpcError as error:
            raise from_rpc(error) from error

    def _drive(self, exchange: Exchange) -> list[Answer]:
        try:
            send = next(exchange)
            while True:
                if send.delay:
                    time.sleep(send.delay)
                try:
                    response = self._call(self._embed.Embed, send.request, send.timeout)
                except EmbercacheError as error:
                    send = exchange.throw(error)
                else:
                    send = exchange.send(response)
        except StopIteration as end:
            answers: list[Answer] = end.value
            return answers

    def _stream(
        self, window: StreamWindow, batches: Iterator[Batch], timeout: float
    ) -> Iterator[EmbedResult]:
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

    def _open(self, window: StreamWindow) -> _Stream:
        if self._closed:
            raise closed_error()
        stream = _Stream(self._embed.EmbedStream)
        for request in window.unanswered():
            stream.send(request)
        return stream


class _Stream:
    """One EmbedStream call. gRPC reads and is read in threads, so nothing here blocks for ever."""

    def __init__(
        self,
        method: grpc.StreamStreamMultiCallable[
            embed_pb2.EmbedStreamRequest, embed_pb2.EmbedStreamResponse
        ],
    ) -> None:
        self._outbox: queue.SimpleQueue[embed_pb2.EmbedStreamRequest | None] = queue.SimpleQueue()
        self._inbox: queue.SimpleQueue[embed_pb2.EmbedStreamResponse | EmbercacheError] = (
            queue.SimpleQueue()
        )
        self._call = method(iter(self._outbox.get, None))
        self._reader = threading.Thread(target=self._read, name="embercache-stream", daemon=True)
        self._reader.start()

    def send(self, request: embed_pb2.EmbedStreamRequest) -> None:
        self._outbox.put(request)

    def receive(self, timeout: float) -> embed_pb2.EmbedStreamResponse:
        """Raises the error that ended the stream, or `DeadlineExceededError`."""
        try:
            answer = self._inbox.get(timeout=timeout)
        except queue.Empty:
            raise no_answer_error(timeout) from None
        if isinstance(answer, EmbercacheError):
            raise answer
        return answer

    def finish(self) -> None:
        """Tells the sidecar that all is sent, and lets it end the call."""
        self._outbox.put(None)
        self._reader.join(FINISH_SECONDS)

    def close(self) -> None:
        self._call.cancel()
        self._outbox.put(None)  # frees the thread in which gRPC waits for requests
        self._reader.join()

    def _read(self) -> None:
        try:
            for answer in self._call:
                self._inbox.put(answer)
            self._inbox.put(ended_error())
        except grpc.RpcError as error:
            ended = from_rpc(error)
            ended.__cause__ = error
            self._inbox.put(ended)
