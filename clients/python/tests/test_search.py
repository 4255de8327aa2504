"""``search``, ``upsert``, ``delete`` and ``rerank`` with both clients."""

from __future__ import annotations

import math
import pickle
from dataclasses import fields

import numpy as np
import pytest

from embercache import (
    Document,
    InternalError,
    InvalidArgumentError,
    ModelNotFoundError,
    NotCachedError,
    PartialFailureError,
    Search,
    SearchHit,
    SearchResult,
    SemanticMatch,
    UnavailableError,
    Upserted,
    VersionMismatchError,
    _backoff,
    field,
)
from embercache._search_requests import search_request
from embercache.v1 import common_pb2, search_pb2

FOUND = search_pb2.SearchResponse(
    results=[
        search_pb2.Result(
            id="doc",
            chunk_id="2",
            score=0.5,
            content="text",
            metadata={
                "lang": search_pb2.MetadataValue(text="en"),
                "year": search_pb2.MetadataValue(number=2000),
                "draft": search_pb2.MetadataValue(flag=True),
            },
            rerank_score=3.5,
        ),
        search_pb2.Result(id="other", score=0.25),
    ],
    model="minilm",
    model_version="v1",
    reranker="maxsim",
    reranker_version="v2",
    tier=common_pb2.TIER_WARM,
    query_tier=common_pb2.TIER_HOT,
    rerank_tiers=[
        common_pb2.TierCount(tier=common_pb2.TIER_HOT, count=3),
        common_pb2.TierCount(tier=common_pb2.TIER_COMPUTED, count=1),
    ],
    semantic=search_pb2.SemanticMatch(similarity=0.75, query="another"),
    age_ms=1500,
)


def test_a_search_gives_all_that_the_answer_tells(client, sidecar):
    sidecar.found = FOUND
    assert client.search("q") == SearchResult(
        results=[
            SearchHit("doc", "2", 0.5, "text", {"lang": "en", "year": 2000.0, "draft": True}, 3.5),
            SearchHit("other", "", 0.25, "", {}, None),
        ],
        tier="warm",
        query_tier="hot",
        rerank_tiers={"hot": 3, "computed": 1},
        age=1.5,
        semantic=SemanticMatch(0.75, "another"),
        model="minilm",
        model_version="v1",
        reranker="maxsim",
        reranker_version="v2",
    )


@pytest.mark.parametrize(
    ("plain", "message", "renamed"),
    [
        (SearchResult, search_pb2.SearchResponse, {"age_ms": "age"}),
        (SearchHit, search_pb2.Result, {}),
        (SemanticMatch, search_pb2.SemanticMatch, {}),
    ],
)
def test_nothing_that_the_contract_tells_of_an_answer_is_left_out(plain, message, renamed):
    told = {renamed.get(each.name, each.name) for each in message.DESCRIPTOR.fields}
    assert {each.name for each in fields(plain)} == told


def test_an_answer_without_results_is_an_answer(client):
    result = client.search("q")
    assert (result.results, result.semantic, result.rerank_tiers) == ([], None, {})
    assert result.query_tier == "unspecified"


def test_options_of_a_search_reach_the_sidecar(client, sidecar):
    given = {"where": field("year") > 2000, "rerank": True, "collection": "c", "semantic": False}
    client.search("q", **given)
    client.search(np.ones(3))
    assert sidecar.requests == [search_request("q", **given), search_request(np.ones(3))]


def test_an_unknown_option_of_a_search_is_refused(client):
    with pytest.raises(TypeError, match="colour"):
        client.search("q", colour="red")
    with pytest.raises(TypeError, match="colour"):
        Search("q", colour="red")


def test_an_answer_that_is_not_cached_is_told_from_a_model_that_is_not_there(client, sidecar):
    sidecar.call_faults = ["NOT_FOUND"] * 2
    with pytest.raises(ModelNotFoundError):
        client.search("q")
    with pytest.raises(NotCachedError):
        client.search("q", mode="only_if_cached")


def test_documents_are_stored_and_the_answer_is_a_sequence_in_their_order(client, sidecar):
    documents = [Document("1", ["a", "b"]), Document("2", "c")]
    result = client.upsert((each for each in documents), collection="c", namespace="n", model="m")
    assert list(result) == [Upserted("1", "created", 2, 1), Upserted("2", "created", 1, 1)]
    assert result[1].id == "2"
    assert [each.id for each in result[:1]] == ["1"]
    assert (len(result), result.errors) == (2, {})
    assert (result.model, result.model_version) == ("fake", "version-1")
    (request,) = sidecar.requests
    assert (request.collection, request.namespace, request.model) == ("c", "n", "m")
    assert client.upsert([Document("2", "c")])[0].change == "unchanged"


def test_a_failed_document_raises_an_error_that_holds_what_became_of_the_others(client, sidecar):
    sidecar.item_faults = {"2": ["INVALID_ARGUMENT"]}
    with pytest.raises(PartialFailureError, match=r"1 of 3 .*input 1: told to fail") as caught:
        client.upsert([Document(name, "text") for name in "123"])
    result = caught.value.result
    assert [each.change for each in result] == ["created", "unspecified", "created"]
    assert isinstance(result.errors[1], InvalidArgumentError)
    assert result.errors[1].index == 1
    copy = pickle.loads(pickle.dumps(caught.value))  # noqa: S301 - our own
    assert list(copy.result) == list(result)


def test_errors_of_single_documents_are_returned_on_request(client, sidecar):
    sidecar.item_faults = {"1": ["INVALID_ARGUMENT"]}
    result = client.upsert([Document(name, "text") for name in "12"], on_error="return")
    assert list(result.errors) == [0]
    assert result[1].change == "created"


def test_documents_that_failed_for_the_moment_are_sent_again_and_only_they(client, sidecar):
    sidecar.item_faults = {"2": ["UNAVAILABLE"], "4": ["RESOURCE_EXHAUSTED", "UNAVAILABLE"]}
    result = client.upsert([Document(name, "text") for name in "1234"], collection="c")
    assert [each.change for each in result] == ["created"] * 4
    sent = [[each.id for each in request.documents] for request in sidecar.requests]
    assert sent == [["1", "2", "3", "4"], ["2", "4"], ["4"]]
    assert {request.collection for request in sidecar.requests} == {"c"}


def test_documents_are_not_sent_again_when_the_deadline_would_come_first(
    client, sidecar, monkeypatch
):
    monkeypatch.setattr(_backoff, "delay", lambda failures: 1000.0)
    sidecar.item_faults = {"1": ["UNAVAILABLE"]}
    result = client.upsert([Document("1", "text")], on_error="return", timeout=30)
    assert isinstance(result.errors[0], UnavailableError)


def test_many_documents_are_sent_in_several_calls(client, sidecar):
    documents = [Document(str(i), ["a", "b", "c"]) for i in range(1000)]
    result = client.upsert(documents)
    assert [each.id for each in result] == [each.id for each in documents]
    assert [len(request.documents) for request in sidecar.requests] == [341, 341, 318]


def test_documents_are_never_told_to_be_of_one_version_if_they_are_of_two(client, sidecar):
    def change(response):
        response.model_version = f"version-{len(sidecar.requests)}"

    sidecar.tamper = change
    with pytest.raises(VersionMismatchError, match="from version version-1 to version-2"):
        client.upsert([Document(str(i), "text") for i in range(1025)])


@pytest.mark.parametrize(
    "call",
    [
        lambda client: client.upsert([]),
        lambda client: client.delete([]),
        lambda client: client.rerank("q", []),
    ],
    ids=["upsert", "delete", "rerank"],
)
def test_nothing_to_do_is_refused(client, sidecar, call):
    with pytest.raises(InvalidArgumentError, match=r"there are no .*; give at least one"):
        call(client)
    assert sidecar.requests == []


@pytest.mark.parametrize(
    "call",
    [
        lambda client: client.delete("doc"),
        lambda client: client.rerank("q", "passage"),
        lambda client: client.warm_search("q"),
        lambda client: client.warm_embed("text"),
    ],
    ids=["delete", "rerank", "warm_search", "warm_embed"],
)
def test_a_single_str_in_place_of_a_list_is_refused(client, call):
    with pytest.raises(TypeError, match="put it into a list"):
        call(client)


def test_delete_tells_which_documents_were_there(client, sidecar):
    sidecar.stored = {"1", "3"}
    assert client.delete(["1", "2", "3"], collection="c", namespace="n", model="m") == [
        True,
        False,
        True,
    ]
    assert sidecar.requests == [
        search_pb2.DeleteRequest(ids=["1", "2", "3"], collection="c", namespace="n", model="m")
    ]


def test_many_ids_are_deleted_in_several_calls(client, sidecar):
    sidecar.stored = {"2000"}
    assert client.delete(str(i) for i in range(2500)).index(True) == 2000
    assert [len(request.ids) for request in sidecar.requests] == [1024, 1024, 452]


def test_scores_come_in_the_order_of_the_passages(client, sidecar):
    result = client.rerank("q", ["a", "ccc", "bb"], namespace="n")
    assert result.scores.tolist() == [1, 3, 2]
    assert result.scores.dtype == np.float32
    assert result.tiers == ["warm"] * 3
    assert (result.reranker, result.reranker_version) == ("maxsim", "version-1")
    assert len(result) == 3
    assert sidecar.requests == [
        search_pb2.RerankRequest(query="q", passages=["a", "ccc", "bb"], namespace="n")
    ]


def test_the_score_of_a_failed_passage_is_nan_and_no_other(client, sidecar):
    sidecar.item_faults = {"bb": ["INVALID_ARGUMENT"] * 2}
    with pytest.raises(PartialFailureError):
        client.rerank("q", ["a", "bb"])
    result = client.rerank("q", ["a", "bb"], on_error="return")
    assert [math.isnan(score) for score in result.scores] == [False, True]
    assert list(result.errors) == [1]


def test_passages_that_failed_for_the_moment_are_scored_again_and_only_they(client, sidecar):
    sidecar.item_faults = {"bb": ["RESOURCE_EXHAUSTED"]}
    assert client.rerank("q", ["a", "bb"]).scores.tolist() == [1, 2]
    assert [list(request.passages) for request in sidecar.requests] == [["a", "bb"], ["bb"]]
    assert {request.query for request in sidecar.requests} == {"q"}


def test_fewer_answers_than_were_asked_for_are_refused(client, sidecar):
    sidecar.tamper = lambda response: response.scores.pop()
    with pytest.raises(InternalError, match="answered 1 of 2"):
        client.rerank("q", ["a", "bb"])


def test_scores_of_two_versions_are_never_mixed(client, sidecar):
    def change(response):
        response.reranker_version = f"version-{len(sidecar.requests)}"

    sidecar.tamper = change
    sidecar.item_faults = {"bb": ["UNAVAILABLE"]}
    with pytest.raises(VersionMismatchError, match="from version version-1 to version-2"):
        client.rerank("q", ["a", "bb"])
