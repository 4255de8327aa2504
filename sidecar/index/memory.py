"""The embedded index: exact, in the memory of this process, kept in a folder if there is one."""

from __future__ import annotations

import asyncio
import secrets
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import structlog

from sidecar.index.memory_documents import memory_of, pack, unpack
from sidecar.index.memory_store import IndexFile
from sidecar.index.memory_table import Table
from sidecar.index.types import IndexFullError, IndexUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from sidecar.index.filters import Filter
    from sidecar.index.memory_documents import Packed
    from sidecar.index.types import Collection, Document, Hit, Revision, Vector

T = TypeVar("T")

_LOADED_TOGETHER = 1000

_log = structlog.get_logger()


class MemoryIndex:
    """An `Index` of this process alone.

    Changes are made by one thread, first in the file, then in memory; searches and other reads
    are made by others meanwhile.

    Args:
        folder: made, for this user only, if it is missing; without one, nothing is kept.
        capacity_bytes: most memory of documents that are stored, see `memory_of`. What is in the
            folder already is loaded, however much it is. Those that are replaced or deleted may
            take as much again until they are dropped.
    """

    def __init__(self, folder: Path | None = None, capacity_bytes: int = 2**30) -> None:
        self.capacity_bytes = capacity_bytes
        self._file = None if folder is None else IndexFile(folder)
        self._identity = secrets.token_hex(16)
        self._started = False
        self._is_failing = False
        # Those with documents. A table is complete before it is put here.
        self._tables: dict[Collection, Table] = {}
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="embercache-index")

    @property
    def identity(self) -> str:
        """As `Index.identity`: that of the file, or else of this object. Known after `start`."""
        return self._identity

    @property
    def bytes(self) -> int:
        """What its documents take."""
        return sum(table.bytes for table in list(self._tables.values()))

    async def start(self) -> None:
        """Loads all documents. Raises `IndexSetupError` if the folder cannot be used as it is."""
        if not self._started:
            await self._in_turn(self._open)
            self._started = True

    async def close(self) -> None:
        """Ends the changes that are in progress and lets go of the folder."""
        if self._file is not None:
            await self._in_turn(self._file.close)
        self._writer.shutdown(wait=False)

    async def revisions(self, collection: Collection, ids: Sequence[str]) -> list[Revision | None]:
        """As `Index.revisions`."""
        table = self._tables.get(collection)
        if table is None:
            return [None] * len(ids)
        return await asyncio.to_thread(table.revisions, ids)

    async def upsert(self, collection: Collection, documents: Sequence[Document]) -> None:
        """As `Index.upsert`; all of the documents are stored, or none.

        Raises `IndexFullError` if they would take more than what they replace, and there is no
        room for it.
        """
        await self._in_turn(partial(self._upsert, collection, documents))

    async def delete(self, collection: Collection, ids: Sequence[str]) -> list[bool]:
        """As `Index.delete`; all of the documents are removed, or none."""
        return await self._in_turn(partial(self._delete, collection, ids))

    async def search(
        self, collection: Collection, vector: Vector, count: int, where: Filter | None
    ) -> list[Hit]:
        """As `Index.search`; exact."""
        table = self._tables.get(collection)
        if table is None:
            return []
        return await asyncio.to_thread(table.search, vector, count, where)

    async def collections(self) -> list[Collection]:
        """As `Index.collections`."""
        return list(self._tables)

    async def count(self, collection: Collection) -> int:
        """As `Index.count`."""
        return len(self._tables.get(collection, ()))

    async def documents(self, collection: Collection, after: str, count: int) -> list[Document]:
        """As `Index.documents`."""
        table = self._tables.get(collection)
        if table is None:
            return []
        return await asyncio.to_thread(lambda: list(map(unpack, table.page(after, count))))

    async def fetch(self, collection: Collection, ids: Sequence[str]) -> list[Document | None]:
        """As `Index.fetch`."""
        table = self._tables.get(collection)
        if table is None:
            return [None] * len(ids)
        return await asyncio.to_thread(
            lambda: [None if one is None else unpack(one) for one in map(table.get, ids)]
        )

    async def _in_turn(self, work: Callable[[], T]) -> T:
        """What ``work`` returns in the thread that makes the changes."""
        return await asyncio.get_running_loop().run_in_executor(self._writer, work)

    def _open(self) -> None:
        if self._file is None:
            return
        try:
            self._file.open()
            self._identity = self._file.identity
            stored = self._file.documents()
            while some := list(islice(stored, _LOADED_TOGETHER)):
                together: dict[Collection, list[Packed]] = {}
                for collection, one in some:
                    together.setdefault(collection, []).append(one)
                for collection, documents in together.items():
                    self._add(collection, documents)
        except BaseException:
            self._file.close()
            self._tables.clear()
            raise

    def _upsert(self, collection: Collection, documents: Sequence[Document]) -> None:
        if not documents:
            return
        packed = [self._packed(collection, document) for document in documents]
        self._check_room(collection, documents, packed)
        if self._file is not None:
            self._write(partial(self._file.put, collection, packed))
        self._add(collection, packed)

    def _check_room(
        self, collection: Collection, documents: Sequence[Document], packed: Sequence[Packed]
    ) -> None:
        table, held = self._tables.get(collection), self.bytes
        wanted = held + sum(
            memory_of(one, len(document.metadata))
            for one, document in zip(packed, documents, strict=True)
        )
        if table is not None:
            wanted -= table.bytes_of([document.id for document in documents])
        if wanted > max(held, self.capacity_bytes):
            raise IndexFullError(
                f"the index in memory has no room: it may take {self.capacity_bytes} bytes, and"
                f" would take {wanted}; delete documents, or raise index.max_bytes"
            )

    def _delete(self, collection: Collection, ids: Sequence[str]) -> list[bool]:
        table = self._tables.get(collection)
        if table is None:
            return [False] * len(ids)
        found = [revision is not None for revision in table.revisions(ids)]
        if self._file is not None and any(found):
            self._write(partial(self._file.delete, collection, ids))
        table.delete(ids)
        self._show(collection, table)
        return found

    def _add(self, collection: Collection, documents: Sequence[Packed]) -> None:
        table = self._tables.get(collection)
        if table is None:
            table = Table(collection.dimensions)
        table.put(documents)
        self._show(collection, table)

    def _show(self, collection: Collection, table: Table) -> None:
        if not len(table):
            del self._tables[collection]
        else:
            self._tables[collection] = table.without_dead() if table.is_sparse else table

    def _packed(self, collection: Collection, document: Document) -> Packed:
        """What is to be stored; raises `KeyError` as `Index.upsert` does."""
        given = [chunk.vector for chunk in document.chunks if chunk.vector is not None]
        if given:
            vectors = np.stack(given).astype(np.float32, copy=False)
            if vectors.shape != (len(document.chunks), collection.dimensions):
                raise ValueError(f"vectors of shape {vectors.shape} do not fit {collection}")
            return pack(document, vectors)
        table = self._tables.get(collection)
        old = None if table is None else table.get(document.id)
        if old is None or old.revision.content != document.revision.content:
            raise KeyError(document.id)
        chunks = unpack(old).chunks
        return pack(replace(document, chunks=chunks), old.vectors)

    def _write(self, change: Callable[[], None]) -> None:
        try:
            change()
        except (sqlite3.Error, OSError) as error:
            if not self._is_failing:
                self._is_failing = True
                _log.error("index cannot write", reason=str(error))
            raise IndexUnavailableError(
                "the index cannot write to its disk, so nothing was changed; "
                "its log says why: free some space or mend the disk, then retry"
            ) from error
        if self._is_failing:
            self._is_failing = False
            _log.info("index can write again")
