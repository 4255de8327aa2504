"""Epochs and generations of a sidecar without Redis, kept beside its disk tier."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_EPOCH, _BASE = b"epoch", b"base"


class LocalGenerations:
    """A `GenerationStore` for one sidecar, in a file or, without one, in memory.

    An invalidation is on disk before the call that asks for it returns.
    """

    def __init__(self, file: Path | None) -> None:
        self._lock = threading.Lock()
        self._db = sqlite3.connect(file or ":memory:", check_same_thread=False)
        self._db.execute("PRAGMA synchronous=FULL")
        self._db.execute(
            "CREATE TABLE IF NOT EXISTS generations"
            " (namespace TEXT, field BLOB, value INTEGER, PRIMARY KEY (namespace, field))"
            " WITHOUT ROWID"
        )

    async def load(self, namespace: str, epoch: int) -> tuple[int, int]:
        """See `GenerationStore.load`."""
        return await asyncio.to_thread(self._load, namespace, epoch)

    async def generations(self, namespace: str, tags: Sequence[bytes]) -> dict[bytes, int]:
        """See `GenerationStore.generations`."""
        return await asyncio.to_thread(self._generations, namespace, tags)

    async def bump_tags(self, namespace: str, tags: Sequence[bytes]) -> dict[bytes, int]:
        """See `GenerationStore.bump_tags`."""
        return await asyncio.to_thread(self._bump, namespace, tags)

    async def bump_epoch(self, namespace: str) -> int:
        """See `GenerationStore.bump_epoch`."""
        return (await asyncio.to_thread(self._bump, namespace, [_EPOCH]))[_EPOCH]

    async def remove(self, namespace: str, keys: Sequence[bytes]) -> None:
        """Nothing: there is no shared tier and nobody to tell."""

    def close(self) -> None:
        """Closes the file, after what is under way."""
        with self._lock:
            self._db.close()

    def _load(self, namespace: str, epoch: int) -> tuple[int, int]:
        with self._lock, self._db:
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
        with self._lock:
            base = self._value(namespace, _BASE) or 0
            return {tag: self._value(namespace, tag) or base for tag in tags}

    def _bump(self, namespace: str, fields: Sequence[bytes]) -> dict[bytes, int]:
        with self._lock, self._db:
            now = time.time_ns() // 1000
            for field in fields:
                self._db.execute(
                    "INSERT INTO generations VALUES (?, ?, ?) ON CONFLICT DO UPDATE"
                    " SET value = max(value + 1, excluded.value)",
                    (namespace, field, now),
                )
            return {field: self._value(namespace, field) or now for field in fields}

    def _value(self, namespace: str, field: bytes) -> int | None:
        row = self._db.execute(
            "SELECT value FROM generations WHERE namespace = ? AND field = ?", (namespace, field)
        ).fetchone()
        return None if row is None else int(row[0])
