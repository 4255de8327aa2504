"""The HTTP listener for those who watch the sidecar: probes and metrics."""

from __future__ import annotations

import asyncio
import gzip
import os
from typing import TYPE_CHECKING

from aiohttp import web
from aiohttp.log import server_logger
from prometheus_client.exposition import choose_encoder, gzip_accepted

from sidecar.transport.listening import serve_http
from sidecar.transport.openai.bad_requests import BadRequestsInBrief
from sidecar.transport.server import ListenError

if TYPE_CHECKING:
    from collections.abc import Callable

    from prometheus_client import CollectorRegistry

_SHUTDOWN_SECONDS = 1.0
_FRESH = {"Cache-Control": "no-store"}


class StatusListener:
    """Serves ``/livez``, ``/readyz`` and ``/metrics`` on an address ``HOST:PORT``.

    The host ``[::]`` stands for all addresses of both families.
    It runs in the event loop, so that an answer of ``/livez`` means that the loop turns.
    ``is_ready`` says what ``/readyz`` answers: 200 or 503. ``before_metrics`` is called in the loop
    before each page of metrics; the page itself is written on another thread.
    """

    def __init__(self, address: str, registry: CollectorRegistry) -> None:
        self.is_ready: Callable[[], bool] = lambda: False
        self.before_metrics: Callable[[], None] = lambda: None
        self.address = address
        self._registry = registry
        self._page_at_work = asyncio.Lock()
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        """Listens. Raises `ListenError`."""
        application = web.Application()
        application.router.add_get("/livez", self._livez)
        application.router.add_get("/readyz", self._readyz)
        application.router.add_get("/metrics", self._metrics)
        self._runner = web.AppRunner(
            application,
            access_log=None,
            logger=BadRequestsInBrief(server_logger),
            shutdown_timeout=_SHUTDOWN_SECONDS,
        )
        await self._runner.setup()
        host, _, port = self.address.rpartition(":")
        try:
            await serve_http(self._runner, host, int(port))
        except OSError as error:
            await self._runner.cleanup()
            raise ListenError(
                f"cannot serve metrics on {self.address} ({_reason(error)}): set"
                " server.metrics_address"
            ) from None

    async def close(self) -> None:
        """Stops listening."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def _livez(self, _request: web.Request) -> web.Response:
        return web.Response(text="the event loop turns\n", headers=_FRESH)

    async def _readyz(self, _request: web.Request) -> web.Response:
        if self.is_ready():
            return web.Response(text="calls are taken\n", headers=_FRESH)
        return web.Response(text="starting, or draining\n", status=503, headers=_FRESH)

    async def _metrics(self, request: web.Request) -> web.Response:
        accept = request.headers.get("Accept", "")
        compress = gzip_accepted(request.headers.get("Accept-Encoding", ""))
        # One page after the other: what is read in the loop belongs to the page that follows.
        async with self._page_at_work:
            self.before_metrics()
            body, kind = await asyncio.to_thread(_page, self._registry, accept, compress)
        headers = {"Content-Type": kind, "Vary": "Accept, Accept-Encoding"}
        if compress:
            headers["Content-Encoding"] = "gzip"
        return web.Response(body=body, headers=headers)


def _reason(error: OSError) -> str:
    """Why an address cannot be listened on; asyncio's own words name it once more."""
    if error.errno is not None and error.errno > 0:
        return os.strerror(error.errno)
    return error.strerror or "it is not known"


def _page(registry: CollectorRegistry, accept: str, compress: bool) -> tuple[bytes, str]:
    """The metrics, as text or as OpenMetrics, and their content type."""
    encode, kind = choose_encoder(accept)
    body = encode(registry)
    return gzip.compress(body, compresslevel=1) if compress else body, kind
