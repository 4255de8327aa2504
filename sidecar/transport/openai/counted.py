"""How calls of the front end: timed, counted, and their errors answered."""

from __future__ import annotations

import asyncio
from time import perf_counter
from typing import TYPE_CHECKING

import aiohttp

from sidecar.transport.openai.errors import as_api_error
from sidecar.transport.openai.events import STARTED, send_error

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiohttp import web
    from aiohttp.typedefs import Handler

    from sidecar.telemetry.metrics import CallMetrics
    from sidecar.transport.openai.errors import ApiError
    from sidecar.transport.openai.methods import Methods

CANCELLED = "CANCELLED"


class CountedCalls:
    """Makes handlers whose calls are counted in ``metrics``."""

    def __init__(self, metrics: CallMetrics) -> None:
        self.metrics = metrics

    def methods(self, methods: Methods) -> Methods:
        """What endpoints are to call."""
        return methods

    def of(self, name: str, route: str, handle: Handler) -> Handler:
        """The handler of an endpoint; ``name`` is what metrics call it."""
        metrics = self.metrics
        return ending(
            handle, metrics.duration(name).observe, lambda reason: metrics.failed(name, reason)
        )


def ending(
    handle: Handler, observe: Callable[[float], None], failed: Callable[[str], None]
) -> Handler:
    """A handler whose errors are answered.

    ``observe`` is told how long calls took that ended well, ``failed`` of the others with which
    status of gRPC they ended.
    """

    async def run(request: web.Request) -> web.StreamResponse:
        started = perf_counter()
        try:
            response = await handle(request)
        except (asyncio.CancelledError, aiohttp.ClientConnectionResetError):
            # Either may come first when a client goes away.
            failed(CANCELLED)
            raise
        except Exception as error:
            failure = as_api_error(error)
            failed(failure.reason)
            response = await _end(request, failure)
        else:
            observe(perf_counter() - started)
        return response

    return run


async def _end(request: web.Request, failure: ApiError) -> web.StreamResponse:
    response: web.StreamResponse | None = request.get(STARTED)
    if response is None:
        return failure.response()
    await send_error(response, failure)
    return response
