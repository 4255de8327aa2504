from __future__ import annotations

from embercache.v1 import common_pb2, search_pb2
from hypothesis import given
from hypothesis import strategies as st

from sidecar.cache.items import Tier
from sidecar.services.result_list import ANY_SCORE, ListFacts, pack_list
from sidecar.services.search_wire import write_response
from sidecar.services.wire import TIER_NUMBER, length_delimited

NAMES = st.tuples(st.text(max_size=8), st.text(max_size=8))
TIERS = st.sampled_from(Tier)


@given(
    results=st.lists(st.builds(search_pb2.Result, id=st.text(max_size=5)), max_size=4),
    most=st.integers(1, 5),
    model=NAMES,
    reranker=st.none() | NAMES,
    tier=TIERS,
    query_tier=st.none() | TIERS,
    rerank_tiers=st.dictionaries(TIERS, st.integers(1, 2**40), max_size=3),
    semantic=st.none() | st.tuples(st.floats(0, 1, width=32), st.text(max_size=9)),
    age=st.integers(0, 2**40),
)
def test_the_written_bytes_are_the_message(
    results: list[search_pb2.Result],
    most: int,
    model: tuple[str, str],
    reranker: tuple[str, str] | None,
    tier: Tier,
    query_tier: Tier | None,
    rerank_tiers: dict[Tier, int],
    semantic: tuple[float, str] | None,
    age: int,
) -> None:
    pieces = [length_delimited(1, result.SerializeToString()) for result in results]
    facts = ListFacts(len(pieces), True, ANY_SCORE, bytes(8), b"v", frozenset(), "")
    written = write_response(
        payload=pack_list(facts, pieces),
        most=most,
        model=model,
        reranker=reranker,
        tier=tier,
        query_tier=query_tier,
        rerank_tiers=rerank_tiers,
        semantic=semantic,
        created_ms=1000,
    )
    message = search_pb2.SearchResponse.FromString(written.at(1000 + age))
    expected = search_pb2.SearchResponse(
        results=results[:most],
        model=model[0],
        model_version=model[1],
        tier=TIER_NUMBER[tier],
        query_tier=TIER_NUMBER[query_tier] if query_tier else common_pb2.TIER_UNSPECIFIED,
        rerank_tiers=[
            common_pb2.TierCount(tier=TIER_NUMBER[each], count=count)
            for each, count in rerank_tiers.items()
        ],
        age_ms=age,
    )
    if reranker is not None:
        expected.reranker, expected.reranker_version = reranker
    if semantic is not None:
        expected.semantic.similarity, expected.semantic.query = semantic
    assert message == expected
