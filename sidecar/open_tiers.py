"""Opens everything that keeps entries, and what keeps it right."""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import structlog

from sidecar.cache.accounts import Accounts
from sidecar.cache.disk import DiskTier
from sidecar.cache.follower import InvalidationFollower
from sidecar.cache.generations import (
    NAMESPACES_A_ROUND,
    SYNCHRONISE_SECONDS,
    Generations,
    StoreUnavailableError,
)
from sidecar.cache.hot import HotTier
from sidecar.cache.local_generations import LocalGenerations
from sidecar.cache.read_through import ReadThrough
from sidecar.cache.redis_connect import connect
from sidecar.cache.redis_generations import RedisGenerations
from sidecar.cache.sealed_tier import SealedTier
from sidecar.cache.sealing import Sealer
from sidecar.cache.seals import Seals
from sidecar.cache.warm import WarmTier
from sidecar.open_sealing import open_keys

if TYPE_CHECKING:
    from collections.abc import Coroutine, Sequence
    from pathlib import Path

    from sidecar.cache.items import LowerTier
    from sidecar.cache.seals import Place
    from sidecar.config import Settings
    from sidecar.telemetry.reload_metrics import ReloadCollector

_FLUSH_SECONDS = 5.0
_CONNECT_SECONDS = 2.0

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Tiers:
    """Everything that keeps entries. ``prompts_disk`` is for blocks of prompts, if shared.

    ``seals`` are for what others keep on disk or in Redis. ``is_native`` says whether a front door
    answers from ``hot``.
    """

    hot: HotTier[Any]
    disk: DiskTier | None
    prompts_disk: DiskTier | None
    warm: WarmTier | None
    generations: Generations
    cache: ReadThrough
    accounts: Accounts
    follower: InvalidationFollower | None
    seals: Seals
    is_native: bool


def keep_running(work: Coroutine[Any, Any, None], exits: contextlib.AsyncExitStack) -> None:
    """Runs something beside all else until the context is left. If it fails, the log says so."""
    task = asyncio.create_task(work, name=getattr(work, "__qualname__", None))
    task.add_done_callback(_tell_of_failure)
    exits.push_async_callback(_end_task, task)


def _tell_of_failure(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        _log.error("a background task has failed", task=task.get_name(), exc_info=error)


async def _end_task(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait({task})


async def open_tiers(
    settings: Settings,
    reloads: ReloadCollector,
    native_hot: HotTier[Any] | None,
    exits: contextlib.AsyncExitStack,
) -> Tiers:
    """Opens the tiers, all but a hot one that a front door answers from.

    Raises `SetupError`, `RedisUrlError` or `DiskLockedError`.
    """
    seals = _open_seals(settings, reloads, exits)
    hot: HotTier[Any] = (
        HotTier(settings.hot.max_bytes, time.monotonic, settings.hot.policy)
        if native_hot is None
        else native_hot
    )
    folder = settings.disk.folder
    disk = await _open_disk(folder, settings.disk.max_bytes, exits)
    # Blocks are so large that they would push out all else.
    prompts_folder = folder / "prompts" if folder and settings.prefix.shared else None
    prompts_disk = await _open_disk(prompts_folder, settings.prefix.disk_bytes, exits)
    warm = await _open_warm(settings, exits)
    store: RedisGenerations | LocalGenerations
    if warm is None:
        store = LocalGenerations(folder / "generations.db" if folder else None)
        exits.callback(store.close)
    else:
        store = RedisGenerations(warm, settings.cache.prefix, seal=seals.of("warm", "changes"))
    generations = Generations(store)
    cache = ReadThrough(
        hot,
        generations,
        disk=sealed(disk, seals, "disk"),
        warm=sealed(warm, seals, "warm"),
        ttl_jitter=settings.cache.ttl_jitter,
    )
    exits.push_async_callback(cache.close)
    follower = None
    if warm is not None and isinstance(store, RedisGenerations):
        follower = _follow(settings, warm, store, seals, generations, cache, hot, disk)
        await follower.start()
        upkeep = follower.run()
    else:
        upkeep = _synchronise_forever(generations)
    keep_running(upkeep, exits)
    accounts = Accounts()
    return Tiers(
        hot=hot,
        disk=disk,
        prompts_disk=prompts_disk,
        warm=warm,
        generations=generations,
        cache=cache,
        accounts=accounts,
        follower=follower,
        seals=seals,
        is_native=native_hot is not None,
    )


def _open_seals(
    settings: Settings, reloads: ReloadCollector, exits: contextlib.AsyncExitStack
) -> Seals:
    keys = open_keys(settings)
    if keys is None:
        return Seals(None)
    reloads.show(keys.failures)
    keep_running(keys.follow(), exits)
    return Seals(Sealer(keys))


def sealed(tier: LowerTier | None, seals: Seals, place: Place) -> LowerTier | None:
    """A tier of entries, which are sealed if values are."""
    if tier is None or not seals.are_on:
        return tier
    return SealedTier(tier, seals.of(place, "entries"))


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
    seals: Seals,
    generations: Generations,
    cache: ReadThrough,
    hot: HotTier[Any],
    disk: DiskTier | None,
) -> InvalidationFollower:
    def remove(keys: Sequence[bytes]) -> None:
        cache.remove(keys)
        warm.withdraw(keys)

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
        remove=remove,
        lost=lose_all,
        settle=settle,
        file=folder / "position" if folder is not None else None,
        staleness=settings.cache.staleness,
        seal=seals.of("warm", "changes"),
    )


async def _open_disk(
    folder: Path | None, max_bytes: int, exits: contextlib.AsyncExitStack
) -> DiskTier | None:
    if folder is None:
        return None
    disk = DiskTier(folder, max_bytes)
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
