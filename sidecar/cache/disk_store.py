"""The entries of the disk tier in one SQLite file. Blocking: all calls come from one thread."""

from __future__ import annotations

import os
import sqlite3
from typing import TYPE_CHECKING

import structlog

from sidecar.cache.write_queue import Delete, Put

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from sidecar.cache.write_queue import Write

_SCHEMA_VERSION = 1
_SCHEMA = """
CREATE TABLE entries (
    id INTEGER PRIMARY KEY,
    key BLOB NOT NULL UNIQUE,
    value BLOB NOT NULL,
    expires_ms INTEGER NOT NULL,
    used_s INTEGER NOT NULL
);
CREATE INDEX by_use ON entries (used_s);
CREATE INDEX by_expiry ON entries (expires_ms) WHERE expires_ms > 0;
CREATE TABLE totals (entries INTEGER NOT NULL, bytes INTEGER NOT NULL);
INSERT INTO totals VALUES (0, 0);
"""

# The log is emptied into the database when it has this many pages (4 KiB each).
_CHECKPOINT_PAGES = 256
# What the folder may hold besides the database: the log, with the largest transaction on top.
_RESERVE_BYTES = 6 * 1024 * 1024
MIN_BYTES = 16 * 1024 * 1024

_TOUCH_SECONDS = 3600
_KEYS_A_QUERY = 500
_EXPIRED_A_BATCH = 256
_EVICTED_AT_ONCE = 4
_SPARE_PAGES = 512

_log = structlog.get_logger()


class DiskStore:
    """Entries by key, evicted least recently used first so that the folder stays in its bound.

    Recency is coarse: a read is noted once an hour. Every method may raise `sqlite3.Error` or
    `OSError`; after one that tells of a corrupt file, call `replace_corrupt`.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self._path = folder / "entries.db"
        self._max_bytes = max_bytes
        self._connection: sqlite3.Connection | None = None
        # Which file is open, and whether it went away.
        self._file: os.stat_result | None = None
        self._is_lost = False
        self._touched: set[int] = set()
        self.entries = 0
        self.bytes = 0
        self.evictions = 0
        self.corrupt_files = 0

    @property
    def wants_write(self) -> bool:
        """Whether reads have left something to note."""
        return bool(self._touched)

    def open(self) -> None:
        """Opens the file if it is not open; makes it if it is missing or of another version."""
        if self._connection is not None:
            return
        if self._is_lost:
            # What is there now may have entries that were removed from the other.
            self._remove_files()
            self._is_lost = False
        connection = self._connect()
        try:
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            if version not in (0, _SCHEMA_VERSION):
                _log.info("disk cache of another version discarded", version=version)
                connection.close()
                self._remove_files()
                connection = self._connect()
                version = 0
            if version == 0:
                _create(connection)
            for pragma in (
                # Nobody else may use the file, so its index need not be a shared mapping: a disk
                # that goes away would end the process by a signal.
                "locking_mode = EXCLUSIVE",
                "journal_mode = WAL",
                "synchronous = NORMAL",
                f"wal_autocheckpoint = {_CHECKPOINT_PAGES}",
                f"journal_size_limit = {_CHECKPOINT_PAGES * 4096}",
                "secure_delete = FAST",
                "temp_store = MEMORY",
            ):
                connection.execute(f"PRAGMA {pragma}").fetchall()
            self.entries, self.bytes = connection.execute("SELECT * FROM totals").fetchone()
            self._file = self._path.stat()
        except BaseException:
            connection.close()
            raise
        self._connection = connection

    def close_lost(self) -> None:
        """Closes the file if it is no longer the one in its place: somebody has removed it.

        The next one starts empty.
        """
        if self._file is not None and not is_at(self._file, self._path):
            self._is_lost = True
            self.close()

    def close(self) -> None:
        """Closes the file."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        self._file = None
        self._touched.clear()

    def get_many(self, keys: Sequence[bytes], now: float) -> dict[bytes, bytes]:
        """The values of those keys that have an entry which is not expired."""
        connection = self._opened()
        found: dict[bytes, bytes] = {}
        for start in range(0, len(keys), _KEYS_A_QUERY):
            chunk = keys[start : start + _KEYS_A_QUERY]
            marks = ",".join("?" * len(chunk))
            rows = connection.execute(
                f"SELECT id, key, value, used_s FROM entries WHERE key IN ({marks})"  # noqa: S608
                " AND (expires_ms = 0 OR expires_ms > ?)",
                (*chunk, int(now * 1000)),
            )
            for row, key, value, used in rows:
                found[key] = value
                if used <= now - _TOUCH_SECONDS:
                    self._touched.add(row)
        return found

    def apply(self, batch: Iterable[Write], now: float) -> list[bool]:
        """Does the writes in one transaction, evicts, and says for each whether it was done."""
        # SQLite would go on with a file that nobody finds any more.
        self.close_lost()
        connection = self._opened()
        touched, self._touched = self._touched, set()
        before = (self.entries, self.bytes)
        connection.execute("BEGIN IMMEDIATE")
        try:
            done = [self._apply_one(connection, write, now) for write in batch]
            connection.executemany(
                "UPDATE entries SET used_s = ? WHERE id = ?", ((int(now), row) for row in touched)
            )
            # They were used while the clock was ahead, and would stay until it is that time.
            connection.execute(
                "UPDATE entries SET used_s = ? WHERE used_s > ?",
                (int(now), int(now) + _TOUCH_SECONDS),
            )
            self._remove(
                connection,
                "SELECT id FROM entries WHERE expires_ms > 0 AND expires_ms <= ? LIMIT ?",
                (int(now * 1000), _EXPIRED_A_BATCH),
            )
            self._evict(connection)
            connection.execute(
                "UPDATE totals SET entries = ?, bytes = ?", (self.entries, self.bytes)
            )
            connection.execute("COMMIT")
        except BaseException:
            self.entries, self.bytes = before
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        if _pragma(connection, "freelist_count") > _SPARE_PAGES:
            # As a script, for execute() would stop after the first page.
            connection.executescript(f"PRAGMA incremental_vacuum({_SPARE_PAGES})")
        return done

    def clear(self) -> int:
        """Removes all entries, and gives the space back; returns how many they were."""
        self.open()
        removed = self.entries
        self.close()
        self._remove_files()
        self.open()
        return removed

    def replace_corrupt(self) -> None:
        """Moves the file aside, over the one moved aside before, and starts with an empty one."""
        self.close()
        self.corrupt_files += 1
        self._path.replace(self._path.with_suffix(".corrupt"))
        self._remove_files()
        _log.warning("disk cache was corrupt and is replaced", file=str(self._path))
        self.open()

    def _connect(self) -> sqlite3.Connection:
        # Before SQLite makes it; its other files get the mode of this one.
        os.close(os.open(self._path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
        return sqlite3.connect(self._path, isolation_level=None)

    def _opened(self) -> sqlite3.Connection:
        self.open()
        assert self._connection is not None  # noqa: S101
        return self._connection

    def _remove_files(self) -> None:
        for suffix in (".db", ".db-wal", ".db-shm"):
            self._path.with_suffix(suffix).unlink(missing_ok=True)

    def _apply_one(self, connection: sqlite3.Connection, write: Write, now: float) -> bool:
        if isinstance(write, Delete):
            self._remove(connection, "SELECT id FROM entries WHERE key = ?", (write.key,))
            return True
        if len(write.value) > self._max_bytes // 16:
            return False
        return self._put(connection, write, now)

    def _put(self, connection: sqlite3.Connection, put: Put, now: float) -> bool:
        row = connection.execute(
            "SELECT id, length(value), expires_ms FROM entries WHERE key = ?", (put.key,)
        ).fetchone()
        if row is None:
            connection.execute(
                "INSERT INTO entries (key, value, expires_ms, used_s) VALUES (?, ?, ?, ?)",
                (put.key, put.value, put.expires_ms, int(now)),
            )
            self.entries += 1
            self.bytes += len(put.key) + len(put.value)
        elif put.replace or 0 < row[2] <= now * 1000:
            connection.execute(
                "UPDATE entries SET value = ?, expires_ms = ?, used_s = ? WHERE id = ?",
                (put.value, put.expires_ms, int(now), row[0]),
            )
            self.bytes += len(put.value) - row[1]
        return True

    def _evict(self, connection: sqlite3.Connection) -> None:
        limit = (self._max_bytes - _RESERVE_BYTES) // _pragma(connection, "page_size")
        while self.entries and _used_pages(connection) > limit:
            self.evictions += self._remove(
                connection,
                "SELECT id FROM entries ORDER BY used_s, id LIMIT ?",
                (_EVICTED_AT_ONCE,),
            )

    def _remove(
        self, connection: sqlite3.Connection, which: str, parameters: tuple[object, ...]
    ) -> int:
        """Removes the entries whose ids ``which`` selects."""
        removed = connection.execute(
            f"DELETE FROM entries WHERE id IN ({which}) "  # noqa: S608
            "RETURNING length(key) + length(value)",
            parameters,
        ).fetchall()
        self.entries -= len(removed)
        self.bytes -= sum(size for (size,) in removed)
        return len(removed)


def is_at(file: os.stat_result, path: Path) -> bool:
    """Whether a file is the one at that path. Raises `OSError` if that cannot be told."""
    try:
        return os.path.samestat(file, path.stat())
    except FileNotFoundError:
        return False


def is_corrupt(error: Exception) -> bool:
    """Whether the error says that the file is no good, rather than that the disk is in trouble."""
    code = getattr(error, "sqlite_errorcode", None) or 0
    return code & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def _create(connection: sqlite3.Connection) -> None:
    # Only an empty file can be told how it gives space back.
    connection.execute("PRAGMA page_size = 4096")
    connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
    connection.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version = {_SCHEMA_VERSION}; COMMIT;")


def _used_pages(connection: sqlite3.Connection) -> int:
    return _pragma(connection, "page_count") - _pragma(connection, "freelist_count")


def _pragma(connection: sqlite3.Connection, name: str) -> int:
    return int(connection.execute(f"PRAGMA {name}").fetchone()[0])
