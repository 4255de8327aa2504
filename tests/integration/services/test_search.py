"""Search: lists of results are found, cached, cut and kept apart."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import grpc
import numpy as np
import pytest
from embercache.v1 import common_pb2, search_pb2
from google.protobuf.duration_pb2 import Duration

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    Start = Callable[..., Awaitable[Any]]

TEXTS = {f"d{n}": f"{'abcdefgh'[n % 8] * 3} text number {n}" for n in range(30)}
QUERY = "aaa text number 8?"
ONLY_CACHED = {"mode": common_pb2.CACHE_MODE_ONLY_IF_CACHED}


async def cosines(sidecar: Any, query: str) -> dict[str, float]:
    """The score of each of `TEXTS`, without the search."""
    rows = [np.frombuffer(v, "<f4") for v in await sidecar.vectors(query, *TEXTS.values())]
    units = [row / np.linalg.norm(row) for row in rows]
    return {name: float(units[0] @ unit) for name, unit in zip(TEXTS, units[1:], strict=True)}


async def is_gone(sidecar: Any) -> None:
    """Waits until no list for the query is cached."""
    async with asyncio.timeout(20):
        while await sidecar.status_of_search(QUERY, **ONLY_CACHED) == "OK":
            await asyncio.sleep(0.005)
    assert await sidecar.status_of_search(QUERY, **ONLY_CACHED) == "NOT_FOUND"


async def test_the_nearest_documents_are_found_with_all_there_is_of_them(start: Start) -> None:
    sidecar = await start()
    await sidecar.upsert(TEXTS, metadata={"year": 2024, "lang": "en", "draft": False})
    response = await sidecar.search(QUERY, top_k=5)
    scores = await cosines(sidecar, QUERY)
    expected = sorted(scores, key=lambda name: -scores[name])[:5]
    assert [result.id for result in response.results] == expected
    for result in response.results:
        assert result.score == pytest.approx(scores[result.id], abs=1e-5)
        assert result.content == TEXTS[result.id]
        assert result.metadata["year"].number == 2024
        assert result.metadata["lang"].text == "en"
        assert result.metadata["draft"].WhichOneof("value") == "flag"
    assert (response.model, bool(response.model_version)) == ("tiny", True)


async def test_the_same_search_is_answered_from_memory_and_tells_so(start: Start) -> None:
    sidecar = await start()
    await sidecar.upsert(TEXTS)
    first = await sidecar.search(QUERY)
    assert (first.tier, first.query_tier) == (common_pb2.TIER_COMPUTED, common_pb2.TIER_COMPUTED)
    for _ in range(3):
        again = await sidecar.search(QUERY)
        assert (again.tier, again.query_tier) == (common_pb2.TIER_HOT, 0)
        assert again.results == first.results
    assert (await sidecar.stats()).response_hits == 2


async def test_a_query_that_was_embedded_before_is_not_embedded_again(start: Start) -> None:
    sidecar = await start()
    await sidecar.embed(QUERY)
    assert (await sidecar.search(QUERY)).query_tier == common_pb2.TIER_HOT


async def test_a_longer_list_answers_for_a_shorter_one_but_not_the_other_way_round(
    start: Start,
) -> None:
    sidecar = await start()
    await sidecar.upsert(TEXTS)
    _, ten = await sidecar.found(QUERY, top_k=10)
    assert await sidecar.found(QUERY, top_k=3) == ("HOT", ten[:3])
    tier, twenty = await sidecar.found(QUERY, top_k=20)
    assert (tier, twenty[:10], len(twenty)) == ("COMPUTED", ten, 20)
    assert await sidecar.found(QUERY, top_k=15) == ("HOT", twenty[:15])


async def test_a_list_of_all_there_is_answers_for_any_length(start: Start) -> None:
    sidecar = await start()
    await sidecar.upsert({"a": "aaa", "b": "bbb"})
    _, found = await sidecar.found(QUERY, top_k=10)
    assert await sidecar.found(QUERY, top_k=1000) == ("HOT", found)


async def test_nothing_found_is_cached_too_but_for_a_shorter_time(start: Start) -> None:
    sidecar = await start(cache={"empty_search_ttl": "50ms", "search_ttl": "1h"})
    assert await sidecar.found(QUERY) == ("COMPUTED", [])
    assert await sidecar.found(QUERY, mode=common_pb2.CACHE_MODE_ONLY_IF_CACHED) == ("HOT", [])
    await is_gone(sidecar)


async def test_a_list_lives_as_long_as_the_call_says(start: Start) -> None:
    sidecar = await start()
    await sidecar.upsert(TEXTS)
    await sidecar.found(QUERY, ttl=Duration(nanos=50_000_000))
    await is_gone(sidecar)


@pytest.mark.parametrize(
    "fields",
    [
        {"namespace": "other"},
        {"collection": "other"},
        {"score_threshold": 0.5},
        {"filter": search_pb2.Filter(range=search_pb2.Filter.Range(key="n", gt=1))},
        {"rerank": search_pb2.Rerank()},
        {"rerank": search_pb2.Rerank(candidates=20)},
        {"tags": ["a tag"]},
    ],
    ids=lambda fields: next(iter(fields)),
)
async def test_what_the_answer_depends_on_keeps_lists_apart(
    start: Start, fields: dict[str, Any]
) -> None:
    sidecar = await start()
    await sidecar.found(QUERY)
    assert (await sidecar.found(QUERY, **fields))[0] == "COMPUTED"
    assert (await sidecar.found(QUERY, **fields))[0] == "HOT"


async def test_the_order_of_conditions_and_values_does_not_matter(start: Start) -> None:
    sidecar = await start()
    value = [search_pb2.MetadataValue(text=text) for text in ("x", "y")]
    one = search_pb2.Filter(equal=search_pb2.Filter.Equal(key="a", value=value[0]))
    two = search_pb2.Filter(**{"in": search_pb2.Filter.In(key="b", values=value)})
    owt = search_pb2.Filter(**{"in": search_pb2.Filter.In(key="b", values=value[::-1])})
    both = search_pb2.Filter(**{"and": search_pb2.Filter.And(filters=[one, two])})
    htob = search_pb2.Filter(**{"and": search_pb2.Filter.And(filters=[owt, one, one])})
    await sidecar.found(QUERY, filter=both)
    assert (await sidecar.found(QUERY, filter=htob))[0] == "HOT"


async def test_only_chunks_above_the_threshold_are_found(start: Start) -> None:
    sidecar = await start()
    await sidecar.upsert(TEXTS)
    scores = sorted((await cosines(sidecar, QUERY)).values(), reverse=True)
    threshold = (scores[3] + scores[4]) / 2
    assert len((await sidecar.found(QUERY, score_threshold=threshold))[1]) == 4


async def test_a_ready_vector_finds_what_its_text_finds(start: Start) -> None:
    sidecar = await start()
    await sidecar.upsert(TEXTS)
    (vector,) = await sidecar.vectors(QUERY)
    _, found = await sidecar.found(QUERY)
    request = search_pb2.SearchRequest(vector=vector)
    response = await sidecar.searches.Search(request)
    assert [result.id for result in response.results] == found
    assert (await sidecar.searches.Search(request)).tier == common_pb2.TIER_HOT


async def test_filters_choose_documents_by_their_metadata(start: Start) -> None:
    sidecar = await start()
    await sidecar.upsert({"old": "aaa"}, metadata={"year": 1999})
    await sidecar.upsert({"new": "aab"}, metadata={"year": 2024})
    await sidecar.upsert({"undated": "aac"})
    recent = search_pb2.Filter(range=search_pb2.Filter.Range(key="year", gte=2000))
    assert (await sidecar.found("aaa", filter=recent))[1] == ["new"]
    _, rest = await sidecar.found("aaa", filter=search_pb2.Filter(**{"not": recent}))
    assert sorted(rest) == ["old", "undated"]


async def test_reranking_orders_the_nearest_anew_and_keeps_each_score(start: Start) -> None:
    sidecar = await start()
    await sidecar.upsert(TEXTS)
    response = await sidecar.search(QUERY, rerank=search_pb2.Rerank(candidates=20), top_k=5)
    assert response.reranker == "tiny-maxsim"
    scores = [result.rerank_score for result in response.results]
    assert len(scores) == 5
    assert scores == sorted(scores, reverse=True)
    assert [(each.tier, each.count) for each in response.rerank_tiers] == [
        (common_pb2.TIER_COMPUTED, 20)
    ]
    # One new document: one new score.
    await sidecar.upsert({"new": QUERY})
    again = await sidecar.search(QUERY, rerank=search_pb2.Rerank(candidates=20), top_k=5)
    tiers = {each.tier: each.count for each in again.rerank_tiers}
    assert tiers == {common_pb2.TIER_HOT: 19, common_pb2.TIER_COMPUTED: 1}
    assert again.results[0].id == "new"


@pytest.mark.parametrize(
    ("request_", "says"),
    [
        (search_pb2.SearchRequest(), "there is no query"),
        (search_pb2.SearchRequest(vector=b"abcd"), "8 dimensions"),
        (search_pb2.SearchRequest(vector=bytes(32)), "all zeros"),
        (search_pb2.SearchRequest(text="a", top_k=5000), "at most 1000"),
        (search_pb2.SearchRequest(text="a", collection="a b"), "a collection has"),
        (search_pb2.SearchRequest(text="a", filter=search_pb2.Filter()), "empty condition"),
        (
            search_pb2.SearchRequest(vector=b"\0\0\x80\x3f" * 8, rerank=search_pb2.Rerank()),
            "needs the text",
        ),
        (
            search_pb2.SearchRequest(text="a", top_k=60, rerank=search_pb2.Rerank(candidates=50)),
            "at least top_k",
        ),
        (
            search_pb2.SearchRequest(text="a", semantic=common_pb2.SemanticOptions(threshold=1.5)),
            "semantic.threshold",
        ),
    ],
)
async def test_a_bad_request_is_told_what_is_wrong_with_it(
    start: Start, request_: search_pb2.SearchRequest, says: str
) -> None:
    sidecar = await start()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await sidecar.searches.Search(request_)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert says in caught.value.details()


async def test_calls_at_the_same_time_share_one_search(start: Start, held_model: Any) -> None:
    held_model.holds = False
    sidecar = await start()
    held_model.holds = True
    held_model.sizes.clear()
    calls = [asyncio.create_task(sidecar.found(QUERY)) for _ in range(5)]
    while not held_model.sizes:
        await asyncio.sleep(0.01)
    held_model.let_go()
    tiers = sorted(tier for tier, _ in await asyncio.gather(*calls))
    # One that came late found the answer.
    assert tiers.count("COMPUTED") == 1
    assert set(tiers) <= {"COALESCED", "COMPUTED", "HOT"}
    assert len(held_model.sizes) == 1
    assert held_model.sizes == [1]
