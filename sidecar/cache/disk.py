"""The disk tier: opaque values in a folder of this sidecar, still there after a restart."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from sidecar.cache.breaker import Breaker
from sidecar.cache.disk_store import MIN_BYTES, DiskStore, is_at, is_corrupt
from sidecar.cache.write_queue import Delete, Put, Write, WriteQueue
from sidecar.folder_lock import LOCK_FILE, lock_folder
from sidecar.shared_task import create_shared_task

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from pathlib import Path

T = TypeVar("T")

# With more removals than that outstanding, all entries are removed instead.
_MAX_REMOVED = 100_000
# No entry has such a key.
_TRIAL, _TRIAL_BYTES = b"(trial)", 64 * 1024


class DiskLockedError(Exception):
    """Another process uses the folder."""


@dataclass(slots=True)
class DiskCounters:
    """Counts of keys since start-up, as for `WarmCounters`."""

    lookups: int = 0
    found: int = 0
    errors: int = 0
    skipped: int = 0
    writes: int = 0
    writes_dropped: int = 0


class _Failure:
    """The disk's failure, as a value: an abandoned future must not complain of it."""

    def __init__(self, error: Exception) -> None:
        said = error.strerror if isinstance(error, OSError) else error
        self.reason = f"{type(error).__name__}: {said}" if said else type(error).__name__


class DiskTier:
    """Values on disk, in one SQLite file that one thread works on. Used from one event loop.

    `start` it before use and `close` it after. A disk that fails or hangs makes reads and writes
    end without effect; after some failures in a row they are not tried any more, except for a probe
    now and then: reads and writes each on their own, for a full disk can still be read.

    Args:
        folder: made, for this user only, if it is missing. Not shared between processes.
        max_bytes: bound on all files together, at least `MIN_BYTES`; the least recently used
            entries go first. The one corrupt file that may be kept aside does not count.
        timeout: seconds for a lookup.
        queue_bytes: bound on the writes that wait for the disk; more are dropped.
        clock: seconds since the Unix epoch.
    """

    def __init__(
        self,
        folder: Path,
        max_bytes: int,
        *,
        timeout: float = 1.0,
        queue_bytes: int = 16 * 1024 * 1024,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if max_bytes < MIN_BYTES:
            raise ValueError(f"the disk cache needs at least {MIN_BYTES} bytes, not {max_bytes}")
        self.counters = DiskCounters()
        self.capacity_bytes = max_bytes
        self._folder = folder
        self._timeout = timeout
        self._clock = clock
        self._store = DiskStore(folder, max_bytes)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="embercache-disk")
        self._reads = Breaker("disk reads")
        self._writes = Breaker("disk writes")
        self._recoveries: dict[Breaker, asyncio.Task[None]] = {}
        self._queue = WriteQueue(self._apply, self.counters, max_bytes=queue_bytes)
        # Entries whose removal has not reached the disk, each until it has; once a future is done,
        # the disk has not obeyed and is to be told again.
        self._removed: dict[bytes, asyncio.Future[bool]] = {}
        # Times that the removals were too many to note, and how many of these the disk has obeyed.
        self._overflows = 0
        self._overflows_cleared = 0
        self._lock: int | None = None
        self._closed = False

    @property
    def entries(self) -> int:
        """Entries on disk, expired ones that were not met yet included."""
        return self._store.entries

    @property
    def size_bytes(self) -> int:
        """Bytes of the keys and values of all entries."""
        return self._store.bytes

    @property
    def evictions(self) -> int:
        """Entries removed to make room, since start-up."""
        return self._store.evictions

    @property
    def corrupt_files(self) -> int:
        """Times that the file was corrupt and replaced by an empty one, since start-up."""
        return self._store.corrupt_files

    @property
    def queue_fullness(self) -> float:
        """The share of the room for queued writes that is taken."""
        return self._queue.fullness

    async def start(self) -> None:
        """Opens the folder. A disk that fails is no error; it is tried again later.

        Raises `DiskLockedError` if another process uses the folder.
        """
        opened = await self._call(self._open)
        if isinstance(opened, _Failure):
            for breaker in (self._reads, self._writes):
                breaker.trip(opened.reason)
                self._recover(breaker)

    async def close(self) -> None:
        """Drops what is still queued (`flush` first) and releases the folder."""
        if self._closed:
            return
        self._closed = True
        await self._queue.close()
        for task in self._recoveries.values():
            task.cancel()
        if self._recoveries:
            await asyncio.wait(self._recoveries.values())
        if self._lock is not None and (self._removed or self._must_clear):
            await self._call(partial(self._remove_for_good, list(self._removed)))
        await self._call(self._store.close)
        self._thread.shutdown(wait=False)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    async def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """The value under each key, or None. Never raises and never takes longer than ``timeout``.

        When the disk fails, every value is None; only the counters tell this from a miss.
        """
        if not keys:
            return []
        if not self._reads.closed or self._must_clear:
            self.counters.skipped += len(keys)
            return [None] * len(keys)
        found = await self._call(partial(self._store.get_many, list(keys), self._clock()))
        self.counters.lookups += len(keys)
        self._report(self._reads, found)
        if isinstance(found, _Failure):
            self.counters.errors += len(keys)
            return [None] * len(keys)
        if self._must_clear:
            found = {}
        values = [None if key in self._removed else found.get(key) for key in keys]
        self.counters.found += sum(value is not None for value in values)
        if self._store.wants_write:
            self._queue.wake()
        return values

    def put(self, key: bytes, value: bytes, expires_ms: int, *, replace: bool) -> None:
        """Queues a write and returns at once; dropped if the queue is full or the disk fails.

        ``expires_ms`` is milliseconds since the Unix epoch, 0 for never. Without ``replace`` an
        entry that is there stays. A value of more than a sixteenth of the capacity is dropped.
        """
        self._add(Put(key, value, expires_ms, replace))

    def delete(self, keys: Sequence[bytes]) -> None:
        """Removes entries: they are not found from now on, and soon are no longer on disk.

        Where the disk does not obey they are hidden and removed when it does: at the latest by
        `close`, if it does then. A process that is killed before finds them again.
        """
        for key in keys:
            if len(self._removed) >= _MAX_REMOVED:
                self._overflows += 1
                self._removed.clear()
                self._queue.drop_all()
            self._remove(key)

    async def clear(self) -> int:
        """Removes all entries, those queued included; returns how many were on disk."""
        hidden = dict(self._removed)
        self._queue.drop_all()
        removed = await self._clear()
        if isinstance(removed, _Failure):
            return 0
        for key, gone in hidden.items():
            if self._removed.get(key) is gone:
                del self._removed[key]
        return removed

    async def flush(self, seconds: float) -> bool:
        """Waits up to ``seconds`` for queued writes; returns whether none is left."""
        return await self._queue.flush(seconds)

    @property
    def _must_clear(self) -> bool:
        return self._overflows != self._overflows_cleared

    def _remove(self, key: bytes) -> None:
        gone = self._removed[key] = asyncio.get_running_loop().create_future()
        gone.add_done_callback(partial(self._note_removal, key))
        if self._writes.closed:
            self._queue.add_unbounded(Delete(key, gone))
        else:
            self.counters.writes_dropped += 1
            gone.set_result(False)

    def _note_removal(self, key: bytes, gone: asyncio.Future[bool]) -> None:
        if self._removed.get(key) is not gone:
            return
        if gone.result():
            del self._removed[key]
        elif self._writes.closed and not self._closed:
            # Until the disk obeys, or has failed so often that it is probed first.
            self._remove(key)

    def _remove_again(self) -> None:
        """Has all removals made that the disk did not obey while it was in trouble."""
        for key in [key for key, gone in self._removed.items() if gone.done()]:
            self._remove(key)
        self._queue.wake()

    def _remove_for_good(self, keys: list[bytes]) -> None:
        """The last chance: what is left now would be found again after a restart."""
        if not self._must_clear:
            with contextlib.suppress(sqlite3.Error, OSError):
                self._store.apply([Delete(key) for key in keys], self._clock())
                return
        # A full disk that takes no transaction still lets files be unlinked.
        self._store.clear()

    async def _clear(self) -> int | _Failure:
        overflows = self._overflows
        removed = await self._call(self._store.clear, patient=True)
        if not isinstance(removed, _Failure):
            self._overflows_cleared = overflows
        return removed

    def _add(self, write: Write) -> None:
        if self._writes.closed:
            self._queue.add(write)
        else:
            self.counters.writes_dropped += 1

    async def _apply(self, batch: list[Write]) -> list[bool]:
        done = await self._write(batch)
        self._report(self._writes, done)
        return [False] * len(batch) if isinstance(done, _Failure) else done

    async def _write(self, batch: list[Write]) -> list[bool] | _Failure:
        if self._must_clear:
            cleared = await self._clear()
            if isinstance(cleared, _Failure):
                return cleared
        return await self._call(partial(self._store.apply, batch, self._clock()), patient=True)

    async def _call(self, work: Callable[[], T], *, patient: bool = False) -> T | _Failure:
        """What ``work`` returns in the disk's thread; or that it failed, or takes too long."""
        loop = asyncio.get_running_loop()
        future = loop.run_in_executor(self._thread, self._guarded, work)
        done, _ = await asyncio.wait({future}, timeout=None if patient else self._timeout)
        return future.result() if done else _Failure(TimeoutError())

    def _guarded(self, work: Callable[[], T]) -> T | _Failure:
        try:
            return work()
        except (sqlite3.Error, OSError) as error:
            if not is_corrupt(error):
                return _Failure(error)
        try:
            self._store.replace_corrupt()
            return work()
        except (sqlite3.Error, OSError) as error:
            return _Failure(error)

    def _open(self) -> None:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        # It may have been emptied, or be on another volume than before.
        self._store.close_lost()
        if self._lock is not None and not is_at(os.fstat(self._lock), self._folder / LOCK_FILE):
            os.close(self._lock)
            self._lock = None
        if self._lock is None:
            self._lock = _lock(self._folder)
        self._store.open()

    def _report(self, breaker: Breaker, result: object) -> None:
        if isinstance(result, _Failure):
            breaker.failed(result.reason)
            if not breaker.closed:
                self._recover(breaker)
        else:
            breaker.succeeded()

    def _recover(self, breaker: Breaker) -> None:
        task = self._recoveries.get(breaker)
        if task is not None and not task.done():
            return
        if breaker is self._writes:
            self._queue.drop_all()
            probe = partial(self._probe, self._try_write)
        else:
            probe = partial(self._probe, self._try_read)
        self._recoveries[breaker] = create_shared_task(self._bring_back(breaker, probe))

    async def _bring_back(self, breaker: Breaker, probe: Callable[[], Awaitable[bool]]) -> None:
        await breaker.recover(probe)
        if breaker is self._writes:
            self._remove_again()

    async def _probe(self, work: Callable[[], object]) -> bool:
        try:
            return not isinstance(await self._call(work), _Failure)
        except DiskLockedError:
            # Another process has taken the folder while it was not there.
            return False

    def _try_read(self) -> None:
        self._open()
        self._store.get_many([b""], self._clock())

    def _try_write(self) -> None:
        # As much as an entry may be: where there is room for less, all else would fail again.
        self._open()
        self._store.apply([Put(_TRIAL, bytes(_TRIAL_BYTES), 0, replace=True)], self._clock())
        self._store.apply([Delete(_TRIAL)], self._clock())


def _lock(folder: Path) -> int:
    try:
        return lock_folder(folder)
    except BlockingIOError:
        raise DiskLockedError(
            f"the disk cache folder {folder} is used by another process; "
            "give every sidecar a folder of its own"
        ) from None
