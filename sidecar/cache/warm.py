"""The warm tier: opaque values in Redis, shared by all sidecars. It may be slow, down or lying."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeVar

from sidecar.cache.breaker import Breaker
from sidecar.cache.redis_link import RedisLink, WarmUnavailableError
from sidecar.cache.warm_lookups import WarmLookups
from sidecar.cache.warm_writes import WarmWrites
from sidecar.cache.write_queue import Delete, Put

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from sidecar.cache.redis_connect import Client

__all__ = ["WarmCounters", "WarmTier", "WarmUnavailableError"]

T = TypeVar("T")

# The three streams that are followed, and three for lookups, writes and whoever else calls `run`.
_CONNECTIONS = 6


@dataclass(slots=True)
class WarmCounters:
    """Counts of keys since start-up.

    Of the ``lookups`` that ended, ``found`` had a value, ``errors`` failed or came too late, and
    the rest were misses. ``skipped`` were not sent, and ``writes_dropped`` not written, because
    Redis was down; the rest of a large lookup is also skipped if much of it failed, and writes are
    dropped if Redis refuses them or their queue is full.
    """

    lookups: int = 0
    found: int = 0
    errors: int = 0
    skipped: int = 0
    writes: int = 0
    writes_dropped: int = 0


class WarmTier:
    """Values in Redis. Used from one event loop; `start` it before use and `close` it after.

    Args:
        client: from `sidecar.cache.redis_connect.connect`; closed together with the tier.
        timeout: seconds for a lookup of up to 512 keys, waiting for a connection included; a larger
            one is made in chunks, each with so much time.
        probe_timeout: seconds for connecting to Redis at start and while it is down.
        queue_bytes: bound on the writes that wait for Redis; more are dropped.
        breaker: decides when Redis is down.
        clock: seconds since the Unix epoch.
    """

    def __init__(
        self,
        client: Client,
        *,
        timeout: float = 0.1,
        probe_timeout: float = 2.0,
        queue_bytes: int = 16 * 1024 * 1024,
        breaker: Breaker | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.counters = WarmCounters()
        self._link = RedisLink(
            client,
            breaker or Breaker("redis"),
            timeout=timeout,
            probe_timeout=probe_timeout,
            connections=_CONNECTIONS,
            when_down=self._drop_writes,
        )
        self._lookups = WarmLookups(self._link, self.counters, timeout=timeout)
        self._writes = WarmWrites(self._link, self.counters, max_bytes=queue_bytes, clock=clock)

    @property
    def state(self) -> Literal["up", "down"]:
        """Down: Redis failed of late, and is left alone but for a probe now and then."""
        return "up" if self._link.up else "down"

    @property
    def queue_fullness(self) -> float:
        """The share of the room for queued writes that is taken."""
        return self._writes.queue.fullness

    async def start(self) -> None:
        """Connects, within ``probe_timeout``. A Redis that does not answer is no error."""
        await self._link.start()

    async def close(self) -> None:
        """Drops what is still queued (`flush` first) and closes the connections."""
        await self._lookups.close()
        await self._writes.queue.close()
        await self._link.close()

    async def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """The value under each key, or None. Never raises.

        Takes at most ``timeout`` for each chunk of 512 keys, of which all but the late ones have
        their values; when three of them failed, or Redis is down, the rest is not sent. What failed
        is None; only the counters tell this from a miss. Lookups made at the same time share one
        round trip (in a cluster: one for each node).
        """
        return await self._lookups.get_many(keys)

    def put(self, key: bytes, value: bytes, expires_ms: int, *, replace: bool) -> None:
        """Queues a write and returns at once; dropped if the queue is full or Redis is down.

        ``expires_ms`` is milliseconds since the Unix epoch, 0 for never. Without ``replace`` an
        entry that is there stays.
        """
        self._writes.add(Put(key, value, expires_ms, replace))

    def delete(self, keys: Sequence[bytes]) -> None:
        """Queues removals behind the writes already queued; dropped as those are."""
        for key in keys:
            self._writes.add(Delete(key))

    def withdraw(self, keys: Sequence[bytes]) -> None:
        """Removes entries that another sidecar has removed already, if writes are queued here.

        One of them may be older than the removal, and would bring an entry back.
        """
        if self.queue_fullness:
            self.delete(keys)

    async def delete_many(self, keys: Sequence[bytes]) -> None:
        """Removes the entries, those still queued included, and returns when it is done.

        Raises `WarmUnavailableError` if it cannot be known that they are gone.
        """
        await self._writes.delete_many(keys)

    async def flush(self, seconds: float) -> bool:
        """Waits up to ``seconds`` for queued writes; returns whether none is left."""
        return await self._writes.queue.flush(seconds)

    async def run(
        self, operation: Callable[[Client], Awaitable[T]], seconds: float | None = None
    ) -> T:
        """Runs somebody else's commands under the same breaker, within ``seconds`` or ``timeout``.

        Raises `WarmUnavailableError` if Redis is down, too slow, or refuses.
        """
        return await self._link.run(operation, seconds)

    def _drop_writes(self) -> None:
        self._writes.queue.drop_all()
