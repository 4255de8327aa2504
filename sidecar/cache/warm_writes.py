"""Writes to Redis: pipelines of SET and DEL, made of what has gathered in the queue."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Any

import structlog

from sidecar.cache.redis_link import WarmUnavailableError
from sidecar.cache.write_queue import Delete, WriteQueue

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sidecar.cache.redis_connect import Client
    from sidecar.cache.redis_link import RedisLink
    from sidecar.cache.write_queue import Write, WriteCounters

_WRITE_SECONDS = 2.0

_log = structlog.get_logger()


class WarmWrites:
    """Puts and deletes, done in the order they came in; ``clock`` is seconds since the epoch."""

    def __init__(
        self,
        link: RedisLink,
        counters: WriteCounters,
        *,
        max_bytes: int,
        clock: Callable[[], float],
    ) -> None:
        self._link = link
        self._counters = counters
        self._clock = clock
        self._refused = False
        self.queue = WriteQueue(self._apply, counters, max_bytes=max_bytes)

    def add(self, write: Write) -> None:
        """Queues a write; dropped if there is no room or Redis is down."""
        if self._link.up:
            self.queue.add(write)
        else:
            self._counters.writes_dropped += 1

    async def delete_many(self, keys: Sequence[bytes]) -> None:
        """See `WarmTier.delete_many`."""
        if not keys:
            return
        if not self._link.up:
            raise WarmUnavailableError("Redis is down; it is probed until it is back")
        loop = asyncio.get_running_loop()
        gone: list[asyncio.Future[bool]] = [loop.create_future() for _ in keys]
        # They take their turn behind the puts, else an older put would bring an entry back.
        for key, future in zip(keys, gone, strict=True):
            self.queue.add_unbounded(Delete(key, future))
        done, late = await asyncio.wait(gone, timeout=_WRITE_SECONDS)
        if late or not all(future.result() for future in done):
            raise WarmUnavailableError("Redis was not told of the removal; repeat it")

    async def _apply(self, batch: list[Write]) -> list[bool]:
        try:
            results = await self._link.run(partial(self._send, batch), _WRITE_SECONDS)
        except WarmUnavailableError:
            return [False] * len(batch)
        self._note_refusal(next((r for r in results if isinstance(r, Exception)), None))
        return [not isinstance(result, Exception) for result in results]

    async def _send(self, batch: list[Write], client: Client) -> list[Any]:
        now_ms = int(self._clock() * 1000)
        pipeline: Any = client.pipeline(transaction=False)
        for write in batch:
            pipeline.execute_command(*_command(write, now_ms))
        results: list[Any] = await pipeline.execute(raise_on_error=False)
        return results

    def _note_refusal(self, error: Exception | None) -> None:
        if error is not None:
            self._link.report(error)
        if (error is not None) == self._refused:
            return
        self._refused = error is not None
        if self._refused:
            # Memory is full and nothing may be evicted, for example. Reads are not affected.
            _log.warning("Redis refuses writes", reason=type(error).__name__)
        else:
            _log.info("Redis takes writes again")


def _command(write: Write, now_ms: int) -> tuple[str | bytes | int, ...]:
    if isinstance(write, Delete):
        return ("DEL", write.key)
    command: tuple[str | bytes | int, ...] = ("SET", write.key, write.value)
    if write.expires_ms:
        # An entry that expired in the queue still has to replace the one before it.
        command += ("PX", max(1, write.expires_ms - now_ms))
    return command if write.replace else (*command, "NX")
