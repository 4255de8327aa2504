"""Puts the parts together: the only place that knows them all."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import re
import signal
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import structlog
from prometheus_client import CollectorRegistry, ProcessCollector

from sidecar import __version__
from sidecar.cache.disk import DiskTier
from sidecar.cache.follower import (
    NAMESPACES_A_ROUND,
    SYNCHRONISE_SECONDS,
    InvalidationFollower,
)
from sidecar.cache.generations import Generations, StoreUnavailableError
from sidecar.cache.hot import HotTier
from sidecar.cache.local_generations import LocalGenerations
from sidecar.cache.read_through import ReadThrough
from sidecar.cache.redis_connect import connect
from sidecar.cache.redis_generations import RedisGenerations
from sidecar.cache.warm import WarmTier
from sidecar.config import NAME_PATTERN
from sidecar.models.errors import SetupError
from sidecar.models.local import LocalEmbedder
from sidecar.models.packs import resolve
from sidecar.models.remote import RemoteEmbedder
from sidecar.services.cache_admin import CacheAdmin
from sidecar.services.embed import EmbedService
from sidecar.services.embed_request import RequestReader
from sidecar.telemetry.metrics import CallMetrics, StatsCollector, serve_metrics
from sidecar.transport.handlers import service, stream, unary
from sidecar.transport.server import GrpcServer, ListenError

if TYPE_CHECKING:
    from collections.abc import Callable, Container
    from pathlib import Path

    import grpc

    from sidecar.config import Settings
    from sidecar.models.types import Embedder

_FLUSH_SECONDS = 5.0
_CONNECT_SECONDS = 2.0

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class _Tiers:
    """Everything that keeps entries."""

    hot: HotTier[Any]
    disk: DiskTier | None
    warm: WarmTier | None
    generations: Generations
    cache: ReadThrough


class App:
    """A sidecar, as an asynchronous context: it serves inside, and has drained when it is left.

    Entering loads models, connects tiers, then listens. It raises `SetupError`, `RedisUrlError`,
    `DiskLockedError` or `ListenError`, each with a message that says what to do.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._exits = contextlib.AsyncExitStack()
        self.addresses: list[str] = []

    async def __aenter__(self) -> Self:
        async with contextlib.AsyncExitStack() as exits:
            # Models first: they take longest, and fail most often.
            models = await _load_models(self._settings, exits)
            tiers = await _open_tiers(self._settings, exits)
            self.addresses = await _listen(self._settings, models, tiers, exits)
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


async def _load_models(settings: Settings, exits: contextlib.AsyncExitStack) -> dict[str, Embedder]:
    models: dict[str, Embedder] = {}
    for pack in settings.model.packs:
        if settings.encoder.target == "local":
            folder = resolve(pack, settings.model.folder)
            _check_name(folder.name, models)
            local = await _load_local(settings, folder)
            exits.push_async_callback(local.close)
            models[local.info.name] = local
        else:
            _check_name(pack, models)
            remote = RemoteEmbedder(
                pack,
                settings.encoder.target,
                queue_inputs=settings.encoder.queue_inputs,
                timeout=settings.encoder.timeout,
            )
            exits.push_async_callback(remote.close)
            await remote.start()
            models[pack] = remote
    return models


def _check_name(name: str, taken: Container[str]) -> None:
    if name in (".", "..") or not re.fullmatch(NAME_PATTERN, name):
        raise SetupError(
            f"model.packs: {name!r} cannot be the name of a model, which is that of its folder and"
            " has 1 to 64 letters, digits, '.', '_' or '-': rename the folder, or link to it under"
            " another name"
        )
    if name in taken:
        raise SetupError(
            f"model.packs: two models have the name {name}: leave one out, or rename its folder, or"
            " link to it under another name"
        )


async def _load_local(settings: Settings, folder: Path) -> LocalEmbedder:
    embedder = await asyncio.to_thread(
        LocalEmbedder.load,
        folder,
        folder.name,
        provider=settings.model.provider,
        threads=settings.model.threads or None,
        batch_tokens=settings.encoder.batch_tokens or None,
        queue_inputs=settings.encoder.queue_inputs,
    )
    info = embedder.info
    _log.info("model loaded", model=info.name, version=info.version, runs_on=info.runs_on)
    return embedder


async def _open_tiers(settings: Settings, exits: contextlib.AsyncExitStack) -> _Tiers:
    hot: HotTier[Any] = HotTier(settings.hot.max_bytes, time.monotonic)
    disk = await _open_disk(settings, exits)
    warm = await _open_warm(settings, exits)
    store: RedisGenerations | LocalGenerations
    if warm is None:
        folder = settings.disk.folder
        store = LocalGenerations(folder / "generations.db" if folder else None)
        exits.callback(store.close)
    else:
        store = RedisGenerations(warm, settings.cache.prefix)
    generations = Generations(store)
    cache = ReadThrough(
        hot, generations, disk=disk, warm=warm, ttl_jitter=settings.cache.ttl_jitter
    )
    exits.push_async_callback(cache.close)
    if warm is not None and isinstance(store, RedisGenerations):
        follower = _follow(settings, warm, store, generations, cache, hot, disk)
        await follower.start()
        upkeep = follower.run()
    else:
        upkeep = _synchronise_forever(generations)
    exits.push_async_callback(_end_task, asyncio.create_task(upkeep))
    return _Tiers(hot, disk, warm, generations, cache)


async def _synchronise_forever(generations: Generations) -> None:
    """Tells the local store what it could not be told before."""
    while True:
        await asyncio.sleep(SYNCHRONISE_SECONDS)
        with contextlib.suppress(StoreUnavailableError):
            await generations.synchronise(NAMESPACES_A_ROUND)


def _follow(
    settings: Settings,
    warm: WarmTier,
    store: RedisGenerations,
    generations: Generations,
    cache: ReadThrough,
    hot: HotTier[Any],
    disk: DiskTier | None,
) -> InvalidationFollower:
    async def lose_all() -> None:
        hot.clear()
        if disk is not None:
            await disk.clear()

    async def settle() -> bool:
        return disk is None or await disk.flush(_FLUSH_SECONDS)

    folder = settings.disk.folder
    return InvalidationFollower(
        warm,
        store.stream,
        generations,
        remove=cache.remove,
        lost=lose_all,
        settle=settle,
        file=folder / "position" if folder is not None else None,
    )


async def _open_disk(settings: Settings, exits: contextlib.AsyncExitStack) -> DiskTier | None:
    if settings.disk.folder is None:
        return None
    disk = DiskTier(settings.disk.folder, settings.disk.max_bytes)
    exits.push_async_callback(disk.close)
    await disk.start()
    exits.push_async_callback(disk.flush, _FLUSH_SECONDS)
    return disk


async def _open_warm(settings: Settings, exits: contextlib.AsyncExitStack) -> WarmTier | None:
    redis = settings.redis
    url = redis.url.get_secret_value()
    if not url:
        return None
    client = connect(url, connect_timeout=_CONNECT_SECONDS, password_file=redis.password_file)
    warm = WarmTier(client, timeout=redis.timeout, queue_bytes=redis.queue_bytes)
    exits.push_async_callback(warm.close)
    await warm.start()
    exits.push_async_callback(warm.flush, _FLUSH_SECONDS)
    return warm


async def _listen(
    settings: Settings,
    models: dict[str, Embedder],
    tiers: _Tiers,
    exits: contextlib.AsyncExitStack,
) -> list[str]:
    reader = RequestReader(models, settings.server, settings.model.normalise)
    embed = EmbedService(
        models=models,
        reader=reader,
        cache=tiers.cache,
        hot=tiers.hot,
        generations=tiers.generations,
        settings=settings.cache,
    )
    admin = CacheAdmin(
        models=models,
        reader=reader,
        embed=embed,
        cache=tiers.cache,
        hot=tiers.hot,
        disk=tiers.disk,
        warm=tiers.warm,
        generations=tiers.generations,
    )
    registry = CollectorRegistry()
    registry.register(StatsCollector(admin.collect))
    ProcessCollector(registry=registry)
    if settings.server.metrics_address:
        exits.callback(_serve_metrics(settings.server.metrics_address, registry))
    server = GrpcServer(settings.server, _handlers(embed, admin, CallMetrics(registry)))
    await server.start()
    exits.push_async_callback(server.drain)
    return server.addresses


def _serve_metrics(address: str, registry: CollectorRegistry) -> Callable[[], None]:
    try:
        return serve_metrics(address, registry)
    except OSError as error:
        raise ListenError(
            f"cannot serve metrics on {address} ({error.strerror}): set server.metrics_address"
        ) from None


async def _end_task(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait({task})


def _handlers(
    embed: EmbedService, admin: CacheAdmin, metrics: CallMetrics
) -> list[grpc.GenericRpcHandler]:
    return [
        service(
            "embercache.v1.EmbedService",
            {
                "Embed": unary(embed.embed, "Embed", metrics, embed.stored),
                "EmbedStream": stream(embed.embed_stream, "EmbedStream", metrics),
                "ListModels": unary(embed.list_models, "ListModels", metrics),
            },
        ),
        service(
            "embercache.v1.CacheService",
            {
                "Stats": unary(admin.stats, "Stats", metrics),
                "Invalidate": unary(admin.invalidate, "Invalidate", metrics),
                "Flush": unary(admin.flush, "Flush", metrics),
            },
        ),
    ]
