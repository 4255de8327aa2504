"""The webhook's HTTP: what the API server sends and gets, within bounds of size, time and number.

Whoever reaches the port may connect. So heads, bodies and answers each have their time, and idle
connections make room for new ones.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog
from aiohttp import web

from sidecar.injector.review import BadRequestError
from sidecar.transport.listening import make_room, socket_of_every_address
from sidecar.transport.openai.bad_requests import BadRequestsInBrief

if TYPE_CHECKING:
    import ssl

    from sidecar.injector.metrics import InjectorMetrics, Outcome
    from sidecar.injector.review import Reviewer

MAX_BODY_BYTES = 4 * 2**20
"""The API server takes objects of up to 3 MiB, which come in a review with some fields more."""

_PATHS = {"/mutate": False, "/mutate/namespace": True}


@dataclass(frozen=True)
class Bounds:
    """How much callers can take up at once, and for how long each.

    Bodies of more than ``small_body_bytes`` are read ``large_bodies`` at a time. An answer must be
    taken within ``answer_seconds``.
    """

    connections: int = 512
    small_body_bytes: int = 64 * 2**10
    large_bodies: int = 16
    handshake_seconds: float = 5.0
    body_seconds: float = 10.0
    answer_seconds: float = 10.0
    linger_seconds: float = 2.0
    # The API server ends idle connections after 90 s. If we were first, it could just be sending.
    idle_seconds: float = 120.0


_log = structlog.get_logger()


class _RefusedError(Exception):
    """A request that is not read to its end: a status of HTTP, and why."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class Webhook:
    """Listens for reviews: at /mutate of pods that ask, at /mutate/namespace of all in a namespace
    that asks, as far as they do not decline. To be made where an event loop runs.
    """

    def __init__(
        self, reviewer: Reviewer, metrics: InjectorMetrics, bounds: Bounds | None = None
    ) -> None:
        self._bounds = bounds = bounds or Bounds()
        self._reviewer = reviewer
        self._metrics = metrics
        self._draining = False
        self._busy: set[web.RequestHandler] = set()
        self._large_bodies = asyncio.Semaphore(bounds.large_bodies)
        self._server = web.Server(
            self._handle,
            access_log=None,
            logger=BadRequestsInBrief("webhook"),
            auto_decompress=False,
            keepalive_timeout=bounds.idle_seconds,
            lingering_time=bounds.linger_seconds,
        )
        self._listener: asyncio.Server | None = None

    async def start(self, host: str, port: int, context: ssl.SSLContext) -> int:
        """Listens, and tells the port; the host ``::`` is all addresses. Raises `OSError`."""
        listen = functools.partial(
            asyncio.get_running_loop().create_server,
            self._connection,
            ssl=context,
            ssl_handshake_timeout=self._bounds.handshake_seconds,
            ssl_shutdown_timeout=self._bounds.linger_seconds,
            backlog=self._bounds.connections,
        )
        every = socket_of_every_address(host, port)
        self._listener = await (listen(sock=every) if every else listen(host, port))
        return int(self._listener.sockets[0].getsockname()[1])

    def drain(self) -> None:
        """From now on ends each connection with its next answer, so that callers go elsewhere."""
        self._draining = True

    async def stop(self) -> None:
        """Listens no more; reviews in progress are answered."""
        if self._listener is not None:
            self._listener.close()
        self._server.pre_shutdown()
        await self._server.shutdown(self._bounds.answer_seconds)

    def _connection(self) -> web.RequestHandler:
        """What serves a new connection. The oldest idle one goes if there are too many."""
        make_room(self._server, self._bounds.connections, self._busy)
        return self._server()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        clock = asyncio.get_running_loop().time
        start = clock()
        self._busy.add(request.protocol)
        try:
            outcome, response = await self._respond(request)
            taken = await self._send(request, response)
            self._metrics.answered(outcome if taken else "failed", clock() - start)
        finally:
            self._busy.discard(request.protocol)
        return response

    async def _respond(self, request: web.BaseRequest) -> tuple[Outcome, web.Response]:
        try:
            namespace_asks = _route(request)
            if len(self._busy) > self._bounds.connections:
                raise _RefusedError(503, "there are too many requests at once")
            body = await self._body(request)
            answer = self._reviewer.answer(body, namespace_asks=namespace_asks)
        except (_RefusedError, BadRequestError) as error:
            status = error.status if isinstance(error, _RefusedError) else 400
            _log.info("request refused", status=status, reason=str(error))
            return "bad_request", web.Response(text=f"{error}\n", status=status)
        return answer.outcome, web.json_response(answer.review)

    async def _body(self, request: web.BaseRequest) -> bytes:
        """The body. Raises `_RefusedError`, also for one that is too long or takes too long."""
        if request.content_type != "application/json" or request.headers.get("Content-Encoding"):
            raise _RefusedError(415, "send application/json, not compressed")
        length = request.content_length
        if length is not None and length > MAX_BODY_BYTES:
            raise _RefusedError(413, f"send at most {MAX_BODY_BYTES} bytes")
        large = length is None or length > self._bounds.small_body_bytes
        try:
            async with asyncio.timeout(self._bounds.body_seconds):
                async with self._large_bodies if large else contextlib.nullcontext():
                    return await _read(request)
        except TimeoutError:
            raise _RefusedError(
                408, f"send the body within {self._bounds.body_seconds:g} s"
            ) from None

    async def _send(self, request: web.BaseRequest, response: web.Response) -> bool:
        """Sends an answer, and tells whether it was taken in time."""
        if self._draining:
            response.force_close()
        try:
            async with asyncio.timeout(self._bounds.answer_seconds):
                await response.prepare(request)
                await response.write_eof()
        except TimeoutError:
            if request.transport is not None:
                request.transport.abort()
            return False
        return True


def _route(request: web.BaseRequest) -> bool:
    """Whether a request is about a namespace that asks. Raises `_RefusedError`."""
    if request.path not in _PATHS:
        raise _RefusedError(404, f"there is only {' and '.join(_PATHS)}")
    if request.method != "POST":
        raise _RefusedError(405, "send a POST")
    return _PATHS[request.path]


async def _read(request: web.BaseRequest) -> bytes:
    body = bytearray()
    try:
        async for chunk in request.content.iter_any():
            body += chunk
            if len(body) > MAX_BODY_BYTES:
                raise _RefusedError(413, f"send at most {MAX_BODY_BYTES} bytes")
    except web.RequestPayloadError:
        raise _RefusedError(400, "the body breaks off") from None
    return bytes(body)
