"""The documents of an embedded index in one SQLite file. Blocking: all calls from one thread."""

from __future__ import annotations

import contextlib
import os
import secrets
import sqlite3
import zlib
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from sidecar.cache.keys import canonical
from sidecar.folder_lock import lock_folder
from sidecar.index.memory_documents import Packed
from sidecar.index.types import Collection, IndexSetupError, Revision

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from sidecar.index.types import Vector

_SCHEMA_VERSION = 1
_SCHEMA = """
CREATE TABLE about (identity TEXT NOT NULL, file TEXT NOT NULL);
CREATE TABLE collections (
    id INTEGER PRIMARY KEY,
    namespace TEXT NOT NULL,
    name TEXT NOT NULL,
    model TEXT NOT NULL,
    version TEXT NOT NULL,
    dimensions INTEGER NOT NULL,
    UNIQUE (namespace, name, model, version, dimensions)
);
CREATE TABLE documents (
    collection INTEGER NOT NULL REFERENCES collections,
    id TEXT NOT NULL,
    content BLOB NOT NULL,
    whole BLOB NOT NULL,
    body BLOB NOT NULL,
    vectors BLOB NOT NULL,
    checksum INTEGER NOT NULL,
    UNIQUE (collection, id)
);
"""
_ELEMENT = np.dtype("<f4")
# A few vectors of usual sizes fit on a page together with their texts.
_PAGE_BYTES = 16 * 1024
_LOG_BYTES = 16 * 1024 * 1024


class IndexFile:
    """A folder with the documents of an index. One process at a time has it.

    What `put` or `delete` returned from outlives a kill of the process and, as far as the disk
    keeps its word, a loss of power. Both raise `sqlite3.Error` or `OSError`, and nothing is changed
    then.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = folder / "index.db"
        self._lock: int | None = None
        self._connection: sqlite3.Connection | None = None
        self.identity = ""

    def open(self) -> None:
        """Opens the file, or makes it. Raises `IndexSetupError` if that cannot be done."""
        with self._explained():
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = _lock(self._folder)
            # Before SQLite makes it; its other files get the mode of this one.
            os.close(os.open(self._path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
            connection = self._connection = sqlite3.connect(self._path, isolation_level=None)
            # Bytes that are no text are for the checksum to find.
            connection.text_factory = partial(str, encoding="utf-8", errors="replace")
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            if version == 0:
                _create(connection)
            elif version != _SCHEMA_VERSION:
                raise IndexSetupError(
                    f"the index file {self._path} is of format {version}, and this version of the "
                    f"sidecar reads format {_SCHEMA_VERSION}; use the version that wrote it"
                )
            [self.identity, of_file] = connection.execute("SELECT * FROM about").fetchone()
            # Only now, for this changes the file.
            for pragma in (
                # Its index need not be a shared mapping then: a disk that goes away would end the
                # process by a signal.
                "locking_mode = EXCLUSIVE",
                "journal_mode = WAL",
                "synchronous = FULL",
                f"journal_size_limit = {_LOG_BYTES}",
                "secure_delete = FAST",
            ):
                connection.execute(f"PRAGMA {pragma}").fetchall()
            status = self._path.stat()
            this_file = f"{status.st_dev}:{status.st_ino}"
            if of_file != this_file:
                # It is new, or a copy: from now on, its documents are not those of the other.
                self.identity = secrets.token_hex(16)
                row = (self.identity, this_file)
                connection.execute("UPDATE about SET identity = ?, file = ?", row)

    def documents(self) -> Iterator[tuple[Collection, Packed]]:
        """All that is in the file. Raises `IndexSetupError` if something in it is damaged."""
        with self._explained():
            rows = self._opened().execute(
                "SELECT namespace, name, model, version, dimensions,"
                " documents.id, content, whole, body, vectors, checksum"
                " FROM documents JOIN collections ON collections.id = collection"
            )
            for *place, one, content, whole, body, vectors, checksum in rows:
                if checksum != _checksum(one, content, whole, body, vectors):
                    raise sqlite3.DatabaseError("a checksum is wrong")
                collection = Collection(*place)
                matrix = _vectors(vectors, collection.dimensions)
                yield collection, Packed(one, Revision(content, whole), body, matrix)

    def put(self, collection: Collection, documents: Sequence[Packed]) -> None:
        """Stores all documents or none; each replaces the one that has its id."""
        place = _place(collection)
        with self._transaction() as connection:
            connection.execute(
                "INSERT OR IGNORE INTO collections (namespace, name, model, version, dimensions)"
                " VALUES (?, ?, ?, ?, ?)",
                place,
            )
            connection.executemany(
                f"INSERT OR REPLACE INTO documents VALUES (({_FIND}), ?, ?, ?, ?, ?, ?)",  # noqa: S608
                ((*place, *_row(packed)) for packed in documents),
            )

    def delete(self, collection: Collection, ids: Sequence[str]) -> None:
        """Removes all those documents that are there, or none."""
        place = _place(collection)
        with self._transaction() as connection:
            connection.executemany(
                f"DELETE FROM documents WHERE collection = ({_FIND}) AND id = ?",  # noqa: S608
                ((*place, one) for one in ids),
            )

    def close(self) -> None:
        """Closes the file and lets go of the folder."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _opened(self) -> sqlite3.Connection:
        assert self._connection is not None  # noqa: S101
        return self._connection

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        connection = self._opened()
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield connection
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Says of failures what to do about them."""
        try:
            yield
        except sqlite3.OperationalError as error:
            raise IndexSetupError(
                f"cannot open the index file {self._path} ({error}); look at its disk and its owner"
            ) from error
        except (sqlite3.DatabaseError, ValueError, TypeError) as error:
            raise IndexSetupError(
                f"the index file {self._path} is damaged ({error}); restore it from a backup, or "
                "move it away and store the documents again"
            ) from error
        except OSError as error:
            raise IndexSetupError(
                f"cannot use the index folder {self._folder}: {error.strerror}; "
                "the sidecar must be able to write there"
            ) from error


_FIND = (
    "SELECT id FROM collections"
    " WHERE namespace = ? AND name = ? AND model = ? AND version = ? AND dimensions = ?"
)


def _create(connection: sqlite3.Connection) -> None:
    # Only an empty file can be told the size of its pages.
    connection.execute(f"PRAGMA page_size = {_PAGE_BYTES}")
    connection.executescript(
        f"BEGIN; {_SCHEMA} PRAGMA user_version = {_SCHEMA_VERSION};"  # noqa: S608 - ours
        "INSERT INTO about VALUES ('', ''); COMMIT;"
    )


def _place(collection: Collection) -> tuple[str | int, ...]:
    return (
        collection.namespace,
        collection.name,
        collection.model,
        collection.version,
        collection.dimensions,
    )


def _row(packed: Packed) -> tuple[Any, ...]:
    vectors = packed.vectors.astype(_ELEMENT, copy=False).tobytes()
    parts = (packed.id, packed.revision.content, packed.revision.whole, packed.body, vectors)
    return (*parts, _checksum(*parts))


def _vectors(data: bytes, dimensions: int) -> Vector:
    return np.frombuffer(data, _ELEMENT).astype(np.float32, copy=False).reshape(-1, dimensions)


def _checksum(one: str, content: bytes, whole: bytes, body: bytes, vectors: bytes) -> int:
    return zlib.crc32(vectors, zlib.crc32(canonical((one.encode(), content, whole, body))))


def _lock(folder: Path) -> int:
    try:
        return lock_folder(folder)
    except BlockingIOError:
        raise IndexSetupError(
            f"the index folder {folder} is used by another process; "
            "give every sidecar a folder of its own"
        ) from None
