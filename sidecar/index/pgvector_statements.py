"""What the index does, each in one transaction."""

from __future__ import annotations

from itertools import groupby
from operator import attrgetter, itemgetter
from typing import TYPE_CHECKING, Any

from psycopg.sql import SQL, Composable

from sidecar.index.pgvector_filters import condition
from sidecar.index.pgvector_rows import (
    chunk_rows,
    collection_key,
    collection_names,
    document_row,
    escape,
    read_document,
    read_extras,
    unescape,
    vector_text,
)
from sidecar.index.types import Collection, Document, Hit, Revision
from sidecar.index.vectors import unit

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from psycopg import AsyncConnection

    from sidecar.index.filters import Filter
    from sidecar.index.types import Vector

    Connection = AsyncConnection[Any]

# Texts are read only of those that are hits.
_SEARCH = SQL("""
WITH nearest AS (
    SELECT document, number, chunk, embedding <=> %s::vector AS distance
    FROM embercache.chunks WHERE collection = %s AND {}
    ORDER BY distance, document, chunk LIMIT %s
)
SELECT n.document, n.chunk, 1 - n.distance, c.text, d.metadata::text, d.tags
FROM nearest n
JOIN embercache.chunks c
    ON c.collection = %s AND c.document = n.document AND c.number = n.number
JOIN embercache.documents d ON d.collection = %s AND d.id = n.document
ORDER BY n.distance, n.document, n.chunk
""")

_READ = SQL("""
SELECT d.id, d.content, d.whole, d.metadata::text, d.tags, c.chunk, c.text, vector_send(c.embedding)
FROM ({}) d JOIN embercache.chunks c ON c.collection = %s AND c.document = d.id
ORDER BY d.id, c.number
""")

_PASSING = SQL("document IN (SELECT id FROM embercache.documents WHERE collection = %s AND {})")


async def search(
    collection: Collection,
    vector: Vector,
    count: int,
    where: Filter | None,
    connection: Connection,
) -> list[Hit]:
    """As `Index.search`."""
    key = collection_key(collection)
    passing: Composable = SQL("true")
    parameters: list[object] = []
    if where is not None:
        passing, parameters = condition(where)
        passing, parameters = _PASSING.format(passing), [key, *parameters]
    query = vector_text(unit(vector))
    found = await connection.execute(
        _SEARCH.format(passing), [query, key, *parameters, count, key, key]
    )
    return [
        Hit(
            unescape(document), unescape(chunk), score, unescape(text), *read_extras(metadata, tags)
        )
        for document, chunk, score, text, metadata, tags in await found.fetchall()
    ]


async def revisions(
    collection: Collection, ids: Sequence[str], connection: Connection
) -> list[Revision | None]:
    """As `Index.revisions`."""
    found = await connection.execute(
        "SELECT id, content, whole FROM embercache.documents"
        " WHERE collection = %s AND id = any(%s)",
        [collection_key(collection), [escape(one) for one in ids]],
    )
    stored_ones = {
        unescape(document): Revision(content, whole)
        for document, content, whole in await found.fetchall()
    }
    return [stored_ones.get(one) for one in ids]


async def upsert(
    collection: Collection, documents: Sequence[Document], connection: Connection
) -> None:
    """As `Index.upsert`, of all documents or none."""
    key = collection_key(collection)
    # In one order, or two calls could wait for each other.
    documents = sorted(documents, key=attrgetter("id"))
    new = [document for document in documents if document.chunks[0].vector is not None]
    async with connection.transaction():
        contents = await _lock(key, [escape(document.id) for document in documents], connection)
        for document in documents:
            there = contents.get(escape(document.id))
            if document.chunks[0].vector is None and there != document.revision.content:
                raise KeyError(document.id)
        await connection.execute(
            "INSERT INTO embercache.collections VALUES (%s, %s, %s, %s, %s, %s)"
            " ON CONFLICT DO NOTHING",
            [key, *collection_names(collection), collection.dimensions],
        )
        cursor = connection.cursor()
        await cursor.executemany(
            "INSERT INTO embercache.documents VALUES (%s, %s, %s, %s, %s, %s)"
            " ON CONFLICT (collection, id) DO UPDATE SET content = excluded.content,"
            " whole = excluded.whole, metadata = excluded.metadata, tags = excluded.tags",
            [document_row(key, document) for document in documents],
        )
        await cursor.execute(
            "DELETE FROM embercache.chunks WHERE collection = %s AND document = any(%s)",
            [key, [escape(document.id) for document in new]],
        )
        await cursor.executemany(
            "INSERT INTO embercache.chunks VALUES (%s, %s, %s, %s, %s, %s::vector)",
            [row for document in new for row in chunk_rows(key, document)],
        )


async def delete(collection: Collection, ids: Sequence[str], connection: Connection) -> list[bool]:
    """As `Index.delete`, of all documents or none."""
    key = collection_key(collection)
    escaped = [escape(one) for one in ids]
    async with connection.transaction():
        there = await _lock(key, escaped, connection)
        await connection.execute(
            "DELETE FROM embercache.documents WHERE collection = %s AND id = any(%s)",
            [key, list(there)],
        )
    return [one in there for one in escaped]


async def collections(connection: Connection) -> list[Collection]:
    """As `Index.collections`."""
    found = await connection.execute(
        "SELECT namespace, name, model, version, dimensions FROM embercache.collections c"
        " WHERE EXISTS (SELECT FROM embercache.documents WHERE collection = c.key)"
    )
    return [
        Collection(
            unescape(namespace), unescape(name), unescape(model), unescape(version), dimensions
        )
        for namespace, name, model, version, dimensions in await found.fetchall()
    ]


async def count(collection: Collection, connection: Connection) -> int:
    """As `Index.count`."""
    found = await connection.execute(
        "SELECT count(*) FROM embercache.documents WHERE collection = %s",
        [collection_key(collection)],
    )
    ((number,),) = await found.fetchall()
    return int(number)


async def documents(
    collection: Collection, after: str, count: int, connection: Connection
) -> list[Document]:
    """As `Index.documents`."""
    page = SQL(
        "SELECT * FROM embercache.documents WHERE collection = %s AND id > %s ORDER BY id LIMIT %s"
    )
    return await _read(collection, page, [escape(after), count], connection)


async def fetch(
    collection: Collection, ids: Sequence[str], connection: Connection
) -> list[Document | None]:
    """As `Index.fetch`."""
    named = SQL("SELECT * FROM embercache.documents WHERE collection = %s AND id = any(%s)")
    found = await _read(collection, named, [[escape(one) for one in ids]], connection)
    stored_ones = {document.id: document for document in found}
    return [stored_ones.get(one) for one in ids]


async def _read(
    collection: Collection, chosen: SQL, parameters: Sequence[object], connection: Connection
) -> list[Document]:
    """The documents that a statement chooses from a collection, in order of id."""
    key = collection_key(collection)
    found = await connection.execute(_READ.format(chosen), [key, *parameters, key])
    rows = await found.fetchall()
    return [read_document(list(group)) for _, group in groupby(rows, key=itemgetter(0))]


async def _lock(key: UUID, escaped: Sequence[str], connection: Connection) -> dict[str, bytes]:
    """Keeps others from changing documents; the content of those that are there."""
    found = await connection.execute(
        "SELECT id, content FROM embercache.documents WHERE collection = %s AND id = any(%s)"
        " ORDER BY id FOR UPDATE",
        [key, escaped],
    )
    return dict(await found.fetchall())
