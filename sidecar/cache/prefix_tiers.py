"""Blocks of prompts' keys and values on disk and in Redis, beside the ordinary entries there.

A block is some hundred times as large as those. So blocks are looked up a few at a time, that
others get their turn in between, and are written only while much of the queue of writes is free.
"""

from __future__ import annotations

import asyncio
import contextlib
from functools import partial
from typing import TYPE_CHECKING, Protocol

from sidecar.cache.redis_link import WarmUnavailableError
from sidecar.cache.warm_lookups import fetch

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from sidecar.cache.disk import DiskTier
    from sidecar.cache.redis_connect import Client
    from sidecar.cache.warm import WarmTier

# Blocks that are looked up at once.
_CHUNK = 4
# Loads from Redis at the same time, each on a connection: lookups have others.
_LOADS = 2
# A Redis that takes longer for a chunk than this is in trouble.
_CHUNK_SECONDS = 2.0
# The most of the queue of writes that is for blocks, and how long one waits for room.
QUEUE_SHARE = 0.5
_ROOM_SECONDS = 1.0


class _Queue(Protocol):
    """What has a queue of writes."""

    @property
    def queue_fullness(self) -> float: ...

    def put(self, key: bytes, value: bytes, expires_ms: int, *, replace: bool) -> None: ...

    async def flush(self, seconds: float) -> bool: ...


class _BlockWrites:
    """Queues blocks while their share of the queue of writes is not used up."""

    def __init__(self, tier: _Queue) -> None:
        self._tier = tier
        self._is_stuck = False

    async def put(self, name: bytes, value: bytes, expires_ms: int) -> bool:
        """See `LowerBlocks.put`."""
        # Where waiting was in vain, the next block does not wait again.
        if self._is_full() and not self._is_stuck:
            await self._tier.flush(_ROOM_SECONDS)
        self._is_stuck = self._is_full()
        if self._is_stuck:
            return False
        self._tier.put(name, value, expires_ms, replace=False)
        return True

    def _is_full(self) -> bool:
        return self._tier.queue_fullness > QUEUE_SHARE


class DiskBlocks:
    """Blocks in a disk tier: see `sidecar.models.prefix_loads.LowerBlocks`."""

    def __init__(self, disk: DiskTier) -> None:
        self._disk = disk
        self._writes = _BlockWrites(disk)

    async def get_many(self, names: Sequence[bytes], seconds: float) -> list[bytes | None]:
        """The bytes under each name up to the first that is missing, within ``seconds``."""
        return await _in_chunks(self._disk.get_many, names, seconds)

    async def put(self, name: bytes, value: bytes, expires_ms: int) -> bool:
        """Queues a write, for which it may wait a second; False if there is no room then."""
        return await self._writes.put(name, value, expires_ms)

    def delete(self, names: Sequence[bytes]) -> None:
        """Removes blocks."""
        self._disk.delete(names)


class WarmBlocks:
    """Blocks in Redis: see `sidecar.models.prefix_loads.LowerBlocks`."""

    def __init__(self, warm: WarmTier) -> None:
        self._warm = warm
        self._writes = _BlockWrites(warm)
        self._turns = asyncio.Semaphore(_LOADS)

    async def get_many(self, names: Sequence[bytes], seconds: float) -> list[bytes | None]:
        """The bytes under each name up to the first that is missing, within ``seconds``.

        That this time is too short is no failure of Redis, and tells its breaker nothing.
        """
        return await _in_chunks(self._get, names, seconds)

    async def put(self, name: bytes, value: bytes, expires_ms: int) -> bool:
        """Queues a write, for which it may wait a second; False if there is no room then."""
        return self._warm.state == "up" and await self._writes.put(name, value, expires_ms)

    def delete(self, names: Sequence[bytes]) -> None:
        """Queues removals."""
        self._warm.delete(names)

    async def _get(self, names: Sequence[bytes]) -> list[bytes | None]:
        async with self._turns:
            try:
                return await self._warm.run(partial(_fetch, names=names), _CHUNK_SECONDS)
            except WarmUnavailableError:
                return [None] * len(names)


async def _fetch(client: Client, names: Sequence[bytes]) -> list[bytes | None]:
    found: list[bytes | None] = []
    for value in await fetch(client, names):
        if isinstance(value, Exception):
            raise value
        found.append(value)
    return found


async def _in_chunks(
    get: Callable[[Sequence[bytes]], Awaitable[list[bytes | None]]],
    names: Sequence[bytes],
    seconds: float,
) -> list[bytes | None]:
    values: list[bytes | None] = []
    # What came in time is of use.
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            while len(values) < len(names) and None not in values:
                values += await get(names[len(values) : len(values) + _CHUNK])
    return values + [None] * (len(names) - len(values))
