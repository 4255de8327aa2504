"""Epochs and generations of a sidecar without Redis, kept beside its disk tier."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from typing import TYPE_CHECKING, TypeVar

from sidecar.cache.generations import MAX_STORED_TAGS, StoreUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

T = TypeVar("T")

_EPOCH, _BASE = b"epoch", b"base"


class LocalGenerations:
    """A `GenerationStore` for one sidecar, in a file or, without one, in memory.

    An invalidation is on disk before the call that asks for it returns. Raises `OSError` if the
    file cannot be used.
    """

    def __init__(self, file: Path | None) -> None:
        self._lock = threading.Lock()
        try:
            self._db = _open(file)
        except sqlite3.Error as error:
            raise OSError(
                f"cannot use {file} ({error}): set disk.folder to a folder that this user may"
                " write to; if the file is damaged, empty the folder"
            ) from error

    async def load(self, namespace: str, epoch: int) -> tuple[int, int]:
        """See `GenerationStore.load`."""
        return await self._run(lambda: self._load(namespace, epoch))

    async def generations(self, namespace: str, tags: Sequence[bytes]) -> dict[bytes, int]:
        """See `GenerationStore.generations`."""
        return await self._run(lambda: self._generations(namespace, tags))

    async def bump_tags(
        self, namespace: str, tags: Sequence[bytes]
    ) -> tuple[int, dict[bytes, int]]:
        """See `GenerationStore.bump_tags`."""
        return await self._run(lambda: self._bump_tags(namespace, tags))

    async def bump_epoch(self, namespace: str) -> int:
        """See `GenerationStore.bump_epoch`."""
        return await self._run(lambda: self._bump(namespace, _EPOCH))

    async def remove(self, namespace: str, keys: Sequence[bytes]) -> None:
        """Nothing: there is no shared tier and nobody to tell."""

    def close(self) -> None:
        """Closes the file, after what is under way."""
        with self._lock:
            self._db.close()

    async def _run(self, work: Callable[[], T]) -> T:
        try:
            return await asyncio.to_thread(self._in_transaction, work)
        except sqlite3.Error as error:
            raise StoreUnavailableError(f"the disk failed: {type(error).__name__}") from error

    def _in_transaction(self, work: Callable[[], T]) -> T:
        with self._lock, self._db:
            return work()

    def _load(self, namespace: str, epoch: int) -> tuple[int, int]:
        now = time.time_ns() // 1000
        for field, value in ((_EPOCH, epoch or now), (_BASE, now)):
            self._db.execute(
                "INSERT OR IGNORE INTO generations VALUES (?, ?, ?)", (namespace, field, value)
            )
        self._db.execute(
            "UPDATE generations SET value = max(value, ?) WHERE namespace = ? AND field = ?",
            (epoch, namespace, _EPOCH),
        )
        return self._value(namespace, _EPOCH) or now, self._value(namespace, _BASE) or now

    def _generations(self, namespace: str, tags: Sequence[bytes]) -> dict[bytes, int]:
        base = self._value(namespace, _BASE) or 0
        return {tag: self._value(namespace, tag) or base for tag in tags}

    def _bump_tags(self, namespace: str, tags: Sequence[bytes]) -> tuple[int, dict[bytes, int]]:
        _, base = self._load(namespace, 0)
        (fields,) = self._db.execute(
            "SELECT count(*) FROM generations WHERE namespace = ?", (namespace,)
        ).fetchone()
        if fields > MAX_STORED_TAGS:
            self._db.execute(
                "DELETE FROM generations WHERE namespace = ? AND field NOT IN (?, ?)",
                (namespace, _EPOCH, _BASE),
            )
            base = self._bump(namespace, _BASE)
        return base, {tag: self._bump(namespace, tag) for tag in tags}

    def _bump(self, namespace: str, field: bytes) -> int:
        now = time.time_ns() // 1000
        self._db.execute(
            "INSERT INTO generations VALUES (?, ?, ?) ON CONFLICT DO UPDATE"
            " SET value = max(value + 1, excluded.value)",
            (namespace, field, now),
        )
        return self._value(namespace, field) or now

    def _value(self, namespace: str, field: bytes) -> int | None:
        row = self._db.execute(
            "SELECT value FROM generations WHERE namespace = ? AND field = ?", (namespace, field)
        ).fetchone()
        return None if row is None else int(row[0])


def _open(file: Path | None) -> sqlite3.Connection:
    database = sqlite3.connect(file or ":memory:", check_same_thread=False)
    try:
        database.execute("PRAGMA synchronous=FULL")
        database.execute(
            "CREATE TABLE IF NOT EXISTS generations"
            " (namespace TEXT, field BLOB, value INTEGER, PRIMARY KEY (namespace, field))"
            " WITHOUT ROWID"
        )
    except sqlite3.Error:
        database.close()
        raise
    return database
