"""Epochs and generations of a sidecar without Redis, kept beside its disk tier."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import threading
import time
from typing import TYPE_CHECKING, TypeVar

import structlog

from sidecar.cache.disk_store import is_corrupt
from sidecar.cache.generations import MAX_STORED_TAGS, Bumped, Stored, StoreUnavailableError
from sidecar.cache.namespace_state import MAX_SCOPES, WHOLE_NAMESPACE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

T = TypeVar("T")

MAX_ROWS = 1_000_000
"""Of all namespaces, their tags and scopes together, about 100 bytes each."""

_EPOCH, _BASE = b"epoch", b"base"
_SCHEMA = """
CREATE TABLE IF NOT EXISTS generations
(namespace TEXT, field BLOB, value INTEGER, PRIMARY KEY (namespace, field)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS scopes
(namespace TEXT, scope BLOB, value INTEGER, PRIMARY KEY (namespace, scope)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS expected
(namespace TEXT, tag BLOB, change BLOB, token BLOB, PRIMARY KEY (namespace, tag, change))
WITHOUT ROWID;
"""

_log = structlog.get_logger()


class LocalGenerations:
    """A `GenerationStore` for one sidecar, in a file or, without one, in memory.

    An invalidation is on disk before the call that asks for it returns. The file is opened, and its
    folder made, by the first call; where that fails, each call tries again. A corrupt file is moved
    aside and a new one begun: its epochs and bases are later ones, under which nothing is valid
    that was on disk before. So it is with the namespaces that are the oldest here, when there would
    be more than `MAX_ROWS`.
    """

    def __init__(self, file: Path | None) -> None:
        self._file = file
        self._lock = threading.Lock()
        self._db: sqlite3.Connection | None = None
        # At least as many as there are.
        self._rows = 0
        self._closed = False

    async def load(self, namespace: str, epoch: int, scopes: Mapping[bytes, int]) -> Stored:
        """See `GenerationStore.load`."""
        return await self._call(lambda db: _Namespace(db, namespace).load(epoch, scopes))

    async def generations(
        self, namespace: str, tags: Sequence[bytes]
    ) -> tuple[int, dict[bytes, int]] | None:
        """See `GenerationStore.generations`. A namespace that is not there yet is made."""
        return await self._call(lambda db: _Namespace(db, namespace).generations(tags))

    async def bump_tags(self, namespace: str, tags: Sequence[bytes], change: bytes) -> Bumped:
        """See `GenerationStore.bump_tags`. There is nobody to tell of the change."""
        return await self._call(lambda db: _Namespace(db, namespace).bump_tags(tags))

    async def bump_scope(self, namespace: str, scope: bytes, known: int) -> int:
        """See `GenerationStore.bump_scope`."""
        return await self._call(lambda db: _Namespace(db, namespace).bump_scope(scope, known))

    async def remove(self, namespace: str, keys: Sequence[bytes]) -> None:
        """Nothing: there is no shared tier and nobody to tell."""

    async def expect(
        self, namespace: str, tag: bytes, changes: Sequence[bytes], token: bytes
    ) -> None:
        """See `GenerationStore.expect`. What was not settled is kept."""
        rows = [(namespace, tag, change, token) for change in changes]
        await self._call(
            lambda db: db.executemany("INSERT OR REPLACE INTO expected VALUES (?, ?, ?, ?)", rows)
        )

    async def expected(
        self, namespace: str, tag: bytes, changes: Sequence[bytes]
    ) -> list[bytes | None]:
        """See `GenerationStore.expected`."""

        def find(db: sqlite3.Connection) -> list[bytes | None]:
            rows = db.execute(
                "SELECT change, token FROM expected WHERE namespace = ? AND tag = ?",
                (namespace, tag),
            )
            tokens: dict[bytes, bytes] = dict(rows)
            return [tokens.get(change) for change in changes]

        return await self._call(find)

    async def settle(
        self, namespace: str, tag: bytes, changes: Sequence[bytes], token: bytes
    ) -> None:
        """See `GenerationStore.settle`."""
        rows = [(namespace, tag, change, token) for change in changes]
        await self._call(
            lambda db: db.executemany(
                "DELETE FROM expected WHERE namespace = ? AND tag = ? AND change = ? AND token = ?",
                rows,
            )
        )

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
            if self._db is None:
                self._db = _open(self._file)
                self._rows = _count(self._db)
            db, before = self._db, self._db.total_changes
            with db:
                result = work(db)
                self._rows += db.total_changes - before
                if self._rows > MAX_ROWS:
                    self._rows = _make_room(db)
            return result
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


class _Namespace:
    """What the file holds of one namespace, inside a transaction."""

    def __init__(self, db: sqlite3.Connection, name: str) -> None:
        self._db = db
        self._name = name

    def load(self, epoch: int, scopes: Mapping[bytes, int]) -> Stored:
        self._begin(max(epoch, *scopes.values(), 0))
        # Nothing is written without need: a full or read-only disk can still be read.
        if epoch > self._epoch:
            self._set_epoch(epoch)
        for scope, number in scopes.items():
            if number > max(self._epoch, self._scopes().get(scope, 0)):
                self._set_scope(scope, number)
        return Stored(self._epoch, self._base, self._scopes())

    def generations(self, tags: Sequence[bytes]) -> tuple[int, dict[bytes, int]]:
        self._begin(0)
        return self._newest, {tag: self._value(tag) or self._base for tag in tags}

    def bump_tags(self, tags: Sequence[bytes]) -> Bumped:
        self._begin(0)
        now = _now_us()
        count, last = self._db.execute(
            "SELECT count(*), max(value) FROM generations WHERE namespace = ? AND field != ?",
            (self._name, _EPOCH),
        ).fetchone()
        if count - 1 > MAX_STORED_TAGS:
            self._db.execute(
                "DELETE FROM generations WHERE namespace = ? AND field != ?", (self._name, _EPOCH)
            )
            self._store([(_BASE, max(now, last + 1))])
        steps = {}
        for tag in tags:
            previous = self._value(tag) or self._base
            steps[tag] = (previous, max(now, previous + 1))
        self._store((tag, generation) for tag, (_, generation) in steps.items())
        return Bumped(self._base, steps)

    def bump_scope(self, scope: bytes, known: int) -> int:
        self._begin(known)
        number = max(_now_us(), self._newest + 1, known + 1)
        if scope == WHOLE_NAMESPACE:
            self._set_epoch(number)
        else:
            self._set_scope(scope, number)
        return number

    @property
    def _epoch(self) -> int:
        return self._value(_EPOCH) or 0

    @property
    def _base(self) -> int:
        return self._value(_BASE) or 0

    @property
    def _newest(self) -> int:
        return max(self._epoch, *self._scopes().values(), 0)

    def _begin(self, known: int) -> None:
        """Makes the namespace if it is not there; its epoch is larger than ``known``."""
        if not self._epoch or not self._base:
            now = _now_us()
            self._store([(_EPOCH, max(now, known + 1)), (_BASE, now)])

    def _set_epoch(self, number: int) -> None:
        self._store([(_EPOCH, number)])
        self._db.execute(
            "DELETE FROM scopes WHERE namespace = ? AND value <= ?", (self._name, number)
        )

    def _set_scope(self, scope: bytes, number: int) -> None:
        self._db.execute(
            "INSERT OR REPLACE INTO scopes VALUES (?, ?, ?)", (self._name, scope, number)
        )
        scopes = self._scopes()
        if len(scopes) > MAX_SCOPES:
            self._set_epoch(min(scopes.values()))

    def _scopes(self) -> dict[bytes, int]:
        return dict(
            self._db.execute("SELECT scope, value FROM scopes WHERE namespace = ?", (self._name,))
        )

    def _value(self, field: bytes) -> int | None:
        row = self._db.execute(
            "SELECT value FROM generations WHERE namespace = ? AND field = ?", (self._name, field)
        ).fetchone()
        return None if row is None else int(row[0])

    def _store(self, fields: Iterable[tuple[bytes, int]]) -> None:
        self._db.executemany(
            "INSERT OR REPLACE INTO generations VALUES (?, ?, ?)",
            ((self._name, field, value) for field, value in fields),
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
        db.executescript(_SCHEMA)
    except BaseException:
        db.close()
        raise
    return db


def _count(db: sqlite3.Connection) -> int:
    (rows,) = db.execute(
        "SELECT (SELECT count(*) FROM generations) + (SELECT count(*) FROM scopes)"
    ).fetchone()
    return int(rows)


def _make_room(db: sqlite3.Connection) -> int:
    """Removes the oldest namespaces if there are too many rows; returns how many are left."""
    left = _count(db)
    if left <= MAX_ROWS:
        return left
    oldest = db.execute(
        "SELECT namespace, count(*) + (SELECT count(*) FROM scopes"
        " WHERE scopes.namespace = generations.namespace)"
        " FROM generations GROUP BY namespace ORDER BY max(CASE field WHEN ? THEN value END)",
        (_BASE,),
    ).fetchall()
    for namespace, rows in oldest:
        db.execute("DELETE FROM generations WHERE namespace = ?", (namespace,))
        db.execute("DELETE FROM scopes WHERE namespace = ?", (namespace,))
        left -= rows
        # Not one by one: to look at all takes its time.
        if left <= MAX_ROWS * 9 // 10:
            break
    return left


def _now_us() -> int:
    return time.time_ns() // 1000
