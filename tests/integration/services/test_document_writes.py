"""Whatever becomes of a change of documents, no list is served that it made wrong; nor is more
thrown away than that.
"""

from __future__ import annotations

import asyncio
import gc
import threading
from typing import TYPE_CHECKING, Any

import grpc
import numpy as np
import pytest
from embercache.v1 import search_pb2
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.cache.change_log import MAX_CHANGE_BYTES
from sidecar.cache.generations import (
    Generations,
    InvalidationNotSharedError,
    StoreUnavailableError,
)
from sidecar.cache.keys import UNSALTED
from sidecar.cache.local_generations import LocalGenerations
from sidecar.index.memory import MemoryIndex
from sidecar.index.types import (
    Chunk,
    Collection,
    Document,
    IndexFullError,
    IndexUnavailableError,
    Revision,
)
from sidecar.models.types import VersionChangedError
from sidecar.services.changes import Change, collection_tag, pack_changes, unpack_changes
from sidecar.services.document_store import CachedDocuments
from sidecar.services.document_writes import DocumentWriter, split_changes
from sidecar.services.vectors import Vectors

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    Sidecar = Any
    Start = Callable[..., Awaitable[Any]]
    Eventually = Callable[[Callable[[], object]], Awaitable[None]]

HANG_GUARD = 20.0
TAG = collection_tag(UNSALTED, "c")
NEAR_A = {"a1": "aaaa", "a2": "aaab", "a3": "aaac"}
NEAR_B = {"b1": "zzzz", "b2": "zzzy", "b3": "zzzx"}


class HeldIndex:
    """Every embedded index: its changes wait in their thread until the test lets them go."""

    def __init__(self) -> None:
        self.holds = False
        self.waiting = threading.Event()
        self._let_go = threading.Event()

    def wait(self) -> None:
        if self.holds:
            self.waiting.set()
            assert self._let_go.wait(HANG_GUARD)

    def let_go(self) -> None:
        self.holds = False
        self._let_go.set()


@pytest.fixture
def held_index(monkeypatch: pytest.MonkeyPatch) -> Iterator[HeldIndex]:
    held = HeldIndex()
    for name in ("_upsert", "_delete"):
        real = getattr(MemoryIndex, name)

        def work(self: MemoryIndex, *arguments: Any, real: Any = real) -> Any:
            held.wait()
            return real(self, *arguments)

        monkeypatch.setattr(MemoryIndex, name, work)
    yield held
    held.let_go()


@pytest.fixture
async def sidecar(start: Start) -> Sidecar:
    """A sidecar that has searched for the two nearest of two groups of documents."""
    started = await start()
    await started.upsert(NEAR_A | NEAR_B)
    assert sorted((await started.found("aaaa", top_k=2))[1]) == ["a1", "a2"]
    assert sorted((await started.found("zzzz", top_k=2))[1]) == ["b1", "b2"]
    return started


async def tiers(sidecar: Sidecar, **fields: Any) -> tuple[str, str]:
    """What answers the two searches now."""
    one = await sidecar.found("aaaa", top_k=2, **fields)
    two = await sidecar.found("zzzz", top_k=2, **fields)
    return one[0], two[0]


async def cut_short(sidecar: Sidecar, call: asyncio.Task[Any]) -> None:
    """Cancels a call; the sidecar has heard of it afterwards."""
    call.cancel()
    await asyncio.wait([call])
    for _ in range(10):
        await sidecar.stats()


async def until_found(sidecar: Sidecar, text: str, names: list[str]) -> None:
    """Waits until a search finds these documents."""
    async with asyncio.timeout(HANG_GUARD):
        while sorted((await sidecar.found(text, top_k=2))[1]) != names:
            await asyncio.sleep(0.005)


def document(name: str, *texts: str, **fields: Any) -> search_pb2.Document:
    chunks = [search_pb2.Chunk(chunk_id=str(i), content=text) for i, text in enumerate(texts)]
    return search_pb2.Document(id=name, chunks=chunks, **fields)


async def upsert(sidecar: Sidecar, *documents: search_pb2.Document) -> None:
    response = await sidecar.searches.Upsert(search_pb2.UpsertRequest(documents=documents))
    assert not any(outcome.error.code for outcome in response.documents)


# Calls that are cut short


async def test_a_delete_that_is_cut_short_leaves_no_list_with_the_document(
    held_index: HeldIndex, sidecar: Sidecar, eventually: Eventually
) -> None:
    held_index.holds = True
    call = asyncio.create_task(sidecar.delete("a1"))
    await eventually(held_index.waiting.is_set)
    await cut_short(sidecar, call)
    held_index.let_go()
    await until_found(sidecar, "aaaa", ["a2", "a3"])


async def test_an_upsert_that_is_cut_short_leaves_no_list_without_the_document(
    held_index: HeldIndex, sidecar: Sidecar, eventually: Eventually
) -> None:
    """Not even one that was made after the caller went and before the document was there."""
    held_index.holds = True
    call = asyncio.create_task(sidecar.upsert({"b3": "aaaa"}))
    await eventually(held_index.waiting.is_set)
    await cut_short(sidecar, call)
    await sidecar.found("aaaa", top_k=2)
    held_index.let_go()
    await until_found(sidecar, "aaaa", ["a1", "b3"])


@pytest.mark.parametrize("how", ["upsert", "delete"])
async def test_a_call_that_is_cut_short_while_it_announces_still_does(
    how: str, sidecar: Sidecar, monkeypatch: pytest.MonkeyPatch, eventually: Eventually
) -> None:
    real, begun, let_go = Generations.announce, asyncio.Event(), asyncio.Event()

    async def announce(*arguments: Any) -> None:
        begun.set()
        await let_go.wait()
        await real(*arguments)

    monkeypatch.setattr(Generations, "announce", announce)
    work = sidecar.upsert({"a2": "zzzz"}) if how == "upsert" else sidecar.delete("a2")
    call = asyncio.create_task(work)
    await eventually(begun.is_set)
    await cut_short(sidecar, call)
    let_go.set()
    await until_found(sidecar, "aaaa", ["a1", "a3"])


async def test_a_failure_that_no_caller_waits_for_any_more_is_no_error_of_the_sidecar(
    monkeypatch: pytest.MonkeyPatch, eventually: Eventually
) -> None:
    index, held, let_go = MemoryIndex(), asyncio.Event(), asyncio.Event()
    writer = DocumentWriter(index, Generations(LocalGenerations(None)), UNSALTED)
    complaints: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))

    async def fails(*_: Any) -> None:
        held.set()
        await let_go.wait()
        raise IndexUnavailableError("down")

    monkeypatch.setattr(index, "upsert", fails)
    call = asyncio.create_task(writer.upsert(Collection("n", "c", "m", "1", 4), [whole("a", 1)]))
    await eventually(held.is_set)
    call.cancel()
    await asyncio.wait([call])
    let_go.set()
    await writer.close()
    del call
    gc.collect()
    assert complaints == []
    await index.close()


async def test_who_closes_waits_for_what_callers_went_away_from(
    held_index: HeldIndex, eventually: Eventually
) -> None:
    place = Collection("n", "c", "m", "1", 4)
    index, generations = MemoryIndex(), Generations(LocalGenerations(None))
    state = await generations.state("n")
    writer = DocumentWriter(index, generations, UNSALTED)
    held_index.holds = True
    call = asyncio.create_task(writer.upsert(place, [whole("a", 1)]))
    await eventually(held_index.waiting.is_set)
    call.cancel()
    await asyncio.wait([call])
    closing = asyncio.create_task(writer.close())
    await asyncio.sleep(0)
    stamp = state.stamp
    assert not closing.done()
    held_index.let_go()
    await closing
    assert state.stamp != stamp
    assert await index.revisions(place, ["a"]) != [None]
    await index.close()


async def test_a_sidecar_that_stops_stores_what_a_caller_went_away_from(
    start: Start, held_index: HeldIndex, eventually: Eventually, tmp_path: Any
) -> None:
    index = {"url": f"memory://{tmp_path}/index"}
    first = await start(index=index)
    held_index.holds = True
    call = asyncio.create_task(first.upsert({"a": "aaaa"}))
    await eventually(held_index.waiting.is_set)
    await cut_short(first, call)
    stop = asyncio.create_task(first.stop())
    held_index.let_go()
    await stop
    assert (await (await start(index=index)).found("aaaa"))[1] == ["a"]


# An index that fails


@pytest.mark.parametrize("how", ["upsert", "delete"])
async def test_an_index_that_fails_after_all_leaves_no_wrong_list(
    how: str, sidecar: Sidecar, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = getattr(MemoryIndex, how)

    async def fails(*arguments: Any) -> None:
        await real(*arguments)
        raise IndexUnavailableError("no reply")

    monkeypatch.setattr(MemoryIndex, how, fails)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await (sidecar.upsert({"a2": "zzzz"}) if how == "upsert" else sidecar.delete("a2"))
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert sorted((await sidecar.found("aaaa", top_k=2))[1]) == ["a1", "a3"]


@pytest.mark.parametrize("more", [{}, {"new": "mmmm"}], ids=["alone", "with another"])
async def test_a_call_that_is_repeated_makes_up_for_an_index_that_was_late(
    more: dict[str, str], sidecar: Sidecar, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The repetition finds the document there already."""
    real, late = MemoryIndex.upsert, []

    async def fails(*arguments: Any) -> None:
        late.append(arguments)
        raise IndexUnavailableError("no reply")

    with monkeypatch.context() as patches:
        patches.setattr(MemoryIndex, "upsert", fails)
        with pytest.raises(grpc.aio.AioRpcError):
            await sidecar.upsert({"a2": "zzzz"})
    assert sorted((await sidecar.found("aaaa", top_k=2))[1]) == ["a1", "a2"]
    await real(*late[0])
    await sidecar.upsert({"a2": "zzzz", **more})
    assert sorted((await sidecar.found("aaaa", top_k=2))[1]) == ["a1", "a3"]
    await sidecar.found("zzzz", top_k=2)
    await sidecar.upsert({"a1": "aaaa"})
    assert await tiers(sidecar) == ("HOT", "HOT"), "the doubt is over"


class Store(LocalGenerations):
    """What all sidecars are told; nothing while it is down."""

    def __init__(self) -> None:
        super().__init__(None)
        self.is_down = False
        self.told: list[bytes] = []

    async def bump_tags(self, namespace: str, tags: Any, change: bytes) -> Any:
        if self.is_down:
            raise StoreUnavailableError("down")
        self.told.append(change)
        return await super().bump_tags(namespace, tags, change)


@pytest.mark.parametrize("how", ["upsert", "delete", "repeat"])
@pytest.mark.parametrize("waiting", [0, 5000])
async def test_what_could_not_be_announced_is_made_up_for_by_whatever_comes_next(
    how: str, waiting: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The change that comes next says nothing of the one before.

    With no room for one that waits to be shared, it is not even in force here.
    """
    monkeypatch.setattr("sidecar.cache.generations.MAX_UNSHARED_NAMESPACES", waiting)
    index, store = MemoryIndex(), Store()
    writer = DocumentWriter(index, Generations(store), UNSALTED)
    place = Collection("n", "c", "m", "1", 4)
    store.is_down = True
    with pytest.raises(InvalidationNotSharedError):
        await writer.upsert(place, [whole("a", 1)])
    store.is_down = False
    match how:
        case "upsert":
            await writer.upsert(place, [whole("b", 1)])
        case "delete":
            await writer.delete(place, ["b"])
        case _:
            await writer.upsert(place, [], repeated=["a"])
    assert store.told == [b""]
    await writer.delete(place, ["b"])
    await writer.upsert(place, [], repeated=["b"])
    assert len(store.told) == 2
    assert store.told[1], "the next one is told of as what it is"
    await index.close()


@pytest.mark.parametrize("untold", [[], ["a"]], ids=["all told", "one not told"])
async def test_documents_that_the_index_has_no_room_for_are_nothing_to_tell_of(
    untold: list[str],
) -> None:
    index, store = MemoryIndex(capacity_bytes=10_000), Store()
    writer = DocumentWriter(index, Generations(store), UNSALTED)
    place = Collection("n", "c", "m", "1", 4)
    await writer.upsert(place, [whole("a", 1)])
    for name in untold:
        await store.expect("n", TAG, [writer._name(place, name)], b"token")
    store.told.clear()
    with pytest.raises(IndexFullError):
        await writer.upsert(place, [whole("large", 1000)], repeated=["a"])
    assert store.told == [b""] * len(untold)
    names = [writer._name(place, name) for name in ("a", "large")]
    assert await store.expected("n", TAG, names) == [None, None], "nothing is expected any more"
    await writer.upsert(place, [whole("b", 1)], repeated=["a"])
    assert store.told[-1], "the next one is told of as what it is"
    await index.close()


# A sidecar that dies


class DiedError(BaseException):
    """Nothing that comes after it is done."""


@pytest.mark.parametrize("more", [[], ["b"]], ids=["alone", "with another"])
async def test_a_call_that_is_repeated_elsewhere_makes_up_for_a_sidecar_that_died(
    more: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stored the document and told nobody; the repetition finds it there already."""
    index, store = MemoryIndex(), Store()
    dead, other = (DocumentWriter(index, Generations(store), UNSALTED) for _ in range(2))
    place = Collection("n", "c", "m", "1", 4)

    async def dies(*_: Any) -> None:
        raise DiedError

    monkeypatch.setattr(dead, "_announce", dies)
    with pytest.raises(DiedError):
        await dead.upsert(place, [whole("a", 1)])
    assert store.told == []
    await other.upsert(place, [whole(name, 1) for name in more], repeated=["a"])
    assert store.told == [b""]
    await other.upsert(place, [whole("b", 1)], repeated=["a"])
    assert len(store.told) == 2
    assert store.told[1], "it was made up for once"
    await index.close()


async def test_nothing_is_stored_that_nobody_could_be_told_to_expect(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    index, store = MemoryIndex(), Store()
    writer = DocumentWriter(index, Generations(store), UNSALTED)
    place = Collection("n", "c", "m", "1", 4)

    async def down(*_: Any) -> None:
        raise StoreUnavailableError("down")

    with monkeypatch.context() as patches:
        patches.setattr(store, "expect", down)
        with pytest.raises(InvalidationNotSharedError):
            await writer.upsert(place, [whole("a", 1)])
    assert await index.revisions(place, ["a"]) == [None]
    await index.close()


# Much at once


@pytest.mark.parametrize(
    "many",
    [
        [document("long", *["zzzz"] * 700)],
        [document(f"short {number}", "zzzz") for number in range(700)],
    ],
    ids=["chunks", "documents"],
)
async def test_much_at_once_invalidates_no_list_that_it_does_not_come_into(
    many: list[search_pb2.Document], sidecar: Sidecar
) -> None:
    await upsert(sidecar, *many)
    assert await tiers(sidecar) == ("HOT", "COMPUTED")


async def test_more_than_can_be_announced_invalidates_the_whole_collection(
    sidecar: Sidecar, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = {key: search_pb2.MetadataValue(text="x" * 4000) for key in ("x", "y", "z")}
    await upsert(sidecar, document("far", "zzzz", metadata=large))
    assert await tiers(sidecar) == ("COMPUTED", "COMPUTED")
    assert await tiers(sidecar) == ("HOT", "HOT")
    monkeypatch.setattr(DocumentWriter.upsert, "__defaults__", (2, ()))
    await upsert(sidecar, document("long", *["zzzz"] * 1200))
    assert await tiers(sidecar) == ("COMPUTED", "COMPUTED")


async def test_documents_that_are_moved_about_are_told_of_one_by_one() -> None:
    """So a list of another model lives on, however many vectors come to its collection."""
    index, generations = MemoryIndex(), Generations(LocalGenerations(None))
    unused: Any = None
    writer = DocumentWriter(index, generations, UNSALTED)
    store = CachedDocuments(unused, unused, generations, writer)
    tag = collection_tag(UNSALTED, "c")
    state = await generations.state("n")
    await generations.resolve(state, [tag])
    before = state.generation(tag)
    documents = [whole(f"d{number}", 20, 1024) for number in range(64)]
    await store.store(Collection("n", "c", "m", "1", 1024), documents)
    changes = state.changes_since(tag, before)
    assert sum(len(each.vectors) for data in changes for each in unpack_changes(data)) == 64 * 20
    await index.close()


def whole(name: str, chunks: int, dimensions: int = 4) -> Document:
    vector = np.ones(dimensions, np.float32)
    parts = tuple(Chunk(str(number), "text", vector) for number in range(chunks))
    return Document(name, parts, {}, (), Revision(b"content", b"whole"))


@st.composite
def some_changes(draw: st.DrawFn) -> list[Change]:
    dimensions = draw(st.sampled_from([1, 8, 384, 1536]))
    random = np.random.default_rng(0)
    return [
        Change(
            b"modelxxx",
            b"%08d" % number,
            {"key": "x" * draw(st.integers(0, 4000))} if draw(st.booleans()) else {},
            tuple(random.normal(size=(draw(st.integers(0, 40)), dimensions)).astype(np.float32)),
        )
        for number in range(draw(st.integers(0, 6)))
    ]


@settings(max_examples=50, deadline=None)
@given(some_changes())
def test_changes_in_groups_are_the_same_changes_and_fit(changes: list[Change]) -> None:
    groups = split_changes(changes, None)
    packed = [pack_changes(group) for group in groups]
    assert all(0 < len(data) <= MAX_CHANGE_BYTES for data in packed)
    metadata, vectors = {}, {}
    for data in packed:
        for change in unpack_changes(data):
            assert metadata.setdefault(change.document, change.metadata) == change.metadata
            vectors.setdefault(change.document, []).extend(map(tuple, change.vectors))
    alone = [unpack_changes(pack_changes([change]))[0] for change in changes]
    assert metadata == {change.document: change.metadata for change in changes}
    assert vectors == {each.document: list(map(tuple, each.vectors)) for each in alone}
    assert split_changes(changes, len(groups)) == groups or not groups
    assert not groups or split_changes(changes, len(groups) - 1) is None


# Other metadata


async def test_other_metadata_invalidate_no_other_list_even_if_no_vector_is_cached(
    sidecar: Sidecar,
) -> None:
    await sidecar.flush()
    assert await tiers(sidecar) == ("COMPUTED", "COMPUTED")
    await sidecar.upsert({"b1": "zzzz"}, metadata={"lang": "de"})
    assert await tiers(sidecar) == ("HOT", "COMPUTED")
    assert sum(usage.failed for usage in (await sidecar.stats()).usage) == 0


async def test_other_metadata_invalidate_the_list_whose_filter_they_now_pass(
    sidecar: Sidecar,
) -> None:
    equal = search_pb2.Filter.Equal(key="lang", value=search_pb2.MetadataValue(text="de"))
    where = search_pb2.Filter(equal=equal)
    await sidecar.flush()
    assert (await sidecar.found("aaaa", filter=where))[1] == []
    await sidecar.upsert({"a1": "aaaa"}, metadata={"lang": "de"})
    assert (await sidecar.found("aaaa", filter=where))[1] == ["a1"]


async def test_a_document_that_goes_while_its_metadata_change_is_stored_whole(
    sidecar: Sidecar, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = MemoryIndex.upsert

    async def goes_first(self: MemoryIndex, *arguments: Any) -> None:
        monkeypatch.undo()
        await self.delete(arguments[0], ["a1"])
        await real(self, *arguments)

    monkeypatch.setattr(MemoryIndex, "upsert", goes_first)
    changes = await sidecar.upsert({"a1": "aaaa", "new": "aaaa"}, metadata={"lang": "de"})
    assert not any(outcome.error.code for outcome in changes)
    assert sorted((await sidecar.found("aaaa", top_k=2))[1]) == ["a1", "new"]


# The rest


async def test_a_model_that_changes_its_version_meanwhile_is_asked_once_more(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    sidecar = await start()
    real = Vectors.fetch

    async def changed(*arguments: Any) -> list[Exception]:
        monkeypatch.undo()
        return [VersionChangedError("the model is in another version")]

    monkeypatch.setattr(Vectors, "fetch", changed)
    (outcome,) = await sidecar.upsert({"a": "aaaa"})
    assert (outcome.change, outcome.error.code) == (search_pb2.Upserted.CHANGE_CREATED, 0)
    assert Vectors.fetch is real


async def test_chunks_count_as_much_as_documents_against_the_limit_of_a_call(start: Start) -> None:
    sidecar = await start(server={"max_batch_items": 4})
    await upsert(sidecar, document("a", "1", "2"), document("b", "3", "4"))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await upsert(sidecar, document("c", "1", "2"), document("d", "3", "4", "5"))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "5 chunks: 4 are allowed (server.max_batch_items)" in caught.value.details()
    assert sorted((await sidecar.found("5"))[1]) == ["a", "a", "b", "b"]
