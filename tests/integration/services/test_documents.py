"""Documents come, change and go; each on its own, and embedded no more often than needed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc
import pytest
from embercache.v1 import common_pb2, search_pb2

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    Start = Callable[..., Awaitable[Any]]

CREATED = search_pb2.Upserted.CHANGE_CREATED
UPDATED = search_pb2.Upserted.CHANGE_UPDATED
UNCHANGED = search_pb2.Upserted.CHANGE_UNCHANGED
# The model has no finite vector for this.
BAD = "\N{SKULL AND CROSSBONES}"


def document(name: str, *texts: str, **fields: Any) -> search_pb2.Document:
    chunks = [search_pb2.Chunk(chunk_id=str(i), content=text) for i, text in enumerate(texts)]
    return search_pb2.Document(id=name, chunks=chunks, **fields)


async def upsert(sidecar: Any, *documents: search_pb2.Document) -> list[search_pb2.Upserted]:
    request = search_pb2.UpsertRequest(documents=documents)
    return list((await sidecar.searches.Upsert(request)).documents)


async def test_a_document_is_created_updated_or_as_it_was(start: Start) -> None:
    sidecar = await start()
    assert [u.change for u in await sidecar.upsert({"a": "one", "b": "two"})] == [CREATED] * 2
    changes = [u.change for u in await sidecar.upsert({"a": "one", "b": "2", "c": "three"})]
    assert changes == [UNCHANGED, UPDATED, CREATED]
    assert await sidecar.delete("a", "x") == [True, False]
    assert [u.change for u in await sidecar.upsert({"a": "one"})] == [CREATED]


async def test_only_chunks_that_are_new_are_embedded(start: Start) -> None:
    sidecar = await start()
    (first,) = await upsert(sidecar, document("a", "one", "two", "three"))
    assert (first.computed, first.cached) == (3, 0)
    (second,) = await upsert(sidecar, document("a", "one", "2", "three"))
    assert (second.computed, second.cached) == (1, 2)
    (other,) = await upsert(sidecar, document("b", "two", "one"))
    assert (other.computed, other.cached) == (0, 2)


async def test_other_metadata_or_tags_embed_nothing_even_with_an_empty_cache(
    start: Start,
) -> None:
    sidecar = await start()
    await upsert(sidecar, document("a", "one", "two"))
    await sidecar.flush()
    computed = await sidecar.computed()
    year = {"year": search_pb2.MetadataValue(number=2024)}
    (labelled,) = await upsert(sidecar, document("a", "one", "two", metadata=year))
    (tagged,) = await upsert(sidecar, document("a", "one", "two", metadata=year, tags=["t"]))
    assert (labelled.change, tagged.change) == (UPDATED, UPDATED)
    assert await sidecar.computed() == computed
    response = await sidecar.search("one", top_k=1)
    assert response.results[0].metadata["year"].number == 2024


async def test_every_chunk_is_found_on_its_own(start: Start) -> None:
    sidecar = await start()
    await upsert(sidecar, document("a", "aaaa", "zzzz"))
    for text, chunk in (("aaaa", "0"), ("zzzz", "1")):
        (result,) = (await sidecar.search(text, top_k=1)).results
        assert (result.id, result.chunk_id, result.content) == ("a", chunk, text)
        assert result.score == pytest.approx(1, abs=1e-5)


async def test_a_bad_document_neither_fails_nor_changes_its_batch_mates(start: Start) -> None:
    sidecar = await start()
    outcomes = await upsert(
        sidecar,
        document("good", "one"),
        document("nan", "fine", BAD),
        document("", "no id"),
        document("empty"),
        document("bad key", "x", metadata={"a b": search_pb2.MetadataValue(text="x")}),
        document("also good", "two"),
    )
    codes = [outcome.error.code for outcome in outcomes]
    internal, argument = 13, 3
    assert codes == [0, internal, argument, argument, argument, 0]
    assert all(outcome.error.message for outcome in outcomes[1:5])
    assert sorted((await sidecar.found("one"))[1]) == ["also good", "good"]


@pytest.mark.parametrize(
    "request_",
    [
        search_pb2.UpsertRequest(),
        search_pb2.UpsertRequest(documents=[document("a", "x"), document("a", "y")]),
        search_pb2.UpsertRequest(documents=[document("a", "x")], collection="a/b"),
    ],
    ids=["nothing", "twice", "collection"],
)
async def test_a_bad_call_stores_nothing(start: Start, request_: search_pb2.UpsertRequest) -> None:
    sidecar = await start()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await sidecar.searches.Upsert(request_)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert (await sidecar.found("x"))[1] == []


async def test_documents_share_vectors_with_embed(start: Start) -> None:
    sidecar = await start()
    await sidecar.embed("one", input_type=2)
    (outcome,) = await sidecar.upsert({"a": "one"})
    assert outcome.cached == 1


async def test_passages_are_scored_once_for_each_query(start: Start) -> None:
    sidecar = await start()

    async def rerank(*passages: str, **fields: Any) -> search_pb2.RerankResponse:
        request = search_pb2.RerankRequest(query="aaa", passages=passages, **fields)
        return await sidecar.searches.Rerank(request)

    first = await rerank("aab", "zzz")
    assert [s.tier for s in first.scores] == [common_pb2.TIER_COMPUTED] * 2
    second = await rerank("zzz", "aaa", "aab")
    assert [s.tier for s in second.scores] == [
        common_pb2.TIER_HOT,
        common_pb2.TIER_COMPUTED,
        common_pb2.TIER_HOT,
    ]
    assert [second.scores[0].score, second.scores[2].score] == [
        first.scores[1].score,
        first.scores[0].score,
    ]
    assert second.scores[1].score == pytest.approx(1, abs=1e-5)
    assert (second.reranker, second.reranker_version) == (first.reranker, first.reranker_version)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await rerank("x", reranker="nonsense")
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await rerank("x", reranker_version="nonsense")
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    bad = await rerank("aab", BAD)
    assert (bad.scores[0].tier, bad.scores[1].error.code) == (common_pb2.TIER_HOT, 13)
    none = await rerank()
    assert (list(none.scores), none.reranker) == ([], "tiny-maxsim")
