"""The tables of the index, and what else makes a database fit for it."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, LiteralString

from psycopg import errors

from sidecar.index.types import IndexSetupError

if TYPE_CHECKING:
    from psycopg import AsyncConnection

# Any number that nobody else locks.
_LOCK = 0x456D626572

_EXTENSION: LiteralString = "CREATE EXTENSION IF NOT EXISTS vector"
# The order of strings is that of their code points. Vectors stay in the rows: they are all looked
# at, and texts give way.
_TABLES = """
CREATE TABLE embercache.identity (id text NOT NULL);
CREATE TABLE embercache.collections (
    key uuid PRIMARY KEY,
    namespace text NOT NULL,
    name text NOT NULL,
    model text NOT NULL,
    version text NOT NULL,
    dimensions integer NOT NULL
);
CREATE TABLE embercache.documents (
    collection uuid NOT NULL REFERENCES embercache.collections,
    id text COLLATE "C" NOT NULL,
    content bytea NOT NULL,
    whole bytea NOT NULL,
    metadata jsonb NOT NULL,
    tags text[] NOT NULL,
    PRIMARY KEY (collection, id)
);
CREATE TABLE embercache.chunks (
    collection uuid NOT NULL,
    document text COLLATE "C" NOT NULL,
    number integer NOT NULL,
    chunk text COLLATE "C" NOT NULL,
    text text NOT NULL,
    embedding vector NOT NULL,
    PRIMARY KEY (collection, document, number),
    FOREIGN KEY (collection, document) REFERENCES embercache.documents ON DELETE CASCADE
);
ALTER TABLE embercache.chunks ALTER COLUMN embedding SET STORAGE MAIN;
"""


async def prepare(connection: AsyncConnection) -> str:
    """Makes what is missing. Returns the identity of the data.

    Raises `IndexSetupError` if there is no pgvector, or no right to make the tables.
    """
    async with connection.transaction():
        # Sidecars often start together.
        await connection.execute("SELECT pg_advisory_xact_lock(%s)", [_LOCK])
        if await _is_missing(connection, "to_regclass('embercache.chunks')"):
            await _make(connection)
        found = await connection.execute("SELECT id FROM embercache.identity")
        row = await found.fetchone()
        if row is None:
            row = (secrets.token_hex(16),)
            await connection.execute("INSERT INTO embercache.identity VALUES (%s)", row)
    return str(row[0])


async def _make(connection: AsyncConnection) -> None:
    try:
        await connection.execute(_EXTENSION)
        # With IF NOT EXISTS, it would need the right even if there is nothing to do.
        if await _is_missing(connection, "to_regnamespace('embercache')"):
            await connection.execute("CREATE SCHEMA embercache")
        await connection.execute(_TABLES)
    except (errors.FeatureNotSupported, errors.UndefinedFile):
        raise IndexSetupError(
            "this PostgreSQL has no pgvector: install the package of the extension on its server"
        ) from None
    except errors.InsufficientPrivilege:
        raise IndexSetupError(
            "the user of the index may not prepare the database: give it CREATE on the database, or"
            " run CREATE EXTENSION vector and CREATE SCHEMA embercache AUTHORIZATION the user"
        ) from None


async def _is_missing(connection: AsyncConnection, found: LiteralString) -> bool:
    rows = await connection.execute(f"SELECT {found} IS NULL")
    return await rows.fetchone() == (True,)
