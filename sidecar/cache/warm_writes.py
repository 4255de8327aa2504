"""Writes to Redis that nobody waits for: a queue bounded in bytes, and one task that empties it."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import structlog

from sidecar.cache.redis_link import WarmUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sidecar.cache.redis_connect import Client
    from sidecar.cache.redis_link import RedisLink
    from sidecar.cache.warm import WarmCounters

# Small, because packing commands and reading replies keeps the event loop from its callers.
_MAX_COMMANDS = 64
_MAX_BATCH_BYTES = 512 * 1024
_WRITE_SECONDS = 2.0
# What a queued write weighs besides its key and value.
_OVERHEAD_BYTES = 256

_log = structlog.get_logger()


@dataclass(slots=True)
class _Put:
    key: bytes
    value: bytes
    expires_ms: int
    replace: bool

    @property
    def size(self) -> int:
        return len(self.key) + len(self.value) + _OVERHEAD_BYTES


@dataclass(slots=True)
class _Delete:
    key: bytes
    done: asyncio.Future[bool] | None = None

    @property
    def size(self) -> int:
        return len(self.key) + _OVERHEAD_BYTES


class WarmWrites:
    """Puts and deletes, done in the order they came in; ``clock`` is seconds since the epoch."""

    def __init__(
        self,
        link: RedisLink,
        counters: WarmCounters,
        *,
        max_bytes: int,
        clock: Callable[[], float],
    ) -> None:
        self._link = link
        self._counters = counters
        self._max_bytes = max_bytes
        self._clock = clock
        self._queue: deque[_Put | _Delete] = deque()
        self._bytes = 0
        self._task: asyncio.Task[None] | None = None
        self._refused = False

    def put(self, key: bytes, value: bytes, expires_ms: int, *, replace: bool) -> None:
        """See `WarmTier.put`."""
        self._add(_Put(key, value, expires_ms, replace))

    def delete(self, keys: Sequence[bytes]) -> None:
        """See `WarmTier.delete`."""
        for key in keys:
            self._add(_Delete(key))

    async def delete_many(self, keys: Sequence[bytes]) -> None:
        """See `WarmTier.delete_many`."""
        loop = asyncio.get_running_loop()
        waits = [_Delete(key, loop.create_future()) for key in keys]
        if not waits:
            return
        if not self._link.up:
            raise WarmUnavailableError("Redis is down; it is probed until it is back")
        # They wait for their turn behind the puts, else an older put would bring an entry back. The
        # queue's bound is not for them: their number is bounded by who waits.
        for wait in waits:
            self._enqueue(wait)
        futures = [wait.done for wait in waits if wait.done is not None]
        done, late = await asyncio.wait(futures, timeout=_WRITE_SECONDS)
        if late or not all(future.result() for future in done):
            raise WarmUnavailableError("Redis was not told of the removal; repeat it")

    async def flush(self, seconds: float) -> bool:
        """See `WarmTier.flush`."""
        if self._task is not None:
            await asyncio.wait({self._task}, timeout=seconds)
        return self._bytes == 0

    async def close(self) -> None:
        """Drops what is queued."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
        self.drop_all()

    def drop_all(self) -> None:
        """Empties the queue, each write counted as dropped."""
        while self._queue:
            self._drop(self._queue.popleft())

    def _add(self, write: _Put | _Delete) -> None:
        if not self._link.up or self._bytes + write.size > self._max_bytes:
            self._counters.writes_dropped += 1
        else:
            self._enqueue(write)

    def _enqueue(self, write: _Put | _Delete) -> None:
        self._queue.append(write)
        self._bytes += write.size
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._drain())

    async def _drain(self) -> None:
        while batch := self._take():
            try:
                results = await self._link.run(partial(self._write, batch), _WRITE_SECONDS)
            except BaseException as error:
                for write in batch:
                    self._drop(write)
                if not isinstance(error, WarmUnavailableError):
                    raise
            else:
                self._settle(batch, results)

    def _take(self) -> list[_Put | _Delete]:
        batch: list[_Put | _Delete] = []
        size = 0
        while self._queue and len(batch) < _MAX_COMMANDS and size < _MAX_BATCH_BYTES:
            batch.append(self._queue.popleft())
            size += batch[-1].size
        return batch

    async def _write(self, batch: list[_Put | _Delete], client: Client) -> list[Any]:
        now_ms = int(self._clock() * 1000)
        pipeline: Any = client.pipeline(transaction=False)
        for write in batch:
            pipeline.execute_command(*_command(write, now_ms))
        results: list[Any] = await pipeline.execute(raise_on_error=False)
        return results

    def _settle(self, batch: list[_Put | _Delete], results: list[Any]) -> None:
        error = None
        for write, result in zip(batch, results, strict=True):
            if isinstance(result, Exception):
                error = result
                self._drop(write)
                continue
            self._bytes -= write.size
            if isinstance(write, _Put):
                self._counters.writes += 1
            elif write.done is not None and not write.done.done():
                write.done.set_result(True)
        if error is not None:
            self._link.report(error)
        if (error is not None) != self._refused:
            self._refused = error is not None
            if error is None:
                _log.info("Redis takes writes again")
            else:
                _log.warning("Redis refuses writes", reason=type(error).__name__)

    def _drop(self, write: _Put | _Delete) -> None:
        self._bytes -= write.size
        self._counters.writes_dropped += 1
        if isinstance(write, _Delete) and write.done is not None and not write.done.done():
            write.done.set_result(False)


def _command(write: _Put | _Delete, now_ms: int) -> tuple[str | bytes | int, ...]:
    if isinstance(write, _Delete):
        return ("DEL", write.key)
    command: tuple[str | bytes | int, ...] = ("SET", write.key, write.value)
    if write.expires_ms:
        # What expired in the queue has to be gone as well, so it lives for one millisecond.
        command += ("PX", max(1, write.expires_ms - now_ms))
    return command if write.replace else (*command, "NX")
