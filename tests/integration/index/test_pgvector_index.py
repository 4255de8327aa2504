"""The index in PostgreSQL: what sidecars share, and what happens when the server fails."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import numpy as np
import psutil
import psycopg
import pytest

from sidecar.index.filters import In
from sidecar.index.open import IndexUrlError, open_index
from sidecar.index.pgvector import PgvectorIndex
from sidecar.index.types import Chunk, Document, IndexSetupError, IndexUnavailableError, Revision

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
    from pathlib import Path
    from typing import Any

    from sidecar.index.types import Collection

    MakeDocument = Callable[..., Document]

QUERY = np.array([1, 0, 0, 0], np.float32)


@pytest.fixture
def admin(postgres: str) -> Iterator[psycopg.Connection]:
    """A connection to the database, which has nothing of an index."""
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute("DROP SCHEMA IF EXISTS embercache CASCADE")
        yield connection


@pytest.fixture
def url(postgres: str, admin: psycopg.Connection) -> str:
    return postgres


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[PgvectorIndex]:
    index = PgvectorIndex(url)
    try:
        await index.start()
        yield index
    finally:
        await index.close()


async def until_up(operation: Callable[[], Awaitable[Any]]) -> Any:
    async with asyncio.timeout(20):
        while True:
            try:
                return await operation()
            except IndexUnavailableError:
                await asyncio.sleep(0.01)


async def test_sidecars_on_one_database_see_the_same_documents(
    url: str, collection: Collection, document: MakeDocument
) -> None:
    async with opened(url) as one, opened(url) as other:
        assert one.identity == other.identity
        await one.upsert(collection, [document("d", [1, 0, 0, 0])])
        assert [hit.document for hit in await other.search(collection, QUERY, 5, None)] == ["d"]


async def test_sidecars_that_start_together_make_one_set_of_tables(url: str) -> None:
    indexes = [PgvectorIndex(url) for _ in range(6)]
    await asyncio.gather(*(index.start() for index in indexes))
    assert len({index.identity for index in indexes}) == 1
    for index in indexes:
        await index.close()


async def test_identity_is_of_the_data_and_lost_with_them(
    url: str, admin: psycopg.Connection, collection: Collection, document: MakeDocument
) -> None:
    async with opened(url) as index:
        first = index.identity
    async with opened(url) as index:
        assert index.identity == first
        admin.execute("DROP SCHEMA embercache CASCADE")
        with pytest.raises(IndexUnavailableError):
            await index.upsert(collection, [document("d", [1, 0, 0, 0])])
        await index.upsert(collection, [document("d", [1, 0, 0, 0])])
        assert index.identity != first


async def test_the_tables_can_be_read_with_other_sql(
    url: str, admin: psycopg.Connection, collection: Collection, document: MakeDocument
) -> None:
    async with opened(url) as index:
        metadata = {"lang": "en", "year": 1999.0}
        await index.upsert(collection, [document("d", [1, 0, 0, 0], metadata=metadata)])
    rows = admin.execute(
        "SELECT c.name, d.id, metadata->>'lang', (metadata->>'year')::float, text, embedding::text"
        " FROM embercache.collections c JOIN embercache.documents d ON d.collection = c.key"
        " JOIN embercache.chunks k ON (k.collection, k.document) = (d.collection, d.id)"
    ).fetchall()
    assert rows == [(collection.name, "d", "en", 1999.0, "text 0 of d", "[1,0,0,0]")]


async def test_strings_may_hold_what_postgresql_cannot(
    url: str, collection: Collection, document: MakeDocument
) -> None:
    names = ["", "\0", "\0\0", "\0\1", "\0a", "\1", "\1\0", "\1\1", "\1\2", "\2", "a\0", "a\1", "b"]
    assert names == sorted(names)
    documents = [
        Document(
            f"d{name}",
            (Chunk(name, name, QUERY),),
            {"name": name},
            (name,),
            Revision(b"content", b"whole"),
        )
        for name in names
    ]
    async with opened(url) as index:
        await index.upsert(collection, documents[::-1])
        stored = await index.documents(collection, "", 20)
        assert [one.id for one in stored] == [f"d{name}" for name in names]
        hits = await index.search(collection, QUERY, 20, None)
        assert [hit.document for hit in hits] == [f"d{name}" for name in names]
        for name in names:
            [hit] = await index.search(collection, QUERY, 20, In("name", (name,)))
            assert (hit.chunk, hit.text, hit.metadata, hit.tags) == (
                *(name, name, {"name": name}),
                (name,),
            )


async def test_calls_for_the_same_documents_at_once_do_not_block_each_other(
    url: str, collection: Collection, document: MakeDocument
) -> None:
    names = [f"d{i}" for i in range(20)]
    async with opened(url) as index, asyncio.timeout(60):
        for order in (names, names[::-1]) * 5:
            documents = [document(name, [1, 0, 0, 0], [0, 1, 0, 0]) for name in order]
            await asyncio.gather(
                index.upsert(collection, documents),
                index.upsert(collection, documents[::-1]),
                index.delete(collection, order),
                index.delete(collection, order[::-1]),
            )
        stored = await index.documents(collection, "", 100)
        assert all(len(one.chunks) == 2 for one in stored)


async def test_a_connection_that_was_cut_costs_one_call(
    url: str, admin: psycopg.Connection, collection: Collection, document: MakeDocument
) -> None:
    async with opened(url) as index:
        await index.upsert(collection, [document("d", [1, 0, 0, 0])])
        searches = (index.search(collection, QUERY, 5, None) for _ in range(5))
        await asyncio.gather(*searches)
        admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'"
        )
        with pytest.raises(IndexUnavailableError, match="try again"):
            await index.search(collection, QUERY, 5, None)
        for _ in range(5):
            assert len(await index.search(collection, QUERY, 5, None)) == 1


async def test_a_server_that_hangs_fails_each_call_in_time(
    url: str,
    admin: psycopg.Connection,
    collection: Collection,
    document: MakeDocument,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with opened(url) as index:
        one = document("d", [1, 0, 0, 0])
        await index.upsert(collection, [one])
        monkeypatch.setattr("sidecar.index.pgvector._READ_SECONDS", 0.1)
        monkeypatch.setattr("sidecar.index.pgvector._WRITE_SECONDS", 0.1)
        with admin.transaction():
            admin.execute("LOCK TABLE embercache.documents, embercache.identity")
            async with asyncio.timeout(20):
                for call in (
                    lambda: index.search(collection, QUERY, 5, None),
                    lambda: index.upsert(collection, [one]),
                    lambda: index.delete(collection, ["d"]),
                    lambda: index.revisions(collection, ["d"]),
                    lambda: index.documents(collection, "", 5),
                    index.collections,
                    # More than there are connections.
                    lambda: asyncio.gather(
                        *(index.search(collection, QUERY, 5, None) for _ in range(20))
                    ),
                ):
                    with pytest.raises(IndexUnavailableError):
                        await call()
        monkeypatch.undo()
        assert len(await until_up(lambda: index.search(collection, QUERY, 5, None))) == 1


async def test_a_caller_that_is_cancelled_does_not_wait_for_a_server_that_hangs(
    url: str,
    admin: psycopg.Connection,
    collection: Collection,
    document: MakeDocument,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with opened(url) as index:
        await index.upsert(collection, [document("d", [1, 0, 0, 0])])
        monkeypatch.setattr("sidecar.index.pgvector._READ_SECONDS", 0.5)
        with admin.transaction():
            admin.execute("LOCK TABLE embercache.documents")
            search = asyncio.create_task(index.search(collection, QUERY, 5, In("a", ("b",))))
            process = psutil.Process(await waiting_for_lock(admin))
            # The one that would take a request to cancel it as well.
            server = process.parent()
            process.suspend()
            server.suspend()
            try:
                search.cancel()
                await asyncio.wait({search}, timeout=4)
                assert search.cancelled()
            finally:
                server.resume()
                process.resume()
        found = await until_up(lambda: index.search(collection, QUERY, 5, None))
        assert len(found) == 1


async def test_metadata_are_not_put_to_content_that_came_meanwhile(
    url: str, admin: psycopg.Connection, collection: Collection, document: MakeDocument
) -> None:
    one = document("d", [1, 0, 0, 0], content=b"old")
    changed = replace(one, chunks=(replace(one.chunks[0], vector=None),), metadata={"a": "b"})
    async with opened(url) as index:
        await index.upsert(collection, [one])
        with admin.transaction():
            admin.execute("UPDATE embercache.documents SET content = 'new'")
            upsert = asyncio.create_task(index.upsert(collection, [changed]))
            await waiting_for_lock(admin)
        with pytest.raises(KeyError, match="d"):
            await upsert
        [stored] = await index.documents(collection, "", 5)
        assert (stored.metadata, stored.revision.content) == ({}, b"new")


async def waiting_for_lock(admin: psycopg.Connection) -> int:
    """The process of the server that waits for somebody's lock, once there is one."""
    async with asyncio.timeout(20):
        while True:
            found = admin.execute(
                "SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
            ).fetchone()
            if found is not None:
                return int(found[0])
            await asyncio.sleep(0.01)


async def test_start_can_be_repeated_until_the_server_is_there(
    url: str, collection: Collection, document: MakeDocument, tmp_path: Path
) -> None:
    place = tmp_path / "socket"
    real = urlsplit(url).query.removeprefix("host=")
    index = PgvectorIndex(f"postgresql://postgres@/postgres?host={place}")
    for _ in range(10):
        with pytest.raises(IndexUnavailableError) as raised:
            await index.start()
    assert "probed until it is back" in str(raised.value)
    with pytest.raises(IndexUnavailableError, match="not been reached"):
        _ = index.identity
    place.symlink_to(real)
    await until_up(lambda: index.upsert(collection, [document("d", [1, 0, 0, 0])]))
    assert index.identity
    await index.close()


async def test_a_user_without_rights_is_told_what_is_missing(
    url: str, admin: psycopg.Connection, collection: Collection, document: MakeDocument
) -> None:
    admin.execute("CREATE EXTENSION IF NOT EXISTS vector")
    admin.execute("CREATE ROLE modest LOGIN")
    try:
        modest = url.replace("postgres:@", "modest@")
        with pytest.raises(IndexSetupError, match="CREATE SCHEMA embercache AUTHORIZATION"):
            async with opened(modest):
                pass
        admin.execute("CREATE SCHEMA embercache AUTHORIZATION modest")
        async with opened(modest) as index:
            await index.upsert(collection, [document("d", [1, 0, 0, 0])])
    finally:
        admin.execute("DROP SCHEMA embercache CASCADE")
        admin.execute("DROP ROLE modest")


async def test_a_server_without_pgvector_is_named_at_start(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sidecar.index.pgvector_schema._EXTENSION", "CREATE EXTENSION not_there")
    with pytest.raises(IndexSetupError, match="has no pgvector"):
        async with opened(url):
            pass


@pytest.mark.parametrize("url", ["postgresql://user:secret@host/db?secret=1", "postgres://[::1"])
def test_a_bad_url_is_refused_without_showing_its_password(url: str) -> None:
    with pytest.raises(IndexUrlError) as raised:
        open_index(url)
    assert "secret" not in str(raised.value)
