"""The life of a sidecar: opens its parts from the bottom up, serves, and closes them in reverse."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
from typing import TYPE_CHECKING, Self

import structlog
from prometheus_client import CollectorRegistry, ProcessCollector

from sidecar import __version__
from sidecar.open_generators import open_generators
from sidecar.open_models import open_models, open_rerankers
from sidecar.open_services import handlers, open_services, openai_methods
from sidecar.open_tiers import open_tiers
from sidecar.telemetry.metrics import CallMetrics, StatsCollector, serve_metrics
from sidecar.transport.openai.front import OpenAIFront
from sidecar.transport.server import GrpcServer, ListenError

if TYPE_CHECKING:
    from collections.abc import Callable

    from sidecar.config import Settings
    from sidecar.open_services import Services

_log = structlog.get_logger()


class App:
    """A sidecar, as an asynchronous context: it serves inside, and has drained when it is left.

    Entering loads models, connects tiers, then listens. It raises `SetupError`, `RedisUrlError`,
    `IndexUrlError`, `IndexSetupError`, `DiskLockedError` or `ListenError`, each with a message that
    says what to do.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._exits = contextlib.AsyncExitStack()
        self.addresses: list[str] = []

    async def __aenter__(self) -> Self:
        async with contextlib.AsyncExitStack() as exits:
            # Models first: they take longest, and fail most often.
            models = await open_models(self._settings, exits)
            rerankers = await open_rerankers(self._settings, models, exits)
            tiers = await open_tiers(self._settings, exits)
            generators = await open_generators(self._settings, tiers, exits)
            services = await open_services(
                self._settings, models, rerankers, generators, tiers, exits
            )
            self.addresses = await _listen(self._settings, services, exits)
            self._exits = exits.pop_all()
        _log.info("serving", version=__version__, addresses=self.addresses)
        return self

    async def __aexit__(self, *_: object) -> None:
        _log.info("draining")
        await self._exits.aclose()
        _log.info("stopped")


async def serve(settings: Settings) -> None:
    """Runs a sidecar until SIGTERM or SIGINT. Raises as entering an `App` does."""
    told = asyncio.Event()
    loop = asyncio.get_running_loop()
    async with App(settings):
        # What start-up made stays; without this, every collection walks all of it.
        gc.collect()
        gc.freeze()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, told.set)
        await told.wait()
        # The next one kills, should the drain hang.
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)


async def _listen(
    settings: Settings, services: Services, exits: contextlib.AsyncExitStack
) -> list[str]:
    registry = CollectorRegistry()
    registry.register(StatsCollector(services.admin.collect))
    ProcessCollector(registry=registry)
    if settings.server.metrics_address:
        exits.callback(_serve_metrics(settings.server.metrics_address, registry))
    metrics = CallMetrics(registry)
    server = GrpcServer(settings.server, handlers(services, metrics))
    if not settings.server.openai_address:
        exits.push_async_callback(server.drain)
        await server.start()
        return server.addresses
    front = OpenAIFront(settings.server, openai_methods(services), metrics)

    async def drain() -> None:
        await asyncio.gather(front.drain(), server.drain())

    exits.push_async_callback(drain)
    await front.start()
    await server.start()
    return [*server.addresses, front.url]


def _serve_metrics(address: str, registry: CollectorRegistry) -> Callable[[], None]:
    try:
        return serve_metrics(address, registry)
    except OSError as error:
        raise ListenError(
            f"cannot serve metrics on {address} ({error.strerror}): set server.metrics_address"
        ) from None
