"""Reads the answers of calls about documents: from protobuf messages to plain values."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from embercache._answers import joined
from embercache.results import one_version, tier
from embercache.search import (
    RerankResult,
    SearchHit,
    SearchResult,
    SemanticMatch,
    Upserted,
    UpsertResult,
)
from embercache.v1 import search_pb2

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from embercache._answers import Answer
    from embercache.filters import Scalar
    from embercache.search import Change
    from embercache.types import Tier
    from embercache.v1 import common_pb2

    UpsertAnswer: TypeAlias = Answer[search_pb2.UpsertResponse, search_pb2.Upserted]
    RerankAnswer: TypeAlias = Answer[search_pb2.RerankResponse, search_pb2.RerankScore]

_CHANGES: Mapping[int, Change] = {
    search_pb2.Upserted.CHANGE_CREATED: "created",
    search_pb2.Upserted.CHANGE_UPDATED: "updated",
    search_pb2.Upserted.CHANGE_UNCHANGED: "unchanged",
}


def search(response: search_pb2.SearchResponse) -> SearchResult:
    """What was found."""
    semantic = response.semantic if response.HasField("semantic") else None
    return SearchResult(
        results=[_hit(each) for each in response.results],
        tier=tier(response.tier),
        query_tier=tier(response.query_tier),
        rerank_tiers=tier_counts(response.rerank_tiers),
        age=response.age_ms / 1000,
        semantic=semantic and SemanticMatch(semantic.similarity, semantic.query),
        model=response.model,
        model_version=response.model_version,
        reranker=response.reranker,
        reranker_version=response.reranker_version,
    )


def upsert(ids: Sequence[str], answers: Sequence[UpsertAnswer]) -> UpsertResult:
    """What became of the documents, in their order."""
    items, errors = joined(answers)
    useful = [response for answer in answers for response in answer.useful]
    return UpsertResult(
        documents=[
            Upserted(name, _CHANGES.get(item.change, "unspecified"), item.computed, item.cached)
            for name, item in zip(ids, items, strict=True)
        ],
        errors=errors,
        model=answers[0].response.model,
        model_version=one_version([response.model_version for response in useful]),
    )


def delete(answers: Sequence[Answer[search_pb2.DeleteResponse, bool]]) -> list[bool]:
    """Whether each document was there."""
    found, _ = joined(answers)
    return found


def rerank(answers: Sequence[RerankAnswer]) -> RerankResult:
    """The scores, in the order of the passages."""
    items, errors = joined(answers)
    useful = [response for answer in answers for response in answer.useful]
    scores = np.array([item.score for item in items], np.float32)
    scores[list(errors)] = np.nan
    return RerankResult(
        scores=scores,
        tiers=[tier(item.tier) for item in items],
        errors=errors,
        reranker=answers[0].response.reranker,
        reranker_version=one_version([response.reranker_version for response in useful]),
    )


def tier_counts(counts: Iterable[common_pb2.TierCount]) -> dict[Tier, int]:
    """How many items each tier answered."""
    return {tier(each.tier): each.count for each in counts}


def _hit(result: search_pb2.Result) -> SearchHit:
    return SearchHit(
        id=result.id,
        chunk_id=result.chunk_id,
        score=result.score,
        content=result.content,
        metadata={name: _scalar(value) for name, value in result.metadata.items()},
        rerank_score=result.rerank_score if result.HasField("rerank_score") else None,
    )


def _scalar(value: search_pb2.MetadataValue) -> Scalar:
    match value.WhichOneof("value"):
        case "flag":
            return value.flag
        case "number":
            return value.number
        case _:
            return value.text
