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
from sidecar.files_in_use import count_failures
from sidecar.open_access import guarded, open_access
from sidecar.open_front import (
    count_front,
    grpc_server,
    keep_callers,
    open_native,
    with_transport,
)
from sidecar.open_generators import open_generators
from sidecar.open_models import open_models, open_rerankers
from sidecar.open_quotas import limit_tiers, open_quotas
from sidecar.open_services import handlers, open_services, openai_methods
from sidecar.open_status import fill_page, open_status
from sidecar.open_tiers import open_tiers
from sidecar.open_tls import open_tls
from sidecar.open_upstream import open_upstream
from sidecar.open_watch import open_watch
from sidecar.telemetry.index_metrics import IndexCollector
from sidecar.telemetry.metrics import StatsCollector
from sidecar.telemetry.reload_metrics import ReloadCollector
from sidecar.telemetry.task_metrics import TaskCollector
from sidecar.transport.openai.front import OpenAIFront
from sidecar.transport.shown import FrontCall, GrpcCall

if TYPE_CHECKING:
    from collections.abc import Callable

    from sidecar.config import Settings
    from sidecar.open_watch import Watch
    from sidecar.transport.certificate import ServerCertificate
    from sidecar.transport.front_door import FrontDoor
    from sidecar.transport.openai.methods import Methods
    from sidecar.transport.server import GrpcServer
    from sidecar.transport.status import StatusListener

_log = structlog.get_logger()


class App:
    """A sidecar, as an asynchronous context: it serves inside, and has drained when it is left.

    Entering loads models, connects tiers, then listens. The listener for probes is there before
    all of that, and the last to go. It raises `SetupError`, `RedisUrlError`,
    `IndexUrlError`, `IndexSetupError`, `DiskLockedError` or `ListenError`, each with a message that
    says what to do.

    ``before_calls`` is called when all is ready, before the first call can be taken.
    """

    def __init__(self, settings: Settings, before_calls: Callable[[], None] = lambda: None) -> None:
        self._settings = settings
        self._before_calls = before_calls
        self._exits = contextlib.AsyncExitStack()
        self.addresses: list[str] = []

    async def __aenter__(self) -> Self:
        async with contextlib.AsyncExitStack() as exits:
            registry = CollectorRegistry()
            ProcessCollector(registry=registry)
            registry.register(TaskCollector(asyncio.get_running_loop()))
            reloads = ReloadCollector()
            registry.register(reloads)
            reloads.show(count_failures())
            certificate = open_tls(self._settings.tls, registry, exits)
            status, page = await open_status(self._settings, registry, certificate, exits)
            access = open_access(self._settings, reloads, exits)
            watch = open_watch(self._settings.tracing, registry, exits)
            native = open_native(self._settings, certificate, exits, is_traced=watch.is_traced)
            settings = with_transport(self._settings, native)
            if native is not None:
                keep_callers(native.front, access)
            watch = guarded(watch, access, GrpcCall if native is None else FrontCall)
            quotas = open_quotas(access)
            upstream = open_upstream(settings, exits)
            # Then models: they take longest, and fail most often.
            models = await open_models(settings, upstream, exits, quotas.share)
            rerankers = await open_rerankers(settings, models, upstream, exits, quotas.share)
            tiers = await open_tiers(settings, reloads, native.hot if native else None, exits)
            limit_tiers(tiers, access)
            generators = await open_generators(settings, tiers, exits)
            services = await open_services(
                settings, models, rerankers, generators, tiers, quotas, upstream, exits
            )
            settle = count_front(
                native, watch.grpc.metrics, services.responses, tiers.follower, registry, exits
            )
            stats = StatsCollector(services.admin.collect)
            registry.register(stats)
            registry.register(IndexCollector(services.index))

            def before_metrics() -> None:
                settle()
                stats.take()

            status.before_metrics = before_metrics
            if page is not None:
                fill_page(
                    page,
                    settings,
                    services,
                    tiers,
                    watch.grpc.metrics,
                    settle,
                    lambda: status.is_ready(),
                    exits,
                )
            self._before_calls()
            server = grpc_server(
                settings.server, handlers(services, watch.grpc), certificate, native, settle
            )
            self.addresses = await _listen(
                settings, server, openai_methods(services), watch, status, certificate, exits
            )
            self._exits = exits.pop_all()
        _log.info(
            "serving",
            version=__version__,
            addresses=self.addresses,
            metrics_address=status.address,
            status_page=status.page_url,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        _log.info("draining")
        await self._exits.aclose()
        _log.info("stopped")


async def serve(settings: Settings) -> None:
    """Runs a sidecar until SIGTERM or SIGINT. Raises as entering an `App` does."""
    told = asyncio.Event()
    loop = asyncio.get_running_loop()
    at_once = signal.getsignal(signal.SIGTERM)

    def before_calls() -> None:
        # What start-up made stays; without this, every collection walks all of it.
        gc.collect()
        gc.freeze()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, told.set)

    async with App(settings, before_calls):
        await told.wait()
        # The next one kills, should the drain hang.
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
        signal.signal(signal.SIGTERM, at_once)


async def _listen(
    settings: Settings,
    server: GrpcServer | FrontDoor,
    openai: Methods,
    watch: Watch,
    status: StatusListener,
    certificate: ServerCertificate | None,
    exits: contextlib.AsyncExitStack,
) -> list[str]:
    status.is_ready = lambda: server.is_serving
    if not settings.server.openai_address:
        exits.push_async_callback(server.drain)
        await server.start()
        return server.addresses
    front = OpenAIFront(settings.server, openai, watch.openai, certificate)

    async def drain() -> None:
        await asyncio.gather(front.drain(at_once=not server.is_serving), server.drain())

    exits.push_async_callback(drain)
    await front.start()
    await server.start()
    return [*server.addresses, front.url]
