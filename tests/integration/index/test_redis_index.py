"""The index in Redis: what pods share, and what happens when Redis or a pod fails."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis import Redis
from redis.crc import key_slot

from sidecar.dev_redis import DevRedis
from sidecar.index import redis_scripts
from sidecar.index.filters import And, In, Not, Or, Range, matches
from sidecar.index.redis import RedisIndex
from sidecar.index.redis_commands import RedisCommands
from sidecar.index.redis_filters import attributes, expressions
from sidecar.index.redis_layout import Layout
from sidecar.index.types import Collection, IndexSetupError, IndexUnavailableError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
    from pathlib import Path
    from typing import Any

    from sidecar.index.filters import Filter
    from sidecar.index.types import Document, Hit, Vector

    MakeDocument = Callable[..., Document]
    Eventually = Callable[[Callable[[], object]], Awaitable[None]]

QUERY = np.array([1, 0, 0, 0], np.float32)
LAYOUT = Layout("embercache")


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[RedisIndex]:
    index = RedisIndex(url, "embercache")
    try:
        await index.start()
        yield index
    finally:
        await index.close()


def plain(server: DevRedis) -> Redis:
    return Redis(unix_socket_path=str(server.socket_path), protocol=2)


# --- Pods --------------------------------------------------------------------------------------


async def test_pods_on_one_redis_see_the_same_documents(
    redis_server: DevRedis, collection: Collection, document: MakeDocument
) -> None:
    async with opened(redis_server.url) as one, opened(redis_server.url) as other:
        assert one.identity == other.identity
        await one.upsert(collection, [document("d", [1, 0, 0, 0])])
        assert [hit.document for hit in await other.search(collection, QUERY, 5, None)] == ["d"]
        assert await other.collections() == [collection]


@pytest.mark.parametrize("late", ["a version", "a deletion"])
@pytest.mark.parametrize("later", ["another version", "a deletion"])
async def test_a_change_that_comes_late_undoes_nothing_that_was_stored_since(
    redis_server: DevRedis,
    collection: Collection,
    document: MakeDocument,
    monkeypatch: pytest.MonkeyPatch,
    late: str,
    later: str,
) -> None:
    """Its caller has long been told that it failed, but the network still had it."""
    on_the_way: list[Any] = []
    real = RedisCommands.many

    async def lost(self: RedisCommands, commands: Any, seconds: float) -> Any:
        if any(script in commands[0] for script in (redis_scripts.COMMIT, redis_scripts.DELETE)):
            on_the_way.extend(commands)
            raise IndexUnavailableError("no reply came in time")
        return await real(self, commands, seconds)

    async with opened(redis_server.url) as one, opened(redis_server.url) as other:
        await one.upsert(collection, [document("d", [1, 0, 0, 0])])
        calls = {
            "a version": lambda: one.upsert(collection, [document("d", [0, 1, 0, 0])]),
            "a deletion": lambda: one.delete(collection, ["d"]),
        }
        with monkeypatch.context() as patch:
            patch.setattr(RedisCommands, "many", lost)
            with pytest.raises(IndexUnavailableError):
                await calls[late]()
        newest = document("d", [0, 0, 1, 0])
        if later == "a deletion":
            await other.delete(collection, ["d"])
        else:
            await other.upsert(collection, [newest])
        (command,) = on_the_way
        assert plain(redis_server).execute_command(*command) == b"changed"
        expected = [None] if later == "a deletion" else [newest.revision]
        assert await one.revisions(collection, ["d"]) == expected


async def test_changes_of_one_document_at_the_same_time_are_all_made(
    redis_server: DevRedis, collection: Collection, document: MakeDocument
) -> None:
    async with opened(redis_server.url) as one, opened(redis_server.url) as other:
        versions = [document("d", [1, number, 0, 0]) for number in range(8)]
        await asyncio.gather(
            *(
                index.upsert(collection, [version])
                for index, version in zip([one, other] * 4, versions, strict=True)
            )
        )
        (stored,) = await one.revisions(collection, ["d"])
        assert stored in [version.revision for version in versions]
        assert await one.delete(collection, ["d", "d"]) == [True, False]


async def test_identity_is_of_the_data_not_of_the_address(
    redis_server: DevRedis, own_redis: DevRedis
) -> None:
    async with opened(redis_server.url) as index, opened(own_redis.url) as elsewhere:
        first = index.identity
        assert elsewhere.identity != first
    async with opened(redis_server.url) as again:
        assert again.identity == first
    plain(redis_server).flushall()
    async with opened(redis_server.url) as flushed:
        assert flushed.identity != first


async def test_identity_changes_when_documents_are_put_into_a_flushed_redis(
    redis_server: DevRedis, collection: Collection, document: MakeDocument
) -> None:
    async with opened(redis_server.url) as index:
        first = index.identity
        await index.upsert(collection, [document("d", [1, 0, 0, 0])])
        assert index.identity == first
        plain(redis_server).flushall()
        await index.upsert(collection, [document("d", [1, 0, 0, 0])])
        assert index.identity != first
        assert await index.collections() == [collection]


async def test_all_keys_of_a_collection_are_in_one_slot_of_a_cluster(
    redis_server: DevRedis, collection: Collection, document: MakeDocument
) -> None:
    async with opened(redis_server.url) as index:
        await index.upsert(collection, [document("d", [1, 0, 0, 0])])
    stored = plain(redis_server).execute_command("KEYS", "*:index:*")
    assert all(key.startswith(b"embercache:index:") for key in stored)
    of_collection = {key.encode() for key in LAYOUT.keys(collection).all} & set(stored)
    assert len({key_slot(key) for key in of_collection}) == 1
    assert len(of_collection) >= 5
    assert len(stored) == len(of_collection) + 2


@pytest.fixture
def cluster() -> Iterator[str]:
    """The URL of a cluster of one node, which takes only what a cluster takes."""
    with socket.socket() as free, socket.socket() as free_bus:
        free.bind(("127.0.0.1", 0))
        free_bus.bind(("127.0.0.1", 0))
        port, bus = free.getsockname()[1], free_bus.getsockname()[1]
    arguments = ("--cluster-enabled", "yes", "--cluster-port", str(bus))
    with DevRedis(port=port, arguments=arguments) as server:
        node = plain(server)
        node.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
        give_up = time.monotonic() + 20
        while node.execute_command("CLUSTER INFO")["cluster_state"] != "ok":
            assert time.monotonic() < give_up
        yield f"redis+cluster://127.0.0.1:{port}"


async def test_a_cluster_holds_an_index(
    cluster: str, collection: Collection, document: MakeDocument
) -> None:
    other = replace(collection, name="other")
    async with opened(cluster) as index:
        old = document("d", [1, 0, 0, 0], [0, 1, 0, 0], metadata={"a": 1.0})
        await index.upsert(collection, [old, document("e", [0, 1, 0, 0])])
        await index.upsert(other, [document("f", [0, 1, 0, 0])])
        await index.upsert(collection, [document("d", [1, 1, 0, 0], metadata={"a": 2.0})])
        hits = await index.search(collection, QUERY, 5, Range("a", least=2.0))
        assert [(hit.document, hit.chunk) for hit in hits] == [("d", "c0")]
        assert await index.delete(collection, ["e", "g"]) == [True, False]
        assert [one.id for one in await index.documents(collection, "", 5)] == ["d"]
        assert {one.name for one in await index.collections()} == {collection.name, "other"}


# --- Filters -----------------------------------------------------------------------------------

FIELDS = st.sampled_from(["a", "b", "n_a", "t"])
NUMBERS = st.sampled_from([0.0, -0.0, 1.0, 2.0, 0.1, 1e300, -1.5e-7]) | st.floats(
    allow_nan=False, allow_infinity=False, allow_subnormal=False
).filter(lambda number: number == 0 or abs(number) > 1e-200)
SCALARS = NUMBERS | st.sampled_from(["", "1", "x", 'x"', "\\", "\0"]) | st.booleans()
BOUNDS = st.none() | NUMBERS
FILTERS = st.recursive(
    st.builds(In, FIELDS, st.lists(SCALARS, max_size=8).map(tuple))
    | st.builds(Range, FIELDS, BOUNDS, BOUNDS, BOUNDS, BOUNDS),
    lambda inner: (
        st.builds(Not, inner)
        | st.builds(And, st.lists(inner, max_size=3).map(tuple))
        | st.builds(Or, st.lists(inner, max_size=3).map(tuple))
    ),
    max_leaves=6,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)
@given(
    shelf=st.lists(st.dictionaries(FIELDS, SCALARS), min_size=1, max_size=6),
    where=FILTERS,
)
def test_redis_itself_lets_through_what_passes_and_little_else(
    redis_server: DevRedis, shelf: list[dict[str, Any]], where: Filter
) -> None:
    redis = plain(redis_server)
    redis.delete("shelf")
    for number, metadata in enumerate(shelf):
        text = json.dumps(attributes(metadata))
        redis.execute_command("VADD", "shelf", "VALUES", 1, 1, str(number), "SETATTR", text)
    found: set[int] = set()
    for expression in expressions(where):
        args = ("VSIM", "shelf", "VALUES", 1, 1, "COUNT", 100, "FILTER", expression, "TRUTH")
        found |= {int(number) for number in redis.execute_command(*args)}
    wanted = {number for number, metadata in enumerate(shelf) if matches(where, metadata)}
    assert found >= wanted
    if len(expressions(where)) < 4 and expressions(where) != ("1",):
        assert found == wanted


async def test_a_filter_too_complicated_for_redis_finds_what_it_should(
    redis_server: DevRedis, collection: Collection, document: MakeDocument
) -> None:
    where = Or(tuple(Range("n", above=50 * i - 1.0, below=50 * i + 1.0) for i in range(33)))
    assert expressions(where) == ("1",)
    async with opened(redis_server.url) as index:
        documents = [document(f"d{i}", [1, i, 0, 0], metadata={"n": i}) for i in range(600)]
        await index.upsert(collection, documents)
        hits = await index.search(collection, QUERY, 5, where)
        assert [hit.document for hit in hits] == ["d0", "d50", "d100", "d150", "d200"]
        assert len(await index.search(collection, QUERY, 100, where)) == 12


@pytest.mark.parametrize("share", [2, 10, 100, 1000])
async def test_large_collections_are_searched_by_links_as_well_as_by_looking_at_all(
    redis_server: DevRedis,
    new_collection: Callable[[int], Collection],
    document: MakeDocument,
    brute_force: Callable[..., list[Hit]],
    clusters: Callable[..., Vector],
    monkeypatch: pytest.MonkeyPatch,
    share: int,
) -> None:
    monkeypatch.setattr("sidecar.index.redis_search._SCANNED", 500)
    collection = new_collection(32)
    vectors = clusters(3020, 32, seed=4)
    documents = [
        document(f"d{i}", vectors[i], metadata={"share": float(i % share)}) for i in range(3000)
    ]
    where = In("share", (1.0,))
    async with opened(redis_server.url) as index:
        await index.upsert(collection, documents)
        found = wanted = 0
        for query in vectors[3000:]:
            hits = await index.search(collection, query, 10, where)
            exact = brute_force(documents, query, 10, where)
            found += len({hit.document for hit in hits} & {hit.document for hit in exact})
            wanted += len(exact)
    assert found / wanted >= 0.98


# --- Writes ------------------------------------------------------------------------------------


async def test_nothing_is_left_of_documents_that_were_replaced_or_deleted(
    redis_server: DevRedis, collection: Collection, document: MakeDocument
) -> None:
    async with opened(redis_server.url) as index:
        for number in range(5):
            await index.upsert(
                collection,
                [document("d", *[[1, number, i, 0] for i in range(40)]), document("e", QUERY)],
            )
        await index.delete(collection, ["e"])
        redis, where = plain(redis_server), LAYOUT.keys(collection)
        assert redis.execute_command("VCARD", where.vectors) == 40
        assert redis.hlen(where.raw) == 40
        assert redis.hkeys(where.documents) == [b"d"]
        assert redis.zcard(where.garbage) == 0
        await index.delete(collection, ["d"])
        assert redis.exists(where.vectors, where.raw, where.documents, where.garbage) == 0


async def test_the_next_writer_removes_what_a_crashed_one_left(
    redis_server: DevRedis,
    collection: Collection,
    document: MakeDocument,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with opened(redis_server.url) as index:
        await index.upsert(collection, [document("a", [1, 0, 0, 0])])
        monkeypatch.setattr("sidecar.index.redis_writes._ADD_SECONDS", -1)
        with pytest.MonkeyPatch.context() as crash:
            crash.setattr("sidecar.index.redis_writes.RedisWriter._commit", fail)
            with pytest.raises(RuntimeError):
                await index.upsert(collection, [document("b", QUERY, QUERY)])
        redis, where = plain(redis_server), LAYOUT.keys(collection)
        assert redis.execute_command("VCARD", where.vectors) == 3
        assert [hit.document for hit in await index.search(collection, QUERY, 5, None)] == ["a"]
        await index.delete(collection, ["nothing"])
        assert redis.execute_command("VCARD", where.vectors) == 1
        assert redis.hlen(where.raw) == 1


async def fail(*_: object) -> None:
    raise RuntimeError


async def test_a_writer_whose_chunks_were_removed_as_garbage_stores_nothing(
    redis_server: DevRedis,
    collection: Collection,
    document: MakeDocument,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with opened(redis_server.url) as slow, opened(redis_server.url) as other:
        await other.upsert(collection, [document("d", [0, 1, 0, 0])])
        monkeypatch.setattr("sidecar.index.redis_writes._ADD_SECONDS", -1)
        before_commit(monkeypatch, lambda: other.delete(collection, ["nothing"]))
        with pytest.raises(IndexUnavailableError, match="try again"):
            await slow.upsert(collection, [document("d", [1, 0, 0, 0], [1, 1, 0, 0])])
        [hit] = await other.search(collection, QUERY, 5, None)
        assert hit.score == pytest.approx(0)


async def test_metadata_are_not_put_to_content_that_came_meanwhile(
    redis_server: DevRedis,
    collection: Collection,
    document: MakeDocument,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    old = document("d", [1, 0, 0, 0], content=b"old")
    new = document("d", [0, 1, 0, 0], content=b"new")
    bare = replace(old.chunks[0], vector=None)
    async with opened(redis_server.url) as slow, opened(redis_server.url) as other:
        await other.upsert(collection, [old])
        before_commit(monkeypatch, lambda: other.upsert(collection, [new]))
        with pytest.raises(KeyError, match="d"):
            await slow.upsert(collection, [replace(old, chunks=(bare,), metadata={"a": "b"})])
        [stored] = await other.documents(collection, "", 5)
        assert (stored.metadata, stored.revision.content) == ({}, b"new")


def before_commit(monkeypatch: pytest.MonkeyPatch, do: Callable[[], Awaitable[object]]) -> None:
    """Does something once, between adding the chunks of a document and making them valid."""
    send = RedisCommands.many

    async def many(self: RedisCommands, commands: Any, seconds: float) -> list[Any]:
        if any(redis_scripts.COMMIT in command for command in commands):
            monkeypatch.setattr(RedisCommands, "many", send)
            await do()
        return await send(self, commands, seconds)

    monkeypatch.setattr(RedisCommands, "many", many)


async def test_a_document_that_changes_during_a_search_is_found_as_it_is_now(
    redis_server: DevRedis,
    collection: Collection,
    document: MakeDocument,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    send = RedisCommands.one

    async with opened(redis_server.url) as index, opened(redis_server.url) as other:
        await other.upsert(
            collection,
            [
                document("changed", [1, 0, 0, 0], [1, 1, 0, 0], metadata={"a": "x"}),
                document("filtered", [1, 0, 0, 0], metadata={"a": "x"}),
                document("deleted", [1, 0, 0, 0], metadata={"a": "x"}),
                document("same", [1, 2, 0, 0], metadata={"a": "x"}),
            ],
        )

        async def one(self: RedisCommands, command: Any, seconds: float) -> Any:
            if command[0] == "HMGET":
                monkeypatch.setattr(RedisCommands, "one", send)
                await other.upsert(
                    collection,
                    [
                        document("changed", [1, 9, 0, 0], metadata={"a": "x"}),
                        document("filtered", [1, 0, 0, 0], metadata={"a": "y"}),
                    ],
                )
                await other.delete(collection, ["deleted"])
            return await send(self, command, seconds)

        monkeypatch.setattr(RedisCommands, "one", one)
        hits = await index.search(collection, QUERY, 5, In("a", ("x",)))
    assert [(hit.document, hit.chunk) for hit in hits] == [("same", "c0"), ("changed", "c0")]
    assert hits[1].score == pytest.approx(1 / np.sqrt(82))


async def test_vectors_of_any_length_are_found(
    redis_server: DevRedis, collection: Collection, document: MakeDocument
) -> None:
    async with opened(redis_server.url) as index:
        for length in (1e-30, 1e-20, 1e20, 1e30):
            vector = (np.array([0.6, 0.8, 0, 0]) * length).astype(np.float32)
            await index.upsert(collection, [document("d", vector)])
            [hit] = await index.search(collection, vector, 1, None)
            assert hit.score == pytest.approx(1)
            [stored] = await index.documents(collection, "", 1)
            assert stored.chunks[0].vector.tobytes() == vector.tobytes()


# --- Failures ----------------------------------------------------------------------------------


async def test_documents_outlive_a_restart_of_a_redis_that_keeps_its_data(
    collection: Collection, document: MakeDocument, tmp_path: Path, eventually: Eventually
) -> None:
    with DevRedis(data_folder=tmp_path, arguments=("--appendfsync", "always")) as server:
        async with opened(server.url) as index:
            documents = [document(f"d{i}", [1, i, 0, 0], [i, 1, 1, 1]) for i in range(50)]
            await index.upsert(collection, documents)
            await index.upsert(collection, [document("d7", [1, 0, 0, 0])])
            await index.delete(collection, ["d8"])
            before = await everything(index, collection)
            identity = index.identity
            server.kill()
            with pytest.raises(IndexUnavailableError):
                await index.search(collection, QUERY, 5, None)
            server.start()
            after = await until_up(lambda: everything(index, collection))
            assert index.identity == identity
    assert after == before
    assert len(before[0]) == 49


async def everything(index: RedisIndex, collection: Collection) -> tuple[list[Any], list[Hit]]:
    documents = [
        (one.id, [chunk.vector.tobytes() for chunk in one.chunks])
        for one in await index.documents(collection, "", 100)
    ]
    return documents, await index.search(collection, QUERY, 100, None)


async def until_up(operation: Callable[[], Awaitable[Any]]) -> Any:
    async with asyncio.timeout(20):
        while True:
            try:
                return await operation()
            except IndexUnavailableError:
                await asyncio.sleep(0.01)


async def test_a_redis_that_lost_its_data_is_another_index(
    own_redis: DevRedis, collection: Collection, document: MakeDocument
) -> None:
    async with opened(own_redis.url) as index:
        await index.upsert(collection, [document("d", [1, 0, 0, 0])])
        identity = index.identity
        own_redis.kill()
        for _ in range(10):
            with pytest.raises(IndexUnavailableError):
                await index.search(collection, QUERY, 5, None)
        # So that answers of the cache can be found meanwhile.
        assert index.identity == identity
        own_redis.start()
        assert await until_up(lambda: index.search(collection, QUERY, 5, None)) == []
        assert index.identity != identity


async def test_start_can_be_repeated_until_redis_is_there(
    own_redis: DevRedis, collection: Collection
) -> None:
    own_redis.kill()
    index = RedisIndex(own_redis.url, "embercache")
    with pytest.raises(IndexUnavailableError, match="cannot be reached"):
        await index.start()
    with pytest.raises(IndexUnavailableError, match="not been reached"):
        _ = index.identity
    own_redis.start()
    await until_up(index.start)
    assert index.identity
    assert await index.search(collection, QUERY, 5, None) == []
    await index.close()


async def test_a_frozen_redis_fails_each_call_in_time(
    own_redis: DevRedis,
    collection: Collection,
    document: MakeDocument,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with opened(own_redis.url) as index:
        one = document("d", [1, 0, 0, 0])
        for module in ("redis", "redis_search", "redis_writes"):
            for name in ("READ_SECONDS", "WRITE_SECONDS"):
                monkeypatch.setattr(f"sidecar.index.{module}.{name}", 0.1, raising=False)
        own_redis.freeze()
        async with asyncio.timeout(10):
            for call in (
                lambda: index.search(collection, QUERY, 5, None),
                lambda: index.upsert(collection, [one]),
                lambda: index.delete(collection, ["d"]),
                lambda: index.revisions(collection, ["d"]),
                lambda: index.documents(collection, "", 5),
                index.collections,
            ):
                with pytest.raises(IndexUnavailableError):
                    await call()
        own_redis.thaw()
        await until_up(lambda: index.upsert(collection, [one]))
        assert len(await index.search(collection, QUERY, 5, None)) == 1


async def test_a_full_redis_stores_nothing_and_says_nothing_of_what_was_to_be_stored(
    own_redis: DevRedis, collection: Collection, document: MakeDocument
) -> None:
    async with opened(own_redis.url) as index:
        await index.upsert(collection, [document("d", [1, 0, 0, 0])])
        plain(own_redis).config_set("maxmemory", 1)
        plain(own_redis).config_set("maxmemory-policy", "noeviction")
        with pytest.raises(IndexUnavailableError) as raised:
            await index.upsert(collection, [document("secret", [0, 1, 0, 0])])
        assert "OutOfMemoryError" in str(raised.value)
        assert "secret" not in str(raised.value)
        assert [hit.document for hit in await index.search(collection, QUERY, 5, None)] == ["d"]


@pytest.mark.parametrize("missing", ["VADD", "WITHATTRIBS"])
async def test_a_redis_that_cannot_hold_an_index_is_named_at_start(
    redis_server: DevRedis, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    unknown = redis_scripts.IDENTIFY.replace(f"'{missing}'", "'NONE'")
    monkeypatch.setattr("sidecar.index.redis.IDENTIFY", unknown)
    index = RedisIndex(redis_server.url, "embercache")
    with pytest.raises(IndexSetupError, match=r"use Redis 8\.2"):
        await index.start()
    await index.close()
    assert plain(redis_server).dbsize() == 0
