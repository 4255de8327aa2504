"""The HTTP listener for those who watch the sidecar: probes and metrics."""

from __future__ import annotations

import asyncio
import gzip
import os
import re
from typing import TYPE_CHECKING

from aiohttp import web
from prometheus_client.exposition import choose_encoder, gzip_accepted

from sidecar.descriptors import is_one_left
from sidecar.shared_task import create_shared_task
from sidecar.transport.listening import ListenError, listen, make_room
from sidecar.transport.openai.bad_requests import BadRequestsInBrief
from sidecar.transport.openai.errors import ApiError
from sidecar.transport.openai.guard import refuse_pages

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiohttp.typedefs import Handler
    from prometheus_client import CollectorRegistry

    from sidecar.transport.certificate import ServerCertificate
    from sidecar.transport.status_page import StatusPage

MOST_CONNECTIONS = 64
# Then a connection is ended on which no whole request has come. Who scrapes connects anew.
IDLE_SECONDS = 10.0
_SHUTDOWN_SECONDS = 1.0
_FRESH = {"Cache-Control": "no-store"}
_UNWANTED = re.compile(r";\s*q=0(\.0*)?\s*(;|$)")


class StatusListener:
    """Serves ``/livez``, ``/readyz`` and ``/metrics`` on an address ``HOST:PORT``.

    The host ``[::]`` stands for all addresses of both families. ``address`` has the port that was
    bound, once it listens.
    It runs in the event loop, so that an answer of ``/livez`` means that the loop turns.
    ``is_ready`` says what ``/readyz`` answers: 200 or 503. ``before_metrics`` is called in the loop
    before each page of metrics; the page itself is written on another thread.

    Whoever reaches the port may connect, so connections are few, and idle ones make room for new.

    With a ``certificate``, they are encrypted. If that asks callers for one of their own, metrics
    and the page are for those who show one; probes, which the kubelet makes, show none.

    With ``page``, that is served too, under ``/status``.
    """

    def __init__(
        self,
        address: str,
        registry: CollectorRegistry,
        certificate: ServerCertificate | None = None,
        page: StatusPage | None = None,
    ) -> None:
        self.is_ready: Callable[[], bool] = lambda: False
        self.before_metrics: Callable[[], None] = lambda: None
        self.address = address
        self._registry = registry
        self._certificate = certificate
        self._page = page
        self._host, _, port = address.rpartition(":")
        self._port = int(port or 0)
        self._page_at_work = asyncio.Lock()
        self._pages: dict[tuple[str, bool], asyncio.Task[bytes]] = {}
        self._busy: set[web.RequestHandler] = set()
        self._runner: web.AppRunner | None = None
        self._listener: asyncio.Server | None = None

    async def start(self) -> None:
        """Listens. Raises `ListenError`."""
        application = web.Application(middlewares=[self._guard])
        application.router.add_get("/livez", self._livez)
        application.router.add_get("/readyz", self._readyz)
        application.router.add_get("/metrics", self._metrics)
        if self._page is not None:
            self._page.add_to(application.router, self._refuse_strangers)
        self._runner = web.AppRunner(
            application,
            access_log=None,
            logger=BadRequestsInBrief("server.metrics_address"),
            shutdown_timeout=_SHUTDOWN_SECONDS,
            keepalive_timeout=IDLE_SECONDS,
        )
        await self._runner.setup()
        try:
            self._listener = await self._listen()
        except (OSError, UnicodeError) as error:
            await self._runner.cleanup()
            raise ListenError(
                f"cannot serve metrics on {self.address} ({_reason(error)}): set"
                " server.metrics_address"
            ) from None
        self.address = f"{self._host}:{self._listener.sockets[0].getsockname()[1]}"

    async def close(self) -> None:
        """Stops listening."""
        if self._listener is not None:
            self._listener.close()
        if self._runner is not None:
            await self._runner.cleanup()

    @property
    def page_url(self) -> str:
        """Where the page is, once it listens; empty if there is none."""
        if self._page is None:
            return ""
        return f"{'http' if self._certificate is None else 'https'}://{self.address}/status/"

    async def _listen(self) -> asyncio.Server:
        certificate = self._certificate
        context = (
            certificate.context("server.metrics_address", optional=True) if certificate else None
        )
        return await listen(self._connection, self._host, self._port, context)

    def _connection(self) -> asyncio.Protocol:
        """What serves a new connection. The oldest one goes if there are too many.

        That is an idle one, or else one that waits for metrics: probes must always get in.
        """
        assert self._runner is not None  # noqa: S101 - set before it listens
        server = self._runner.server
        assert server is not None  # noqa: S101
        if not make_room(server, MOST_CONNECTIONS, self._busy):
            make_room(server, MOST_CONNECTIONS, ())
        return server()

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        self._busy.add(request.protocol)
        try:
            refuse_pages(request, self._host)
            return await handler(request)
        except ApiError as error:
            return error.response()
        finally:
            self._busy.discard(request.protocol)

    async def _livez(self, _request: web.Request) -> web.Response:
        return web.Response(text="the event loop turns\n", headers=_FRESH)

    async def _readyz(self, _request: web.Request) -> web.Response:
        if not self.is_ready():
            return web.Response(text="starting, or draining\n", status=503, headers=_FRESH)
        if not is_one_left():
            return web.Response(text="no file descriptor is left\n", status=503, headers=_FRESH)
        return web.Response(text="calls are taken\n", headers=_FRESH)

    def _refuse_strangers(self, request: web.Request) -> None:
        """Raises HTTP's 403 for who has to show a certificate and does not."""
        asks = self._certificate is not None and self._certificate.asks_callers
        if asks and not request.get_extra_info("peercert"):
            raise web.HTTPForbidden(text="this is for callers with a certificate: show one\n")

    async def _metrics(self, request: web.Request) -> web.Response:
        self._refuse_strangers(request)
        encode, kind = _encoder(_wanted(request.headers.get("Accept", "")))
        compress = gzip_accepted(_wanted(request.headers.get("Accept-Encoding", "")))
        # Who comes while a page is being made gets that one: to make it takes from calls.
        page = self._pages.get((kind, compress))
        if page is None:
            page = create_shared_task(self._make_page(encode, compress))
            self._pages[kind, compress] = page
            page.add_done_callback(lambda _: self._pages.pop((kind, compress)))
        body = await asyncio.shield(page)
        headers = {"Content-Type": kind, "Vary": "Accept, Accept-Encoding"}
        if compress:
            headers["Content-Encoding"] = "gzip"
        return web.Response(body=body, headers=headers)

    async def _make_page(
        self, encode: Callable[[CollectorRegistry], bytes], compress: bool
    ) -> bytes:
        # One page after the other: what is read in the loop belongs to the page that follows.
        async with self._page_at_work:
            self.before_metrics()
            return await asyncio.to_thread(_page, encode, self._registry, compress)


def _encoder(accept: str) -> tuple[Callable[[CollectorRegistry], bytes], str]:
    try:
        return choose_encoder(accept)
    except (TypeError, ValueError):
        # A version that is none.
        return choose_encoder("")


def _wanted(header: str) -> str:
    """What a header accepts, without what it says is not wanted at all."""
    return ",".join(part for part in header.split(",") if not _UNWANTED.search(part))


def _reason(error: OSError | UnicodeError) -> str:
    """Why an address cannot be listened on; asyncio's own words name it once more."""
    if isinstance(error, UnicodeError):
        return "that is no name of a host"
    if error.errno is not None and error.errno > 0:
        return os.strerror(error.errno)
    return error.strerror or "it is not known"


def _page(
    encode: Callable[[CollectorRegistry], bytes], registry: CollectorRegistry, compress: bool
) -> bytes:
    body = encode(registry)
    return gzip.compress(body, compresslevel=1) if compress else body
