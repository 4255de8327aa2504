"""What every index does: search, and collections."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from sidecar.index.filters import In, Not, Range

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sidecar.index.types import Collection, Document, Hit, Index, Vector

    MakeDocument = Callable[..., Document]
    NewCollection = Callable[..., Collection]

ALL = 1000
QUERY = np.array([1, 0, 0, 0], np.float32)


def places(hits: Sequence[Hit]) -> list[tuple[str, str]]:
    return [(hit.document, hit.chunk) for hit in hits]


@pytest.mark.parametrize(
    "where",
    [
        pytest.param(None, id="all"),
        pytest.param(In("half", (True,)), id="half"),
        pytest.param(Not(In("tenth", (0.0, 1.0))), id="most"),
        pytest.param(Range("hundredth", least=7, below=9), id="few"),
    ],
)
async def test_search_finds_what_brute_force_finds(
    index: Index,
    new_collection: NewCollection,
    document: MakeDocument,
    brute_force: Callable[..., list[Hit]],
    clusters: Callable[..., Vector],
    where: In | Not | Range | None,
) -> None:
    collection = new_collection(64)
    vectors = clusters(2030, 64, seed=1)
    documents = [
        document(
            f"d{i}",
            vectors[i],
            metadata={"half": i % 2 == 0, "tenth": i % 10, "hundredth": i % 100},
        )
        for i in range(2000)
    ]
    await index.upsert(collection, documents)
    found = 0
    for query in vectors[2000:]:
        hits = await index.search(collection, query, 10, where)
        exact = brute_force(documents, query, len(documents), where)
        found += len(set(places(hits)) & set(places(exact[:10])))
        scores = {hit.document: hit.score for hit in exact}
        assert [hit.score for hit in hits] == pytest.approx(
            [scores[hit.document] for hit in hits], abs=1e-5
        )
    assert found >= 0.98 * 10 * len(vectors[2000:])


async def test_search_orders_hits_by_score_then_document_then_chunk(
    index: Index,
    collection: Collection,
    document: MakeDocument,
) -> None:
    same = [0.3, 0.1, -0.7, 0.2]
    await index.upsert(
        collection,
        [
            document("b", same, same),
            document("Z", same),
            document("a", [0, 1, 0, 0], same),
            document("best", [1, 0, 0, 0]),
            document("ä", same),
            document("worst", [-1, 0, 0, 0]),
        ],
    )
    hits = await index.search(collection, QUERY, ALL, None)
    assert places(hits) == [
        ("best", "c0"),
        ("Z", "c0"),
        ("a", "c1"),
        ("b", "c0"),
        ("b", "c1"),
        ("ä", "c0"),
        ("a", "c0"),
        ("worst", "c0"),
    ]
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)


async def test_search_cuts_ties_by_document_too(
    index: Index,
    collection: Collection,
    document: MakeDocument,
) -> None:
    names = [f"d{i:03}" for i in range(50)]
    await index.upsert(collection, [document(name, [3, 1, 4, 1]) for name in reversed(names)])
    hits = await index.search(collection, QUERY, 7, None)
    assert [hit.document for hit in hits] == names[:7]


@pytest.mark.parametrize("length", [1e-6, 0.5, 1.0, 40.0, 1e6])
async def test_search_scores_are_cosines_whatever_the_lengths_of_vectors(
    index: Index,
    collection: Collection,
    document: MakeDocument,
    length: float,
) -> None:
    near = np.array([0.6, 0.8, 0, 0], np.float32)
    far = np.array([-0.6, 0, 0.8, 0], np.float32)
    await index.upsert(
        collection, [document("near", near * length), document("far", far * (2 * length))]
    )
    for query in (QUERY, QUERY * 1000, QUERY / 1000):
        hits = await index.search(collection, query, ALL, None)
        assert [hit.score for hit in hits] == pytest.approx([0.6, -0.6], abs=1e-6)


async def test_search_gives_all_there_is_when_asked_for_more(
    index: Index,
    collection: Collection,
    document: MakeDocument,
) -> None:
    await index.upsert(collection, [document("d", [1, 1, 0, 0], [0, 1, 0, 0], [-1, 0, 0, 0])])
    hits = await index.search(collection, QUERY, ALL, None)
    assert places(hits) == [("d", "c0"), ("d", "c1"), ("d", "c2")]


async def test_search_hits_carry_text_metadata_and_tags(
    index: Index,
    collection: Collection,
    document: MakeDocument,
) -> None:
    metadata = {"lang": "en", "year": 1999.0, "draft": False, "share": -0.25}
    stored = document("d", [1, 0, 0, 0], metadata=metadata, tags=("b", "a"))
    await index.upsert(collection, [stored])
    [hit] = await index.search(collection, QUERY, 1, None)
    assert hit.text == "text 0 of d"
    assert hit.metadata == metadata
    assert hit.metadata["draft"] is False
    assert set(hit.tags) == {"a", "b"}


async def test_search_finds_the_one_document_of_5000_that_matches(
    index: Index,
    new_collection: NewCollection,
    document: MakeDocument,
    clusters: Callable[..., Vector],
) -> None:
    collection = new_collection(16)
    vectors = clusters(5000, 16, seed=2)
    # The one that is furthest from the query.
    wanted = int(np.argmin(vectors @ vectors[0] / np.linalg.norm(vectors, axis=1)))
    await index.upsert(
        collection,
        [document(f"d{i}", vectors[i], metadata={"number": i}) for i in range(5000)],
    )
    hits = await index.search(collection, vectors[0], 10, In("number", (wanted,)))
    assert [hit.document for hit in hits] == [f"d{wanted}"]


async def test_an_empty_collection_has_nothing(index: Index, collection: Collection) -> None:
    assert await index.search(collection, QUERY, 10, None) == []
    assert await index.search(collection, QUERY, 10, Not(In("a", ("b",)))) == []
    assert await index.revisions(collection, ["a", "b"]) == [None, None]
    assert await index.documents(collection, "", 10) == []
    assert await index.delete(collection, ["a", "b"]) == [False, False]
    assert await index.collections() == []


async def test_an_empty_collection_is_one_whose_documents_were_all_deleted(
    index: Index,
    collection: Collection,
    document: MakeDocument,
) -> None:
    await index.upsert(collection, [document("a", [1, 0, 0, 0]), document("b", [0, 1, 0, 0])])
    assert await index.collections() == [collection]
    assert await index.count(collection) == 2
    await index.delete(collection, ["a", "b"])
    assert await index.count(collection) == 0
    assert await index.search(collection, QUERY, 10, None) == []
    assert await index.collections() == []
    await index.upsert(collection, [document("a", [0, 1, 0, 0])])
    assert places(await index.search(collection, QUERY, 10, None)) == [("a", "c0")]


async def test_an_empty_collection_stays_empty_when_nothing_is_put_into_it(
    index: Index, collection: Collection
) -> None:
    await index.upsert(collection, [])
    assert await index.revisions(collection, []) == []
    assert await index.delete(collection, []) == []
    assert await index.collections() == []


@pytest.mark.parametrize(
    "changes",
    [
        {"namespace": "other"},
        {"name": "other"},
        {"model": "other"},
        {"version": "other"},
        {"dimensions": 5},
        {"namespace": "default-a", "name": "b"},
    ],
    ids=str,
)
async def test_collections_are_separate(
    index: Index,
    new_collection: NewCollection,
    document: MakeDocument,
    changes: dict[str, str | int],
) -> None:
    one = replace(new_collection(), name="a-b" if "name" in changes else "articles")
    other = replace(one, **changes)
    await index.upsert(one, [document("d", np.eye(one.dimensions)[0], tags=("one",))])
    assert await index.search(other, np.eye(other.dimensions)[0], 10, None) == []
    assert await index.revisions(other, ["d"]) == [None]
    await index.upsert(other, [document("d", np.eye(other.dimensions)[1], tags=("other",))])
    assert await index.delete(other, ["e"]) == [False]
    for collection, tag in ((one, "one"), (other, "other")):
        query = np.ones(collection.dimensions, np.float32)
        assert [hit.tags for hit in await index.search(collection, query, 10, None)] == [(tag,)]
    assert sorted(await index.collections(), key=repr) == sorted([one, other], key=repr)
    assert await index.delete(other, ["d"]) == [True]
    assert len(await index.documents(one, "", 10)) == 1
