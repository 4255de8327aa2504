"""Lookups in Redis, gathered: what is asked for at the same time is one MGET."""

from __future__ import annotations

import asyncio
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, cast

from redis.asyncio.cluster import RedisCluster
from redis.exceptions import InvalidResponse

from sidecar.cache.redis_link import WarmUnavailableError
from sidecar.shared_task import create_shared_task
from sidecar.spans import current

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sidecar.cache.redis_connect import Client
    from sidecar.cache.redis_link import RedisLink
    from sidecar.cache.warm import WarmCounters

MAX_FLIGHTS = 8
# What one connection carries at a time, and the most that one time limit is for.
_MAX_KEYS = 512
# With so many chunks of one call lost, the rest is not sent.
_MAX_FAILED_CHUNKS = 3


class _Lookup:
    """Keys that somebody waits for. ``values`` ends once: answered, too late or cancelled.

    ``fault`` is what it failed with, if it did.
    """

    __slots__ = ("fault", "keys", "values")

    def __init__(self, keys: Sequence[bytes]) -> None:
        self.keys = keys
        self.fault = ""
        self.values: asyncio.Future[list[bytes | None]] = asyncio.get_running_loop().create_future()


class WarmLookups:
    """Looks keys up over at most `MAX_FLIGHTS` connections, and no more than are open already.

    A flight carries all that waits when it starts, and then what has gathered meanwhile. It runs in
    a task of its own, so a caller that is cancelled costs no connection. A large call is cut into
    chunks that travel one after the other: together they would come too late, all of them.
    """

    def __init__(self, link: RedisLink, counters: WarmCounters, *, timeout: float) -> None:
        self._link = link
        self._counters = counters
        self._timeout = timeout
        self._waiting: deque[_Lookup] = deque()
        self._flights: set[asyncio.Task[None]] = set()
        self._boarding = False

    async def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """The values under the keys, in their order; see `WarmTier.get_many`."""
        values: list[bytes | None] = []
        failed = 0
        while len(values) < len(keys):
            if not self._link.up or failed == _MAX_FAILED_CHUNKS:
                rest = len(keys) - len(values)
                self._counters.skipped += rest
                current().lost("timeout" if self._link.up else "redis_down")
                return values + [None] * rest
            chunk = _Lookup(keys[len(values) : len(values) + _MAX_KEYS])
            values += await self._get(chunk)
            if chunk.fault:
                failed += 1
                current().lost(chunk.fault)
        return values

    async def close(self) -> None:
        """Ends the flights; who still waits gets nothing."""
        for flight in self._flights:
            flight.cancel()
        if self._flights:
            await asyncio.wait(self._flights)
        while self._waiting:
            self._fail(self._waiting.popleft(), "closed")

    async def _get(self, lookup: _Lookup) -> list[bytes | None]:
        self._waiting.append(lookup)
        if not self._boarding and self._may_start():
            self._boarding = True
            self._flights.add(create_shared_task(self._fly()))
        timer = lookup.values.get_loop().call_later(self._timeout, self._fail, lookup, "timeout")
        try:
            return await lookup.values
        finally:
            timer.cancel()

    def _may_start(self) -> bool:
        """Whether another flight would be faster than to wait for one that is under way."""
        if not self._flights:
            return True
        return self._link.has_free_connection and len(self._flights) < MAX_FLIGHTS

    async def _fly(self) -> None:
        self._boarding = False
        try:
            while batch := self._take():
                await self._carry(batch)
        finally:
            # Not once the task is done, a turn later: what is asked in between would be left.
            self._flights.discard(cast("asyncio.Task[None]", asyncio.current_task()))

    async def _carry(self, batch: list[_Lookup]) -> None:
        keys = [key for lookup in batch for key in lookup.keys]
        try:
            values = await self._link.run(partial(fetch, keys=keys))
        except WarmUnavailableError:
            for lookup in batch:
                self._fail(lookup, "redis_failed")
        else:
            self._answer(batch, values)

    def _take(self) -> list[_Lookup]:
        batch: list[_Lookup] = []
        keys = 0
        while self._waiting and (not batch or keys + len(self._waiting[0].keys) <= _MAX_KEYS):
            lookup = self._waiting.popleft()
            if not lookup.values.done():
                batch.append(lookup)
                keys += len(lookup.keys)
        return batch

    def _answer(self, batch: list[_Lookup], values: list[bytes | Exception | None]) -> None:
        start = 0
        for lookup in batch:
            end = start + len(lookup.keys)
            if not lookup.values.done():
                self._count(values[start:end])
                lookup.values.set_result(
                    [v if isinstance(v, bytes) else None for v in values[start:end]]
                )
            start = end
        error = next((value for value in values if isinstance(value, Exception)), None)
        if error is not None:
            self._link.report(error)

    def _count(self, values: list[bytes | Exception | None]) -> None:
        self._counters.lookups += len(values)
        for value in values:
            if isinstance(value, bytes):
                self._counters.found += 1
            elif value is not None:
                self._counters.errors += 1

    def _fail(self, lookup: _Lookup, fault: str) -> None:
        if not lookup.values.done():
            lookup.fault = fault
            self._counters.lookups += len(lookup.keys)
            self._counters.errors += len(lookup.keys)
            lookup.values.set_result([None] * len(lookup.keys))


async def fetch(client: Client, keys: Sequence[bytes]) -> list[bytes | Exception | None]:
    """The value under each key in one round trip, or what a node of a cluster answered instead."""
    values: list[bytes | Exception | None]
    if isinstance(client, RedisCluster):
        pipeline = client.pipeline()
        for key in keys:
            pipeline.execute_command("GET", key)
        values = await pipeline.execute(raise_on_error=False)
    else:
        values = await client.execute_command("MGET", *keys)  # type: ignore[no-untyped-call]
    if not isinstance(values, list) or len(values) != len(keys):
        raise InvalidResponse("Redis answered a lookup with something else")
    return values
