"""Which queries are asked most of late, so that a warming can ask them before others do.

This keeps the requests themselves, with the texts of users in them, where all else that is stored
names its input by a digest only. Hence it is off unless it is asked for.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from sidecar.cache.heavy_hitters import HeavyHitters
from sidecar.cache.keys import UNSALTED
from sidecar.cache.redis_link import WarmUnavailableError
from sidecar.cache.redis_popular import (
    HALF_LIFE_SECONDS,
    MAX_BYTES,
    MAX_NAMESPACES,
    QUERY_OVERHEAD_BYTES,
    RedisPopular,
)
from sidecar.cache.seals import PLAIN

if TYPE_CHECKING:
    from collections.abc import Callable

    from sidecar.cache.keys import Digests
    from sidecar.cache.seals import Seal
    from sidecar.cache.warm import WarmTier

MAX_REQUEST_BYTES = 4096
SHARE_SECONDS = 10.0
# Of all namespaces together, in one round: a script of Redis must be short.
_SHARED_A_ROUND = 1000
_LEAST_SHARED = 10

_Query: TypeAlias = tuple[str, bytes]


@dataclass(frozen=True, slots=True)
class PopularQuery:
    """A request that was made about ``count`` times of late; ``kind`` says of which service."""

    kind: str
    namespace: str
    request: bytes
    count: int


class PopularQueries:
    """The most popular queries of each namespace, counted by all sidecars together.

    Used from one event loop; `run` is a task beside it. Counts lose half every six hours. What
    was not shared with the others yet waits here, within ``capacity``, while Redis is down.

    Here and in Redis there are at most 100 namespaces, and 64 MiB of all of them together: what is
    asked least goes first.

    Args:
        capacity: most queries of one namespace, in this sidecar and in Redis.
        warm: None for a sidecar that counts alone.
        prefix: first part of every key.
        digests: name queries in Redis.
        seal: of their requests there.
        clock: monotonic, in seconds.
    """

    def __init__(
        self,
        capacity: int,
        warm: WarmTier | None,
        prefix: str,
        clock: Callable[[], float] = time.monotonic,
        *,
        digests: Digests = UNSALTED,
        seal: Seal = PLAIN,
    ) -> None:
        self._capacity = capacity
        self._redis = None
        if warm is not None:
            self._redis = RedisPopular(warm, prefix, capacity, digests=digests, seal=seal)
        self._clock = clock
        self._halved = clock()
        # With Redis, what was not shared yet; else all there is.
        self._namespaces: dict[str, HeavyHitters[_Query]] = {}

    def note(self, kind: str, namespace: str, request: bytes, weight: int = 1) -> None:
        """Takes note of a request that was made ``weight`` times; one over 4 KiB is ignored."""
        if len(request) > MAX_REQUEST_BYTES:
            return
        queries = self._namespaces.get(namespace)
        if queries is None:
            queries = self._begin(namespace)
        size = queries.size
        queries.add((kind, request), weight)
        if queries.size > size and self._bytes() > MAX_BYTES:
            max(self._namespaces.values(), key=lambda each: each.size).shrink()

    async def top(self, namespace: str, count: int) -> list[PopularQuery]:
        """The ``count`` queries asked most, in order. While Redis is down, of this sidecar."""
        counts: dict[_Query, int] = {}
        if self._redis is not None:
            with contextlib.suppress(WarmUnavailableError):
                counts = await self._redis.top(namespace, count)
        queries = self._namespaces.get(namespace)
        for query, times in queries.top(count) if queries is not None else ():
            counts[query] = counts.get(query, 0) + times
        best = sorted(counts.items(), key=lambda item: -item[1])[:count]
        return [PopularQuery(kind, namespace, raw, times) for (kind, raw), times in best]

    async def namespaces(self) -> list[str]:
        """The namespaces that have popular queries."""
        names = set(self._namespaces)
        if self._redis is not None:
            with contextlib.suppress(WarmUnavailableError):
                names.update(await self._redis.namespaces())
        return sorted(names)

    async def run(self) -> None:
        """Shares counts and lets them fade, until cancelled."""
        while True:
            await asyncio.sleep(SHARE_SECONDS)
            await self.share()

    async def share(self) -> None:
        """Adds what was counted here to what all sidecars know; without Redis, lets it fade."""
        if self._redis is None:
            while self._clock() - self._halved >= HALF_LIFE_SECONDS:
                self._halved += HALF_LIFE_SECONDS
                self._halve()
            return
        most = max(_LEAST_SHARED, _SHARED_A_ROUND // max(1, len(self._namespaces)))
        for namespace, queries in list(self._namespaces.items()):
            counted = queries.take(most)
            if not len(queries):
                del self._namespaces[namespace]
            try:
                if counted:
                    await self._redis.add(namespace, counted)
            except WarmUnavailableError:
                for (kind, request), times in counted:
                    self.note(kind, namespace, request, times)
                return

    def _begin(self, namespace: str) -> HeavyHitters[_Query]:
        if len(self._namespaces) >= MAX_NAMESPACES:
            # The one asked least, lest many that are asked once drive out one that is in use.
            del self._namespaces[min(self._namespaces, key=lambda n: self._namespaces[n].total)]
        queries = self._namespaces[namespace] = HeavyHitters(self._capacity, _size)
        return queries

    def _bytes(self) -> int:
        return sum(queries.size for queries in self._namespaces.values())

    def _halve(self) -> None:
        for namespace, queries in list(self._namespaces.items()):
            queries.halve()
            if not len(queries):
                del self._namespaces[namespace]


def _size(query: _Query) -> int:
    return len(query[1]) + QUERY_OVERHEAD_BYTES
