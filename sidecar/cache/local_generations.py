"""Epochs and generations of a sidecar without Redis, kept beside its disk tier."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import threading
import time
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import structlog

from sidecar.cache.disk_store import is_corrupt
from sidecar.cache.generations import MAX_STORED_TAGS, StoreUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

T = TypeVar("T")

_EPOCH, _BASE = b"epoch", b"base"
_SCHEMA = """
CREATE TABLE IF NOT EXISTS generations
(namespace TEXT, field BLOB, value INTEGER, PRIMARY KEY (namespace, field)) WITHOUT ROWID
"""

_log = structlog.get_logger()


class LocalGenerations:
    """A `GenerationStore` for one sidecar, in a file or, without one, in memory.

    An invalidation is on disk before the call that asks for it returns. The file is opened, and its
    folder made, by the first call; where that fails, each call tries again. A corrupt file is moved
    aside and a new one begun: its epochs and bases are later ones, under which nothing is valid
    that was on disk before.
    """

    def __init__(self, file: Path | None) -> None:
        self._file = file
        self._lock = threading.Lock()
        self._db: sqlite3.Connection | None = None
        self._closed = False

    async def load(self, namespace: str, epoch: int) -> tuple[int, int]:
        """See `GenerationStore.load`."""
        return await self._call(partial(self._load, namespace=namespace, epoch=epoch))

    async def generations(self, namespace: str, tags: Sequence[bytes]) -> dict[bytes, int]:
        """See `GenerationStore.generations`."""
        return await self._call(partial(self._generations, namespace=namespace, tags=tags))

    async def bump_tags(
        self, namespace: str, tags: Sequence[bytes]
    ) -> tuple[int, dict[bytes, int]]:
        """See `GenerationStore.bump_tags`."""
        return await self._call(partial(self._bump_tags, namespace=namespace, tags=tags))

    async def bump_epoch(self, namespace: str) -> int:
        """See `GenerationStore.bump_epoch`."""
        return await self._call(partial(self._bump_epoch, namespace=namespace))

    async def remove(self, namespace: str, keys: Sequence[bytes]) -> None:
        """Nothing: there is no shared tier and nobody to tell."""

    def close(self) -> None:
        """Closes the file, after what is under way."""
        with self._lock:
            self._closed = True
            self._disconnect()

    async def _call(self, work: Callable[[sqlite3.Connection], T]) -> T:
        return await asyncio.to_thread(self._guarded, work)

    def _guarded(self, work: Callable[[sqlite3.Connection], T]) -> T:
        with self._lock:
            if self._closed:
                raise StoreUnavailableError("the sidecar is being stopped")
            try:
                try:
                    return self._transaction(work)
                except sqlite3.Error as error:
                    if self._file is None or not is_corrupt(error):
                        raise
                self._move_aside(self._file)
                return self._transaction(work)
            except (sqlite3.Error, OSError) as error:
                raise StoreUnavailableError(
                    f"{self._file} cannot be used ({type(error).__name__}: {error}); "
                    "see that its folder can be written and has space"
                ) from error

    def _transaction(self, work: Callable[[sqlite3.Connection], T]) -> T:
        try:
            db = self._db = self._db or _open(self._file)
            with db:
                return work(db)
        except sqlite3.Error:
            # A volume that comes back may be another one.
            self._disconnect()
            raise

    def _disconnect(self) -> None:
        if self._db is not None:
            self._db.close()
            self._db = None

    def _move_aside(self, file: Path) -> None:
        file.replace(file.with_suffix(".corrupt"))
        # It would be played back into the new file.
        file.with_name(f"{file.name}-journal").unlink(missing_ok=True)
        _log.warning("invalidations were corrupt; entries from before are not used", file=str(file))

    def _load(self, db: sqlite3.Connection, namespace: str, epoch: int) -> tuple[int, int]:
        known, base = self._value(db, namespace, _EPOCH), self._value(db, namespace, _BASE)
        # Nothing is written without need: a full or read-only disk can still be read.
        if known is None or base is None or known < epoch:
            now = _now_us()
            known = (epoch or now) if known is None else max(known, epoch)
            base = base or now
            self._store(db, namespace, [(_EPOCH, known), (_BASE, base)])
        return known, base

    def _generations(
        self, db: sqlite3.Connection, namespace: str, tags: Sequence[bytes]
    ) -> dict[bytes, int]:
        _, base = self._load(db, namespace, 0)
        return {tag: self._value(db, namespace, tag) or base for tag in tags}

    def _bump_tags(
        self, db: sqlite3.Connection, namespace: str, tags: Sequence[bytes]
    ) -> tuple[int, dict[bytes, int]]:
        _, base = self._load(db, namespace, 0)
        now = _now_us()
        count, last = db.execute(
            "SELECT count(*), max(value) FROM generations WHERE namespace = ? AND field != ?",
            (namespace, _EPOCH),
        ).fetchone()
        if count - 1 > MAX_STORED_TAGS:
            db.execute(
                "DELETE FROM generations WHERE namespace = ? AND field != ?", (namespace, _EPOCH)
            )
            base = max(now, last + 1)
            self._store(db, namespace, [(_BASE, base)])
        bumped = {
            tag: max(now, base + 1, (self._value(db, namespace, tag) or 0) + 1) for tag in tags
        }
        self._store(db, namespace, bumped.items())
        return base, bumped

    def _bump_epoch(self, db: sqlite3.Connection, namespace: str) -> int:
        epoch = max(_now_us(), (self._value(db, namespace, _EPOCH) or 0) + 1)
        self._store(db, namespace, [(_EPOCH, epoch)])
        return epoch

    def _value(self, db: sqlite3.Connection, namespace: str, field: bytes) -> int | None:
        row = db.execute(
            "SELECT value FROM generations WHERE namespace = ? AND field = ?", (namespace, field)
        ).fetchone()
        return None if row is None else int(row[0])

    def _store(
        self, db: sqlite3.Connection, namespace: str, fields: Iterable[tuple[bytes, int]]
    ) -> None:
        db.executemany(
            "INSERT OR REPLACE INTO generations VALUES (?, ?, ?)",
            ((namespace, field, value) for field, value in fields),
        )


def _open(file: Path | None) -> sqlite3.Connection:
    if file is not None:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Before SQLite makes it; its journal gets the mode of this one.
        with contextlib.suppress(FileExistsError):
            os.close(os.open(file, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600))
    db = sqlite3.connect(file or ":memory:", check_same_thread=False)
    try:
        db.execute("PRAGMA synchronous = FULL")
        db.execute(_SCHEMA)
    except BaseException:
        db.close()
        raise
    return db


def _now_us() -> int:
    return time.time_ns() // 1000
