"""A sidecar without models of its own has passages scored by the encoders behind it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc
import pytest
from embercache.v1 import common_pb2, search_pb2

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    Sidecar = Any
    Start = Callable[..., Awaitable[Any]]

HANG_GUARD = 30.0
PASSAGES = ["the cat", "a dog barks", "", "the cat sat on the mat " * 9, "the cat"]


async def rerank(sidecar: Sidecar, query: str, *passages: str) -> search_pb2.RerankResponse:
    request = search_pb2.RerankRequest(query=query, passages=passages)
    response: search_pb2.RerankResponse = await sidecar.searches.Rerank(request, timeout=HANG_GUARD)
    return response


def scores(response: search_pb2.RerankResponse) -> list[float]:
    assert not any(score.HasField("error") for score in response.scores)
    return [score.score for score in response.scores]


def tiers(response: search_pb2.RerankResponse) -> list[str]:
    return [common_pb2.Tier.Name(score.tier) for score in response.scores]


async def test_a_front_gives_the_scores_of_its_pool(start: Start, start_front: Start) -> None:
    pool = await start()
    front = await start_front(pool.address)
    own = await rerank(pool, "cats", *PASSAGES)
    theirs = await rerank(front, "cats", *PASSAGES)
    assert scores(theirs) == pytest.approx(scores(own), abs=1e-6)
    assert theirs.reranker == own.reranker == "tiny-maxsim"
    assert theirs.reranker_version == own.reranker_version


async def test_the_front_caches_scores_and_the_pool_does_not(
    start: Start, start_front: Start
) -> None:
    pool = await start()
    front = await start_front(pool.address)
    first = await rerank(front, "cats", "one", "two")
    again = await rerank(front, "cats", "two", "one", "three")
    assert tiers(first) == ["TIER_COMPUTED"] * 2
    assert tiers(again) == ["TIER_HOT", "TIER_HOT", "TIER_COMPUTED"]
    assert scores(again)[:2] == scores(first)[::-1]
    assert tiers(await rerank(pool, "cats", "one")) == ["TIER_COMPUTED"]


async def test_another_model_in_the_pool_gives_other_scores_under_another_version(
    start: Start, start_front: Start, other_tiny_pack: Path
) -> None:
    pool = await start()
    port = pool.address.rpartition(":")[2]
    front = await start_front(pool.address)
    before = await rerank(front, "cats", "one", "two")
    await pool.stop()
    await start(packs=[other_tiny_pack], server={"address": f"127.0.0.1:{port}"})
    after = await rerank(front, "cats", "one", "two", "three")
    assert after.reranker_version != before.reranker_version
    assert scores(after)[:2] != scores(before)


async def test_a_pool_that_is_not_there_yet_is_named(start_front: Start) -> None:
    front = await start_front("127.0.0.1:9")
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await rerank(front, "cats", "one")
    assert error.value.code() is grpc.StatusCode.UNAVAILABLE
    assert "127.0.0.1:9 has not answered yet" in (error.value.details() or "")
