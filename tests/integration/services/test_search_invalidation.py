"""Which cached lists a change of documents, a tag, an event or a scope makes invalid."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc
import pytest
from embercache.v1 import cache_pb2, common_pb2, search_pb2

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    Start = Callable[..., Awaitable[Any]]

NEAR_A = {"a1": "aaaa", "a2": "aaab", "a3": "aaac"}
NEAR_B = {"b1": "zzzz", "b2": "zzzy", "b3": "zzzx"}


@pytest.fixture
async def sidecar(start: Start) -> Any:
    """A sidecar that has searched for the two nearest of two groups of documents."""
    started = await start()
    await started.upsert(NEAR_A | NEAR_B)
    assert sorted((await started.found("aaaa", top_k=2))[1]) == ["a1", "a2"]
    assert sorted((await started.found("zzzz", top_k=2))[1]) == ["b1", "b2"]
    return started


async def tiers(sidecar: Any, **fields: Any) -> tuple[str, str]:
    """What answers the two searches now."""
    one = await sidecar.found("aaaa", top_k=2, **fields)
    two = await sidecar.found("zzzz", top_k=2, **fields)
    return one[0], two[0]


async def invalidate(sidecar: Any, **target: Any) -> None:
    await sidecar.caches.Invalidate(cache_pb2.InvalidateRequest(**target))


async def test_a_changed_document_invalidates_the_lists_that_have_it(sidecar: Any) -> None:
    await sidecar.upsert({"a2": "aaad"})
    assert await tiers(sidecar) == ("COMPUTED", "HOT")


async def test_a_changed_document_invalidates_the_lists_that_it_comes_into(sidecar: Any) -> None:
    await sidecar.upsert({"b3": "aaaa"})
    assert await tiers(sidecar) == ("COMPUTED", "HOT")
    assert "b3" in (await sidecar.found("aaaa", top_k=2))[1]


async def test_a_new_document_invalidates_only_the_lists_that_it_comes_into(sidecar: Any) -> None:
    await sidecar.upsert({"new": "zzzz"})
    assert await tiers(sidecar) == ("HOT", "COMPUTED")


async def test_a_deleted_document_invalidates_only_the_lists_that_had_it(sidecar: Any) -> None:
    assert await sidecar.delete("b1", "no such document") == [True, False]
    assert await tiers(sidecar) == ("HOT", "COMPUTED")
    assert sorted((await sidecar.found("zzzz", top_k=2))[1]) == ["b2", "b3"]


async def test_a_document_stored_again_just_so_invalidates_nothing(sidecar: Any) -> None:
    (outcome,) = await sidecar.upsert({"a1": "aaaa"})
    assert outcome.change == search_pb2.Upserted.CHANGE_UNCHANGED
    assert await tiers(sidecar) == ("HOT", "HOT")


async def test_other_metadata_invalidate_the_lists_that_have_the_document(sidecar: Any) -> None:
    await sidecar.upsert({"a1": "aaaa"}, metadata={"year": 2024})
    assert await tiers(sidecar) == ("COMPUTED", "HOT")


async def test_a_new_document_that_the_filter_keeps_out_leaves_the_list(sidecar: Any) -> None:
    equal = search_pb2.Filter.Equal(key="lang", value=search_pb2.MetadataValue(text="de"))
    where = search_pb2.Filter(equal=equal)
    await tiers(sidecar, filter=where)
    await sidecar.upsert({"new": "aaaa"}, metadata={"lang": "en"})
    assert await tiers(sidecar, filter=where) == ("HOT", "HOT")
    await sidecar.upsert({"newer": "aaaa"}, metadata={"lang": "de"})
    # Both had room for it.
    assert await tiers(sidecar, filter=where) == ("COMPUTED", "COMPUTED")


async def test_other_collections_and_namespaces_are_not_touched(sidecar: Any) -> None:
    await sidecar.upsert({"a1": "other"}, collection="other")
    await sidecar.upsert({"a1": "other"}, namespace="other")
    assert await tiers(sidecar) == ("HOT", "HOT")


async def test_stored_responses_obey_too(sidecar: Any) -> None:
    for _ in range(3):
        await tiers(sidecar)
    hits = (await sidecar.stats()).response_hits
    assert hits >= 2
    await sidecar.upsert({"a2": "aaad"})
    assert await tiers(sidecar) == ("COMPUTED", "HOT")


async def test_a_documents_tag_invalidates_the_lists_that_have_the_document(
    sidecar: Any,
) -> None:
    await sidecar.upsert({"a1": "aaaa"}, tags=["press release"])
    assert await tiers(sidecar) == ("COMPUTED", "HOT")
    await sidecar.invalidate(tags=["press release"])
    assert await tiers(sidecar) == ("COMPUTED", "HOT")


async def test_a_calls_tag_invalidates_what_it_stored(sidecar: Any) -> None:
    await tiers(sidecar, tags=["t"])
    await sidecar.invalidate(tags=["t"])
    assert await tiers(sidecar, tags=["t"]) == ("COMPUTED", "COMPUTED")
    assert await tiers(sidecar) == ("HOT", "HOT")


async def test_documents_can_be_invalidated_by_their_ids(sidecar: Any) -> None:
    await invalidate(sidecar, documents={"ids": ["b1"]})
    assert await tiers(sidecar) == ("HOT", "COMPUTED")


async def test_a_single_search_can_be_invalidated(sidecar: Any) -> None:
    request = search_pb2.SearchRequest(text="aaaa", top_k=7)
    await invalidate(sidecar, searches={"requests": [request]})
    assert await tiers(sidecar) == ("COMPUTED", "HOT")


async def test_a_kind_of_entries_can_be_invalidated(sidecar: Any) -> None:
    await invalidate(sidecar, kind="search")
    response = await sidecar.search("aaaa", top_k=2)
    assert (response.tier, response.query_tier) == (
        common_pb2.TIER_COMPUTED,
        common_pb2.TIER_HOT,
    ), "vectors stay"


async def test_a_version_of_a_model_can_be_invalidated(sidecar: Any) -> None:
    await invalidate(sidecar, model_version={"model": "another", "version": "1"})
    assert await tiers(sidecar) == ("HOT", "HOT")
    await invalidate(sidecar, model_version={})
    response = await sidecar.search("aaaa", top_k=2)
    assert (response.tier, response.query_tier) == (
        common_pb2.TIER_COMPUTED,
        common_pb2.TIER_COMPUTED,
    )


async def test_the_namespace_can_be_invalidated_and_keeps_its_documents(sidecar: Any) -> None:
    await sidecar.invalidate()
    assert await sidecar.found("aaaa", top_k=1) == ("COMPUTED", ["a1"])


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        ({"type": cache_pb2.Event.TYPE_CREATED}, ("COMPUTED", "COMPUTED")),
        ({"type": cache_pb2.Event.TYPE_UPDATED, "ids": ["a1"]}, ("COMPUTED", "HOT")),
        ({"type": cache_pb2.Event.TYPE_DELETED, "ids": ["b2", "x"]}, ("HOT", "COMPUTED")),
        (
            {"type": cache_pb2.Event.TYPE_UPDATED, "ids": ["a1"], "collection": "other"},
            ("HOT", "HOT"),
        ),
        (
            {"type": cache_pb2.Event.TYPE_UPDATED, "ids": ["a1"], "namespace": "other"},
            ("HOT", "HOT"),
        ),
    ],
)
async def test_events_invalidate_what_depends_on_their_documents(
    sidecar: Any, event: dict[str, Any], expected: tuple[str, str]
) -> None:
    events = [cache_pb2.Event(**event)]
    await sidecar.caches.PublishEvents(cache_pb2.PublishEventsRequest(events=events))
    assert await tiers(sidecar) == expected


async def test_the_tags_of_an_event_are_invalidated(sidecar: Any) -> None:
    await tiers(sidecar, tags=["t"])
    event = cache_pb2.Event(type=cache_pb2.Event.TYPE_UPDATED, tags=["t"])
    await sidecar.caches.PublishEvents(cache_pb2.PublishEventsRequest(events=[event]))
    assert await tiers(sidecar, tags=["t"]) == ("COMPUTED", "COMPUTED")
    assert await tiers(sidecar) == ("HOT", "HOT")


@pytest.mark.parametrize(
    "target",
    [
        {"kind": "nonsense"},
        {"documents": {}},
        {"searches": {}},
        {"documents": {"ids": [""]}},
        {"documents": {"ids": ["a"], "collection": "a b"}},
    ],
    ids=str,
)
async def test_a_bad_target_is_refused(sidecar: Any, target: dict[str, Any]) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await invalidate(sidecar, **target)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize(
    "events",
    [[], [{}], [{"type": cache_pb2.Event.TYPE_UPDATED}], [{"type": 3, "ids": [""]}]],
    ids=str,
)
async def test_a_bad_event_is_refused_and_none_of_its_call_applied(
    sidecar: Any, events: list[dict[str, Any]]
) -> None:
    good = [cache_pb2.Event(type=cache_pb2.Event.TYPE_CREATED)] if events else []
    messages = [*good, *(cache_pb2.Event(**event) for event in events)]
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await sidecar.caches.PublishEvents(cache_pb2.PublishEventsRequest(events=messages))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert await tiers(sidecar) == ("HOT", "HOT")


async def test_a_single_search_is_invalidated_in_the_namespace_of_the_call(sidecar: Any) -> None:
    request = search_pb2.SearchRequest(text="aaaa", top_k=2, namespace="default")
    await invalidate(sidecar, namespace="other", searches={"requests": [request]})
    assert await tiers(sidecar) == ("HOT", "HOT")


async def test_a_version_of_a_reranker_can_be_invalidated(sidecar: Any) -> None:
    reranked = {"rerank": search_pb2.Rerank()}
    await tiers(sidecar, **reranked)
    await invalidate(sidecar, model_version={"model": "tiny-maxsim"})
    response = await sidecar.search("aaaa", top_k=2, **reranked)
    assert (response.tier, response.query_tier) == (
        common_pb2.TIER_COMPUTED,
        common_pb2.TIER_HOT,
    )
    assert [tier.tier for tier in response.rerank_tiers] == [common_pb2.TIER_COMPUTED]
    assert await tiers(sidecar) == ("HOT", "HOT")


async def test_all_events_of_a_call_are_in_force_here_even_if_others_cannot_be_told(
    start: Start, own_redis: Any
) -> None:
    sidecar = await start(redis=own_redis)
    await sidecar.upsert(NEAR_A | NEAR_B)
    await tiers(sidecar)
    assert await tiers(sidecar) == ("HOT", "HOT")
    own_redis.stop()
    types = cache_pb2.Event
    events = [types(type=types.TYPE_UPDATED, ids=[name]) for name in ("a1", "b1")]
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await sidecar.caches.PublishEvents(cache_pb2.PublishEventsRequest(events=events))
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert await tiers(sidecar) == ("COMPUTED", "COMPUTED")
