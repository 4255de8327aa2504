"""What every index does: store documents, change them and give them back."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from sidecar.index.filters import In
from sidecar.index.types import Document, Revision

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sidecar.index.types import Collection, Hit, Index, Vector

    MakeDocument = Callable[..., Document]
    NewCollection = Callable[..., Collection]

ALL = 1000
QUERY = np.array([1, 0, 0, 0], np.float32)


def places(hits: Sequence[Hit]) -> list[tuple[str, str]]:
    return [(hit.document, hit.chunk) for hit in hits]


async def test_upsert_replaces_all_chunks_of_a_document(
    index: Index,
    collection: Collection,
    document: MakeDocument,
) -> None:
    await index.upsert(
        collection,
        [
            document("d", [1, 0, 0, 0], [1, 1, 0, 0], [1, 2, 0, 0], metadata={"a": "old"}),
            document("other", [0, 1, 0, 0]),
        ],
    )
    await index.upsert(collection, [document("d", [-1, 0, 0, 0], metadata={"b": "new"})])
    hits = await index.search(collection, QUERY, ALL, None)
    assert places(hits) == [("other", "c0"), ("d", "c0")]
    assert hits[1].metadata == {"b": "new"}
    assert await index.search(collection, QUERY, ALL, In("a", ("old",))) == []


async def test_upsert_without_vectors_keeps_vectors_and_texts(
    index: Index,
    collection: Collection,
    document: MakeDocument,
) -> None:
    vectors = np.array([[1, 2, 3, 4], [-1, 0.1, 0, 0]], np.float32)
    old = document("d", *vectors, metadata={"state": "draft", "old": 1.0}, tags=("t",))
    await index.upsert(collection, [old])
    await index.upsert(collection, [without_vectors(old, metadata={"state": "done"}, tags=("u",))])
    [stored] = await index.documents(collection, "", 10)
    assert [chunk.vector.tolist() for chunk in stored.chunks] == vectors.tolist()
    assert [chunk.text for chunk in stored.chunks] == [chunk.text for chunk in old.chunks]
    assert stored.metadata == {"state": "done"}
    assert stored.revision == Revision(b"content", b"changed")
    hits = await index.search(collection, QUERY, ALL, In("state", ("done",)))
    assert places(hits) == [("d", "c0"), ("d", "c1")]
    assert [hit.tags for hit in hits] == [("u",), ("u",)]
    assert await index.search(collection, QUERY, ALL, In("state", ("draft",))) == []


async def test_upsert_without_vectors_of_a_missing_document_raises_its_id(
    index: Index,
    collection: Collection,
    document: MakeDocument,
) -> None:
    gone = document("gone", [1, 0, 0, 0])
    await index.upsert(collection, [gone])
    await index.delete(collection, ["gone"])
    with pytest.raises(KeyError) as raised:
        await index.upsert(collection, [without_vectors(gone)])
    assert raised.value.args == ("gone",)
    assert await index.revisions(collection, ["gone"]) == [None]


async def test_upsert_without_vectors_does_not_touch_a_document_of_other_content(
    index: Index,
    collection: Collection,
    document: MakeDocument,
) -> None:
    seen = document("d", [1, 0, 0, 0], content=b"seen before")
    now = document("d", [0, 1, 0, 0], content=b"somebody else's")
    await index.upsert(collection, [now])
    with pytest.raises(KeyError) as raised:
        await index.upsert(collection, [without_vectors(seen, metadata={"a": "b"})])
    assert raised.value.args == ("d",)
    assert await index.revisions(collection, ["d"]) == [now.revision]
    [hit] = await index.search(collection, QUERY, 10, None)
    assert hit.metadata == {}


async def test_upsert_stores_many_documents_at_once(
    index: Index,
    new_collection: NewCollection,
    document: MakeDocument,
    clusters: Callable[..., Vector],
) -> None:
    collection = new_collection(32)
    vectors = clusters(1200, 32, seed=3)
    documents = [document(f"d{i:04}", *vectors[3 * i : 3 * i + 3]) for i in range(400)]
    await index.upsert(collection, documents)
    assert await index.revisions(collection, [one.id for one in documents]) == [
        one.revision for one in documents
    ]
    assert len(await index.search(collection, vectors[0], ALL, None)) == ALL


async def test_upsert_of_one_document_many_times_at_once_leaves_one_of_them_whole(
    index: Index,
    collection: Collection,
    document: MakeDocument,
) -> None:
    versions = [numbered(document, i) for i in range(12)]
    await asyncio.gather(*(index.upsert(collection, [version]) for version in versions))
    [stored] = await index.documents(collection, "", 10)
    hits = await index.search(collection, QUERY, ALL, None)
    number = int(stored.metadata["number"])
    assert stored.revision == versions[number].revision
    assert len(stored.chunks) == len(hits) == len(versions[number].chunks)
    assert {hit.metadata["number"] for hit in hits} == {number}


async def test_upsert_is_seen_whole_or_not_at_all_by_searches_meanwhile(
    index: Index,
    collection: Collection,
    document: MakeDocument,
) -> None:
    await index.upsert(collection, [numbered(document, 0)])
    done = asyncio.Event()

    async def write() -> None:
        for number in range(1, 40):
            await index.upsert(collection, [numbered(document, number)])
        done.set()

    async def read() -> int:
        searches = 0
        while not done.is_set():
            hits = await index.search(collection, QUERY, ALL, None)
            [number] = {int(hit.metadata["number"]) for hit in hits}
            assert len(hits) == len(numbered(document, number).chunks)
            searches += 1
        return searches

    _, *searches = await asyncio.gather(write(), read(), read())
    assert all(searches)


async def test_delete_removes_documents_and_tells_which_were_there(
    index: Index,
    collection: Collection,
    document: MakeDocument,
) -> None:
    await index.upsert(
        collection,
        [
            document("a", [1, 0, 0, 0], [1, 1, 0, 0]),
            document("b", [0, 1, 0, 0]),
            document("c", [0, 0, 1, 0]),
        ],
    )
    assert await index.delete(collection, ["c", "never", "a"]) == [True, False, True]
    assert places(await index.search(collection, QUERY, ALL, None)) == [("b", "c0")]
    assert await index.revisions(collection, ["a", "c"]) == [None, None]
    assert [one.id for one in await index.documents(collection, "", 10)] == ["b"]
    assert await index.delete(collection, ["a"]) == [False]


async def test_revisions_are_those_of_the_last_upsert(
    index: Index,
    collection: Collection,
    document: MakeDocument,
) -> None:
    odd = bytes(range(256))
    await index.upsert(
        collection,
        [
            document("a", [1, 0, 0, 0], content=b"1", whole=b"1"),
            document("b", [1, 0, 0, 0], content=odd, whole=odd[::-1]),
        ],
    )
    await index.upsert(collection, [document("a", [1, 0, 0, 0], content=b"2", whole=b"")])
    assert await index.revisions(collection, ["b", "none", "a", "b"]) == [
        Revision(odd, odd[::-1]),
        None,
        Revision(b"2", b""),
        Revision(odd, odd[::-1]),
    ]


async def test_documents_come_in_pages_in_the_order_of_their_ids(
    index: Index,
    collection: Collection,
    document: MakeDocument,
) -> None:
    ids = ["10", "9", "B", "a", "ab", "a\u0301", "b", "z", "ä", "例", "👩"]
    assert ids == sorted(ids)
    await index.upsert(collection, [document(one, [1, 0, 0, 0]) for one in reversed(ids)])
    pages = []
    after = ""
    while page := await index.documents(collection, after, 4):
        pages.append([one.id for one in page])
        after = page[-1].id
    assert pages == [ids[:4], ids[4:8], ids[8:]]
    await index.delete(collection, ["9", "a\u0301"])
    await index.upsert(collection, [document("AA", [1, 0, 0, 0])])
    assert [one.id for one in await index.documents(collection, "5", 4)] == [
        "AA",
        "B",
        "a",
        "ab",
    ]


async def test_documents_come_back_as_they_were_with_every_bit_of_their_vectors(
    index: Index,
    new_collection: NewCollection,
    document: MakeDocument,
) -> None:
    collection = new_collection(48)
    rng = np.random.default_rng(5)
    vectors = rng.standard_normal((12, 48)) * 10.0 ** rng.integers(-4, 4, (12, 1))
    metadata = {"text": "1", "number": 1.0, "flag": True, "small": 1e-300, "third": 1 / 3}
    stored = document("d", *vectors, metadata=metadata, tags=("x", "y"), whole=b"w")
    await index.upsert(collection, [stored])
    [back] = await index.documents(collection, "", 10)
    assert [(chunk.id, chunk.text) for chunk in back.chunks] == [
        (chunk.id, chunk.text) for chunk in stored.chunks
    ]
    for chunk, original in zip(back.chunks, stored.chunks, strict=True):
        assert chunk.vector.dtype == np.float32
        assert chunk.vector.tobytes() == original.vector.tobytes()
    assert back.metadata == metadata
    assert [type(value) for value in back.metadata.values()] == [
        type(metadata[name]) for name in back.metadata
    ]
    assert set(back.tags) == {"x", "y"}
    assert back.revision == stored.revision


async def test_documents_can_be_fetched_by_their_ids(
    index: Index,
    collection: Collection,
    document: MakeDocument,
) -> None:
    assert await index.fetch(collection, ["a"]) == [None]
    stored = [
        document(f"d{number:03}", [1, 0, 0, 0], [1, number, 0, 0], metadata={"n": float(number)})
        for number in range(150)
    ]
    await index.upsert(collection, [*stored, document("\0'例", [0, 0, 0, 1], tags=("t",))])
    names = [one.id for one in reversed(stored)]
    found = await index.fetch(collection, ["\0'例", *names, "none", "d000"])
    assert [one and one.id for one in found] == ["\0'例", *names, None, "d000"]
    assert found[0].tags == ("t",)
    paged = {one.id: one for one in await index.documents(collection, "", ALL)}
    for one in found:
        if one is not None:
            same = paged[one.id]
            assert (one.metadata, one.tags, one.revision) == (
                same.metadata,
                same.tags,
                same.revision,
            )
            assert [(chunk.id, chunk.text, chunk.vector.tobytes()) for chunk in one.chunks] == [
                (chunk.id, chunk.text, chunk.vector.tobytes()) for chunk in same.chunks
            ]
    await index.delete(collection, ["d000"])
    assert await index.fetch(collection, ["d000"]) == [None]
    assert await index.fetch(collection, []) == []


def numbered(document: MakeDocument, number: int) -> Document:
    """A version of one document, its chunks as many as its number says."""
    vectors = [[1, number, i, 1] for i in range(1 + number % 4)]
    return document("d", *vectors, metadata={"number": float(number)}, whole=b"%d" % number)


def without_vectors(document: Document, **changes: object) -> Document:
    chunks = tuple(replace(chunk, vector=None) for chunk in document.chunks)
    revision = replace(document.revision, whole=b"changed")
    return replace(document, chunks=chunks, revision=revision, **changes)
