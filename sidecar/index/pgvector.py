"""The index in PostgreSQL with the extension pgvector: exact, shared, and open to other SQL."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import psycopg

from sidecar.index import pgvector_statements as statements
from sidecar.index.open import IndexUrlError
from sidecar.index.pgvector_connection import Postgres
from sidecar.index.pgvector_schema import prepare
from sidecar.index.types import IndexUnavailableError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from psycopg import AsyncConnection

    from sidecar.index.filters import Filter
    from sidecar.index.types import Collection, Document, Hit, Revision, Vector

T = TypeVar("T")

_READ_SECONDS = 2.0
_WRITE_SECONDS = 5.0


class PgvectorIndex:
    """An `Index` shared by all sidecars on the same database, in its schema ``embercache``.

    Every search looks at all chunks of the collection that pass the filter.

    Args:
        url: as for libpq, such as ``postgresql://USER@HOST:PORT/DATABASE?passfile=/etc/pgpass``.

    Raises `IndexUrlError` for a bad address.
    """

    def __init__(self, url: str) -> None:
        try:
            psycopg.conninfo.conninfo_to_dict(url)
        except psycopg.ProgrammingError:
            # The reason may quote a part of the password.
            raise IndexUrlError(
                "cannot read the URL of the index; use postgresql://USER@HOST:PORT/DATABASE"
            ) from None
        self._postgres = Postgres(url, when_failed=self._doubt)
        self._identity = ""
        # Whether it is still this one: a server that was away may have lost its data.
        self._sure = False

    @property
    def identity(self) -> str:
        """As `Index.identity`: of the data that were there when the server was last asked.

        Raises `IndexUnavailableError` if that never was.
        """
        if not self._identity:
            raise IndexUnavailableError(
                "the index (PostgreSQL) has not been reached yet; try again"
            )
        return self._identity

    async def start(self) -> None:
        """As `Index.start`. If it raises `IndexUnavailableError`, it can be called again."""
        self._identity = await self._postgres.run(prepare, _WRITE_SECONDS)
        self._sure = True

    async def close(self) -> None:
        """Ends what is in progress, and the connections."""
        await self._postgres.close()

    async def revisions(self, collection: Collection, ids: Sequence[str]) -> list[Revision | None]:
        """As `Index.revisions`."""
        return await self._run(partial(statements.revisions, collection, ids), _READ_SECONDS)

    async def upsert(self, collection: Collection, documents: Sequence[Document]) -> None:
        """As `Index.upsert`; all of the documents are stored, or none."""
        if documents:
            await self._run(partial(statements.upsert, collection, documents), _WRITE_SECONDS)

    async def delete(self, collection: Collection, ids: Sequence[str]) -> list[bool]:
        """As `Index.delete`; all of the documents are removed, or none."""
        return await self._run(partial(statements.delete, collection, ids), _WRITE_SECONDS)

    async def search(
        self, collection: Collection, vector: Vector, count: int, where: Filter | None
    ) -> list[Hit]:
        """As `Index.search`."""
        search = partial(statements.search, collection, vector, count, where)
        return await self._run(search, _READ_SECONDS)

    async def collections(self) -> list[Collection]:
        """As `Index.collections`."""
        return await self._run(statements.collections, _READ_SECONDS)

    async def count(self, collection: Collection) -> int:
        """As `Index.count`."""
        return await self._run(partial(statements.count, collection), _READ_SECONDS)

    async def documents(self, collection: Collection, after: str, count: int) -> list[Document]:
        """As `Index.documents`."""
        return await self._run(
            partial(statements.documents, collection, after, count), _READ_SECONDS
        )

    async def fetch(self, collection: Collection, ids: Sequence[str]) -> list[Document | None]:
        """As `Index.fetch`."""
        return await self._run(partial(statements.fetch, collection, ids), _READ_SECONDS)

    def _doubt(self) -> None:
        self._sure = False

    async def _run(
        self, operation: Callable[[AsyncConnection[Any]], Awaitable[T]], seconds: float
    ) -> T:
        if not self._sure:
            await self.start()
        return await self._postgres.run(operation, seconds)
