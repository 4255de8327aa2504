"""Writes that nobody waits for: a queue bounded in bytes, and one task that empties it in order."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeAlias

from sidecar.shared_task import create_shared_task

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

# Small, because a batch keeps the event loop, or the disk's thread, from those who read.
_MAX_WRITES = 64
_MAX_BATCH_BYTES = 256 * 1024
# What a queued write weighs besides its key and value.
_OVERHEAD_BYTES = 256


@dataclass(slots=True)
class Put:
    """An entry to store. ``expires_ms`` is since the Unix epoch, 0 for never."""

    key: bytes
    value: bytes
    expires_ms: int
    replace: bool

    @property
    def size(self) -> int:
        """Bytes of memory, about."""
        return len(self.key) + len(self.value) + _OVERHEAD_BYTES


@dataclass(slots=True)
class Delete:
    """An entry to remove. ``done`` tells somebody who waits whether that was done."""

    key: bytes
    done: asyncio.Future[bool] | None = None

    @property
    def size(self) -> int:
        """Bytes of memory, about."""
        return len(self.key) + _OVERHEAD_BYTES


Write: TypeAlias = Put | Delete


class WriteCounters(Protocol):
    """What the queue counts: writes done, and writes given up."""

    writes: int
    writes_dropped: int


class WriteQueue:
    """Hands writes in batches, in order, to ``apply``, which says for each whether it was done.

    ``apply`` is called by one task at a time and turns failures of the store into ``False``.
    Used from one event loop.
    """

    def __init__(
        self,
        apply: Callable[[list[Write]], Awaitable[Sequence[bool]]],
        counters: WriteCounters,
        *,
        max_bytes: int,
    ) -> None:
        self._apply = apply
        self._counters = counters
        self._max_bytes = max_bytes
        self._queue: deque[Write] = deque()
        self._bytes = 0
        self._task: asyncio.Task[None] | None = None

    @property
    def fullness(self) -> float:
        """The share of the room that is taken, by what is being written too."""
        return self._bytes / self._max_bytes

    def add(self, write: Write) -> None:
        """Queues a write, or drops it if there is no room."""
        if self._bytes + write.size > self._max_bytes:
            self._counters.writes_dropped += 1
        else:
            self.add_unbounded(write)

    def add_unbounded(self, write: Write) -> None:
        """Queues a write that somebody waits for: how many wait is bound enough."""
        self._queue.append(write)
        self._bytes += write.size
        self.wake()

    def wake(self) -> None:
        """Has ``apply`` called at least once more, if only with nothing."""
        if self._task is None or self._task.done():
            self._task = create_shared_task(self._drain())

    async def flush(self, seconds: float) -> bool:
        """Waits up to ``seconds`` for what is queued; returns whether nothing is left."""
        clock = asyncio.get_running_loop().time
        end = clock() + seconds
        # More than one task, if a write that failed was queued again.
        while self._task is not None and not self._task.done() and (left := end - clock()) > 0:
            await asyncio.wait({self._task}, timeout=left)
        return self._bytes == 0

    async def close(self) -> None:
        """Drops what is queued."""
        self.drop_all()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    def drop_all(self) -> None:
        """Empties the queue; a batch that is being written goes on."""
        while self._queue:
            self._settle(self._queue.popleft(), done=False)

    async def _drain(self) -> None:
        while True:
            batch = self._take()
            results: Sequence[bool] = [False] * len(batch)
            try:
                results = await self._apply(batch)
            finally:
                for write, done in zip(batch, results, strict=True):
                    self._settle(write, done=done)
            if not self._queue:
                return

    def _take(self) -> list[Write]:
        batch: list[Write] = []
        size = 0
        while self._queue and len(batch) < _MAX_WRITES and size < _MAX_BATCH_BYTES:
            batch.append(self._queue.popleft())
            size += batch[-1].size
        return batch

    def _settle(self, write: Write, *, done: bool) -> None:
        self._bytes -= write.size
        if not done:
            self._counters.writes_dropped += 1
        elif isinstance(write, Put):
            self._counters.writes += 1
        if isinstance(write, Delete) and write.done is not None and not write.done.done():
            write.done.set_result(done)
